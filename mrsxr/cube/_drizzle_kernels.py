"""Drizzle kernels: exact overlap of a quadrilateral with a grid, and the sums over the voxels of a block.

The pixels of one band are sorted by wavelength, so that a block of planes is a contiguous range of them and
the order of the sums does not depend on the blocks: any chunking gives the same bits.
"""

import math

import numpy as np
from numba import njit

#: Overlaps below this fraction of a spaxel are rounding, not coverage.
AREA_FLOOR = 1e-9

GOOD, HOLE, OUTSIDE = 0, 1, 2


@njit(cache=True, nogil=True)
def _row_cells(cover, row, x_low, x_high, height):
    """Add one piece of an edge, inside one row of cells, to the cover of the cells to its right."""
    if x_low > x_high:
        x_low, x_high = x_high, x_low
    first, last = int(x_low), int(x_high)
    if first == last:
        right = height * (first + 1.0 - 0.5 * (x_low + x_high))
        cover[row, first] += right
        cover[row, first + 1] += height - right
        return
    slope = height / (x_high - x_low)
    for column in range(first, last + 1):
        left, end = max(x_low, float(column)), min(x_high, column + 1.0)
        piece = slope * (end - left)
        right = piece * (column + 1.0 - 0.5 * (left + end))
        cover[row, column] += right
        cover[row, column + 1] += piece - right


@njit(cache=True, nogil=True)
def _edge_cells(cover, xa, ya, xb, yb):
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
        _row_cells(cover, row, x0, x1, sign * (y1 - y0))


@njit(cache=True, nogil=True)
def cell_overlaps(x, y, cover):
    """Fill ``cover`` with the area of overlap of a quadrilateral with each cell of a unit grid.

    Parameters
    ----------
    x, y : float64 array of 4
        Corners in units of cells, in order around the quadrilateral, none of them negative.
    cover : float64 array (rows, columns + 2)
        Work space that reaches past the quadrilateral; the area of cell (j, i) is left in ``cover[j, i]``.

    Notes
    -----
    Each edge adds the signed area between itself and the right side of the cells; the running sum along a row
    then is the area inside the polygon (Green's theorem, as in exact-coverage rasterisers). The result equals
    Sutherland-Hodgman clipping of every cell, at the cost of the edges only.
    """
    n_rows, n_columns = int(max(y[0], y[1], y[2], y[3])) + 1, int(max(x[0], x[1], x[2], x[3])) + 2
    for row in range(n_rows):
        for column in range(n_columns):
            cover[row, column] = 0.0
    twice = 0.0
    for corner in range(4):
        following = (corner + 1) % 4
        _edge_cells(cover, x[corner], y[corner], x[following], y[following])
        twice += x[corner] * y[following] - x[following] * y[corner]
    sign = -1.0 if twice > 0.0 else 1.0
    for row in range(n_rows):
        total = 0.0
        for column in range(n_columns):
            total += cover[row, column]
            cover[row, column] = sign * total


@njit(cache=True, nogil=True)
def _horner(coefficients, t):
    total = 0.0
    for power in range(coefficients.shape[0] - 1, -1, -1):
        total = total * t + coefficients[power]
    return total


@njit(cache=True, nogil=True)
def _quad_of_pixel(edges, t_left, t_right, x, y):
    """Set the corners of a pixel: alpha left and right on both edges of its slice, in spaxels of the grid."""
    x[0], y[0] = _horner(edges[0, 0], t_left), _horner(edges[0, 1], t_left)
    x[1], y[1] = _horner(edges[1, 0], t_left), _horner(edges[1, 1], t_left)
    x[2], y[2] = _horner(edges[1, 0], t_right), _horner(edges[1, 1], t_right)
    x[3], y[3] = _horner(edges[0, 0], t_right), _horner(edges[0, 1], t_right)


@njit(cache=True, nogil=True)
def _deposit(cover, rows, columns, i0, j0, k0, k1, low, high, f, v, plane_first, flux_sum, weight_sum, var_sum, count):
    """Add one good pixel to all voxels that it reaches."""
    _, n_y, n_x = flux_sum.shape
    for j in range(max(-j0, 0), min(rows, n_y - j0)):
        for i in range(max(-i0, 0), min(columns, n_x - i0)):
            area = cover[j, i]
            if area <= AREA_FLOOR:
                continue
            for k in range(k0, k1):
                length = min(high, k + 1.0) - max(low, float(k))
                if length <= 0.0:
                    continue
                weight = area * length
                plane = k - plane_first
                flux_sum[plane, j0 + j, i0 + i] += weight * f
                weight_sum[plane, j0 + j, i0 + i] += weight
                var_sum[plane, j0 + j, i0 + i] += weight * weight * v
                count[plane, j0 + j, i0 + i] += 1.0


