"""The four ASDF files of the MRS geometry: distortion, specwcs, regions and wavelengthrange.

The files hold trees of transforms; reading takes the numbers out of them (Datasets of polynomial coefficients).
Sources: stdatamodels ``DistortionMRSModel``, ``SpecwcsModel``,
``RegionsModel`` and ``WavelengthrangeModel``; the FLT-9 and CDP-8b deliveries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from mrsxr.errors import InputFileError, ReferenceFileError
from mrsxr.io.asdffile import Model, read_asdf
from mrsxr.mrs import LETTERS

#: Planes of a flight regions file: throughput limits 10 %, 20 % ... 90 %.
N_REGION_PLANES = 9
_META_ATTRS = ("pedigree", "author", "description")


def read_distortion(path: str | Path) -> xr.Dataset:
    """Read a distortion file: slice coordinates of each slice and the way from there to V2, V3.

    Parameters
    ----------
    path : str or Path
        ASDF file of reference type ``distortion`` .

    Returns
    -------
    Dataset, kind "distortion"
        On ``slice_label``: ``alpha_coefficients`` [arcsec] (power_y, power_x), ``alpha_x_shift`` [pix],
        ``slice_beta`` [arcsec], ``x_coefficients``, ``y_coefficients`` [pix] (power_lambda, power_alpha),
        ``x_lambda_shift``, ``y_lambda_shift`` [um]; on ``band``: ``slice_width``, ``beta_zero`` [arcsec],
        ``v2_coefficients``, ``v3_coefficients`` [arcsec] (power_alpha, power_beta), ``alpha_from_v2v3``,
        ``beta_from_v2v3`` [arcsec] (power_v2, power_v3).

    Raises
    ------
    ReferenceFileError
        Where the file is missing, no such file or holds models of another shape.
    """
    with _open_tree(path, "distortion") as tree:
        name = Path(path).name
        labels = _labels(tree, name)
        alpha, alpha_shift = _read_polynomials(tree, "alpha_model", labels, name, shifted=1)
        x, x_shift = _read_polynomials(tree, "x_model", labels, name, shifted=0)
        y, y_shift = _read_polynomials(tree, "y_model", labels, name, shifted=0)
        bands, (v2, v3), (alpha_back, beta_back) = _read_v2v3(tree, name)
        size = max(x.shape[2], y.shape[2], v2.shape[1], v3.shape[1])
        x, y, v2, v3 = _grow(x, 2, size), _grow(y, 2, size), _grow(v2, 1, size), _grow(v3, 1, size)
        variables = {
            "alpha_coefficients": (("slice_label", "power_y", "power_x"), alpha, "arcsec"),
            "alpha_x_shift": (("slice_label",), alpha_shift, "pix"),
            "slice_beta": (("slice_label",), _read_beta(tree, labels, name), "arcsec"),
            "slice_width": (("band",), _read_by_band(tree, "bdel", "delta_beta", bands, name), "arcsec"),
            "beta_zero": (("band",), _read_by_band(tree, "bzero", "beta_zero", bands, name), "arcsec"),
            "x_coefficients": (("slice_label", "power_lambda", "power_alpha"), x, "pix"),
            "x_lambda_shift": (("slice_label",), x_shift, "um"),
            "y_coefficients": (("slice_label", "power_lambda", "power_alpha"), y, "pix"),
            "y_lambda_shift": (("slice_label",), y_shift, "um"),
            "v2_coefficients": (("band", "power_alpha", "power_beta"), v2, "arcsec"),
            "v3_coefficients": (("band", "power_alpha", "power_beta"), v3, "arcsec"),
            "alpha_from_v2v3": (("band", "power_v2", "power_v3"), alpha_back, "arcsec"),
            "beta_from_v2v3": (("band", "power_v2", "power_v3"), beta_back, "arcsec"),
        }
        coords = {"slice_label": ("slice_label", labels), "band": ("band", np.asarray(bands))}
        return _dataset(variables, coords, _attrs(tree, "distortion", name))


def read_specwcs(path: str | Path) -> xr.Dataset:
    """Read a specwcs file: the wavelength of each pixel of each slice.

    Parameters
    ----------
    path : str or Path
        ASDF file of reference type ``specwcs``.

    Returns
    -------
    Dataset, kind "specwcs"
        ``wavelength_coefficients`` [um] (slice_label, power_y, power_x), ``wavelength_x_shift`` [pix]
        (slice_label); no velocity correction.
    """
    with _open_tree(path, "specwcs") as tree:
        name = Path(path).name
        labels = _labels(tree, name)
        wavelength, shift = _read_polynomials(tree, "model", labels, name, shifted=1)
        variables = {
            "wavelength_coefficients": (("slice_label", "power_y", "power_x"), wavelength, "um"),
            "wavelength_x_shift": (("slice_label",), shift, "pix"),
        }
        return _dataset(variables, {"slice_label": ("slice_label", labels)}, _attrs(tree, "specwcs", name))


def read_regions(path: str | Path) -> xr.Dataset:
    """Read a regions file: which slice lights up which pixel.

    Parameters
    ----------
    path : str or Path
        ASDF file of reference type ``regions``; one plane per throughput limit, or a single (y, x) plane.

    Returns
    -------
    Dataset, kind "regions"
        ``regions`` (plane, y, x) int16, channel * 100 + slice, 0 between slices.
    """
    with _open_tree(path, "regions") as tree:
        name = Path(path).name
        regions = np.asarray(_key(tree, "regions", name))
        if regions.ndim not in (2, 3) or regions.dtype.kind not in "iu":
            raise ReferenceFileError(
                f"{name}: 'regions' has shape {regions.shape} and type {regions.dtype}; expected an integer "
                "array (plane, y, x) or (y, x)"
            )
        regions = regions if regions.ndim == 3 else regions[np.newaxis]
        variables = {"regions": (("plane", "y", "x"), regions.astype(np.int16), "1")}
        coords = {"y": ("y", np.arange(regions.shape[1])), "x": ("x", np.arange(regions.shape[2]))}
        return _dataset(variables, coords, _attrs(tree, "regions", name))


def read_wavelengthrange(path: str | Path) -> xr.Dataset:
    """Read a wavelengthrange file: generous wavelength limits of each band.

    Parameters
    ----------
    path : str or Path
        ASDF file of reference type ``wavelengthrange``.

    Returns
    -------
    Dataset, kind "wavelengthrange"
        ``limits`` [um] (band, limit); ``band`` is "1A" ... "4C", and the name in the file for other
        combinations of gratings and dichroics ("1SHORT-MEDIUM").
    """
    with _open_tree(path, "wavelengthrange") as tree:
        name = Path(path).name
        selector = [str(item) for item in _key(tree, "waverange_selector", name)]
        limits = np.asarray([list(pair) for pair in _key(tree, "wavelengthrange", name)], dtype=np.float64)
        if limits.shape != (len(selector), 2):
            raise ReferenceFileError(
                f"{name}: 'wavelengthrange' has shape {limits.shape}; expected ({len(selector)}, 2)"
            )
        bands = np.asarray([_band_name(item) for item in selector])
        variables = {"limits": (("band", "limit"), limits, "um")}
        coords = {"band": ("band", bands), "limit": ("limit", np.asarray(["lower", "upper"]))}
        return _dataset(variables, coords, _attrs(tree, "wavelengthrange", name))


#: Reader of each kind of geometry file.
READERS: dict[str, Callable[[str | Path], xr.Dataset]] = {
    "distortion": read_distortion,
    "specwcs": read_specwcs,
    "regions": read_regions,
    "wavelengthrange": read_wavelengthrange,
}


@contextmanager
def _open_tree(path: str | Path, kind: str) -> Iterator[Any]:
    name = Path(path).name
    try:
        tree = read_asdf(Path(path))
        meta = tree.get("meta", {})
        found = str(meta.get("reftype", kind) if isinstance(meta, Mapping) else kind).lower()
        if found != kind:
            raise ReferenceFileError(f"{name}: is a {found} file; expected a {kind} file")
        yield tree
    except InputFileError as error:
        raise ReferenceFileError(f"{error}; expected an ASDF {kind} file") from error
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())[:120]
        raise ReferenceFileError(f"{name}: the tree of the {kind} file is damaged ({said}); get it anew") from error


def _key(tree: Any, key: str, name: str) -> Any:
    if key not in tree:
        raise ReferenceFileError(f"{name}: key '{key}' is missing; found {', '.join(sorted(map(str, tree)))}")
    return tree[key]


def _labels(tree: Any, name: str) -> np.ndarray:
    labels = np.asarray([int(label) for label in _key(tree, "slices", name)], dtype=np.int16)
    if labels.size == 0 or np.unique(labels).size != labels.size:
        raise ReferenceFileError(f"{name}: 'slices' holds no labels or labels twice; expected channel * 100 + n")
    return labels


def _named(model: Model) -> str:
    """Return the name of a simple transform in astropy."""
    if model.kind == "polynomial":
        return f"Polynomial{np.ndim(model.facts['coefficients'])}D"
    names = {"identity": "Identity", "shift": "Shift", "constant": "Const1D", "remap_axes": "Mapping"}
    return names.get(model.kind, model.kind)


def _parts(model: Any) -> list[Model]:
    return model.parts if isinstance(model, Model) else []


def _read_polynomials(
    tree: Any, key: str, labels: np.ndarray, name: str, *, shifted: int,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return coefficients (slice, power 0, power 1) and the zero point of the shifted argument."""
    models = _key(tree, key, name)
    if len(models) != labels.size:
        raise ReferenceFileError(f"{name}: '{key}' holds {len(models)} models for {labels.size} slices")
    wanted = ["Identity", "Shift"] if shifted == 1 else ["Shift", "Identity"]
    coefficients, shifts = [], []
    for label, model in zip(labels, models, strict=True):
        parts = _parts(model)
        found = [_named(part) for part in parts]
        if found != [*wanted, "Polynomial2D"] or model.kind != "compose":
            raise ReferenceFileError(
                f"{name}: '{key}' of slice {label} is {' '.join(found)}; expected "
                f"({wanted[0]} & {wanted[1]}) | Polynomial2D"
            )
        coefficients.append(_coefficients(parts[2], f"{name}: '{key}' of slice {label}"))
        shifts.append(-float(np.ravel(parts[shifted].facts["offset"])[0]))
    return _stack(coefficients), np.asarray(shifts)


