"""Point or extended, decided from the cubes: the image of each band against a point source on a constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from mrsxr.arguments import reads
from mrsxr.attributes import widened
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.inputs import require_whole
from mrsxr.limits import Count, Place, SourceType, checked
from mrsxr.spaxels import spaxel_size
from mrsxr.threads import how

from .aperture import is_inside, outside, sky_to_pixel
from .centre import REACH, find_place, find_source, target_of
from .profile import Psf, amplitude_and_level, expected, shape_of, window_edges, window_image

#: A source is a point where its width is below the first factor times that of the PSF, extended above the second.
POINT_WIDTH, EXTENDED_WIDTH = 1.15, 1.25
POINT_FRACTION = 0.82  # of the structure within 3 FWHM that the point source must explain
HALO = 0.07  # of the light that a halo within 1.5 FWHM, brighter than the field far off, may add to a point source
LEAST_SIGNAL = 20.0
_FAINT = 5.0
_POINT_SCORE = 2.0 / 3.0
_REACH = 3.0  # radius [FWHM] of the fitted image
_NOTHING = {"width_ratio": np.nan, "point_fraction": 0.0, "halo": 0.0, "signal_to_noise": 0.0, "converged": 0.0}


@reads()
@checked
def decide_source_type(
    cubes: Sequence[xr.Dataset] | xr.Dataset,
    *,
    center: Place | None = None,
    source_type: SourceType | None = None,
    windows: Count = 3,
    psf: Psf | None = None,
) -> xr.Dataset:
    """Decide whether the source of some cubes is a point, from its image at several wavelengths.

    Parameters
    ----------
    cubes : Dataset of level "cube", or sequence of them
        Any bands; lazy cubes are computed one window after the other.
    center : (float, float), optional
        Right ascension and declination of the source [deg]; by default the brightest source of each cube, near the
        target where there is one.
    source_type : {"POINT", "EXTENDED"}, optional
        What the user says; it wins, the scores are still measured.
    windows : int
        Windows of wavelength a band.
    psf : callable, optional
        FWHM [arcsec] of a point source in the cubes at a wavelength [um]; by default that of Law et al. (2023).

    Returns
    -------
    Dataset
        On (window): ``width_ratio`` (FWHM over that of the PSF), ``point_fraction`` (1 - the root of the share that
        a point source leaves of the squared structure within 3 FWHM, noise taken off), ``halo`` (light within 1.5 FWHM
        by which the constant exceeds the field beyond 3 FWHM, over that of the point), ``signal_to_noise``,
        ``converged`` (whether the fit did), ``verdict``; coordinates ``band`` and ``wavelength`` [um]. attrs:
        ``source_type`` ("POINT" or "EXTENDED"), ``decided_by`` ("image" or "user"), ``score`` (share of the windows
        that say POINT, undecided ones half), ``ambiguous`` (0 or 1: both branches are worth a look), ``misfit``, the
        share of the votes of every second window against what the others say, and ``misfit_point``,
        ``misfit_extended``, that against either type; NaN where one half has no vote.

    Raises
    ------
    LevelError
        Where the data are no cubes.
    MrsxrError
        Where ``source_type`` is not known, or the PSF of a cube is not the one it was built with.

    Notes
    -----
    Each window is the median of its planes, so that lines do not count. POINT where a window's width ratio is below
    1.15, the point source explains 82 % of the structure and has no halo of 7 %; EXTENDED where the ratio is above
    1.25; else undecided. The source is a point where the score of the windows of S/N > 20 is at least 2/3; fainter
    sources are EXTENDED, and ambiguous. The PSF is that of the cubes (Law et al. 2023): FWHM = 0.033 wavelength + 0.106
    arcsec, a Gaussian core on a wide wing.

    Examples
    --------
    >>> mx.spectrum.decide_source_type(cube).attrs["source_type"]
    'POINT'
    """
    rows = [row for cube in _each(cubes) for row in _windows_of(cube, center, windows, psf)]
    names = ("width_ratio", "point_fraction", "halo", "signal_to_noise", "converged")
    variables: dict[str, tuple[Any, ...]] = {
        name: ("window", np.array([row[name] for row in rows]), {"units": "1"}) for name in names
    }
    variables["verdict"] = ("window", np.array([_verdict(row) for row in rows], dtype="U9"))
    coords = {
        "band": ("window", np.array([row["band"] for row in rows], dtype="U2")),
        "wavelength": ("window", np.array([row["wavelength"] for row in rows]), {"units": "um"}),
    }
    score = float(np.mean(_votes(rows) or [0.0]))
    of_image = "POINT" if score >= _POINT_SCORE else "EXTENDED"
    attrs = {
        **_held_out(rows), "source_type": source_type or of_image, "decided_by": "user" if source_type else "image",
        "score": score,
        "ambiguous": int(1.0 / 3.0 < score < 2.0 / 3.0 or not _is_clear(rows)),
        "bands": sorted({row["band"] for row in rows}),
    }  # fmt: skip
    return xr.Dataset(variables, coords, attrs)


def _each(cubes: Sequence[xr.Dataset] | xr.Dataset) -> list[xr.Dataset]:
    found = [cubes] if isinstance(cubes, xr.Dataset) else list(cubes)
    if not found:
        raise MrsxrError("no cubes to decide on")
    for cube in found:
        if cube.attrs.get("level") != "cube":
            raise LevelError(f"decide_source_type needs data of level cube, got {cube.attrs.get('level')}")
        require_whole(cube, "decide_source_type")
        if widened(cube):
            raise MrsxrError(
                f"the cube of {cube.attrs.get('band', 'unknown band')} is {widened(cube)}: its PSF is wider than the "
                "one that a point is told by; decide on the cube as it was built"
            )
    return found


def _windows_of(
    cube: xr.Dataset, center: tuple[float, float] | None, windows: int, psf: Psf | None
) -> list[dict[str, Any]]:
    """Return what is found in each window of a cube."""
    rows = []
    if center is not None and not is_inside(cube, sky_to_pixel(cube, *center)):
        raise MrsxrError(outside(cube, center))
    for first, last in window_edges(cube.sizes["wavelength"], windows):
        part = cube.isel(wavelength=slice(first, last))
        wavelength = float(part.wavelength.mean())
        scale = spaxel_size(cube)
        image, noise = window_image(part.compute(**how()))
        fwhm = float(expected(wavelength, psf)) / scale
        place = _near_target(part, image, fwhm) if center is None else sky_to_pixel(part, *center)
        row = {"band": str(cube.attrs.get("band", "")), "wavelength": wavelength}
        rows.append(row | (_NOTHING if place is None else measure(image, noise, fwhm, place)))
    return rows


def _near_target(cube: xr.Dataset, image: np.ndarray, fwhm: float) -> tuple[float, float] | None:
    """Return the brightest source near the target where there is one, else the brightest of the field."""
    target, reach = target_of(cube), max(REACH / float(cube.attrs["pixel_scale"]), 2.0 * fwhm)
    target = target if target is not None and is_inside(cube, target) else None
    found = find_place(image, fwhm, target, reach, widest=np.inf)
    return None if found is None else (found.x, found.y)


def measure(
    image: np.ndarray, noise: np.ndarray, fwhm: float, place: tuple[float, float] | None = None
) -> dict[str, Any]:
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
        ``width_ratio``, ``point_fraction``, ``halo``, ``signal_to_noise``; NaN and 0 where there is no source.
    """
    place = place or find_source(image, fwhm)
    if place is None:
        return dict(_NOTHING)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    radius = np.hypot(x - place[0], y - place[1])
    near = np.isfinite(image) & np.isfinite(noise) & (radius <= _REACH * fwhm)
    if near.sum() < 12:
        return dict(_NOTHING)
    fit = _fit(image[near], x[near], y[near], place, fwhm)
    psf = shape_of((x[near] - fit["x"]) ** 2 + (y[near] - fit["y"]) ** 2, fwhm)
    amplitude, level = amplitude_and_level(psf, image[near])
    power = amplitude**2 * np.sum((psf - psf.mean()) ** 2)
    left = np.sum((image[near] - amplitude * psf - level) ** 2 - noise[near] ** 2)
    found = 1.0 - np.sqrt(max(left, 0.0) / (power + max(left, 0.0))) if power > 0 and amplitude > 0 else 0.0
    spread = np.sqrt(np.mean(noise[near] ** 2) / np.sum((psf - psf.mean()) ** 2))
    signal = max(amplitude, 0.0) / spread if spread > 0 else np.inf
    halo = _halo(image, noise, radius / fwhm, level, float(np.sum(amplitude * psf))) if amplitude > 0 else 0.0
    numbers = {"point_fraction": found, "halo": halo, "signal_to_noise": signal, "converged": fit["converged"]}
    return {"width_ratio": fit["width"]} | {name: float(value) for name, value in numbers.items()}


