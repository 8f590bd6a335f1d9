"""Quick looks: detector image, flags, cube image, spectrum with its lines, and one picture of a whole run.

Every function returns a matplotlib Figure that belongs to no global state: show it in a notebook by naming it, write
it by :func:`save_figure`, or hand in ``ax`` to draw into a figure of your own.
"""

from ._cube import cube_image
from ._detector import detector_image, dq_image
from ._spectrum import spectrum
from ._style import save_figure
from ._summary import summary

__all__ = ["detector_image", "dq_image", "cube_image", "spectrum", "summary", "save_figure"]
