"""Step assign_wcs: give every detector pixel its slice, alpha, beta and wavelength."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mrsxr.errors import ReferenceFileError
from mrsxr.geometry import detector
from mrsxr.geometry.frame import FrameModel, grids
from mrsxr.limits import OptionalRef, Ref
from mrsxr.schema import SLICE_COORDS, WCS_VARIABLES
from mrsxr.step import step
from mrsxr.threads import how

_WAVELENGTH = ("wavelength_coefficients", "wavelength_x_shift")
#: Variables that each kind of reference must hold.
_NEEDED = {
    "distortion": tuple(spec.name for spec in WCS_VARIABLES if spec.name not in _WAVELENGTH),
    "specwcs": _WAVELENGTH,
    "regions": ("regions",),
}


@step(
    needs=("rate", "cal"),
    jwst="assign_wcs",
    keyword="S_WCS",
    needed=True,
    without={"regions": "the slice mask is derived from the distortion"},
)
def assign_wcs(ds: xr.Dataset, *, distortion: Ref, specwcs: Ref, regions: OptionalRef = None) -> xr.Dataset:
    """Attach the slice coordinates and the model behind them.

    Parameters
    ----------
    ds : Dataset, level "rate" or "cal"
    distortion : Dataset, kind "distortion"
        Polynomials of alpha, beta and V2, V3.
    specwcs : Dataset, kind "specwcs"
        Polynomials of the wavelength.
    regions : Dataset, kind "regions", optional
        Slice masks; plane 7 (80 % throughput) is used. Without it the mask is derived from the distortion.

    Returns
    -------
    Dataset of the same level
        Eager coordinates on (y, x): ``slice`` (channel * 100 + n, 0 between slices), ``channel``, ``alpha``,
        ``beta`` [arcsec], ``wavelength`` [um, before the barycentric correction]; and the coefficients that cube
        building evaluates at pixel edges. RA, Dec and the footprint (S_REGION) follow on demand from them and the
        pointing (``geometry.sky.with_sky``, ``geometry.footprint.s_region``), which is not needed here.

    Raises
    ------
    ReferenceFileError
        Where a reference is of another kind, detector or band, lacks a variable or does not cover the pixels.

    Notes
    -----
    Reference-file types DISTORTION, SPECWCS, REGIONS. The grids are computed once for each set of files. ``jwst`` also
    writes S_REGION and a gWCS at this step; both follow from the same numbers when a file is written.

    Examples
    --------
    >>> out = mx.cal.assign_wcs(rate, distortion=refs.get("distortion", rate), specwcs=refs.get("specwcs", rate))
    >>> [int(one) for one in sorted(set(out.channel.values.ravel()))]
    [0, 1, 2]
    """
    for kind, reference in (("distortion", distortion), ("specwcs", specwcs), ("regions", regions)):
        if reference is not None:
            _check(ds, kind, reference)
    model = detector.coordinate_model(distortion, specwcs).compute(**how())
    if regions is None:
        labels, name = detector.derive_slice_map(distortion, specwcs), "the slice map of the distortion"
    else:
        labels, name = detector.slice_map(regions), f"regions {regions.attrs.get('ref_id', '')}"
    rows, columns = ds.y.values, ds.x.values
    labels = labels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if labels.shape != (rows.size, columns.size):
        raise ReferenceFileError(
            f"setting {ds.attrs.get('setting')}: {name} has {labels.shape[0]} x {labels.shape[1]} of the "
            f"{rows.size} x {columns.size} pixels of the exposure; expected all; take the file of the full detector"
        )
    return attach(ds, model, labels)


def _check(ds: xr.Dataset, kind: str, reference: xr.Dataset) -> None:
    """Raise ReferenceFileError where a reference does not fit the exposure."""
    where = f"setting {ds.attrs.get('setting')}: {kind} {reference.attrs.get('ref_id', '')}"
    missing = [name for name in _NEEDED[kind] if name not in reference.variables]
    if missing:
        raise ReferenceFileError(f"{where} lacks {', '.join(missing)}; read it with mrsxr.references")
    for key in ("detector", "band"):
        of = reference.attrs.get(key) or ds.attrs[key]
        if of != ds.attrs[key]:
            raise ReferenceFileError(f"{where} is of {key} {of}; expected {ds.attrs[key]}")


def attach(ds: xr.Dataset, model: xr.Dataset, labels: np.ndarray) -> xr.Dataset:
    """Return ``ds`` with the coordinates of a slice map [label, (y, x)] and the model variables of a WCS."""
    frame = FrameModel(model, labels, (int(ds.y.values[0]), int(ds.x.values[0])))
    coords = {name: (("y", "x"), values) for name, values in grids(frame).items()}
    units = {v.name: v.units for v in SLICE_COORDS}
    out = ds.assign_coords({n: (*c, {"units": units[n]}) for n, c in coords.items()})
    out = out.assign({v.name: model[v.name].assign_attrs(units=v.units) for v in WCS_VARIABLES})
    return out.drop_attrs(deep=False).assign_attrs(ds.attrs)
