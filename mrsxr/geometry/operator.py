"""The sparse operator from the pixels of one exposure to the voxels of a grid, and its transpose.

It is made for a block of wavelength planes, used for everything that goes into the cube (flux, variances, systematic
errors, draws of noise), and thrown away: nothing of the size of a cube is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Placement:
    """Where the slices of one exposure lie on a grid.

    Parameters
    ----------
    edges : float64 (slice, 2 edges, 2 axes, power)
        Spaxels from the lower left corner of the grid: polynomials in (alpha - middle) / half.
    middle, half : float64 (slice)
        [arcsec]
    scale : float
        Barycentric factor on the wavelengths.
    """

    edges: np.ndarray
    middle: np.ndarray
    half: np.ndarray
    scale: float


@dataclass(frozen=True)
class Weighting:
    """How a pixel is spread over voxels: exact overlap ("drizzle") or by distance ("emsm", exponential Shepard).

    ``reach`` [spaxel] and ``reach_wavelength`` [um] are the region of interest, ``scale`` [spaxel^2] the width of
    exp(-d^2 / scale), d in spaxels and planes.
    """

    name: str = "drizzle"
    reach: float = 0.0
    reach_wavelength: float = 0.0
    scale: float = 1.0


@dataclass
class Sums:
    """Sums over the voxels of a block: (map, plane, spaxel) of maps and variances, (plane, spaxel) of the rest."""

    linear: np.ndarray
    square: np.ndarray
    weight: np.ndarray
    count: np.ndarray
    hole: np.ndarray = field(repr=False)

    @classmethod
    def zeros(cls, n_linear: int, n_square: int, n_planes: int, n_spaxels: int) -> Sums:
        """Return empty sums."""
        shape = (n_planes, n_spaxels)
        return cls(
            np.zeros((n_linear, *shape)), np.zeros((n_square, *shape)), np.zeros(shape), np.zeros(shape),
            np.zeros(shape, dtype=np.uint8),
        )  # fmt: skip


@dataclass(frozen=True)
class Operator:
    """Shares of the pixels of one exposure in the spaxels (``sky``) and planes (``wave``) of a block, by pixel."""

    sky_start: np.ndarray
    spaxel: np.ndarray
    area: np.ndarray
    wave_start: np.ndarray
    plane: np.ndarray
    length: np.ndarray
    status: np.ndarray
    weight: np.ndarray

    def _arrays(self) -> tuple[np.ndarray, ...]:
        return (self.sky_start, self.spaxel, self.area, self.wave_start, self.plane, self.length, self.status,
                self.weight)  # fmt: skip

    def add(self, linear: np.ndarray, square: np.ndarray, sums: Sums) -> None:
        """Add maps (map, pixel) that are averaged and variances (map, pixel) of independent pixels to ``sums``."""
        from ._operator_kernels import deposit

        targets = (sums.linear, sums.square, sums.weight, sums.count, sums.hole)
        deposit(*self._arrays(), np.ascontiguousarray(linear), square, *targets)  # type: ignore[call-arg]

    def variance(self, voxel_weight: np.ndarray, square: np.ndarray, linear: np.ndarray, out: np.ndarray) -> None:
        """Add to ``out`` (plane, square + linear) the part of these pixels in weighted sums over voxels.

        Parameters
        ----------
        voxel_weight : float64 (plane, spaxel)
            Weight of a voxel in the sum over its plane, divided by the sum of the weights of its pixels.
        square : float32 (map, pixel)
            Variances: the result is the variance of the sum with all covariance between voxels.
        linear : float32 (map, pixel)
            Errors common to all pixels: the result is the error of the sum.
        out : float64 (plane, square + linear), changed
        """
        from ._operator_kernels import reach_back

        reach_back(*self._arrays(), voxel_weight, square, linear, out)  # type: ignore[call-arg]


def make_operator(
    slice_index: np.ndarray,
    alpha: tuple[np.ndarray, ...],
    wavelength: tuple[np.ndarray, np.ndarray],
    status: np.ndarray,
    weight: np.ndarray,
    place: Placement,
    plane_edges: np.ndarray,
    shape: tuple[int, int],
    weighting: Weighting = Weighting(),
) -> Operator:
    """Make the operator of some pixels of one exposure onto some planes.

    Parameters
    ----------
    slice_index : int array (pixel)
        Row of the slice of each pixel in ``place``.
    alpha : (array, array) or (array, array, array)
        Alpha of the left and right side and, for "emsm", of the centre [arcsec]; by default the middle of both.
    wavelength : (array, array)
        Lower and upper end [um], of the observatory.
    status : uint8 array (pixel)
        0 good, 1 unusable (leaves a hole), 2 not of the sky, 3 unusable as it saturated.
    weight : float32 array (pixel)
        Further weight, 1 for jwst's.
    place : Placement
    plane_edges : float64 array (plane + 1) or (2, plane)
        Rising edges of the planes [um], barycentric; or lower and upper edges of planes that may leave gaps.
    shape : (int, int)
        Rows and columns of the grid.
    weighting : Weighting

    Returns
    -------
    Operator

    Notes
    -----
    Weight = area of overlap x length of overlap (Law et al. 2023, AJ 166, 45), or exp(-d^2 / scale) (jwst cube_build,
    weighting "emsm"). The dependency of the place on the sky on wavelength inside one pixel is neglected, as in jwst.
    """
    from . import _operator_kernels as kernels

    low, high = (np.asarray(end, dtype=np.float64) * place.scale for end in wavelength)
    planes = np.asarray(plane_edges, dtype=np.float64)
    if planes.ndim == 1:
        planes = np.stack([planes[:-1], planes[1:]])
    n_y, n_x = shape
    if weighting.name == "drizzle":
        left, right = alpha[:2]
        sky = kernels.overlap_entries(slice_index, left, right, status, place.edges, place.middle, place.half, n_y, n_x)
        wave = kernels.wavelength_entries(low, high, planes[0], planes[1])
    else:
        x, y = _centres(slice_index, alpha, place)
        sky = kernels.gaussian_entries(x, y, status, weighting.reach, weighting.scale, n_y, n_x)
        middle = 0.5 * (low + high)
        wave = kernels.distance_entries(middle, planes[0], planes[1], weighting.reach_wavelength, weighting.scale)
    return Operator(*sky, *wave, status, weight)  # type: ignore[call-arg]


def _centres(slice_index: np.ndarray, alpha: tuple[np.ndarray, ...], place: Placement) -> tuple[np.ndarray, ...]:
    """Return the centres of the pixels on the grid [spaxel]: midway between both edges of the slice."""
    middle = alpha[2] if len(alpha) > 2 else 0.5 * (alpha[0] + alpha[1])
    t = (middle - place.middle[slice_index]) / place.half[slice_index]
    lines = place.edges.mean(axis=1)  # (slice, axis, power)
    powers = t[None, :] ** np.arange(lines.shape[-1])[:, None]
    return tuple(np.einsum("pn,np->n", powers, lines[slice_index, axis]) for axis in (0, 1))
