"""Errors: scatter over the errors that are told, of pixels of a scene of plain numpy and of sums over planes.

Sums: noise of detector pixels through the flight geometry. Pixels: Poisson and read noise of ramps of a lopsided
source, slopes by "gls", cal steps of optimal with references whose conversion errs by 1 %. ``before`` is what the code
of commit 579176f told for the same draws: no covariance along wavelength; the error of the conversion, which is common
to all pixels, among the errors of each.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
OFFSETS = ((0.0, 0.0), (1.2, -1.13), (-1.1, 1.3), (-0.3, -0.9))
N_PLANES = 48
LIGHT = {"1A": 1500.0, "2A": 3000.0, "3A": 2000.0, "4A": 5000.0}  # MJy/sr
PIXELS_BEFORE = {"1A": 0.973, "2A": 0.941, "3A": 0.931, "4A": 0.861}
PLANES_BEFORE = {"1A": (1.214, 1.229), "1C": (1.333, 1.334), "3A": (1.126, 1.149), "4A": (1.070, 1.094)}


def run(table, shared, quick):
    """Add the figures of errors to a table."""
    sys.path[:0] = [str(HERE.parent / "tests" / part) for part in ("", "cube", "geometry")]
    for setting, band, dithers in (("12A", "1A", 4), ("34A", "4A", 1), ("12C", "1C", 2), ("34A", "3A", 4)):
        if shared is not None and not (quick and setting == "12C"):
            sums_over_planes(table, shared / "data", setting, band, dithers, 100 if quick else 400)
    if shared is not None:
        leak_of_a_star(table, shared / "data")
    for place in (0.42,) if quick else (0.42, 0.2):
        sums_of_a_point(table, place, 200 if quick else 600)
    for setting in ("34A",) if quick else ("12A", "34A"):
        with tempfile.TemporaryDirectory() as folder:
            pixels_of_a_scene(table, Path(folder), setting)


def sums_over_planes(table, data: Path, setting: str, band: str, dithers: int, number: int) -> None:
    """Sums over 8 planes of spectra of apertures and of single spaxels; a lopsided source of noise in the middle."""
    import xarray as xr
    from made_instrument import real_labels, real_model
    from noise_draws import draws_of, flight_cal

    from mrsxr import mrs
    from mrsxr.cube import build_cube, sum_variance
    from mrsxr.sums import variance_of_sum

    ds = flight_cal(real_model(data, setting), real_labels(data, setting), setting, OFFSETS[:dithers])
    middle, half = np.mean(mrs.WAVELENGTH_LIMITS[band]), (0.5 * N_PLANES - 0.3) * mrs.WAVELENGTH_STEP[int(band[0])]
    cube = build_cube(ds, band=band, wavelength_min=middle - half, wavelength_max=middle + half).compute()
    noise = draws_of(ds, cube, number)
    seen = np.isfinite(noise).all(axis=(0, 1))
    y, x = np.nonzero(seen)
    radius = np.hypot(cube.y - cube.y[int(y.mean())], cube.x - cube.x[int(x.mean())])
    weights = (radius < (1.2 if band[0] == "4" else 0.6)).astype(float) * xr.ones_like(cube.wavelength)
    spectra = np.nansum(noise * weights.transpose("wavelength", "y", "x").values, axis=(2, 3))
    exact = sum_variance(ds, cube=cube, weights=weights.transpose("wavelength", "y", "x"))
    exact = exact.assign_attrs(cube.attrs)
    found, voxels = [], []
    for start in range(0, N_PLANES - 7, 8):
        part = slice(start, start + 8)
        here = {"wavelength": part}
        found.append(spectra[:, part].sum(axis=1) / float(variance_of_sum(exact.isel(here))) ** 0.5)
        voxels.append(noise[:, part].sum(axis=1)[:, seen] / variance_of_sum(cube.isel(here)).values[seen] ** 0.5)
    names = ("aperture", "single spaxels")
    for name, pulls, before in zip(names, (found, voxels), PLANES_BEFORE[band], strict=True):
        width = float(np.std(pulls))
        table.add(f"{band}, {name}: sums over 8 planes, scatter / error", f"{width:.3f}", "1.00 +- 0.05",
                  abs(width - 1) <= 0.05, before=before)  # fmt: skip


def sums_of_a_point(table, place: float, number: int) -> None:
    """Sums over spaxels of a cube with the terms of a point source: how scatter / error wanders from plane to plane.

    ``before``: the errors without the terms.
    """
    import xarray as xr
    from noise_draws import draws_of
    from simulated import cal_of, offset_for
    from test_point_source import DEC, RA, mrsptcorr, scene_of

    from mrsxr.cube import build_cube, sum_variance

    ds = cal_of(scene_of(False), "12A", [offset_for(scene_of(), "12A", "1A", place)])
    options = {"point_source": (RA, DEC), "mrsptcorr": mrsptcorr()}
    cube = build_cube(ds, band="1A", center=(RA, DEC), wavelength_min=5.25, wavelength_max=5.29, **options)
    noise = draws_of(ds, cube, number, **options)
    near = np.hypot(cube.x - 0.25, cube.y) < 0.2
    weights = xr.ones_like(cube.flux, dtype=float).where(near, 0.0).transpose("wavelength", "y", "x")
    sums = np.nansum(noise * weights.values, axis=(2, 3))
    wander = []
    for one in (cube, cube.assign_attrs(history_json="[]")):
        variance = sum_variance(ds, cube=one, weights=weights, mrsptcorr=options["mrsptcorr"])["var"].values
        width = np.sqrt(np.mean(sums**2, axis=0) / variance)
        wander.append(np.sqrt(max(np.std(width) ** 2 - 0.5 / number, 0.0)))  # less that of few draws
    table.add(f"1A, point {place} slices off: exact errors, scatter / error wanders by", f"{wander[0]:.3f}", "< 0.05",
              wander[0] < 0.05, before=f"{wander[1]:.3f}")  # fmt: skip


def leak_of_a_star(table, data: Path) -> None:
    """How much of the leak that a table tells is in the spectra of HD 163466 beside a smooth continuum, by dither."""
    from astropy.io import fits

    known = fits.getdata(data / "fringe_leak/residfringe/MRS_spectral_leak_fractional.fits", 1)
    found = []
    with fits.open(data / "calibrators_mirideep/hd163466_0624_per_dither.fits.gz") as file:
        red, blue = file["CH3_SHORT"].data, file["CH1_MEDIUM"].data
        for name in (f"FLUX_D{k}" for k in range(1, 5)):
            good = np.isfinite(blue[name])
            light = np.interp(red["WAVELENGTH"], 2 * blue["WAVELENGTH"][good], blue[name][good])
            light *= np.interp(red["WAVELENGTH"], known["wavelength"], np.nan_to_num(known["frac_leak"]))
            here = (red["WAVELENGTH"] > 11.62) & (red["WAVELENGTH"] < 13.4) & np.isfinite(red[name])
            t = red["WAVELENGTH"][here] - 12.3
            matrix = np.stack([light[here], *(t**k for k in range(6))], axis=1)
            found.append(np.linalg.lstsq(matrix, red[name][here], rcond=None)[0][0])
    error = np.std(found, ddof=1) / 2
    table.add("leak in HD 163466, over that of the table", f"{np.mean(found):.3f} +- {error:.3f}", "1 within 2 sigma",
              abs(np.mean(found) - 1) < 2 * error)  # fmt: skip


def pixels_of_a_scene(table, folder: Path, setting: str, n_groups: int = 25) -> None:
    """Pulls of the pixels of a cal image of one exposure, by the errors that its file tells."""
    import mrsxr as mx
    from mrsxr.pipeline.cal_chain import add_wcs, cal_steps
    from mrsxr.rate import fit_ramps
    from mrsxr.schema import SCATTER
    from mrsxr.simulate import Effects, simulate_observation

    made = simulate_observation(folder, bands=[setting], n_groups=12, n_integrations=1, n_dithers=1, n_background=0,
                    effects=Effects.none(), save_slopes=False, workers=1)  # fmt: skip
    refs = mx.References(made.reference_folder)
    base = mx.make_rate(mx.open_exposures(made.uncal[0]), refs).compute()
    where = add_wcs(base, refs, mx.Recipe.of()).compute()
    photom, flat, fringe, gain, readnoise = (
        refs.get(kind, base).compute() for kind in ("photom", "flat", "fringe", "gain", "readnoise")
    )
    channel = where["slice"].values // 100
    light = np.select([channel == int(c) for c in setting[:2]], [LIGHT[c + setting[2]] for c in setting[:2]], np.nan)
    alpha, beta = where["alpha"].values - 0.2, where["beta"].values + 0.1
    source = (1 + (alpha / 0.3) ** 2 + (beta / 0.5) ** 2 + 0.5 * alpha * beta) ** -1.7
    truth = light * (1 + 0.3 * np.sin(3 * where["wavelength"].values) + 8 * source)
    slope = np.nan_to_num(truth / photom.conversion.values * flat.flat.values * fringe.fringe.values)
    ramp = _ramps(base, slope, gain.gain.values, np.nan_to_num(readnoise.read_noise.values) / np.sqrt(2), n_groups)
    ds = fit_ramps(ramp, gain=gain, readnoise=readnoise, method="gls")
    for _, step in cal_steps(ds, refs, mx.Recipe.of("optimal")):
        ds = step(ds)
    for name in setting[:2]:
        here = (channel == int(name)) & ((ds.dq.values[0] & 1) == 0)
        error = np.sqrt(sum(ds[v].values[0] for v in SCATTER if v in ds))
        pulls = ((ds.flux.values[0] - truth) / error)[here]
        width = float(1.4826 * np.median(np.abs(pulls - np.median(pulls))))
        band = name + setting[2]
        table.add(f"{band}: pulls of cal pixels, optimal", f"{width:.3f}", "1.00 +- 0.03", abs(width - 1) <= 0.03,
                  before=PIXELS_BEFORE[band])  # fmt: skip


def _ramps(base, slope, gain, read, n_groups: int):
    """Return ramps of slopes [DN/s] with Poisson and read noise, level "ramp"."""
    import xarray as xr

    rng, charge = np.random.default_rng(5), np.zeros(slope.shape)
    sci = np.empty((1, 1, n_groups, *slope.shape), "f4")
    for k in range(n_groups):
        charge += rng.poisson(slope * float(base.attrs["group_time"]) * gain) / gain
        sci[0, 0, k] = charge + rng.standard_normal(slope.shape) * read
    dims = ("dither", "integration", "group", "y", "x")
    variables = {"sci": (dims, sci, {"units": "DN"}), "group_dq": (dims, np.zeros(sci.shape, "u1")),
                 "pixel_dq": (base.dq * 0).assign_attrs(base.dq.attrs)}  # fmt: skip
    return xr.Dataset(variables, base.coords, base.attrs | {"level": "ramp", "n_groups": n_groups, "n_integrations": 1})
