"""Fringes that the fringe flat leaves: fits on batches of columns of the detector or of spectra."""

from .before import corrected_before, without_dichroics
from .fit import METHODS, TOLERANCE, Method, correct_frames, correct_spectra, correct_where_gained, spectrum_families

__all__ = [
    "METHODS",
    "TOLERANCE",
    "Method",
    "correct_frames",
    "correct_spectra",
    "correct_where_gained",
    "corrected_before",
    "spectrum_families",
    "without_dichroics",
]
