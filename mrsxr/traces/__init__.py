"""A model of the light of point sources on the detector, over all slices and dithers: its fit and what it gives."""

from .fit import fit_band
from .model import TraceModel, chosen, finer_pixels
from .pixels import Pixels

__all__ = ["Pixels", "TraceModel", "chosen", "finer_pixels", "fit_band"]
