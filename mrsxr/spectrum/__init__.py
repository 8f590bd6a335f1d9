"""cube -> spectrum: aperture extraction and stitching of the bands."""

from .extract_1d import extract_spectrum
from .stitch import stitch_bands

__all__ = ["extract_spectrum", "stitch_bands"]
