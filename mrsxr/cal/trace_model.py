"""The trace model: the light of point sources on the detector, one model of all slices and dithers of a band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from mrsxr.arguments import reads
from mrsxr.blocks import as_delayed, is_lazy
from mrsxr.geometry.frame import lean
from mrsxr.geometry.pixels import check_setting, wavelength_span
from mrsxr.limits import Band, Count, OptionalRef, Place, checked
from mrsxr.mrs import PIXEL_LENGTH, psf_fwhm
from mrsxr.notes import tell
from mrsxr.references.fit import planes_of
from mrsxr.scores import gains, score
from mrsxr.step import made_with
from mrsxr.threads import how
from mrsxr.traces import fit_band
from mrsxr.traces.model import EDGE, N_SPLINE, profile_of
from mrsxr.traces.pixels import gathered, in_circle, lit_pixels, places_of
from mrsxr.traces.search import said, searched
from mrsxr.traces.source import check_apart, images_of, marked_off

from ._sampling import check_wcs

_FEWEST = 1000  # pixels near the source that a fit needs


@reads()
@checked
def fit_trace_model(
    ds: xr.Dataset, *, band: Band, source: Place | None = None, others: Sequence[Place] = (), window_rows: Count = 100,
    psf: OptionalRef = None,
) -> xr.Dataset:  # fmt: skip
    """Fit a model of bright point sources to all exposures and slices of a band at once.

    Parameters
    ----------
    ds : Dataset, level "cal"
        The dithers of a setting: ``flux`` [MJy/sr], variances [MJy2/sr2], ``dq`` and the coordinates of assign_wcs.
    band : str
    source : (float, float), optional
        Right ascension and declination [deg]; by default the brightest place of all exposures.
    others : sequence of (float, float)
        Those of further sources, half an FWHM or more from each other: all have one profile, each its spectrum. Their
        places move by what the data show.
    window_rows : int
        Detector rows between the wavelengths at which the profile is free.
    psf : Dataset, kind "psf", optional
        Of :func:`learn_psf`, or of an optical model, from which the profile starts in place of a Moffat function.

    Returns
    -------
    Dataset, kind "trace_model"
        ``place`` (source, dither, axis): alpha, beta of the sources [arcsec]; ``pointing_off`` (dither, sky): by how
        much pointings were found to be off, to the east and north [arcsec], 0 where they are right or nothing tells,
        NaN of exposures that miss the source; ``profile`` (node, i, j): coefficients of the profile; ``spectrum``
        (source, dither, sample): peaks [MJy/sr]; ``score_trace_model`` and ``used`` (source, dither, slice_label,
        node): where the model is to be used; nowhere, and the score is NaN, where fewer than 1000 pixels near the
        sources are usable, or yet others shine 1.6 FWHM from them; ``settled``: 1 where places and profile came to
        rest. Some 100 kB; lazy where ``ds`` is.

    Raises
    ------
    MrsxrError
        Where the band is not of the setting, the data have no coordinates, or two sources stand too close.

    Notes
    -----
    flux = sum of spectrum(dither, wavelength) x profile(alpha - alpha_0, beta - beta_0, wavelength) over sources + a
    plane of light at each wavelength, around each source or those whose light overlaps. The profile holds the pixel and
    the width of the slice. It starts as a Moffat function of the FWHM of Law et al. (2023, AJ 166, 45) and is
    multiplied by B-splines along and across the slices, in units of the FWHM, learnt from all slices and dithers,
    linear in wavelength between nodes and of little change from node to node. Places are free in each exposure, where
    all sources move as one; how far others stand from the first is fitted to all exposures. Pixels far off the model
    (hits, bad pixels) count less.
    The model is judged on every second pixel (a chess board), with places, profile and spectra from the others: its
    misfit, of the pixels nearest to a source, over that of the mean of the two neighbours along the slice, which is
    what a drizzled cube takes a pixel for. Both are in units of their noise, so that a model of noise gains nothing. A
    window of a slice and an exposure must gain by two standard errors, and all windows of its wavelength together by
    three: of 4500 windows of smooth and of filamentary light none passes.
    A cube uses the continuum of the spectrum, a running median over 5000 km/s: a line may come from around the source
    and stays as the pixels show it, with the waves that a line of the source itself has without a model.
    The variances of a cube do not hold the noise of the model. In 1A (peak of 100 and 300 times the noise; of 5 times
    it is not used) voxels within 1 FWHM scatter by 0.99 and 1.00 of their errors with four dithers, by 1.02 and 1.05
    with two, which show the source at fewer places of the pixels, by 1.01 and 1.03 with one; means over 25 planes by
    1.04 and 1.10, 1.29 and 1.40, 1.18 and 1.36 of what they do without the model. The light within 1.5 FWHM scatters
    by 1.03, 1.07 and 1.07 of its error (four, two, one; without 1.03, 1.03, 1.02). In 2A and 3A nothing of it is seen.

    Examples
    --------
    >>> model = mx.cal.fit_trace_model(cal, band="1A")
    >>> clean = mx.cube.build_cube(cal, band="1A", trace_model=model)
    """
    check_wcs(ds)
    check_setting(ds, band)
    lit, sources = lit_pixels(ds, band), (source, *others)
    labels = np.unique(lit["slice"].values[lit["slice"].values // 100 == int(band[0])])
    nodes, samples = grids = _grids(lit, band, labels, window_rows)
    lazy = is_lazy(lit)
    if psf is not None and not lazy:
        psf = psf.compute(**how())
    prior: Any = np.zeros(()) if psf is None else _start(psf, band, nodes)
    each = len(sources), ds.sizes["dither"]
    shapes: list[tuple[int, ...]] = [(*each, 2), (nodes.size, N_SPLINE, N_SPLINE), (*each, samples.size)]
    shapes += [(*each, labels.size, nodes.size), (), (each[1], 2)]
    found: Any
    if lazy:
        later = dask.delayed(_fitted, pure=True, nout=6)(as_delayed(lean(lit)), band, sources, labels, grids, prior)
        found = [da.from_delayed(one, shape, float) for one, shape in zip(later, shapes, strict=True)]
    else:
        found = _fitted(lit, band, sources, labels, grids, prior)
    place, profile, spectrum, judged, settled, off = found
    dims = ("source", "dither", "slice_label", "node")
    wanted = {"units": "arcsec", "long_name": "alpha, beta of the sources"}
    data = {
        "place": (("source", "dither", "axis"), place, wanted),
        "profile": (("node", "i", "j"), profile, {"units": "1"}),
        "spectrum": (("source", "dither", "sample"), spectrum, {"units": "MJy/sr", "long_name": "peak of a source"}),
        "used": (dims, gains(judged), {"units": "1"}),
        "settled": ((), settled, {"units": "1", "long_name": "whether places and profile came to rest"}),
        "pointing_off": (("dither", "sky"), off, {"units": "arcsec", "long_name": "error of pointings"}),
        **score("trace_model", judged, dims, method="model", instead="pixels", held_out="every second pixel"),
    }
    wave = {"units": "um", "long_name": "wavelength, of the observatory"}
    coords = {"exposure": ds["exposure"], "slice_label": labels, "node": ("node", nodes, wave),
              "sample": ("sample", samples, wave)}  # fmt: skip
    attrs = {"kind": "trace_model", "band": band, "ref_id": f"trace model of {band}", **made_with(psf=psf)}
    return xr.Dataset(data, coords, marked_off(attrs, ds))


def _start(psf: xr.Dataset, band: str, nodes: np.ndarray) -> Any:
    """Return the profile (node, i, j) of a PSF: an array, or, where the PSF is of a file, what makes it in a task."""
    if psf["psf"].chunks:
        return dask.delayed(_start, pure=True)(as_delayed(planes_of(psf, band)), band, nodes)
    return profile_of(images_of(psf, band), nodes)


def _grids(lit: xr.Dataset, band: str, labels: np.ndarray, window_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the wavelengths [um] of the nodes of the profile and of the samples of the spectrum."""
    low, high = wavelength_span(lit["slice"].values, lit["y"].values, lit["x"].values, lit, labels)
    step = float(np.mean(PIXEL_LENGTH[band]))
    sizes = round((high - low) / (window_rows * step)) + 1, int(np.ceil((high - low) / step)) + 1
    nodes, samples = (np.linspace(low, high, max(size, 2)) for size in sizes)
    return nodes, samples


def _fitted(
    lit: xr.Dataset, band: str, sources: Any, labels: np.ndarray, grids: Any, prior: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return place, profile, spectrum, score, whether settled and errors of pointings.

    Without enough pixels no light, and no score.
    """
    place = np.stack([places_of(lit, band, one) for one in sources])
    nodes, samples = grids
    check_apart(place, float(psf_fwhm(samples.mean())))
    start = searched(lit, band, place[0], sources[0])
    if start.off.any():
        place = place + (start.place - place[0])
        tell(said(band, lit["exposure"].values, start.off))
    near = np.any([in_circle(lit, one, EDGE) for one in place], axis=0)
    pixels = gathered(lit, near & start.shows[:, None, None])
    if pixels.flux.size < _FEWEST:
        nothing = np.zeros((nodes.size, N_SPLINE, N_SPLINE)), np.zeros((*place.shape[:2], samples.size))
        return place, *nothing, np.full((*place.shape[:2], labels.size, nodes.size), np.nan), np.zeros(()), start.off
    fit, judged, settled = fit_band(pixels, place, labels, nodes, samples, prior)
    return fit.place, fit.profile, fit.spectrum, judged, np.array(float(settled)), start.off
