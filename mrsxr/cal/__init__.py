"""Stage 2, rate -> cal: the steps that turn slopes into surface brightness on the detector, in the order of use."""

from .assign_wcs import assign_wcs
from .flat_field import divide_flat
from .fringe import divide_fringe_flat
from .master_background import subtract_master_background
from .photom import calibrate_flux

__all__ = [
    "assign_wcs",
    "divide_flat",
    "divide_fringe_flat",
    "calibrate_flux",
    "subtract_master_background",
]
