"""cal -> cube: the dithers of one band, or of several, brought onto one grid."""

from .covariance import sum_variance
from .cube_build import build_cube, build_exposure_cubes
from .multiband import build_multiband_cube

__all__ = ["build_cube", "build_exposure_cubes", "build_multiband_cube", "sum_variance"]
