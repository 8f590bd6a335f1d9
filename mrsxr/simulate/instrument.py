"""A parametric instrument like the MRS, or the real flight geometry, as reference Datasets and pixel footprints.

Numbers follow the FLT-9 distortion delivery (slice positions, curvature, dispersion, tilt) and the JWST User
Documentation (fields of view); each is a smooth function of slice number, so that nothing has to be copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.polynomial import polynomial as P

from mrsxr import mrs
from mrsxr.errors import ReferenceFileError

N_POWERS = 9  # polynomials of degree 8, as in the flight files
N_POWERS_FIELD = 5
_HALF = 512.0

#: Band limits [um] that every slice covers at alpha = 0.
COMMON_RANGE = {
    "1A": (4.886, 5.752), "1B": (5.644, 6.645), "1C": (6.513, 7.669),
    "2A": (7.493, 8.789), "2B": (8.655, 10.152), "2C": (9.995, 11.725),
    "3A": (11.528, 13.494), "3B": (13.321, 15.594), "3C": (15.390, 18.010),
    "4A": (17.682, 20.974), "4B": (20.664, 24.506), "4C": (24.168, 28.648),
}  # fmt: skip
#: (V2, V3) [arcsec] of alpha = beta = 0.
FIELD_ZERO = {
    "1A": (-503.3406, -318.8640), "1B": (-503.3114, -318.9738), "1C": (-503.2726, -318.7018),
    "2A": (-503.4117, -319.1451), "2B": (-503.5148, -319.4250), "2C": (-503.3261, -319.3640),
    "3A": (-503.9910, -318.8476), "3B": (-504.0418, -319.0565), "3C": (-503.9225, -319.0363),
    "4A": (-502.7098, -319.6000), "4B": (-502.8146, -319.5112), "4C": (-502.8272, -319.4980),
}  # fmt: skip
_FIELD_ROTATION = np.deg2rad(8.424)


@dataclass(frozen=True)
class _Channel:
    """Layout of one channel on its detector; x are columns of alpha = 0 at mid height."""

    runs: tuple[tuple[int, float, float], ...]  # (slices, x of the first, x of the last)
    bend: float  # pixels that the slice ends lie left of the middle
    lean: float  # pixels from bottom to middle
    pixel: float  # arcsec along the slice
    sign: int  # of dalpha/dx
    dispersion: int  # sign of dwavelength/dy
    field: float  # arcsec along the slice
    beta_zero: float  # arcsec


_CHANNELS = {
    1: _Channel(((11, 488.0, 28.0), (10, 466.0, 52.0)), 4.4, 0.3, 0.192, 1, 1, 3.2, -1.7721),
    2: _Channel(((9, 546.0, 991.0), (8, 574.0, 965.0)), 11.6, 1.5, 0.194, -1, 1, 4.0, -2.2377),
    3: _Channel(((8, 1004.0, 574.0), (8, 976.0, 540.0)), 12.2, 0.4, 0.2525, -1, -1, 5.2, -2.9236),
    4: _Channel(((6, 452.0, 81.0), (6, 416.0, 43.0)), 3.4, 0.1, 0.269, 1, -1, 6.6, -3.6082),
}
_EDGE_WIDTH = 0.2  # pixels, softness of the slice ends
_MAX_ROW_SHIFT = 8.0  # rows by which slices are shifted against each other


@dataclass(frozen=True)
class Geometry:
    """Geometry of one setting: the four reference Datasets and the throughput of the slice ends (y, x)."""

    setting: str
    distortion: xr.Dataset
    specwcs: xr.Dataset
    regions: xr.Dataset
    wavelengthrange: xr.Dataset
    throughput: np.ndarray


@dataclass(frozen=True)
class Footprints:
    """Flat arrays over the lit pixels of one band: where each pixel lies in slice coordinates.

    ``y``, ``x`` are detector indices; ``alpha*`` and ``beta`` [arcsec] the pixel centre and ends; ``wavelength*``
    [um, observatory frame] the centre and the ends in rising order; ``width`` [arcsec] the slice width;
    ``throughput`` the transmission of the slice ends.
    """

    band: str
    y: np.ndarray
    x: np.ndarray
    label: np.ndarray
    alpha: np.ndarray
    alpha_low: np.ndarray
    alpha_high: np.ndarray
    beta: np.ndarray
    width: np.ndarray
    wavelength: np.ndarray
    wavelength_low: np.ndarray
    wavelength_high: np.ndarray
    throughput: np.ndarray


def make_geometry(setting: str) -> Geometry:
    """Make the parametric geometry of a setting.

    Parameters
    ----------
    setting : str
        ``"12A"`` .. ``"34C"``.

    Returns
    -------
    Geometry
        ``distortion``, ``specwcs``, ``regions`` (nine planes, 10 % .. 90 % throughput) and ``wavelengthrange``.
        The inverse polynomials close to better than 0.01 pixel.
    """
    bands = mrs.bands_of_setting(setting)
    slices = [_slice_model(band, number) for band in bands for number in range(1, mrs.N_SLICES[int(band[0])] + 1)]
    labels = np.array([one["label"] for one in slices], dtype=np.int16)
    detector = ("slice_label", "power_y", "power_x")
    inverse = ("slice_label", "power_lambda", "power_alpha")

    def stack(name: str) -> np.ndarray:
        return np.stack([one[name] for one in slices])

    widths = [mrs.SLICE_WIDTH[int(band[0])] for band in bands]
    zeros = [_CHANNELS[int(band[0])].beta_zero for band in bands]
    beta = [zeros[bands.index(one["band"])] + (one["label"] % 100 - 1) * widths[bands.index(one["band"])]
            for one in slices]  # fmt: skip
    field = [_field_polynomials(band) for band in bands]
    coords = {"slice_label": labels, "band": list(bands)}
    distortion = xr.Dataset(
        {
            "alpha_coefficients": (detector, stack("alpha"), {"units": "arcsec"}),
            "alpha_x_shift": ("slice_label", stack("x_shift"), {"units": "pix"}),
            "slice_beta": ("slice_label", np.array(beta), {"units": "arcsec"}),
            "slice_width": ("band", np.array(widths), {"units": "arcsec"}),
            "beta_zero": ("band", np.array(zeros), {"units": "arcsec"}),
            "x_coefficients": (inverse, stack("x"), {"units": "pix"}),
            "y_coefficients": (inverse, stack("y"), {"units": "pix"}),
            "x_lambda_shift": ("slice_label", stack("lambda_shift"), {"units": "um"}),
            "y_lambda_shift": ("slice_label", stack("lambda_shift"), {"units": "um"}),
            **{
                name: (("band", *dims), np.stack([one[k] for one in field]), {"units": "arcsec"})
                for k, (name, dims) in enumerate(_FIELD_NAMES)
            },
        },
        coords,
        _attrs("distortion", setting),
    )
    specwcs = xr.Dataset(
        {
            "wavelength_coefficients": (detector, stack("wavelength"), {"units": "um"}),
            "wavelength_x_shift": ("slice_label", stack("x_shift"), {"units": "pix"}),
        },
        {"slice_label": labels},
        _attrs("specwcs", setting),
    )
    throughput, label_map = _slice_ends(distortion)
    planes = np.stack([np.where(throughput >= 0.1 * (k + 1), label_map, 0) for k in range(9)]).astype(np.int16)
    regions = xr.Dataset({"regions": (("plane", "y", "x"), planes, {"units": "1"})}, None, _attrs("regions", setting))
    return Geometry(setting, distortion, specwcs, regions, make_wavelengthrange(), throughput)


_FIELD_NAMES = (
    ("v2_coefficients", ("power_alpha", "power_beta")),
    ("v3_coefficients", ("power_alpha", "power_beta")),
    ("alpha_from_v2v3", ("power_v2", "power_v3")),
    ("beta_from_v2v3", ("power_v2", "power_v3")),
)


def make_wavelengthrange() -> xr.Dataset:
    """Return the wavelengthrange reference Dataset, limits [um] of all twelve bands."""
    limits = np.array([mrs.WAVELENGTH_RANGES[band] for band in mrs.BANDS])
    return xr.Dataset(
        {"limits": (("band", "limit"), limits, {"units": "um"})},
        {"band": list(mrs.BANDS)},
        _attrs("wavelengthrange", None),
    )


def load_geometry(setting: str, folder: str | Path) -> Geometry:
    """Read the geometry of a setting from real ASDF files (``*<setting>*distortion*.asdf`` and so on).

    Without a regions file the slice map is derived from the polynomials; slice ends are then sharp.
    """
    from mrsxr.geometry.detector import derive_slice_map
    from mrsxr.references.readers import read_reference

    distortion = read_reference(find_geometry_file(setting, folder, "distortion"), "distortion")
    specwcs = read_reference(find_geometry_file(setting, folder, "specwcs"), "specwcs")
    limits = read_reference(find_geometry_file(setting, folder, "wavelengthrange"), "wavelengthrange")
    found = sorted(Path(folder).glob(f"*{setting}*regions*.asdf"))
    if found:
        regions = read_reference(found[0], "regions")
        planes = np.asarray(regions["regions"].values)
        label_map = planes[min(7, planes.shape[0] - 1)]
    else:
        label_map = np.asarray(derive_slice_map(distortion, specwcs, limits))
        planes = np.repeat(label_map[None], 9, axis=0).astype(np.int16)
        attrs = _attrs("regions", setting)
        regions = xr.Dataset({"regions": (("plane", "y", "x"), planes, {"units": "1"})}, None, attrs)
    return Geometry(setting, distortion, specwcs, regions, limits, (label_map > 0).astype(np.float64))


def find_geometry_file(setting: str, folder: str | Path, kind: str) -> Path:
    """Return the file of a geometry kind for a setting in a folder; raise ReferenceFileError where there is none."""
    pattern = f"*{kind}*.asdf" if kind == "wavelengthrange" else f"*{setting}*{kind}*.asdf"
    found = sorted(Path(folder).glob(pattern))
    if not found:
        raise ReferenceFileError(f"{folder}: no file {pattern}; give a folder with the {kind} file of {setting}")
    return found[0]


def footprints(geometry: Geometry) -> dict[str, Footprints]:
    """Return the footprints of all lit pixels of a setting (throughput >= 10 %), one entry per band."""
    regions = np.asarray(geometry.regions["regions"].values)
    labels = np.asarray(geometry.distortion["slice_label"].values)
    out = {}
    for b, band in enumerate(mrs.bands_of_setting(geometry.setting)):
        lit = regions[0] // 100 == int(band[0])
        y, x = np.nonzero(lit)
        index = np.searchsorted(labels, regions[0][lit])

        def alpha(dx: float, y: np.ndarray = y, x: np.ndarray = x, index: np.ndarray = index) -> np.ndarray:
            return _polynomials(geometry.distortion, "alpha", index, y.astype(float), x + dx)

        def wavelength(dy: float, y: np.ndarray = y, x: np.ndarray = x, index: np.ndarray = index) -> np.ndarray:
            return _polynomials(geometry.specwcs, "wavelength", index, y + dy, x.astype(float))

        ends = np.sort([wavelength(-0.5), wavelength(0.5)], axis=0)
        sides = np.sort([alpha(-0.5), alpha(0.5)], axis=0)
        width = float(geometry.distortion["slice_width"].values[b])
        beta = geometry.distortion["slice_beta"].values[index]
        out[band] = Footprints(
            band, y, x, regions[0][lit], alpha(0.0), sides[0], sides[1], beta, np.full(y.size, width),
            wavelength(0.0), ends[0], ends[1], np.asarray(geometry.throughput[lit], dtype=float),
        )  # fmt: skip
    return out


def _polynomials(model: xr.Dataset, name: str, index: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return alpha or wavelength at places; powers that no slice uses are left out, which only saves time."""
    from ._exposure_kernels import polynomials

    values = np.ascontiguousarray(model[f"{name}_coefficients"].values, dtype=float)
    used = np.nonzero(np.any(values != 0, axis=0))
    trimmed = np.ascontiguousarray(values[:, : used[0].max() + 1, : used[1].max() + 1])
    return polynomials(trimmed, model[f"{name}_x_shift"].values, index, y, x)


