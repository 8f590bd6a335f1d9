"""The accessor ``ds.mrs`` of Datasets and DataTrees: what is done most, each a call of one function of the package.

It is there once both ``mrsxr`` and ``xarray`` are imported, in whichever order; ``import mrsxr`` imports no xarray.
"""

from __future__ import annotations

from typing import Any

import xarray as xr


class Mrs:
    """``ds.mrs``: data of any level, or a tree of them, with what this package does with them at hand.

    Every method is a call of the function that its first line names, and takes the parameters of that one.

    Examples
    --------
    >>> import mrsxr, numpy as np
    >>> ds = xr.Dataset({"flux": ("wavelength", [1.0, 2.0])}, {"wavelength": [12.80, 12.83]}, {"level": "spectrum"})
    >>> ds.mrs.velocity("[Ne II]").velocity.round(0).values
    array([-317.,  385.])
    """

    def __init__(self, data: Any):
        self._data = data

    def _each(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what a function makes of the Dataset, or of every Dataset of the tree."""
        made = self._by_path(lambda ds: function(ds, *args, **kwargs))
        if isinstance(self._data, xr.Dataset):
            return made
        from . import tree

        return tree.build(made, **tree.attrs_of(self._data))

    def _by_path(self, function: Any) -> Any:
        if isinstance(self._data, xr.Dataset):
            return function(self._data)
        from . import tree

        return {path: function(ds) for path, ds in tree.leaves(self._data)}

    def _one(self, line: Any, redshift: Any) -> xr.Dataset:
        from .lines import band_of_line

        return self._data if isinstance(self._data, xr.Dataset) else band_of_line(self._data, line, redshift=redshift)

    @property
    def history(self) -> Any:
        """What was done, the oldest first, see :func:`mrsxr.read_history`; of a tree by path."""
        from .step import read_history

        return self._by_path(read_history)

    @property
    def sky(self) -> Any:
        """Where the spaxels lie, see :class:`mrsxr.geometry.place.Place`: ``wcs``, ``footprint``, ``centre`` ..."""
        from .geometry.place import Place

        return self._by_path(Place.of)

    def sel(self, **labels: Any) -> Any:
        """Select as xarray does, by ``ra`` and ``dec`` also where their index was lost: :func:`mrsxr.attach_index`."""
        from .geometry.index import attach_index

        return self._each(lambda ds: (attach_index(ds) if {"ra", "dec"} & set(labels) else ds).sel(labels))

    def at(self, place: Any) -> Any:
        """Return the spaxel that holds a place on the sky, :meth:`sel` of SkyCoord, (ra, dec) or text."""
        from .arguments import as_sky

        return self.sel(**dict(zip(("ra", "dec"), as_sky(place, "place"), strict=True)))

    def to(self, unit: str, **options: Any) -> Any:
        """Return the data in another unit of light, see :func:`mrsxr.convert_units`."""
        from .convert import convert_units

        return self._each(convert_units, unit, **options)

    def spectrum(self, where: Any, radius: Any = None, **options: Any) -> Any:
        """Return the spectrum of a circle or region, of a tree in all bands, see :func:`mrsxr.spectrum.extract_at`."""
        from .spectrum import extract_at

        return extract_at(self._data, where, radius, **options)

    def line(self, line: Any, z: Any = None, **options: Any) -> xr.Dataset:
        """Fit a line, in the band of a tree that holds it, see :func:`mrsxr.lines.fit_line`."""
        from .lines import fit_line

        return fit_line(self._one(line, z), line, redshift=z, **options)

    def moments(self, line: Any, z: Any = None, **options: Any) -> xr.Dataset:
        """Return moments of a line and the ``continuum`` at it, see :func:`mrsxr.lines.moments`."""
        from .lines import moments

        return moments(self._one(line, z), line, redshift=z, **options)

    def velocity(self, line: Any, z: Any = None) -> xr.Dataset:
        """Return the data with the velocity of a line as a coordinate, see :func:`mrsxr.lines.with_velocity`."""
        from .lines import with_velocity

        return with_velocity(self._one(line, z), line, redshift=z)

    def position_velocity(self, line: Any, path: Any = None, z: Any = None, **options: Any) -> xr.Dataset:
        """Return a cut along a path on the sky, see :func:`mrsxr.lines.position_velocity`."""
        from .lines import position_velocity

        return position_velocity(self._one(line, z), line, path, redshift=z, **options)

    def plot(self, **options: Any) -> Any:
        """Draw what the data are best seen by, see :func:`mrsxr.report.draw_file`; of a tree its spectrum."""
        from .plot import spectrum
        from .report import draw_file

        return (
            draw_file(self._data, **options) if isinstance(self._data, xr.Dataset) else spectrum(self._data, **options)
        )

    def save(self, path: Any = None, format: Any = None, **options: Any) -> Any:
        """Save the data, see :func:`mrsxr.save`."""
        from .io import save

        return save(self._data, path, format, **options)


xr.register_dataset_accessor("mrs")(Mrs)
xr.register_datatree_accessor("mrs")(Mrs)
