"""What background matching takes off the exposures of a setting, as tables; of lazy exposures lazily."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from mrsxr.blocks import delayed_blocks
from mrsxr.errors import MrsxrError
from mrsxr.geometry.frame import GRIDS, frame_coordinate
from mrsxr.mrs import bands_of_setting

from ._background_match_samples import Member, read_members
from ._background_match_solve import spline_basis
from ._sampling import check_wcs

#: Nodes of the tables from which the functions are read pixel by pixel.
TABLE_NODES = 257
#: Variables on (dither, band): the functions, what the kernel needs beside them, their levels, and their scores.
_PARTS = ("table", "facts", "background_level", "score", "score_tie")
_IMAGES = ("flux", "var_poisson", "var_read", "dq")


def tables_of(match: xr.Dataset, exposures: Sequence[str], setting: str) -> xr.Dataset:
    """Return the functions of the exposures of a setting as tables.

    Parameters
    ----------
    match : Dataset, kind "background_match"
    exposures : sequence of str
    setting : str

    Returns
    -------
    Dataset on (dither, band, ...)
        ``table`` (node, entry): coefficients of the terms and the upper triangle of their covariance along wavelength;
        ``facts``: 1, 0, wavelengths [um] of the first and last node; ``background_level`` [MJy/sr]; ``score``,
        ``score_tie``.

    Raises
    ------
    MrsxrError
        Where an exposure is not in ``match``.
    """
    rows = {(str(e), str(b)): k for k, (e, b) in enumerate(zip(match.exposure.values, match.band.values, strict=True))}
    bands = bands_of_setting(setting)
    missing = [(name, band) for name in exposures for band in bands if (name, band) not in rows]
    if missing:
        raise MrsxrError(
            f"exposure {missing[0][0]}, band {missing[0][1]}, is not among those of the background match; fit all "
            "exposures together"
        )
    found = [[_of_member(match.isel(member=rows[name, band])) for band in bands] for name in exposures]
    columns = {name: np.array([[one[k] for one in row] for row in found]) for k, name in enumerate(_PARTS)}
    return _dataset(columns, match.sizes["term"], match.attrs)


def _of_member(one: xr.Dataset) -> tuple[Any, ...]:
    knots = one.knots.values
    half = 0.5 if knots.size == 1 else 0.0
    low, high = float(knots[0]) - half, float(knots[-1]) + half
    own = float(one.get("score", np.nan))
    if one.left_alone:  # a gain that is not significant is none
        own = max(own, 1.0)
    tied = float(one.get("score_tie", np.nan))
    return _node_table(one, low, high), (1.0, 0.0, low, high), float(one.level), own, tied


def _dataset(columns: dict[str, Any], n_term: int, attrs: dict[Any, Any]) -> xr.Dataset:
    dims = {"table": ("node", "entry"), "facts": ("number",)}
    variables = {name: (("dither", "band", *dims.get(name, ())), values) for name, values in columns.items()}
    kept = {name: attrs[name] for name in ("kind", "ref_id", "judged") if name in attrs}
    return xr.Dataset(variables, attrs={"n_term": n_term, **kept})


def later(
    fit: Callable[..., xr.Dataset], exposures: Sequence[xr.Dataset], n_term: int, attrs: dict[str, Any], **options: Any
) -> list[xr.Dataset]:
    """Return the tables of lazy exposures, lazily, for each Dataset of them.

    Parameters
    ----------
    fit : callable
        Of the members of all exposures and the options.
    exposures : sequence of Dataset, level "cal"
    n_term : int
        Terms of the functions.
    attrs : dict
        That the result of ``fit`` will have.
    **options
        For ``fit``.
    """
    members = [one for ds in exposures for one in _members_later(ds)]
    match = dask.delayed(fit)(members, **options)
    n_entry = n_term + n_term * (n_term + 1) // 2
    shapes = {"table": (TABLE_NODES, n_entry), "facts": (4,)}
    out = []
    for ds in exposures:
        names, setting = [str(name) for name in ds["exposure"].values], str(ds.attrs["setting"])
        tables = dask.delayed(tables_of)(match, names, setting)
        columns = {
            name: da.from_delayed(dask.delayed(_values)(tables, name), (len(names), 2, *shapes.get(name, ())), float)
            for name in _PARTS
        }
        out.append(_dataset(columns, n_term, attrs))
    return out


def _values(tables: xr.Dataset, name: str) -> np.ndarray:
    return tables[name].values


def _members_later(ds: xr.Dataset) -> list[Any]:
    """Return the members of each exposure, delayed: an exposure is in memory as long as its own are taken."""
    check_wcs(ds)
    grids = {name: _block(frame_coordinate(ds, name).variable) for name in GRIDS if name in ds.coords}
    frames = [name for name, found in ds.variables.items() if {"y", "x"} <= set(found.dims)]
    rest = dask.delayed(ds.drop_vars([*frames, "fits_header"], errors="ignore"), traverse=False)
    each = dask.delayed(_members_of)
    return [
        each(rest, grids, {name: _block(ds[name].variable.isel(dither=[d])) for name in _IMAGES}, d)
        for d in range(ds.sizes["dither"])
    ]


def _block(variable: xr.Variable) -> Any:
    return delayed_blocks(variable.chunk(-1).data).item() if variable.chunks else variable.values


def _members_of(
    rest: xr.Dataset, grids: dict[str, np.ndarray], images: dict[str, np.ndarray], dither: int
) -> list[Member]:
    coords = {name: (("y", "x"), values) for name, values in grids.items()}
    one = rest.isel(dither=[dither]).assign_coords(coords)
    return read_members(one.assign({name: (("dither", "y", "x"), values) for name, values in images.items()}))


def _node_table(one: xr.Dataset, low: float, high: float) -> np.ndarray:
    """Return (node, entry): coefficients of the terms and the upper triangle of their covariance along wavelength."""
    knots, n_term = one.knots.values, one.sizes["term"]
    basis = spline_basis(knots, np.linspace(low, high, TABLE_NODES))
    values = basis @ one.coefficients.values.T
    covariance = one.covariance.values.reshape(n_term, knots.size, n_term, knots.size)
    spread = np.einsum("wk,pkql,wl->wpq", basis, covariance, basis, optimize=True)
    return np.concatenate([values, spread[:, *np.triu_indices(n_term)]], axis=1)
