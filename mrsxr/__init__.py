"""mrsxr: JWST MIRI MRS data from raw ramps to cubes, spectra and line maps, on xarray and dask."""
