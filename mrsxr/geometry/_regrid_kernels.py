"""Kernel of the overlaps of two sky grids."""

import math

import numpy as np

from mrsxr.compiled import njit
from mrsxr.geometry._operator_kernels import AREA_FLOOR, cell_overlaps


@njit(cache=True, nogil=True)
def _entries(x, y, n_y, n_x, start, spaxel, part, area, fill):
    """Fill the entries of all target spaxels from their corners, or only count them."""
    cover = np.empty((16, 18))
    qx, qy = np.empty(4), np.empty(4)
    n, target = 0, 0
    for j in range(x.shape[0] - 1):
        for i in range(x.shape[1] - 1):
            start[target] = n
            qx[0], qx[1], qx[2], qx[3] = x[j, i], x[j, i + 1], x[j + 1, i + 1], x[j + 1, i]
            qy[0], qy[1], qy[2], qy[3] = y[j, i], y[j, i + 1], y[j + 1, i + 1], y[j + 1, i]
            area[target] = 0.5 * abs((qx[2] - qx[0]) * (qy[3] - qy[1]) - (qx[3] - qx[1]) * (qy[2] - qy[0]))
            target += 1
            if not (math.isfinite(area[target - 1])):
                continue
            i0, j0 = math.floor(qx.min()), math.floor(qy.min())
            columns, rows = math.floor(qx.max()) - i0 + 1, math.floor(qy.max()) - j0 + 1
            if i0 >= n_x or j0 >= n_y or i0 + columns <= 0 or j0 + rows <= 0:
                continue
            if rows > cover.shape[0] or columns + 2 > cover.shape[1]:
                cover = np.empty((rows + 8, columns + 10))
            for corner in range(4):
                qx[corner] -= i0
                qy[corner] -= j0
            cell_overlaps(qx, qy, cover)
            for row in range(max(-j0, 0), min(rows, n_y - j0)):
                for column in range(max(-i0, 0), min(columns, n_x - i0)):
                    if cover[row, column] > AREA_FLOOR:
                        if fill:
                            spaxel[n] = (j0 + row) * n_x + i0 + column
                            part[n] = cover[row, column]
                        n += 1
    start[target] = n
    return n


def quad_overlaps(x, y, n_y, n_x):
    """Return the overlaps of quadrilaterals with the cells of a grid.

    Parameters
    ----------
    x, y : float64 (rows + 1, columns + 1)
        Corners of the target spaxels in source spaxels, counted from the lower left corner of the source grid.
    n_y, n_x : int
        Rows and columns of the source grid.

    Returns
    -------
    start : int64 (target + 1)
    spaxel : int64 (entry)
        j * n_x + i of the source spaxel.
    part : float64 (entry)
        Area of overlap [source spaxel].
    area : float64 (target)
        Area of the target spaxel [source spaxel].
    """
    count = (x.shape[0] - 1) * (x.shape[1] - 1)
    start, area = np.zeros(count + 1, np.int64), np.zeros(count)
    none, nothing = np.empty(0, np.int64), np.empty(0)
    n = _entries(x, y, n_y, n_x, start, none, nothing, area, False)
    spaxel, part = np.empty(n, np.int64), np.empty(n)
    _entries(x, y, n_y, n_x, start, spaxel, part, area, True)
    return start, spaxel, part, area
