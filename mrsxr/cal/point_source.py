"""Point sources fitted with the light around them, and taken off the detector: what is left is the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import dask
import dask.array as da
import numpy as np
import xarray as xr

from mrsxr.arguments import as_bands, reads
from mrsxr.attributes import set_each
from mrsxr.blocks import as_delayed
from mrsxr.errors import MrsxrError
from mrsxr.geometry.frame import frame_coordinate, lean
from mrsxr.limits import Band, OptionalRef, Place, Whole, checked
from mrsxr.mrs import bands_of_setting
from mrsxr.step import step
from mrsxr.threads import how
from mrsxr.traces.pixels import lit_pixels
from mrsxr.traces.source import KIND, OFF, check_model, check_which, fit_source, holds, star_on_frame, taken_off

from ._sampling import check_wcs
from .trace_model import fit_trace_model

Around = Literal["host", "level"]
_FRAME = ("slice", "alpha", "beta", "wavelength")


@reads()
@checked
def fit_point_source(
    ds: xr.Dataset, *, trace_model: xr.Dataset, around: Around = "host", psf: OptionalRef = None,
    others: Sequence[Place] = (),
) -> xr.Dataset:  # fmt: skip
    """Fit spectra and the PSF of point sources, and the light around them, to all exposures of a band at once.

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
    others : sequence of (float, float)
        Right ascension and declination [deg] of further sources, a half to 4 FWHM from the first of the trace model:
        all are fitted together, with one PSF. Their places move by what the data show.

    Returns
    -------
    Dataset, kind "point_source"
        ``peak`` (source, sample) [MJy/sr] and ``peak_var``, the same for all exposures but for ``gain`` (dither, node);
        ``line_error`` [MJy/sr], of the peak in lines of the host, common to a line;
        ``place`` (source, dither, axis) [arcsec], coordinates ``ra``, ``dec`` (source) [deg]; ``profile``, corrections
        of the PSF; ``residual`` (node), what is left within 1 FWHM, rms over the light; ``background`` (source, sample)
        [MJy/sr]; ``settled``, 1 where places and PSF came to rest, which is noted where they did not. The sources are
        those of the trace model, then ``others``. In memory.

    Notes
    -----
    flux = gain x spectrum x PSF + host, over +-4 FWHM. The PSF is a Moffat function, or the one given, plus an envelope
    times B-splines of 0.4 FWHM, linear between three wavelengths. PSF and the smooth host are solved for together: what
    both could explain goes to the host where the start of the PSF is dark (beyond 2 FWHM), to the PSF inside, so that
    a cusp of the host narrower than 4 FWHM counts as the source. In lines of the host star and a finer host are solved
    for at each wavelength. Within 1 FWHM that is limited by noise: of a line of 1 % of the star's peak, where the noise
    of a pixel is 0.3 %, 10-20 % may go to the star or come from it; at 1-2 FWHM 1-2 %. Broad
    features (PAHs: 0.2 um in 1B, noiseless, a disc of 40 mJy around a star of 60) of the star are found within 1 %; of
    one of the disc as high as its continuum 0.7 stays in the host within 1 FWHM, 0.95 at 1-2 and 0.99 at 2-3, as the
    cusp does: 1.2 % of the star's continuum comes to the star. Lines of the star itself are within 0.5 %.

    Examples
    --------
    >>> model = mx.cal.fit_trace_model(cal, band="1A")
    >>> point = mx.cal.fit_point_source(cal, trace_model=model)  # doctest: +SKIP
    >>> host = mx.cal.subtract_point_source(cal, trace_model=point)  # doctest: +SKIP
    """
    check_wcs(ds)
    check_model(ds, trace_model)
    check_which(trace_model, others, ())
    return fit_source(lit_pixels(ds, str(trace_model.attrs["band"])).compute(**how()), trace_model, around, psf, others)


@step(needs="cal", without={"psf": None})
@reads(bands=as_bands)
def subtract_point_source(
    ds: xr.Dataset,
    *,
    trace_model: xr.Dataset | Sequence[xr.Dataset] | None = None,
    bands: Sequence[Band] | None = None,
    source: Place | None = None,
    around: Around = "host",
    psf: OptionalRef = None,
    others: Sequence[Place] = (),
    which: Sequence[Whole] | None = None,
) -> xr.Dataset:
    """Take point sources off the detector in all exposures; what lies around them stays.

    Parameters
    ----------
    ds : Dataset, level "cal"
    trace_model : Dataset or several, kind "trace_model" or "point_source", optional
        Of :func:`fit_trace_model`: spectrum and PSF are then fitted here; or of :func:`fit_point_source`, which tells
        them. Of several bands, a list or a dict, those of the setting are taken off. By default all is fitted here, so
        that a recipe can have the step (``[cube.subtract_point_source]`` with ``before = "cube_build"``).
    bands, source
        Without a model: in which bands, by default both of the setting, and where [deg], by default at the brightest
        place.
    around, psf, others
        As of :func:`fit_point_source`; not looked at where that was run.
    which : sequence of int, optional
        Numbers of the sources to take off, those of the trace model from 0 on, then ``others``; by default all. A
        companion is seen alone by ``which=[0]``.

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
    >>> recipe = mx.Recipe.of("optimal").adding(
    ...     "cube.subtract_point_source", "subtract_point_source", before="cube_build"
    ... )
    """
    check_wcs(ds)
    models = models_of(ds, trace_model, bands, source, others, psf)
    others = () if trace_model is None else others
    done = taken_off(ds)
    for band in models:
        if any(band in one for one in done):
            raise MrsxrError(f"band {band}: the point source was taken off already; start from the data before it")
    flux = ds["flux"].variable
    for band, model in models.items():
        check_which(model, others, which or ())
        own = psf if trace_model is not None or holds(psf, band) else None
        flux = flux - stars_of(ds, model, star_on_frame, which, around=around, psf=own, others=others)
    flux.attrs = dict(ds["flux"].attrs)
    return set_each(ds.assign(flux=flux), OFF, [" ".join([*one, *models]) for one in done])


def models_of(
    ds: xr.Dataset,
    trace_model: xr.Dataset | Sequence[xr.Dataset] | None,
    bands: Any,
    source: Any,
    others: Any,
    psf: xr.Dataset | None,
) -> dict[str, xr.Dataset]:
    """Return the models given that are of the setting, by band, or trace models of bands."""
    ours = bands_of_setting(str(ds.attrs["setting"]))
    if isinstance(trace_model, xr.Dataset):
        return {check_model(ds, trace_model): trace_model}
    if trace_model is not None:
        known = [str(one.attrs.get("band", "none")) for one in trace_model]
        models = {check_model(ds, one): one for one, band in zip(trace_model, known, strict=True) if band in ours}
        if not models or len(models) < sum(band in ours for band in known):
            raise MrsxrError(
                f"trace_model has bands {', '.join(known) or 'none'}; expected one each of {' or '.join(ours)}"
            )
        return models
    wanted = bands or ours
    given = {"source": source, "others": others}
    return {band: fit_trace_model(ds, band=band, psf=psf if holds(psf, band) else None, **given) for band in wanted}


def stars_of(
    ds: xr.Dataset, model: xr.Dataset, image: Callable[..., Any], *more: Any, around: str = "host",
    psf: xr.Dataset | None = None, others: Sequence[tuple[float, float]] = (), planes: tuple[int, ...] = (),
) -> xr.Variable:  # fmt: skip
    """Return the light of sources on the detector, lazy where the data are; ``image`` makes it of one exposure.

    ``planes``: how many it makes, by default one, without a dimension.
    """
    frame = xr.Dataset({name: frame_coordinate(ds, name).variable for name in _FRAME})
    exposures, lazy = [str(name) for name in ds["exposure"].values], bool(ds["flux"].chunks)
    lit: Any = lit_pixels(ds, str(model.attrs["band"]))
    fit: Callable[..., Any] = _fitted
    if lazy:
        fit, image, lit, frame = dask.delayed(fit), dask.delayed(image), as_delayed(lean(lit)), as_delayed(frame)
        psf = as_delayed(psf) if psf is not None and psf["psf"].chunks else psf
    found = fit(lit, model, around, psf, others)
    each: Any = [image(found, frame, name, *more) for name in exposures]
    if lazy:
        shape, chunks = (*planes, *ds["flux"].shape[1:]), ds["flux"].variable.chunksizes
        stars: Any = da.stack([da.from_delayed(one, shape, np.float32) for one in each])
        stars = stars.rechunk((chunks["dither"], *planes, chunks["y"], chunks["x"]))
    else:
        stars = np.stack(each)
    return xr.Variable(("dither", *["plane"] * len(planes), "y", "x"), stars)


def _fitted(lit: xr.Dataset, model: xr.Dataset, around: str, psf: xr.Dataset | None, others: Any) -> xr.Dataset:
    return model if model.attrs["kind"] == KIND else fit_source(lit, model, around, psf, others)
