"""Kernels of the trace model: the profile of a point on the detector, its spectrum, and the fits of both.

Lengths are in units of the FWHM at the wavelength of the pixel: u along the slice, v across. The profile is
start(u, v) (1 + sum c_ij B_i(u) B_j(v)) with cubic B-splines B of unit ``KNOT`` over -REACH ... REACH; c is linear in
wavelength between nodes.
"""

import math

import numpy as np

from mrsxr.compiled import njit

REACH, KNOT = 2.0, 0.4
N_SPLINE = 13  # 2 REACH / KNOT + 3
WIDE = 4  # unknowns of a node of the spectrum: the source, and a level and two slopes of the light around it


@njit(cache=True, nogil=True)
def start_profile(u, v):
    """Return the profile to start from: a Moffat function of FWHM 1 and exponent 2.5, 1 at its peak."""
    return (1.0 + 4.0 * (2.0**0.4 - 1.0) * (u * u + v * v)) ** -2.5


@njit(cache=True, nogil=True)
def cubic(t, weights):
    """Fill the four cubic B-splines that are not zero at t, counted in knots; return the number of the first."""
    first = math.floor(t)
    s = t - first
    weights[0] = (1 - s) ** 3 / 6
    weights[1] = (3 * s**3 - 6 * s**2 + 4) / 6
    weights[2] = (-3 * s**3 + 3 * s**2 + 3 * s + 1) / 6
    weights[3] = s**3 / 6
    return first


@njit(cache=True, nogil=True)
def _spline(place, weights):
    """Fill the four cubic B-splines that are not zero at ``place``; return the number of the first, -1 outside."""
    t = (place + REACH) / KNOT
    if not 0 <= math.floor(t) <= N_SPLINE - 4:
        return -1
    return cubic(t, weights)


@njit(cache=True, nogil=True)
def profile_at(u, v, node, c, a, b):
    """Return the profile at a place; ``node`` is a fractional place among the nodes of ``c`` (node, i, j)."""
    i, j = _spline(u, a), _spline(v, b)
    if i < 0 or j < 0:
        return 0.0
    k = min(max(int(node), 0), max(c.shape[0] - 2, 0))
    share = min(max(node - k, 0.0), 1.0) if c.shape[0] > 1 else 0.0
    total = 1.0
    for m in range(4):
        for n in range(4):
            value = (1 - share) * c[k, i + m, j + n]
            if share > 0:
                value += share * c[k + 1, i + m, j + n]
            total += a[m] * b[n] * value
    return start_profile(u, v) * total


@njit(cache=True, nogil=True)
def profiles(u, v, node, c, out):
    """Fill the profile at many places."""
    a, b = np.empty(4), np.empty(4)
    for p in range(u.size):
        out[p] = profile_at(u[p], v[p], node[p], c, a, b)


@njit(cache=True, nogil=True)
def spectrum_equations(place, profile, along, across, flux, weight, band, right):
    """Add the pixels of one exposure to the banded equations of its spectrum, linear between nodes a pixel apart.

    Parameters
    ----------
    place : float64 (pixel)
        Fractional number of the node of the wavelength of each pixel.
    profile, along, across : float64 (pixel)
        What a unit of the source and of the slopes of the light around it gives.
    flux, weight : float64 (pixel)
    band : float64 (2 WIDE, WIDE nodes), changed
        Lower form of ``scipy.linalg.solveh_banded``.
    right : float64 (WIDE nodes), changed
    """
    row = np.empty(2 * WIDE)
    n_nodes = right.size // WIDE
    for p in range(place.size):
        if not weight[p] > 0:
            continue
        k = min(max(int(place[p]), 0), n_nodes - 2)
        share = min(max(place[p] - k, 0.0), 1.0)
        for side in range(2):
            part = share if side else 1 - share
            row[side * WIDE] = part * profile[p]
            row[side * WIDE + 1] = part
            row[side * WIDE + 2] = part * along[p]
            row[side * WIDE + 3] = part * across[p]
        for m in range(2 * WIDE):
            w = weight[p] * row[m]
            right[k * WIDE + m] += w * flux[p]
            for n in range(m + 1):
                band[m - n, k * WIDE + n] += w * row[n]


@njit(cache=True, nogil=True)
def profile_equations(u, v, node, light, rest, weight, normal, right):
    """Add pixels to the equations of the profile at each node, weighted by how near they are to it.

    Parameters
    ----------
    u, v, node : float64 (pixel)
    light : float64 (pixel)
        Spectrum of the source at the pixel.
    rest : float64 (pixel)
        Flux less the light around the source and less ``light`` times the start profile.
    weight : float64 (pixel)
    normal, right : float64 (node, n, n), (node, n), changed
        n = N_SPLINE^2; upper triangle.
    """
    a, b = np.empty(4), np.empty(4)
    value, where = np.empty(16), np.empty(16, np.int64)
    for p in range(u.size):
        i, j = _spline(u[p], a), _spline(v[p], b)
        if i < 0 or j < 0 or not weight[p] > 0:
            continue
        e = light[p] * start_profile(u[p], v[p])
        for m in range(4):
            for n in range(4):
                value[4 * m + n] = e * a[m] * b[n]
                where[4 * m + n] = (i + m) * N_SPLINE + j + n
        for k in range(right.shape[0]):
            near = weight[p] * (1 - abs(node[p] - k))
            if near > 0:
                for m in range(16):
                    w = near * value[m]
                    right[k, where[m]] += w * rest[p]
                    for n in range(m, 16):
                        normal[k, where[m], where[n]] += w * value[n]


@njit(cache=True, nogil=True)
def faded(u, v, node, c, a, b, level, whole, edge):
    """Return the profile above a level, whole within a radius and nothing at another."""
    fade = min((edge - math.sqrt(u * u + v * v)) / (edge - whole), 1.0)
    return (profile_at(u, v, node, c, a, b) - level) * fade * fade * (3 - 2 * fade) if fade > 0 else 0.0


@njit(cache=True, nogil=True)
def finer(u, v, width, node, light, level, c, n, whole, edge, out):
    """Fill, for each of ``n`` parts of a pixel, by how much the model differs there from that of the whole pixel.

    The model in a part is the mean of what pixels of all phases show of it there. The mean over a pixel centred on
    the part is taken by ``n`` places, as the width of the part adds what these lack of the width of the pixel; the
    profile fades before it is averaged: the light moved from the core arrives in the wings, and none is lost.

    Parameters
    ----------
    u, v, node, light : float64 (pixel)
    level : float64 (pixel)
        Of the profile where it fades: what is smooth there needs no parts, and would end in an edge that is not of
        the sky.
    whole, edge : float
        Radii between which the profile fades.
    width : float64 (pixel)
        Signed width of a pixel in u.
    out : float32 (pixel, n), changed
    """
    a, b = np.empty(4), np.empty(4)
    fine = np.empty(2 * n - 1)
    for p in range(u.size):
        for k in range(2 * n - 1):
            fine[k] = faded(u[p] + width[p] * ((k + 1) / n - 1.0), v[p], node[p], c, a, b, level[p], whole, edge)
        for k in range(n):
            out[p, k] = light[p] * (fine[k : k + n].mean() - fine[n - 1])
