"""Stage 1, ramp -> rate: the steps that turn counts up the ramp into slopes, in the order of use."""

from .dark import subtract_dark
from .dq_init import flag_bad_pixels
from .jump import flag_jumps
from .lastframe import flag_last_frame
from .linearity import correct_linearity
from .ramp_fit import fit_integrations, fit_ramps
from .saturation import flag_saturation

__all__ = [
    "flag_bad_pixels",
    "flag_saturation",
    "flag_last_frame",
    "correct_linearity",
    "subtract_dark",
    "flag_jumps",
    "fit_ramps",
    "fit_integrations",
]
