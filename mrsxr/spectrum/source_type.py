"""Point or extended, decided from the cubes: the image of each band against a point source on a constant."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr import mrs
from mrsxr.errors import LevelError, MrsxrError

from . import aperture

#: A source is a point where its width is below the first factor times that of the PSF, extended above the second.
POINT_WIDTH, EXTENDED_WIDTH = 1.15, 1.3
POINT_FRACTION = 0.9  # of the light within 3 FWHM that the point source must explain
LEAST_SIGNAL = 20.0
_FAINT = 5.0
_REACH = 3.0  # radius [FWHM] of the fitted image
_CORE, _WING, _WING_SHARE = 0.93, 2.4, 0.18  # a Gaussian core on a wide one: the cube PSF to a few per cent


def decide_source_type(
    cubes: Sequence[xr.Dataset] | xr.Dataset,
    *,
    center: tuple[float, float] | None = None,
    source_type: str | None = None,
    windows: int = 3,
) -> xr.Dataset:
    """Decide whether the source of some cubes is a point, from its image at several wavelengths.

    Parameters
    ----------
    cubes : Dataset of level "cube", or sequence of them
        Any bands; lazy cubes are computed one window after the other.
    center : (float, float), optional
        Right ascension and declination of the source [deg]; by default the brightest source of each cube.
    source_type : {"POINT", "EXTENDED"}, optional
        What the user says; it wins, the scores are still measured.
    windows : int
        Windows of wavelength a band.

    Returns
    -------
    Dataset
        On (window): ``width_ratio`` (FWHM over that of the PSF), ``point_fraction`` (light of the point source over
        all light above the constant within 3 FWHM), ``signal_to_noise``, ``verdict``; coordinates ``band`` and
        ``wavelength`` [um]. attrs: ``source_type`` ("POINT" or "EXTENDED"), ``decided_by`` ("image" or "user"),
        ``score`` (share of the windows that say POINT), ``ambiguous`` (0 or 1: both branches are worth a look).

    Raises
    ------
    LevelError
        Where the data are no cubes.
    MrsxrError
        Where ``source_type`` is not known.

    Notes
    -----
    Each window is the median of its planes, so that lines do not count. POINT where a window's width ratio is below
    1.15 and the point source explains 90 % of the light; EXTENDED where the ratio is above 1.3 or nothing stands out;
    else undecided. The source is a point where at least two thirds of the decided windows of S/N > 20 say so. The PSF
    is that of the cubes (Law et al. 2023): FWHM = 0.033 wavelength + 0.106 arcsec, a Gaussian core on a wide wing.
    """
    if source_type not in (None, "POINT", "EXTENDED"):
        raise MrsxrError(f"source_type is '{source_type}'; expected 'POINT', 'EXTENDED' or none")
    rows = [row for cube in _each(cubes) for row in _windows_of(cube, center, windows)]
    names = ("width_ratio", "point_fraction", "signal_to_noise")
    variables = {name: ("window", np.array([row[name] for row in rows]), {"units": "1"}) for name in names}
    variables["verdict"] = ("window", np.array([_verdict(row) for row in rows], dtype="U9"))
    coords = {
        "band": ("window", np.array([row["band"] for row in rows], dtype="U2")),
        "wavelength": ("window", np.array([row["wavelength"] for row in rows]), {"units": "um"}),
    }
    score = _score(rows)
    of_image = "POINT" if score >= 2.0 / 3.0 else "EXTENDED"
    attrs = {
        "source_type": source_type or of_image, "decided_by": "user" if source_type else "image", "score": score,
        "ambiguous": int(1.0 / 3.0 < score < 2.0 / 3.0 or not _is_clear(rows)),
        "bands": json.dumps(sorted({row["band"] for row in rows})),
    }  # fmt: skip
    return xr.Dataset(variables, coords, attrs)


def _each(cubes: Sequence[xr.Dataset] | xr.Dataset) -> list[xr.Dataset]:
    found = [cubes] if isinstance(cubes, xr.Dataset) else list(cubes)
    if not found:
        raise MrsxrError("no cubes to decide on")
    for cube in found:
        if cube.attrs.get("level") != "cube":
            raise LevelError(f"decide_source_type needs data of level cube, got {cube.attrs.get('level')}")
    return found


def _windows_of(cube: xr.Dataset, center: tuple[float, float] | None, windows: int) -> list[dict]:
    """Return what is found in each window of a cube."""
    edges = np.linspace(0, cube.sizes["wavelength"], windows + 1).astype(int)
    rows = []
    for first, last in itertools.pairwise(edges):
        part = cube.isel(wavelength=slice(first, last))
        wavelength = float(part.wavelength.mean())
        scale = float(cube.attrs["pixel_scale"])
        image, noise = _image(part)
        place = None if center is None else aperture.sky_to_pixel(part, *center)
        row = {"band": str(cube.attrs.get("band", "")), "wavelength": wavelength}
        rows.append(row | measure(image, noise, mrs.psf_fwhm(wavelength) / scale, place))
    return rows


def _image(part: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return the median image of some planes and its error [MJy/sr]; NaN where half of the planes are bad."""
    values = np.where(flags.any_of(part.dq.values, "DO_NOT_USE"), np.nan, part.flux.values.astype(float))
    count = np.isfinite(values).sum(axis=0)
    good = count > 0.5 * len(values)
    image, noise = np.full(good.shape, np.nan), np.full(good.shape, np.nan)
    if good.any():
        image[good] = np.nanmedian(values[:, good], axis=0)
        variance = np.nanmean(np.where(np.isfinite(values), part["var"].values, np.nan)[:, good], axis=0)
        noise[good] = np.sqrt(1.57 * variance / count[good])  # of a median
    return image, noise


