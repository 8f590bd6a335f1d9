"""Step master_background: subtract a background spectrum that was measured on other exposures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from mrsxr.arguments import as_bands, reads
from mrsxr.blocks import as_delayed, map_ramps
from mrsxr.errors import MrsxrError
from mrsxr.geometry.frame import frame_coordinate
from mrsxr.geometry.sky import barycentric
from mrsxr.limits import Band, checked
from mrsxr.mrs import bands_of_setting
from mrsxr.notes import tell
from mrsxr.step import step


@step(needs="cal", jwst="master_background", keyword="S_MSBSUB", once="master_background")
@reads(bands=as_bands)
def subtract_master_background(
    ds: xr.Dataset, *, background: xr.Dataset, bands: Sequence[Band] | None = None, like_jwst: bool = True
) -> xr.Dataset:
    """Subtract a background spectrum, the same at every place of the field.

    Parameters
    ----------
    ds : Dataset, level "cal"
        ``flux`` [MJy/sr] (dither, y, x) with slice coordinates.
    background : Dataset, level "spectrum"
        ``background`` [MJy/sr] against ``wavelength`` [um], coordinate ``band``: what
        ``spectrum.extract_spectrum`` measures on a cube of background exposures (EXTENDED), or ``combine_backgrounds``
        makes of several. Where that has mixed the bands, all its samples serve every band. Or what
        :func:`background_on_detector` makes of one that is not computed yet.
    bands : sequence of str, optional
        Subtract in these bands only; by default in both of the setting.
    like_jwst : bool
        Subtract nothing beyond the ends of the spectrum, and leave the errors as they are. False: its end values, and
        the variance ``background_var`` of the spectrum is added to ``var_background``.

    Returns
    -------
    Dataset, level "cal"
        ``flux`` less the spectrum, interpolated linearly in wavelength; but for ``like_jwst`` also
        ``var_background`` [MJy2/sr2], common to all pixels of a wavelength. ``attrs["master_background"] = 1``.

    Raises
    ------
    MrsxrError
        Where the pixels have no wavelengths yet, a band has no background, or one was subtracted before, as spectrum
        or pixel by pixel.

    Examples
    --------
    >>> sky = mx.spectrum.extract_spectrum(cube, source_type="EXTENDED")  # better: of a cube of background exposures
    >>> out = mx.cal.subtract_master_background(cal, background=sky, bands=["1A"], like_jwst=False)
    >>> out.attrs["master_background"]
    1
    """
    setting = ds.attrs.get("setting", "")
    if "wavelength" not in ds.coords:
        raise MrsxrError(f"setting {setting}: assign_wcs must run before the background is subtracted")
    names = ["background"] if like_jwst else ["background", "background_var"]
    if names[-1] not in background:
        raise MrsxrError(f"setting {setting}: the background spectrum has no '{names[-1]}'; take like_jwst")
    wanted = bands_of_setting(setting) if bands is None else bands
    if "wavelength" not in background.dims:
        flux, *variance = (background[name] for name in names)
        flux = ds.flux - flux
    else:
        spectra = {int(band[0]): _spectrum_of(background, band, setting) for band in wanted}
        if not any(one.background.values.any() for one in spectra.values()):
            tell(f"setting {setting}: the background spectrum is zero at all its wavelengths; nothing is subtracted")
            return ds
        flux, *variance = _subtracted(ds, spectra, names)
    out = {"flux": flux.variable}
    out["flux"].attrs = dict(ds.flux.attrs)
    if not like_jwst:
        known = ds.var_background if "var_background" in ds else xr.zeros_like(ds.flux)
        spread = (known + variance[0]).where(ds.flux.notnull())
        out["var_background"] = spread.assign_attrs(units="MJy2/sr2")
    return ds.assign(out)


def _subtracted(
    ds: xr.Dataset, spectra: Mapping[int, xr.Dataset], names: Sequence[str]
) -> tuple[xr.DataArray, ...]:  # fmt: skip
    """Return the flux less the spectrum of each channel and, where it is named, the variance of that."""
    velosys = xr.DataArray(ds.velosys.values[:, None, None], dims=("dither", "y", "x"))
    samples = {c: (one.wavelength.values, [one[name].values for name in names]) for c, one in spectra.items()}
    return map_ramps(
        subtract_spectrum, xr.DataArray(ds.flux.variable), frame_coordinate(ds, "wavelength"),
        frame_coordinate(ds, "channel"), velosys, core=[[]] * 4, out_core=[[]] * len(names),
        dtypes=["float32"] * len(names), samples=samples, ends=0.0 if len(names) == 1 else None,
    )  # fmt: skip


@reads()
@checked
def background_on_detector(
    ds: xr.Dataset, background: Any, *, bands: Sequence[Band], like_jwst: bool = True
) -> xr.Dataset:  # fmt: skip
    """Return what :func:`subtract_master_background` is to subtract of a spectrum that is not computed yet.

    Parameters
    ----------
    ds : Dataset, level "cal"
    background : Delayed
        Of ``dask.delayed``; becomes a Dataset as that step takes it.
    bands, like_jwst
        As of that step, which is to be given the same.

    Returns
    -------
    Dataset on (dither, y, x), lazy

    Examples
    --------
    >>> import dask
    >>> sky = dask.delayed(mx.spectrum.extract_spectrum)(cube, source_type="EXTENDED")
    >>> image = mx.cal.background_on_detector(cal, sky, bands=["1A"])
    >>> out = mx.cal.subtract_master_background(cal, background=image, bands=["1A"])
    """
    names = ["background"] if like_jwst else ["background", "background_var"]
    shape, setting = (ds.sizes["y"], ds.sizes["x"]), str(ds.attrs.get("setting", ""))
    frame = as_delayed(xr.Dataset({k: frame_coordinate(ds, k).variable for k in ("wavelength", "channel")}))
    level = dask.delayed(_levels)
    rows = [level(background, frame, float(v), list(bands), names, setting) for v in ds.velosys.values]
    chunks = dict(zip(ds.flux.dims, ds.flux.chunks, strict=True)) if ds.flux.chunks else {}
    return xr.Dataset(
        {name: (("dither", "y", "x"), da.stack([da.from_delayed(one[k], shape, np.float32) for one in rows]))
         for k, name in enumerate(names)}
    ).chunk(chunks)  # type: ignore[arg-type]  # fmt: skip


def _levels(
    background: xr.Dataset, frame: xr.Dataset, velosys: float, bands: Sequence[str], names: Sequence[str],
    setting: str,
) -> list[np.ndarray]:  # fmt: skip
    """Return the background of an exposure (y, x), and its variance where that is named."""
    wavelength = frame["wavelength"].values
    spectra = {int(band[0]): _spectrum_of(background, band, setting) for band in bands}
    samples = {c: (one.wavelength.values, [one[name].values for name in names]) for c, one in spectra.items()}
    ends = 0.0 if len(names) == 1 else None
    found = _interpolated((1, *wavelength.shape), wavelength, frame["channel"].values, [velosys], samples, ends)
    return [one[0] for one in found]


def subtract_spectrum(
    flux: np.ndarray, wavelength: np.ndarray, channel: np.ndarray, velosys: np.ndarray, *, samples: dict[int, Any],
    ends: float | None,
) -> tuple[np.ndarray, ...] | np.ndarray:  # fmt: skip
    """Return frames less a spectrum [MJy/sr] and, where there is one, its variance, float32 (dither, y, x).

    Parameters
    ----------
    flux : (dither, y, x)
    wavelength, channel : (y, x)
        As observed [um].
    velosys : (dither, 1, 1) [m/s]
        Takes the wavelengths to the barycentre.
    samples : dict of channel to (wavelengths, [spectrum, variance if any])
    ends : float or None
        Value beyond the ends of the spectrum, None for its end values.
    """
    levels = _interpolated(flux.shape, wavelength, channel, velosys[:, 0, 0], samples, ends)
    return (flux - levels[0], *levels[1:]) if len(levels) > 1 else flux - levels[0]


def _interpolated(
    shape: tuple[int, int, int], wavelength: np.ndarray, channel: np.ndarray, velosys: Sequence[float] | np.ndarray,
    samples: dict[int, Any], ends: float | None,
) -> np.ndarray:  # fmt: skip
    """Return spectra at the pixels of frames (spectrum, dither, y, x), float32; as :func:`subtract_spectrum`."""
    n = max(len(values) for _, values in samples.values())
    levels = np.zeros((n, *shape), dtype=np.float32)
    for number, (places, values) in samples.items():
        inside = channel == number
        for d, velocity in enumerate(velosys):
            at = barycentric(wavelength[inside], velocity)
            for level, one in zip(levels, values, strict=True):
                level[d][inside] = np.interp(at, places, one, left=ends, right=ends)
    return levels


def _spectrum_of(background: xr.Dataset, band: str, setting: str) -> xr.Dataset:
    """Return the samples that serve a band: those of the band, or all where bands were mixed."""
    known = background.background.notnull().values
    if not background.attrs.get("mixed_bands"):
        known = known & (background.band == band).values
    one = background.isel(wavelength=known)
    if one.sizes["wavelength"] < 2:
        raise MrsxrError(f"setting {setting}: the background spectrum has no valid sample in band {band}")
    return one
