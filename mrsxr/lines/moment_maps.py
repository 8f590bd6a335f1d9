"""Lines in cubes without a model of their profile: continuum from side bands, moments 0 to 2, channel maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr.arguments import as_kms, as_kms_extent, as_kms_list, reads
from mrsxr.attributes import varied
from mrsxr.errors import MrsxrError
from mrsxr.limits import LineName, NotNegative, Positive, Range, Redshift, Share, checked
from mrsxr.robust import real_variances
from mrsxr.step import recorded

from ._side_bands import C_KM_S, Window, frame_of, interval, line_window, map_spaxels, need_cube, spaxel_area
from ._window import Resolution, redshift_of, resolution_at
from .linelist import find_line

Noise = Literal["residual", "error"]
Degree = Literal[0, 1, 2, 3, 4]
HalfWidth = Annotated[float, Range(above=0, unit="km/s")]
_FWHM = math.sqrt(8.0 * math.log(2.0))
_MOST_CHANNELS = 10_000
_WIDER = 1.25  # step of the widths by which a line is looked for
Exclude = Sequence[tuple[float, float]] | None


@reads(window=as_kms, extent=as_kms_extent)
@checked
def subtract_continuum(
    cube: xr.Dataset, line: LineName, *, redshift: Redshift | None = None, extent: float | tuple[float, float] = 600.0,
    window: HalfWidth = 2500.0, degree: Degree = 1, clip: NotNegative = 4.0, exclude: Exclude = None,
    coverage: Share = 0.75,
) -> xr.Dataset:  # fmt: skip
    """Cut the window of a line out of a cube and subtract the continuum of every spaxel.

    Parameters
    ----------
    cube, line, redshift, extent, window, degree, clip, exclude, coverage
        As of :func:`moments`.

    Returns
    -------
    Dataset, level "cube"
        The planes of the window: ``flux`` [MJy/sr] without continuum, ``var`` with that of the continuum added,
        ``continuum`` and ``continuum_err`` [MJy/sr]. Spaxels without continuum are NaN and DO_NOT_USE.

    Raises
    ------
    MrsxrError
        As :func:`moments`.

    Examples
    --------
    >>> disc = mx.simulate.simulate_cube(band="3A", wavelength=(12.9, 13.3))
    >>> line = mx.lines.subtract_continuum(disc, "[Ne II] 12.81")
    """
    cube = need_cube(cube, "subtract_continuum")
    around = line_window(cube, line, redshift, interval(extent), window, degree, exclude)
    here = cube.isel(wavelength=around.planes)
    found = map_spaxels(
        continuum_of, here, (2, here.sizes["wavelength"]), **_fit_options(around, degree, clip, "residual", coverage)
    )
    dims = ("wavelength", "y", "x")
    level = xr.DataArray(found[0].astype(np.float32), dims=dims)
    square = xr.DataArray(found[1].astype(np.float32), dims=dims)
    blind = level.isnull()
    unusable = blind.astype(np.uint32) * np.uint32(flags.DO_NOT_USE)
    text = {"units": "MJy/sr", "long_name": "continuum from the side bands"}
    changed = {
        "flux": (here["flux"] - level).astype(np.float32),
        "var": (here["var"].where(~(here["var"] < 0)) + square).astype(np.float32),
        "dq": here["dq"] | unusable,
        "continuum": level.assign_attrs(text),
        "continuum_err": (square**0.5).assign_attrs(text | {"long_name": "error of the continuum"}),
    }  # fmt: skip
    changed |= {name: changed[name].assign_attrs(here[name].attrs) for name in ("flux", "var", "dq")}
    params = _parameters(around, extent, window, degree, clip, exclude, coverage)
    return recorded(cube, varied(here.assign(changed), "continuum-subtracted"), "lines.subtract_continuum", **params)


@reads(window=as_kms, extent=as_kms_extent)
@checked
def moments(
    cube: xr.Dataset, line: LineName, *, redshift: Redshift | None = None, extent: float | tuple[float, float] = 600.0,
    window: HalfWidth = 2500.0, degree: Degree = 1, threshold: NotNegative | None = 3.0,
    instrument: bool = True, resolution: Resolution = None, noise: Noise = "residual", clip: NotNegative = 4.0,
    exclude: Exclude = None, coverage: Share = 0.75,
) -> xr.Dataset:  # fmt: skip
    """Return the moments 0, 1 and 2 of a line in every spaxel: flux, mean velocity, dispersion.

    Parameters
    ----------
    cube : Dataset, level "cube"
        ``flux`` [MJy/sr], ``var``, ``dq``; ``attrs["pixel_scale"]`` [arcsec]. Voxels without an error (``var`` negative
        or not finite) get the middle one of their spaxel. Of bands that overlap at the line the planes of the one that
        reaches farther on both sides count.
    line : str or float
        Label of :func:`mrsxr.lines.line_list` ("[O IV] 25.89"), name that is unique there ("[O IV]", "OIV"), or rest
        wavelength [um].
    redshift : float, optional
        Redshift; by default ``attrs["redshift"]``, or 0.
    extent : float or (float, float)
        Velocities that hold the line [km/s], half width or (low, high), with three observed dispersions to either side:
        light beyond is lost, and taken for continuum (with 1.5, velocities of S/N 40 err by 2.4 times their error).
    window : float
        Half width of the window that holds the continuum [km/s].
    degree : int
        Of the polynomial in wavelength through the side bands, 0 to 4.
    threshold : float, optional
        Velocity and dispersion are those of the planes that hold the line, looked for in each spaxel, and NaN where the
        line is fainter than so many sigma (without a line 1 spaxel in 20 passes 3, 1 in 200 passes 4). None: all planes
        of the extent count, whose noise makes both uncertain, but no wing is cut.
    instrument : bool
        Whether the widths of instrument and planes are removed from the dispersion.
    resolution : float or callable, optional
        Resolving power, or a function of the wavelength [um] that gives it; by default
        :func:`mrsxr.mrs.resolving_power`.
    noise : {"residual", "error"}
        Errors of the cube scaled to the scatter around the continuum of each spaxel (the scatter of few voxels being
        uncertain, those of Student's distribution), or as they are.
    clip : float
        Voxels of the side bands further off than this many robust sigma are left out; 0 takes all.
    exclude : pairs of float, optional
        Observed wavelengths [um] that are no continuum; by default 500 km/s to either side of the other bright lines of
        the list, ``()`` for none.
    coverage : float
        Spaxels with data in less than this part of the window, or of the line, are NaN.

    Returns
    -------
    Dataset, level "moments", on (y, x)
        ``moment0`` [W m-2 per spaxel], ``moment1`` [km/s, relative to the redshift], ``moment2`` [km/s, dispersion],
        each with ``_err``; ``snr``; ``continuum``, ``continuum_err`` [MJy/sr] at the line; ``ew``, ``ew_err`` [um];
        ``noise_scale``, the scatter over the given errors; ``coverage``, part of the window with data. Lazy where the
        cube is. Coordinates y, x, ra, dec and the index of the cube.

    Raises
    ------
    MrsxrError
        Where the line is unknown or not in the cube, no continuum is left beside it, or an option is unknown.

    Notes
    -----
    M0 = sum a (I - c), a the power of 1 MJy/sr in a plane, I_lambda = I_nu c / lambda^2, planes at the ends of the
    extent counted by their part inside. M1 = sum a v (I - c) / M0, M2^2 = sum a (v - M1)^2 (I - c) / M0, of which
    (c / 2.3548 R)^2 and, as planes are means over their width, width^2 / 12 are taken off. A dispersion that is smaller
    than the instrument's is 0, with the error sqrt(error of its square). Errors are those of voxels
    that share detector pixels with the next ones (:func:`mrsxr.sums.wavelength_correlation`), or are correlated over
    more in the residuals beside the line, and of the continuum.
    Single missing voxels in the line are bridged by their neighbours, with the
    light that is put there as a further error.

    With a threshold M1 and M2 are sums from the place of the Gaussian that fits best to as far as it stands above a
    tenth of the error of a voxel (2.2 sigma or more), and on by its sigma while the light there is three times its
    error. Measured on simulated Gaussians in independent and in correlated planes: M0 scatters as its errors say, M1
    and M2 within 10 % from S/N 15 on, 15 % at S/N 10, 35 % at S/N 5. Wings that are too faint to be seen are cut: where
    a third of the light (S/N 100) is four times as wide as the rest, dispersions come out 14 % low, and true without a
    threshold.

    Examples
    --------
    >>> disc = mx.simulate.simulate_cube(band="3A", wavelength=(12.9, 13.3))
    >>> maps = mx.lines.moments(disc, "[Ne II] 12.81", extent=500)
    >>> maps.moment1.attrs["units"]
    'km/s'
    """
    cube = need_cube(cube, "moments")
    around = line_window(cube, line, redshift, interval(extent), window, degree, exclude)
    here = cube.isel(wavelength=around.planes)
    ends = np.array([interval(extent)])
    found = map_spaxels(
        moments_of, here, (10,), **_fit_options(around, degree, clip, noise, coverage),
        share=around.shares(ends)[0], power=around.power(spaxel_area(cube)),
        speed=np.stack([around.velocity, around.low, around.high]), t_line=around.t_centre,
        threshold=float(threshold or 0.0), gauss=_gaussians(around, interval(extent), resolution, threshold),
        remove=_instrument(around, resolution) if instrument else 0.0,
    )  # fmt: skip
    names = ("moment0", "moment1", "moment2", "continuum")
    units = ("W m-2", "km/s", "km/s", "MJy/sr")
    texts = ("flux of the line", "mean velocity", "velocity dispersion", "continuum at the line")
    out: dict[str, xr.DataArray] = {}
    for k, (name, unit, text) in enumerate(zip(names, units, texts, strict=True)):
        out[name] = _map(found[2 * k], unit, text)
        out[f"{name}_err"] = _map(found[2 * k + 1], unit, f"error of the {text}")
    out["snr"] = (out["moment0"] / out["moment0_err"]).assign_attrs(units="1", long_name="signal to noise of the flux")
    out |= _equivalent_width(out, around, spaxel_area(cube))
    out["noise_scale"] = _map(found[8], "1", "scatter around the continuum over the given error")
    out["coverage"] = _map(found[9], "1", "part of the window with data")
    params = _parameters(around, extent, window, degree, clip, exclude, coverage) | {
        "threshold": threshold, "instrument": instrument, "noise": noise, "resolution": resolution,
    }  # fmt: skip
    maps = frame_of(cube, "moments", around).assign(out)
    return recorded(cube, maps, "lines.moments", **params)


@reads(window=as_kms, extent=as_kms_extent, width=as_kms, edges=as_kms_list)
@checked
def channel_maps(
    cube: xr.Dataset, line: LineName, *, redshift: Redshift | None = None, edges: Sequence[float] | None = None,
    width: Positive = 100.0, extent: float | tuple[float, float] = 600.0, window: HalfWidth = 2500.0,
    degree: Degree = 1, noise: Noise = "residual", clip: NotNegative = 4.0, exclude: Exclude = None,
    coverage: Share = 0.75,
) -> xr.Dataset:  # fmt: skip
    """Return the continuum-subtracted flux of a line in channels of velocity.

    Parameters
    ----------
    cube, line, redshift, window, degree, noise, clip, exclude, coverage
        As of :func:`moments`.
    edges : sequence of float, optional
        Rising edges of the channels [km/s]; by default channels of ``width`` [km/s] that fill the extent.
    width : float
        [km/s]
    extent : float or (float, float)
        Velocities that hold the line [km/s]; widened to the edges.

    Returns
    -------
    Dataset, level "channel_maps"
        ``flux`` and ``flux_err`` [W m-2 per spaxel in a channel] on (velocity, y, x), with ``velocity``,
        ``velocity_low`` and ``velocity_high`` [km/s] on ``velocity``. Planes that an edge cuts are shared out by their
        parts, so that the channels add up to the flux of the line. Lazy where the cube is.

    Raises
    ------
    MrsxrError
        As :func:`moments`, and where the edges do not rise.

    Notes
    -----
    Channels narrower than a plane share its light, and their errors are then one error; neighbouring channels share
    detector pixels.

    Examples
    --------
    >>> disc = mx.simulate.simulate_cube(band="3A", wavelength=(12.9, 13.3))
    >>> channels = mx.lines.channel_maps(disc, "[Ne II] 12.81", edges=[-300, -100, 100, 300])
    >>> channels.velocity.values.tolist()
    [-200.0, 0.0, 200.0]
    """
    cube = need_cube(cube, "channel_maps")
    borders = _borders(edges, width, interval(extent))
    low, high = interval(extent)
    span = (min(low, borders[0]), max(high, borders[-1]))
    around = line_window(cube, line, redshift, span, window, degree, exclude)
    here = cube.isel(wavelength=around.planes)
    pairs = np.stack([borders[:-1], borders[1:]], axis=1)
    found = map_spaxels(
        channels_of, here, (2, len(pairs)), **_fit_options(around, degree, clip, noise, coverage),
        shares=around.shares(pairs), power=around.power(spaxel_area(cube)),
    )  # fmt: skip
    dims = ("velocity", "y", "x")
    text = {"units": "W m-2", "long_name": f"flux of {around.label} in a channel"}
    coords = {
        "velocity": ("velocity", pairs.mean(axis=1), {"units": "km/s", "long_name": "middle of the channel"}),
        "velocity_low": ("velocity", pairs[:, 0], {"units": "km/s", "long_name": "lower edge of the channel"}),
        "velocity_high": ("velocity", pairs[:, 1], {"units": "km/s", "long_name": "upper edge of the channel"}),
    }
    out = frame_of(cube, "channel_maps", around).assign_coords(coords)
    out = out.assign(flux=(dims, found[0], text), flux_err=(dims, found[1], text | {"long_name": "error of the flux"}))
    params = _parameters(around, span, window, degree, clip, exclude, coverage) | {
        "edges": borders.tolist(), "noise": noise,
    }  # fmt: skip
    return recorded(cube, out, "lines.channel_maps", **params)


@reads()
def instrument_dispersion(line: LineName, *, redshift: Redshift | None = 0.0, resolution: Resolution = None) -> float:
    """Return the sigma of the instrument [km/s] at a line: c / (2.3548 R)."""
    _, rest = find_line(line)
    return C_KM_S / (_FWHM * float(resolution_at(rest * (1.0 + redshift_of(xr.Dataset(), redshift)), resolution)))


# --- wrappers: plain arrays (plane, y, x) in, float64 arrays (..., y, x) out ---


def continuum_of(flux: np.ndarray, var: np.ndarray, dq: np.ndarray, **fit: Any) -> np.ndarray:
    """Return continuum and its variance (2, plane, y, x)."""
    from ._moment_kernels import continua

    out = np.empty((2, *flux.shape))
    continua(*_plain(flux, var, dq), *_fit(fit), out.reshape(2, flux.shape[0], -1))  # type: ignore[call-arg]
    return out


def channels_of(
    flux: np.ndarray, var: np.ndarray, dq: np.ndarray, *, shares: np.ndarray, power: np.ndarray, **fit: Any,
) -> np.ndarray:  # fmt: skip
    """Return flux and error (2, channel, y, x)."""
    from ._moment_kernels import channel_sums

    out = np.empty((2, len(shares), *flux.shape[1:]))
    channel_sums(*_plain(flux, var, dq), *_fit(fit), shares, power, out.reshape(2, len(shares), -1))  # type: ignore[call-arg]
    return out


def moments_of(
    flux: np.ndarray, var: np.ndarray, dq: np.ndarray, *, share: np.ndarray, power: np.ndarray, speed: np.ndarray,
    t_line: float, threshold: float, gauss: np.ndarray, remove: float, **fit: Any,
) -> np.ndarray:  # fmt: skip
    """Return (10, y, x): three moments and the continuum, each with its error, noise scale, coverage.

    ``remove`` is the variance of the instrument [km2/s2]; ``gauss`` as of :func:`_gaussians`.
    """
    from ._moment_kernels import line_moments

    out = np.empty((10, *flux.shape[1:]))
    shapes = np.exp(-0.5 * ((speed[0] - gauss[0][:, None]) / gauss[1][:, None]) ** 2)
    options = (share, power, speed, float(t_line), float(threshold), shapes, gauss)
    line_moments(*_plain(flux, var, dq), *_fit(fit), *options, out.reshape(10, -1))  # type: ignore[call-arg]
    square = out[4] - remove
    with np.errstate(invalid="ignore", divide="ignore"):
        wide = np.sqrt(np.maximum(square, 0.0))
        out[5] = np.where(wide > 0, np.minimum(out[5] / (2 * wide), np.sqrt(out[5])), np.sqrt(out[5]))
    out[4] = np.where(np.isfinite(square), wide, np.nan)
    return out


def _plain(flux: np.ndarray, var: np.ndarray, dq: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (plane, spaxel) arrays and the voxels that are unusable.

    Voxels without an error get the middle one of their spaxel, 0 where it has none at all: then the scatter counts.
    """
    n = flux.shape[0]
    bad = flags.any_of(np.asarray(dq), "DO_NOT_USE").reshape(n, -1)
    flux, var = (np.ascontiguousarray(a).reshape(n, -1) for a in (flux, var))
    var = real_variances(var)
    missing = np.isfinite(flux) & ~np.isfinite(var) & ~bad
    if missing.any():
        known = np.isfinite(var).any(axis=0)
        middle = np.zeros(var.shape[1], dtype=var.dtype)
        middle[known] = np.nanmedian(np.where(np.isfinite(var), var, np.nan)[:, known], axis=0)
        var = np.where(missing, middle, var)
    return flux, var, bad


def _fit(options: dict[str, Any]) -> tuple[Any, ...]:
    clip = float(options["clip"])
    inflate = 1.0
    if clip > 0:  # the scatter of a Gaussian cut at +- clip is smaller than its sigma
        inside = math.erf(clip / math.sqrt(2.0))
        inflate = 1.0 / (1.0 - 2.0 * clip * math.exp(-0.5 * clip**2) / math.sqrt(2.0 * math.pi) / inside)
    return (options["t"], options["side"], int(options["degree"]) + 1, clip, inflate, options["noise"] == "residual",
            float(options["coverage"]), np.ascontiguousarray(options["alike"]))  # fmt: skip


def _fit_options(around: Window, degree: int, clip: float, noise: str, coverage: float) -> dict[str, Any]:
    return {"t": around.t, "side": around.side, "degree": degree, "clip": clip, "noise": noise, "coverage": coverage,
            "alike": around.alike}  # fmt: skip


def _borders(edges: Sequence[float] | None, width: float, extent: tuple[float, float]) -> np.ndarray:
    if edges is None:
        if extent[1] - extent[0] > _MOST_CHANNELS * width:
            raise MrsxrError(f"width is {width:g} km/s; expected at least 1/{_MOST_CHANNELS} of the extent {extent}")
        count = max(1, round((extent[1] - extent[0]) / width))
        middle = 0.5 * (extent[0] + extent[1])
        return middle + width * (np.arange(count + 1) - count / 2)
    borders = np.asarray(edges, float).ravel()
    if borders.size < 2 or not (np.diff(borders) > 0).all():
        raise MrsxrError("the edges of the channels do not rise; expected two velocities or more [km/s]")
    return borders


def _gaussians(
    around: Window, extent: tuple[float, float], resolution: Any, threshold: float | None
) -> np.ndarray:  # fmt: skip
    """Return centre and sigma [km/s] (2, number) of Gaussians that a line may be, none without a threshold."""
    if not threshold:
        return np.empty((2, 0))
    inside = around.velocity[(around.high > extent[0]) & (around.low < extent[1])]
    centres = np.sort(np.concatenate([inside, 0.5 * (inside[1:] + inside[:-1])]))
    least = math.sqrt(_instrument(around, resolution))
    ratio = max(0.25 * (extent[1] - extent[0]) / least, 1.0)
    widths = least * np.geomspace(1.0, ratio, 1 + math.ceil(math.log(ratio) / math.log(_WIDER)))
    return np.stack([grid.ravel() for grid in np.meshgrid(centres, widths)])


def _instrument(around: Window, resolution: Any) -> float:
    """Return the variance [km2/s2] that instrument and planes add to a line."""
    sigma = C_KM_S / (_FWHM * float(resolution_at(around.centre, resolution)))
    width = float(np.interp(around.centre, around.wavelength, around.high - around.low))
    return sigma**2 + width**2 / 12.0


def _map(values: Any, unit: str, text: str) -> xr.DataArray:
    return xr.DataArray(values, dims=("y", "x"), attrs={"units": unit, "long_name": text})


def _equivalent_width(out: dict[str, xr.DataArray], around: Window, area: float) -> dict[str, xr.DataArray]:
    """Return the equivalent width [um], line flux over continuum, and its error; NaN where no continuum is seen."""
    per_um = float(np.interp(around.centre, around.wavelength, around.power(area) / around.width))
    level, spread = out["continuum"], out["continuum_err"]
    seen = level > 3.0 * spread
    ew = (out["moment0"] / (level * per_um)).where(seen)
    error = ((out["moment0_err"] / (level * per_um)) ** 2 + (ew * spread / level) ** 2) ** 0.5
    return {
        "ew": ew.assign_attrs(units="um", long_name="equivalent width"),
        "ew_err": error.assign_attrs(units="um", long_name="error of the equivalent width"),
    }


def _parameters(
    around: Window, extent: tuple[float, float] | float, window: float, degree: int, clip: float,
    exclude: Any, coverage: float,
) -> dict[str, Any]:  # fmt: skip
    return {
        "line": around.label, "redshift": around.redshift, "window": window,
        "extent": list(np.atleast_1d(np.asarray(extent, float))), "degree": degree, "clip": clip, "coverage": coverage,
        "exclude": None if exclude is None else [list(map(float, pair)) for pair in exclude],
    }  # fmt: skip
