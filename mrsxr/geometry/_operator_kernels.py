"""Kernels of the sparse operator from detector pixels to voxels: its entries, its use and the use of its transpose.

An entry of the operator is the product of a share on the sky (area of overlap of pixel and spaxel, or a Gaussian of
their distance) and a share in wavelength, so that both are kept apart: a pixel has ``n_spaxel + n_plane`` numbers
instead of ``n_spaxel x n_plane``. The pixels of one band are sorted by wavelength, so that a block of planes is a
contiguous range of them and the order of the sums does not depend on the blocks: any chunking gives the same bits.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from mrsxr.compiled import Array, njit

#: Overlaps below this fraction of a spaxel are rounding, not coverage.
AREA_FLOOR = 1e-9

GOOD, HOLE, OUTSIDE, SATURATED = 0, 1, 2, 3


@njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
def _row_cells(cover, start, x_low, x_high, height):
    """Add one piece of an edge, inside one row of cells, to the cover of the cells to its right."""
    if x_low > x_high:
        x_low, x_high = x_high, x_low
    first, last = int(x_low), int(x_high)
    if first == last:
        right = height * (first + 1.0 - 0.5 * (x_low + x_high))
        cover[start + first] += right
        cover[start + first + 1] += height - right
        return
    slope = height / (x_high - x_low)
    for column in range(first, last + 1):
        left, end = max(x_low, float(column)), min(x_high, column + 1.0)
        piece = slope * (end - left)
        right = piece * (column + 1.0 - 0.5 * (left + end))
        cover[start + column] += right
        cover[start + column + 1] += piece - right


@njit(cache=True, nogil=True, error_model="numpy")
def _edge_cells(cover, width, xa, ya, xb, yb):
    """Walk one edge of a polygon through the rows of cells."""
    if ya == yb:
        return
    sign = 1.0
    if ya > yb:
        xa, ya, xb, yb, sign = xb, yb, xa, ya, -1.0
    slope = (xb - xa) / (yb - ya)
    low, high = min(xa, xb), max(xa, xb)
    for row in range(int(ya), int(yb) + 1):
        y0, y1 = max(ya, float(row)), min(yb, row + 1.0)
        if y1 <= y0:
            continue
        x0 = min(max(xa + slope * (y0 - ya), low), high)
        x1 = min(max(xa + slope * (y1 - ya), low), high)
        _row_cells(cover, row * width, x0, x1, sign * (y1 - y0))


@njit(cache=True, nogil=True, error_model="numpy")
def _quad_of_pixel(edges, t_left, t_right):
    """Return the corners of a pixel: alpha left and right on both edges of its slice, in spaxels of the grid.

    The eight polynomials side by side: none waits for the last power of another.
    """
    x0 = x1 = x2 = x3 = y0 = y1 = y2 = y3 = 0.0
    for power in range(edges.shape[2] - 1, -1, -1):
        x_low, y_low = edges[0, 0, power], edges[0, 1, power]
        x_high, y_high = edges[1, 0, power], edges[1, 1, power]
        x0, y0 = x0 * t_left + x_low, y0 * t_left + y_low
        x1, y1 = x1 * t_left + x_high, y1 * t_left + y_high
        x2, y2 = x2 * t_right + x_high, y2 * t_right + y_high
        x3, y3 = x3 * t_right + x_low, y3 * t_right + y_low
    return (x0, x1, x2, x3), (y0, y1, y2, y3)


@njit(cache=True, nogil=True)
def _box(values):
    """Return the first cell that a quadrilateral meets along an axis and the number of those it may meet."""
    low = math.floor(min(min(values[0], values[1]), min(values[2], values[3])))
    return low, math.floor(max(max(values[0], values[1]), max(values[2], values[3]))) - low + 1


@njit(cache=True, nogil=True, error_model="numpy")
def _add_quad(x, y, n_y, n_x, cover, spaxel, area, n):
    """Add the overlaps of a quadrilateral with cells behind the first n; return their number and the work space.

    The number is -1 where there is no room for them. Each edge adds the signed area between itself and the right side
    of the cells to ``cover``, which grows to the box of the quadrilateral and two columns; the running sum along a row
    then is the area inside the polygon (Green's theorem, as in exact-coverage rasterisers). That equals
    Sutherland-Hodgman clipping of every cell, at the cost of the edges only.
    """
    (i0, columns), (j0, rows) = _box(x), _box(y)
    if i0 >= n_x or j0 >= n_y or i0 + columns <= 0 or j0 + rows <= 0:
        return n, cover
    if n + rows * columns > spaxel.size:
        return -1, cover
    width = columns + 2
    if rows * width > cover.size:
        cover = np.empty(2 * rows * width)
    for cell in range(rows * width):
        cover[cell] = 0.0
    x0, x1, x2, x3 = x[0] - i0, x[1] - i0, x[2] - i0, x[3] - i0
    y0, y1, y2, y3 = y[0] - j0, y[1] - j0, y[2] - j0, y[3] - j0
    _edge_cells(cover, width, x0, y0, x1, y1)
    _edge_cells(cover, width, x1, y1, x2, y2)
    _edge_cells(cover, width, x2, y2, x3, y3)
    _edge_cells(cover, width, x3, y3, x0, y0)
    twice = (x0 * y1 - x1 * y0) + (x1 * y2 - x2 * y1) + (x2 * y3 - x3 * y2) + (x3 * y0 - x0 * y3)
    sign = -1.0 if twice > 0.0 else 1.0
    for j in range(max(-j0, 0), min(rows, n_y - j0)):
        total = 0.0
        for i in range(min(columns, n_x - i0)):
            total += cover[j * width + i]
            if i0 + i >= 0 and sign * total > AREA_FLOOR:
                spaxel[n] = (j0 + j) * n_x + i0 + i
                area[n] = sign * total
                n += 1
    return n, cover


@njit(cache=True, nogil=True, error_model="numpy")
def _overlaps(
    slice_index, alpha_left, alpha_right, edges, alpha_middle, alpha_half, status, n_y, n_x, start, spaxel, area
):
    """Fill the entries of the pixels; return their number, -1 where there is no room for them."""
    n, cover = 0, np.empty(256)
    for pixel in range(status.size):
        start[pixel] = n
        if status[pixel] == OUTSIDE:
            continue
        s = slice_index[pixel]
        t_left = (alpha_left[pixel] - alpha_middle[s]) / alpha_half[s]
        t_right = (alpha_right[pixel] - alpha_middle[s]) / alpha_half[s]
        x, y = _quad_of_pixel(edges[s], t_left, t_right)
        n, cover = _add_quad(x, y, n_y, n_x, cover, spaxel, area, n)
        if n < 0:
            return n
    start[status.size] = n
    return n


def _with_room(fill, given, n_y, n_x, kinds):
    """Return start, spaxel and area as a kernel fills them, with as much room for entries as it needs."""
    *_, status = given
    start, room = np.zeros(status.size + 1, np.int64), 9 * status.size + 64
    while True:
        spaxel, area = (np.empty(room, kind) for kind in kinds)
        n = fill(*given, n_y, n_x, start, spaxel, area)
        if n >= 0:
            return start, spaxel[:n], area[:n]
        room *= 4


def _counted(fill: Callable[..., int], given: tuple[Any, ...], size: int) -> tuple[Array, Array, Array]:
    """Return start, places and shares as a kernel fills them, and counts those for which there is no room."""
    start, n, room = np.zeros(size + 1, np.int64), 3 * size + 64, 0
    while n > room:
        room = n
        place, share = np.empty(room, np.int32), np.empty(room, np.float32)
        n = fill(*given, start, place, share)
    return start, place[:n], share[:n]


def overlap_entries(
    slice_index: Array, alpha_left: Array, alpha_right: Array, status: Array, edges: Array, alpha_middle: Array,
    alpha_half: Array, n_y: int, n_x: int,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Return the shares on the sky by exact overlap: (start, spaxel, share), compressed by pixel.

    Parameters
    ----------
    slice_index, alpha_left, alpha_right, status : arrays (pixel)
        Row of the slice in ``edges``, alpha of both sides [arcsec]; pixels with status 2 get no entry.
    edges : float64 (slice, 2 edges, 2 axes, power)
        Position on the grid in spaxels, counted from its lower left corner, of the lower and the upper edge
        of each slice: polynomials in t = (alpha - alpha_middle) / alpha_half.
    n_y, n_x : int

    Returns
    -------
    start : int64 array (pixel + 1)
    spaxel : int32 array (entry)
        j * n_x + i
    share : float32 array (entry)
        Area [spaxel].
    """
    given = (slice_index, alpha_left, alpha_right, edges, alpha_middle, alpha_half, status)
    return _with_room(_overlaps, given, n_y, n_x, (np.int32, np.float32))


@njit(cache=True, nogil=True, error_model="numpy")
def _quads(corners_x, corners_y, status, n_y, n_x, start, spaxel, area):
    """Fill the entries of quadrilaterals; return their number, -1 where there is no room for them."""
    n, cover = 0, np.empty(256)
    for quad in range(status.size):
        start[quad] = n
        if status[quad] == OUTSIDE:
            continue
        cx, cy = corners_x[quad], corners_y[quad]
        x, y = (cx[0], cx[1], cx[2], cx[3]), (cy[0], cy[1], cy[2], cy[3])
        n, cover = _add_quad(x, y, n_y, n_x, cover, spaxel, area, n)
        if n < 0:
            return n
    start[status.size] = n
    return n


def quad_entries(x: Array, y: Array, status: Array, n_y: int, n_x: int) -> tuple[Array, Array, Array]:
    """Return the areas of overlap of quadrilaterals and spaxels: (start, spaxel, area), compressed by quadrilateral.

    Parameters
    ----------
    x, y : float64 (quad, 4)
        Corners in spaxels, counted from the lower left corner of the grid.
    status : uint8 array (quad)
        Those with status 2 get no entry.
    n_y, n_x : int
    """
    return _with_room(_quads, (x, y, status), n_y, n_x, (np.int64, np.float64))


@njit(cache=True, nogil=True)
def _gaussian_cells(x, y, status, reach, scale, n_y, n_x, start, spaxel, share):
    """Fill, and count on without room, the spaxels within ``reach`` of each pixel."""
    n = 0
    for pixel in range(status.size):
        start[pixel] = n
        if status[pixel] == OUTSIDE:
            continue
        for j in range(max(math.ceil(y[pixel] - reach - 0.5), 0), min(math.floor(y[pixel] + reach - 0.5) + 1, n_y)):
            for i in range(max(math.ceil(x[pixel] - reach - 0.5), 0), min(math.floor(x[pixel] + reach - 0.5) + 1, n_x)):
                square = (i + 0.5 - x[pixel]) ** 2 + (j + 0.5 - y[pixel]) ** 2
                if square <= reach * reach:
                    if n < spaxel.size:
                        spaxel[n] = j * n_x + i
                        share[n] = math.exp(-square / scale)
                    n += 1
    start[status.size] = n
    return n


def gaussian_entries(
    x: Array, y: Array, status: Array, reach: float, scale: float, n_y: int, n_x: int
) -> tuple[Array, Array, Array]:
    """Return the shares on the sky by distance, exp(-d^2 / scale) within ``reach``: (start, spaxel, share).

    Parameters
    ----------
    x, y : float64 arrays (pixel)
        Centres of the pixels in spaxels from the lower left corner of the grid.
    status : uint8 array (pixel)
    reach : float
        Radius of the region of interest [spaxel].
    scale : float
        [spaxel^2]
    n_y, n_x : int
    """
    return _counted(_gaussian_cells, (x, y, status, reach, scale, n_y, n_x), status.size)


@njit(cache=True, nogil=True)
def _overlaps_in_wavelength(low, high, plane_low, plane_high, start, plane, share):
    """Fill, and count on without room, the overlap of each interval with each plane, in units of the plane."""
    n = first = 0
    for pixel in range(low.size):
        start[pixel] = n
        while first > 0 and plane_high[first - 1] > low[pixel]:
            first -= 1
        while first < plane_low.size and not plane_high[first] > low[pixel]:  # pixels are sorted: the next is near
            first += 1
        k = first
        while k < plane_low.size and plane_low[k] < high[pixel]:
            length = min(high[pixel], plane_high[k]) - max(low[pixel], plane_low[k])
            if length > 0.0:
                if n < plane.size:
                    plane[n] = k
                    share[n] = length / (plane_high[k] - plane_low[k])
                n += 1
            k += 1
    start[low.size] = n
    return n


def wavelength_entries(low: Array, high: Array, plane_low: Array, plane_high: Array) -> tuple[Array, Array, Array]:
    """Return the shares in wavelength by overlap: (start, plane, share), compressed by pixel.

    Parameters
    ----------
    low, high : float64 arrays (pixel)
        Ends of the pixels [um].
    plane_low, plane_high : float64 arrays (plane)
        Lower and upper edges of the planes [um], both rising.

    Returns
    -------
    start : int64 array (pixel + 1)
    plane : int32 array (entry)
    share : float32 array (entry)
        Length of overlap in units of the plane.
    """
    return _counted(_overlaps_in_wavelength, (low, high, plane_low, plane_high), low.size)


@njit(cache=True, nogil=True)
def _distances_in_wavelength(middle, centres, steps, reach, scale, start, plane, share):
    """Fill, and count on without room, the planes within ``reach`` of each pixel."""
    n = 0
    for pixel in range(middle.size):
        start[pixel] = n
        k = np.searchsorted(centres, middle[pixel] - reach)
        while k < centres.size and centres[k] - middle[pixel] <= reach:
            if n < plane.size:
                plane[n] = k
                share[n] = math.exp(-(((centres[k] - middle[pixel]) / steps[k]) ** 2) / scale)
            n += 1
            k += 1
    start[middle.size] = n
    return n


def distance_entries(
    middle: Array, plane_low: Array, plane_high: Array, reach: float, scale: float
) -> tuple[Array, Array, Array]:
    """Return the shares in wavelength by distance, exp(-(d / step)^2 / scale) within ``reach``.

    Parameters
    ----------
    middle : float64 array (pixel)
        [um]
    plane_low, plane_high : float64 arrays (plane)
        Lower and upper edges of the planes [um].
    reach : float
        [um]
    scale : float
        [plane^2]

    Returns
    -------
    start, plane, share
        As of :func:`wavelength_entries`.
    """
    centres, steps = 0.5 * (plane_low + plane_high), plane_high - plane_low
    return _counted(_distances_in_wavelength, (middle, centres, steps, reach, scale), middle.size)


@njit(cache=True, nogil=True)
def deposit(
    sky_start: Array, spaxel: Array, area: Array, wave_start: Array, plane: Array, length: Array, status: Array,
    weight: Array, linear: Array, square: Array, linear_sum: Array, square_sum: Array, weight_sum: Array,
    count: Array, hole: Array,
) -> None:  # fmt: skip
    """Add the pixels of one exposure to the sums over the voxels of a block of planes.

    Parameters
    ----------
    sky_start, spaxel, area, wave_start, plane, length : arrays
        The operator, see :func:`overlap_entries` and :func:`wavelength_entries`.
    status : uint8 array (pixel)
        0 good, 1 unusable (leaves a hole), 2 not of the sky, 3 unusable as it saturated.
    weight : float32 array (pixel)
        Further weight of each pixel.
    linear : float32 array (map, pixel)
        Maps that are averaged: surface brightness, noise draws, systematic errors.
    square : float32 array (map, pixel)
        Variances of independent pixels.
    linear_sum, square_sum : float64 (map, plane, spaxel), changed
        sum(w f), sum(w^2 v)
    weight_sum, count : float64 (plane, spaxel), changed
        sum(w), number of pixels.
    hole : uint8 (plane, spaxel), changed
        Bit 0 where an unusable pixel reaches the voxel, bit 1 where one that saturated does.
    """
    for pixel in range(status.size):  # one sum after the other: no value is read again as a target may have changed it
        first, last = sky_start[pixel], sky_start[pixel + 1]
        if status[pixel] == HOLE or status[pixel] == SATURATED:
            kind = 1 if status[pixel] == HOLE else 3
            for e in range(wave_start[pixel], wave_start[pixel + 1]):
                for s in range(first, last):
                    hole[plane[e], spaxel[s]] |= kind
        elif status[pixel] == GOOD:
            here, shares = spaxel[first:last], area[first:last]
            for e in range(wave_start[pixel], wave_start[pixel + 1]):
                k, along = plane[e], weight[pixel] * float(length[e])
                weights, counts = weight_sum[k], count[k]
                for s in range(here.size):
                    weights[here[s]] += along * shares[s]
                    counts[here[s]] += 1.0
                for m in range(linear.shape[0]):
                    sums, value = linear_sum[m, k], linear[m, pixel]
                    for s in range(here.size):
                        sums[here[s]] += along * shares[s] * value
                for m in range(square.shape[0]):
                    sums, value = square_sum[m, k], square[m, pixel]
                    for s in range(here.size):
                        w = along * shares[s]
                        sums[here[s]] += w * w * value


@njit(cache=True, nogil=True)
def reach_back(
    sky_start: Array, spaxel: Array, area: Array, wave_start: Array, plane: Array, length: Array, status: Array,
    weight: Array, voxel_weight: Array, square: Array, linear: Array, out: Array,
) -> None:  # fmt: skip
    """Add what the pixels of one exposure give to a weighted sum over the voxels of each plane.

    Parameters
    ----------
    voxel_weight : float64 (plane, spaxel)
        Weight of each voxel in the sum of its plane, divided by the sum of the weights of its pixels.
    square, linear : float32 arrays (map, pixel)
        Variances of independent pixels, and systematic errors that are common to all.
    out : float64 (plane, n_square + n_linear), changed
        sum over pixels of (sum_v a_v W_vp)^2 v_p, and sum over pixels of sum_v a_v W_vp s_p.

    Notes
    -----
    This is the transpose of :func:`deposit`: the variance of a sum over voxels without neglecting that neighbouring
    voxels share pixels.
    """
    for pixel in range(status.size):
        if status[pixel] != GOOD:
            continue
        first, last = sky_start[pixel], sky_start[pixel + 1]
        here, shares = spaxel[first:last], area[first:last]
        for e in range(wave_start[pixel], wave_start[pixel + 1]):
            k, along = plane[e], weight[pixel] * float(length[e])
            total, weights = 0.0, voxel_weight[k]
            for s in range(here.size):
                total += weights[here[s]] * shares[s]
            if total == 0.0:
                continue
            total *= along
            for m in range(square.shape[0]):
                out[k, m] += total * total * square[m, pixel]
            for m in range(linear.shape[0]):
                out[k, square.shape[0] + m] += total * linear[m, pixel]