def _halo(image: np.ndarray, noise: np.ndarray, radius: np.ndarray, level: float, light: float) -> float:
    """Return the light within 1.5 FWHM by which the constant exceeds the field beyond 3 FWHM, over that of the point.

    0 where it is within three times its error, or where nothing is seen far off.
    """
    far = np.isfinite(image) & np.isfinite(noise) & (radius > _REACH)
    if far.sum() < 20 or not light > 0:
        return 0.0
    inside = int((radius <= 0.5 * _REACH).sum())
    excess = level - float(np.median(image[far]))
    error = float(np.median(noise[far])) * np.sqrt(1.0 / far.sum() + 1.0 / max((radius <= _REACH).sum(), 1))
    return excess * inside / light if excess > 3.0 * error else 0.0


def _fit(values: np.ndarray, x: np.ndarray, y: np.ndarray, place: tuple[float, float], fwhm: float) -> dict[str, Any]:
    """Fit centre and width (in units of the PSF) of a round source on a constant."""
    from scipy import optimize

    spread = float(np.std(values)) or 1.0

    def residuals(p: np.ndarray) -> np.ndarray:
        shape = shape_of((x - p[0]) ** 2 + (y - p[1]) ** 2, p[2] * fwhm)
        amplitude, level = amplitude_and_level(shape, values)
        return (values - amplitude * shape - level) / spread

    reach = 0.7 * fwhm
    start = np.array([place[0], place[1], 1.0])
    bounds = ([place[0] - reach, place[1] - reach, 0.4], [place[0] + reach, place[1] + reach, 4.0])
    found = optimize.least_squares(residuals, start, bounds=bounds, max_nfev=60)
    return {"x": found.x[0], "y": found.x[1], "width": float(found.x[2]), "converged": float(found.success)}


