"""From steps to whole reductions: recipes, chains of steps, and the run over an observation."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
