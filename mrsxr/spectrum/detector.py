"""Spectrum of a point source straight from the detector: all exposures at once, at the sampling of the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import dask
import dask.array as da
import numpy as np
import xarray as xr

from mrsxr import dq as flags
from mrsxr.arguments import reads
from mrsxr.blocks import as_delayed
from mrsxr.limits import OptionalRef, Place, Range, Whole
from mrsxr.mrs import psf_fwhm
from mrsxr.schema import meaning_of, units_of
from mrsxr.step import step
from mrsxr.traces.pixels import lit_pixels
from mrsxr.traces.source import KIND, check_model, check_which, encircled, fit_source, of_barycentre, place_of
from mrsxr.units import MJYSR_TO_JY_PER_ARCSEC2

from . import aperture
from .lost_light import FLAGGED

_COLUMNS = ("flux", "var", "surface_brightness", "surface_brightness_var", "background", "n_pixels")
_MORE = {
    "var_systematic": ("Jy2", "variance of flux by the PSF, beside var"),
    "lost_light": ("1", "part of the light that no exposure sees"),
}


@step(needs="cal", gives="spectrum")
@reads()
def fit_spectrum(
    ds: xr.Dataset,
    *,
    trace_model: xr.Dataset,
    apcorr: OptionalRef = None,
    around: Literal["host", "level"] = "host",
    psf: OptionalRef = None,
    others: Sequence[Place] = (),
    which: Whole = 0,
    radius_factor: Annotated[float, Range(above=0, high=4)] = 2.0,
) -> xr.Dataset:
    """Fit the spectrum of a point source to the detector pixels of all exposures of a band, without a cube.

    Parameters
    ----------
    ds : Dataset, level "cal"
        The dithers of a setting.
    trace_model : Dataset, kind "trace_model" or "point_source"
        Of :func:`mrsxr.cal.fit_trace_model`, or of :func:`mrsxr.cal.fit_point_source`, which is this fit done.
    apcorr : Dataset, kind "apcorr", optional
        Aperture correction.
    around, psf
        As of :func:`mrsxr.cal.fit_point_source`: "host" for a source in its host, "level" for a lone star.
    others : sequence of (float, float)
        Right ascension and declination [deg] of further sources, fitted with those of the trace model.
    which : int
        Of which source the spectrum is: those of the trace model from 0 on, then ``others``.
    radius_factor : float
        The flux is that within a circle of this many FWHM times ``apcorr``: what
        :func:`mrsxr.spectrum.extract_spectrum` measures with the same ``radius_factor``, of the PSF that was fitted.

    Returns
    -------
    Dataset, level "spectrum"
        ``flux`` [Jy] at a sample a detector pixel, barycentric; ``var`` [Jy2] of samples that share no pixel, so that
        errors of sums need no covariance; ``var_systematic`` [Jy2] beside it, by the PSF and common to all samples;
        ``lost_light``, the part of the light that no exposure has (saturated, off the field): of 1 % and more samples
        are FLUX_ESTIMATED, of 10 % NaN where the PSF tells the light to 5 % only, as without ``psf``;
        ``background``: the light around, at the source. attrs ``extraction``
        "detector", ``aperture_ra``, ``aperture_dec``. Lazy where ``ds`` is.

    Notes
    -----
    ``var`` holds the noise of the pixels and that of the light around, ``var_systematic`` what the profile leaves open;
    a PSF given that is wrong by a part p moves the whole spectrum by about p. Lines of the host stay out of the
    spectrum, but for what is as sharp as the PSF: of the line of an exponential disc, at the wavelength of one of the
    nucleus, 0.2 to 5 % of the whole (an aperture less an annulus keeps 15 to 50 %; 1A to 4A). ``var_systematic`` holds
    it, by what changes with the fineness of the light around and an eighth of the line there: the excess over both
    errors was 0.8 rms for one source, 1.0 for pairs (1A, 3A, S/N 300, discs and cusps; 1.2 and at most 2.4 in 1C, 2B).
    In a host it holds what a host as fine could take of the PSF, 3 to 8 % without ``psf``. Lone stars of one, two and
    four exposures ("level", S/N 300) were off by up to 0.3, 0.3 and 0.1 %, told 0.2, 0.14 and 0.09. Of a lone star
    whose peak is 20 and 7 times the noise (1A, ten draws) the flux is that of an aperture within the errors (bias 0.0
    +- 0.1 and 0.0 +- 0.3 %) and its noise 0.43 of the aperture's, in means over ten samples.

    Examples
    --------
    >>> model = mx.cal.fit_trace_model(cal, band="1A")
    >>> nucleus = mx.spectrum.fit_spectrum(cal, trace_model=model, apcorr=refs.get("apcorr", cal))
    >>> pair = mx.cal.fit_point_source(cal, trace_model=model, others=[(339.0149, 33.9758)])  # doctest: +SKIP
    >>> companion = mx.spectrum.fit_spectrum(cal, trace_model=pair, which=1)                  # doctest: +SKIP
    """
    band, wave = check_model(ds, trace_model), trace_model["sample"].values
    check_which(trace_model, others, [which])
    radius, correction = radius_factor * psf_fwhm(wave), np.ones(wave.size)
    if apcorr is not None:
        correction = aperture.aperture_correction(wave, radius, apcorr)
    given: Any = lit_pixels(ds, band)
    measure: Any = _measured
    if ds["flux"].chunks:
        given, measure = as_delayed(given), dask.delayed(_measured, pure=True, nout=len(_COLUMNS) + len(_MORE))
        psf = as_delayed(psf) if psf is not None and psf["psf"].chunks else psf
    columns = measure(given, trace_model, (around, psf, others), which, radius_factor, correction)
    if ds["flux"].chunks:
        columns = [da.from_delayed(one, wave.shape, float) for one in columns]
    about = [(units_of("spectrum", name), meaning_of("spectrum", name)) for name in _COLUMNS]
    data: dict[str, Any] = {
        name: ("wavelength", column, {"units": unit, "long_name": meaning})
        for name, column, (unit, meaning) in zip((*_COLUMNS, *_MORE), columns, [*about, *_MORE.values()], strict=True)
    }
    data["n_pixels"][2]["long_name"] = "detector pixels of the sample"
    data["aperture_radius"] = ("wavelength", radius, {"units": "arcsec", "long_name": "radius"})
    data["aperture_correction"] = ("wavelength", correction, {"units": "1", "long_name": "factor in flux"})
    bits = (columns[0] != columns[0]) * np.uint32(flags.DO_NOT_USE)
    bits = bits | ((columns[-1] > FLAGGED) & (bits == 0)) * np.uint32(flags.FLAGS["FLUX_ESTIMATED"])
    data["dq"] = ("wavelength", bits.astype(np.uint32), dict(flags.PIXEL_DQ_ATTRS))
    coords = {"wavelength": ("wavelength", of_barycentre(wave, ds), {"units": "um"}),
              "band": ("wavelength", [band] * wave.size)}  # fmt: skip
    attrs: dict[str, Any] = {
        "source_type": "POINT", "aperture": "circle", "background_method": around, "extraction": "detector",
        "band": band, "aperture_correction_ref": str(apcorr.attrs.get("ref_id", "")) if apcorr is not None else "none",
    }  # fmt: skip
    if not trace_model["place"].chunks:
        more = which - trace_model.sizes["source"]
        place = others[more] if more >= 0 else place_of(ds, trace_model, which)
        attrs["aperture_ra"], attrs["aperture_dec"] = place
    return xr.Dataset(data, coords, attrs)


def _measured(
    lit: Any, trace_model: xr.Dataset, options: Any, which: Any, radius_factor: float, correction: Any,
) -> tuple[np.ndarray, ...]:  # fmt: skip
    """Return the columns :data:`_COLUMNS` and :data:`_MORE` of the spectrum."""
    source = trace_model if trace_model.attrs["kind"] == KIND else fit_source(lit, trace_model, *options)
    light, radius = encircled(source, lit, source["sample"].values, radius_factor)
    factor, level = MJYSR_TO_JY_PER_ARCSEC2 * light * correction, light * correction / (np.pi * radius**2)
    peak, variance, around = (source[name].values[which] for name in ("peak", "peak_var", "background"))
    node, samples = source["node"].values, source["sample"].values
    unsure, lost = (np.interp(samples, node, source[name].values[which]) for name in ("psf_error", "lost_light"))
    peak = np.where(np.isfinite(unsure), peak, np.nan)
    systematic = factor**2 * ((unsure * peak) ** 2 + source["line_error"].values[which] ** 2)
    return (factor * peak, factor**2 * (variance + 0 * peak), level * peak, level**2 * (variance + 0 * peak), around,
            source["n_pixels"].values, systematic, lost)  # fmt: skip
