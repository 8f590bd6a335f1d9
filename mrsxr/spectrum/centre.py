"""Where the source of a cube is: a point-like peak off the border of the field, near the target where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr.errors import MrsxrError
from mrsxr.notes import caught_warnings, tell
from mrsxr.robust import median_image, middle_and_scatter
from mrsxr.scores import gains, score
from mrsxr.spaxels import spaxel_size

from .aperture import is_inside, outside, sky_to_pixel
from .profile import Psf, expected, shape_of

#: Planes beyond this wavelength [um] are too noisy to find the source (jwst extract_1d).
CENTRE_LIMIT = 26.0
REACH = 1.0  # arcsec, and two FWHM: as far off its coordinates may a target lie
WIDEST = 2.0  # FWHM of what is called point-like, in units of the PSF
_DETECTION = 5.0
_MOST = 12  # places that are looked at
_FAINT = 0.05  # of the brightest, below which a peak is not taken for the target
_DAO_BORDER = 2.0  # spaxels


@dataclass(frozen=True)
class Place:
    """Where a source was found (x, y) [pixel], counted from 0; ``passed_over`` a brighter place that was refused."""

    x: float
    y: float
    passed_over: tuple[float, float] | None = None


def centre_of(
    cube: xr.Dataset, center: tuple[float, float] | None, search: str | None, psf: Psf | None
) -> tuple[tuple[float, float], dict[str, xr.Variable]]:
    """Return the centre of an aperture in pixels, counted from 0: given, found, target, or the middle of the cube.

    Beside it the score of "fit" against "daofind" where that was to be found (:mod:`mrsxr.scores`).

    Parameters
    ----------
    cube : Dataset, level "cube"
    center : (float, float) or None
        Right ascension and declination [deg].
    search : {"fit", "daofind"} or None
    psf : callable or None
        FWHM [arcsec] of a point source at a wavelength [um].
    """
    sizes = cube.sizes["x"], cube.sizes["y"]
    middle = 0.5 * (sizes[0] - 1), 0.5 * (sizes[1] - 1)
    if center is not None:
        place = sky_to_pixel(cube, *center)
        if not is_inside(cube, place):
            raise MrsxrError(outside(cube, center))
        return place, {}
    target = target_of(cube)
    judged: dict[str, xr.Variable] = {}
    if search:
        inside = target if target is not None and is_inside(cube, target) else None
        found, judged = _search(cube, search, inside, middle, psf)
        if found is not None:
            return (found.x, found.y), judged
    if target is not None:
        if is_inside(cube, target):
            return target, judged
        coordinates = float(cube.attrs["target_ra"]), float(cube.attrs["target_dec"])
        tell(f"cube {cube.attrs.get('band')}: the target {coordinates} deg lies outside; its middle is used")
    return middle, judged


def target_of(cube: xr.Dataset) -> tuple[float, float] | None:
    """Return the pixel (x, y) of the target coordinates, None without any."""
    target = float(cube.attrs.get("target_ra", np.nan)), float(cube.attrs.get("target_dec", np.nan))
    return sky_to_pixel(cube, *target) if np.isfinite(target).all() else None


def _search(
    cube: xr.Dataset, search: str, target: tuple[float, float] | None, middle: tuple[float, float], psf: Psf | None
) -> tuple[Place | None, dict[str, xr.Variable]]:
    """Look for the source and say where that is not the brightest place, or not the target."""
    scale, band = spaxel_size(cube), cube.attrs.get("band")
    fwhm = float(expected(float(np.median(cube["wavelength"].values)), psf)) / scale
    reach = max(REACH / scale, 2.0 * fwhm)
    found, judged = find_source_dao(cube), {}
    image: Any = collapse(cube) if search == "fit" or found is None else None
    if search == "fit":
        fitted = find_place(image, fwhm, target, reach)
        value, on = judge_fit(cube, fitted, found, target, middle, (fwhm, reach))
        judged = score("centering", value, method="fit", instead="daofind", held_out=on)
        found = fitted if gains(value) else found
    if found is None:
        top = find_place(image, fwhm, widest=np.inf)
        where = "" if top is None else f" (the brightest place is at spaxel ({top.x:.0f}, {top.y:.0f}))"
        tell(f"cube {band}: no source found that is a point off the border{where}; the target coordinates are used")
        return None, judged
    if found.passed_over is not None:
        x, y = found.passed_over
        tell(
            f"cube {band}: a brighter place at spaxel ({x:.0f}, {y:.0f}) is passed over, at the border, no point or "
            f"far from the target; the source is taken to be at ({found.x:.1f}, {found.y:.1f}); center takes another"
        )
    off = 0.0 if target is None else float(np.hypot(found.x - target[0], found.y - target[1]))
    if off > reach:
        tell(
            f"cube {band}: the source is found {off * scale:.1f} arcsec from the target coordinates; "
            "center, or autocen False, takes another place"
        )
    return found, judged


def judge_fit(
    cube: xr.Dataset, fitted: Place | None, plain: Place | None, target: tuple[float, float] | None,
    middle: tuple[float, float], size: tuple[float, float],
) -> tuple[float, str]:  # fmt: skip
    """Return the misfit of the fitted place over that of what daofind finds, and on what it was judged.

    Parameters
    ----------
    cube : Dataset, level "cube"
    fitted, plain : Place or None
        Found by "fit" and by "daofind" in the whole cube; in place of None the target or the middle.
    target, middle : (float, float)
        [pixel]
    size : (float, float)
        FWHM of a point source and reach of :func:`find_place` [pixel].

    Returns
    -------
    float, str
        Places of one source: what the image of a point source there leaves of the structure in every second plane, the
        places being found in the others. Of different sources: their distances from the target coordinates, or where
        these are not known, or "fit" finds none, what is left at either. NaN without a second plane.
    """
    on = "left-out planes"
    if cube.sizes["wavelength"] < 2:
        return np.nan, on
    fwhm, reach = size
    here, there = fitted or Place(*(target or middle)), plain or Place(*(target or middle))
    apart = float(np.hypot(here.x - there.x, here.y - there.y))
    if apart > fwhm and target is not None and plain is not None and fitted is not None:
        one, two = (float(np.hypot(p.x - target[0], p.y - target[1])) for p in (here, there))
        return one / max(two, 1e-6), "the target coordinates"
    total = np.zeros(2)
    halves = [cube.isel(wavelength=slice(k, None, 2)) for k in (0, 1)]
    for seen, left_out in (halves, halves[::-1]):
        found = find_place(collapse(seen), fwhm, target, reach) if fitted else None
        pair = found or here, (find_source_dao(seen) if plain else None) or there
        about = [((pair[0].x + pair[1].x) / 2, (pair[0].y + pair[1].y) / 2)] * 2
        if apart > fwhm:
            about = [(p.x, p.y) for p in pair]
        image = collapse(left_out)
        total += [_left(image, p, fwhm, centre) for p, centre in zip(pair, about, strict=True)]
    return float(total[0] / total[1]) if total[1] > 0 else np.nan, on


def _left(image: np.ndarray, place: Place, fwhm: float, about: tuple[float, float]) -> float:
    """Return what a point source on a sloping field leaves of the structure of an image within 1.5 FWHM about a centre.

    Light of a neighbour, or of a field that is not flat, draws a place aside and must not speak for it.
    """
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    near = np.isfinite(image) & (np.hypot(x - about[0], y - about[1]) <= 1.5 * fwhm)
    values = image[near]
    if values.size < 8 or not np.ptp(values) > 0:
        return np.nan
    shape = shape_of((x[near] - place.x) ** 2 + (y[near] - place.y) ** 2, fwhm)
    terms = np.stack([shape, np.ones_like(shape), x[near] - about[0], y[near] - about[1]], axis=1)
    left = values - terms @ np.linalg.lstsq(terms, values, rcond=None)[0]
    return float(np.sum(left**2) / np.sum((values - values.mean()) ** 2))


def collapse(cube: xr.Dataset) -> np.ndarray:
    """Return the median image [MJy/sr] of the planes below 26 um; NaN where less than half are good."""
    planes = cube["wavelength"].values < CENTRE_LIMIT
    values = _good_flux(cube, planes if planes.any() else slice(None))
    return median_image(values, np.isfinite(values).sum(axis=0) > 0.5 * len(values))


def _good_flux(cube: xr.Dataset, planes: Any) -> np.ndarray:
    values = np.asarray(cube["flux"].values[planes], dtype=float)
    bad = ~np.isfinite(values)
    if "dq" in cube:
        bad |= flags.any_of(cube["dq"].values[planes], "DO_NOT_USE")
    return np.where(bad, np.nan, values)


def find_source(image: np.ndarray, fwhm: float) -> tuple[float, float] | None:
    """Return the pixel (x, y) of the brightest source of an image, of any width; see :func:`find_place`."""
    found = find_place(image, fwhm, widest=np.inf)
    return None if found is None else (found.x, found.y)


def find_place(
    image: np.ndarray, fwhm: float, target: tuple[float, float] | None = None, reach: float = 0.0,
    widest: float = WIDEST,
) -> Place | None:  # fmt: skip
    """Return the place of the source of an image, or None where nothing stands out.

    Parameters
    ----------
    image : float array (y, x)
        NaN where there is no value.
    fwhm : float
        Expected width of a point source [pixel].
    target : (float, float), optional
        Where it should be (x, y) [pixel]: a peak within ``reach`` of it goes before brighter ones farther off.
    reach : float
        [pixel]
    widest : float
        Peaks farther off must be narrower than so many FWHM.

    Returns
    -------
    Place or None
        Centre counted from 0: the brightest peak after a Gaussian smoothing that leaves NaN out, refined by a robust
        fit of a round Gaussian on a constant, which missing spaxels do not pull aside. Peaks within one FWHM of the
        border of the field count only within half of the reach, or where the target is not known.
    """
    good = np.isfinite(image)
    if good.sum() < 9:
        return None
    level, noise = middle_and_scatter(image[good])
    smooth = _smooth(np.where(good, image - level, 0.0), good, fwhm)
    peaks = _peaks(smooth, fwhm, _DETECTION * noise / fwhm)
    depth = _depth(good)
    accepted = []
    for x0, y0 in peaks[:_MOST]:
        x, y, width = _fit_gaussian(image, good, float(x0), float(y0), fwhm, level)
        border, point = depth[y0, x0] <= fwhm, width <= widest
        off = np.inf if target is None else np.hypot(x - target[0], y - target[1])
        near = off <= (0.5 * reach if border else reach)
        if near or (point and (target is None or not border)):
            accepted.append((near, smooth[y0, x0], x, y, (x0, y0)))
    if not accepted:
        return None
    bright = [one for one in accepted if one[1] > _FAINT * accepted[0][1]]
    _, _, x, y, peak = next((one for one in bright if one[0]), accepted[0])
    return Place(x, y, None if peak == peaks[0] else (float(peaks[0][0]), float(peaks[0][1])))


def _peaks(smooth: np.ndarray, fwhm: float, least: float) -> list[tuple[int, int]]:
    """Return the local maxima (x, y) of an image above a limit, the highest first."""
    from scipy import ndimage

    filled = np.where(np.isfinite(smooth), smooth, -np.inf)
    top = (filled == ndimage.maximum_filter(filled, size=2 * round(0.5 * fwhm) + 1)) & (filled > least)
    places = sorted(np.argwhere(top).tolist(), key=lambda p: -filled[p[0], p[1]])
    return [(i, j) for j, i in places]


def _depth(good: np.ndarray) -> np.ndarray:
    """Return how far each spaxel lies inside the field [spaxel]; holes in the field are no border."""
    from scipy import ndimage

    whole = np.pad(ndimage.binary_fill_holes(good), 1)
    return ndimage.distance_transform_edt(whole)[1:-1, 1:-1] - 0.5


def find_source_dao(cube: xr.Dataset) -> Place | None:
    """Return the place of the brightest source as jwst finds it (``ifu_autocen``), off the border; or None.

    Notes
    -----
    DAOStarFinder with a width of 3 spaxels in every band and a limit of 3 sigma on the median of the planes below
    26 um, however few of them are good in a spaxel. Unlike jwst, sources within two spaxels of the border are none.
    """
    from astropy.stats import sigma_clipped_stats
    from photutils.detection import DAOStarFinder
    from photutils.utils.exceptions import NoDetectionsWarning

    planes = np.nonzero(cube["wavelength"].values < CENTRE_LIMIT)[0]
    if planes.size == 0:
        return None
    values = _good_flux(cube, planes)
    if not np.isfinite(values).any():
        return None
    image = median_image(values, np.isfinite(values).any(axis=0))
    image = np.ma.masked_array(np.nan_to_num(image), np.isnan(image))
    _, middle, spread = sigma_clipped_stats(image)
    with caught_warnings(NoDetectionsWarning):
        found = DAOStarFinder(fwhm=3.0, threshold=3 * spread)(image - middle)
    if found is None:
        return None
    x, y = (np.asarray(found[f"{axis}_centroid"], dtype=float) for axis in ("x", "y"))
    depth = _depth(np.isfinite(values).any(axis=0))
    order = np.argsort(-np.asarray(found["flux"]), kind="stable")
    inside = [k for k in order if depth[_nearest(y[k], depth.shape[0]), _nearest(x[k], depth.shape[1])] > _DAO_BORDER]
    if not inside:
        return None
    best, first = inside[0], order[0]
    return Place(float(x[best]), float(y[best]), None if best == first else (float(x[first]), float(y[first])))


def _nearest(place: float, size: int) -> int:
    return int(np.clip(np.rint(place), 0, size - 1))


def _smooth(values: np.ndarray, good: np.ndarray, fwhm: float) -> np.ndarray:
    """Return the normalised Gaussian convolution; NaN where less than half of the kernel is covered."""
    half = int(np.ceil(fwhm))
    offsets = np.arange(-half, half + 1)
    profile = np.exp(-4 * np.log(2) * (offsets / fwhm) ** 2)
    profile /= profile.sum()

    def convolve(a: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            a = np.apply_along_axis(np.convolve, axis, a, profile, mode="full")
            a = np.take(a, np.arange(half, a.shape[axis] - half), axis=axis)
        return a

    cover = convolve(good.astype(float))
    enough = good & (cover > 0.5)
    return np.where(enough, convolve(values) / np.where(enough, cover, 1.0), np.nan)


def _fit_gaussian(
    image: np.ndarray, good: np.ndarray, x0: float, y0: float, fwhm: float, level: float,
) -> tuple[float, float, float]:  # fmt: skip
    """Return centre (x, y) [pixel] and width [FWHM] of a round Gaussian fitted about a place."""
    from scipy import optimize

    grid = np.indices(image.shape)
    near = good & (np.hypot(grid[1] - x0, grid[0] - y0) <= 2.0 * fwhm)
    if near.sum() < 6:
        return x0, y0, 0.0
    x, y, values = grid[1][near], grid[0][near], image[near]
    height = max(float(values.max() - level), 1e-30)
    values = (values - level) / height

    def residuals(p: np.ndarray) -> np.ndarray:
        amplitude, cx, cy, width, base = p
        return amplitude * np.exp(-4 * np.log(2) * ((x - cx) ** 2 + (y - cy) ** 2) / width**2) + base - values

    bounds = (
        [0, x0 - 1.5 * fwhm, y0 - 1.5 * fwhm, 0.4 * fwhm, -2],
        [20, x0 + 1.5 * fwhm, y0 + 1.5 * fwhm, 4 * fwhm, 2],
    )
    fit = optimize.least_squares(residuals, [1.0, x0, y0, fwhm, 0.0], bounds=bounds, loss="soft_l1", f_scale=0.1)
    if not fit.success:
        tell(f"the fit of the source at spaxel ({x0:.0f}, {y0:.0f}) did not converge; its peak is taken")
        return x0, y0, 1.0
    return float(fit.x[1]), float(fit.x[2]), float(fit.x[3]) / fwhm
