"""What people write for a place, an angle, a wavelength, a band ..., read into the plain numbers that steps work with.

Every reader takes None for None, gives numbers in the units of the package (deg, arcsec, um, km/s) and refuses the rest
in one line. Steps read their arguments by name (:data:`READERS`); other public functions do by :func:`reads`,
recipes by the readers of their steps.
"""

from .calls import READERS, need_data, need_paths, parameters_of, read_arguments, reader_of, reads
from .values import (
    SOURCE_TYPES,
    as_arcsec,
    as_arcsec2,
    as_band,
    as_band_words,
    as_bands,
    as_circle,
    as_deg,
    as_kms,
    as_kms_extent,
    as_kms_list,
    as_number,
    as_numbers,
    as_places,
    as_redshift,
    as_sky,
    as_source_type,
    as_um,
    as_um_place,
    as_um_range,
    as_um_ranges,
    as_um_width,
    as_um_zoom,
    bands_held,
    split_bands,
)

__all__ = [
    "READERS", "need_data", "need_paths", "parameters_of", "read_arguments", "reader_of", "reads", "as_arcsec",
    "as_arcsec2", "as_band", "as_band_words", "as_bands", "as_circle", "as_deg", "as_kms", "as_kms_extent",
    "as_kms_list", "as_number", "as_numbers", "as_places", "as_redshift", "as_sky", "as_source_type", "as_um",
    "as_um_place", "as_um_range", "as_um_ranges", "as_um_width", "as_um_zoom", "bands_held", "split_bands",
    "SOURCE_TYPES",
]  # fmt: skip
