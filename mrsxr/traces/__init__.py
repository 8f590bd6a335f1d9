"""A model of the light of a point source on the detector, over all slices and dithers: its fit and what it gives."""

from .fit import Pixels, fit_band
from .model import TraceModel, chosen, finer_pixels

__all__ = ["Pixels", "TraceModel", "chosen", "finer_pixels", "fit_band"]
