"""Stage 3 before the cubes in plain code: what looks at several exposures at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from mrsxr import cal
from mrsxr.errors import MrsxrError
from mrsxr.mrs import bands_of_setting
from mrsxr.notes import listen, noted, tell
from mrsxr.threads import how

from .config import CubeConfig

Exposures = dict[str, xr.Dataset]


def combine(
    exposures: Mapping[str, xr.Dataset],
    config: CubeConfig,
    *,
    spectra: Sequence[xr.Dataset] = (),
    behind: Mapping[str, xr.Dataset] | None = None,
    center: tuple[float, float] | None = None,
    settle: bool = False,
    bands: Sequence[str] | None = None,
) -> Exposures:
    """Bring calibrated exposures into one frame and level: targets, backgrounds, outliers.

    Parameters
    ----------
    exposures : mapping of name to Dataset, level "cal"
        All science exposures, one Dataset a setting.
    config : CubeConfig
    spectra : sequence of Dataset, level "spectrum"
        Of the background exposures, of each band one or one an exposure, for ``config.background`` "master".
    behind : mapping of setting to Dataset, level "cal", optional
        The background exposures, for "field".
    center : (float, float), optional
        Where a moving target is to stand [deg]; by default its mean position.
    settle : bool
        Find the outliers now, so that cubes computed one after the other do not find them again.
    bands : sequence of str, optional
        Of which something is made; by default all of the settings. Others need no background.

    Returns
    -------
    dict of name to Dataset, level "cal"
        Lazy where the exposures are, but for background matching, whose fit looks at all of them.
    """
    found = dict(exposures) if "assign_mtwcs" in config.skip else _follow(dict(exposures), center)
    if config.match_backgrounds and sum(ds.sizes["dither"] for ds in found.values()) > 1:
        match = cal.fit_background_match(list(found.values()))
        found = {name: cal.match_backgrounds(ds, match=match) for name, ds in found.items()}
    found = _subtract(found, config, spectra, behind or {}, bands)
    found = _flag_outliers(found, config, settle)
    if config.pixel_replace != "none":
        found = {name: cal.replace_pixels(ds, algorithm=config.pixel_replace) for name, ds in found.items()}
    return found


def one_background(config: CubeConfig) -> CubeConfig:
    """Return a config for exposures from which the background was subtracted pixel by pixel: they lose no second one.

    It is told where the other was asked for.
    """
    if config.background == "none":
        return config
    if config.background_required or config.background == "field":
        tell(f"the background is subtracted pixel by pixel; the {config.background} background is left out")
    return replace(config, background="none", background_required=False)


def _follow(exposures: Exposures, center: tuple[float, float] | None) -> Exposures:
    moving = [ds for ds in exposures.values() if cal.is_moving(ds)]
    if not moving:
        return exposures
    place = center or cal.target_position(moving)
    return {n: cal.follow_target(ds, center=place) if cal.is_moving(ds) else ds for n, ds in exposures.items()}


def _subtract(
    exposures: Exposures, config: CubeConfig, spectra: Sequence[xr.Dataset], behind: Mapping[str, xr.Dataset],
    bands: Sequence[str] | None,
) -> Exposures:  # fmt: skip
    if config.background == "none":
        return exposures
    out = {}
    master = _master(spectra, config) if config.background == "master" and spectra else None
    covered = {b for ds in spectra for b in np.unique(ds["band"].values).tolist()}
    for name, ds in exposures.items():
        with listen() as told:
            setting = str(ds.attrs["setting"])
            if cal.has_background_subtracted(ds):
                tell(f"{name}: the background was subtracted pixel by pixel; the {config.background} background is "
                     "left out", stacklevel=3)  # fmt: skip
            elif config.background == "field" and setting in behind:
                ds = cal.subtract_field_background(ds, background=cal.measure_field_background(behind[setting]))
            else:
                lacking = [b for b in bands_of_setting(setting) if config.background == "field" or b not in covered]
                _tell_missing(name, lacking, bands, config, bool(spectra))
                ours = [b for b in bands_of_setting(setting) if b in covered]
                ds = _subtract_master(ds, master, ours, config) if master is not None and ours else ds
        out[name] = noted(ds, told)
    return out


def _tell_missing(
    name: str, missing: list[str], wanted: Sequence[str] | None, config: CubeConfig, others: bool
) -> None:
    """Say, or refuse where a background was asked for, that bands have no background exposures."""
    missing = [band for band in missing if wanted is None or band in wanted]
    if not missing:
        return
    text = f"{name}: no background exposures of {' and '.join(missing)}"
    if config.background_required or config.background == "field":
        raise MrsxrError(
            f"{text}, and a background is asked for ('{config.background}'); give some, or take another way"
        )
    tell(f"{text}: no background is subtracted there", stacklevel=3, aloud=others)


def _master(spectra: Sequence[xr.Dataset], config: CubeConfig) -> xr.Dataset:
    if config.background_mix_bands:
        return cal.combine_backgrounds(spectra)
    return cal.combine_backgrounds(spectra, mix_bands=False, weights="variance", interpolate=True)


def _subtract_master(ds: xr.Dataset, master: xr.Dataset, bands: list[str], config: CubeConfig) -> xr.Dataset:
    """Subtract the spectrum in those bands of a setting whose background was measured."""
    options = {} if config.background_mix_bands else {"outside": "edge", "propagate_errors": True}
    return cal.subtract_master_background(ds, background=master, bands=bands, **options)


def _flag_outliers(exposures: Exposures, config: CubeConfig, settle: bool) -> Exposures:
    """Flag what stands out on the detector in all exposures and, by "sky", what single exposures show alone."""
    if config.outliers == "none" or sum(ds.sizes["dither"] for ds in exposures.values()) < 2:
        return exposures
    out = dict(exposures)
    for detector in sorted({str(ds.attrs["detector"]) for ds in exposures.values()}):
        names = [name for name, ds in exposures.items() if ds.attrs["detector"] == detector]
        mask = cal.detect_outliers(
            [exposures[name] for name in names], kernel_size=config.kernel_size,
            threshold_percent=config.threshold_percent,
        )  # fmt: skip
        mask = mask.compute(**how()) if settle else mask
        for name in names:
            if config.outliers == "sky":
                single = cal.detect_sky_outliers(exposures[name], outliers=mask)
                out[name] = cal.flag_outliers(out[name], outliers=single.compute(**how()) if settle else single)
            out[name] = cal.flag_outliers(out[name], outliers=mask)
    return out