@njit(cache=True, nogil=True)
def _mark(cover, rows, columns, i0, j0, first, last, hole):
    """Mark the voxels that an unusable pixel reaches."""
    _, n_y, n_x = hole.shape
    for j in range(max(-j0, 0), min(rows, n_y - j0)):
        for i in range(max(-i0, 0), min(columns, n_x - i0)):
            if cover[j, i] > AREA_FLOOR:
                hole[first:last, j0 + j, i0 + i] = 1


@njit(cache=True, nogil=True)
def drizzle_block(
    first, last, slice_index, alpha_left, alpha_right, low_wavelength, high_wavelength, value, variance,
    status, edges, alpha_middle, alpha_half, wavelength_scale, wavelength_start, wavelength_step, plane_first,
    flux_sum, weight_sum, var_sum, count, hole,
):  # fmt: skip
    """Add the pixels ``first .. last - 1`` of one dither to the sums of a block of planes.

    Parameters
    ----------
    first, last : int
        Range of the pixels, which are sorted by wavelength.
    slice_index, alpha_left, alpha_right, low_wavelength, high_wavelength : arrays (pixel)
        Row of the slice in ``edges``, alpha of both sides [arcsec] and wavelengths of both ends [um].
    value, variance, status : arrays (pixel)
        Surface brightness, its variance, and 0 good, 1 unusable (leaves a hole), 2 not of the sky.
    edges : float64 (slice, 2 edges, 2 axes, power)
        Position on the grid in spaxels, counted from its lower left corner, of the lower and the upper edge
        of each slice: polynomials in t = (alpha - alpha_middle) / alpha_half.
    wavelength_scale : float
        Barycentric factor of the dither.
    wavelength_start, wavelength_step : float
        Lower edge of plane 0 and width of a plane [um].
    plane_first : int
        Plane of the grid at which the block starts.
    flux_sum, weight_sum, var_sum, count : float64 (plane, y, x), changed
        sum(w f), sum(w), sum(w^2 var), number of pixels; w = area [spaxel] x overlap in wavelength [plane].
    hole : uint8 (plane, y, x), changed
        1 where an unusable pixel reaches the voxel.
    """
    n_planes, n_y, n_x = flux_sum.shape
    x, y = np.empty(4), np.empty(4)
    cover = np.empty((16, 18))
    for pixel in range(first, last):
        if status[pixel] == OUTSIDE:
            continue
        low = (low_wavelength[pixel] * wavelength_scale - wavelength_start) / wavelength_step
        high = (high_wavelength[pixel] * wavelength_scale - wavelength_start) / wavelength_step
        k0 = max(math.floor(low), plane_first)
        k1 = min(math.ceil(high), plane_first + n_planes)
        if not k0 < k1:
            continue
        s = slice_index[pixel]
        t_left = (alpha_left[pixel] - alpha_middle[s]) / alpha_half[s]
        t_right = (alpha_right[pixel] - alpha_middle[s]) / alpha_half[s]
        _quad_of_pixel(edges[s], t_left, t_right, x, y)
        i0, j0 = math.floor(x.min()), math.floor(y.min())
        columns, rows = math.floor(x.max()) - i0 + 1, math.floor(y.max()) - j0 + 1
        if i0 >= n_x or j0 >= n_y or i0 + columns <= 0 or j0 + rows <= 0:
            continue
        if rows > cover.shape[0] or columns + 2 > cover.shape[1]:
            cover = np.empty((rows + 8, columns + 10))
        for corner in range(4):
            x[corner] -= i0
            y[corner] -= j0
        cell_overlaps(x, y, cover)
        if status[pixel] == GOOD:
            f, v = float(value[pixel]), float(variance[pixel])
            _deposit(cover, rows, columns, i0, j0, k0, k1, low, high, f, v, plane_first,
                     flux_sum, weight_sum, var_sum, count)  # fmt: skip
        else:
            _mark(cover, rows, columns, i0, j0, k0 - plane_first, k1 - plane_first, hole)
