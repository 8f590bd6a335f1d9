"""A path on the sky across a cube: boxes along it, and their overlap with the spaxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord

from mrsxr.arguments import as_sky
from mrsxr.errors import MrsxrError

from .place import Place


@dataclass(frozen=True)
class Boxes:
    """Boxes along a path: where their middles lie and which spaxels they cover.

    Parameters
    ----------
    offset : array (box)
        Along the path [arcsec].
    ra, dec : array (box)
        [deg]
    start, spaxel, part : arrays
        Areas of overlap [spaxel] of each box with each spaxel, compressed by box.
    area : float
        Of a box [spaxel].
    """

    offset: np.ndarray
    ra: np.ndarray
    dec: np.ndarray
    start: np.ndarray
    spaxel: np.ndarray
    part: np.ndarray
    area: float


def as_path(value: Any, what: str = "path") -> Any:
    """Return the corners (ra, dec) [deg] of a path.

    Parameters
    ----------
    value : SkyCoord, region, sequence of places, or None
        A SkyCoord of two or more places, a line of the package regions, or places as :func:`mrsxr.arguments.as_sky`
        reads them.
    what : str
        The argument, for messages.
    """
    if value is None:
        return None
    if hasattr(value, "start") and hasattr(value, "end"):  # LineSkyRegion
        value = [value.start, value.end]
    value = getattr(value, "vertices", value)
    corners = [as_sky(one, what) for one in value] if np.iterable(value) and not isinstance(value, str) else []
    if len(corners) < 2:
        raise MrsxrError(f"{what} has {len(corners)} places on the sky; expected two or more, as a SkyCoord of several")
    return corners


def through(center: tuple[float, float], position_angle: float, length: float) -> list[tuple[float, float]]:
    """Return the ends [deg] of a path through a place, of a length [arcsec], at an angle from north to east [deg]."""
    middle = SkyCoord(*center, unit="deg")
    ends = (middle.directional_offset_by(position_angle * u.deg, side * length / 2 * u.arcsec) for side in (-1, 1))
    return [(float(end.ra.deg), float(end.dec.deg)) for end in ends]


def boxes_along(
    place: Place, corners: Sequence[tuple[float, float]], step: float, width: float, *, middle: bool = False
) -> Boxes:
    """Return boxes along a path.

    Parameters
    ----------
    place : Place
        The spaxels.
    corners : sequence of (ra, dec)
        [deg]; straight lines between them on the tangent plane.
    step, width : float
        Size of the boxes along and across the path [arcsec].
    middle : bool
        Count from the middle of the path, where a box then lies; else from its first corner, where the first box does.

    Returns
    -------
    Boxes
    """
    from ._operator_kernels import GOOD, quad_entries

    scale = np.array(place.step)
    knots = np.stack(place.to_pixels(*np.array(corners, float).T), axis=1) * scale  # [arcsec] along the axes of spaxels
    sides = np.diff(knots, axis=0)
    lengths = np.hypot(*sides.T)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise MrsxrError("a part of the path has no length, or lies on the other half of the sky")
    far = np.concatenate([[0.0], np.cumsum(lengths)])
    origin = far[-1] / 2 if middle else 0.0
    first = -int((origin + 1e-6 * step) // step)
    at = np.arange(first, int((far[-1] - origin + 1e-6 * step) // step) + 1) * step
    segment = np.clip(np.searchsorted(far, at + origin, side="right") - 1, 0, lengths.size - 1)
    along = sides[segment] / lengths[segment, None]
    centre = knots[segment] + along * (at + origin - far[segment])[:, None]
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    signs = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) / 2.0
    quads = centre[:, None] + signs[:, :1] * step * along[:, None] + signs[:, 1:] * width * across[:, None]
    x, y = (np.ascontiguousarray(quads[..., k] / scale[k] + 0.5) for k in (0, 1))
    status = np.full(at.size, GOOD, np.uint8)
    start, spaxel, part = quad_entries(x, y, status, *place.shape)
    ra, dec = place.to_sky(*(centre / scale).T)
    return Boxes(at, ra, dec, start, spaxel, part, float(step * width / abs(scale[0] * scale[1])))
