"""Stage 1, ramp -> rate: the steps that turn counts up the ramp into slopes, in the order of use."""

from .charge_migration import flag_charge_migration
from .dark import subtract_dark
from .dq_init import flag_bad_pixels
from .emicorr import correct_emi
from .firstframe import flag_first_frame
from .gain_scale import scale_gain
from .group_scale import scale_groups
from .ipc import correct_ipc
from .jump import flag_jumps
from .lastframe import flag_last_frame
from .linearity import correct_linearity
from .persistence import flag_persistence
from .ramp_fit import fit_integrations, fit_ramps, fit_ramps_and_integrations
from .refpix import subtract_reference_pixels
from .reset import subtract_reset
from .rscd import correct_rscd, flag_rscd
from .saturation import flag_saturation
from .showers import flag_showers, remove_showers, shower_model

__all__ = [
    "scale_groups",
    "flag_bad_pixels",
    "correct_emi",
    "flag_saturation",
    "correct_ipc",
    "flag_first_frame",
    "flag_last_frame",
    "subtract_reset",
    "correct_linearity",
    "flag_rscd",
    "correct_rscd",
    "subtract_dark",
    "subtract_reference_pixels",
    "flag_charge_migration",
    "flag_jumps",
    "flag_showers",
    "remove_showers",
    "shower_model",
    "flag_persistence",
    "fit_ramps",
    "fit_integrations",
    "fit_ramps_and_integrations",
    "scale_gain",
]
