"""What data must be before a function works on them: whole, in the units and the order of their level, or refused."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from . import dq as flags
from . import units
from .errors import SchemaError
from .notes import tell
from .schema import ATTRIBUTES, LEVELS, Variable, units_of

_IMAGES = ("ramp", "rate", "rateints", "cal", "cube")  # levels with pixels or voxels
_OF_LIGHT = ("cal", "cube", "spectrum")  # levels that come in other units as well

_LIGHT = ("flux", "surface_brightness")
_BACKWARDS = slice(None, None, -1)
Aligned = TypeVar("Aligned", xr.Dataset, xr.DataArray)


def ready(value: Any) -> Any:
    """Return data as :func:`in_order` does, their wavelengths rising, those of several as well; all else as it is."""
    if isinstance(value, xr.Dataset):
        return rising(in_order(value)) if value.attrs.get("level") in LEVELS else value
    if isinstance(value, dict):
        return {key: ready(one) for key, one in value.items()}
    return type(value)(map(ready, value)) if type(value) in (list, tuple) else value


def falls(data: xr.Dataset | xr.DataArray) -> bool:
    """Whether the wavelengths of planes or samples fall: in most of their steps, as one band may follow the other."""
    wave = data.coords.get("wavelength")
    if wave is None or wave.dims != ("wavelength",):
        return False
    steps = np.diff(wave.values)
    return int((steps < 0).sum()) > int((steps > 0).sum())


def rising(data: Aligned) -> Aligned:
    """Return data whose wavelengths fall turned round, all else as it is; :func:`as_given` takes results back."""
    return data.isel(wavelength=_BACKWARDS) if falls(data) else data


def like_data(array: xr.DataArray, data: Iterable[Any]) -> xr.DataArray:
    """Return weights, which come with data, as :func:`ready` turns these; without wavelengths they lie as the data."""
    if "wavelength" not in array.dims or "wavelength" in array.coords:
        return rising(array)
    turned = any(isinstance(ds, xr.Dataset) and ds.attrs.get("level") in LEVELS and falls(ds) for ds in data)
    return array.isel(wavelength=_BACKWARDS) if turned else array


def as_given(out: Any, given: Any) -> Any:
    """Return what was made of data that were made :func:`ready` in the order of the wavelengths that these came in."""
    if isinstance(given, list | tuple) and isinstance(out, list) and len(given) == len(out):
        return list(map(as_given, out, given))
    if not isinstance(given, xr.Dataset) or given.attrs.get("level") not in LEVELS or not falls(given):
        return out
    if isinstance(out, tuple):
        return tuple(as_given(one, given) for one in out)
    of_planes = isinstance(out, xr.Dataset | xr.DataArray) and "wavelength" in out.dims and not falls(out)
    return out.isel(wavelength=_BACKWARDS) if of_planes else out


def in_order(ds: xr.Dataset) -> xr.Dataset:
    """Return data in the byte order of the machine, in the order of the dimensions of their level, with whole flags.

    Flags that became floats (means over voxels, ``where``) are kept where they are whole numbers; of others the voxel,
    sample or pixel is usable where its flux is a number, and this is told. Whole numbers where the level has floats
    become floats. What lost its units (a variable that was assigned anew) is taken for those of the level, and told.
    """
    level = str(ds.attrs.get("level"))
    specs = [spec for spec in LEVELS.get(level, ()) if spec.name in ds.variables]
    changed = {name: v.astype(v.dtype.newbyteorder("=")) for name, v in ds.variables.items() if not v.dtype.isnative}
    for spec in (one for one in specs if {np.dtype(kind).kind for kind in one.dtypes} == {"f"}):
        if ds.variables[spec.name].dtype.kind in "iub":
            changed[spec.name] = ds.variables[spec.name].astype(spec.dtypes[0])
    if changed:  # arrays that astropy read; kernels refuse or misread them
        ds = ds.assign(changed)
    ds = _with_units(ds, level, specs)
    order = [dim for dim in dict.fromkeys(dim for spec in specs for dim in spec.dims) if dim in ds.dims]
    if any(v.dims != tuple(d for d in order if d in v.dims) for v in ds.variables.values() if {*v.dims} <= {*order}):
        ds = ds.transpose(*order, ...)
    main = specs[0].name if specs and {*specs[0].dims} <= {*ds.dims} else ""  # what lost a dimension is refused later
    if "dq" in ds and main in ds and ds["dq"].dtype.kind == "f":
        tell(f"dq is {ds['dq'].dtype}, no flags any more: what has mixed flags is usable where {main} is a number")
        blind = ds[main].isnull() * float(flags.DO_NOT_USE)
        whole = ds["dq"].where(ds["dq"] % 1 == 0, blind).astype(np.uint32)
        ds = ds.assign(dq=whole.transpose(*ds["dq"].dims).assign_attrs(ds["dq"].attrs))
    return ds


def _with_units(ds: xr.Dataset, level: str, specs: Iterable[Variable]) -> xr.Dataset:
    """Return light in which all that the level gives units to has them."""
    of_light = specs if level in _OF_LIGHT else ()
    lost = {spec.name: spec.units for spec in of_light if spec.units and not ds.variables[spec.name].attrs.get("units")}
    if not lost:
        return ds
    if told := [f"{name} has no units, taken for {lost[name]}" for name in _LIGHT if name in lost]:
        tell(f"{level}: {', '.join(told)}; set attrs['units'] to what they are")
    ds = ds.copy()
    for name, unit in lost.items():
        ds.variables[name].attrs = {**ds.variables[name].attrs, "units": unit}
    return ds


def tell_of_twice(value: Any) -> None:
    """Tell of an exposure that stands twice in calibrated data: in what combines exposures it counts twice."""
    several = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
    found: Counter[tuple[Any, ...]] = Counter()
    for ds in several:
        if isinstance(ds, xr.Dataset) and ds.attrs.get("level") == "cal" and "exposure" in ds.variables:
            names = ds.variables["exposure"].compute(scheduler="synchronous").values
            found.update((name, ds.attrs.get("setting")) for name in np.atleast_1d(names).tolist())
    if double := [name for (name, _), number in found.items() if number > 1]:
        tell(f"exposure {double[0]} is there twice: where exposures are combined it counts twice", aloud=False)


def other_units(ds: xr.Dataset) -> tuple[str, str, str] | None:
    """Return (variable, its units, those of the level) where light is in other units, as after convert_units."""
    level = str(ds.attrs.get("level"))
    names = _LIGHT if level in _OF_LIGHT else ()
    return next((found for name in names if (found := _other(ds, level, name))), None)


def _other(ds: xr.Dataset, level: str, name: str) -> tuple[str, str, str] | None:
    found = ds.variables[name].attrs.get("units") if name in ds.variables else None
    wanted = units_of(level, name) if found else ""
    return (name, found, wanted) if found and units.parse(found) != units.parse(wanted) else None


def require_units(ds: xr.Dataset, what: str) -> None:
    """Raise SchemaError where light is in other units than those of the level; see :func:`require_um`."""
    if other := other_units(ds):
        raise SchemaError(
            f"{what} needs {other[0]} in {other[2]}, got {other[1]}; use convert_units(ds, '{other[2]}') before"
        )


def require_um(ds: Any, what: str) -> None:
    """Raise SchemaError where the wavelengths of a cube or spectrum, or of one of several, are in other units than um.

    They are that in all functions, whatever the units of light.
    """
    for one in ds if isinstance(ds, list | tuple) else [ds]:
        level = str(one.attrs.get("level")) if isinstance(one, xr.Dataset) else ""
        if level in ("cube", "spectrum") and (other := _other(one, level, "wavelength")):
            raise SchemaError(
                f"{what} needs wavelength in {other[2]}, got {other[1]}; bring it to {other[2]} and set its "
                "attrs['units']"
            )


def with_axes(ds: xr.Dataset) -> xr.Dataset:
    """Return a cube of which one spaxel or one row was picked with the axes that it lost, where it tells them."""
    lost = [dim for dim in ("y", "x") if dim not in ds.dims and dim in ds.coords]
    if ds.attrs.get("level") != "cube" or not lost or "wavelength" not in ds.dims:
        return ds
    image = [
        spec.name for spec in LEVELS["cube"] if {"y", "x"} & {*spec.dims} and spec.name in {*ds.variables} - {"y", "x"}
    ]
    whole = {name: ds.variables[name].set_dims({**dict.fromkeys(lost, 1), **ds[name].sizes}) for name in image}
    places = {dim: ds.variables[dim].set_dims({dim: 1}) for dim in lost}
    out = ds.assign_coords(places | {name: v for name, v in whole.items() if name in ds.coords})
    return in_order(out.assign({name: v for name, v in whole.items() if name in ds.data_vars}))


def require_whole(ds: xr.Dataset, what: str) -> None:
    """Raise SchemaError where data lost a dimension or their wavelengths, or pixels of a detector were flipped."""
    level = str(ds.attrs.get("level"))
    wanted = LEVELS[level][0].dims if level in _IMAGES else ()
    lost = [dim for dim in wanted if dim not in ds.dims]
    if lost:
        raise SchemaError(
            f"{what} needs a {level} on {', '.join(wanted)}, got one on {', '.join(map(str, ds.dims)) or 'none'}; keep "
            f"single ones with lists, isel({lost[0]}=[k])"
        )
    needed = [LEVELS[level][0].name] if wanted else []
    needed += ["wavelength"] if level in ("cube", "spectrum") and "wavelength" in ds.dims else []
    for name in (one for one in needed if one not in ds.variables):
        raise SchemaError(f"{what}: the {level} has no '{name}' ({_of(level, name)}); {_KEEP}")
    for dim in ("y", "x") if wanted and level != "cube" else ():
        if dim in ds.coords and not (np.diff(ds[dim].values) > 0).all():
            raise SchemaError(f"{what}: the coordinate '{dim}' does not rise, the pixels are not in the order of the "
                              f"detector; sort the data, sortby('{dim}')")  # fmt: skip


_KEEP = "keep it where data are cut or computed with, or assign it"
_NAMES = {*ATTRIBUTES, *(name for specs in LEVELS.values() for one in specs for name in (one.name, *one.dims))}


@contextmanager
def missing_named(what: str, values: Iterable[Any]) -> Iterator[None]:
    """Raise SchemaError, in place of KeyError, where a variable or an attribute of the level is not in the data."""
    try:
        yield
    except (KeyError, AttributeError) as error:
        asked = str(error.name if isinstance(error, AttributeError) else (*error.args, "")[0])
        if found := re.match(r"No variable named '(\w+)'", asked):
            asked = found[1]
        every = [one for value in values for one in (value if isinstance(value, list | tuple) else [value])]
        for ds in (one for one in every if isinstance(one, xr.Dataset)):
            level = str(ds.attrs.get("level"))
            if asked not in ds.variables and any(spec.name == asked for spec in LEVELS.get(level, ())):
                raise SchemaError(f"{what}: the {level} has no '{asked}' ({_of(level, asked)}); {_KEEP}") from error
            if level in LEVELS and asked in ATTRIBUTES and asked not in ds.attrs and asked not in ds.variables:
                raise SchemaError(f"{what}: the {level} has no attribute '{asked}'; {_KEEP}") from error
            if "level" not in ds.attrs and asked in _NAMES and asked not in {*ds.variables, *ds.dims, *ds.attrs}:
                raise SchemaError(f"{what}: expected data of a level, got a Dataset that has no '{asked}'") from error
        raise


def _of(level: str, name: str) -> str:
    """Return what a variable of a level is, with its units."""
    spec = next(one for one in LEVELS[level] if one.name == name)
    return f"{spec.meaning} [{spec.units}]" if spec.units not in (None, "1") else spec.meaning
