"""The coordinates of a cube as a gWCS in the ASDF extension, as in the s3d files of ``jwst``.

specutils and jdaviz take the wavelengths of a JWST cube from there alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits

from . import _asdf_text
from ._asdf_text import END, HEAD, array, beside, scale, shift, then, transform

_DOCUMENT = """{head}meta:
  wcs: !<tag:stsci.edu:gwcs/wcs-1.2.0>
    name: ''
    pixel_shape: null
    steps:
    - !<tag:stsci.edu:gwcs/step-1.1.0>
      frame: !<tag:stsci.edu:gwcs/frame-1.0.0>
        axes_names: [x, y, z]
        axes_order: [0, 1, 2]
        axes_type: [SPATIAL, SPATIAL, SPECTRAL]
        axis_physical_types: ['custom:SPATIAL', 'custom:SPATIAL', 'custom:SPECTRAL']
        name: detector
        naxes: 3
        unit: [!unit/unit-1.0.0 pixel, !unit/unit-1.0.0 pixel, !unit/unit-1.0.0 pixel]
      transform: !transform/concatenate-1.2.0
        bounding_box: !transform/property/bounding_box-1.0.0
          ignore: []
          intervals: {{x0: [0, {x_last}], x1: [0, {y_last}], x: [0, {z_last}]}}
          order: F
        forward:
        - {sky}
        - {wavelength}
        inputs: [x0, x1, x]
        outputs: [alpha_C, delta_C, y]
    - !<tag:stsci.edu:gwcs/step-1.1.0>
      frame: !<tag:stsci.edu:gwcs/composite_frame-1.0.0>
        frames:
        - !<tag:stsci.edu:gwcs/celestial_frame-1.0.0>
          axes_names: [RA, DEC]
          axes_order: [0, 1]
          axis_physical_types: [pos.eq.ra, pos.eq.dec]
          name: sky
          reference_frame: !<tag:astropy.org:astropy/coordinates/frames/icrs-1.1.0>
            frame_attributes: {{}}
          unit: [!unit/unit-1.0.0 deg, !unit/unit-1.0.0 deg]
        - !<tag:stsci.edu:gwcs/spectral_frame-1.0.0>
          axes_names: [wavelength]
          axes_order: [2]
          axis_physical_types: [em.wl]
          name: spectral
          unit: [!unit/unit-1.0.0 um]
        name: world
      transform: null
{end}"""


def extension(cards: Mapping[str, Any], wavelength: np.ndarray, shape: tuple[int, int]) -> fits.BinTableHDU:
    """Return the ASDF extension of a cube.

    Parameters
    ----------
    cards : mapping
        WCS keywords of the SCI header: a tangential projection; CTYPE3 tells whether the planes are equally spaced.
    wavelength : float array (wavelength)
        [um]
    shape : (int, int)
        Rows and columns.

    Returns
    -------
    BinTableHDU
        Named ASDF, with a gWCS from (x, y, plane), counted from 0, to RA, Dec [deg] and wavelength [um].
    """
    document = _DOCUMENT.format(
        head=HEAD, end=END,
        x_last=shape[1] - 1, y_last=shape[0] - 1, z_last=wavelength.size - 1, sky=_sky(cards),
        wavelength=_linear(cards) if cards.get("CTYPE3") == "WAVE" else _table(wavelength),
    )  # fmt: skip
    return _asdf_text.extension(document.encode("ascii"))


def _sky(cards: Mapping[str, Any]) -> str:
    def number(key: str, default: float) -> float:
        return float(cards.get(key, default))

    to_degree = [u.Unit(str(cards.get(f"CUNIT{i}", "deg")).strip()).to("deg") for i in (1, 2)]
    matrix = [[number(f"PC{i}_{j}", float(i == j)) for j in (1, 2)] for i in (1, 2)]
    turned = transform(
        "rotate3d", direction="native2celestial", inputs=["phi_N", "theta_N"], outputs=["alpha_C", "delta_C"],
        phi=number("CRVAL1", 0.0), psi=number("LONPOLE", 180.0), theta=number("CRVAL2", 0.0),
    )  # fmt: skip
    return then(
        beside(*(shift(1.0 - number(f"CRPIX{i}", 1.0)) for i in (1, 2))),
        transform("affine", matrix=array(matrix), translation=array([0.0, 0.0])),
        beside(*(scale(number(f"CDELT{i}", 1.0) * to_degree[i - 1]) for i in (1, 2))),
        transform("gnomonic", direction="pix2sky"), turned,
    )  # fmt: skip


def _linear(cards: Mapping[str, Any]) -> str:
    step = float(cards["CDELT3"])
    start = float(cards["CRVAL3"]) + (1.0 - float(cards["CRPIX3"])) * step
    return then(scale(step), shift(start))


def _table(wavelength: np.ndarray) -> str:
    points = [array(np.arange(wavelength.size))]
    return transform("tabular", bounds_error="false", fill_value=".nan", method="linear",
                     lookup_table=array(wavelength), points=points)  # fmt: skip
