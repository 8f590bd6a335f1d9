"""Noiseless cal data of simulated scenes, straight from the truth of the simulator."""

from __future__ import annotations

import functools
from dataclasses import fields, replace

import numpy as np
import xarray as xr
from helpers import detector_attrs, dither_coords

from mrsxr import schema
from mrsxr.geometry.detector import coordinate_model, slice_map, slicer_grid
from mrsxr.mrs import bands_of_setting
from mrsxr.simulate import Effects
from mrsxr.simulate.exposure import make_instrument, observe
from mrsxr.simulate.instrument import make_geometry
from mrsxr.simulate.pointing import aim_at


@functools.cache
def instrument_of(setting):
    return make_instrument(make_geometry(setting), Effects.none(), 1)


def near(instrument, band, low, high):
    """Return an instrument that sees light of a band from ``low`` to ``high`` [um] alone."""
    pixels = instrument.pixels[band]
    lit = (pixels.wavelength > low) & (pixels.wavelength < high)
    pixels = replace(pixels, **{f.name: getattr(pixels, f.name)[lit] for f in fields(pixels) if f.name != "band"})
    return replace(instrument, pixels={band: pixels})


def cal_of(scene, setting, offsets, effects=None, velosys=12000.0, within=None):
    """Return cal data of a scene seen with some dither offsets (X, Y) [arcsec]; every variance is 1e-4 of flux.

    ``within`` (band, from, to [um]): of the rows of this light alone, which takes a fifth of the time.
    """
    instrument, rows = instrument_of(setting), slice(0, 1024)
    if within:
        instrument = near(instrument, *within)
        y = instrument.pixels[within[0]].y
        rows = slice(y.min(), y.max() + 1)
    geometry = instrument.geometry
    aims = [aim_at(scene.ra, scene.dec, 247.0, offset, 1.0, velosys) for offset in offsets]
    flux = np.stack(
        [observe(scene, aim, instrument, effects or Effects.none()).surface_brightness[rows] for aim in aims]
    ).astype("f4")
    labels = slice_map(geometry.regions)[rows]
    flux[:, labels == 0] = np.nan
    model = coordinate_model(geometry.distortion, geometry.specwcs).drop_attrs()
    alpha, beta, wave = slicer_grid(model, labels, origin=(rows.start, 0))
    dims = ("dither", "y", "x")
    data = {"flux": flux} | {k: 1e-4 * np.abs(flux) for k in ("var_poisson", "var_read", "var_flat")}
    data = {k: (dims, v, {"units": schema.units_of("cal", k)}) for k, v in data.items()}
    data["dq"] = (dims, np.where(np.isfinite(flux), 0, 513).astype("u4"), {"units": "1"})
    coords = {"y": np.arange(1024)[rows], "x": np.arange(1032), **dither_coords(len(aims), setting)}
    for name in ("ra_ref", "dec_ref", "roll_ref", "v2_ref", "v3_ref"):
        values = [getattr(aim.pointing, name) for aim in aims]
        coords[name] = ("dither", np.array(values), dict(coords[name][2]))
    coords["velosys"] = ("dither", np.full(len(aims), velosys), {"units": "m/s"})
    coords["slice"] = (("y", "x"), labels, {"units": "1"})
    coords["channel"] = (("y", "x"), (labels // 100).astype("i1"), {"units": "1"})
    for name, value, unit in (("alpha", alpha, "arcsec"), ("beta", beta, "arcsec"), ("wavelength", wave, "um")):
        coords[name] = (("y", "x"), value, {"units": unit})
    ds = xr.Dataset(data, coords, detector_attrs("cal", setting, 10, 1))
    return ds.merge(model[[v.name for v in schema.WCS_VARIABLES]])


def offset_for(scene, setting, band, wanted):
    """Return a dither offset that puts the target ``wanted`` slices off the middle of a slice near the centre."""
    from mrsxr.simulate.pointing import sky_to_slicer

    model = instrument_of(setting).geometry.distortion
    k = bands_of_setting(setting).index(band)
    zero, width = float(model["beta_zero"][k]), float(model["slice_width"][k])
    y = 0.0
    for _ in range(8):
        aim = aim_at(scene.ra, scene.dec, 247.0, (0.1, y), 1.0, 0.0)
        _, beta = sky_to_slicer(scene.ra, scene.dec, aim, band, model)
        number = np.round((float(beta) - zero) / width - wanted)
        y += zero + (number + wanted) * width - float(beta)
    return (0.1, y)
