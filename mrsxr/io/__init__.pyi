from ._blend import exposures_header, products_header
from ._names import product_name
from .doors import from_specutils, to_hdulist, to_specutils
from .exposures import open_exposures
from .files import FileInfo, Found, find_files
from .fits_out import write_fits
from .keys import key_of
from .observation import open_observation
from .products import load, load_dataset, planned, save
from .summary import Summary, summarize

__all__ = [
    "find_files", "open_exposures", "open_observation", "summarize", "key_of", "load", "load_dataset", "save",
    "write_fits", "to_hdulist", "to_specutils", "from_specutils", "exposures_header", "products_header", "planned",
    "product_name", "FileInfo", "Found", "Summary",
]  # fmt: skip
