"""Stage 2 in plain code: the steps from rate to cal in jwst's order or that of the mission paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import xarray as xr

from mrsxr import cal
from mrsxr.errors import MrsxrError
from mrsxr.notes import tell
from mrsxr.references import References

from .config import CalConfig
from .optional import keeps_notes, optional
from .skipping import kept

Step = Callable[..., xr.Dataset]
#: Steps between srctype and photom: jwst subtracts stray light before the flat, the mission paper after it.
ORDERS = {"jwst": ("straylight", "flat_field", "fringe"), "paper": ("flat_field", "straylight", "fringe")}
#: Values of ``CalConfig.background`` that are subtracted pixel by pixel from the rate image.
PIXEL_BACKGROUNDS = ("mean", "weighted")


@keeps_notes
def calibrate(
    ds: xr.Dataset,
    refs: References,
    config: CalConfig,
    background: xr.Dataset | None = None,
    bad_pixels: xr.Dataset | None = None,
    history: Sequence[xr.Dataset] = (),
) -> xr.Dataset:
    """Run every step of stage 2.

    Parameters
    ----------
    ds : Dataset, level "rate"
    refs : References
    config : CalConfig
    background : Dataset, level "rate", optional
        Background exposures of the same setting.
    bad_pixels : Dataset, optional
        Of :func:`find_mask`; by default found from these exposures, where the config asks for them.
    history : sequence of Dataset, level "rate"
        Other exposures of the detector, for the latents that they left.

    Returns
    -------
    Dataset, level "cal", lazy but for its coordinates
    """
    for _, step in cal_steps(ds, refs, config, background, bad_pixels, history):
        ds = step(ds)
    return ds


def cal_steps(
    ds: xr.Dataset,
    refs: References,
    config: CalConfig,
    background: xr.Dataset | None = None,
    bad_pixels: xr.Dataset | None = None,
    history: Sequence[xr.Dataset] = (),
) -> Iterator[tuple[str, Step]]:
    """Yield (name in jwst, function of a Dataset) of every step of stage 2.

    Parameters
    ----------
    ds : Dataset, level "rate"
        Its header chooses the reference files.
    refs : References
    config : CalConfig
    background, bad_pixels, history
        As of :func:`calibrate`.

    Yields
    ------
    str, callable
    """
    if config.latents:
        yield "latents", partial(cal.subtract_latents, latent=refs.get("latent", ds), history=history)
    yield "assign_wcs", partial(locate, refs=refs)
    if config.badpix_selfcal != "none":
        bad = bad_pixels
        if bad is None:
            bad = find_mask([ds] if background is None else [ds, background], config)
        if bad is not None:
            yield "badpix_selfcal", partial(cal.self_calibrate_bad_pixels, bad_pixels=bad)
            background = None if background is None else cal.self_calibrate_bad_pixels(background, bad_pixels=bad)
    if config.background in PIXEL_BACKGROUNDS:
        yield "bkg_subtract", partial(_subtract_background, background=background, method=config.background)
    yield from kept(config.skip, "srctype", lambda: partial(cal.set_source_type, source_type=config.source_type))
    between = {
        "straylight": lambda: _straylight(ds, refs, config),
        "flat_field": lambda: _flat(ds, refs, config),
        "fringe": lambda: _fringe(ds, refs, config),
    }
    for name in ORDERS[config.order]:
        yield from between[name]()
    photom = refs.get("photom", ds)
    yield "photom", partial(
        cal.calibrate_flux, photom=photom, apply_time_correction=config.apply_time_correction,
        propagate_errors=config.propagate_errors,
    )  # fmt: skip
    if config.residual_fringe != "none":
        fringefreq = refs.get("fringefreq", ds)
        yield (
            "residual_fringe",
            partial(cal.correct_residual_fringe, fringefreq=fringefreq, method=config.residual_fringe),
        )


def find_mask(exposures: Sequence[xr.Dataset], config: CalConfig) -> xr.Dataset | None:
    """Return the pixels that are off in all exposures of a detector; None, with a warning, where there is one only.

    Parameters
    ----------
    exposures : sequence of Dataset, level "rate"
    config : CalConfig

    Returns
    -------
    Dataset or None
        See :func:`mrsxr.cal.find_bad_pixels`.
    """
    if config.badpix_selfcal == "none":
        return None
    if sum(one.sizes["dither"] for one in exposures) < 2:
        text = f"detector {exposures[0].attrs.get('detector')}: badpix_selfcal needs two exposures or more; left out"
        tell(text, stacklevel=3)
        return None
    return cal.find_bad_pixels(
        exposures, method=config.badpix_selfcal, flagfrac_lower=config.flagfrac_lower,
        flagfrac_upper=config.flagfrac_upper,
    )  # fmt: skip


def masks_of(exposures: Sequence[xr.Dataset], config: CalConfig) -> dict[str, xr.Dataset | None]:
    """Return the mask of :func:`find_mask` of each detector, by its channels; all exposures of a detector have one."""
    if config.badpix_selfcal == "none":
        return {}
    channels = sorted({str(ds.attrs["channels"]) for ds in exposures})
    return {c: find_mask([ds for ds in exposures if ds.attrs["channels"] == c], config) for c in channels}


def _subtract_background(ds: xr.Dataset, *, background: xr.Dataset | None, method: str) -> xr.Dataset:
    if background is None:
        raise MrsxrError(
            f"setting {ds.attrs.get('setting')}: a pixel background is asked for and there is no background exposure; "
            'give some, or choose background = "none"'
        )
    return cal.subtract_background(ds, background=background, method=method)


def _straylight(ds: xr.Dataset, refs: References, config: CalConfig) -> Iterator[tuple[str, Step]]:
    if config.straylight != "none":
        kernels = optional(refs, "mrsxartcorr", ds, "the stray light stays")
        if kernels is not None:
            between = optional(refs, "regions", ds, None) if config.straylight == "fitted" else None
            yield (
                "straylight",
                partial(cal.subtract_straylight, mrsxartcorr=kernels, method=config.straylight, regions=between),
            )
    if config.clean_showers != "none":
        regions = refs.get("regions", ds)
        yield "clean_showers", partial(cal.clean_showers, regions=regions, method=config.clean_showers)


def _flat(ds: xr.Dataset, refs: References, config: CalConfig) -> Iterator[tuple[str, Step]]:
    if config.flat:
        yield "flat_field", partial(cal.divide_flat, flat=refs.get("flat", ds))


def _fringe(ds: xr.Dataset, refs: References, config: CalConfig) -> Iterator[tuple[str, Step]]:
    if config.fringe:
        fringe = refs.get("fringe", ds)
        yield "fringe", partial(cal.divide_fringe_flat, fringe=fringe, propagate_errors=config.propagate_errors)


@keeps_notes
def locate(ds: xr.Dataset, refs: References) -> xr.Dataset:
    """Run assign_wcs; the slice mask is derived from the distortion where there is no regions file."""
    regions = optional(refs, "regions", ds, "the slice mask is derived from the distortion")
    return cal.assign_wcs(ds, distortion=refs.get("distortion", ds), specwcs=refs.get("specwcs", ds), regions=regions)
