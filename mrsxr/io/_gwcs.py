"""The coordinates of an exposure as a gWCS in the ASDF extension, as ``jwst`` leaves them in its files.

The gWCS is built from what a Dataset carries after assign_wcs, with the frames and models of
``jwst.assign_wcs.miri.ifu``: detector, alpha_beta, v2v3, v2v3vacorr, world. Only numbers of the pointing differ between
the exposures of a setting: the rest is made once and kept as text. The gWCS of jwst also goes back from the sky to the
detector by polynomials of the distortion file, which cal data do not carry; here they are fitted to the forward ones.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from mrsxr.geometry.detector import detector_to_slicer
from mrsxr.geometry.footprint import has_footprint
from mrsxr.geometry.sky import SPEED_OF_LIGHT, Pointing, slicer_to_v2v3
from mrsxr.mrs import DETECTOR_SHAPE, bands_of_setting
from mrsxr.schema import WCS_VARIABLES

from .asdffile import LOCK

#: Wavelengths [um] that jwst takes for a channel in each grating: the wavelengthrange file (CDP-8b and FLT-9).
WAVELENGTH_RANGES = {
    "1A": (4.68, 5.97), "1B": (5.24, 6.87), "1C": (6.20, 7.90), "2A": (7.27, 9.03), "2B": (8.43, 10.39),
    "2C": (9.76, 11.97), "3A": (11.29, 13.75), "3B": (13.08, 15.86), "3C": (15.14, 18.29), "4A": (17.40, 21.20),
    "4B": (20.31, 24.68), "4C": (23.72, 28.75),
}  # fmt: skip
_SPECS = tuple(spec.name for spec in WCS_VARIABLES)
_EMPTY = (
    b"#ASDF 1.0.0\n#ASDF_STANDARD 1.5.0\n%YAML 1.1\n%TAG ! tag:stsci.edu:asdf/\n--- !core/asdf-1.1.0\nmeta: {}\n...\n"
)
#: Numbers of a template that stand for those of an exposure: each has an exponent of its own.
_FIRST_EXPONENT = 201
_PLACES = ("wave_low", "wave_high", "velocity", "scale", "v2_shift", "v3_shift", "v2", "v3", "roll", "dec", "ra")
_PLACE = re.compile(rb"-?\d+(?:\.\d+)?[eE]\+?(2\d\d)\b")
_FIT_ROWS = 15  # of these rows one is used
_FIT_POWERS = tuple((i, j) for i in range(7) for j in range(5) if i + j <= 8)
_FIELD_POWERS = tuple((i, j) for i in range(4) for j in range(4))


@cache
def available() -> bool:
    """Return whether gwcs and the transforms of stdatamodels are installed (the extra ``jwst``)."""
    return all(importlib.util.find_spec(name) is not None for name in ("gwcs", "stdatamodels", "asdf"))


def extension(ds: xr.Dataset) -> fits.BinTableHDU:
    """Return the ASDF extension of one exposure, with the gWCS as far as it is known.

    Parameters
    ----------
    ds : Dataset of a detector level, one dither, computed

    Returns
    -------
    BinTableHDU
        Named ASDF. Without slice coordinates, pointing or gwcs, and for parts of a detector, the document is empty;
        ``jwst`` 3.0.0 opens no file by its name that lacks the extension.
    """
    document = _document(ds) if has_wcs(ds) and available() else _EMPTY
    data = np.frombuffer(document, dtype=np.uint8)[None, :]
    column = fits.Column(name="ASDF_METADATA", format=f"{data.shape[1]}B", array=data)
    return fits.BinTableHDU.from_columns([column], name="ASDF")


def has_wcs(ds: xr.Dataset) -> bool:
    """Return whether a Dataset holds all that a gWCS needs: slice map, polynomials and pointing, a full detector."""
    known = "slice" in ds.variables and all(name in ds.variables for name in ("wavelength", *_SPECS))
    full = (ds.sizes.get("y"), ds.sizes.get("x")) == DETECTOR_SHAPE
    return known and full and has_footprint(ds)


def _document(ds: xr.Dataset) -> bytes:
    """Return the ASDF document of an exposure: the template of its setting with the numbers of its pointing."""
    pointing = Pointing.of(ds)
    velosys = float(ds["velosys"].values[0]) if "velosys" in ds.coords else np.nan
    moves = bool(np.isfinite(velosys))
    velocity = 1.0 / (1.0 + velosys / SPEED_OF_LIGHT) if moves else 1.0
    template = _template(_Model(ds, moves, pointing.va_scale != 1.0))
    low, high = _spectral_region(ds, velocity)
    numbers = {
        "wave_low": low,
        "wave_high": high,
        "velocity": velocity,
        "scale": pointing.va_scale,
        "v2_shift": (1.0 - pointing.va_scale) * pointing.v2_ref,
        "v3_shift": (1.0 - pointing.va_scale) * pointing.v3_ref,
        "v2": pointing.v2_ref / 3600.0,
        "v3": -pointing.v3_ref / 3600.0,
        "roll": pointing.roll_ref,
        "dec": pointing.dec_ref,
        "ra": -pointing.ra_ref,
    }

    def fill(match: re.Match[bytes]) -> bytes:
        return repr(float(numbers[_PLACES[int(match[1]) - _FIRST_EXPONENT]])).encode()

    return _PLACE.sub(fill, template.text) + template.blocks


def _spectral_region(ds: xr.Dataset, velocity: float) -> tuple[float, float]:
    """Return the extreme barycentric wavelengths [um] of the pixels that lie in the range of their channel."""
    labels, wave = ds["slice"].values, np.asarray(ds["wavelength"].values) * velocity
    found = []
    for band in bands_of_setting(ds.attrs["setting"]):
        low, high = WAVELENGTH_RANGES[band]
        held = wave[labels // 100 == int(band[0])]
        found.append(held[(held >= low) & (held <= high)])
    every = np.concatenate(found)
    return (float(every.min()), float(every.max())) if every.size else (0.0, 0.0)


class _Model:
    """The WCS variables and slice map of a setting, compared by their content."""

    def __init__(self, ds: xr.Dataset, moves: bool, scaled: bool):
        names = [*_SPECS, "slice_label", "band"]
        self.variables = {name: np.asarray(ds[name].values) for name in names}
        self.labels = np.ascontiguousarray(ds["slice"].values, dtype=np.int16)
        self.bands = bands_of_setting(ds.attrs["setting"])
        self.moves, self.scaled = moves, scaled
        digest = hashlib.blake2b(self.labels.tobytes())
        for name in names:
            digest.update(name.encode() + self.variables[name].tobytes())
        self.digest = digest.digest() + repr((self.bands, moves, scaled)).encode()

    def __hash__(self) -> int:
        return hash(self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Model) and other.digest == self.digest


@dataclass(frozen=True)
class _Template:
    """An ASDF document in two parts: YAML with placeholders, and the binary blocks."""

    text: bytes
    blocks: bytes


@lru_cache(maxsize=6)
def _template(model: _Model) -> _Template:
    import asdf

    place = {name: float(f"3e{_FIRST_EXPONENT + k}") for k, name in enumerate(_PLACES)}
    wcs = build(model, place)
    buffer = io.BytesIO()
    region = {"spectral_region": [place["wave_low"], place["wave_high"]]}
    with LOCK, asdf.AsdfFile({"meta": {"wcs": wcs, "wcsinfo": region}}) as file:
        mapper = wcs.pipeline[0].transform.label_mapper.mapper
        file.set_array_compression(mapper, "zlib")
        file.write_to(buffer, include_block_index=False)
    text, end, blocks = buffer.getvalue().partition(b"\n...\n")
    return _Template(_in_order(text) + end, blocks)


def _in_order(text: bytes) -> bytes:
    """Return an ASDF header with its extensions in order, which asdf takes from a set."""
    head, name, rest = text.partition(b"  extensions:\n")
    found = re.match(rb"(?:  .*\n)*", rest)
    entries = re.split(rb"(?m)^(?=  - )", found[0]) if found else []
    return head + name + b"".join(sorted(entries)) + rest[len(b"".join(entries)) :]


def build(model: _Model, place: dict[str, float]) -> Any:
    """Return the gWCS of a setting with the given numbers of an exposure.

    Parameters
    ----------
    model : _Model
    place : dict
        A number for each name of ``_PLACES``.

    Returns
    -------
    gwcs.WCS
    """
    import gwcs
    from astropy.modeling import bind_bounding_box
    from astropy.modeling.models import Identity, RotationSequence3D, Scale, Shift
    from gwcs.geometry import CartesianToSpherical, SphericalToCartesian

    detector, alpha_beta, v2v3, v2v3vacorr, world = _frames()
    to_slicer = _detector_to_slicer(model, place)
    rows, columns = model.labels.shape
    bind_bounding_box(to_slicer, ((-0.5, columns - 0.5), (-0.5, rows - 0.5)), order="F")
    aberration: Any = Identity(2)
    if model.scaled:
        scales = (Scale(place["scale"], name=f"dva_scale_{axis}") for axis in ("v2", "v3"))
        shifts = (Shift(place[f"{axis}_shift"], name=f"dva_{axis}_shift") for axis in ("v2", "v3"))
        aberration = (next(scales) & next(scales)) | (next(shifts) & next(shifts))
        aberration.name = "DVA_Correction"
    turn = RotationSequence3D([place[name] for name in ("v2", "v3", "roll", "dec", "ra")], axes_order="zyxyz")
    to_sky = (
        (Scale(1 / 3600) & Scale(1 / 3600))
        | SphericalToCartesian(wrap_lon_at=180)
        | turn
        | CartesianToSpherical(wrap_lon_at=360)
    )
    to_sky.name = "v23tosky"
    return gwcs.WCS(
        [
            (detector, to_slicer),
            (alpha_beta, _slicer_to_v2v3(model)),
            (v2v3, aberration & Identity(1)),
            (v2v3vacorr, to_sky & Identity(1)),
            (world, None),
        ]
    )


def _frames() -> tuple[Any, ...]:
    """Return the frames of ``jwst.assign_wcs.miri.ifu``."""
    from astropy import coordinates, units
    from gwcs import coordinate_frames as frames

    def plane(name: str, *axes: str) -> Any:
        return frames.Frame2D(name=name, axes_order=(0, 1), unit=(units.arcsec,) * 2, axes_names=axes)

    def spectral(name: str) -> Any:
        return frames.SpectralFrame(name=name, axes_order=(2,), unit=(units.micron,), axes_names=("lambda",))

    sky = frames.CelestialFrame(
        name="icrs", reference_frame=coordinates.ICRS(), axes_order=(0, 1), unit=(units.deg,) * 2,
        axes_names=("RA", "DEC"),
    )  # fmt: skip
    wave = spectral("spectral")
    return (
        frames.Frame2D(name="detector", axes_order=(0, 1), unit=(units.pix,) * 2),
        frames.CompositeFrame(
            [plane("alpha_beta_spatial", "alpha", "beta"), spectral("alpha_beta_spectral")], name="alpha_beta"
        ),
        frames.CompositeFrame([plane("v2v3_spatial", "v2", "v3"), wave], name="v2v3"),
        frames.CompositeFrame([plane("v2v3vacorr_spatial", "v2", "v3"), wave], name="v2v3vacorr"),
        frames.CompositeFrame([sky, wave], name="world"),
    )


def _detector_to_slicer(model: _Model, place: dict[str, float]) -> Any:
    """Return the transform of pixels to alpha, beta and barycentric wavelength, slice by slice, and back."""
    from astropy.modeling.models import Const1D, Identity, Mapping
    from gwcs import selector

    observed: Any = Identity(1)
    velocity: Any = None
    if model.moves:
        velocity = Identity(1) * Const1D(place["velocity"], name="velocity_correction")
        observed = Identity(1) / Const1D(place["velocity"], name="inv_vel_correction")
        velocity.inverse = observed
    transforms = {}
    v = model.variables
    for k, label in enumerate(v["slice_label"]):
        alpha = _shifted(v["alpha_coefficients"][k], v["alpha_x_shift"][k], "det2local")
        wave = _shifted(v["wavelength_coefficients"][k], v["wavelength_x_shift"][k], "det2local")
        wave = wave if velocity is None else wave | velocity
        beta = Const1D(float(v["slice_beta"][k]), name="det2local")
        forward = Mapping([1, 0, 0, 1, 0]) | (alpha & beta & wave)
        back = _pixels_of_slice(model, int(label))
        if back is not None:
            forward.inverse = Mapping([2, 0], n_inputs=3) | observed & Identity(1) | Mapping([0, 1, 0, 1]) | back
        transforms[int(label)] = forward
    mapper = selector.LabelMapperArray(model.labels)
    mapper.inverse = _slice_of_beta(model)
    return selector.RegionsSelector(
        ("x", "y"), ("alpha", "beta", "lam"), label_mapper=mapper, selector=transforms, name="detector_to_abl"
    )


def _slice_of_beta(model: _Model) -> Any:
    """Return the transform of alpha, beta and wavelength to the label of a slice."""
    from astropy.modeling.models import Mapping
    from gwcs import selector
    from stdatamodels.jwst.transforms.models import MIRI_AB2Slice

    channels = {}
    for k, band in enumerate(model.variables["band"]):
        labels = model.variables["slice_label"]
        first = np.flatnonzero(labels // 100 == int(band[0]))[0]
        width = float(model.variables["slice_width"][k])
        zero = float(model.variables["slice_beta"][first]) - (labels[first] % 100 - 1) * width
        channels[WAVELENGTH_RANGES[str(band)]] = selector.LabelMapper(
            inputs=("alpha", "beta", "lam"),
            mapper=MIRI_AB2Slice(zero, width, int(band[0])),
            inputs_mapping=Mapping((1,), n_inputs=3),
        )
    return selector.LabelMapperRange(("alpha", "beta", "lam"), channels, Mapping((2,)))


def _slicer_to_v2v3(model: _Model) -> Any:
    """Return the transform of alpha and beta to V2, V3, channel by channel (told by wavelength), and back."""
    from astropy.modeling.models import Const1D, Identity, Mapping, Shift
    from gwcs import selector

    ranges, transforms = {}, {}
    for k, band in enumerate(str(band) for band in model.variables["band"]):
        channel = int(band[0])
        ranges[WAVELENGTH_RANGES[band]] = Mapping((2,), name="mapping_lam") | Const1D(channel, name="channel #")
        matrices = [model.variables[name][k] for name in ("v2_coefficients", "v3_coefficients")]
        forward = Mapping((0, 1, 0, 1)) | (_polynomial(matrices[0], "ab_v23") & _polynomial(matrices[1], "ab_v23"))
        middle, back = _field_of_band(model, band)
        forward.inverse = (
            (Shift(-middle[0]) & Shift(-middle[1]))
            | Mapping((0, 1, 0, 1))
            | (_polynomial(back[0], "v23_ab") & _polynomial(back[1], "v23_ab"))
        )
        wave = Identity(1, name="identity_lam")
        wave.inputs = ("lam",)
        transforms[channel] = forward & wave
    mapper = selector.LabelMapperRange(("alpha", "beta", "lam"), ranges, inputs_mapping=Mapping([2]))
    mapper.inverse = mapper.copy()
    return selector.RegionsSelector(
        ("alpha", "beta", "lam"), ("v2", "v3", "lam"), label_mapper=mapper, selector=transforms, name="abl_to_v2v3l"
    )


def _pixels_of_slice(model: _Model, label: int) -> Any:
    """Return polynomials of observed wavelength and alpha that give x and y of a slice; None without pixels."""
    from astropy.modeling.models import Identity, Shift

    y, x = np.nonzero(model.labels[::_FIT_ROWS, ::2] == label)
    y, x = _FIT_ROWS * y, 2 * x
    if y.size < 4 * len(_FIT_POWERS):
        return None
    alpha, _, wave = detector_to_slicer(x, y, np.full(x.shape, label), model.variables)
    middle = float(wave.mean())
    matrices = _fit(wave - middle, alpha, (x, y), _FIT_POWERS)
    parts = [
        (Shift(-middle, name=f"shift_{axis}") & Identity(1)) | _polynomial(matrix, f"polynomial_{axis}")
        for axis, matrix in zip("xy", matrices, strict=True)
    ]
    return parts[0] & parts[1]


def _field_of_band(model: _Model, band: str) -> tuple[tuple[float, float], list[np.ndarray]]:
    """Return the middle of the field in V2, V3 and polynomials from there back to alpha and beta."""
    reach = np.abs(model.variables["slice_beta"][model.variables["slice_label"] // 100 == int(band[0])]).max()
    alpha, beta = (1.3 * reach * axis.ravel() for axis in np.meshgrid(*[np.linspace(-1, 1, 15)] * 2))
    v2, v3 = slicer_to_v2v3(alpha, beta, band, model.variables)
    middle = float(v2.mean()), float(v3.mean())
    return middle, _fit(v2 - middle[0], v3 - middle[1], (alpha, beta), _FIELD_POWERS)


def _fit(
    a: np.ndarray, b: np.ndarray, targets: tuple[np.ndarray, ...], powers: tuple[tuple[int, int], ...],
) -> list[np.ndarray]:  # fmt: skip
    """Return matrices c with target = sum c[i, j] a^i b^j, fitted by least squares."""
    scale_a, scale_b = np.abs(a).max(), np.abs(b).max()
    design = np.stack([(a / scale_a) ** i * (b / scale_b) ** j for i, j in powers], axis=1)
    normal = np.einsum("ni,nj->ij", design, design)
    found = np.linalg.solve(normal, np.einsum("ni,nk->ik", design, np.stack(targets, axis=1)))
    out = []
    for column in found.T:
        matrix = np.zeros((max(i for i, _ in powers) + 1, max(j for _, j in powers) + 1))
        for (i, j), value in zip(powers, column, strict=True):
            matrix[i, j] = value / (scale_a**i * scale_b**j)
        out.append(matrix)
    return out


def _shifted(matrix: np.ndarray, shift: float, name: str) -> Any:
    """Return the model sum c[i, j] y^i (x - shift)^j of (y, x)."""
    from astropy.modeling.models import Identity, Shift

    return (Identity(1) & Shift(-float(shift))) | _polynomial(matrix, name)


def _polynomial(matrix: np.ndarray, name: str) -> Any:
    """Return sum c[i, j] a^i b^j as a Polynomial2D of the lowest degree that holds it."""
    from astropy.modeling.models import Polynomial2D

    rows, columns = np.nonzero(matrix)
    degree = max(int((rows + columns).max()), 1) if rows.size else 1
    return Polynomial2D(
        degree, name=name, **{f"c{i}_{j}": float(matrix[i, j]) for i, j in zip(rows, columns, strict=True)}
    )
