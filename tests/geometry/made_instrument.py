"""A made-up instrument with exactly invertible (linear) geometry: two bands of three slices, 64 rows."""

from __future__ import annotations

import functools

import numpy as np
import xarray as xr

LABELS = np.array([101, 102, 103, 201, 202, 203], dtype=np.int16)
CENTRES = np.array([60.0, 90.0, 120.0, 600.0, 640.0, 680.0])
SCALE = np.array([0.2, 0.2, 0.2, -0.21, -0.21, -0.21])  # arcsec / pixel
ZERO = np.array([5.3, 5.3, 5.3, 8.1, 8.1, 8.1])  # um
DISPERSION = np.array([8.7e-4] * 3 + [1.3e-3] * 3)  # um / row
TILT = 0.002  # alpha per row
SHAPE = (64, 1032)
MIDDLE = 31.5
HALF = {101: 1.9, 102: 1.9, 103: 1.9, 201: 2.2, 202: 2.2, 203: 2.2}


def made_model(bands: tuple[str, str] = ("1A", "2A"), seed: int | None = None) -> xr.Dataset:
    """Return distortion and specwcs of the instrument in one Dataset."""
    n = LABELS.size
    forward = np.zeros((2, n, 3, 3))
    inverse = np.zeros((2, n, 3, 3))
    skew = 1e-5  # wavelength per column
    for s in range(n):
        forward[0, s, 0, 0], forward[0, s, 1, 0], forward[0, s, 0, 1] = -TILT * MIDDLE, TILT, SCALE[s]
        forward[1, s, 0, 0], forward[1, s, 1, 0], forward[1, s, 0, 1] = ZERO[s], DISPERSION[s], skew
        # x', y from (lambda - zero, alpha): the inverse of a 2 x 2 matrix
        matrix = np.linalg.inv(np.array([[SCALE[s], TILT], [skew, DISPERSION[s]]]))
        for k in range(2):
            inverse[k, s, 0, 1], inverse[k, s, 1, 0] = matrix[k]
            inverse[k, s, 0, 0] = matrix[k, 0] * TILT * MIDDLE
        inverse[0, s, 0, 0] += CENTRES[s]
    v2, v3 = np.zeros((2, 2, 3, 3))
    for k in range(2):
        v2[k, 0, 0], v2[k, 1, 0], v2[k, 0, 1], v2[k, 1, 1] = -503.3 - 0.1 * k, 0.989, -0.1465, 1e-3
        v3[k, 0, 0], v3[k, 1, 0], v3[k, 0, 1], v3[k, 2, 0] = -318.9 + 0.2 * k, -0.1465, -0.989, 5e-4
    width = np.array([0.18, 0.28])
    zero = -width
    polynomial = ("slice_label", "power_y", "power_x")
    back = ("slice_label", "power_lambda", "power_alpha")
    sky = ("band", "power_alpha", "power_beta")
    return xr.Dataset(
        {
            "alpha_coefficients": (polynomial, forward[0], {"units": "arcsec"}),
            "alpha_x_shift": ("slice_label", CENTRES, {"units": "pix"}),
            "wavelength_coefficients": (polynomial, forward[1], {"units": "um"}),
            "wavelength_x_shift": ("slice_label", CENTRES, {"units": "pix"}),
            "slice_beta": ("slice_label", np.r_[-1:2, -1:2] * np.repeat(width, 3), {"units": "arcsec"}),
            "slice_width": ("band", width, {"units": "arcsec"}),
            "beta_zero": ("band", zero, {"units": "arcsec"}),
            "x_coefficients": (back, inverse[0], {"units": "pix"}),
            "x_lambda_shift": ("slice_label", ZERO, {"units": "um"}),
            "y_coefficients": (back, inverse[1], {"units": "pix"}),
            "y_lambda_shift": ("slice_label", ZERO, {"units": "um"}),
            "v2_coefficients": (sky, v2, {"units": "arcsec"}),
            "v3_coefficients": (sky, v3, {"units": "arcsec"}),
        },
        coords={"slice_label": LABELS, "band": np.array(bands)},
    )


def made_slice_map() -> np.ndarray:
    """Return the labels of the instrument: every pixel with |alpha| below the half length of its slice."""
    out = np.zeros(SHAPE, np.int16)
    y, x = np.indices(SHAPE)
    for s, label in enumerate(LABELS):
        alpha = SCALE[s] * (x - CENTRES[s]) + TILT * (y - MIDDLE)
        out[np.abs(alpha) <= HALF[int(label)]] = label
    return out


@functools.cache
def real_model(shared_data, setting: str, delivery: str = "flt9") -> xr.Dataset:
    """Return distortion and specwcs of a real delivery in one Dataset."""
    from mrsxr.geometry.detector import coordinate_model
    from mrsxr.references.distortion import read_distortion, read_specwcs

    stem = f"{shared_data}/coords_{delivery}/jwst_miri_mrs{setting}"
    distortion = read_distortion(f"{stem}_distortion_{delivery}.asdf")
    return coordinate_model(distortion, read_specwcs(f"{stem}_specwcs_{delivery}.asdf"))


@functools.cache
def real_labels(shared_data, setting: str) -> np.ndarray:
    """Return the CDP-8b slice mask of a setting."""
    from astropy.io import fits

    return fits.getdata(f"{shared_data}/regions/mrs_regions_cdp8b_{setting}.fits.gz").astype(np.int16)
