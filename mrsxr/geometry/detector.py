"""Detector pixels to slice coordinates (alpha, beta, wavelength) and back.

Pixels are counted from 0 in the full 1032 x 1024 array, reference columns included; an integer is the centre
of a pixel. ``alpha`` runs along a slice, ``beta`` across the slices [arcsec]; the wavelength [um] is the
observed one (:func:`mrsxr.geometry.sky.barycentric` takes it to the barycentre). The ``model`` of every
function is a Dataset (or mapping) with the coefficient variables of a distortion and a specwcs file; cal data
carry them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from mrsxr.errors import MrsxrError, ReferenceFileError
from mrsxr.mrs import DETECTOR_SHAPE

#: Limits of alpha [arcsec] of the lit field along the slices of each band: the pair with which
#: :func:`derive_slice_map` on the FLT-9 distortion agrees best with the masks of the CDP-8b delivery.
ALPHA_LIMITS = {
    "1A": (-1.66, 1.68), "1B": (-1.63, 1.70), "1C": (-1.63, 1.68),
    "2A": (-2.08, 2.06), "2B": (-2.07, 2.10), "2C": (-2.05, 2.03),
    "3A": (-2.89, 2.94), "3B": (-2.87, 2.93), "3C": (-2.84, 2.89),
    "4A": (-3.83, 3.42), "4B": (-3.67, 3.48), "4C": (-3.60, 3.47),
}  # fmt: skip
#: Variables of a model that take pixels to slice coordinates.
FORWARD = (
    "alpha_coefficients", "alpha_x_shift", "wavelength_coefficients", "wavelength_x_shift", "slice_beta", "slice_label",
)  # fmt: skip
#: The plane of a regions file that marks 80 % throughput, as ``jwst`` uses it.
SCIENCE_PLANE = 7


def coordinate_model(distortion: xr.Dataset, specwcs: xr.Dataset) -> xr.Dataset:
    """Join a distortion and a specwcs reference to the one model that the functions here take.

    Parameters
    ----------
    distortion, specwcs : Dataset
        Of one detector and band.

    Returns
    -------
    Dataset
        The variables of both; powers that one file does not have are filled with zeros. attrs ``distortion`` and
        ``specwcs`` hold the names of the files.

    Raises
    ------
    ReferenceFileError
        Where the files are of other detectors, bands or slices.
    """
    for key in ("detector", "band", "channels"):
        found = [ds.attrs.get(key, "") for ds in (distortion, specwcs)]
        if found[0] != found[1]:
            raise ReferenceFileError(
                f"{_ref_id(distortion)} is of {key} {found[0]}, {_ref_id(specwcs)} of {found[1]}; "
                "expected files of one setting"
            )
    _check_slices(distortion, specwcs)
    parts = (distortion, specwcs)
    sizes = {dim: max(ds.sizes.get(dim, 0) for ds in parts) for dim in ("power_y", "power_x")}
    grown = [
        ds.pad({dim: (0, n - ds.sizes[dim]) for dim, n in sizes.items() if dim in ds.sizes}, constant_values=0.0)
        for ds in parts
    ]
    names = [_ref_id(ds) for ds in parts]
    out = grown[0].assign({name: grown[1][name].variable for name in grown[1].data_vars})
    keys = ("detector", "band", "channels")
    attrs = {key: distortion.attrs[key] for key in keys if key in distortion.attrs}
    return out.drop_attrs(deep=False).assign_attrs(attrs | {"distortion": names[0], "specwcs": names[1]})


def detector_to_slicer(
    x: np.ndarray, y: np.ndarray, label: np.ndarray, model: Mapping[Any, Any],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Take detector positions to slice coordinates.

    Parameters
    ----------
    x, y : array_like of float
        Column and row [pix], any shape, fractions allowed.
    label : array_like of int
        Slice label, channel * 100 + slice, of each position.
    model : Dataset or mapping
        ``alpha_coefficients``, ``alpha_x_shift``, ``wavelength_coefficients``, ``wavelength_x_shift``,
        ``slice_beta``, ``slice_label``.

    Returns
    -------
    alpha, beta, wavelength : ndarray of float64
        [arcsec, arcsec, um]; NaN where the label is 0 or unknown.

    Notes
    -----
    ``alpha = sum A[i, j] y^i (x - xs)^j``, the same for the wavelength; beta is one number for each slice
    (MIRI MRS distortion files; Patapis et al. 2024).
    """
    lookup, beta = _lookup(model)[0], np.append(coefficients(model, "slice_beta"), np.nan)
    label = np.asarray(label, np.int64)
    known = (label >= 0) & (label < lookup.size)
    slices = np.where(known, lookup[np.where(known, label, 0)], -1)
    alpha, wavelength = (detector_coordinate(name, x, y, label, model) for name in ("alpha", "wavelength"))
    return alpha, np.broadcast_to(beta[slices], alpha.shape).copy(), wavelength


