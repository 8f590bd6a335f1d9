"""Errors of sums over voxels with all covariance: the transpose of the operator that made the cube."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import xarray as xr

from mrsxr.arguments import reads
from mrsxr.attributes import mixed
from mrsxr.blocks import delayed_blocks, is_lazy
from mrsxr.chunks import CUBE_PLANES
from mrsxr.errors import MrsxrError
from mrsxr.geometry.grid import CubeGrid
from mrsxr.geometry.operator import Sums
from mrsxr.geometry.pixels import block_operator
from mrsxr.limits import Count, OptionalRef, Place, checked

from ._blocks import Part
from ._layout import BandData, weighting_of
from ._point import point_terms
from .cube_build import ExposureWeights, has_systematic, make_source


@reads()
@checked
def sum_variance(
    ds: xr.Dataset,
    *,
    cube: xr.Dataset,
    weights: xr.DataArray,
    cubepar: OptionalRef = None,
    exposure_weights: ExposureWeights | None = None,
    point_source: Place | None = None,
    mrsptcorr: OptionalRef = None,
    planes_per_block: Count = CUBE_PLANES,
) -> xr.Dataset:
    """Return the variance of a weighted sum over each plane of a cube, with the covariance of its voxels.

    Parameters
    ----------
    ds : Dataset, level "cal"
        What the cube was built from.
    cube : Dataset, level "cube"
        Of one band; its grid and weighting are used, and the factor by which it was scaled since.
    weights : DataArray (wavelength, y, x)
        The sum is sum(weights * flux) over a plane; a flux per surface brightness for a spectrum in Jy.
    cubepar, mrsptcorr
        As they were given to :func:`mrsxr.cube.build_cube`.
    exposure_weights, point_source : optional
        By default as the cube was built (its attributes of these names).
    planes_per_block : int
        Planes of one dask block.

    Returns
    -------
    Dataset on (wavelength)
        ``var``, in units of (weights x flux)^2, and ``var_systematic`` where ``ds`` carries variances that are common
        to all dithers. Lazy where ``ds`` is.

    Raises
    ------
    MrsxrError
        Where the weights do not fit the cube, it was built from other exposures, smoothed, binned or regridded since,
        or built for a point source and ``mrsptcorr`` is missing.

    Notes
    -----
    With voxels V = W f / D (W operator, D = W 1, diagonal) a sum a . V has the variance
    sum over pixels of (sum over voxels of a W / D)^2 var. No matrix is kept: W is made again block by block (Law et al.
    2023, AJ 166, 45, give the factors by which errors without covariance fall short, 1.5 to 3).

    Examples
    --------
    >>> weights = mx.spectrum.extraction_weights(cube, spectrum)
    >>> variance = mx.cube.sum_variance(cal, cube=cube, weights=weights)
    >>> better = mx.spectrum.set_exact_errors(spectrum, variance=variance)
    """
    grid = CubeGrid.of(cube)
    if abs(grid.spaxel_size / float(cube.attrs.get("pixel_scale", grid.spaxel_size)) - 1.0) > 1e-6:
        raise MrsxrError(
            f"the spaxels of {grid.spaxel_size:.4g} arcsec are no more those that the cube was built with "
            f"({float(cube.attrs['pixel_scale']):.4g}); build it on such a grid"
        )
    weights = weights.transpose("wavelength", "y", "x")
    _check(ds, cube, weights, grid)
    band, kind = str(cube.attrs["band"]), str(cube.attrs.get("weighting") or "drizzle")
    one = BandData.of(ds, band)
    exposure_weights = exposure_weights or cube.attrs.get("exposure_weights", "none")
    point_source = point_source or cube.attrs.get("point_source")
    terms = None if point_source is None else point_terms(one, mrsptcorr, point_source)
    systematic = has_systematic(ds)
    spread = weighting_of(kind, band, cubepar, grid.spaxel_size)
    source = make_source(one, grid, spread, exposure_weights, systematic, terms)
    shared, part = dask.delayed(grid, traverse=False), source.part()
    wrapper = dask.delayed(variance_planes, pure=True)
    starts, pieces = range(0, grid.nz, planes_per_block), []
    table, blocks = weights.variable.data, None
    if isinstance(table, da.Array):  # its blocks, not parts of it: dask makes an array again for each that is given it
        blocks = delayed_blocks(table.rechunk((planes_per_block, -1, -1))).reshape(-1)
    for number, start in enumerate(starts):
        size = min(planes_per_block, grid.nz - start)
        block = dask.delayed(table[start : start + size], traverse=False) if blocks is None else blocks[number]
        found = wrapper(start, size, shared, systematic, block, part)
        pieces.append(da.from_delayed(found, (size, 1 + systematic), np.float64))
    columns = da.concatenate(pieces, axis=0) * float(cube.attrs.get("scale_factor", 1.0)) ** 2
    names = ["var", "var_systematic"][: 1 + systematic]
    out = xr.Dataset({name: ("wavelength", columns[:, i]) for i, name in enumerate(names)})
    out = out.assign_coords(wavelength=cube["wavelength"])
    return out if is_lazy(ds) else out.compute()


def _check(ds: xr.Dataset, cube: xr.Dataset, weights: xr.DataArray, grid: CubeGrid) -> None:
    """Refuse weights, exposures or a cube that do not belong together."""
    if weights.shape != grid.shape:
        raise MrsxrError(f"weights have the shape {weights.shape}; the cube has {grid.shape}")
    if "wavelength" in weights.coords and not np.allclose(weights["wavelength"], cube["wavelength"], rtol=1e-6):
        raise MrsxrError("the weights are for other wavelengths than those of the cube; cut both alike")
    if how := mixed(cube):
        raise MrsxrError(
            f"the cube is {how}: its voxels are no more those that the exposures make, and their "
            "covariance is not known; take the cube as it was built"
        )
    made = {str(name) for name in cube.attrs.get("exposures", ())}
    given = {str(name) for name in np.atleast_1d(ds["exposure"].values)} if "exposure" in ds.coords else made
    if made and made != given:
        raise MrsxrError(
            f"the cube was built from {len(made)} exposures ({', '.join(sorted(made)[:3])} ...), got {len(given)} "
            f"({', '.join(sorted(given)[:3])} ...); expected the same"
        )


def variance_planes(
    start: int, size: int, grid: CubeGrid, systematic: bool, weights: np.ndarray, *parts: Part
) -> np.ndarray:
    """Return variance and, where asked for, systematic variance of the sums over a block of planes.

    Parameters
    ----------
    start, size : int
        First plane and number of planes.
    grid : CubeGrid
    systematic : bool
    weights : array (size, y, x)
    *parts : (BandPixels, frames, placements, Weighting, finer), one per band

    Returns
    -------
    float64 array (size, 1 or 2)
    """
    planes, n_spaxels = grid.planes[:, start : start + size], grid.ny * grid.nx
    sums = Sums.zeros(0, 0, size, n_spaxels)
    operators = []
    for pixels, frames, places, weighting, _ in parts:
        for frame, place in zip(frames, places, strict=True):
            part, operator = block_operator(pixels, frame, place, planes, (grid.ny, grid.nx), weighting)
            operator.add(frame.linear[:0, part], frame.square[:0, part], sums)
            operators.append((part, operator, frame))
    good = sums.weight > 0
    share = np.asarray(weights, dtype=np.float64).reshape(size, n_spaxels)
    share = np.where(good & np.isfinite(share), share, 0.0) / np.where(good, sums.weight, 1.0)
    out = np.zeros((size, 1 + systematic))
    for part, operator, frame in operators:
        operator.variance(share, frame.square[:, part], frame.linear[1 : 1 + systematic, part], out)
    out[:, 1:] **= 2
    return out