def _attrs(kind: str, setting: str | None) -> dict[str, Any]:
    keys = mrs.setting_keywords(setting) if setting else {"DETECTOR": "", "BAND": "", "CHANNEL": ""}
    name = f"mrs{setting}" if setting else "mrs"
    return {
        "level": "reference", "kind": kind, "ref_id": f"{name}_{kind}_sim.asdf", "useafter": "2022-01-01T00:00:00",
        "detector": keys["DETECTOR"], "band": keys["BAND"], "channels": keys["CHANNEL"], "readpatt": "",
        "subarray": "",
    }  # fmt: skip


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = np.zeros((a.shape[0] + b.shape[0] - 1, a.shape[1] + b.shape[1] - 1))
    for (i, j), value in np.ndenumerate(a):
        out[i : i + b.shape[0], j : j + b.shape[1]] += value * b
    return out


def _add(*terms: np.ndarray) -> np.ndarray:
    out = np.zeros((max(t.shape[0] for t in terms), max(t.shape[1] for t in terms)))
    for term in terms:
        out[: term.shape[0], : term.shape[1]] += term
    return out


def _pad(coefficients: np.ndarray, n: int = N_POWERS) -> np.ndarray:
    out = np.zeros((n, n))
    out[: coefficients.shape[0], : coefficients.shape[1]] = coefficients
    return out


