"""Write the four ASDF files of the MRS geometry as CRDS has them: the trees of astropy models that jwst uses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy import units
from astropy.modeling.models import Const1D, Identity, Mapping, Polynomial2D, Shift

from mrsxr.errors import ReferenceFileError
from mrsxr.mrs import BANDS, GRATINGS
from mrsxr.references.distortion import N_REGION_PLANES

from .reference_files import asdf_meta, write_asdf_file


def write_geometry(path: str | Path, dataset: xr.Dataset) -> Path:
    """Write a distortion, specwcs, regions or wavelengthrange file.

    Parameters
    ----------
    path : str or Path
        File to write, ``.asdf``; an existing file is replaced.
    dataset : Dataset
        As the readers of :mod:`mrsxr.references.distortion` make it, with attrs ``kind``, ``channels``, ``band``,
        ``detector``, ``useafter`` and, as wished, ``pedigree``, ``author``, ``description``. Regions of one plane
        give a file of nine equal planes, as ``jwst`` picks plane 7 (80 % throughput); int16, compressed.

    Returns
    -------
    Path of the file

    Examples
    --------
    >>> path = mx.simulate.write_geometry("jwst_miri_specwcs_0001.asdf", refs.get("specwcs", rate))
    >>> mx.references.read_reference(path).attrs["kind"]
    'specwcs'
    """
    attrs = dataset.attrs
    kind = attrs.get("kind")
    if kind not in _TREES:
        raise ReferenceFileError(
            f"{Path(path).name}: the Dataset is of kind {kind}; expected one of {', '.join(_TREES)}"
        )
    header = {"channel": attrs.get("channels") or "N/A", "useafter": attrs.get("useafter") or "2022-01-01T00:00:00"}
    header |= {key: attrs.get(key) or "N/A" for key in ("detector", "band")}
    header |= {key: attrs[key] for key in ("pedigree", "author", "description") if key in attrs}
    tree, more = _TREES[kind](dataset)
    tree["meta"] = asdf_meta(header, kind) | more
    return write_asdf_file(Path(path), tree, all_array_compression="zlib" if kind == "regions" else None)


def _distortion(ds: xr.Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
    keys = _keys(ds)
    tree = {
        "alpha_model": _forward(ds["alpha_coefficients"], ds["alpha_x_shift"]),
        "beta_model": [Const1D(float(beta), name="det2local") for beta in ds["slice_beta"].values],
        "x_model": _inverse(ds["x_coefficients"], ds["x_lambda_shift"], "x"),
        "y_model": _inverse(ds["y_coefficients"], ds["y_lambda_shift"], "y"),
        "slices": [int(label) for label in ds["slice_label"].values],
        "bzero": {"channel_band": keys, "beta_zero": [float(v) for v in ds["beta_zero"].values]},
        "bdel": {"channel_band": keys, "delta_beta": [float(v) for v in ds["slice_width"].values]},
        "abv2v3_model": {"channel_band": keys, "model": [_v2v3_model(ds, i) for i in range(len(keys))]},
    }
    return tree, {"input_units": units.pix, "output_units": units.arcsec}


def _specwcs(ds: xr.Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
    tree = {
        "model": _forward(ds["wavelength_coefficients"], ds["wavelength_x_shift"]),
        "slices": [int(label) for label in ds["slice_label"].values],
    }
    return tree, {"input_units": units.pix, "output_units": units.um, "subarray": {"name": "N/A"}}


def _regions(ds: xr.Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
    regions = np.ascontiguousarray(ds["regions"].values.astype(np.int16))
    return {"regions": np.repeat(regions, N_REGION_PLANES, axis=0) if regions.shape[0] == 1 else regions}, {}


def _wavelengthrange(ds: xr.Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
    limits = [[float(v) for v in pair] for pair in ds["limits"].values]
    return {"waverange_selector": _keys(ds), "wavelengthrange": limits}, {"wavelength_units": units.um}


_TREES = {"distortion": _distortion, "specwcs": _specwcs, "regions": _regions, "wavelengthrange": _wavelengthrange}


def _keys(ds: xr.Dataset) -> list[str]:
    """Return "1SHORT" for band "1A" ...; other combinations stay as they are."""
    return [band[0] + GRATINGS[band[1]] if band in BANDS else band for band in ds["band"].values.tolist()]


def _polynomial(matrix: np.ndarray, name: str) -> Any:
    degree = min(matrix.shape) - 1
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    beyond = np.add.outer(np.arange(matrix.shape[0]), np.arange(matrix.shape[1])) > degree
    if np.any(matrix[beyond]):
        raise ReferenceFileError(f"a polynomial has terms above its degree {degree}; expected powers i + j <= {degree}")
    return Polynomial2D(degree, name=name, **{f"c{i}_{j}": float(matrix[i, j]) for i, j in powers})


def _forward(coefficients: xr.DataArray, shift: xr.DataArray) -> list[Any]:
    return [
        (Identity(1) & Shift(-float(xs))) | _polynomial(matrix, "det2local")
        for matrix, xs in zip(coefficients.values, shift.values, strict=True)
    ]


def _inverse(coefficients: xr.DataArray, shift: xr.DataArray, axis: str) -> list[Any]:
    return [
        (Shift(-float(zero), name=f"shift_{axis}") & Identity(1)) | _polynomial(matrix, f"polynomial_{axis}")
        for matrix, zero in zip(coefficients.values, shift.values, strict=True)
    ]


def _v2v3_model(ds: xr.Dataset, i: int) -> Any:
    def pair(first: str, second: str, name: str) -> Any:
        polynomials = [_polynomial(ds[key].values[i], name) for key in (first, second)]
        return Mapping((0, 1, 0, 1)) | (polynomials[0] & polynomials[1])

    model = pair("v2_coefficients", "v3_coefficients", "ab_v23")
    model.inverse = pair("alpha_from_v2v3", "beta_from_v2v3", "v23_ab")
    return model
