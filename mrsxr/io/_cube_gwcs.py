"""The coordinates of a cube as a gWCS in the ASDF extension, as in the s3d files of ``jwst``.

specutils and jdaviz take the wavelengths of a JWST cube from there alone. The document is written as text in the terms
of ASDF 1.5 and gwcs 1.2, which every later version reads, so that gwcs need not be installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits

_DOCUMENT = """#ASDF 1.0.0
#ASDF_STANDARD 1.5.0
%YAML 1.1
%TAG ! tag:stsci.edu:asdf/
--- !core/asdf-1.1.0
meta:
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
...
"""


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
    text = _DOCUMENT.format(
        x_last=shape[1] - 1, y_last=shape[0] - 1, z_last=wavelength.size - 1, sky=_sky(cards),
        wavelength=_linear(cards) if cards.get("CTYPE3") == "WAVE" else _table(wavelength),
    )  # fmt: skip
    data = np.frombuffer(text.encode("ascii"), dtype=np.uint8)[None, :]
    column = fits.Column(name="ASDF_METADATA", format=f"{data.shape[1]}B", array=data)
    return fits.BinTableHDU.from_columns([column], name="ASDF")


def _sky(cards: Mapping[str, Any]) -> str:
    def number(key: str, default: float) -> float:
        return float(cards.get(key, default))

    to_degree = [u.Unit(str(cards.get(f"CUNIT{i}", "deg")).strip()).to("deg") for i in (1, 2)]
    matrix = [[number(f"PC{i}_{j}", float(i == j)) for j in (1, 2)] for i in (1, 2)]
    affine = (
        f"!transform/affine-1.3.0 {{inputs: [x, y], outputs: [x, y], matrix: {_array(matrix)}, "
        f"translation: {_array([0.0, 0.0])}}}"
    )
    turned = (
        "!transform/rotate3d-1.3.0 {direction: native2celestial, inputs: [phi_N, theta_N], outputs: [alpha_C, "
        f"delta_C], phi: {_float(number('CRVAL1', 0.0))}, psi: {_float(number('LONPOLE', 180.0))}, "
        f"theta: {_float(number('CRVAL2', 0.0))}}}"
    )
    tangent = "!transform/gnomonic-1.2.0 {direction: pix2sky, inputs: [x, y], outputs: [phi, theta]}"
    moved = _pair(*(_shift(1.0 - number(f"CRPIX{i}", 1.0)) for i in (1, 2)))
    scaled = _pair(*(_scale(number(f"CDELT{i}", 1.0) * to_degree[i - 1]) for i in (1, 2)))
    out = moved
    for step, names in ((affine, "x, y"), (scaled, "y0, y1"), (tangent, "phi, theta"), (turned, "alpha_C, delta_C")):
        out = _then(out, step, "x0, x1", names)
    return out


def _linear(cards: Mapping[str, Any]) -> str:
    step = float(cards["CDELT3"])
    start = float(cards["CRVAL3"]) + (1.0 - float(cards["CRPIX3"])) * step
    return _then(_scale(step), _shift(start), "x", "y")


def _table(wavelength: np.ndarray) -> str:
    return (
        "!transform/tabular-1.2.0 {bounds_error: false, fill_value: .nan, inputs: [x], outputs: [y], method: linear, "
        f"lookup_table: {_array(wavelength.tolist())}, points: [{_array(np.arange(float(wavelength.size)).tolist())}]}}"
    )


def _pair(first: str, second: str) -> str:
    return f"!transform/concatenate-1.2.0 {{forward: [{first}, {second}], inputs: [x0, x1], outputs: [y0, y1]}}"


def _then(first: str, second: str, inputs: str, outputs: str) -> str:
    return f"!transform/compose-1.2.0 {{forward: [{first}, {second}], inputs: [{inputs}], outputs: [{outputs}]}}"


def _shift(offset: float) -> str:
    return f"!transform/shift-1.2.0 {{inputs: [x], offset: {_float(offset)}, outputs: [y]}}"


def _scale(factor: float) -> str:
    return f"!transform/scale-1.2.0 {{factor: {_float(factor)}, inputs: [x], outputs: [y]}}"


def _array(values: list[Any]) -> str:
    shape = list(np.shape(values))
    rows = values if len(shape) == 2 else [values]
    texts = [f"[{', '.join(map(_float, row))}]" for row in rows]
    data = f"[{', '.join(texts)}]" if len(shape) == 2 else texts[0]
    return f"!core/ndarray-1.0.0 {{data: {data}, datatype: float64, shape: {shape}}}"


def _float(value: float) -> str:
    return f"{value:.17e}"  # YAML 1.1 takes no float for a number without a point