@lru_cache(maxsize=256)
def _slice_model(band: str, number: int) -> dict[str, Any]:
    """Return the forward and inverse polynomials of one slice."""
    channel = _CHANNELS[int(band[0])]
    place, run = (number - 1, 0) if number <= channel.runs[0][0] else (number - 1 - channel.runs[0][0], 1)
    count, first, last = channel.runs[run]
    x_shift = first + (last - first) * place / (count - 1)
    t = np.array([[-511.5 / _HALF], [1.0 / _HALF]])
    t2 = _multiply(t, t)
    # distance from the curved middle line of the slice, in pixels
    offset = _add(np.array([[0.0, 1.0]]), channel.bend * t2, -channel.lean * t)
    scale = channel.sign * channel.pixel * (1.0 + 0.025 * np.cos(0.9 * number))
    stretch = _add(np.array([[1.0]]), 0.004 * t)
    square = _multiply(offset, offset)
    alpha = scale * _add(_multiply(offset, stretch), 4e-4 * np.sin(0.7 * number) * square)
    low, high = COMMON_RANGE[band]
    per_row = (high - low) / (1023.0 - 2 * _MAX_ROW_SHIFT)
    shift = _MAX_ROW_SHIFT * np.sin(1.3 * number) * (1.0 if run == 0 else -0.9)
    rows = _add(_HALF * t, np.array([[shift]]), 0.15 * np.cos(0.8 * number + run) * offset, 0.004 * square)
    bow = 0.03 * (high - low) * _add(np.array([[1.0]]), -t2)
    middle = 0.5 * (low + high)
    wavelength = _add(np.array([[middle]]), channel.dispersion * per_row * rows, bow)
    inverse = _invert(alpha, wavelength, x_shift, middle, channel)
    return {
        "label": int(band[0]) * 100 + number, "band": band, "x_shift": x_shift, "alpha": _pad(alpha),
        "wavelength": _pad(wavelength), "lambda_shift": middle, **inverse,
    }  # fmt: skip


