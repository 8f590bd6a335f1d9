"""cube -> spectrum: point or extended, extraction and its errors, fringes and leak of spectra, stitching of bands."""

from .at import extract_at
from .detector import fit_spectrum
from .exact_errors import extraction_weights, set_exact_errors
from .extract_1d import extract_spectrum
from .fixed_pattern import correct_fixed_pattern
from .fringe_1d import correct_residual_fringe_1d
from .lost_light import say_what_is_lost
from .source_type import decide_source_type
from .spectral_leak import correct_spectral_leak
from .stitch import stitch_bands
from .wavelengths import correct_wavelengths, measure_velocity

__all__ = [
    "correct_fixed_pattern",
    "correct_residual_fringe_1d",
    "correct_spectral_leak",
    "correct_wavelengths",
    "decide_source_type",
    "extract_at",
    "extract_spectrum",
    "extraction_weights",
    "fit_spectrum",
    "measure_velocity",
    "say_what_is_lost",
    "set_exact_errors",
    "stitch_bands",
]
