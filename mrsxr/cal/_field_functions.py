"""Subtract functions of alpha, beta and wavelength from detector images, with their variances."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from mrsxr.blocks import map_ramps
from mrsxr.geometry.frame import frame_coordinate
from mrsxr.mrs import bands_of_setting


def subtract_tables(ds: xr.Dataset, tables: Any, facts: Any, n_term: int, *, independent: int = 0) -> xr.Dataset:
    """Subtract functions of slice coordinates that are given as tables, and add their variances.

    Parameters
    ----------
    ds : Dataset, level "cal"
    tables : array (dither, side, node, entry), lazy or not
        Coefficients of 1, alpha, beta ... and the upper triangle of their covariance at equal steps of the wavelength,
        for the two bands of the setting.
    facts : array (dither, side, 4), lazy or not
        Factor of the function, the variance of the factor, wavelength [um] of the first and the last node.
    n_term : int
    independent : {0, 1, 2}
        The errors at neighbouring nodes are the same (0), those of the first coefficient are independent (1), or all
        are (2), so that they average between the nodes.

    Returns
    -------
    Dataset like ``ds``, with ``var_background``
    """
    from ._background_match_kernels import subtract_functions

    side = np.full(ds.slice.shape, -1, dtype=np.int8)
    for number, band in enumerate(bands_of_setting(ds.attrs["setting"])):
        side[(ds.channel.values == int(band[0])) & np.isfinite(ds.alpha.values)] = number
    images = [frame_coordinate(ds, name) for name in ("alpha", "beta", "wavelength")]
    images.append(xr.DataArray(side, dims=("y", "x")))
    small = [
        xr.DataArray(a.astype(np.float64).reshape(len(a), -1, 1, 1), dims=("dither", entry, "y", "x"))
        for a, entry in ((tables, "entry"), (facts, "number"))
    ]
    flux = xr.DataArray(ds.variables["flux"])
    known = xr.DataArray(ds.variables["var_background"]) if "var_background" in ds else xr.zeros_like(flux)
    out, spread = map_ramps(
        subtract_functions, flux, known, *images, *small, core=[[]] * 6 + [["entry"], ["number"]],
        out_core=[[], []], dtypes=["float32", "float32"], n_side=2, n_term=n_term, independent=independent,
    )  # fmt: skip
    changed = {"flux": out.variable, "var_background": spread.variable}
    changed["flux"].attrs = dict(ds.flux.attrs)
    changed["var_background"].attrs = {"units": "MJy2/sr2"}
    return ds.assign(changed)
