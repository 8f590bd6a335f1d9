"""Backgrounds and outliers of stage 3 on skies that the package's simulator does not make.

The PSF is lopsided, elongated and has diffraction wings; pointings, source, noise and offsets are drawn anew in every
realisation.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

DIMS = ("dither", "y", "x")
RA, DEC = 83.0, -5.0


def psf(x, y, wavelength):
    """Return a lopsided PSF of peak about 1 at offsets [arcsec]: core, a ghost to one side, six wings."""
    width = 0.42 * (0.033 * wavelength + 0.106)
    u, v = x / width, y / width
    core = np.exp(-0.5 * ((u * 0.9 + 0.25 * v) ** 2 + (v * 1.1) ** 2))
    ghost = 0.09 * np.exp(-0.75 * ((u - 1.75) ** 2 + (v + 1.05) ** 2))
    r2, angle = (u * u + v * v) / 5.5, np.arctan2(v, u)
    wings = 0.012 * (1 + 0.7 * np.cos(6 * angle) + 0.25 * np.cos(angle - 1.0)) / (0.5 + r2) ** 1.5
    return core + ghost + wings


def source_spectrum(wavelength):
    """Return a falling continuum with a broad band and narrow lines, 1 at 7 um."""
    band = 0.3 * np.exp(-0.5 * ((wavelength - 7.7) / 0.35) ** 2)
    lines = sum(np.exp(-0.5 * ((wavelength - at) / (at / 5500)) ** 2)
                for at in (5.05, 5.53, 6.24, 7.12, 8.03, 9.66, 10.51, 12.81, 15.56, 18.71, 24.3, 25.9))  # fmt: skip
    return (wavelength / 7.0) ** -1.6 * (1 + band + 1.5 * lines)


def background(wavelength):
    """Return light that fills the field [MJy/sr]."""
    return 8.0 + 2.5 * np.exp((wavelength - 16.0) / 4.0) + 1.5 * np.cos(5.0 * wavelength)


def blank(setting, n_dither, rng, rows=1024, first=1, pattern="EXTENDED", pointings=None):
    """Return located cal data without light: dithers of a pattern with errors of pointing, or given pointings."""
    from mrsxr import dq, mrs, schema
    from mrsxr.cal.wcs import assign_wcs
    from mrsxr.simulate.instrument import make_geometry
    from mrsxr.simulate.pointing import DITHERS, aim_at

    geometry, n = make_geometry(setting), np.arange(n_dither)
    keys = mrs.setting_keywords(setting)
    aims = [
        aim_at(RA, DEC, 70.0, tuple(np.array(offset) + rng.uniform(-0.05, 0.05, 2)), 1.0, -12000.0)
        for offset in DITHERS[pattern][:n_dither]
    ]
    units = {v.name: v.units for v in schema.DITHER_COORDS}
    names = ("ra_ref", "dec_ref", "roll_ref", "v2_ref", "v3_ref")
    values = pointings or {name: [getattr(a.pointing, name) for a in aims] for name in names}
    values |= {"start_time": 59760 + 0.01 * n, "mid_time": 59760.001 + 0.01 * n, "va_scale": np.ones(n_dither),
               "exposure_time": np.full(n_dither, 222.0), "velosys": np.full(n_dither, -12000.0)}  # fmt: skip
    coords = {k: ("dither", np.array(v, dtype=float), {"units": units[k]}) for k, v in values.items()}
    detector = keys["DETECTOR"].lower()
    coords["exposure"] = ("dither", np.array([f"jw09999001001_0210{first}_{k + 1:05d}_{detector}" for k in n]))
    coords["fits_header"] = ("dither", np.array(['{"PRIMARY": {}, "SCI": {}}'] * n_dither))
    shape = (n_dither, rows, 1032)
    planes = {k: (DIMS, np.zeros(shape, "f4"), {"units": "MJy/sr" if k == "flux" else "MJy2/sr2"})
              for k in ("flux", "var_poisson", "var_read", "var_flat")}  # fmt: skip
    attrs = {
        "level": "cal", "setting": setting, "detector": keys["DETECTOR"], "channels": keys["CHANNEL"],
        "band": keys["BAND"], "readpatt": "FASTR1", "subarray": "FULL", "group_time": 2.77504, "frame_time": 2.77504,
        "n_groups": 80, "n_integrations": 1, "target": "TRUTH", "program": "09999", "background": 0,
        "Conventions": "mrsxr-1", "history_json": "[]",
    }  # fmt: skip
    ds = xr.Dataset(planes, {"y": np.arange(rows), "x": np.arange(1032), "dither": n + 1, **coords}, attrs)
    ds["dq"] = (DIMS, np.zeros(shape, "u4"), dq.PIXEL_DQ_ATTRS)
    ds = assign_wcs(ds, distortion=geometry.distortion, specwcs=geometry.specwcs, regions=geometry.regions)
    between = ds.slice.values == 0
    ds.flux.values[:, between] = np.nan
    ds.dq.values[:, between] |= dq.DO_NOT_USE
    return ds


def light(ds, peak, place, parts=4):
    """Return what the sky sends to every pixel (dither, y, x): a source of a peak [MJy/sr] and a background."""
    from mrsxr.geometry.sky import Pointing, slicer_to_sky, tangent_frame, tangent_offsets
    from mrsxr.mrs import SLICE_WIDTH, bands_of_setting

    frame, out = tangent_frame(RA, DEC), np.zeros(ds.flux.shape)
    for band in bands_of_setting(ds.attrs["setting"]):
        lit = (ds.channel.values == int(band[0])) & (ds.slice.values > 0)
        wave, alpha, beta = (ds[k].values[lit].astype(float) for k in ("wavelength", "alpha", "beta"))
        spectrum, sky, width = peak * source_spectrum(wave), background(wave), SLICE_WIDTH[int(band[0])]
        for d in range(ds.sizes["dither"]):
            total = np.zeros(wave.size)
            for step in (np.arange(parts) + 0.5) / parts - 0.5 if peak else ():
                sky_at = slicer_to_sky(alpha, beta + step * width, band, ds, Pointing.of(ds, d))
                x, y = tangent_offsets(*sky_at, frame)
                total += psf(x - place[0], y - place[1], wave)
            out[d][lit] = spectrum * total / parts + sky
    return out


def observed(ds, truth, rng, read=2.0, gain=0.05, hits=0.0):
    """Return exposures of the light with noise of read-out and photons, variances known, and some hits."""
    var_read = np.full(truth.shape, read**2)
    var_poisson = gain * np.maximum(truth, 0.0)
    flux = truth + rng.normal(size=truth.shape) * np.sqrt(var_read + var_poisson)
    struck = rng.uniform(size=truth.shape) < hits
    flux[struck] += rng.exponential(60.0 * read, int(struck.sum()))
    flux[:, ds.slice.values == 0] = np.nan
    new = {"flux": flux, "var_poisson": var_poisson, "var_read": var_read}
    return ds.assign({k: (DIMS, v.astype("f4"), ds[k].attrs) for k, v in new.items()})


# --- what is measured ------------------------------------------------------------------------------------------------


def moved(ds, offsets):
    """Return exposures with offsets [MJy/sr] put in."""
    flux = ds.flux + xr.DataArray(np.array(offsets, "f4"), dims="dither")
    return ds.assign(flux=flux.assign_attrs(ds.flux.attrs))


def star(setting, seed, peak, n_dither=4, rows=1024, second=0.0, **noise):
    """Return exposures of a source somewhere in the middle of the field, perhaps of another, and their light."""
    rng = np.random.default_rng(seed)
    ds = blank(setting, n_dither, rng, rows)
    truth = light(ds, peak, rng.uniform(-0.6, 0.6, 2))
    if second:
        truth += light(ds, second, rng.uniform(-1.2, 1.2, 2)) - light(ds, 0.0, (0.0, 0.0))
    return observed(ds, truth, rng, **noise), truth


def cloud(setting, seed):
    """Return exposures of waves of light over the field and a front four times as bright, as sharp as a PSF."""
    from mrsxr.geometry.sky import Pointing, slicer_to_sky, tangent_frame, tangent_offsets
    from mrsxr.mrs import bands_of_setting

    rng = np.random.default_rng(seed)
    ds, frame = blank(setting, 4, rng), tangent_frame(RA, DEC)
    waves, phases, angle = 1.2 * rng.normal(size=(6, 2)), rng.uniform(0, 2 * np.pi, 6), rng.uniform(0, 2 * np.pi)
    truth = np.zeros(ds.flux.shape)
    for band in bands_of_setting(setting):
        lit = (ds.channel.values == int(band[0])) & (ds.slice.values > 0)
        wave, alpha, beta = (ds[k].values[lit].astype(float) for k in ("wavelength", "alpha", "beta"))
        width = np.hypot(0.2, 0.42 * (0.033 * wave + 0.106)) / 1.8
        for d in range(4):
            x, y = tangent_offsets(*slicer_to_sky(alpha, beta, band, ds, Pointing.of(ds, d)), frame)
            lumps = sum(np.sin(a * x + b * y + p) for (a, b), p in zip(waves, phases, strict=True))
            front = 3.0 / (1.0 + np.exp(-(x * np.cos(angle) + y * np.sin(angle)) / width))
            truth[d][lit] = background(wave) + 400.0 * source_spectrum(wave) * (np.exp(0.4 * lumps) + front)
    return observed(ds, truth, rng)


def levels(ds, offsets, references=("00004",), **options):
    """Return errors of levels and of whole functions, in units of their own (root of chi2 over the number of their
    coefficients), of what is not held, and the largest significance, with some exposures in turn as reference: as all
    share that, pulls about one alone scatter more by chance.
    """
    from mrsxr.cal.background_match import fit_background_match

    pulls, functions, most = [], [], []
    for number in references:
        match = fit_background_match(ds, significance=0, reference=number, **options)
        free = match.isel(member=np.flatnonzero(match.held.values == 0))
        wanted = offsets[[int(str(name).split("_")[2]) - 1 for name in free.exposure.values]] - offsets[int(number) - 1]
        off = free.coefficients.values.copy()
        off[:, 0] -= wanted[:, None]
        off = off.reshape(len(off), -1)
        inverse = np.linalg.pinv(free.covariance.values, hermitian=True)
        functions.append(np.sqrt(np.einsum("mi,mij,mj->m", off, inverse, off) / off.shape[1]))
        pulls.append((free.level.values - wanted) / free.level_err.values)
        most.append(float(free.significance.max()))
    return np.concatenate(pulls), np.concatenate(functions), most


def rms(values):
    return float(np.sqrt(np.mean(np.square(values))))


def match_beside_a_source(table, quick):
    """Offsets and none, beside a source of 2e5 MJy/sr."""
    from mrsxr.cal.background_match import fit_background_match

    for setting, before in (("12A", BEFORE["12A"]), ("34A", BEFORE["34A"])):
        pulls, whole, found, applied, put_in = [], [], [], 0.0, []
        for seed in range(2 if quick else 12):  # pulls +- 0.08, of two +- 0.2
            ds, _ = star(setting, 100 + seed, 2e5)
            off, functions, most = levels(ds, np.zeros(4), ("00001", "00002", "00003", "00004"))
            pulls.append(off)
            whole.append(functions)
            found += most
            applied = max(applied, float(np.abs(fit_background_match(ds).level).max()))
            put_in.append(levels(moved(ds, (3.0, -2.0, 1.0, 0.0)), np.array((3.0, -2.0, 1.0, 0.0)))[0])
        pull, after = rms(pulls), rms(put_in)
        table.add(f"{setting} matching beside 2e5 MJy/sr: pulls, no offsets", f"{pull:.2f}", "1.0 +- 0.1",
                  abs(pull - 1) <= 0.1, baseline="none", before=before[0])  # fmt: skip
        table.add(f"{setting} ... of whole functions", f"{rms(whole):.2f}", "1.0 +- 0.1", abs(rms(whole) - 1) <= 0.1)
        table.add(f"{setting} ... largest significance found, median (largest)", f"{np.median(found):.1f} "
                  f"({max(found):.1f}) sigma", "< 2 sigma", np.median(found) < 2, before=before[1])  # fmt: skip
        table.add(f"{setting} ... largest level subtracted [MJy/sr]", f"{applied:.3f}", "0", applied == 0, baseline="0",
                  before=before[2])  # fmt: skip
        table.add(f"{setting} ... pulls of offsets put in (3, -2, 1)", f"{after:.2f}", "1.0 +- 0.1",
                  abs(after - 1) <= 0.1, before=before[3])  # fmt: skip


def match_other_light(table, quick):
    """Nothing put in, beside two sources and in a cloud."""
    made = {"two sources, 2e5 and 4e4 MJy/sr": lambda *of: star(*of, 2e5, second=4e4)[0],
            "a cloud of 400-2000 MJy/sr with a front": cloud}  # fmt: skip
    for name, scene in made.items():
        for setting in ("12A", "34A"):
            got = [levels(scene(setting, 100 + seed), np.zeros(4), ("00002", "00004"))[:2]
                   for seed in range(1 if quick else 6)]  # fmt: skip
            pull, whole = (rms(np.concatenate(values)) for values in zip(*got, strict=True))
            table.add(f"{setting} matching beside {name}: pulls of levels, of whole functions",
                      f"{pull:.2f}, {whole:.2f}", "1.0 +- 0.2", max(abs(pull - 1), abs(whole - 1)) <= 0.2)  # fmt: skip


def match_ties(table, quick):
    """Constants of 12 bands where none were put in."""
    from mrsxr.cal.background_match import fit_background_match
    from mrsxr.mrs import BANDS

    pulls, sizes = [], []
    for seed in range(1 if quick else 7):
        rng = np.random.default_rng(300 + seed)
        place, exposures = rng.uniform(-0.5, 0.5, 2), []
        for k, setting in enumerate(("12A", "12B", "12C", "34A", "34B", "34C")):
            ds = blank(setting, 2, rng, first=k + 1)
            exposures.append(observed(ds, light(ds, 2e5, place), rng))
        match = fit_background_match(exposures, significance=0)
        held = match.isel(member=np.flatnonzero(match.held.values == 1))
        held = held.isel(member=np.argsort([BANDS.index(b) for b in held.band.values])[1:])
        sizes.append(held.level.values)
        pulls.append(held.level.values / held.level_err.values)
    table.add("ties of 12 bands, none put in: pulls (rms [MJy/sr])", f"{rms(pulls):.2f} ({rms(sizes):.2f})",
              "1.0 +- 0.2", abs(rms(pulls) - 1) <= 0.2, before=BEFORE["ties"])  # fmt: skip


def match_real_sky(table, shared, quick):
    """The real light of NGC 7469 at the pointings of its own exposures, with offsets."""
    from astropy.io import fits
    from astropy.wcs import WCS
    from scipy.ndimage import map_coordinates

    from mrsxr.cal.background_match import fit_background_match
    from mrsxr.geometry.sky import Pointing, slicer_to_sky

    pulls, whole, applied = [], [], 0.0
    for number, aside in np.ndindex(1 if quick else 3, 1 if quick else 4):
        name = ("short", "medium", "long")[number]
        with fits.open(shared / "data" / "s3d_ngc7469" / f"NGC7469_ch4-{name}_s3d.fits.gz") as hdus:
            cube, wcs = hdus["SCI"].data.astype(float), WCS(hdus["SCI"].header)
            told = hdus["HDRTAB"].data
        seen, cube = np.isfinite(cube).astype(float), np.nan_to_num(cube)
        pointings = {
            k: [float(v) for v in told[k.upper()]] for k in ("ra_ref", "dec_ref", "roll_ref", "v2_ref", "v3_ref")
        }
        rng = np.random.default_rng(60 + number + 10 * aside)
        for key in ("ra_ref", "dec_ref") if aside else ():  # other places of the same sky
            move = rng.uniform(-0.5, 0.5) / 3600
            pointings[key] = [value + move for value in pointings[key]]
        ds = blank(f"34{'ABC'[number]}", len(told), rng, pointings=pointings)
        lit, truth = (ds.channel.values == 4) & (ds.slice.values > 0), np.zeros(ds.flux.shape)
        alpha, beta, wave = (ds[k].values[lit].astype(float) for k in ("alpha", "beta", "wavelength"))
        for d in range(len(told)):
            ra, dec = slicer_to_sky(alpha, beta, f"4{'ABC'[number]}", ds, Pointing.of(ds, d))
            x, y, z = wcs.wcs_world2pix(ra, dec, wave * 1e-6, 0)
            truth[d][lit] = map_coordinates(cube, (z, y, x), order=1, mode="nearest")
            inside = map_coordinates(seen, (z, y, x), order=1, mode="constant") > 0.999
            truth[d][lit] = np.where(inside, truth[d][lit], np.nan)
        ds = observed(ds, truth, rng, read=6.0, gain=0.3)
        ds = ds.assign(flux=ds.flux.where(ds.channel == 4))
        applied = max(applied, float(np.abs(fit_background_match(ds).coefficients).max()))
        offsets = np.array((12.0, -7.0, 4.0, 0.0))
        off, functions, _ = levels(moved(ds, offsets), offsets)
        pulls.append(off)
        whole.append(functions)
    table.add("NGC 7469 (4A-4C, real light): pulls of offsets put in", f"{rms(pulls):.2f}", "1.0 +- 0.2",
              abs(rms(pulls) - 1) <= 0.2, before=BEFORE["real"])  # fmt: skip
    table.add(
        "NGC 7469 ... none put in: most subtracted [MJy/sr]",
        f"{applied:.2f}",
        "0",
        applied == 0,
        baseline="0",
        before="> 11",
    )
    table.add("NGC 7469 ... of whole functions", f"{rms(whole):.2f}", "<= 1.2", rms(whole) <= 1.2)


def outliers_of_a_sharp_source(table, quick):
    """Light of a source that is flagged where nothing is wrong, and hits found."""
    from mrsxr.cal.outlier_detection import detect_outliers
    from mrsxr.cal.sky_outliers import detect_sky_outliers

    lost, base, hits = [], [], []
    for setting in ("12A",) if quick else ("12A", "34A"):
        for peak in (5e3, 2e5):
            ds, truth = star(setting, 5, peak, rows=400)
            good, sigma = np.isfinite(ds.flux.values), np.sqrt(ds.var_read.values + ds.var_poisson.values)
            lit = np.where(good, truth, 0)
            flagged = detect_sky_outliers(ds).outliers.values > 0
            lost.append(lit[flagged].sum() / lit.sum())
            plain = np.broadcast_to(detect_outliers(ds).outliers.values > 0, good.shape)
            base.append(lit[plain].sum() / lit.sum())
            struck = good & (np.random.default_rng(6).uniform(size=good.shape) < 0.003)
            again = ds.assign(flux=(ds.flux + (20 * struck * sigma).astype("f4")).assign_attrs(ds.flux.attrs))
            flagged = detect_sky_outliers(again).outliers.values > 0
            hits.append([flagged[struck & part].mean() for part in (truth < 30 * sigma, truth >= 30 * sigma)])
    worst = max(lost)
    table.add("outliers: light of a sharp source flagged, worst", f"{worst:.3%}", "< 0.05 %", worst < 5e-4,
              baseline=f"{max(base):.3%}", before=BEFORE["lost"])  # fmt: skip
    off, on = np.mean(hits, axis=0)
    table.add("outliers: hits of 20 sigma found, off and on the source", f"{off:.0%}, {on:.0%}", "> 85 %, > 60 %",
              off > 0.85 and on > 0.6, before=BEFORE["hits"])  # fmt: skip


def master_errors(table, quick):
    """Scatter of the spectrum of the background in units of its errors."""
    from mrsxr.cal import combine_backgrounds
    from mrsxr.pipeline import Recipe
    from mrsxr.pipeline.cube_chain import background_spectra
    from mrsxr.pipeline.parts import own_options

    for setting, band in (("12A", "2A"),) if quick else (("12A", "1A"), ("12A", "2A"), ("34A", "4A")):
        rng, found = np.random.default_rng(3), {}
        ds = blank(setting, 2, rng, rows=300)
        ds = observed(ds, np.zeros(ds.flux.shape), rng)
        for mode in ("baseline", "optimal"):
            recipe = Recipe.of(mode)
            options = own_options(combine_backgrounds, recipe.values("master_background"))
            master = combine_backgrounds(background_spectra(ds, band, None, recipe), **options)
            known = np.isfinite(master.background.values) & (master.background_var.values > 0)
            found[mode] = np.std((master.background.values / np.sqrt(master.background_var.values))[known])
        table.add(f"master background {band}: pulls", f"{found['optimal']:.2f}", "1.0 +- 0.1",
                  abs(found["optimal"] - 1) <= 0.1, baseline=f"{found['baseline']:.2f}",
                  before=BEFORE[band])  # fmt: skip


def field_slopes(table, quick):
    """Slopes of a background over the field, by least absolute deviations."""
    from mrsxr.cal.field_background import measure_field_background

    worst = 0.0
    for setting in ("12A",) if quick else ("12A", "34C"):
        for tails in (False, True):
            rng = np.random.default_rng(3)
            ds = blank(setting, 2, rng, rows=300)
            truth = background(ds.wavelength.values) + 5.3 * ds.alpha.values - 11.0 * ds.beta.values
            ds = observed(ds, np.broadcast_to(np.nan_to_num(truth), ds.flux.shape), rng, read=3.0, gain=0.0)
            if tails:
                ds.flux.values[:] += 2 * rng.standard_t(2.2, ds.flux.shape)
            found = measure_field_background(ds, statistic="median")
            for b in range(2):
                known = found.n_pixels.values[b] > 0
                slopes = np.median(found.coefficients.values[b][known, 1:3], axis=0)
                worst = max(worst, float(np.abs(slopes / (5.3, -11.0) - 1).max()))
    table.add("field background, median: slopes 5.3 and -11, worst", f"{worst:.2%}", "< 0.5 %", worst < 5e-3,
              baseline="none", before=BEFORE["slopes"])  # fmt: skip


#: What optimal gave before the steps judged themselves.
BEFORE = {
    "12A": ("3.01", "8.3 (8.8) sigma", "0.164", "3.01"), "34A": ("4.10", "8.6 (16.3) sigma", "0.188", "4.10"),
    "ties": "1.50 (0.24)", "real": "6.78", "lost": "0.452%", "hits": "95%, 94%", "1A": "1.82", "2A": "1.87",
    "4A": "1.79", "slopes": "0.22%",
}  # fmt: skip


def run(table, shared, quick):
    """Add the figures of backgrounds and outliers of stage 3."""
    match_beside_a_source(table, quick)
    match_other_light(table, quick)
    match_ties(table, quick)
    if shared is not None:
        match_real_sky(table, shared, quick)
    outliers_of_a_sharp_source(table, quick)
    master_errors(table, quick)
    field_slopes(table, quick)
