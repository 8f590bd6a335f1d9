"""A point source fitted with the light around it, and taken off the detector: what is left is the host."""

from __future__ import annotations

from typing import Literal

import dask
import dask.array as da
import numpy as np
import xarray as xr

from mrsxr.blocks import as_delayed
from mrsxr.errors import MrsxrError
from mrsxr.geometry.frame import frame_coordinate
from mrsxr.limits import OptionalRef, checked
from mrsxr.step import step
from mrsxr.threads import how
from mrsxr.traces.source import KIND, check_model, fit_source, needed, star_on_frame

from ._cells import check_wcs

Around = Literal["host", "level"]
_FRAME = ("slice", "alpha", "beta", "wavelength")


@checked
def fit_point_source(
    ds: xr.Dataset, *, trace_model: xr.Dataset, around: Around = "host", psf: OptionalRef = None
) -> xr.Dataset:
    """Fit the spectrum and the PSF of a point source, and the light around it, to all exposures of a band at once.

    Parameters
    ----------
    ds : Dataset, level "cal"
        The dithers of a setting.
    trace_model : Dataset, kind "trace_model"
        Of :func:`fit_trace_model`, of these exposures.
    around : {"host", "level"}
        What lies around the source: "host", light that is smooth over 4 FWHM of the PSF and changes slowly with
        wavelength but in lines, which are looked for; or "level", a plane, for a lone star: then all structure around
        the source is of its PSF.
    psf : Dataset, kind "psf", optional
        Of :func:`learn_psf` or of a file; by default the PSF is that of the data, from a Moffat function.

    Returns
    -------
    Dataset, kind "point_source"
        ``peak`` (sample) of the source [MJy/sr] and ``peak_var``, the same for all exposures but for ``gain`` (dither,
        node); ``place`` (dither, axis) [arcsec]; ``profile``, corrections of the PSF; ``residual`` (node), what is
        left within 1 FWHM, rms over the peak; ``background`` (sample) at the source [MJy/sr]; attrs ``ra``, ``dec``.
        In memory.

    Notes
    -----
    flux = gain x spectrum x PSF + host, over +-4 FWHM. The PSF is a Moffat function, or the one given, plus an envelope
    times B-splines of 0.4 FWHM, linear between three wavelengths. PSF and the smooth host are solved for together: what
    both could explain goes to the host where the start of the PSF is dark (beyond 2 FWHM), to the PSF inside, so that
    a cusp of the host narrower than 4 FWHM counts as the source. In lines of the host star and a finer host are solved
    for at each wavelength.
    """
    check_wcs(ds)
    check_model(ds, trace_model)
    return fit_source(needed(ds).compute(**how()), trace_model, around, psf)


@step(needs="cal")
def subtract_point_source(
    ds: xr.Dataset, *, trace_model: xr.Dataset, around: Around = "host", psf: OptionalRef = None
) -> xr.Dataset:
    """Take a point source off the detector in all exposures of a band; what lies around it stays.

    Parameters
    ----------
    ds : Dataset, level "cal"
    trace_model : Dataset, kind "trace_model" or "point_source"
        Of :func:`fit_trace_model`: spectrum and PSF are then fitted here; or of :func:`fit_point_source`, which tells
        them.
    around, psf
        As of :func:`fit_point_source`; not looked at where that was run.

    Returns
    -------
    Dataset, level "cal"
        ``flux`` without the source within +-4 FWHM; its light beyond, some 1e-3 of the peak, stays. Variances and flags
        are those that were. attrs ``point_source_off``: the bands. Lazy where ``ds`` is.

    Examples
    --------
    >>> import mrsxr as mx
    >>> model = mx.cal.fit_trace_model(cal, band="1A")  # doctest: +SKIP
    >>> host = mx.cal.subtract_point_source(cal, trace_model=model)  # doctest: +SKIP
    >>> cube = mx.cube.build_cube(host, band="1A")  # doctest: +SKIP
    """
    check_wcs(ds)
    band, exposures = check_model(ds, trace_model), [str(name) for name in ds["exposure"].values]
    done = str(ds.attrs.get("point_source_off", "")).split()
    if band in done:
        raise MrsxrError(f"band {band}: the point source was taken off already")
    frame = xr.Dataset({name: frame_coordinate(ds, name).variable for name in _FRAME})
    fitted, lazy = trace_model.attrs["kind"] == KIND, bool(ds["flux"].chunks)
    source = trace_model
    if not fitted:
        fit = dask.delayed(fit_source) if lazy else fit_point_source
        given = as_delayed(needed(ds)) if lazy else ds
        source = fit(given, trace_model=trace_model, around=around, psf=psf)
    if lazy:
        pixels, image, shape = as_delayed(frame), dask.delayed(star_on_frame), ds["flux"].shape[1:]
        each = [da.from_delayed(image(source, pixels, name), shape, np.float32) for name in exposures]
        stars = da.stack(each).rechunk(ds["flux"].chunks)
    else:
        stars = np.stack([star_on_frame(source, frame, name) for name in exposures])
    flux = ds["flux"].variable - xr.Variable(("dither", "y", "x"), stars)
    flux.attrs = dict(ds["flux"].attrs)
    return ds.assign(flux=flux).assign_attrs(point_source_off=" ".join([*done, band]))