def _coefficients(polynomial: Model, where: str) -> np.ndarray:
    """Return the matrix c[i, j] of a polynomial, sum c[i, j] a^i b^j."""
    if _named(polynomial) != "Polynomial2D":
        raise ReferenceFileError(f"{where} is {_named(polynomial)}; expected Polynomial2D")
    for kind in ("domain", "window"):
        for axis, limits in zip("xy", polynomial.facts.get(kind) or (), strict=False):
            if tuple(limits or (-1, 1)) != (-1, 1):
                raise ReferenceFileError(f"{where} has a {axis} {kind}; expected a plain polynomial")
    matrix = np.asarray(polynomial.facts["coefficients"], dtype=float)
    if matrix.shape[0] != matrix.shape[1]:
        raise ReferenceFileError(f"{where} has {matrix.shape} coefficients; expected a square")
    return np.where(np.add.outer(*[np.arange(len(matrix))] * 2) < len(matrix), matrix, 0.0)


def _stack(matrices: list[np.ndarray]) -> np.ndarray:
    size = max(matrix.shape[0] for matrix in matrices)
    out = np.zeros((len(matrices), size, size))
    for target, matrix in zip(out, matrices, strict=True):
        target[: matrix.shape[0], : matrix.shape[1]] = matrix
    return out


