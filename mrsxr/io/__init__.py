"""Reading and writing MRS data: FITS of every level (also those of jwst), netCDF4 and zarr."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
