"""Look into the cubes of all bands in the browser: images, spectra of regions, fits of lines."""

from .page import explore
from .serve import make_server

__all__ = ["explore", "make_server"]
