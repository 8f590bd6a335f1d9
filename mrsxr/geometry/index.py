"""CelestialIndex: select spaxels of a cube by sky position, ``cube.sel(ra=..., dec=...)``.

Rests on ``xarray.indexes.CoordinateTransformIndex`` (experimental); :func:`mrsxr.geometry.grid.nearest_pixel`
is the plain way. ``ra`` and ``dec`` on (y, x) are computed from the WCS when they are looked at.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from astropy.wcs import WCS
from xarray import Variable
from xarray.core.indexing import IndexSelResult
from xarray.indexes import CoordinateTransform, CoordinateTransformIndex

from mrsxr.errors import MrsxrError

from .place import sky_of
from .sky import wrap

_SKY_ATTRS = {
    "ra": {"units": "deg", "long_name": "right ascension (ICRS)", "standard_name": "right_ascension"},
    "dec": {"units": "deg", "long_name": "declination (ICRS)", "standard_name": "declination"},
}


class CelestialTransform(CoordinateTransform):
    """Pixels (y, x) of an image to ``ra``, ``dec`` [deg] by a FITS tangent-plane WCS, and back.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial, two axes; pixel (0, 0) is the first one along ``x`` and ``y``.
    dim_size : mapping {dim: size}
        The two dimensions, rows first.
    """

    def __init__(self, wcs: WCS, dim_size: Mapping[str, int], coord_names: tuple[Hashable, ...] = ("ra", "dec")):
        super().__init__(coord_names, dim_size, dtype=np.dtype("float64"))
        self.wcs = wcs

    def forward(self, dim_positions: dict[str, Any]) -> dict[Hashable, Any]:
        """Return ``ra`` and ``dec`` [deg] of pixel positions, counted from 0."""
        y, x = (np.asarray(dim_positions[dim], float) for dim in self.dims)
        y, x = np.broadcast_arrays(y, x)
        ra, dec = self.wcs.wcs_pix2world(x.ravel(), y.ravel(), 0)
        return dict(zip(self.coord_names, (wrap(ra).reshape(x.shape), dec.reshape(x.shape)), strict=True))

    def reverse(self, coord_labels: dict[Hashable, Any]) -> dict[str, Any]:
        """Return pixel positions, counted from 0, of ``ra`` and ``dec`` [deg]; NaN on the far half of the sky."""
        ra, dec = (_degrees(coord_labels[name]) for name in self.coord_names)
        ra, dec = np.broadcast_arrays(ra, dec)
        x, y = self.wcs.wcs_world2pix(ra.ravel(), dec.ravel(), 0)
        far = np.sin(np.radians(dec)) * self._pole[2] + np.cos(np.radians(dec)) * (
            np.cos(np.radians(ra)) * self._pole[0] + np.sin(np.radians(ra)) * self._pole[1]
        )
        hidden = ~(far.ravel() > 0)
        x, y = np.where(hidden, np.nan, x), np.where(hidden, np.nan, y)
        return dict(zip(self.dims, (y.reshape(ra.shape), x.reshape(ra.shape)), strict=True))

    @property
    def _pole(self) -> np.ndarray:
        a, d = np.radians(self.wcs.wcs.crval)
        return np.array([np.cos(a) * np.cos(d), np.sin(a) * np.cos(d), np.sin(d)])

    def equals(self, other: CoordinateTransform, **kwargs: Any) -> bool:
        """Return whether both transforms give the same sky on the same pixels (to 1e-6 of a pixel)."""
        if not isinstance(other, CelestialTransform) or self.dims != other.dims:
            return False
        if self.dim_size != other.dim_size or self.coord_names != other.coord_names:
            return False
        a, b = self.wcs.wcs, other.wcs.wcs
        scale = np.abs(self.wcs.pixel_scale_matrix).max()
        turn = (a.crval[0] - b.crval[0] + 180.0) % 360.0 - 180.0
        return bool(
            list(a.ctype) == list(b.ctype)
            and np.allclose(a.crpix, b.crpix, rtol=0, atol=1e-6)
            and max(abs(turn), abs(a.crval[1] - b.crval[1])) < 1e-6 * scale
            and np.allclose(self.wcs.pixel_scale_matrix, other.wcs.pixel_scale_matrix, rtol=0, atol=1e-9 * scale)
        )

    def cut(self, first: Mapping[str, int], step: Mapping[str, int], size: Mapping[str, int]) -> CelestialTransform:
        """Return the transform of every ``step``-th pixel from ``first`` on."""
        rows, columns = self.dims
        wcs = cut_wcs(self.wcs, (first[columns], first[rows]), (step[columns], step[rows]))
        return CelestialTransform(wcs, {dim: size[dim] for dim in self.dims}, self.coord_names)


class CelestialIndex(CoordinateTransformIndex):
    """Index of the coordinates ``ra``, ``dec`` on (y, x) by a celestial WCS.

    * ``ds.sel(ra=339.01, dec=33.97)``: the spaxel that holds the position;
    * ``ds.sel(ra=DataArray, dec=DataArray)``: a spaxel for each of many positions;
    * ``ds.sel(ra=slice(a, b), dec=slice(c, d))``: the smallest cut along y and x with every spaxel whose
      centre lies in the box on the sky; the box spans the shorter way between the two right ascensions, in
      either order.

    Positions outside the field raise KeyError. ``isel`` with slices keeps the index.
    """

    transform: CelestialTransform

    @property
    def wcs(self) -> WCS:
        """The celestial WCS of the present pixels."""
        return self.transform.wcs

    def isel(self, indexers: Mapping[Any, Any]) -> CelestialIndex | None:
        """Return the index of a cut along y and x; None where what is left is no image any more."""
        first, step, size = {}, {}, {}
        for dim, n in self.transform.dim_size.items():
            indexer = indexers.get(dim, slice(None))
            if not isinstance(indexer, slice):
                return None
            kept = range(n)[indexer]
            if len(kept) == 0:
                return None
            first[dim], step[dim], size[dim] = kept.start, kept.step, len(kept)
        return type(self)(self.transform.cut(first, step, size))

    def sel(self, labels: dict[Any, Any], method: str | None = None, tolerance: Any = None) -> IndexSelResult:
        """Return the pixels of sky labels; see the class."""
        if method not in (None, "nearest"):
            raise ValueError(f"method {method!r} is not known for sky positions; expected None or 'nearest'")
        if tolerance is not None:
            raise ValueError("tolerance is not supported for sky positions; outside the field KeyError is raised")
        if any(isinstance(label, slice) for label in labels.values()):
            return self._select_box(labels)
        missing = [str(name) for name in self.transform.coord_names if name not in labels]
        if missing:
            raise KeyError(f"a sky position needs ra and dec; {' and '.join(missing)} is missing")
        return self._select_points(labels)

    def _select_points(self, labels: dict[Any, Any]) -> IndexSelResult:
        names = self.transform.coord_names
        values = [labels[name] for name in names]
        as_arrays = [value if isinstance(value, xr.DataArray | Variable) else None for value in values]
        if all(value is None for value in as_arrays):
            if any(np.ndim(value) for value in values):
                raise TypeError("many sky positions are given as DataArrays with a dimension in common, not as lists")
            dims: tuple[Hashable, ...] = ()
        elif any(value is None for value in as_arrays) or values[0].dims != values[1].dims:
            raise TypeError("ra and dec must both be numbers or both be DataArrays with the same dimensions")
        else:
            dims = values[0].dims
        positions = self.transform.reverse(
            {name: getattr(value, "values", value) for name, value in zip(names, values, strict=True)}
        )
        pixels = self._inside(positions, values)
        if not dims:
            return IndexSelResult({dim: int(pixel) for dim, pixel in pixels.items()})
        wrapper = xr.DataArray if isinstance(values[0], xr.DataArray) else Variable
        if wrapper is Variable:
            return IndexSelResult({dim: Variable(dims, pixel) for dim, pixel in pixels.items()})
        return IndexSelResult({dim: xr.DataArray(pixel, dims=dims) for dim, pixel in pixels.items()})

    def _inside(self, positions: dict[str, np.ndarray], values: list[Any]) -> dict[str, np.ndarray]:
        """Round positions to pixels; KeyError where any lies outside the field."""
        good = np.ones(np.shape(next(iter(positions.values()))), bool)
        for dim, n in self.transform.dim_size.items():
            with np.errstate(invalid="ignore"):
                good &= (positions[dim] >= -0.5) & (positions[dim] < n - 0.5)
        if not good.all():
            ra, dec = (_degrees(getattr(value, "values", value)) for value in values)
            bad = tuple(np.argwhere(~good)[0])
            which = f"ra {float(ra[bad]):.6f}, dec {float(dec[bad]):.6f} lies outside the field"
            more = f" (and {int((~good).sum()) - 1} more of {good.size})" if (~good).sum() > 1 else ""
            raise KeyError(f"{which}{more}; {self._describe()}")
        return {dim: np.floor(position + 0.5).astype(np.intp) for dim, position in positions.items()}

    def _select_box(self, labels: dict[Any, Any]) -> IndexSelResult:
        names = self.transform.coord_names
        boxes = [labels.get(name, slice(None)) for name in names]
        if not all(isinstance(box, slice) for box in boxes):
            raise TypeError("a box on the sky needs slices for ra and dec, or a slice for one of them alone")
        if any(box.step is not None for box in boxes):
            raise ValueError("a box on the sky has no step; take it with isel afterwards")
        grid = self.transform.generate_coords()
        lit = _in_ra(grid[names[0]], boxes[0]) & _in_dec(grid[names[1]], boxes[1])
        if not lit.any():
            raise KeyError(f"no spaxel has its centre in the box ra {boxes[0]}, dec {boxes[1]}; {self._describe()}")
        result = {}
        for axis, dim in enumerate(self.transform.dims):
            hit = np.nonzero(lit.any(axis=1 - axis))[0]
            result[dim] = slice(int(hit[0]), int(hit[-1]) + 1)
        return IndexSelResult(result)

    def join(self, other: Any, how: str = "inner") -> CelestialIndex:
        """Refuse to align cubes on different grids: shifting spaxels silently would be wrong."""
        raise MrsxrError(
            "cubes on different sky grids cannot be combined spaxel by spaxel; build them on one grid "
            f"({self._describe()}; the other: {other._describe()})"
        )

    def _describe(self) -> str:
        rows, columns = self.transform.dims
        ny, nx = self.transform.dim_size[rows], self.transform.dim_size[columns]
        centre = self.transform.forward({rows: (ny - 1) / 2, columns: (nx - 1) / 2})
        ra, dec = (float(centre[name]) for name in self.transform.coord_names)
        return f"the field of {ny} x {nx} spaxels is centred on ra {ra:.6f}, dec {dec:.6f}"

    def __repr__(self) -> str:
        return f"CelestialIndex ({self._describe()})"


def attach_index(ds: xr.Dataset) -> xr.Dataset:
    """Attach ``ra`` and ``dec`` on (y, x) with their index, from ``attrs["wcs"]``.

    Parameters
    ----------
    ds : Dataset, level "cube"
        ``attrs["wcs"]``: FITS header text with a celestial WCS. Where ``ds`` was cut, strided, flipped or
        coarsened after that header was made, the offsets ``x``, ``y`` [arcsec] tell which spaxels are left.

    Returns
    -------
    Dataset
        With lazy coordinates ``ra``, ``dec`` [deg] and a :class:`CelestialIndex`; data stay as they are
        (numpy or dask). netCDF and zarr keep ``ra``, ``dec`` as plain numbers and forget the index: attach it
        again.
    """
    if "wcs" not in ds.attrs:
        raise MrsxrError("the Dataset has no attribute 'wcs': ra and dec are not known")
    wcs = sky_of(ds)
    plain = ds.drop_vars([name for name in ("ra", "dec") if name in ds.variables])
    index = CelestialIndex(CelestialTransform(wcs, {"y": ds.sizes["y"], "x": ds.sizes["x"]}))
    out = plain.assign_coords(xr.Coordinates.from_xindex(index))
    for name, attrs in _SKY_ATTRS.items():
        out[name].attrs.update(attrs)
    return out


def cut_wcs(wcs: WCS, first: tuple[int, int], step: tuple[int, int] = (1, 1)) -> WCS:
    """Return the WCS of every ``step``-th pixel from ``first`` (x, y; from 0) on; steps may be negative."""
    crpix = [(wcs.wcs.crpix[k] - 1.0 - first[k]) / step[k] + 1.0 for k in (0, 1)]
    return _plain_wcs(wcs, crpix, wcs.pixel_scale_matrix * np.asarray(step, float)[np.newaxis, :])


# --- helpers ---------------------------------------------------------------------------------------------


def _plain_wcs(wcs: WCS, crpix: Any, matrix: np.ndarray) -> WCS:
    """Return a WCS of the same tangent point and axes with another pixel matrix [deg / pixel]."""
    out = WCS(naxis=2)
    out.wcs.ctype = list(wcs.wcs.ctype)
    out.wcs.cunit = ["deg", "deg"]
    out.wcs.crval = [float(value) for value in wcs.wcs.crval]
    out.wcs.crpix = [float(value) for value in crpix]
    out.wcs.cdelt = [1.0, 1.0]
    out.wcs.pc = np.asarray(matrix, float)
    out.wcs.radesys = wcs.wcs.radesys or "ICRS"
    out.wcs.set()
    return out


def _degrees(value: Any) -> np.ndarray:
    if hasattr(value, "to_value"):
        value = value.to_value("deg")
    return np.asarray(value, float)


def _in_ra(ra: np.ndarray, box: slice) -> np.ndarray:
    if box.start is None or box.stop is None:
        if box.start is None and box.stop is None:
            return np.ones(ra.shape, bool)
        raise ValueError("a box needs both limits of ra: right ascension has no lowest value")
    start, stop = float(_degrees(box.start)), float(_degrees(box.stop))
    width = (stop - start) % 360.0
    if width > 180.0:
        start, width = stop, 360.0 - width
    return (ra - start) % 360.0 <= width


def _in_dec(dec: np.ndarray, box: slice) -> np.ndarray:
    limits = [None if limit is None else float(_degrees(limit)) for limit in (box.start, box.stop)]
    if None not in limits:
        limits = sorted(limits)  # type: ignore[type-var]
    lower = -np.inf if limits[0] is None else limits[0]
    upper = np.inf if limits[1] is None else limits[1]
    return (dec >= lower) & (dec <= upper)
