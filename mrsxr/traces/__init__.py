"""A model of the light of a point source on the detector, over all slices and dithers: its fit and what it gives."""

from .fit import fit_band
from .model import TraceModel, finer_pixels

__all__ = ["TraceModel", "finer_pixels", "fit_band"]