def _invert(
    alpha: np.ndarray, wavelength: np.ndarray, x_shift: float, middle: float, channel: _Channel
) -> dict[str, Any]:
    """Fit x and y as polynomials in (wavelength - middle, alpha) by least squares on a grid over the slice."""
    reach = 0.5 * channel.field / channel.pixel + 2.0
    y, along = np.meshgrid(np.linspace(-6, 1029, 32), np.linspace(-reach, reach, 9), indexing="ij")
    t = (y - 511.5) / _HALF
    dx = along - channel.bend * t**2 + channel.lean * t
    a = P.polyval2d(y, dx, alpha).ravel()
    w = P.polyval2d(y, dx, wavelength).ravel() - middle
    scale_a, scale_w = np.abs(a).max(), np.abs(w).max()
    powers = [(i, j) for i in range(8) for j in range(5) if i + j <= 7]
    matrix = np.stack([(w / scale_w) ** i * (a / scale_a) ** j for i, j in powers], axis=1)
    solved = np.linalg.lstsq(matrix, np.stack([dx.ravel() + x_shift, y.ravel()], axis=1), rcond=None)[0]
    x_coefficients, y_coefficients = np.zeros((N_POWERS, N_POWERS)), np.zeros((N_POWERS, N_POWERS))
    for (i, j), (cx, cy) in zip(powers, solved, strict=True):
        x_coefficients[i, j] = cx / scale_w**i / scale_a**j
        y_coefficients[i, j] = cy / scale_w**i / scale_a**j
    return {"x": x_coefficients, "y": y_coefficients}


