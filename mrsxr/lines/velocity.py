"""Wavelengths as velocities of a line: the coordinate, the range around a line, and the data that hold it."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr import tree
from mrsxr.arguments import as_kms_extent, reads
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.inputs import require_um
from mrsxr.limits import LineName, Redshift, checked

from ._side_bands import C_KM_S, interval
from ._window import redshift_of
from .linelist import find_line


@reads()
@checked
def with_velocity(ds: xr.Dataset, line: LineName, *, redshift: Redshift | None = None) -> xr.Dataset:
    """Return data with the velocity of a line as a coordinate beside the wavelength, to select and to draw by.

    Parameters
    ----------
    ds : Dataset, level "cube" or "spectrum"
        Anything with ``wavelength`` [um].
    line : str or float
        Label or name of :func:`mrsxr.lines.line_list`, "[Ne II]", or a rest wavelength [um].
    redshift : float, optional
        Redshift of velocity 0; by default ``attrs["redshift"]``, or 0.

    Returns
    -------
    Dataset
        With ``velocity`` [km/s] along ``wavelength``, and an index of it: ``sel(velocity=slice(-500, 500))``.

    Raises
    ------
    MrsxrError
        Where the line is unknown or outside the data, or these have no wavelengths.

    Notes
    -----
    v = c (wavelength / (rest (1 + z)) - 1), as of all velocities of this package.

    Examples
    --------
    >>> ds = xr.Dataset({"flux": ("wavelength", [1.0, 2.0, 3.0])}, {"wavelength": [12.80, 12.81355, 12.83]})
    >>> with_velocity(ds, "[Ne II]").sel(velocity=slice(-100, 400)).flux.values.tolist()
    [2.0, 3.0]
    """
    label, rest = find_line(line)
    if "wavelength" not in ds.coords:
        raise LevelError(f"data of level {ds.attrs.get('level')} have no wavelengths, which a velocity needs")
    centre = rest * (1.0 + redshift_of(ds, redshift))
    velocity = C_KM_S * (ds["wavelength"].variable.to_base_variable().astype(float) / centre - 1.0)
    low, high = ((float(end) / C_KM_S + 1.0) * centre for end in (velocity.min(), velocity.max()))
    if not low <= centre <= high:
        raise MrsxrError(f"{label} lies at {centre:.4f} um; the data have {low:.3f} to {high:.3f} um")
    velocity.attrs = {"units": "km/s", "long_name": f"velocity of {label}"}
    out = ds.drop_vars("velocity", errors="ignore").assign_coords(velocity=velocity)
    return out.set_xindex("velocity") if velocity.dims == ("wavelength",) else out


@reads(extent=as_kms_extent)
@checked
def line_range(
    line: LineName, *, redshift: Redshift | None = None, extent: float | tuple[float, float] = 2000.0
) -> tuple[float, float]:
    """Return the observed wavelengths [um] around a line.

    Parameters
    ----------
    line : str or float
        As of :func:`with_velocity`.
    redshift : float, optional
        By default 0.
    extent : float or (float, float)
        Velocities [km/s], half width or (low, high).

    Returns
    -------
    (float, float)

    Examples
    --------
    >>> [round(wave, 3) for wave in line_range("[Ne II]", redshift=0.01, extent=1000)]
    [12.899, 12.985]
    """
    centre = find_line(line)[1] * (1.0 + redshift_of(xr.Dataset(), redshift))
    low, high = (centre * (1.0 + speed / C_KM_S) for speed in interval(extent))
    return low, high


@reads()
@checked
def band_of_line(data: xr.Dataset | xr.DataTree, line: LineName, *, redshift: Redshift | None = None) -> xr.Dataset:
    """Return the cube or spectrum of a tree that holds a line best: with the most room on both sides of it.

    Parameters
    ----------
    data : DataTree of cubes or spectra, or one of them
        Background and stitched spectra are left out.
    line : str or float
        As of :func:`with_velocity`.
    redshift : float, optional
        By default ``attrs["redshift"]`` of each, or 0.

    Returns
    -------
    Dataset

    Raises
    ------
    MrsxrError
        Where no band holds the line.

    Examples
    --------
    >>> band_of_line(xr.DataTree.from_dict({"/science/1A": cube}), "[Fe II] 5.34").attrs["band"]
    '1A'
    """
    label, rest = find_line(line)
    best, found = 0.0, None
    for path, ds in [("", data)] if isinstance(data, xr.Dataset) else tree.leaves(data):
        if "wavelength" not in ds.coords or {"background", "stitched"} & set(path.split("/")):
            continue
        require_um(ds, "band_of_line")
        waves = np.asarray(ds["wavelength"].values, float)
        centre = rest * (1.0 + redshift_of(ds, redshift))
        room = min(centre / waves.min(), waves.max() / centre) - 1.0
        if room > best:
            best, found = room, ds
    if found is None:
        raise MrsxrError(f"no band of the data holds {label} at the redshift given; expected one that does")
    return found
