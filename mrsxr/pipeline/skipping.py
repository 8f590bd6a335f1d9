"""Names of the steps of each chain, as users know them from ``jwst``: which can be left out, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import xarray as xr

from mrsxr.errors import ParameterError
from mrsxr.limits import near_miss

Step = Callable[..., xr.Dataset]


@dataclass(frozen=True)
class Name:
    """A step by its name in jwst: its other names, and the parameter that turns it off, where there is one."""

    name: str
    others: tuple[str, ...] = ()
    switch: str | None = None
    value: str | None = None  # of the switch, where it must have that to mean this step
    needed: bool = False  # the next level rests on it


#: The steps of each table of the configuration in their order.
STEPS: dict[str, tuple[Name, ...]] = {
    "rate": (
        Name("group_scale", ("scale_groups",)),
        Name("dq_init", ("flag_bad_pixels", "mask")),
        Name("emicorr", ("correct_emi",), "emicorr"),
        Name("saturation", ("flag_saturation",)),
        Name("ipc", ("correct_ipc",), "ipc"),
        Name("firstframe", ("flag_first_frame",), "firstframe"),
        Name("lastframe", ("flag_last_frame",), "lastframe"),
        Name("reset", ("subtract_reset",), "reset"),
        Name("linearity", ("correct_linearity",)),
        Name("rscd", ("flag_rscd", "correct_rscd"), "rscd"),
        Name("dark_current", ("dark", "subtract_dark")),
        Name("refpix", ("subtract_reference_pixels",), "refpix"),
        Name("charge_migration", ("flag_charge_migration",), "charge_migration"),
        Name("jump", ("flag_jumps", "flag_jumps_likelihood", "flag_jumps_judged"), "jump"),
        Name("find_showers", ("showers", "flag_showers", "remove_showers"), "showers"),
        Name("persistence", ("flag_persistence",), "persistence"),
        Name("ramp_fit", ("fit_ramps", "fit_integrations"), needed=True),
        Name("gain_scale", ("scale_gain",)),
    ),
    "cal": (
        Name("latents", ("subtract_latents",), "latents"),
        Name("assign_wcs", needed=True),
        Name("badpix_selfcal", ("self_calibrate_bad_pixels",), "badpix_selfcal"),
        Name("bkg_subtract", ("background", "subtract_background"), "background"),
        Name("srctype", ("set_source_type",)),
        Name("straylight", ("subtract_straylight",), "straylight"),
        Name("clean_showers", (), "clean_showers"),
        Name("flat_field", ("flat", "divide_flat"), "flat"),
        Name("fringe", ("divide_fringe_flat",), "fringe"),
        Name("photom", ("calibrate_flux",), needed=True),
        Name("residual_fringe", ("correct_residual_fringe",), "residual_fringe"),
    ),
    "cube": (
        Name("assign_mtwcs", ("follow_target",)),
        Name("match_backgrounds", (), "match_backgrounds"),
        Name("master_background", ("subtract_master_background",), "background", "master"),
        Name("field_background", ("subtract_field_background",), "background", "field"),
        Name("outlier_detection", ("outliers", "detect_outliers", "detect_sky_outliers", "flag_outliers"), "outliers"),
        Name("pixel_replace", ("replace_pixels",), "pixel_replace"),
        Name("cube_build", ("build_cube", "build_multiband_cube"), needed=True),
        Name("residual_fringe", ("correct_residual_fringe_cube",), "residual_fringe"),
        Name("spectral_leak", ("correct_spectral_leak_cube",), "spectral_leak"),
    ),
    "spectrum": (
        Name("extract_1d", ("extract_spectrum",), needed=True),
        Name("exact_errors", ("set_exact_errors",), "exact_errors"),
        Name("residual_fringe", ("correct_residual_fringe_1d",), "residual_fringe"),
        Name("spectral_leak", ("correct_spectral_leak",), "spectral_leak"),
        Name("stitch", ("stitch_bands",), needed=True),
    ),
}  # fmt: skip


def kept(skip: tuple[str, ...], name: str, make: Callable[[], Step]) -> Iterator[tuple[str, Step]]:
    """Yield a step of a chain with its name, made when it is wanted, unless it is to be left out."""
    if name not in skip:
        yield name, make()


def find_step(text: str, section: str) -> Name | None:
    """Return a step of a table by any of its names, with - or _, None where there is no such step."""
    wanted = text.strip().lower().replace("-", "_")
    return next((one for one in STEPS[section] if wanted in (one.name, *one.others)), None)


def skipped_names(names: tuple[str, ...], section: str) -> tuple[str, ...]:
    """Return the names in jwst of steps that are to be left out of a chain, each once.

    Raises
    ------
    ParameterError
        Where there is no such step, or it cannot be left out.
    """
    found = []
    for text in names:
        step = find_step(text, section)
        known = [one.name for one in STEPS[section] if not one.needed]
        if step is None:
            hint = near_miss(text, known)
            raise ParameterError(f"skip has '{text}'; expected some of {', '.join(known)}{hint}")
        if step.needed:
            raise ParameterError(f"skip has '{text}', which cannot be left out: the next level rests on it")
        found.append(step.name)
    return tuple(dict.fromkeys(found))


def switched_off(names: tuple[str, ...], section: str, values: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that turn steps off: "none" or False."""
    out: dict[str, Any] = {}
    for name in names:
        step = find_step(name, section)
        if step is None or step.switch is None or step.value not in (None, values[step.switch]):
            continue
        out[step.switch] = False if isinstance(values[step.switch], bool) else "none"
    return out


def sections_of(text: str) -> list[str]:
    """Return the tables of the configuration that have a step of this name.

    Raises
    ------
    ParameterError
        Where none has.
    """
    found = [section for section in STEPS if find_step(text, section) is not None]
    if not found:
        known = dict.fromkeys(one.name for steps in STEPS.values() for one in steps if not one.needed)
        raise ParameterError(f"skip has '{text}'; expected some of {', '.join(known)}{near_miss(text, known)}")
    return found
