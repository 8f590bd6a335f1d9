"""The index of ``ra`` and ``dec`` of our cubes and maps, ``cube.sel(ra=..., dec=...)``."""

from __future__ import annotations

from typing import Annotated, Any

import xarray as xr

from mrsxr.errors import MrsxrError
from mrsxr.limits import Accepts, checked_but

from .celestial import CelestialIndex, CelestialTransform, T, cut_wcs, with_celestial_index
from .place import sky_of

__all__ = ["CelestialIndex", "CelestialTransform", "attach_index", "cut_wcs"]
Wcs = Annotated[Any, Accepts(lambda one: hasattr(one, "celestial"), "a WCS of astropy")]
_HINT = "where a file or coarsen lost the index of ds.sel(ra=, dec=): ds.mrs.sel(ra=, dec=), or mrsxr.attach_index(ds)"


@checked_but("ds")
def attach_index(ds: T, wcs: Wcs | None = None, dims: tuple[str, str] = ("y", "x")) -> T:
    """Attach ``ra`` and ``dec`` on (y, x) with their index, so that ``ds.sel(ra=..., dec=...)`` picks spaxels.

    Cubes that this package makes or opens have it; cuts in even steps keep it, and cuts of one grid align, join and
    follow on each other by it. It is lost where xarray makes plain numbers of the coordinates ("Could not automatically
    create PandasIndex for coord 'ra'"): in netCDF and zarr files that xarray opens alone, by ``coarsen``, ``sortby``
    and ``interp``. ``ds.mrs.sel(ra=..., dec=...)`` attaches and selects. ``reindex(y=..., x=...)`` must not be used
    without attaching it again: xarray leaves the old one on the new spaxels (or complains of conflicting sizes);
    ``reindex_like`` and ``align`` are right.

    Parameters
    ----------
    ds : Dataset or DataArray
        A cube or maps with ``attrs["wcs"]``: FITS header text with a celestial WCS. Where ``ds`` was cut, strided,
        flipped or coarsened after that header was made, the offsets ``x``, ``y`` [arcsec] tell which spaxels are left.
        With ``wcs`` any image or cube.
    wcs : astropy.wcs.WCS, optional
        The WCS of the pixels of ``ds``, of any projection; in place of what ``ds`` says.
    dims : (str, str)
        Rows and columns.

    Returns
    -------
    Dataset or DataArray
        With lazy coordinates ``ra``, ``dec`` [deg] and a :class:`mrsxr.geometry.celestial.CelestialIndex`; data stay as
        they are (numpy or dask).

    Raises
    ------
    MrsxrError
        Where the WCS is not known, or not of these pixels.

    Examples
    --------
    >>> wide = mx.attach_index(cube.coarsen(y=2, x=2, boundary="trim").mean())
    >>> spaxel = wide.sel(ra=float(cube.ra[4, 5]), dec=float(cube.dec[4, 5]))
    >>> bool(spaxel.y == wide.y[2]), bool(spaxel.x == wide.x[2])
    (True, True)
    """
    if not isinstance(ds, xr.Dataset | xr.DataArray):
        raise MrsxrError(f"attach_index needs a Dataset or DataArray, got a {type(ds).__name__}")
    if wcs is None:
        if "wcs" not in ds.attrs and isinstance(ds.xindexes.get("ra"), CelestialIndex):
            return ds
        if "wcs" not in ds.attrs:
            raise MrsxrError("the data have no attribute 'wcs': ra and dec are not known; give wcs=")
        wcs = sky_of(ds)
    try:
        out = with_celestial_index(ds, wcs, dims)
    except ValueError as error:
        raise MrsxrError(str(error)) from error
    for name in out.xindexes.get_all_coords(next(k for k, v in out.xindexes.items() if isinstance(v, CelestialIndex))):
        out[name].attrs["comment"] = _HINT
    return out
