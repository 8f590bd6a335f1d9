"""mrsxr: JWST MIRI MRS data from raw ramps to cubes, spectra and line maps, on xarray and dask.

Open data (``open_exposures``, ``open_observation``), find reference files (``References``), run the chains
(``make_rate``, ``make_cal``, ``make_cubes``, ``make_spectra``; ``reduce`` over several levels; ``run`` for a folder on
disk), save. The steps are reached by the product they make: ``mx.rate.subtract_dark``, ``mx.cal.assign_wcs``,
``mx.cube.build_cube``, ``mx.spectrum.extract_spectrum``. A name (``__init__.pyi``) is imported when it is first used.
Datasets and trees have the accessor ``ds.mrs`` (:mod:`mrsxr.accessor`).
"""

import gc
import importlib.util
import logging
import sys

import lazy_loader

from ._version import __version__ as __version__

_find, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name):
    """Import what a name stands for.

    Python looks for no cycles meanwhile, which took a fifth of the time: what modules make stays.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        return _find(name)
    finally:
        if before:
            gc.enable()


class _WithXarray:
    """Import the accessor behind xarray, when that is imported: ``import mrsxr`` alone stays light."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "xarray":
            return None
        sys.meta_path.remove(_WithXarray)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                importlib.import_module("mrsxr.accessor")

            spec.loader.exec_module = exec_module
        return spec


if "xarray" in sys.modules:
    importlib.import_module("mrsxr.accessor")
else:
    sys.meta_path.insert(0, _WithXarray)
