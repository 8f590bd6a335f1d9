"""Look into the cubes of all bands in the browser: images, spectra of regions, fits of lines."""

from .page import explore

__all__ = ["explore"]
