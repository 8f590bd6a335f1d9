"""The PSF of the detector, learnt from a star or made of images of an optical model: a reference of kind psf."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import xarray as xr

from mrsxr.arguments import as_bands, as_numbers, reads
from mrsxr.errors import MrsxrError
from mrsxr.limits import Arcsec, Band, Place, checked
from mrsxr.mrs import SLICE_WIDTH, WAVELENGTH_RANGES, bands_of_setting, psf_fwhm, setting_keywords, setting_of_band
from mrsxr.references.fit import join_planes
from mrsxr.references.stpsf import read_stpsf
from mrsxr.traces.point import LOST
from mrsxr.traces.profile import REACH, profile_at

from .point_source import fit_point_source
from .trace_model import fit_trace_model

_FINE = 0.08  # FWHM, pixels of the images
_PIXEL = {1: 0.196, 2: 0.196, 3: 0.245, 4: 0.273}  # arcsec along the slices


@reads(bands=as_bands)
@checked
def learn_psf(ds: xr.Dataset, *, bands: Sequence[Band] | None = None, source: Place | None = None) -> xr.Dataset:
    """Learn the PSF of the detector from a lone, bright star.

    Parameters
    ----------
    ds : Dataset, level "cal"
        The dithers of a setting; computed.
    bands : sequence of str, optional
        By default both of the setting.
    source : (float, float), optional
        Right ascension and declination of the star [deg]; by default the brightest place.

    Returns
    -------
    Dataset, kind "psf"
        ``psf`` (plane, psf_alpha, psf_beta): what a pixel at places along and across the slices sees of a star in the
        middle, +-4 FWHM, 1 at its peak; ``psf_wavelength`` (plane) [um], ``psf_step`` (plane) [arcsec], ``psf_band``.

    Examples
    --------
    >>> import mrsxr as mx
    >>> psf = mx.cal.learn_psf(star)  # doctest: +SKIP
    >>> fitted = mx.cal.fit_point_source(cal, trace_model=model, psf=psf)  # doctest: +SKIP
    >>> mx.simulate.write_reference("my_refs/psf_12A.fits", "psf", psf=psf)  # doctest: +SKIP
    >>> psf = mx.References("my_refs").get("psf", cal)  # doctest: +SKIP
    """
    setting = str(ds.attrs["setting"])
    parts = []
    for band in bands or bands_of_setting(setting):
        model = fit_trace_model(ds, band=band, source=source)
        found = fit_point_source(ds, trace_model=model, around="level")
        if (found["lost_light"] > LOST).any():
            raise MrsxrError(f"band {band}: no exposure sees the core of the star; take one that does not saturate")
        nodes = found["node"].values
        step = _FINE * float(psf_fwhm(nodes[0]))
        images = [_image(found, k, wave, step, float(psf_fwhm(nodes[-1]))) for k, wave in enumerate(nodes)]
        parts.append(_planes(band, nodes, step, np.stack(images)))
    return _reference(parts, setting, "psf learnt from " + ", ".join(str(name) for name in ds["exposure"].values))


@checked
def psf_of_images(images: Any, wavelength: Any, *, step: Arcsec, band: Band, pixel: Arcsec = 0.196) -> xr.Dataset:
    """Make a PSF of the detector of images of a point source by an optical model; :func:`psf_of_stpsf` reads a file.

    Parameters
    ----------
    images : array (wavelength, alpha, beta)
        Brightness on square pixels of ``step``, the source in the middle, alpha along the slices.
    wavelength : array (wavelength)
        [um]
    step : float [arcsec]
        A fifth of the FWHM or less.
    band : str
    pixel : float [arcsec]
        Of the detector along the slices (0.196 in channels 1 and 2, 0.245 and 0.273 in 3 and 4).

    Returns
    -------
    Dataset, kind "psf", see :func:`learn_psf`
        The images averaged over a pixel and the width of a slice.

    Raises
    ------
    MrsxrError
        Where an image holds no light or no numbers, or wavelengths are not one to an image, or not of the MRS.

    Examples
    --------
    >>> import numpy as np
    >>> axis = 0.03 * np.arange(-50, 51)
    >>> round_one = np.exp(-(axis[:, None] ** 2 + axis**2) / 0.03)
    >>> psf = psf_of_images([round_one, round_one], [4.9, 5.8], step=0.03, band="1A")
    >>> psf.psf.shape
    (2, 101, 101)
    """
    found = as_numbers(images, u.dimensionless_unscaled, "images")
    waves = np.atleast_1d(as_numbers(wavelength, u.um, "wavelength", u.spectral(), least=0))
    if found.ndim != 3 or waves.shape != found.shape[:1]:
        raise MrsxrError(
            f"images of shape {found.shape} and wavelength of shape {waves.shape}; expected images on "
            "(wavelength, alpha, beta) and the wavelength of each"
        )
    if not (np.isfinite(found).all() and (found.max(axis=(1, 2)) > 0).all()):
        raise MrsxrError("images are NaN, or one holds no light; expected finite numbers, those of the source above 0")
    low, high = WAVELENGTH_RANGES["1A"][0], WAVELENGTH_RANGES["4C"][1]
    if not ((waves >= low) & (waves <= high)).all():
        raise MrsxrError(
            f"wavelength is {waves.min():g} to {waves.max():g}; expected um, {low:g} to {high:g} of the MRS"
        )
    for axis, side in ((1, pixel), (2, SLICE_WIDTH[int(band[0])])):
        found = _averaged(found, side / step, axis)
    found = found / found.max(axis=(1, 2), keepdims=True)
    planes = _planes(band, waves, step, found)
    return _reference([planes], setting_of_band(band), f"psf of images, {band}")


@checked
def psf_of_stpsf(path: str | Path, *, band: Band | None = None) -> xr.Dataset:
    """Make a PSF of the detector of a FITS file that STPSF (WebbPSF) wrote in its MIRI IFU mode.

    Parameters
    ----------
    path : path
        Of ``calc_psf``, ``calc_datacube`` or ``calc_datacube_fast``, 5 times oversampled or more; the images with the
        distortion (OVERDIST) are taken where there are some.
    band : str, optional
        By default the keyword BAND of the file.

    Returns
    -------
    Dataset, kind "psf", see :func:`learn_psf`
        Seen through the pixels and slices of the detector.

    Raises
    ------
    MrsxrError
        Where the file is none of STPSF, or tells no band.

    Notes
    -----
    x of STPSF is taken against alpha and y against beta, by the SIAF and the distortion of flight; a PSF that is turned
    the wrong way shows in ``residual`` of :func:`fit_point_source`.

    Examples
    --------
    >>> psf = mx.cal.psf_of_stpsf("stpsf_1A.fits")  # doctest: +SKIP
    >>> fitted = mx.cal.fit_point_source(cal, trace_model=model, psf=psf)  # doctest: +SKIP
    """
    images, wavelength, step, told = read_stpsf(path)
    if not (band or told):
        raise MrsxrError(f"{path} tells no band of the MRS (keyword BAND); give band")
    band = band or told
    finest = float(psf_fwhm(wavelength.min())) / 5
    if step > finest:
        raise MrsxrError(f"{path}: pixels of {step:g} arcsec; expected {finest:.3f} at most, by more oversampling")
    return psf_of_images(images, wavelength, step=step, band=band, pixel=_PIXEL[int(band[0])])


def _averaged(images: np.ndarray, width: float, axis: int) -> np.ndarray:
    """Return a running mean over a width [pixel], which need not be whole, along an axis."""
    from scipy.ndimage import uniform_filter1d

    low = 2 * int((width - 1) // 2) + 1
    share = (width - low) / 2  # the mean over low + 2 is that of width low + 2
    narrow, wide = (uniform_filter1d(images, n, axis=axis, mode="constant") for n in (low, low + 2))
    return ((1 - share) * low * narrow + share * (low + 2) * wide) / width


def _image(found: xr.Dataset, k: int, wave: float, step: float, widest: float) -> np.ndarray:
    n = int(np.ceil(REACH * widest / step))
    axis = step * np.arange(-n, n + 1)
    a, b = (x.ravel() for x in np.meshgrid(axis, axis, indexing="ij"))
    place = np.full(a.size, wave), np.full(a.size, float(k))
    values, _ = profile_at(a, b, *place, found["profile"].values, None)
    return values.reshape(axis.size, axis.size) / values.max()


def _planes(band: str, wavelength: np.ndarray, step: float, images: np.ndarray) -> xr.Dataset:
    variables = {
        "psf": (("plane", "psf_alpha", "psf_beta"), images.astype(np.float32), {"units": "1"}),
        "psf_wavelength": ("plane", wavelength, {"units": "um"}),
        "psf_step": ("plane", np.full(wavelength.size, step), {"units": "arcsec"}),
    }
    return xr.Dataset(variables, {"psf_band": ("plane", np.full(wavelength.size, band))})


def _reference(parts: Sequence[xr.Dataset], setting: str, ref_id: str) -> xr.Dataset:
    keys = setting_keywords(setting)
    channels = "".join(sorted({str(band)[0] for one in parts for band in one["psf_band"].values}))
    names = {"detector": keys["DETECTOR"], "band": keys["BAND"], "channels": channels}
    return join_planes(parts).assign_attrs(level="reference", kind="psf", ref_id=ref_id, **names)
