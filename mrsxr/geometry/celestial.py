"""CelestialIndex: select pixels of any image or cube by sky position, ``image.sel(ra=..., dec=...)``.

Knows numpy, astropy and xarray alone. Rests on ``xarray.indexes.CoordinateTransformIndex`` (experimental). Longitude
and latitude on (y, x) are computed from the WCS when they are looked at.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np
import xarray as xr
from astropy import units as u
from xarray import Variable
from xarray.core.indexing import IndexSelResult
from xarray.indexes import CoordinateTransform, CoordinateTransformIndex

if TYPE_CHECKING:
    from astropy.wcs import WCS

T = TypeVar("T", xr.Dataset, xr.DataArray)
_NAMES = {"pos.eq.ra": ("ra", "dec"), "pos.galactic.lon": ("l", "b")}
_LONG = {"ra": "right ascension", "dec": "declination", "l": "galactic longitude", "b": "galactic latitude"}
_CLOSE = 1e-6  # pixels by which two grids may differ and are one
_BACK = 0.01  # pixels by which a position and its way there and back may differ; else it is not on the image


class CelestialTransform(CoordinateTransform):
    """Pixels of an image to longitude and latitude [deg] by a celestial WCS, and back.

    Parameters
    ----------
    wcs : astropy.wcs.WCS, or anything with astropy's common interface for WCS
        Celestial, two axes; pixel (0, 0) is the first one along ``x`` and ``y``.
    dim_size : mapping {dim: size}
        The two dimensions, rows first.
    coord_names : (str, str), optional
        Longitude and latitude; by default ra, dec, of galactic coordinates l, b.
    first, step : (float, float)
        The first of the present pixels in those of the WCS and the step to the next one; rows first. May be fractions,
        as of an image that was coarsened, and steps may be negative.
    """

    def __init__(
        self, wcs: Any, dim_size: Mapping[str, int], coord_names: Sequence[Hashable] | None = None, *,
        first: Sequence[float] = (0.0, 0.0), step: Sequence[float] = (1.0, 1.0),
    ):  # fmt: skip
        self.uncut = wcs
        self.first, self.step = tuple(map(float, first)), tuple(map(float, step))
        types = [str(kind) for kind in wcs.world_axis_physical_types]
        if len(types) != 2 or wcs.pixel_n_dim != 2:
            raise ValueError(f"the WCS has the axes {', '.join(types)}; expected two on the sky, such as wcs.celestial")
        self._order = (0, 1) if types[0].endswith(("ra", "lon")) else (1, 0)
        lon, lat = (types[k] for k in self._order)
        if not (lon.endswith(("ra", "lon")) and lat.endswith(("dec", "lat"))):
            raise ValueError(f"the WCS has the axes {', '.join(types)}; expected a longitude and a latitude")
        self._degrees = [u.Unit(unit or "deg").to("deg") for unit in wcs.world_axis_units]
        names = tuple(coord_names or _NAMES.get(lon, ("lon", "lat")))
        super().__init__(names, dict(dim_size), dtype=np.dtype("float64"))

    @property
    def wcs(self) -> Any:
        """The WCS of the present pixels."""
        if self.first == (0.0, 0.0) and self.step == (1.0, 1.0):
            return self.uncut
        return cut_wcs(self.uncut, self.first[::-1], self.step[::-1])

    def forward(self, dim_positions: dict[str, Any]) -> dict[Hashable, Any]:
        """Return longitude and latitude [deg] of pixel positions, counted from 0."""
        y, x = np.broadcast_arrays(*(np.asarray(dim_positions[dim], float) for dim in self.dims))
        lon, lat = self._to_sky(y.ravel(), x.ravel())
        return dict(zip(self.coord_names, (lon.reshape(x.shape), lat.reshape(x.shape)), strict=True))

    def reverse(self, coord_labels: dict[Hashable, Any]) -> dict[str, Any]:
        """Return pixel positions, counted from 0, of longitude and latitude [deg]; NaN of what no pixel can show."""
        lon, lat = np.broadcast_arrays(*(_degrees(coord_labels[name]) for name in self.coord_names))
        y, x = self._to_pixels(lon.ravel(), lat.ravel())
        return dict(zip(map(str, self.dims), (y.reshape(lon.shape), x.reshape(lon.shape)), strict=True))

    def _to_sky(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = self.uncut.pixel_to_world_values(self.first[1] + self.step[1] * x, self.first[0] + self.step[0] * y)
        lon, lat = (np.asarray(found[k], float) * self._degrees[k] for k in self._order)
        lon = lon % 360.0
        return np.where(lon == 360.0, 0.0, lon), lat

    def _to_pixels(self, lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        world = [0.0, 0.0]
        for k, value in zip(self._order, (lon, lat), strict=True):
            world[k] = value / self._degrees[k]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of positions that are not on a distorted image
            x, y = self.uncut.world_to_pixel_values(*world)
        y = (np.asarray(y, float) - self.first[0]) / self.step[0]
        x = (np.asarray(x, float) - self.first[1]) / self.step[1]
        # a projection may take what it cannot show, as the far half of the sky, to pixels of something else
        there, up = self._to_sky(y, x)
        near_lon, near_lat = self._to_sky(y + 1.0, x)
        with np.errstate(invalid="ignore"):
            hidden = ~(_apart(lon, lat, there, up) <= _BACK * _apart(there, up, near_lon, near_lat))
        return np.where(hidden, np.nan, y), np.where(hidden, np.nan, x)

    def equals(self, other: CoordinateTransform, **kwargs: Any) -> bool:
        """Return whether both transforms give the same sky on the same pixels (to 1e-6 of a pixel)."""
        if not isinstance(other, CelestialTransform) or self.dims != other.dims:
            return False
        if self.dim_size != other.dim_size or self.coord_names != other.coord_names:
            return False
        if self.uncut is other.uncut:
            return self.first == other.first and self.step == other.step
        y, x = (part.ravel() for part in np.meshgrid(*(np.linspace(0, self.dim_size[dim], 4) for dim in self.dims)))
        lon, lat = self._to_sky(y, x)
        here = _apart(lon, lat, *self._to_sky(y + 1.0, x))
        with np.errstate(invalid="ignore"):
            return bool(np.all(_apart(lon, lat, *other._to_sky(y, x)) <= _CLOSE * here))

    def cut(self, first: Sequence[float], step: Sequence[float], size: Sequence[int]) -> CelestialTransform:
        """Return the transform of every ``step``-th pixel from ``first`` on; rows first."""
        sizes = {str(dim): int(n) for dim, n in zip(self.dims, size, strict=True)}
        return CelestialTransform(
            self.uncut, sizes, self.coord_names,
            first=[a + b * c for a, b, c in zip(self.first, self.step, first, strict=True)],
            step=[a * b for a, b in zip(self.step, step, strict=True)],
        )  # fmt: skip


class CelestialIndex(CoordinateTransformIndex):
    """Index of longitude and latitude, as ``ra`` and ``dec``, on (y, x) by a celestial WCS.

    * ``ds.sel(ra=339.01, dec=33.97)``: the pixel that holds the position;
    * ``ds.sel(ra=DataArray, dec=DataArray)``: a pixel for each of many positions;
    * ``ds.sel(ra=slice(a, b), dec=slice(c, d))``: the smallest cut along y and x with every pixel whose
      centre lies in the box on the sky; the box spans the shorter way between the two right ascensions, in
      either order.

    Labels are degrees or Quantities. Positions outside the field raise KeyError. Cuts in even
    steps keep the index; cuts of one grid align as other labels do, by whole pixels.
    """

    transform: CelestialTransform

    @classmethod
    def from_variables(cls, variables: Mapping[Any, Variable], *, options: Mapping[str, Any]) -> CelestialIndex:
        """Return the index of coordinates that are there, ``ds.set_xindex(("ra", "dec"), CelestialIndex, wcs=wcs)``."""
        names, (first, *_) = tuple(variables), variables.values()
        if options.get("wcs") is None:
            raise ValueError(f"the index of {names[0]} and {names[-1]} needs wcs=, the WCS of these pixels")
        return cls(CelestialTransform(options["wcs"], dict(zip(map(str, first.dims), first.shape, strict=True)), names))

    @property
    def wcs(self) -> Any:
        """The celestial WCS of the present pixels."""
        return self.transform.wcs

    def isel(self, indexers: Mapping[Any, Any]) -> CelestialIndex | None:
        """Return the index of a cut along y and x; None where what is left is no image any more."""
        first, step, size = [], [], []
        for dim, n in self.transform.dim_size.items():
            kept = _as_range(indexers.get(dim, slice(None)), dim, n)
            if not kept:
                return None
            first.append(kept.start)
            step.append(kept.step)
            size.append(len(kept))
        arrays = any(not isinstance(one, slice) for one in indexers.values())
        if arrays and size == list(self.transform.dim_size.values()):
            return None  # of sortby: interp sorts first, and would keep the index for the pixels that it makes
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
            lon, lat = self.transform.coord_names
            raise KeyError(f"a sky position needs {lon} and {lat}; {' and '.join(missing)} is missing")
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
            raise TypeError(f"{names[0]} and {names[1]} must both be numbers or DataArrays with the same dimensions")
        else:
            dims = values[0].dims
        positions = self.transform.reverse(
            {name: getattr(value, "values", value) for name, value in zip(names, values, strict=True)}
        )
        pixels = self._inside(positions, values)
        if not dims:
            return IndexSelResult({dim: int(pixel) for dim, pixel in pixels.items()})
        if isinstance(values[0], xr.DataArray):
            return IndexSelResult({dim: xr.DataArray(pixel, dims=dims) for dim, pixel in pixels.items()})
        return IndexSelResult({dim: Variable(dims, pixel) for dim, pixel in pixels.items()})

    def _inside(self, positions: dict[str, np.ndarray], values: list[Any]) -> dict[str, np.ndarray]:
        """Round positions to pixels; KeyError where any lies outside the field."""
        good = np.ones(np.shape(next(iter(positions.values()))), bool)
        for dim, n in self.transform.dim_size.items():
            with np.errstate(invalid="ignore"):
                good &= (positions[dim] >= -0.5) & (positions[dim] < n - 0.5)
        if not good.all():
            names = self.transform.coord_names
            lon, lat = (_degrees(getattr(value, "values", value)) for value in values)
            bad = tuple(np.argwhere(~good)[0])
            which = f"{names[0]} {float(lon[bad]):.6f}, {names[1]} {float(lat[bad]):.6f} lies outside the field"
            more = f" (and {int((~good).sum()) - 1} more of {good.size})" if (~good).sum() > 1 else ""
            raise KeyError(f"{which}{more}; {self._describe()}")
        return {dim: np.floor(position + 0.5).astype(np.intp) for dim, position in positions.items()}

    def _select_box(self, labels: dict[Any, Any]) -> IndexSelResult:
        lon, lat = self.transform.coord_names
        boxes = [labels.get(name, slice(None)) for name in (lon, lat)]
        if not all(isinstance(box, slice) for box in boxes):
            raise TypeError(f"a box on the sky needs slices for {lon} and {lat}, or a slice for one of them alone")
        if any(box.step is not None for box in boxes):
            raise ValueError("a box on the sky has no step; take it with isel afterwards")
        grid = self.transform.generate_coords()
        lit = _in_longitude(grid[lon], boxes[0], str(lon)) & _in_latitude(grid[lat], boxes[1])
        if not lit.any():
            raise KeyError(f"no pixel has its centre in the box {lon} {boxes[0]}, {lat} {boxes[1]}; {self._describe()}")
        result = {}
        for axis, dim in enumerate(self.transform.dims):
            hit = np.nonzero(lit.any(axis=1 - axis))[0]
            result[dim] = slice(int(hit[0]), int(hit[-1]) + 1)
        return IndexSelResult(result)

    def join(self, other: Any, how: str = "inner") -> CelestialIndex:
        """Return the index of what two cuts of one grid have in common, or of both ("outer")."""
        pick = (max, min) if how == "inner" else (min, max)
        first, size = [], []
        for (start, step), n, n_other in zip(
            self._places_of(other), self.transform.dim_size.values(), other.transform.dim_size.values(), strict=True
        ):
            if step != 1:
                self._refuse(other)
            low, high = pick[0](0, start), pick[1](n, start + n_other)
            if low >= high:
                self._refuse(other)
            first.append(low)
            size.append(high - low)
        return type(self)(self.transform.cut(first, (1, 1), size))

    def equals(self, other: Any, *, exclude: frozenset[Hashable] | None = None) -> bool:
        """Return whether both are on the same pixels, but for those along the dimensions ``exclude``."""
        if not exclude:
            return super().equals(other)
        try:
            places = dict(zip(self.transform.dims, self._places_of(other), strict=True))
        except xr.AlignmentError:
            return False
        sizes = self.transform.dim_size, other.transform.dim_size
        return all(places[dim] == (0, 1) and sizes[0][dim] == sizes[1][dim] for dim in set(places) - exclude)

    @classmethod
    def concat(cls, indexes: Sequence[Any], dim: Hashable, positions: Any = None) -> CelestialIndex:
        """Return the index of pieces that follow on each other along a dimension."""
        start, axis = indexes[0], indexes[0].transform.dims.index(dim)
        size = list(start.transform.dim_size.values())
        for one in indexes[1:]:
            if start._places_of(one)[axis] != (size[axis], 1):
                start._refuse(one)
            size[axis] += one.transform.dim_size[dim]
        return cls(start.transform.cut((0, 0), (1, 1), size))

    def reindex_like(self, other: Any, method: Any = None, tolerance: Any = None) -> dict[Hashable, Any]:
        """Return where the pixels of another cut of the same grid are here; -1 of those that are not."""
        found: dict[Hashable, Any] = {}
        sizes = other.transform.dim_size
        for (start, step), (dim, n) in zip(self._places_of(other), self.transform.dim_size.items(), strict=True):
            place = start + step * np.arange(sizes[dim])
            found[dim] = np.where((place >= 0) & (place < n), place, -1)
        return found

    def _places_of(self, other: CelestialIndex) -> list[tuple[int, int]]:
        """Return the first pixel of another index and the step to its next, in pixels of this one, rows first."""
        mine, its = self.transform, other.transform
        if mine.dims != its.dims or mine.coord_names != its.coord_names:
            self._refuse(other)
        steps = np.meshgrid(*(np.linspace(0, its.dim_size[dim], 3) for dim in its.dims), indexing="ij")
        places = mine.reverse(its.forward(dict(zip(its.dims, steps, strict=True))))
        found = []
        for dim, at in zip(mine.dims, steps, strict=True):
            place = places[dim]
            start, step = np.round((place[0, 0], (place[-1, -1] - place[0, 0]) / (at[-1, -1] or 1)))
            if not (step and np.abs(start + step * at - place).max() <= _BACK):
                self._refuse(other)
            found.append((int(start), int(step)))
        return found

    def _refuse(self, other: CelestialIndex) -> NoReturn:
        raise xr.AlignmentError(
            "data on different sky grids cannot be combined pixel by pixel; bring them onto one grid "
            f"({self._describe()}; the other: {other._describe()})"
        )

    def _describe(self) -> str:
        rows, columns = self.transform.dims
        ny, nx = self.transform.dim_size[rows], self.transform.dim_size[columns]
        centre = self.transform.forward({rows: (ny - 1) / 2, columns: (nx - 1) / 2})
        place = ", ".join(f"{name} {float(value):.6f}" for name, value in centre.items())
        return f"the field of {ny} x {nx} pixels is centred on {place}"

    def __repr__(self) -> str:
        return f"CelestialIndex ({self._describe()})"


def with_celestial_index(
    ds: T, wcs: Any, dims: tuple[str, str] = ("y", "x"), names: tuple[str, str] | None = None
) -> T:
    """Attach longitude and latitude on the pixels of an image or cube, with their index.

    Parameters
    ----------
    ds : Dataset or DataArray
        With the dimensions ``dims``; others, as a wavelength, do not matter.
    wcs : astropy.wcs.WCS, or anything with astropy's common interface for WCS
        Of these very pixels, any projection, frame and distortion; of a cube its celestial part is taken.
    dims : (str, str)
        Rows and columns.
    names : (str, str), optional
        Of longitude and latitude; by default ra, dec, of galactic coordinates l, b, of others lon, lat.

    Returns
    -------
    Dataset or DataArray
        With lazy coordinates [deg] and a :class:`CelestialIndex`; data stay as they are (numpy or dask). Files keep the
        coordinates as plain numbers, and so does ``coarsen``: attach the index again, with the WCS of the new pixels.

    Raises
    ------
    ValueError
        Where the WCS is not of the sky, or known to be of another number of pixels.

    Examples
    --------
    >>> from astropy.wcs import WCS
    >>> wcs = WCS(naxis=2)
    >>> wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cdelt = ["RA---SIN", "DEC--SIN"], [83.8, -5.4], [-1e-4, 1e-4]
    >>> image = with_celestial_index(xr.Dataset({"sky": (("y", "x"), np.eye(8))}), wcs)
    >>> float(image.sel(ra=83.7996, dec=-5.3996).sky)
    1.0
    """
    from astropy.wcs import WCS

    if isinstance(wcs, WCS) and wcs.naxis > 2:
        wcs = wcs.celestial
    lost = [dim for dim in dims if dim not in ds.sizes]
    if lost:
        raise ValueError(f"the data have no dimension '{lost[0]}', but {', '.join(map(str, ds.sizes))}; give dims=")
    shape, known = tuple(ds.sizes[dim] for dim in dims), wcs.array_shape
    if known is not None and tuple(known) != shape:
        raise ValueError(
            f"the data have {shape[0]} x {shape[1]} pixels, the WCS is of {known[0]} x {known[1]}; give the WCS of "
            "what is left (wcs.slice, or cut_wcs)"
        )
    transform = CelestialTransform(wcs, dict(zip(dims, shape, strict=True)), names)
    index = CelestialIndex(transform)
    out = ds.drop_vars([name for name in transform.coord_names if name in ds.coords])
    out = out.assign_coords(xr.Coordinates.from_xindex(index))
    frame = str(getattr(getattr(wcs, "wcs", None), "radesys", "") or "")
    for name in transform.coord_names:
        text = _LONG.get(str(name), str(name)) + (f" ({frame})" if frame else "")
        out[name].attrs.update(units="deg", long_name=text)
    return out


def cut_wcs(wcs: WCS, first: Sequence[float], step: Sequence[float] = (1, 1)) -> WCS:
    """Return the WCS of every ``step``-th pixel from ``first`` (x, y; from 0) on; steps may be negative or fractions.

    Of a coarsened image ``first`` is (n - 1) / 2 and ``step`` n.
    """
    from astropy.wcs import WCS

    if not isinstance(wcs, WCS) or wcs.has_distortion:
        raise ValueError("no FITS header tells what is left of a distorted image; the index has no need of it")
    out = wcs.deepcopy()
    matrix = wcs.pixel_scale_matrix * np.asarray(step, float)[np.newaxis, :]
    if wcs.wcs.has_cd():
        del out.wcs.cd
    out.wcs.crpix = [(wcs.wcs.crpix[k] - 1.0 - first[k]) / step[k] + 1.0 for k in (0, 1)]
    out.wcs.cdelt = [1.0, 1.0]
    out.wcs.pc = matrix
    out.pixel_shape = None
    out.wcs.set()
    return out


def _as_range(indexer: Any, dim: str, n: int) -> range | None:
    """Return the pixels that an indexer takes, where they are one, two, ... steps apart."""
    if isinstance(indexer, slice):
        return range(n)[indexer]
    if isinstance(indexer, Variable) and indexer.dims != (dim,):
        return None
    places = np.asarray(indexer)
    if places.ndim != 1:
        return None
    places = np.flatnonzero(places) if places.dtype == bool else np.where(places < 0, places + n, places)
    step = int(places[1] - places[0]) if len(places) > 1 else 1
    if len(places) == 0 or step == 0 or (np.diff(places) != step).any():
        return None
    return range(int(places[0]), int(places[-1]) + (1 if step > 0 else -1), step)


def _degrees(value: Any) -> np.ndarray:
    if hasattr(value, "to_value"):
        value = value.to_value("deg")
    return np.asarray(value, float)


def _apart(lon_a: Any, lat_a: Any, lon_b: Any, lat_b: Any) -> np.ndarray:
    """Return the distance of two places [deg], by the haversine."""
    a, b, c, d = (np.radians(value) for value in (lon_a, lat_a, lon_b, lat_b))
    half = np.sin((d - b) / 2) ** 2 + np.cos(b) * np.cos(d) * np.sin((c - a) / 2) ** 2
    return np.degrees(2 * np.arcsin(np.sqrt(np.clip(half, 0, 1))))


def _in_longitude(lon: np.ndarray, box: slice, name: str) -> np.ndarray:
    if box.start is None or box.stop is None:
        if box.start is None and box.stop is None:
            return np.ones(lon.shape, bool)
        raise ValueError(f"a box needs both limits of {name}: a longitude has no lowest value")
    start, stop = float(_degrees(box.start)), float(_degrees(box.stop))
    width = (stop - start) % 360.0
    if width > 180.0:
        start, width = stop, 360.0 - width
    return (lon - start) % 360.0 <= width


def _in_latitude(lat: np.ndarray, box: slice) -> np.ndarray:
    limits = [None if limit is None else float(_degrees(limit)) for limit in (box.start, box.stop)]
    if None not in limits:
        limits = sorted(limits)  # type: ignore[type-var]
    lower = -np.inf if limits[0] is None else limits[0]
    upper = np.inf if limits[1] is None else limits[1]
    return (lat >= lower) & (lat <= upper)
