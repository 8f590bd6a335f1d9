"""Truth of residual_fringe: fringe contrast left, line flux kept, cost; and jwst's step on the same images.

Called by ``compare_jwst.py --stage 2``. Images of surface brightness are made straight from the simulator's geometry,
scene and etalon, without ramps: extended light whose fringe flat is off by a little, a bright point source whose
fringes have another phase and depth, and in channels 3 and 4 fringes of the dichroics.

Contrast: the factor that a correction divides by is applied to the noiseless fringed image; what it then differs from
the noiseless image without fringes is the residual, and sqrt(2) x its rms along a column is the amplitude
(max - min) / (max + min) of a sine of that rms.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

EXPOSURE_TIME, READ_NOISE = 222.0, 0.013  # s; DN/s
DICHROIC_PERIOD, DICHROIC = 0.41, 0.01  # 1/cm; amplitude
EXTENDED_PHASE, POINT_PHASE = 0.08, 0.30  # rad off the fringe flat
LIGHT_SPEED = 299792.458


@dataclass
class Sky:
    """One made image: noiseless with and without fringes, noise, and its labelled form."""

    setting: str
    clean: np.ndarray
    fringed: np.ndarray
    sigma: np.ndarray
    ds: object
    fringefreq: object
    paths: dict

    def with_flux(self, flux: np.ndarray):
        """Return the Dataset of another image."""
        return self.ds.assign(flux=(("dither", "y", "x"), flux[None].astype(np.float32), self.ds.flux.attrs))

    def noisy(self, seed: int) -> np.ndarray:
        """Return the fringed image with noise."""
        return self.fringed + self.sigma * np.random.default_rng(seed).standard_normal(self.sigma.shape)


def make_sky(
    setting: str, folder: Path, *, point: float = 4.0, surface: float = 0.0, coordinates=None, exposure: float = 1.0
) -> Sky:
    """Make an image of the default scene and the reference files that belong to it.

    point : factor on the point source, 0 for none; surface : uniform light [MJy/sr] in place of the disc and its lines;
    coordinates : folder of real distortion files; exposure : factor on the exposure time.
    """
    from mrsxr.references import read_reference
    from mrsxr.simulate import Scene, detector_model, instrument, render, write_geometry
    from mrsxr.simulate.pointing import aim_at

    geometry = instrument.load_geometry(setting, coordinates) if coordinates else instrument.make_geometry(setting)
    pixels = instrument.footprints(geometry)
    maps = detector_model.make_setting(setting, pixels, 1)
    scene = Scene.default()
    source = replace(scene.points[0], lines=(), continuum=replace(scene.points[0].continuum, flux=60.0 * point))
    scene = replace(scene, points=(source,) if point else (), discs=() if surface else scene.discs)
    aim = aim_at(scene.ra, scene.dec, 110.0, (0.12, -0.07), 1.0, 0.0)
    clean, fringed = np.full((2, *maps.flat.shape), np.nan)
    for here in pixels.values():
        parts = render.render(scene, aim, geometry, here)
        extended, at = parts.extended + surface, (here.y, here.x)
        own = detector_model.fringe_pattern(here, phase=EXTENDED_PHASE)
        shifted = detector_model.fringe_pattern(here, phase=POINT_PHASE, depth=1.0 + 0.5 * POINT_PHASE)
        clean[at] = parts.point + extended
        fringed[at] = (parts.point * shifted + extended * own) / maps.fringe[at]
        if setting.startswith("34"):
            turn = 2 * np.pi * (1e4 / here.wavelength / DICHROIC_PERIOD + 0.05 * here.alpha + 0.1 * here.label)
            fringed[at] *= 1.0 + DICHROIC * np.cos(turn)
    slope = np.maximum(clean / maps.conversion, 0)
    noise = slope / (detector_model.GAIN * EXPOSURE_TIME) + READ_NOISE**2
    sigma = np.sqrt(noise / exposure) * maps.conversion
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"regions": write_geometry(folder / f"mrs{setting}_regions.asdf", geometry.regions),
             "fringefreq": write_frequencies(folder / f"{setting[:2]}_fringefreq.fits", setting)}  # fmt: skip
    ds = _labelled(setting, fringed, sigma, geometry)
    inside = np.isfinite(clean) & (ds.slice.values > 0)
    for image in (clean, fringed, sigma):
        image[~inside] = np.nan
    sky = Sky(setting, clean, fringed, sigma, ds, read_reference(paths["fringefreq"], "fringefreq"), paths)
    return replace(sky, ds=sky.with_flux(fringed))


def _labelled(setting: str, fringed, sigma, geometry):
    import xarray as xr

    from mrsxr import cal, dq, mrs, schema

    dims = ("dither", "y", "x")
    planes = {"flux": fringed, "var_poisson": sigma**2, "var_read": 0 * sigma, "var_flat": 0 * sigma}
    coords: dict = {"y": np.arange(1024), "x": np.arange(1032), "dither": [1]}
    for spec in schema.DITHER_COORDS:
        value = "made" if spec.dtypes == ("str",) else 0.0
        coords[spec.name] = ("dither", np.array([value]), {"units": spec.units} if spec.units else {})
    keys = mrs.setting_keywords(setting)
    attrs = {
        "level": "cal", "setting": setting, "detector": keys["DETECTOR"], "channels": keys["CHANNEL"],
        "band": keys["BAND"], "readpatt": "FASTR1", "subarray": "FULL", "group_time": 2.77504, "frame_time": 2.77504,
        "n_groups": 40, "n_integrations": 2, "target": "MADE", "program": "0",
        "history_json": "[]", "fringe_flat": 1,
    }  # fmt: skip
    units = {"flux": "MJy/sr"}
    variables = {k: (dims, v[None].astype("f4"), {"units": units.get(k, "MJy2/sr2")}) for k, v in planes.items()}
    flags = np.where(np.isfinite(fringed), 0, dq.DO_NOT_USE)[None].astype("u4")
    ds = xr.Dataset({**variables, "dq": (dims, flags, dq.PIXEL_DQ_ATTRS)}, coords, attrs)
    return cal.assign_wcs(ds, distortion=geometry.distortion, specwcs=geometry.specwcs, regions=geometry.regions)


def write_frequencies(path: Path, setting: str) -> Path:
    """Write a fringefreq file with the families of the detector and, in channels 3 and 4, of the dichroics."""
    from mrsxr import mrs
    from mrsxr.simulate import write_reference

    channels = setting[:2]
    slices = np.array([100 * int(c) + n for c in channels for n in range(1, mrs.N_SLICES[int(c)] + 1)], dtype=float)
    count = 1 if channels == "12" else 2

    def each(*values):
        return np.tile(np.array(values[:count]), (slices.size, 1))

    table = {"SLICE": slices, "FFREQ": each(2.9, 0.4), "DFFREQ": each(1.5, 0.15), "MIN_NFRINGES": np.zeros(slices.size),
             "MAX_NFRINGES": each(10, 15), "MIN_SNR": each(10.0, 10.0), "PGRAM_RES": each(0.001, 0.001)}  # fmt: skip
    wave = np.linspace(4.5, 29.0, 50)
    limits = {"WAVELENGTH": wave, "AMPLITUDE": 0.05 + 0.15 * np.exp(-(wave - 5.0) / 9.0)}
    header = {"detector": mrs.setting_keywords(setting)["DETECTOR"], "useafter": "2022-05-01T00:00:00"}
    tables = {**{f"RFC_FREQ_{grating}": table for grating in ("SHORT", "MEDIUM", "LONG")}, "MAX_AMP": limits}
    return write_reference(path, "fringefreq", header, tables=tables)


def ours(sky: Sky, flux: np.ndarray, method: str) -> tuple[np.ndarray, float, np.ndarray | None]:
    """Return (corrected image, seconds of CPU, variance of the fringes or None)."""
    import dask

    from mrsxr.cal.residual_fringe import correct_residual_fringe

    ds = sky.with_flux(flux).chunk({"dither": 1})
    start = time.process_time()
    with dask.config.set(scheduler="threads", num_workers=2):
        out = correct_residual_fringe(ds, fringefreq=sky.fringefreq, method=method).compute()
    variance = out.var_fringe.values[0] if "var_fringe" in out else None
    return out.flux.values[0], time.process_time() - start, variance


def slice_columns(sky: Sky):
    """Yield (label, column, rows inside) of every column of every slice with at least 100 samples."""
    labels = sky.ds.slice.values
    for label in np.unique(labels[labels > 0]):
        inside = labels == label
        for x in np.nonzero(inside.any(axis=0))[0]:
            rows = np.nonzero(inside[:, x] & np.isfinite(sky.clean[:, x]))[0]
            if rows.size >= 100:
                yield int(label), int(x), rows


def residual(sky: Sky, factor: np.ndarray) -> np.ndarray:
    """Return what a correction leaves of the noiseless fringes, relative, less a cubic along each column."""
    out = np.full(factor.shape, np.nan)
    left = sky.fringed / factor / sky.clean - 1.0
    for _, x, rows in slice_columns(sky):
        t = rows / 512.0 - 1.0
        out[rows, x] = left[rows, x] - np.polyval(np.polyfit(t, left[rows, x], 3), t)
    return out


def contrast_of_pixels(sky: Sky, factor: np.ndarray, channel: int, low: float, high: float) -> tuple[float, int]:
    """Return (contrast, number) of the pixels of a channel whose S/N is between two limits."""
    snr = np.nan_to_num(sky.clean / sky.sigma)
    pixels = (sky.ds.channel.values == channel) & (snr >= low) & (snr < high)
    left = residual(sky, factor)[pixels]
    left = left[np.isfinite(left)]
    return (float(np.sqrt(2.0 * np.mean(left**2))) if left.size else np.nan), left.size


def contrast_of_spectrum(sky: Sky, factor: np.ndarray, channel: int) -> float:
    """Return the contrast of the spectrum summed over the core of the point source in the brightest slice."""
    labels = sky.ds.slice.values
    of_channel = [k for k in np.unique(labels) if k // 100 == channel]
    brightest = max(of_channel, key=lambda k: np.nansum(np.where(labels == k, sky.clean, 0.0)))
    clean = np.where(labels == brightest, sky.clean, 0.0)
    core = clean > 0.3 * np.nanmax(clean, axis=1, keepdims=True)
    rows = core.any(axis=1)
    found = np.where(core, sky.fringed / factor, 0.0).sum(axis=1)[rows] / np.where(core, clean, 0.0).sum(axis=1)[rows]
    t = np.linspace(-1, 1, found.size)
    return float(np.sqrt(2.0) * np.std(found - np.polyval(np.polyfit(t, found, 3), t)))


def add_lines(sky: Sky, width: float, peak: float, seed: int) -> tuple[np.ndarray, list[float]]:
    """Return (image of lines, their wavelengths): the same lines in all columns of a channel, far from each other.

    width : FWHM [km/s]; peak : in units of the noise of the column (median).
    """
    rng = np.random.default_rng(seed)
    wave, channels = sky.ds.wavelength.values, sky.ds.channel.values
    lines, places = np.zeros(wave.shape), []
    for channel in (int(c) for c in sky.setting[:2]):
        here = wave[channels == channel]
        low, high = np.quantile(here, [0.04, 0.96])
        gap = max(4.0 * width / LIGHT_SPEED * low, 10.0 * 2.9e-4 * low**2)
        at = low + gap * rng.uniform(0.2, 0.8)
        while at < high:
            places.append(at)
            sigma = width / LIGHT_SPEED * at / 2.3548
            lines += np.where(channels == channel, np.exp(-0.5 * ((wave - at) / sigma) ** 2), 0.0)
            at += gap * rng.uniform(0.9, 1.3)
    noise = np.full(wave.shape, np.nan)
    for _, x, rows in slice_columns(sky):
        noise[rows, x] = np.median(sky.sigma[rows, x])
    return peak * noise * np.nan_to_num(lines), places


def flux_kept(sky: Sky, correct, width: float, peak: float, *, seeds=(1,), least_snr: float = 10.0):
    """Return (mean share of the line flux that is kept, its error, number of lines in columns).

    The error is that of the mean over lines and slices: the columns of a slice share their fringes.

    The lines carry the fringes of the image. What the correction makes of them is the difference of two corrected
    images with the same noise, with and without lines; it is compared with the lines divided by the factor found
    without lines.
    """
    shares: dict = {}
    wave = sky.ds.wavelength.values
    for seed in seeds:
        flux = sky.noisy(seed)
        lines, places = add_lines(sky, width, peak, seed)
        lines = lines * sky.fringed / sky.clean
        plain, with_lines = correct(flux), correct(flux + lines)
        expected, found = lines * plain / flux, with_lines - plain
        for label, x, rows in slice_columns(sky):
            if np.mean(sky.clean[rows, x] / sky.sigma[rows, x]) < least_snr:
                continue
            w = wave[rows, x]
            for at in places:
                reach = width / LIGHT_SPEED * at
                near = np.abs(w - at) < 1.5 * reach
                total = expected[rows, x][near].sum()
                if total > 0 and w.min() < at - 0.7 * reach and w.max() > at + 0.7 * reach:
                    shares.setdefault((seed, label, at), []).append(found[rows, x][near].sum() / total)
    groups = np.array([np.mean(v) for v in shares.values()])
    weights = np.array([len(v) for v in shares.values()], dtype=float)
    weights /= weights.sum()
    mean = float(np.sum(weights * groups))
    error = float(np.sqrt(np.sum(weights**2 * (groups - mean) ** 2)))
    return mean, error, sum(len(v) for v in shares.values())


def theirs(sky: Sky, flux: np.ndarray, folder: Path, jwst_python: str, columns=None) -> tuple[np.ndarray, float]:
    """Return (corrected image, seconds of CPU) of jwst's residual_fringe; columns: only these detector columns."""
    folder.mkdir(parents=True, exist_ok=True)
    given, answer = folder / "given.npz", folder / "answer.npz"
    wave = np.where(sky.ds.slice.values > 0, sky.ds.wavelength.values, np.nan)
    image = np.where(np.isfinite(flux), flux, np.nan)
    if columns is not None:
        image[:, np.setdiff1d(np.arange(image.shape[1]), columns)] = np.nan
    np.savez(given, flux=image.astype("f4"), error=sky.sigma.astype("f4"), wave=wave, dq=sky.ds.dq.values[0],
             band=sky.ds.attrs["band"], detector=sky.ds.attrs["detector"],
             fringefreq=str(sky.paths["fringefreq"]), regions=str(sky.paths["regions"]))  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    subprocess.run([jwst_python, __file__, str(given), str(answer)], check=True, env=environment,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    with np.load(answer) as found:
        return found["flux"], float(found["cpu"])


def jwst_half(given: str, answer: str) -> None:
    """Run jwst's ResidualFringeCorrection; this half runs in the environment of jwst."""
    import logging
    import warnings
    from types import SimpleNamespace

    from jwst.residual_fringe.residual_fringe import ResidualFringeCorrection

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    made = np.load(given)
    meta = SimpleNamespace(
        cal_step=SimpleNamespace(fringe="COMPLETE"), filename="made.fits", wcs=lambda x, y: (None, None, made["wave"]),
        instrument=SimpleNamespace(band=str(made["band"]), detector=str(made["detector"])),
    )  # fmt: skip
    model = SimpleNamespace(data=made["flux"], err=made["error"], dq=made["dq"], meta=meta)
    start = time.process_time()
    step = ResidualFringeCorrection(
        model,
        str(made["fringefreq"]),
        str(made["regions"]),
        {"num": 0, "min": [], "max": []},
        False,
        80,
        lambda **k: "",
    )
    out = step.do_correction()
    np.savez(answer, flux=out.data, cpu=time.process_time() - start)


WIDTHS, PEAKS = (300.0, 600.0, 1000.0, 3000.0), (1.0, 3.0, 10.0, 20.0)


def run(folder: Path, jwst_python: str, table, *, coordinates: str | None = None, settings=("12A", "34A")) -> None:
    """Fill the table with contrasts, line fluxes and cost, and draw the images before and after."""
    folder.mkdir(parents=True, exist_ok=True)
    for setting in settings:
        judge_point(folder, jwst_python, table, setting, coordinates)
        judge_extended(folder, table, setting, coordinates)


def judge_point(folder: Path, jwst_python: str, table, setting: str, coordinates) -> None:
    """Contrast, cost and line flux on a bright point source before extended light."""
    sky = make_sky(setting, folder / "refs", coordinates=coordinates)
    flux = sky.noisy(1)
    answer = folder / f"theirs_{setting}.npz"
    if not answer.exists():
        image, seconds = theirs(sky, flux, folder / f"jwst_{setting}", jwst_python)
        np.savez(answer, flux=image, cpu=seconds)
    with np.load(answer) as found:
        factors, cost = {"none": np.ones_like(flux), "jwst": flux / found["flux"]}, {"jwst": float(found["cpu"])}
    for method in ("columns", "slices"):
        ours(sky, flux, method)  # compiles
        image, cost[method], variance = ours(sky, flux, method)
        factors[method] = flux / image
        table.add(f"{setting} {method}: CPU", f"{cost[method]:.2f} s (jwst {cost['jwst']:.0f} s)", "< 2.5 s",
                  cost[method] < 2.5)  # fmt: skip
    draw(sky, factors, folder / f"fringes_{setting}.png")
    for channel in (int(c) for c in setting[:2]):
        found = {k: 100 * contrast_of_spectrum(sky, f, channel) for k, f in factors.items()}
        told = ", ".join(f"{k} {v:.2f}" for k, v in found.items() if k != "slices")
        table.add(f"{setting} point source, channel {channel}: contrast", f"{found['slices']:.2f} % ({told})", "< 1 %",
                  found["slices"] < 1.0)  # fmt: skip
        for low, high in ((3, 10), (10, 30), (30, 100), (100, 1e5)):
            found = {k: 100 * contrast_of_pixels(sky, f, channel, low, high)[0] for k, f in factors.items()}
            told = ", ".join(f"{k} {v:.2f}" for k, v in found.items() if k != "slices")
            if np.isfinite(found["none"]):
                table.add(f"  pixels of S/N {low:g} to {high:g}", f"{found['slices']:.2f} % ({told})",
                          "less than without", found["slices"] < found["none"])  # fmt: skip
    same = np.isfinite(factors["jwst"]) & (factors["jwst"] != 1)
    removed, off = (np.std(factors["jwst"][same] / factors[k][same]) for k in ("none", "columns"))
    table.add(f"{setting} columns against jwst, rms", f"{100 * off:.2f} %", f"< {100 * removed:.2f} % removed",
              off < removed)  # fmt: skip
    error = sky.fringed / factors["slices"] - sky.clean
    snr = sky.clean / sky.sigma
    good = np.isfinite(error) & (variance > 0) & (snr > 10) & (snr < 100)
    pull = float(np.median(np.abs(error[good] / np.sqrt(variance[good])))) * 1.4826
    table.add(f"{setting} slices: pull of var_fringe", f"{pull:.2f}", "0.5 ... 2 (S/N 10 to 100)", 0.5 < pull < 2)
    for width in WIDTHS:
        for peak in PEAKS:
            found, error, count = flux_kept(sky, lambda f: ours(sky, f, "slices")[0], width, peak, seeds=(1, 2))
            base = flux_kept(sky, lambda f: ours(sky, f, "columns")[0], width, peak)[0]
            table.add(f"{setting} line of {width:g} km/s, {peak:g} sigma: kept",
                      f"{100 * found:.2f} +- {100 * error:.2f} % (columns {100 * base:.2f})",
                      f"100 +- 1 % ({count})", abs(found - 1) < 0.01 + error)  # fmt: skip


def judge_extended(folder: Path, table, setting: str, coordinates) -> None:
    """Contrast on uniform light whose fringe flat is off by a little."""
    surface = 3000.0 if setting.startswith("12") else 6000.0
    sky = make_sky(setting, folder / "refs", point=0.0, surface=surface, coordinates=coordinates)
    flux = sky.noisy(2)
    for channel in (int(c) for c in setting[:2]):
        found = {}
        for method in ("none", "columns", "slices"):
            factor = np.ones_like(flux) if method == "none" else flux / ours(sky, flux, method)[0]
            found[method] = 100 * contrast_of_pixels(sky, factor, channel, 0, 1e5)[0]
        snr = np.nanmedian((sky.clean / sky.sigma)[sky.ds.channel.values == channel])
        told = ", ".join(f"{k} {v:.2f}" for k, v in found.items() if k != "slices")
        table.add(f"{setting} extended, channel {channel}, S/N {snr:.0f}", f"{found['slices']:.2f} % ({told})",
                  "contrast < 0.5 %", found["slices"] < 0.5)  # fmt: skip


def draw(sky: Sky, factors: dict, path: Path) -> None:
    """Draw what is left of the fringes in the brightest slice of each channel."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    labels = sky.ds.slice.values
    figure, axes = plt.subplots(
        2, len(factors), figsize=(2.4 * len(factors) + 1, 7), squeeze=False, sharey=True, layout="constrained"
    )
    for row, channel in enumerate(int(c) for c in sky.setting[:2]):
        of_channel = [k for k in np.unique(labels) if k // 100 == channel]
        label = max(of_channel, key=lambda k: np.nansum(np.where(labels == k, sky.clean, 0.0)))
        x = np.nonzero((labels == label).any(axis=0))[0]
        for axis, (name, factor) in zip(axes[row], factors.items(), strict=True):
            left = np.where(labels == label, 100 * residual(sky, factor), np.nan)[:, x[0] : x[-1] + 1]
            image = axis.imshow(left, vmin=-3, vmax=3, aspect="auto", cmap="RdBu", extent=(x[0], x[-1] + 1, 1024, 0))
            spread = 100 * contrast_of_spectrum(sky, factor, channel)
            axis.set_title(f"{name}\nslice {label}: {spread:.2f} %", fontsize=9)
            axis.set(xlabel="x [pixel]", ylabel="" if axis is not axes[row, 0] else "y [pixel]")
    figure.colorbar(image, ax=axes, label="left of the fringes [%]")
    figure.savefig(path, dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    jwst_half(*sys.argv[1:])
