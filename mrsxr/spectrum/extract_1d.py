"""Extraction of a spectrum from a cube: a circle that grows with wavelength, a fitted profile, or the whole field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr.attributes import widened
from mrsxr.blocks import is_lazy
from mrsxr.chunks import CUBE_PLANES
from mrsxr.errors import MrsxrError
from mrsxr.geometry.place import sky_of
from mrsxr.limits import Arcsec, OptionalRef, Place, Positive, Range, Region, SourceType
from mrsxr.robust import real_variances
from mrsxr.schema import meaning_of, units_of
from mrsxr.spaxels import solid_angle, spaxel_area, spaxel_size
from mrsxr.step import step
from mrsxr.threads import how

from . import aperture, lost_light, optimal
from .centre import centre_of
from .profile import Profile, Psf
from .region import read_region, region_area, region_text, region_weights

_MODES = {None: 0, "annulus": 1, "annulus_jwst": 2, "aperture": 3}
_CUBE = ("flux", "var", "weight")
Method = Literal["aperture", "optimal"]
Centering = Literal["fit", "daofind"]
RadiusFactor = Annotated[float, Range(above=0, high=20)]
SUBPIXELS = 10  # along an axis, of jwst
#: Units and meaning of variables that the level spectrum may have beyond its schema.
_MORE = {
    "background_var": ("MJy2/sr2", "variance of background"),
    "var_systematic": ("Jy2", "variance of flux by errors common to all samples, beside var"),
    "surface_brightness_var_systematic": ("MJy2/sr2", "variance of surface_brightness by such errors"),
    "lost_light": ("1", "part of the light (POINT) or area (EXTENDED) of the aperture without data"),
    "saturated_light": ("1", "part of it in saturated spaxels"),
    "annulus_lost": ("1", "part of the area of the annulus without data"),
}


@step(needs="cube", gives="spectrum", jwst="extract_1d", keyword="S_EXTR1D")
def extract_spectrum(
    cube: xr.Dataset,
    *,
    extract1d: OptionalRef = None,
    apcorr: OptionalRef = None,
    source_type: SourceType | None = None,
    center: Place | None = None,
    autocen: bool = True,
    centering: Centering = "fit",
    radius_factor: RadiusFactor = 2.0,
    radius: Arcsec | None = None,
    region: Region | None = None,
    background: Literal["annulus"] | None = "annulus",
    clip_sigma: Positive = 3.0,
    method: Method = "aperture",
    like_jwst: bool = False,
    covariance_scale: Positive = 1.0,
    psf: Psf | None = None,
) -> xr.Dataset:
    """Extract the spectrum of a source from a cube.

    Parameters
    ----------
    cube : Dataset, level "cube"
    extract1d : Dataset, kind "extract1d", optional
        Radius and annulus at each wavelength; without it ``radius_factor`` times the FWHM of the PSF.
    apcorr : Dataset, kind "apcorr", optional
        Aperture correction, for POINT only.
    source_type : {"POINT", "EXTENDED"}, optional
        By default that of the cube; anything but POINT is EXTENDED.
    center : (float, float), optional
        Right ascension and declination of the source [deg], or a SkyCoord, or text (:func:`mrsxr.arguments.as_sky`).
    autocen : bool
        Without ``center``, find the brightest source of the collapsed cube. This needs the values: a lazy
        cube is computed, and the spectrum then is not lazy. False: the target coordinates of the cube.
    centering : {"fit", "daofind"}
        How it is found: a robust fit of the width expected, or DAOStarFinder of a width of 3 spaxels as in jwst; the
        latter also where the fit shows no gain (``score_centering``, :func:`mrsxr.spectrum.centre.judge_fit`).
    radius_factor : float
        Radius in units of the FWHM (POINT); the annulus stays where it is.
    radius : float, optional
        Fixed radius of a circle on the sky [arcsec], in place of the growing one; it makes EXTENDED a circle
        about ``center`` (or the target) instead of the whole field.
    region : str, path, Region or sequence of Region, optional
        Region in place of a circle, see :func:`mrsxr.spectrum.region.read_region`: on the sky, the same in every
        band, or in spaxels of this cube. The data then count as EXTENDED.
    background : {"annulus", None}
        POINT only: the mean of the annulus without values beyond ``clip_sigma`` is subtracted. EXTENDED data are never
        subtracted; there ``background`` is the clipped mean of the region.
    clip_sigma : float
        Clipping limit [standard deviations], five iterations.
    method : {"aperture", "optimal"}
        The sum over the aperture; or ``"optimal"``, POINT only: the profile of a point source and, where a background
        is subtracted, a constant are fitted to the spaxels of circle and annulus, weighted by their variances. It
        measures the same light as the circle, with less noise where the source is faint, and makes up for spaxels
        without data. The profile is fitted to the cube, so that a lazy cube is computed. For a point source alone: of a
        nucleus in a bright galaxy it takes what looks like the profile (a warning tells).
    like_jwst : bool
        Find the part of a spaxel inside a circle by 10 x 10 subpixels, not exactly; clip the annulus by the whole plane
        and count the clipped spaxels in its area; outside of the table of ``apcorr`` continue its straight line, where
        else its border value is taken.
    covariance_scale : float
        Factor on the errors for the covariance of neighbouring spaxels (``ifu_covar_scale`` of jwst).
    psf : callable, optional
        FWHM [arcsec] of a point source at a wavelength [um], where it starts from to find and fit the source; by
        default that of Law et al. (2023).

    Returns
    -------
    Dataset, level "spectrum"
        ``flux`` [Jy], ``var`` [Jy2], ``surface_brightness`` [MJy/sr] and its variance (background subtracted,
        aperture corrected), ``background`` [MJy/sr] and its variance, ``n_pixels``, ``aperture_radius``
        [arcsec], ``aperture_correction``, ``dq``; where the cube has ``var_systematic``, that of the spectrum [Jy2] and
        ``surface_brightness_var_systematic``, apart from ``var``. Lazy where ``cube`` is lazy and the centre is given.

        ``lost_light`` is the part of the light of a point source in the aperture (EXTENDED: of its area) that has no
        data: voxels that are NaN, DO_NOT_USE, of weight 0 or outside the field. From 1 % on a sample is FLUX_ESTIMATED
        (where ``saturated_light`` is more than 1 %, SATURATED), from 20 % on (EXTENDED, and "optimal", which makes up
        for it: 50 %) NaN and DO_NOT_USE. ``annulus_lost`` is the part of the annulus without data: from 50 % on
        FLUX_ESTIMATED, from 90 % on NaN. Where a voxel of the sum has no error, the sample has none.

    Raises
    ------
    MrsxrError
        Where options contradict each other, or a point source of a cube that was matched to another PSF or binned is to
        get an aperture correction.

    Notes
    -----
    flux = (sum of parts times values - area times background) * solid angle of a spaxel * 1e6. Spaxels
    without data lower ``n_pixels`` and the sum alike; they are not made up for but told in ``lost_light``. Errors that
    all spaxels have in common add up linearly, sum(part sigma), and those of the background are taken off: a common
    factor leaves an error in proportion to the flux, a common level none.

    Examples
    --------
    >>> point = mx.spectrum.extract_spectrum(cube, source_type="POINT", apcorr=refs.get("apcorr", cube))
    >>> center = (float(cube.ra.mean()), float(cube.dec.mean()))
    >>> circle = mx.spectrum.extract_spectrum(cube, source_type="EXTENDED", center=center, radius=0.5)
    >>> circle.flux.attrs["units"], circle.surface_brightness.attrs["units"]
    ('Jy', 'MJy/sr')
    """
    kind = "EXTENDED" if region is not None else _source_type(cube, source_type)
    _check(radius, region, center, kind, method)
    region = None if region is None else read_region(region, sky_of(cube))
    wavelength = np.asarray(cube["wavelength"].values, dtype=float)
    point = kind == "POINT"
    if point and apcorr is not None and widened(cube):
        raise MrsxrError(
            f"the cube is {widened(cube)}: its PSF is wider than the one that the aperture correction is for; extract "
            "from the cube as it was built, or give no apcorr (and a radius that holds the source)"
        )
    if point and ((center is None and autocen) or method == "optimal") and is_lazy(cube):
        cube = cube[_names(cube)].compute(**how()).assign_attrs(cube.attrs)
    whole = kind == "EXTENDED" and radius is None and region is None
    scale = float(np.sqrt(spaxel_area(cube))) if whole else spaxel_size(cube)  # circles need square spaxels
    parts = SUBPIXELS if like_jwst and method == "aperture" else 0
    within = "annulus_jwst" if like_jwst and background else background
    profile = None
    judged: dict[str, xr.Variable] = {}
    if region is None:
        (x, y), judged = centre_of(cube, center, centering if autocen and point else None, psf)
        radii = _radii(wavelength, kind, extract1d, radius_factor, radius)
    if region is None and method == "optimal":
        given = center is not None
        sums, profile, of_psf = optimal.fit_sums(cube, (x, y), radii, background is not None, fixed=given, psf=psf)
        x, y = profile.x, profile.y
    elif region is None:
        mode = _MODES[within] if point else _MODES["aperture"]
        sums = _over_planes(
            cube, sum_planes, _names(cube), (radii / scale)[:, None, :], place=(x, y), mode=mode,
            clip_sigma=float(clip_sigma), subpixels=int(parts),
        )  # fmt: skip
    if region is None:
        lost = _lost(cube, radii, (x, y), kind, psf, profile, parts)
    else:
        share = region_weights(cube, region)
        x, y = (float(np.sum(share * index) / share.sum()) for index in np.indices(share.shape)[::-1])
        radii = np.full((wavelength.size, 3), np.sqrt(share.sum() / np.pi) * scale)
        sums = _over_planes(cube, sum_region, _names(cube), share=share, clip_sigma=float(clip_sigma))
        lost = _over_planes(
            cube, lost_light.lost_of_region, ("flux", "weight", "dq"), n_columns=3, share=share,
            area=region_area(cube, region),
        )  # fmt: skip
    correction = np.ones_like(wavelength)
    if point and apcorr is not None:
        correction = aperture.aperture_correction(
            wavelength, radii[:, 0], apcorr, "extrapolate" if like_jwst else "clamp"
        )
    subtracted = within if point else None
    net = subtracted is not None and profile is None  # of a fit the background is off already
    per_spaxel = 1e6 * solid_angle(cube)  # Jy of 1 MJy/sr
    out = _spectrum(sums, correction, net, per_spaxel, covariance_scale)
    if "var_systematic" in cube:
        out |= _systematic(sums, correction, net, per_spaxel)
    out = lost_light.flag_lost(out, lost, kind if profile is None else "optimal", subtracted is not None)
    found = _finish(out, cube, kind, (x, y), radii, correction, subtracted, apcorr, clip_sigma, parts)
    if profile is not None:
        meanings = {"psf_fwhm": ("arcsec", "FWHM of the fitted profile"), "psf_factor": ("1", "factor on its light")}
        for name, (unit, meaning) in meanings.items():
            found[name] = ("wavelength", of_psf[name], {"units": unit, "long_name": meaning})
        found = found.assign_attrs(extraction="optimal", **profile.attrs())
    found = found.assign(judged)
    if region is not None:
        found = found.assign_attrs(aperture="region", region=region_text(region))
    named = found.assign_attrs(band=str(cube.attrs.get("band", "")))
    return found if is_lazy(found) else lost_light.say_what_is_lost(named)


def _check(radius: float | None, region: Any, center: Any, kind: str, method: str) -> None:
    if region is not None and (radius is not None or center is not None):
        raise MrsxrError("a region goes without center and radius; give one or the other")
    if method == "optimal" and kind != "POINT":
        raise MrsxrError("method 'optimal' is for source type POINT; take 'aperture' for EXTENDED data and regions")


def _source_type(cube: xr.Dataset, given: str | None) -> str:
    if given is None:
        return "POINT" if cube.attrs.get("source_type") == "POINT" else "EXTENDED"
    return given.upper()


def _radii(
    wavelength: np.ndarray, kind: str, extract1d: xr.Dataset | None, radius_factor: float,
    radius: float | None,
) -> np.ndarray:  # fmt: skip
    """Return aperture radius, inner and outer annulus radius (wavelength, 3) [arcsec]."""
    grown, inner, outer = aperture.aperture_radii(wavelength, extract1d, radius_factor)
    if radius is not None:
        grown = np.full_like(grown, radius)
    elif kind == "EXTENDED":
        grown = np.full_like(grown, np.inf)
    return np.stack([grown, inner, outer], axis=1)


def sum_planes(
    *planes: np.ndarray, place: tuple[float, float], mode: int, clip_sigma: float, subpixels: int,
) -> np.ndarray:  # fmt: skip
    """Return the sums of a block of planes (plane, 8); see ``_aperture_kernels.extract_planes``."""
    from ._aperture_kernels import extract_planes

    flux, var, weight, common = _arrays(planes[:-1])
    share, ring = aperture.circle_shares(flux.shape[1:], place, planes[-1][:, 0, :], subpixels)
    return extract_planes(flux, var, weight, common, share, ring, mode, clip_sigma)


def sum_region(*planes: np.ndarray, share: np.ndarray, clip_sigma: float) -> np.ndarray:
    """Return the sums of a block of planes over a region (plane, 8); see ``_aperture_kernels.extract_planes``."""
    from ._aperture_kernels import APERTURE, extract_planes

    flux, var, weight, common = _arrays(planes)
    shares = np.tile(share, (len(flux), 1, 1))
    return extract_planes(flux, var, weight, common, shares, shares, APERTURE, clip_sigma)


def _arrays(planes: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """Return flux, var (NaN where negative), weight (0 where DO_NOT_USE), common variance, (plane, 0, 0) if none."""
    flux, var, weight, dq, *common = planes
    none = np.zeros((flux.shape[0], 0, 0), dtype=np.float32)
    arrays = (flux, real_variances(var), lost_light.good_weight(weight, dq), common[0] if common else none)
    return [np.ascontiguousarray(a) for a in arrays]


def _names(cube: xr.Dataset) -> list[str]:
    return [*_CUBE, "dq", *(["var_systematic"] if "var_systematic" in cube else [])]


def _over_planes(
    cube: xr.Dataset, wrapper: Callable[..., Any], names: list[str] | tuple[str, str, str], *tables: np.ndarray,
    n_columns: int = 8, **options: Any,
) -> Any:  # fmt: skip
    """Apply a wrapper to blocks of planes of variables, and of tables (plane, 1, n)."""
    arrays = [cube[name].variable.data for name in names]
    if not any(isinstance(a, da.Array) for a in arrays):
        parts = [[a[k : k + CUBE_PLANES] for a in (*arrays, *tables)] for k in range(0, len(arrays[0]), CUBE_PLANES)]
        return np.concatenate([wrapper(*part, **options) for part in parts])
    planes = next(a.chunks[0] for a in arrays if isinstance(a, da.Array))
    chunks = (planes, -1, -1)
    arrays = [a.rechunk(chunks) if isinstance(a, da.Array) else da.from_array(a, chunks=chunks) for a in arrays]
    lazy = [da.from_array(table, chunks=(planes, *table.shape[1:])) for table in tables]
    return da.map_blocks(
        wrapper,
        *arrays,
        *lazy,
        dtype=float,
        drop_axis=2,
        chunks=(planes, (n_columns,)),
        meta=np.empty((0, 0)),
        **options,
    )


def _lost(
    cube: xr.Dataset, radii: np.ndarray, place: tuple[float, float], kind: str, psf: Psf | None,
    profile: Profile | None, subpixels: int,
) -> Any:  # fmt: skip
    """Return what is lost in the circles of every plane (wavelength, 3)."""
    wavelength, scale = np.asarray(cube["wavelength"].values, dtype=float), float(np.sqrt(spaxel_area(cube)))
    sigmas, share = lost_light.sigmas_of(wavelength, scale, psf, profile)
    tables = (radii / scale)[:, None, :], (sigmas if kind == "POINT" else 0.0 * sigmas)[:, None, :]
    return _over_planes(
        cube, lost_light.lost_of_circles, ("flux", "weight", "dq"), *tables, n_columns=3,
        place=place, share=share, subpixels=subpixels,
    )  # fmt: skip


def _spectrum(
    sums: Any, correction: np.ndarray, subtract: bool, per_spaxel: float, covariance_scale: float
) -> dict[str, Any]:
    total, variance, area = sums[:, 0], sums[:, 1], sums[:, 2]
    level, level_variance = sums[:, 3], sums[:, 4]
    empty = area <= 0
    if subtract:
        total = total - area * level
        variance = variance + area**2 * level_variance
        empty = empty | ~np.isfinite(level)
    total, variance = (
        _blank(total, empty) * correction,
        _blank(variance, empty) * (correction * covariance_scale) ** 2,
    )
    count = _blank(area, area <= 0, 1.0)
    return {
        "flux": total * per_spaxel,
        "var": variance * per_spaxel**2,
        "surface_brightness": total / count,
        "surface_brightness_var": variance / count**2,
        "background": level,
        "background_var": level_variance * covariance_scale**2,
        "n_pixels": area,
        "dq": (empty * np.uint32(flags.DO_NOT_USE)).astype(np.uint32),
    }


def _systematic(sums: Any, correction: np.ndarray, subtract: bool, per_spaxel: float) -> dict[str, Any]:
    """Return the variances by errors common to all spaxels: they add up, and go off with the background."""
    error, area = sums[:, 6], sums[:, 2]
    if subtract:
        error = error - area * sums[:, 7]
    error = _blank(error, area <= 0) * correction
    return {
        "var_systematic": (error * per_spaxel) ** 2,
        "surface_brightness_var_systematic": (error / _blank(area, area <= 0, 1.0)) ** 2,
    }


def _blank(values: Any, where: Any, fill: float = np.nan) -> Any:
    module = da if isinstance(values, da.Array) else np
    return module.where(where, fill, values)


def _finish(
    out: dict[str, Any], cube: xr.Dataset, kind: str, place: tuple[float, float], radii: np.ndarray,
    correction: np.ndarray, background: str | None, apcorr: xr.Dataset | None, clip_sigma: float, subpixels: int,
) -> xr.Dataset:  # fmt: skip
    variables = {}
    for name, values in out.items():
        units, meaning = _MORE.get(name) or (units_of("spectrum", name), meaning_of("spectrum", name))
        attrs = {"units": units, "long_name": meaning}
        variables[name] = ("wavelength", values, dict(flags.PIXEL_DQ_ATTRS) if name == "dq" else attrs)
    for name, column, meaning in (
        ("aperture_radius", 0, "radius"),
        ("annulus_inner", 1, "inner radius of the annulus"),
        ("annulus_outer", 2, "outer radius of the annulus"),
    ):
        if column == 0 or background is not None:
            variables[name] = ("wavelength", radii[:, column], {"units": "arcsec", "long_name": meaning})
    variables["aperture_correction"] = ("wavelength", correction, {"units": "1", "long_name": "factor in flux"})
    wavelength = np.asarray(cube["wavelength"].values, dtype=float)
    band = np.full(len(wavelength), str(cube.attrs.get("band", "")))
    if "band" in cube.coords:  # of a joint cube
        band = np.asarray(cube["band"].values).astype(str)
    coords = {"wavelength": ("wavelength", wavelength, {"units": "um"}), "band": ("wavelength", band)}
    ra, dec = aperture.pixel_to_sky(cube, *place)
    whole = not np.isfinite(radii[:, 0]).any()
    facts: dict[str, str | float] = {
        "source_type": kind,
        "source_type_header": str(cube.attrs.get("source_type", "")),
        "aperture_ra": ra,
        "aperture_dec": dec,
        "aperture_x": float(place[0]),
        "aperture_y": float(place[1]),
        "aperture": "whole field" if whole else "circle",
        "background_method": background or "none",
        "clip_sigma": float(clip_sigma),
        "subpixels": int(subpixels),
        "aperture_correction_ref": str(apcorr.attrs.get("ref_id", "")) if apcorr is not None else "none",
        "pixel_area_sr": solid_angle(cube),
    }
    return xr.Dataset(variables, coords, facts)
