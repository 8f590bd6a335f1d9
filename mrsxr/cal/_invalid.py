"""Keep data, variances and flags of one mind: common factors, their errors, invalid pixels, fitting references."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from mrsxr import dq, mrs
from mrsxr.blocks import map_ramps
from mrsxr.errors import ReferenceFileError
from mrsxr.schema import VARIANCES


def apply_factor(
    ds: xr.Dataset,
    name: str,
    factor: xr.DataArray | None = None,
    *,
    relative: xr.DataArray | None = None,
    variance: str | None = None,
    flags: xr.DataArray | None = None,
    match: bool = False,
) -> xr.Dataset:
    """Multiply data by a factor and their variances by its square, in one pass; add flags and match invalid pixels.

    Parameters
    ----------
    ds : Dataset
        ``name``, ``dq`` and any of :data:`~mrsxr.schema.VARIANCES` (dither, y, x).
    name : str
        The data.
    factor : DataArray (y, x) or (dither, y, x), optional
        float32.
    relative : DataArray, optional
        Relative error of the factor, of the same dims.
    variance : str, optional
        Name of the variance (data relative)^2 that it makes; a former one of that name is replaced.
    flags : DataArray of uint32, optional
        Flags to add.
    match : bool
        Make everything NaN and DO_NOT_USE where anything is not finite or DO_NOT_USE, as jwst does.

    Returns
    -------
    Dataset, lazy where ``ds`` or a factor is lazy; the new variance has the units of var_poisson
    """
    from ._scale_kernels import scale_frames

    old = [v for v in VARIANCES if v in ds and v != variance]
    extra = [a for a in (factor, relative, flags) if a is not None]
    names = [name, "dq", *old, *([variance] if variance else [])]
    # without coordinates, which xarray would copy and compare for every plane
    first, bits, *others = (xr.DataArray(ds.variables[n]) for n in (name, "dq", *old))
    arrays = [first, bits, *(xr.DataArray(a.variable) for a in extra), *others]
    out = map_ramps(
        scale_frames, *arrays, core=[[]] * len(arrays), out_core=[[]] * len(names),
        dtypes=["uint32" if n == "dq" else "float32" for n in names],
        factor=factor is not None, relative=relative is not None, more=flags is not None, match=match,
    )  # fmt: skip
    attrs = {n: ds.variables[n].attrs for n in (name, *old)} | {"dq": dict(dq.PIXEL_DQ_ATTRS)}
    if variance:
        attrs[variance] = {"units": ds.variables["var_poisson"].attrs.get("units", "")}
    changed = {n: a.variable for n, a in zip(names, out, strict=True)}
    for n, plane in changed.items():
        plane.attrs = dict(attrs[n])
    if flags is None and not match:
        del changed["dq"]
    return ds.assign(changed)


def reference_images(ds: xr.Dataset, reference: xr.Dataset, kind: str, names: Sequence[str]) -> list[xr.DataArray]:
    """Return images of a reference, chunked like the data, after a check that it serves them.

    Parameters
    ----------
    ds : Dataset (dither, y, x)
    reference : Dataset
    kind : str
        The kind that the step needs, for the error.
    names : sequence of str
        Images (y, x) that it must have.

    Returns
    -------
    list of DataArray (y, x), without coordinates

    Raises
    ------
    ReferenceFileError
        Where the reference is of another detector, band or shape, or lacks an image; that it is one of the kind is
        seen to before the step (:mod:`mrsxr.arguments`).
    """
    setting = ds.attrs.get("setting", "unknown setting")
    label = f"{kind} reference {reference.attrs.get('ref_id', '')}".rstrip()
    for key, known in (("detector", mrs.DETECTORS), ("band", mrs.LETTERS)):
        theirs, ours = reference.attrs.get(key), ds.attrs.get(key)
        if theirs in known and ours in known and theirs != ours:
            raise ReferenceFileError(f"{label} is for {key} {theirs}, expected {ours} (setting {setting})")
    images = []
    for name in names:
        if name not in reference:
            raise ReferenceFileError(f"{label} has no '{name}'; expected a reference of kind {kind}")
        image = xr.DataArray(reference.variables[name])
        if set(image.dims) != {"y", "x"}:
            found = ", ".join(f"{dim}: {n}" for dim, n in image.sizes.items())
            raise ReferenceFileError(f"{label}: '{name}' has {found}; expected an image (y, x)")
        images.append(image)
    rows = next((v.chunksizes for v in ds.variables.values() if v.chunks and {"y", "x"} <= {*v.dims}), None)
    return [image.chunk(y=rows["y"], x=rows["x"]) if image.chunks and rows else image for image in images]