def _verdict(row: dict[str, Any]) -> str:
    if row["signal_to_noise"] < _FAINT:
        return "faint"
    if not row["converged"]:
        return "undecided"
    if row["width_ratio"] < POINT_WIDTH and row["point_fraction"] > POINT_FRACTION and row["halo"] < HALO:
        return "POINT"
    return "EXTENDED" if row["width_ratio"] > EXTENDED_WIDTH else "undecided"


def _votes(rows: list[dict[str, Any]]) -> list[float]:
    votes = [_verdict(row) for row in rows if row["signal_to_noise"] > LEAST_SIGNAL]
    return [{"POINT": 1.0, "undecided": 0.5}.get(vote, 0.0) for vote in votes]


def _held_out(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the misfits of :func:`decide_source_type`."""
    halves = [_votes(rows[k::2]) for k in (0, 1)]
    if not all(halves):
        return dict.fromkeys(("misfit", "misfit_point", "misfit_extended"), np.nan)
    scores = [float(np.mean(votes)) for votes in halves]
    against = [score if other < _POINT_SCORE else 1.0 - score for score, other in (scores, scores[::-1])]
    mean = float(np.mean(scores))
    return {"misfit": float(np.mean(against)), "misfit_point": 1.0 - mean, "misfit_extended": mean}


def _is_clear(rows: list[dict[str, Any]]) -> bool:
    votes = [_verdict(row) for row in rows if row["signal_to_noise"] > LEAST_SIGNAL]
    if not votes:  # too faint to decide, but something is there that is no extended source
        return not any(_verdict(row) in ("POINT", "undecided") for row in rows)
    return votes.count("undecided") <= len(votes) / 3
