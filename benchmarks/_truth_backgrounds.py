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


def blank(setting, n_dither, rng, rows=1024, first=1, pattern="EXTENDED"):
    """Return located cal data without light at dithers of a pattern with errors of pointing."""
    from mrsxr import dq, mrs, schema
    from mrsxr.cal.assign_wcs import assign_wcs
    from mrsxr.simulate.instrument import make_geometry
    from mrsxr.simulate.pointing import aim_at, dither_offsets

    geometry, n = make_geometry(setting), np.arange(n_dither)
    keys = mrs.setting_keywords(setting)
    aims = [
        aim_at(RA, DEC, 70.0, tuple(np.array(offset) + rng.uniform(-0.05, 0.05, 2)), 1.0, -12000.0)
        for offset in dither_offsets(pattern, n_dither)
    ]
    units = {v.name: v.units for v in schema.DITHER_COORDS}
    values = {name: [getattr(a.pointing, name) for a in aims] for name in
              ("ra_ref", "dec_ref", "roll_ref", "v2_ref", "v3_ref")}  # fmt: skip
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
