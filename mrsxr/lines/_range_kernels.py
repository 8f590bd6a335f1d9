"""Kernels of where a line stands in a spectrum: the Gaussian that fits best, and the planes that hold its light.

Arrays are on the planes of a window; ``weight`` is the power of each plane inside the extent, 0 outside.
"""

import math

from mrsxr.compiled import njit

FAINT = 0.1  # a line ends where its Gaussian falls below this part of the error of a voxel
FARTHEST = 6.0  # sigma
SURE = 3.0  # errors that light beyond the Gaussian must exceed, to count as wings
TINY = 1e-7  # least error of a voxel, in parts of the brightest


@njit(cache=True, nogil=True)
def find_line(lines, sigma2, weight, shapes, length):
    """Return (number, signal to noise, reach in sigma) of the Gaussian of ``shapes`` (shape, plane) that fits best.

    ``length``: by what the variance of a mean exceeds that of independent voxels. Number -1 where no error is known, or
    no light is there.
    """
    top = 0.0
    for i in range(lines.size):
        if weight[i] > 0.0:
            top = max(top, abs(lines[i]))
    best, found, reach = -1, 0.0, 0.0
    if not top > 0.0:
        return best, found, reach
    for k in range(shapes.shape[0]):
        signal, square, total = 0.0, 0.0, 0.0
        for i in range(lines.size):
            if weight[i] > 0.0 and sigma2[i] >= 0.0:
                part = shapes[k, i] / max(sigma2[i], (TINY * top) ** 2)
                signal += part * lines[i]
                square += part * shapes[k, i]
                total += shapes[k, i] ** 2
        if square > 0.0 and signal > found * math.sqrt(square):
            best, found = k, signal / math.sqrt(square)
            reach = signal / square / math.sqrt(total / square)  # peak over the error of a voxel
    reach = min(math.sqrt(2.0 * math.log(max(reach, 1.0) / FAINT)), FARTHEST)
    return best, found / math.sqrt(length), reach


@njit(cache=True, nogil=True)
def cut_to(weight, low, high, first, last, out):
    """Fill the weights of the planes inside velocities, those at both ends by their part."""
    for i in range(weight.size):
        part = (min(last, high[i]) - max(first, low[i])) / (high[i] - low[i])
        out[i] = min(max(part, 0.0), 1.0) * weight[i]
