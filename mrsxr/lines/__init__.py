"""spectrum, cube -> lines: the line list, fits of one line or a thousand, maps and what they are for."""

from .binning import bin_cube, bin_spaxels, bin_spectra, paint_bins
from .cut import position_velocity
from .excitation import h2_excitation
from .fit import fit_line, fit_lines
from .linelist import in_range, line_list
from .maps import line_ratio, mask_maps
from .model import line_model
from .moment_maps import channel_maps, moments, subtract_continuum
from .table import line_table
from .velocity import band_of_line, line_range, with_velocity

__all__ = [
    "line_list", "in_range", "fit_line", "fit_lines", "line_model", "line_table", "mask_maps", "line_ratio",
    "subtract_continuum", "moments", "channel_maps", "bin_spaxels", "bin_cube", "bin_spectra", "paint_bins",
    "h2_excitation", "with_velocity", "line_range", "band_of_line", "position_velocity",
]  # fmt: skip