def detector_coordinate(
    name: str, x: np.ndarray, y: np.ndarray, label: np.ndarray, model: Mapping[Any, Any]
) -> np.ndarray:
    """Return "alpha" [arcsec] or "wavelength" [um] alone; as :func:`detector_to_slicer`."""
    from ._detector_kernels import pixels_to_coordinate

    x, y, label = np.broadcast_arrays(np.asarray(x, float), np.asarray(y, float), np.asarray(label))
    matrix, shift = coefficients(model, f"{name}_coefficients"), coefficients(model, f"{name}_x_shift")
    found = pixels_to_coordinate(_flat(x), _flat(y), _flat(label, np.int64), _lookup(model)[0], matrix, shift)
    return found.reshape(x.shape)


def slicer_grid(
    model: Mapping[Any, Any], slice_map: np.ndarray, origin: tuple[int, int] = (0, 0),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Take every pixel of a detector to slice coordinates.

    Parameters
    ----------
    model : Dataset or mapping
        As in :func:`detector_to_slicer`.
    slice_map : array_like of int, (y, x)
        Slice label of each pixel, 0 between slices.
    origin : (int, int), optional
        Row and column [pix] of the first pixel of ``slice_map``; not (0, 0) for a cut-out.

    Returns
    -------
    alpha, beta, wavelength : ndarray of float64, (y, x)
        [arcsec, arcsec, um]; NaN between slices.
    """
    from mrsxr.compiled import read_only

    from ._detector_kernels import grid_to_slicer

    (labels,) = read_only(np.asarray(slice_map, dtype=np.int16))
    if labels.ndim != 2:
        raise MrsxrError(f"slice_map has {labels.ndim} dimensions; expected (y, x)")
    arrays = (coefficients(model, name) for name in FORWARD[:-1])
    return grid_to_slicer(labels, int(origin[0]), int(origin[1]), _lookup(model)[0], *arrays)


def slicer_to_detector(
    alpha: np.ndarray, beta: np.ndarray, wavelength: np.ndarray | float, band: str, model: xr.Dataset,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Take slice coordinates to detector positions.

    Parameters
    ----------
    alpha, beta : array_like of float
        [arcsec], any shape.
    wavelength : array_like of float
        Observed wavelength [um].
    band : str
        "1A" ... "4C".
    model : Dataset or mapping
        A whole distortion Dataset: ``x_coefficients``, ``y_coefficients``, their shifts, ``beta_zero``,
        ``slice_width``, ``slice_label``, ``band``.

    Returns
    -------
    x, y : ndarray of float64
        [pix]; NaN where beta lies on no slice.
    label : ndarray of int16
        Slice label, 0 where beta lies on no slice.

    Notes
    -----
    The polynomials of this direction are fits of their own: with FLT-9, 99 % of the pixels come back within
    0.03 pixels in x and 0.09 in y, the worst (at the ends of slices) within 0.12 and 0.38. The slice is
    ``round((beta - beta_zero) / width) + 1``.
    """
    from ._detector_kernels import slicer_to_pixels

    alpha, beta, wavelength = np.broadcast_arrays(*(np.asarray(v, float) for v in (alpha, beta, wavelength)))
    label = _label_of_beta(beta, band, model)
    lookup, _ = _lookup(model)
    arrays = [
        coefficients(model, name) for name in ("x_coefficients", "x_lambda_shift", "y_coefficients", "y_lambda_shift")
    ]
    x, y = slicer_to_pixels(_flat(alpha), _flat(wavelength), _flat(label, np.int64), lookup, *arrays)
    return x.reshape(alpha.shape), y.reshape(alpha.shape), label


def slice_map(regions: xr.Dataset, plane: int = SCIENCE_PLANE) -> np.ndarray:
    """Return the slice label of each pixel from a regions reference.

    Parameters
    ----------
    regions : Dataset, kind "regions"
        ``regions`` (plane, y, x); a file of one plane is used as it is.
    plane : int, optional
        Plane of the throughput limit, 0 for 10 % ... 8 for 90 %; 7 (80 %) is the plane of ``jwst``.

    Returns
    -------
    ndarray of int16, (y, x)
    """
    planes = regions["regions"]
    count = planes.sizes["plane"]
    if count == 1:
        plane = 0
    if not 0 <= plane < count:
        raise ReferenceFileError(
            f"{regions.attrs.get('ref_id', 'regions')}: plane {plane} asked for, the file has planes 0 to {count - 1}"
        )
    return np.asarray(planes.isel(plane=plane).values, dtype=np.int16)


def derive_slice_map(
    distortion: xr.Dataset,
    specwcs: xr.Dataset,
    wavelengthrange: xr.Dataset | None = None,
    *,
    alpha_limits: Mapping[int | str, tuple[float, float]] | None = None,
    shape: tuple[int, int] = DETECTOR_SHAPE,
) -> np.ndarray:
    """Make a map of slice labels from the distortion where no regions file is at hand.

    The edges of each slice on the detector are traced with the inverse polynomials at the limits of alpha;
    the pixels between them whose alpha (and wavelength) lie within the limits belong to the slice.

    Parameters
    ----------
    distortion, specwcs : Dataset or mapping
        Of the two reference files.
    wavelengthrange : Dataset, kind "wavelengthrange", optional
        Pixels outside ``limits`` of their band are left out; by default every row is kept.
    alpha_limits : mapping {slice label or band: (lower, upper)}, optional
        Limits of alpha [arcsec]; what it does not name is taken from :data:`ALPHA_LIMITS`. The corners of the
        slices in the SIAF, taken to alpha, are the best choice.
    shape : (int, int), optional
        Rows and columns of the detector.

    Returns
    -------
    ndarray of int16, (y, x)
        channel * 100 + slice, 0 between slices. Of the lit pixels of the CDP-8b masks 1.3 to 2.0 % differ
        with the default limits and 0.6 to 0.7 % with limits from the SIAF corners, all at slice edges.
    """
    from ._detector_kernels import fill_slice

    limits: dict[int | str, tuple[float, float]] = dict(ALPHA_LIMITS.items())
    limits.update(alpha_limits or {})
    alpha_c, alpha_s = coefficients(distortion, "alpha_coefficients"), coefficients(distortion, "alpha_x_shift")
    wave_c, wave_s = coefficients(specwcs, "wavelength_coefficients"), coefficients(specwcs, "wavelength_x_shift")
    _check_slices(distortion, specwcs)
    out = np.zeros(shape, dtype=np.int16)
    for s, label in enumerate(_labels(distortion)):
        band = _band_of_label(distortion, int(label))
        lower, upper = limits[int(label)] if int(label) in limits else limits[band]
        waves = _wavelength_limits(wavelengthrange, band)
        left, right = (_trace_edge(distortion, s, alpha, shape[0]) for alpha in (lower, upper))
        bounds = np.asarray([lower, upper, *waves])
        fill_slice(out, label, left, right, alpha_c[s], alpha_s[s], wave_c[s], wave_s[s], bounds)
    return out


def _ref_id(ds: xr.Dataset) -> str:
    return str(getattr(ds, "attrs", {}).get("ref_id", "a file without name"))


def _check_slices(distortion: xr.Dataset, specwcs: xr.Dataset) -> None:
    if not np.array_equal(_labels(distortion), _labels(specwcs)):
        raise ReferenceFileError(
            f"{_ref_id(distortion)} and {_ref_id(specwcs)} are of other slices; expected files of one setting"
        )


def _trace_edge(distortion: xr.Dataset, s: int, alpha: float, n_rows: int) -> np.ndarray:
    """Return the column of the line of constant alpha in each row, by the inverse polynomials of slice s."""
    from ._detector_kernels import slicer_to_pixels

    x_c, y_c = (
        coefficients(distortion, "x_coefficients")[s : s + 1],
        coefficients(distortion, "y_coefficients")[s : s + 1],
    )
    x_s, y_s = (
        coefficients(distortion, "x_lambda_shift")[s : s + 1],
        coefficients(distortion, "y_lambda_shift")[s : s + 1],
    )
    # wavelengths from the first to the last row, an eighth of the detector beyond either end
    rows = np.linspace(-n_rows / 8, n_rows * 9 / 8, 161)
    waves = y_s[0] + (rows - y_c[0, 0, 0]) / y_c[0, 1, 0]
    zeros = np.zeros(waves.size, dtype=np.int64)
    lookup = np.zeros(1, dtype=np.int64)
    x, y = slicer_to_pixels(np.full(waves.size, float(alpha)), waves, zeros, lookup, x_c, x_s, y_c, y_s)
    order = np.argsort(y)
    return np.interp(np.arange(n_rows), y[order], x[order], left=np.nan, right=np.nan)


def _band_of_label(distortion: xr.Dataset, label: int) -> str:
    bands = [str(band) for band in np.asarray(distortion["band"])]
    for band in bands:
        if band[0] == str(label // 100):
            return band
    raise ReferenceFileError(f"slice {label} belongs to no band of the distortion ({' and '.join(bands)})")


def _wavelength_limits(wavelengthrange: xr.Dataset | None, band: str) -> tuple[float, float]:
    if wavelengthrange is None:
        return -np.inf, np.inf
    names = [str(b) for b in wavelengthrange["band"].values]
    if band not in names:
        raise ReferenceFileError(f"wavelengthrange holds no band {band}; found {', '.join(names[:12])}")
    lower, upper = wavelengthrange["limits"].values[names.index(band)]
    return float(lower), float(upper)


def band_index(band: str, model: Mapping[Any, Any]) -> int:
    """Return the position of a band along the ``band`` dimension of a model."""
    bands = [str(item) for item in np.asarray(model["band"])]
    if band not in bands:
        raise MrsxrError(f"the coordinate model is of bands {' and '.join(bands)}; band {band} was asked for")
    return bands.index(band)


def _label_of_beta(beta: np.ndarray, band: str, model: xr.Dataset) -> np.ndarray:
    channel, k = int(band[0]), band_index(band, model)
    zero, width = coefficients(model, "beta_zero")[k], coefficients(model, "slice_width")[k]
    count = int(np.sum(_labels(model) // 100 == channel))
    with np.errstate(invalid="ignore"):
        number = np.floor((beta - zero) / width + 1.5)
        inside = (number >= 1) & (number <= count)
    return np.where(inside, channel * 100 + np.nan_to_num(number), 0).astype(np.int16)


def _flat(array: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=dtype).ravel()


def coefficients(model: Mapping[Any, Any], name: str) -> np.ndarray:
    """Return a variable of a coordinate model as a contiguous float64 array; MrsxrError where it is missing."""
    try:
        values = model[name]
    except KeyError as error:
        raise MrsxrError(
            f"the coordinate model has no '{name}'; give the Datasets of distortion and specwcs"
        ) from error
    return np.ascontiguousarray(values, dtype=np.float64)


def _labels(model: Mapping[Any, Any]) -> np.ndarray:
    return np.asarray(model["slice_label"]).astype(np.int16)


def _lookup(model: Mapping[Any, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return the table label -> position in the coefficient arrays (-1: none), and the labels."""
    labels = _labels(model)
    table = np.full(int(labels.max()) + 1, -1, dtype=np.int64)
    table[labels] = np.arange(labels.size)
    return table, labels
