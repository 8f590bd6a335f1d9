"""The coordinates of an exposure as a gWCS in the ASDF extension, as ``jwst`` leaves them in its files.

The document is written from what a Dataset carries after assign_wcs, with the frames and models of
``jwst.assign_wcs.miri.ifu``: detector, alpha_beta, v2v3, v2v3vacorr, world. Only numbers of the pointing differ between
the exposures of a setting: the rest is made once and kept. The gWCS of jwst also goes back from the sky to the detector
by polynomials of the distortion file, which cal data do not carry; here they are fitted to the forward ones.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from mrsxr.geometry.detector import detector_to_slicer
from mrsxr.geometry.footprint import has_footprint
from mrsxr.geometry.sky import SPEED_OF_LIGHT, Pointing, slicer_to_v2v3
from mrsxr.mrs import DETECTOR_SHAPE, WAVELENGTH_RANGES, bands_of_setting
from mrsxr.schema import WCS_VARIABLES

from . import _asdf_text
from ._asdf_text import (
    beside,
    block,
    constant,
    identity,
    ordered,
    polynomial,
    remap,
    scale,
    shift,
    tagged,
    text,
    then,
    transform,
)

_SPECS = tuple(spec.name for spec in WCS_VARIABLES)
_EMPTY = f"{_asdf_text.HEAD}meta: {{}}\n{_asdf_text.END}".encode()
_PLACE = re.compile(r"@(\w+)@")  # where a number of an exposure comes
_FIT_ROWS = 15  # of these rows one is used
_FIT_POWERS = tuple((i, j) for i in range(7) for j in range(5) if i + j <= 8)
_FIELD_POWERS = tuple((i, j) for i in range(4) for j in range(4))


def extension(ds: xr.Dataset) -> fits.BinTableHDU:
    """Return the ASDF extension of one exposure, with the gWCS as far as it is known.

    Parameters
    ----------
    ds : Dataset of a detector level, one dither, computed

    Returns
    -------
    BinTableHDU
        Named ASDF. Without slice coordinates or pointing, and for parts of a detector, the document is empty;
        ``jwst`` 3.0.0 opens no file by its name that lacks the extension.
    """
    return _asdf_text.extension(_document(ds) if has_wcs(ds) else _EMPTY)


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
    template, blocks = _template(_Model(ds, moves, pointing.va_scale != 1.0))
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
    return _PLACE.sub(lambda place: text(float(numbers[place[1]])), template).encode() + blocks


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


@lru_cache(maxsize=6)
def _template(model: _Model) -> tuple[str, bytes]:
    """Return the document of a setting, with places for the numbers of an exposure, and its binary block."""
    labels, blocks = block(0, model.labels)
    steps = zip(_frames(), (_detector_to_slicer(model, labels), _slicer_to_v2v3(model), *_to_sky(model), "null"),
                strict=True)  # fmt: skip
    texts = [tagged("stsci.edu:gwcs/step-1.1.0", frame=frame, transform=way) for frame, way in steps]
    wcs = tagged("stsci.edu:gwcs/wcs-1.2.0", name="''", steps=[f"\n    {one}" for one in texts])
    region = text({"spectral_region": ["@wave_low@", "@wave_high@"]})
    return f"{_asdf_text.HEAD}meta:\n  wcs: {wcs}\n  wcsinfo: {region}\n{_asdf_text.END}", blocks


def _to_sky(model: _Model) -> tuple[str, str]:
    """Return the transforms of V2, V3 [arcsec] and wavelength through the aberration, and on to RA and Dec [deg]."""
    aberration = identity(2)
    if model.scaled:
        scales = beside(*(scale("@scale@", name=f"dva_scale_{axis}") for axis in ("v2", "v3")))
        shifts = beside(*(shift(f"@{axis}_shift@", name=f"dva_{axis}_shift") for axis in ("v2", "v3")))
        aberration = then(scales, shifts, name="DVA_Correction")
    angles = [f"@{name}@" for name in ("v2", "v3", "roll", "dec", "ra")]
    turn = transform("rotate_sequence_3d", angles=angles, axes_order="zyxyz", rotation_type="cartesian")
    round_ways = [
        tagged("stsci.edu:gwcs/spherical_cartesian-1.1.0", transform_type=kind, wrap_lon_at=limit)
        for kind, limit in (("spherical_to_cartesian", 180), ("cartesian_to_spherical", 360))
    ]
    degrees = beside(scale(1 / 3600), scale(1 / 3600))
    to_sky = then(degrees, round_ways[0], turn, round_ways[1], name="v23tosky")
    return beside(aberration, identity()), beside(to_sky, identity())


def _frames() -> tuple[str, ...]:
    """Return the frames of ``jwst.assign_wcs.miri.ifu``."""

    def frame(kind: str, name: str, axes: tuple[str, ...], unit: str, physical: list[str], **more: Any) -> str:
        order = [2] if kind == "spectral_frame" else [0, 1]
        return tagged(
            f"stsci.edu:gwcs/{kind}-1.0.0", name=name, axes_names=list(axes), axes_order=order,
            axis_physical_types=physical, unit=[f"!unit/unit-1.0.0 {unit}"] * len(axes), **more,
        )  # fmt: skip

    def plane(name: str, unit: str, *axes: str) -> str:
        return frame("frame2d", name, axes, unit, [f"'custom:{axis}'" for axis in axes])

    def composite(name: str, *frames: str) -> str:
        return tagged("stsci.edu:gwcs/composite_frame-1.0.0", name=name, frames=frames)

    icrs = "!<tag:astropy.org:astropy/coordinates/frames/icrs-1.1.0> {frame_attributes: {}}"
    sky = frame("celestial_frame", "icrs", ("RA", "DEC"), "deg", ["pos.eq.ra", "pos.eq.dec"], reference_frame=icrs)
    slicer, wave = (
        frame("spectral_frame", name, ("lambda",), "um", ["em.wl"]) for name in ("alpha_beta_spectral", "spectral")
    )
    return (
        plane("detector", "pixel", "x", "y"),
        composite("alpha_beta", plane("alpha_beta_spatial", "arcsec", "alpha", "beta"), slicer),
        composite("v2v3", plane("v2v3_spatial", "arcsec", "v2", "v3"), wave),
        composite("v2v3vacorr", plane("v2v3vacorr_spatial", "arcsec", "v2", "v3"), wave),
        composite("world", sky, wave),
    )


def _mapper(mapper: Any, inputs: list[str], **values: Any) -> str:
    return tagged("stsci.edu:gwcs/label_mapper-1.1.0", inputs=inputs, mapper=mapper, **values)


def _selector(name: str, inputs: list[str], outputs: list[str], mapper: str, transforms: dict[int, str],
              **values: Any) -> str:  # fmt: skip
    """Return transforms by label, each on a line."""
    selector = ordered(labels=list(transforms), transforms=[f"\n      {one}" for one in transforms.values()])
    return tagged("stsci.edu:gwcs/regions_selector-1.1.0", name=name, inputs=inputs, outputs=outputs,
                  label_mapper=mapper, selector=selector, undefined_transform_value=".nan", **values)  # fmt: skip


def _by_wavelength(model: _Model, models: list[str], inputs: list[str], **values: Any) -> str:
    """Return the mapper that takes a model for the wavelengths of each band."""
    ranges = [list(WAVELENGTH_RANGES[str(band)]) for band in model.variables["band"]]
    return _mapper(ordered(labels=ranges, models=models), inputs, inputs_mapping=remap(2), no_label=0, **values)


def _detector_to_slicer(model: _Model, labels: str) -> str:
    """Return the transform of pixels to alpha, beta and barycentric wavelength, slice by slice, and back."""
    observed, velocity = identity(), None
    if model.moves:
        observed = transform("divide", forward=[identity(), constant("@velocity@", "inv_vel_correction")])
        velocity = transform(
            "multiply", forward=[identity(), constant("@velocity@", "velocity_correction")], inverse=observed
        )
    transforms = {}
    v = model.variables
    for k, label in enumerate(v["slice_label"]):
        alpha = _shifted(v["alpha_coefficients"][k], v["alpha_x_shift"][k], "det2local")
        wave = _shifted(v["wavelength_coefficients"][k], v["wavelength_x_shift"][k], "det2local")
        wave = wave if velocity is None else then(wave, velocity)
        beta = constant(v["slice_beta"][k], "det2local")
        back = _pixels_of_slice(model, int(label))
        inverse = {}
        if back is not None:
            inverse["inverse"] = then(remap(2, 0, count=3), beside(observed, identity()), remap(0, 1, 0, 1), back)
        transforms[int(label)] = then(remap(1, 0, 0, 1, 0), beside(alpha, beta, wave), **inverse)
    rows, columns = model.labels.shape
    sides = {"x": [-0.5, columns - 0.5], "y": [-0.5, rows - 0.5]}
    box = f"!transform/property/bounding_box-1.0.0 {text({'ignore': [], 'intervals': sides, 'order': 'F'})}"
    mapper = _mapper(labels, ["x", "'y'"], inverse=_slice_of_beta(model), no_label=0)
    return _selector("detector_to_abl", ["x", "'y'"], ["alpha", "beta", "lam"], mapper, transforms, bounding_box=box)


def _slice_of_beta(model: _Model) -> str:
    """Return the transform of alpha, beta and wavelength to the label of a slice."""
    models, inputs = [], ["alpha", "beta", "lam"]
    for k, band in enumerate(model.variables["band"]):
        labels = model.variables["slice_label"]
        first = np.flatnonzero(labels // 100 == int(band[0]))[0]
        width = float(model.variables["slice_width"][k])
        zero = float(model.variables["slice_beta"][first]) - (labels[first] % 100 - 1) * width
        facts = {"beta_zero": zero, "beta_del": width, "channel": float(band[0])}
        of_band = tagged("stsci.edu:jwst_pipeline/miri_ab2slice-1.0.0", **facts)
        models.append(_mapper(of_band, inputs, inputs_mapping=remap(1, count=3), no_label=".nan"))
    return _by_wavelength(model, models, inputs)


def _slicer_to_v2v3(model: _Model) -> str:
    """Return the transform of alpha and beta to V2, V3, channel by channel (told by wavelength), and back."""
    channels, transforms, inputs = [], {}, ["alpha", "beta", "lam"]
    for k, band in enumerate(str(band) for band in model.variables["band"]):
        channel = int(band[0])
        channels.append(then(remap(2, count=3), constant(float(channel), "'channel #'")))
        matrices = [model.variables[name][k] for name in ("v2_coefficients", "v3_coefficients")]
        middle, back = _field_of_band(model, band)
        shifts = beside(shift(-middle[0]), shift(-middle[1]))
        forward, inverse = (
            (remap(0, 1, 0, 1), beside(*(polynomial(matrix, name) for matrix in pair)))
            for pair, name in ((matrices, "ab_v23"), (back, "v23_ab"))
        )
        transforms[channel] = beside(then(*forward, inverse=then(shifts, *inverse)), identity(name="identity_lam"))
    mapper = _by_wavelength(model, channels, inputs)
    mapper = _by_wavelength(model, channels, inputs, inverse=mapper)
    return _selector("abl_to_v2v3l", inputs, ["v2", "v3", "lam"], mapper, transforms)


def _pixels_of_slice(model: _Model, label: int) -> str | None:
    """Return polynomials of observed wavelength and alpha that give x and y of a slice; None without pixels."""
    y, x = np.nonzero(model.labels[::_FIT_ROWS, ::2] == label)
    y, x = _FIT_ROWS * y, 2 * x
    if y.size < 4 * len(_FIT_POWERS):
        return None
    alpha, _, wave = detector_to_slicer(x, y, np.full(x.shape, label), model.variables)
    middle = float(wave.mean())
    matrices = _fit(wave - middle, alpha, (x, y), _FIT_POWERS)
    return beside(*(
        then(beside(shift(-middle, name=f"shift_{axis}"), identity()), polynomial(matrix, f"polynomial_{axis}"))
        for axis, matrix in zip("xy", matrices, strict=True)
    ))  # fmt: skip


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


def _shifted(matrix: np.ndarray, offset: float, name: str) -> str:
    """Return the model sum c[i, j] y^i (x - offset)^j of (y, x)."""
    return then(beside(identity(), shift(-float(offset))), polynomial(matrix, name))
