"""Pictures: detector, ramps, flags, cubes and maps on the sky, spectra and line fits, one picture of a whole run.

Every function draws into ``ax`` and returns the Axes, an array of them where a picture has several panels. Without
``ax`` a new figure comes from pyplot, so that a notebook shows it by itself; :func:`save_figure` writes and closes it.
Pictures of the sky need axes with a celestial WCS: :func:`sky_axes` makes them.
"""

from ._compare import compare
from ._cube import cube_image, position_velocity
from ._detector import detector_image, dq_image
from ._excitation import excitation
from ._lines import line_fit
from ._maps import channel_maps, line_map, line_maps
from ._ramps import ramps
from ._sky import sky_axes
from ._spectrum import spectrum
from ._style import save_figure
from ._summary import summary

__all__ = [
    "detector_image", "dq_image", "ramps", "cube_image", "spectrum", "line_fit", "line_map", "line_maps",
    "channel_maps", "position_velocity", "excitation", "compare", "summary", "sky_axes", "save_figure",
]  # fmt: skip
