"""Many draws of the noise of cal pixels brought onto a cube at once, and cal data on the flight geometry."""

from __future__ import annotations

import dask
import numpy as np
import xarray as xr
from helpers import detector_attrs, dither_coords

from mrsxr import schema
from mrsxr.cube._layout import BandData, weighting_of
from mrsxr.cube._point import point_terms
from mrsxr.cube.cube_build import make_source
from mrsxr.geometry.detector import slicer_grid
from mrsxr.geometry.grid import CubeGrid
from mrsxr.geometry.operator import Sums
from mrsxr.geometry.pixels import block_operator


def draws_of(ds, cube, number, seed=3, point_source=None, mrsptcorr=None):
    """Return cubes (draw, wavelength, y, x) of Gaussian noise with the variances of the pixels of cal data."""
    band = str(cube.attrs["band"])
    one, grid = BandData.of(ds, band), CubeGrid.of(cube)
    terms = None if point_source is None else point_terms(one, mrsptcorr, point_source)
    source = make_source(one, grid, weighting_of("drizzle", band, None, grid.spaxel_size), terms=terms)
    ((pixels, frames, places, weighting, _),) = dask.compute(source.part())
    sums, rng = Sums.zeros(number, 1, grid.nz, grid.ny * grid.nx), np.random.default_rng(seed)
    for frame, place in zip(frames, places, strict=True):
        part, operator = block_operator(pixels, frame, place, grid.planes, (grid.ny, grid.nx), weighting)
        square = frame.square[:, part]
        noise = rng.standard_normal((number, square.shape[1])) * np.sqrt(np.nan_to_num(square[0]))
        operator.add(noise.astype("f4"), square, sums)
    with np.errstate(invalid="ignore"):
        return (sums.linear / sums.weight).reshape(number, grid.nz, grid.ny, grid.nx)


def flight_cal(model, label, setting, offsets):
    """Return cal data without light; variances of a background and a lopsided source in the middle, dither by dither.

    ``offsets``: (alpha, beta) of the source [arcsec], one a dither.
    """
    alpha, beta, wave = slicer_grid(model, label)
    lit = label > 0
    shape = (len(offsets), *label.shape)
    zero = np.where(lit, np.zeros(shape), np.nan).astype("f4")
    places = [((alpha - a) ** 2 + 1.5 * (beta - b) ** 2) / (0.05 * wave) ** 2 for a, b in offsets]
    light = [0.3 + 30.0 * (1 + square) ** -2 for square in places]
    data = {"flux": zero, "var_poisson": np.where(lit, light, np.nan).astype("f4"), "var_read": zero, "var_flat": zero}
    data = {k: (("dither", "y", "x"), v, {"units": schema.units_of("cal", k)}) for k, v in data.items()}
    data["dq"] = (("dither", "y", "x"), np.broadcast_to(np.where(lit, 0, 513), shape).astype("u4"))
    coords = {"y": np.arange(1024), "x": np.arange(1032), **dither_coords(len(offsets), setting)}
    for name, shift in zip(("ra_ref", "dec_ref", "roll_ref"), (*np.transpose(offsets), 0.0), strict=True):
        coords[name] = (coords[name][0], coords[name][1][0] + np.zeros(len(offsets)) + shift / 3600, coords[name][2])
    coords |= {"slice": (("y", "x"), label), "alpha": (("y", "x"), alpha)}
    ds = xr.Dataset(data, coords, detector_attrs("cal", setting, 10, 1))
    return ds.merge(model.drop_attrs()[[v.name for v in schema.WCS_VARIABLES]])
