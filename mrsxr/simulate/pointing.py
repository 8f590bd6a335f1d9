"""Where the telescope looks: dither offsets, pointing keywords and the way from the sky to slice coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from mrsxr.geometry.sky import Pointing, sky_to_v2v3, v2v3_to_sky, v2v3_to_slicer

V2_REF, V3_REF = -503.31815, -319.02771  # arcsec, reference point of the MRS (SIAF, aperture MIRIFU_CHANNEL1A)
V3I_YANG, VPARITY = 8.32934, -1

#: Offsets (X, Y) [arcsec] in the MRS ideal frame (PRDOPSSOC-055), four-point patterns.
DITHERS = {
    "POINT": ((1.14796, -0.43441), (-0.94204, 0.24429), (0.83998, -0.21109), (-1.25919, 0.46752)),
    "EXTENDED": ((0.13795, -0.44878), (-0.23470, 0.48203), (-0.14302, -0.49074), (0.04942, 0.52403)),
}


@dataclass(frozen=True)
class Aim:
    """Pointing of one exposure, as its header tells it, and the line-of-sight velocity [m/s] of the observatory.

    ``moved``: by how much the light of a band lies elsewhere, in V2 and V3 [arcsec].
    """

    pointing: Pointing
    velosys: float = 0.0
    moved: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def aim_at(ra: float, dec: float, roll: float, offset: tuple[float, float], va_scale: float, velosys: float) -> Aim:
    """Return the pointing that puts a target [deg] at an offset (X, Y) [arcsec] in the ideal frame.

    X = -(V2 - V2_REF) and Y = V3 - V3_REF; the reference position is found by iteration.
    """
    v2, v3 = V2_REF - offset[0], V3_REF + offset[1]
    ra_ref, dec_ref = ra, dec
    for _ in range(6):
        pointing = Pointing(ra_ref, dec_ref, roll, V2_REF, V3_REF, va_scale)
        here_ra, here_dec = v2v3_to_sky(v2, v3, pointing)
        ra_ref, dec_ref = float((ra_ref + ra - here_ra) % 360), float(dec_ref + dec - here_dec)
    return Aim(Pointing(ra_ref, dec_ref, roll, V2_REF, V3_REF, va_scale), velosys)


def sky_to_slicer(
    ra: np.ndarray | float, dec: np.ndarray | float, aim: Aim, band: str, distortion: xr.Dataset,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return alpha, beta [arcsec] in a band of sky positions [deg]."""
    v2, v3 = sky_to_v2v3(ra, dec, aim.pointing)
    more = aim.moved.get(band, (0.0, 0.0))
    return v2v3_to_slicer(v2 + more[0], v3 + more[1], band, distortion)
