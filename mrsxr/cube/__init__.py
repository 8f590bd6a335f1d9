"""cal -> cube: the dithers of one band, or of several, brought onto one grid."""

from .band_scale import match_bands
from .covariance import sum_variance
from .cube_build import build_cube, build_exposure_cubes
from .multiband import build_multiband_cube
from .psf import match_psf
from .resample import regrid
from .residual_fringe import correct_residual_fringe_cube
from .spectral_leak import correct_spectral_leak_cube

__all__ = [
    "build_cube",
    "build_exposure_cubes",
    "build_multiband_cube",
    "correct_residual_fringe_cube",
    "correct_spectral_leak_cube",
    "sum_variance",
    "match_bands",
    "match_psf",
    "regrid",
]
