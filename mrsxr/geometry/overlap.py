"""From the spaxels of one sky grid to those of another: exact areas of overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from .index import CelestialIndex
from .place import sky_of

if TYPE_CHECKING:
    from astropy.wcs import WCS


def same_sky(a: xr.Dataset, b: xr.Dataset) -> bool:
    """Return whether two Datasets have the same spaxels on the sky, to 1e-3 of a spaxel."""
    if any(a.sizes.get(d) != b.sizes.get(d) for d in ("y", "x")):
        return False
    if a is b:
        return True
    known = ["wcs" in ds.attrs or isinstance(ds.xindexes.get("ra"), CelestialIndex) for ds in (a, b)]
    if not all(known):  # the offsets are all there is
        return not any(known) and all(
            d not in a.coords or d not in b.coords or np.allclose(a[d], b[d], rtol=0, atol=1e-6) for d in ("y", "x")
        )
    rows, columns = a.sizes["y"] - 1, a.sizes["x"] - 1
    corners = np.array([[0, 0], [columns, 0], [0, rows], [columns, rows]], float)
    there = sky_of(b).wcs_world2pix(sky_of(a).wcs_pix2world(corners, 0), 0)
    return bool(np.isfinite(there).all() and np.abs(there - corners).max() < 1e-3)


def overlaps(
    source: WCS, source_shape: tuple[int, int], target: WCS, target_shape: tuple[int, int],
) -> tuple[Any, np.ndarray]:  # fmt: skip
    """Return the areas of overlap of the spaxels of two grids.

    Parameters
    ----------
    source, target : WCS
        Celestial.
    source_shape, target_shape : (int, int)
        Rows and columns.

    Returns
    -------
    scipy.sparse.csr_array (target spaxel, source spaxel)
        Areas in units of a source spaxel.
    area : float64 array (target spaxel)
        Whole area of the target spaxels in units of a source spaxel.

    Notes
    -----
    The sides of target spaxels are straight lines on the source grid: the tangent planes of two cubes of one source
    differ by less than 1e-7 of a spaxel from that.
    """
    from scipy import sparse

    from ._operator_kernels import GOOD, OUTSIDE, quad_entries

    rows, columns = target_shape
    corner_x, corner_y = np.meshgrid(np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5)
    ra, dec = target.wcs_pix2world(corner_x.ravel(), corner_y.ravel(), 0)
    x, y = source.wcs_world2pix(ra, dec, 0)
    x, y = (v.reshape(rows + 1, columns + 1) + 0.5 for v in (x, y))
    x, y = (np.stack([v[:-1, :-1], v[:-1, 1:], v[1:, 1:], v[1:, :-1]], axis=-1).reshape(-1, 4) for v in (x, y))
    area = 0.5 * np.abs((x[:, 2] - x[:, 0]) * (y[:, 3] - y[:, 1]) - (x[:, 3] - x[:, 1]) * (y[:, 2] - y[:, 0]))
    status = np.where(np.isfinite(area), GOOD, OUTSIDE).astype(np.uint8)
    start, spaxel, part = quad_entries(x, y, status, *source_shape)
    shape = (rows * columns, source_shape[0] * source_shape[1])
    return sparse.csr_array((part, spaxel, start), shape=shape), area
