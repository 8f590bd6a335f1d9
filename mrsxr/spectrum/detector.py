"""Spectrum of a point source straight from the detector: all exposures at once, at the sampling of the pixels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr.errors import MrsxrError
from mrsxr.limits import OptionalRef, Range
from mrsxr.schema import meaning_of, units_of
from mrsxr.step import step
from mrsxr.threads import how
from mrsxr.traces.source import KIND, NAMES, dither_of, encircled, fit_source, of_barycentre
from mrsxr.units import MJYSR_TO_JY_PER_ARCSEC2

from . import aperture
from .aperture import Outside


@step(needs="cal", gives="spectrum")
def fit_spectrum(
    ds: xr.Dataset,
    *,
    trace_model: xr.Dataset,
    apcorr: OptionalRef = None,
    around: Literal["host", "level"] = "host",
    psf: OptionalRef = None,
    radius_factor: Annotated[float, Range(above=0, high=4)] = 2.0,
    apcorr_outside: Outside = "clamp",
) -> xr.Dataset:
    """Fit the spectrum of a point source to the detector pixels of all exposures of a band, without a cube.

    Parameters
    ----------
    ds : Dataset, level "cal"
        The dithers of a setting; lazy data are computed.
    trace_model : Dataset, kind "trace_model" or "point_source"
        Of :func:`mrsxr.cal.fit_trace_model`, or of :func:`mrsxr.cal.fit_point_source`, which is this fit done.
    apcorr : Dataset, kind "apcorr", optional
        Aperture correction.
    around, psf
        As of :func:`mrsxr.cal.fit_point_source`: "host" for a source in its host, "level" for a lone star.
    radius_factor : float
        The flux is that within a circle of this many FWHM times ``apcorr``: what
        :func:`mrsxr.spectrum.extract_spectrum` measures with the same ``radius_factor``, of the PSF that was fitted.
    apcorr_outside : {"clamp", "extrapolate"}
        As of extract_spectrum.

    Returns
    -------
    Dataset, level "spectrum"
        ``flux`` [Jy] at a sample a detector pixel, barycentric; ``var`` [Jy2] of samples that share no pixel, so that
        errors of sums need no covariance; ``background``: the light around, at the source. attrs ``extraction``
        "detector", ``aperture_ra``, ``aperture_dec``.

    Notes
    -----
    The variance holds the noise of the pixels and that of the light around, not the error of the PSF: a PSF that is
    wrong by a part p moves the whole spectrum by about p. Lines of the host stay out of the spectrum.

    Examples
    --------
    >>> import mrsxr as mx
    >>> model = mx.cal.fit_trace_model(cal, band="1A")  # doctest: +SKIP
    >>> nucleus = mx.spectrum.fit_spectrum(cal, trace_model=model, apcorr=refs.get("apcorr", cal))  # doctest: +SKIP
    """
    kind, band = trace_model.attrs.get("kind"), str(trace_model.attrs.get("band", ""))
    if kind not in ("trace_model", KIND):
        raise MrsxrError(f"expected a trace_model or point_source, got {kind or 'no kind'}; use fit_trace_model")
    for name in ds["exposure"].values:
        dither_of(trace_model, str(name))
    source = trace_model
    if kind != KIND:
        names = [name for name in NAMES if name in ds]
        source = fit_source(ds.assign(ds[names].compute(**how())), trace_model, around, psf)
    wave = source["sample"].values
    light, radius = encircled(source, ds, wave, radius_factor)
    wavelength, correction = of_barycentre(wave, ds), np.ones(wave.size)
    if apcorr is not None:
        correction = aperture.aperture_correction(wavelength, radius, apcorr, apcorr_outside)
    factor, area = MJYSR_TO_JY_PER_ARCSEC2 * light * correction, np.pi * radius**2
    level = light * correction / area
    peak, variance = source["peak"].values, source["peak_var"].values
    values = {
        "flux": factor * peak, "var": factor**2 * variance, "surface_brightness": level * peak,
        "surface_brightness_var": level**2 * variance, "background": source["background"].values,
        "n_pixels": source["n_pixels"].values,
    }  # fmt: skip
    data: dict[str, Any] = {
        name: ("wavelength", column, {"units": units_of("spectrum", name), "long_name": meaning_of("spectrum", name)})
        for name, column in values.items()
    }
    data["n_pixels"][2]["long_name"] = "detector pixels of the sample"
    data["aperture_radius"] = ("wavelength", radius, {"units": "arcsec", "long_name": "radius"})
    data["aperture_correction"] = ("wavelength", correction, {"units": "1", "long_name": "factor in flux"})
    blind = np.where(np.isfinite(peak), 0, flags.DO_NOT_USE).astype(np.uint32)
    data["dq"] = ("wavelength", blind, dict(flags.PIXEL_DQ_ATTRS))
    coords = {"wavelength": ("wavelength", wavelength, {"units": "um"}), "band": ("wavelength", [band] * wave.size)}
    attrs = {
        "source_type": "POINT", "aperture_ra": source.attrs["ra"], "aperture_dec": source.attrs["dec"],
        "aperture": "circle", "background_method": str(source.attrs["around"]), "extraction": "detector", "band": band,
        "aperture_correction_ref": str(apcorr.attrs.get("ref_id", "")) if apcorr is not None else "none",
    }  # fmt: skip
    return xr.Dataset(data, coords, attrs)