def measure(image: np.ndarray, noise: np.ndarray, fwhm: float, place: tuple[float, float] | None = None) -> dict:
    """Compare an image with a point source on a constant.

    Parameters
    ----------
    image, noise : float arrays (y, x)
        NaN where there is no value.
    fwhm : float
        Of the PSF [pixel].
    place : (float, float), optional
        Source (x, y) [pixel], counted from 0; by default the brightest.

    Returns
    -------
    dict
        ``width_ratio``, ``point_fraction``, ``signal_to_noise``; NaN, 0 and 0 where there is no source.
    """
    nothing = {"width_ratio": np.nan, "point_fraction": 0.0, "signal_to_noise": 0.0}
    place = place or aperture.find_source(image, fwhm)
    if place is None:
        return nothing
    y, x = np.indices(image.shape)
    radius = np.hypot(x - place[0], y - place[1])
    near = np.isfinite(image) & np.isfinite(noise) & (radius <= _REACH * fwhm)
    if near.sum() < 12:
        return nothing
    fit = _fit(image[near], x[near], y[near], place, fwhm)
    psf = _profile(x[near], y[near], fit["x"], fit["y"], fwhm)
    amplitude, level = _two(psf, image[near])
    residual = image[near] - amplitude * psf - level
    light = np.sum(np.abs(amplitude * psf))
    found = np.sum(np.clip(amplitude * psf, 0, None)) / (light + np.sum(np.abs(residual))) if light > 0 else 0.0
    spread = np.sqrt(np.mean(noise[near] ** 2) / np.sum((psf - psf.mean()) ** 2))
    signal = max(amplitude, 0.0) / spread if spread > 0 else np.inf
    return {"width_ratio": fit["width"], "point_fraction": float(found), "signal_to_noise": float(signal)}


def _profile(x, y, x0: float, y0: float, fwhm: float) -> np.ndarray:
    """Return the PSF with peak 1: a Gaussian core on a wing of 18 % of the light."""
    square = ((x - x0) ** 2 + (y - y0) ** 2) * 4.0 * np.log(2.0) / fwhm**2
    wing = _WING_SHARE / (1 - _WING_SHARE) * (_CORE / _WING) ** 2
    return (np.exp(-square / _CORE**2) + wing * np.exp(-square / _WING**2)) / (1.0 + wing)


def _two(psf: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Return amplitude and constant of the least-squares fit."""
    matrix = np.stack([psf, np.ones_like(psf)], axis=1)
    amplitude, level = np.linalg.lstsq(matrix, values, rcond=None)[0]
    return float(amplitude), float(level)


def _fit(values, x, y, place, fwhm) -> dict:
    """Fit centre and width (in units of the PSF) of a round source on a constant."""
    from scipy import optimize

    spread = float(np.std(values)) or 1.0

    def residuals(p):
        shape = _profile(x, y, p[0], p[1], p[2] * fwhm)
        amplitude, level = _two(shape, values)
        return (values - amplitude * shape - level) / spread

    reach = 0.7 * fwhm
    start = np.array([place[0], place[1], 1.0])
    bounds = ([place[0] - reach, place[1] - reach, 0.4], [place[0] + reach, place[1] + reach, 4.0])
    found = optimize.least_squares(residuals, start, bounds=bounds, max_nfev=60)
    return {"x": found.x[0], "y": found.x[1], "width": float(found.x[2])}


def _verdict(row: dict) -> str:
    if row["signal_to_noise"] < _FAINT:
        return "faint"
    if row["width_ratio"] < POINT_WIDTH and row["point_fraction"] > POINT_FRACTION:
        return "POINT"
    return "EXTENDED" if row["width_ratio"] > EXTENDED_WIDTH else "undecided"


def _score(rows: list[dict]) -> float:
    """Return the share of windows of good signal that say POINT; undecided ones count half."""
    votes = [_verdict(row) for row in rows if row["signal_to_noise"] > LEAST_SIGNAL]
    if not votes:
        return 0.0
    return float(np.mean([{"POINT": 1.0, "undecided": 0.5}.get(vote, 0.0) for vote in votes]))


def _is_clear(rows: list[dict]) -> bool:
    votes = [_verdict(row) for row in rows if row["signal_to_noise"] > LEAST_SIGNAL]
    return not votes or votes.count("undecided") <= len(votes) / 3