def _grow(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Return the array with zeros appended along an axis: Datasets hold one size of ``power_alpha``."""
    extra = [(0, size - array.shape[axis] if k == axis else 0) for k in range(array.ndim)]
    return np.pad(array, extra)


def _read_beta(tree: Any, labels: np.ndarray, name: str) -> np.ndarray:
    models = _key(tree, "beta_model", name)
    found = [[_named(part) for part in _parts(model)] for model in models]
    if found != [["Const1D"]] * labels.size:
        raise ReferenceFileError(f"{name}: 'beta_model' is not one Const1D for each of {labels.size} slices")
    return np.asarray([float(np.ravel(model.facts["value"])[0]) for model in models])


def _read_by_band(tree: Any, key: str, value: str, bands: list[str], name: str) -> np.ndarray:
    node = _key(tree, key, name)
    table = dict(zip(map(_band_name, _key(node, "channel_band", name)), _key(node, value, name), strict=True))
    if set(table) != set(bands):
        raise ReferenceFileError(f"{name}: '{key}' is of bands {sorted(table)}; expected {sorted(bands)}")
    return np.asarray([float(table[band]) for band in bands])


def _read_v2v3(tree: Any, name: str) -> tuple[list[str], Any, Any]:
    node = _key(tree, "abv2v3_model", name)
    bands = [_band_name(item) for item in _key(node, "channel_band", name)]
    forward, backward = [], []
    for band, model in zip(bands, _key(node, "model", name), strict=True):
        where = f"{name}: 'abv2v3_model' of {band}"
        if "inverse" not in model.facts:
            raise ReferenceFileError(f"{where} has no stored inverse; expected one")
        forward.append(_polynomial_pair(model, where))
        backward.append(_polynomial_pair(model.facts["inverse"], f"{where} (inverse)"))
    stacked = [tuple(_stack([pair[k] for pair in pairs]) for k in (0, 1)) for pairs in (forward, backward)]
    return bands, stacked[0], stacked[1]


def _polynomial_pair(model: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    parts = _parts(model)
    found = [_named(part) for part in parts]
    if found != ["Mapping", "Polynomial2D", "Polynomial2D"] or tuple(parts[0].facts["mapping"]) != (0, 1, 0, 1):
        raise ReferenceFileError(
            f"{where} is {' '.join(found)}; expected Mapping((0, 1, 0, 1)) | Polynomial2D & Polynomial2D"
        )
    return _coefficients(parts[1], where), _coefficients(parts[2], where)


def _band_name(key: Any) -> str:
    """Return "1A" of "1SHORT"; other combinations stay as they are."""
    key = str(key)
    return key[0] + LETTERS[key[1:]] if key[1:] in LETTERS else key


def _attrs(tree: Any, kind: str, name: str) -> dict[str, str]:
    meta = tree.get("meta", {})
    instrument = meta.get("instrument", {})
    attrs = {
        "level": "reference", "kind": kind, "ref_id": name, "useafter": str(meta.get("useafter", "")),
        "detector": _plain(instrument.get("detector")), "band": _plain(instrument.get("band")),
        "channels": _plain(instrument.get("channel")), "readpatt": "", "subarray": "",
    }  # fmt: skip
    return attrs | {key: str(meta[key]) for key in _META_ATTRS if key in meta}


def _plain(value: Any) -> str:
    return "" if value is None or str(value) == "N/A" else str(value)


def _dataset(variables: dict[str, Any], coords: dict[str, Any], attrs: dict[str, str]) -> xr.Dataset:
    data = {name: (dims, values, {"units": units}) for name, (dims, values, units) in variables.items()}
    return xr.Dataset(data, coords=coords, attrs=attrs)
