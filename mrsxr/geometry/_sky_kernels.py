"""From slice coordinates to the sky, one point at a time, compiled. numpy, math and numba only.

These functions are written to be called from other compiled loops (cube building). Per exposure and output
grid one prepares, with :mod:`mrsxr.geometry.sky`:

* ``v2_matrix``, ``v3_matrix``: ``model["v2_coefficients"]`` and ``v3_coefficients`` of the band, float64;
* ``reference = (v2_ref [arcsec], v3_ref [arcsec], va_scale)`` as a float64 array: ``Pointing.reference``;
* ``matrix``: ``Pointing.matrix`` (telescope -> equatorial unit vectors).

Then a point costs two small polynomials, two sines, two cosines and one 3 x 3 product.
"""

from __future__ import annotations

import math

import numpy as np

from mrsxr.compiled import Array, njit

ARCSEC = math.pi / 180.0 / 3600.0


@njit(cache=True, nogil=True)
def slicer_to_v2v3(alpha, beta, v2_matrix, v3_matrix):
    """Return V2, V3 [arcsec] of a point (alpha, beta) [arcsec]."""
    v2 = 0.0
    v3 = 0.0
    for i in range(v2_matrix.shape[0] - 1, -1, -1):
        row2 = 0.0
        row3 = 0.0
        for j in range(v2_matrix.shape[1] - 1, -1, -1):
            row2 = row2 * beta + v2_matrix[i, j]
            row3 = row3 * beta + v3_matrix[i, j]
        v2 = v2 * alpha + row2
        v3 = v3 * alpha + row3
    return v2, v3


@njit(cache=True, nogil=True)
def v2v3_to_vector(v2, v3, reference, matrix):
    """Return the unit vector of a point (V2, V3) [arcsec] after velocity aberration and ``matrix``."""
    a = (reference[0] + reference[2] * (v2 - reference[0])) * ARCSEC
    d = (reference[1] + reference[2] * (v3 - reference[1])) * ARCSEC
    c = math.cos(d)
    ux = math.cos(a) * c
    uy = math.sin(a) * c
    uz = math.sin(d)
    return (
        matrix[0, 0] * ux + matrix[0, 1] * uy + matrix[0, 2] * uz,
        matrix[1, 0] * ux + matrix[1, 1] * uy + matrix[1, 2] * uz,
        matrix[2, 0] * ux + matrix[2, 1] * uy + matrix[2, 2] * uz,
    )


@njit(cache=True, nogil=True)
def slicer_to_sky(alpha, beta, v2_matrix, v3_matrix, reference, matrix):
    """Return right ascension (0 to 360) and declination [deg] of a point (alpha, beta) [arcsec]."""
    v2, v3 = slicer_to_v2v3(alpha, beta, v2_matrix, v3_matrix)
    wx, wy, wz = v2v3_to_vector(v2, v3, reference, matrix)
    ra = math.degrees(math.atan2(wy, wx))
    return ra + 360.0 if ra < 0.0 else ra, math.degrees(math.atan2(wz, math.hypot(wx, wy)))


@njit(cache=True, nogil=True)
def slicer_to_sky_many(
    alpha: Array, beta: Array, v2_matrix: Array, v3_matrix: Array, reference: Array, matrix: Array
) -> tuple[Array, Array]:
    """Return :func:`slicer_to_sky` of two 1-D arrays; NaN stays NaN."""
    ra, dec = np.empty(alpha.size), np.empty(alpha.size)
    for k in range(alpha.size):
        ra[k], dec[k] = slicer_to_sky(alpha[k], beta[k], v2_matrix, v3_matrix, reference, matrix)
    return ra, dec


@njit(cache=True, nogil=True)
def slicer_to_v2v3_many(alpha: Array, beta: Array, v2_matrix: Array, v3_matrix: Array) -> tuple[Array, Array]:
    """Return :func:`slicer_to_v2v3` of two 1-D arrays; NaN stays NaN."""
    v2, v3 = np.empty(alpha.size), np.empty(alpha.size)
    for k in range(alpha.size):
        v2[k], v3[k] = slicer_to_v2v3(alpha[k], beta[k], v2_matrix, v3_matrix)
    return v2, v3
