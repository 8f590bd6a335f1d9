"""The order of the steps, in plain code. A notebook calls the steps or these; both build the same graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from mrsxr import cal, cube, spectrum, tree
from mrsxr.arguments import bands_held, need_data
from mrsxr.errors import MrsxrError
from mrsxr.geometry.fields import fields
from mrsxr.mrs import BANDS, bands_of_setting, setting_of_band
from mrsxr.notes import listen, noted, tell
from mrsxr.references import References
from mrsxr.scores import of_band
from mrsxr.threads import how

from .cal_chain import calibrate, masks_of
from .combine_chain import combine, one_background
from .config import CalConfig, Config, CubeConfig, RateConfig, SpectrumConfig
from .given import config_of, references_of
from .optional import keeps_notes, optional
from .rate_chain import correct_ramps, fit_slopes
from .source_types import source_types_of
from .spectrum_chain import correct_leak, correct_leak_in_cubes, make_spectrum, stitch, with_exact_errors

Data = xr.Dataset | xr.DataTree


def make_rate(data: Data, refs: References, config: RateConfig | None = None) -> Any:
    """Turn ramps into slopes: all steps of stage 1, from group_scale to gain_scale.

    Parameters
    ----------
    data : Dataset of level "ramp", or DataTree of such
    refs : References or path
    config : RateConfig, optional

    Returns
    -------
    Dataset or DataTree of level "rate", lazy
    """
    need_data("make_rate", data)
    given = {"refs": references_of("make_rate", refs, needed=True), "config": config_of("make_rate", config, "rate")}
    if given["config"].save_rateints:
        tell("save_rateints: the slopes of the integrations are not made here; make_rate_and_ints gives both")
    if isinstance(data, xr.Dataset):
        return _make_rate(data, **given)
    rates = tree.map_bands(data, _make_rate, **given)
    return tree.build(tree.gather(dict(tree.leaves(rates))), **tree.attrs_of(data))


def _make_rate(ds: xr.Dataset, *, refs: References, config: RateConfig) -> xr.Dataset:
    return fit_slopes(correct_ramps(ds, refs, config), refs, config)[0]


def make_rate_and_ints(data: Data, refs: References, config: RateConfig | None = None) -> tuple[Any, Any]:
    """Turn ramps into the average slopes and those of every integration, by one fit.

    Parameters
    ----------
    data : Dataset of level "ramp", or DataTree of such
    refs : References or path
    config : RateConfig, optional

    Returns
    -------
    Dataset or DataTree of level "rate", the same of level "rateints"
        Lazy; ``dask.compute`` of both fits once.
    """
    need_data("make_rate_and_ints", data)
    refs = references_of("make_rate_and_ints", refs, needed=True)
    config = config_of("make_rate_and_ints", config, "rate")
    if isinstance(data, xr.Dataset):
        first, second = fit_slopes(correct_ramps(data, refs, config), refs, config, "both")
        return first, second
    both = {path: make_rate_and_ints(ds, refs, config) for path, ds in tree.leaves(data)}
    rates, integrations = ({path: one[k] for path, one in both.items()} for k in (0, 1))
    attrs = tree.attrs_of(data)
    return tree.build(tree.gather(rates), **attrs), tree.build(integrations, **attrs)


def make_cal(
    data: Data,
    refs: References,
    config: CalConfig | None = None,
    *,
    background: xr.Dataset | None = None,
    bad_pixels: xr.Dataset | None = None,
    history: Sequence[xr.Dataset] = (),
) -> Any:
    """Turn slopes into surface brightness on the detector: all steps of stage 2, from assign_wcs to residual_fringe.

    Parameters
    ----------
    data : Dataset of level "rate", or DataTree of such
    refs : References or path
    config : CalConfig, optional
    background : Dataset of level "rate", optional
        Background exposures of the same setting, for ``config.background`` and ``config.badpix_selfcal``. In a tree
        those of ``/background`` are taken.
    bad_pixels : Dataset, optional
        Of :func:`mrsxr.cal.find_bad_pixels` over more exposures than these, for ``config.badpix_selfcal``; in a tree
        found from all exposures of the detector.
    history : sequence of Dataset of level "rate"
        Other exposures of the detector, for ``config.latents``; in a tree those of its other nodes.

    Returns
    -------
    Dataset or DataTree of level "cal", lazy but for its coordinates
    """
    need_data("make_cal", data)
    refs, config = references_of("make_cal", refs, needed=True), config_of("make_cal", config, "cal")
    if isinstance(data, xr.Dataset):
        return calibrate(data, refs, config, background, bad_pixels, history)
    leaves = tree.gather(dict(tree.leaves(data)))
    masks = masks_of(list(leaves.values()), config)
    found = {}
    for path, ds in leaves.items():
        of_background = path.startswith("/background")
        here = replace(config, background="none") if of_background else config
        role = "/science/" if of_background else "/background/"
        behind = [one for other, one in leaves.items() if other.startswith(role) and _alike(one, ds)]
        behind.sort(key=lambda one: one.attrs.get("readpatt") != ds.attrs.get("readpatt"))
        others = [
            one for other, one in leaves.items() if other != path and one.attrs["channels"] == ds.attrs["channels"]
        ]
        mask = bad_pixels if bad_pixels is not None else masks.get(str(ds.attrs["channels"]))
        found[path] = calibrate(ds, refs, here, behind[0] if behind else None, mask, history=others)
    return tree.build(found, **tree.attrs_of(data))


def _alike(one: xr.Dataset, other: xr.Dataset) -> bool:
    return all(one.attrs.get(key) == other.attrs.get(key) for key in ("setting", "subarray"))


def make_cubes(
    data: Data,
    refs: References | None = None,
    config: CubeConfig | None = None,
    *,
    bands: str | int | Iterable[str | int] | None = None,
) -> xr.DataTree:
    """Build one cube a band from all its dithers, after background matching and subtraction and outlier detection.

    Parameters
    ----------
    data : Dataset or DataTree of level "cal"
    refs : References or path, optional
        For the cubepar file; without it the flight values.
    config : CubeConfig, optional
    bands : str, int or iterable of them, optional
        Only these bands ("1A,2A", "ch1-short") or channels (1).

    Returns
    -------
    DataTree
        ``/science/1A``, ``/background/1A`` ... (a plain Dataset counts as science), and by ``config.output_type``
        ``/science/ch1`` ... or ``/science/multi``. Of computed data, computed; of lazy data, lazy by wavelength block,
        but the spectrum of the background, the fit of background matching and the outliers are computed at once. What
        is lazy is computed again for each of these and for each cube: compute the exposures before.

    Raises
    ------
    MrsxrError
        Where none of the bands is in the data.
    """
    need_data("make_cubes", data)
    refs, config = references_of("make_cubes", refs, needed=False), config_of("make_cubes", config, "cube")
    held = {band for _, ds in _nodes(data) for band in bands_of_setting(ds.attrs["setting"])}
    wanted = BANDS if bands is None else bands_held(bands, held, "data")
    found: dict[str, xr.Dataset] = {}
    exposures, kept = _combined_once(data, refs, config, wanted)
    for path, ds in exposures.items():
        role = path.rpartition("/")[0]
        parts = fields_of(ds) if role == "/background" else [ds]
        for band in bands_of_setting(ds.attrs["setting"]):
            for number, part in enumerate(parts if band in wanted else [], 1):
                there = kept.get(band, []) if role == "/background" else []
                make = make_cube if role == "/background" else make_target_cube
                one = there[number - 1] if there else make(part, band, refs, config)
                found[f"{role}/{band}" + (f"_{number}" if number > 1 else "")] = one
    if not found:
        raise MrsxrError(f"no band of {', '.join(wanted)} in the data")
    science = {str(ds.attrs["band"]): ds for path, ds in found.items() if path.startswith("/science")}
    sources = [ds for path, ds in exposures.items() if path.startswith("/science")]
    joint = make_joint_cubes(sources, refs, config) if sources else {}
    science |= {name if name == "multi" else f"ch{name}": ds for name, ds in joint.items()}
    found |= {f"/science/{name}": ds for name, ds in correct_leak_in_cubes(science, refs, config).items()}
    return tree.build(found, **tree.attrs_of(data))


def combine_exposures(
    data: Data,
    refs: References | None = None,
    config: CubeConfig | None = None,
    *,
    bands: Iterable[str] | None = None,
) -> xr.DataTree:
    """Bring calibrated exposures to what cubes are built from: targets, backgrounds, outliers.

    :func:`make_cubes` and :func:`make_spectra` do this first, unless it was done.

    Parameters
    ----------
    data : Dataset or DataTree of level "cal"
    refs : References or path, optional
    config : CubeConfig, optional
    bands : iterable of str, optional
        Of which cubes are wanted; others need no background.

    Returns
    -------
    DataTree of level "cal"
        ``/science/12A`` ..., combined, and ``/background/12A`` ... as they were.
    """
    need_data("combine_exposures", data)
    refs = references_of("combine_exposures", refs, needed=False)
    config = config_of("combine_exposures", config, "cube")
    return tree.build(_combined_once(data, refs, config, bands)[0], **tree.attrs_of(data))


def _combined_once(
    data: Data, refs: References | None, config: CubeConfig, bands: Iterable[str] | None
) -> tuple[dict[str, xr.Dataset], dict[str, list[xr.Dataset]]]:
    """Return the nodes of :func:`combine_exposures`, and background cubes by band that were made on the way."""
    nodes = one_a_setting(tree.gather(dict(_nodes(data))))
    wanted, kept = BANDS if bands is None else tuple(bands), {}  # type: ignore[var-annotated]
    science = [ds for path, ds in nodes.items() if not path.startswith("/background")]
    if not all("combined" in ds.attrs for ds in science):
        return _combined(nodes, refs, config, wanted, kept), kept
    for ds in science:
        lacking = [b for b in bands_of_setting(ds.attrs["setting"]) if b in wanted and b not in ds.attrs["combined"]]
        if lacking:
            raise MrsxrError(f"{ds.attrs['setting']}: the exposures were combined for other bands than {lacking[0]}; "
                             "combine them for all that are wanted")  # fmt: skip
    return nodes, kept


def one_a_setting(nodes: dict[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """Return nodes of cal data by role and setting, ``/science/12A``; raise where two of them cannot be joined."""
    out: dict[str, xr.Dataset] = {}
    for path, ds in nodes.items():
        place = f"{path.rpartition('/')[0]}/{ds.attrs['setting']}"
        if place in out:
            odd = set(map(str, out[place].data_vars)) ^ set(map(str, ds.data_vars))
            raise MrsxrError(
                f"{place}: two sets of exposures that cannot be joined ({tree.name_of(out[place])} and "
                f"{tree.name_of(ds)} differ in {', '.join(sorted(odd)) or 'subarray'}); calibrate them alike"
            )
        out[place] = ds
    return out


def fields_of(ds: xr.Dataset) -> list[xr.Dataset]:
    """Return the exposures of each field of the sky: pointings that overlap or abut."""
    if not {"ra_ref", "dec_ref"} <= set(ds.coords) or ds.sizes["dither"] == 1:
        return [ds]
    number = fields(ds["ra_ref"].values, ds["dec_ref"].values)
    return [ds.isel(dither=np.flatnonzero(number == k)) for k in range(number.max() + 1)] if number.max() else [ds]


def _combined(
    nodes: dict[str, xr.Dataset], refs: References | None, config: CubeConfig, wanted: Sequence[str],
    kept: dict[str, list[xr.Dataset]],
) -> dict[str, xr.Dataset]:  # fmt: skip
    """Run what looks at several exposures on the science nodes; background cubes of whole fields go to ``kept``."""
    behind = {path: ds for path, ds in nodes.items() if path.startswith("/background")}
    before = [ds for path, ds in nodes.items() if path not in behind]
    if before and all(cal.has_background_subtracted(ds) for ds in before):
        config = one_background(config)
    spectra = []
    if config.background == "master":
        for ds in behind.values():
            for band in bands_of_setting(ds.attrs["setting"]):
                if band in wanted and of_whole_fields(ds, config):
                    parts = fields_of(ds)
                    kept[band] = [make_cube(part, band, refs, config).compute(**how()) for part in parts]
                    of_each = zip(kept[band], parts, strict=True)
                    spectra += [background_spectrum(built, part, refs, config) for built, part in of_each]
                elif band in wanted:
                    spectra += background_spectra(ds, band, refs, config)
    science = combine(
        {path: ds for path, ds in nodes.items() if path not in behind}, config, spectra=spectra,
        behind={str(ds.attrs["setting"]): ds for ds in behind.values()}, bands=wanted, settle=True,
    )  # fmt: skip
    return nodes | {path: ds.assign_attrs(combined=list(wanted)) for path, ds in science.items()}


def of_whole_fields(ds: xr.Dataset, config: CubeConfig) -> bool:
    """Return whether the spectra of :func:`background_spectra` are those of the cubes of each field."""
    return ds.sizes["dither"] == 1 or not config.background_mix_bands


def background_spectrum(
    built: xr.Dataset, ds: xr.Dataset, refs: References | None, config: CubeConfig
) -> xr.Dataset:  # fmt: skip
    """Return the spectrum of a background cube, computed: the clipped mean of the whole field.

    Its errors hold the covariance of the voxels, by the exposures ``ds`` of the cube, where jwst's are not asked for.
    """
    found = spectrum.extract_spectrum(built, source_type="EXTENDED").compute(**how())
    return found if config.background_mix_bands else with_exact_errors(found, built, ds, refs).compute(**how())


def background_spectra(ds: xr.Dataset, band: str, refs: References | None, config: CubeConfig) -> list[xr.Dataset]:
    """Return what :func:`combine` subtracts of a band, computed: the spectra of its background exposures.

    One of each exposure where bands are mixed, as jwst has them; else one of the cube of each field, in which a voxel
    knows more pixels and its clipping is surer.
    """
    apart = config.background_mix_bands
    parts = [ds.isel(dither=[i]) for i in range(ds.sizes["dither"])] if apart else fields_of(ds)
    return [background_spectrum(make_cube(part, band, refs, config), part, refs, config) for part in parts]


@keeps_notes
def make_cube(ds: xr.Dataset, band: str, refs: References | None, config: CubeConfig) -> xr.Dataset:
    """Build the cube of one band from cal data of its setting."""
    return cube.build_cube(ds, band=band, **_cube_options(ds, refs, config)).assign(of_band(ds, band))


@keeps_notes
def make_target_cube(ds: xr.Dataset, band: str, refs: References | None, config: CubeConfig) -> xr.Dataset:
    """Build the cube of one band of the target and take off its residual fringes, where the config says so."""
    built = make_cube(ds, band, refs, config)
    if config.residual_fringe == "none":
        return built
    return cube.correct_residual_fringe_cube(built, method=config.residual_fringe)


def make_joint_cubes(
    exposures: Iterable[xr.Dataset], refs: References | None, config: CubeConfig
) -> dict[str, xr.Dataset]:
    """Build the cubes of several bands that ``config.output_type`` asks for.

    Parameters
    ----------
    exposures : iterable of Dataset, level "cal"
        One a setting, after :func:`combine`.
    refs : References or None
    config : CubeConfig

    Returns
    -------
    dict of name to Dataset, level "cube"
        "channel": one of each channel with equal planes; "multi": one of all bands, each with its own step; "band":
        none. Lazy by wavelength block.
    """
    sources = list(exposures)
    with listen() as told:
        options = _cube_options(sources[0], refs, config)
    if config.output_type == "band":
        return {}
    if config.residual_fringe != "none":
        with listen() as more:
            tell("fringes are corrected in cubes of one band; those of several keep theirs", aloud=False)
        told += more
    if config.output_type == "multi":
        return {"multi": noted(cube.build_multiband_cube(sources, **options), told)}
    channels = sorted({channel for ds in sources for channel in str(ds.attrs["channels"])})
    return {
        channel: noted(cube.build_multiband_cube(
            [ds for ds in sources if channel in str(ds.attrs["channels"])], bands=channel, wavelength_axis="linear",
            **options,
        ), told)
        for channel in channels
    }  # fmt: skip


def _cube_options(ds: xr.Dataset, refs: References | None, config: CubeConfig) -> dict[str, Any]:
    place = None if ds.attrs.get("background") else config.point_source  # the sky has no place in a slice
    return {
        "cubepar": None if refs is None else optional(refs, "cubepar", ds, "the flight values are used"),
        "mrsptcorr": refs.get("mrsptcorr", ds) if place is not None and refs is not None else None,
        "coord_system": config.coord_system, "spaxel_size": config.spaxel_size, "center": config.center,
        "wavelength_step": config.wavelength_step, "weighting": config.weighting,
        "exposure_weights": config.exposure_weights, "point_source": place,
    }  # fmt: skip


def make_spectra(
    data: Data,
    refs: References | None = None,
    config: SpectrumConfig | None = None,
    *,
    exposures: Data | None = None,
    cube_config: CubeConfig | None = None,
) -> xr.DataTree:
    """Extract a spectrum from every cube and stitch those of the science target.

    Parameters
    ----------
    data : Dataset or DataTree of level "cube"
    refs : References or path, optional
        For the extract1d and apcorr files. Without the first the radius is ``radius_factor`` FWHM; a point source needs
        the second unless ``config.aperture_correction`` is False.
    config : SpectrumConfig, optional
    exposures : Dataset or DataTree of level "cal", optional
        What the cubes were made of, for ``config.exact_errors``: what :func:`make_cubes` got, or better
        :func:`combine_exposures` gave, so that they are not combined again.
    cube_config : CubeConfig, optional
        How the cubes were made of them; by default that of ``config`` where it is a whole Config.

    Returns
    -------
    DataTree
        ``/science/1A`` ... and ``/science/stitched``; with ``config.both_branches``, where the images are ambiguous,
        those of the other type as ``/extended/1A`` ... or ``/point/1A`` ...; background cubes give ``/background/1A``
        ... of the whole field. Cubes of several bands are left out.
    """
    built = config_of("make_spectra", cube_config or (config if isinstance(config, Config) else None), "cube")
    need_data("make_spectra", data)
    refs, config = references_of("make_spectra", refs, needed=False), config_of("make_spectra", config, "spectrum")
    nodes = dict(_nodes(data))
    sky = {path: ds for path, ds in nodes.items() if path.startswith("/background")}
    found = _sky_spectra(sky, refs, exposures, built)
    target = {path: ds for path, ds in nodes.items() if path not in sky}
    target = {path: ds for path, ds in target.items() if str(ds.attrs["band"]) in BANDS} or target
    if target:
        _one_a_band(target)
        sources = _sources_of(target, refs, config, exposures, built)
        told: dict[str, Any] = {}
        for number, kind in enumerate(source_types_of(list(target.values()), config, told)):
            bands = {
                band: make_spectrum(ds, refs, config, kind, told=told, exposures=sources.get(band))
                for ds in target.values() if (band := str(ds.attrs["band"]))
            }  # fmt: skip
            bands = {band: spectrum.say_what_is_lost(ds.compute(**how())) for band, ds in bands.items()}
            bands = correct_leak(bands, refs, config)
            root = "" if number == 0 else f"/{kind.lower()}"
            found |= {
                f"{root}/{path.rpartition('/')[2]}" if root else path: bands[str(ds.attrs["band"])]
                for path, ds in target.items()
            }
            found[f"{root or '/science'}/stitched"] = stitch(list(bands.values()), config)
    return tree.build(found, **tree.attrs_of(data))


def _sky_spectra(
    cubes: dict[str, xr.Dataset], refs: References | None, exposures: Data | None, built: CubeConfig
) -> dict[str, xr.Dataset]:
    """Return the spectra of background cubes, by :func:`background_spectrum` where their exposures are there."""
    behind = {} if exposures is None or not cubes else one_a_setting(tree.gather(dict(_nodes(exposures))))
    out = {}
    for path, ds in cubes.items():
        band, _, number = path.rpartition("/")[2].partition("_")
        parts = behind.get(f"/background/{setting_of_band(band)}") if band in BANDS else None
        if parts is None:
            out[path] = spectrum.extract_spectrum(ds, source_type="EXTENDED")
        else:
            out[path] = background_spectrum(ds, fields_of(parts)[int(number or 1) - 1], refs, built)
    return out


def _sources_of(
    cubes: dict[str, xr.Dataset], refs: References | None, config: SpectrumConfig, exposures: Data | None,
    built: CubeConfig,
) -> dict[str, xr.Dataset]:  # fmt: skip
    """Return the combined exposures behind the cube of each band, where the config wants errors that need them."""
    if not config.exact_errors:
        return {}
    if exposures is None:
        tell("exact_errors needs the exposures, make_spectra(..., exposures=cal); the errors of the spectra ignore the "
             "covariance of voxels", stacklevel=3)  # fmt: skip
        return {}
    bands = [str(ds.attrs["band"]) for ds in cubes.values()]
    combined = dict(_nodes(combine_exposures(exposures, refs, built, bands=bands)))
    found = {band: combined.get(f"/science/{setting_of_band(band)}") for band in bands if band in BANDS}
    return {band: ds for band, ds in found.items() if ds is not None}


def _one_a_band(cubes: dict[str, xr.Dataset]) -> None:
    """Raise where two cubes are of one band: they are of two products, and one would take the place of the other."""
    first: dict[str, str] = {}
    for path, ds in cubes.items():
        band = str(ds.attrs["band"])
        if first.setdefault(band, path) != path:
            raise MrsxrError(f"{first[band]} and {path} are both cubes of {band}; take the cubes of one product")


def _nodes(data: Data) -> Iterable[tuple[str, xr.Dataset]]:
    if isinstance(data, xr.DataTree):
        yield from tree.leaves(data)
    else:
        yield f"/science/{data.attrs.get('setting', data.attrs.get('band'))}", data