def _field_polynomials(band: str) -> list[np.ndarray]:
    """Return V2, V3 from (alpha, beta) and back: a rotation with a flip of beta."""
    cos, sin = np.cos(_FIELD_ROTATION), np.sin(_FIELD_ROTATION)
    matrix = np.array([[cos, -sin], [-sin, -cos]])
    zero = np.array(FIELD_ZERO[band])
    back = np.linalg.inv(matrix)
    start = -back @ zero
    out = []
    for constant, rows in ((zero, matrix), (start, back)):
        rows_first = N_POWERS if constant is zero else N_POWERS_FIELD  # a Dataset holds one size of power_alpha
        for k in range(2):
            one = np.zeros((rows_first, N_POWERS_FIELD))
            one[0, 0], one[1, 0], one[0, 1] = constant[k], rows[k, 0], rows[k, 1]
            out.append(one)
    return out


def _slice_ends(distortion: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the throughput (y, x) of the slice ends and the label map of the largest footprint."""
    throughput = np.zeros(mrs.DETECTOR_SHAPE)
    label_map = np.zeros(mrs.DETECTOR_SHAPE, dtype=np.int16)
    y = np.arange(mrs.DETECTOR_SHAPE[0])[:, None]
    t = (y - 511.5) / _HALF
    for i, label in enumerate(distortion["slice_label"].values):
        channel = _CHANNELS[int(label) // 100]
        shift = float(distortion["alpha_x_shift"].values[i])
        middle = shift - channel.bend * t**2 + channel.lean * t
        reach = int(0.5 * channel.field / channel.pixel) + 4
        x = np.round(middle).astype(int) + np.arange(-reach, reach + 1)[None, :]
        alpha = P.polyval(x - shift, P.polyval(y, distortion["alpha_coefficients"].values[i]), tensor=False)
        width = _EDGE_WIDTH * channel.pixel
        half = 0.5 * channel.field + width * np.log(4.0)  # the 80 % throughput ends lie at half the field
        pass_through = 1.0 / (1.0 + np.exp((np.abs(alpha) - half) / width))
        rows = np.broadcast_to(y, x.shape)
        keep = (pass_through >= 0.1) & (pass_through > throughput[rows, x])
        throughput[rows[keep], x[keep]] = pass_through[keep]
        label_map[rows[keep], x[keep]] = label
    return throughput, label_map
