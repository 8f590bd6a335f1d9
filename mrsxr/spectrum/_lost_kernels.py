"""Kernels of lost light: what part of an aperture, weighted by the image of a point source, has no data."""

import math

import numpy as np

from mrsxr.compiled import njit

from ._aperture_kernels import circle_overlap

#: Columns: part of the light of the aperture without data, with saturated data, part of the annulus without data.
LOST, SATURATED, ANNULUS_LOST, N_LOST = 0, 1, 2, 3


@njit(cache=True, nogil=True)
def lost_planes(state, x, y, radii, sigmas, share, subpixels):
    """Return what is lost of every plane of a cube, float64 (plane, 3).

    Parameters
    ----------
    state : uint8 (plane, y, x)
        0 no data, 1 good, 2 saturated. Beyond the array there are no data.
    x, y : float
        Centre [pixel], counted from 0.
    radii : float64 (plane, 3)
        Aperture radius, inner and outer radius of the annulus [pixel]; an infinite aperture asks for nothing.
    sigmas : float64 (plane, 2)
        Of core and wing of the point source [pixel]; 0: extended, all of the aperture counts alike.
    share : float
        Part of the light in the wing.
    subpixels : int
        As of ``circle_overlap``.
    """
    n_planes, n_y, n_x = state.shape
    out = np.zeros((n_planes, N_LOST))
    for k in range(n_planes):
        far = max(radii[k, 0], radii[k, 2])
        if not far < 1e4:
            continue
        core, wing = sigmas[k]
        total, missing, saturated, ring, ring_missing = 0.0, 0.0, 0.0, 0.0, 0.0
        for j in range(math.floor(y - far), math.ceil(y + far) + 1):
            for i in range(math.floor(x - far), math.ceil(x + far) + 1):
                here = state[k, j, i] if 0 <= j < n_y and 0 <= i < n_x else 0
                part = circle_overlap(i - x, j - y, radii[k, 0], subpixels)
                if part > 0.0:
                    if core > 0.0:
                        square = -0.5 * ((i - x) ** 2 + (j - y) ** 2)
                        part *= (1.0 - share) / core**2 * math.exp(square / core**2) + share / wing**2 * math.exp(
                            square / wing**2
                        )
                    total += part
                    missing += part if here == 0 else 0.0
                    saturated += part if here == 2 else 0.0
                if radii[k, 2] > radii[k, 1]:
                    part = circle_overlap(i - x, j - y, radii[k, 2], subpixels)
                    part -= circle_overlap(i - x, j - y, radii[k, 1], subpixels)
                    ring += part
                    ring_missing += part if here == 0 else 0.0
        if total > 0.0:
            out[k, LOST], out[k, SATURATED] = missing / total, saturated / total
        if ring > 0.0:
            out[k, ANNULUS_LOST] = ring_missing / ring
    return out
