"""Stage 2, rate -> cal: the steps that turn slopes into surface brightness on the detector, in the order of use."""

from mrsxr.attributes import BACKGROUNDS

from .background import fit_background_scale, subtract_background
from .background_combine import combine_backgrounds
from .background_match import fit_background_match, match_backgrounds
from .badpix_selfcal import find_bad_pixels, self_calibrate_bad_pixels
from .field_background import fit_field_scale, measure_field_background, subtract_field_background
from .flat_field import divide_flat
from .fringe import divide_fringe_flat
from .latents import latent_state, subtract_latents
from .master_background import background_on_detector, subtract_master_background
from .moving import assign_mtwcs, is_moving, target_position
from .offsets import measure_offsets, tie_bands
from .outlier_detection import detect_outliers, flag_outliers
from .photom import calibrate_flux
from .pixel_replace import replace_pixels
from .point_source import fit_point_source, subtract_point_source
from .psf import learn_psf, psf_of_images, psf_of_stpsf
from .residual_fringe import correct_residual_fringe
from .showers import clean_showers
from .sky_outliers import detect_sky_outliers
from .srctype import set_source_type
from .straylight import subtract_straylight
from .trace_model import fit_trace_model
from .wcs import assign_wcs

__all__ = [
    "BACKGROUNDS", "assign_wcs", "find_bad_pixels", "self_calibrate_bad_pixels", "fit_background_scale",
    "subtract_background", "set_source_type", "subtract_straylight", "clean_showers", "divide_flat",
    "divide_fringe_flat", "calibrate_flux", "correct_residual_fringe", "replace_pixels", "latent_state",
    "subtract_latents", "detect_outliers", "detect_sky_outliers", "flag_outliers", "is_moving", "target_position",
    "assign_mtwcs", "fit_background_match", "fit_trace_model", "fit_point_source", "learn_psf", "psf_of_images",
    "psf_of_stpsf", "subtract_point_source", "match_backgrounds", "measure_offsets", "tie_bands",
    "combine_backgrounds", "background_on_detector", "subtract_master_background", "measure_field_background",
    "fit_field_scale", "subtract_field_background",
]  # fmt: skip
