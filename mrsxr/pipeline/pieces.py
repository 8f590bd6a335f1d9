"""The pieces of a reduction: functions of exposures, cubes and spectra that trees and files are reduced by alike.

A piece takes *things*: Datasets of a tree, or what lies on disk (:class:`Filed`, an exposure of the plan), and returns
Datasets, lazy where they can be, by the name of the product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import xarray as xr

from mrsxr import spectrum, tree
from mrsxr.blocks import computed
from mrsxr.errors import MrsxrError
from mrsxr.io import load_dataset
from mrsxr.io.exposures import open_planned
from mrsxr.io.files import BACKGROUND, classify
from mrsxr.io.fitsarray import file_stamp
from mrsxr.io.grouping import Exposure
from mrsxr.io.netcdf import read_netcdf
from mrsxr.notes import listen, noted, tell
from mrsxr.references import References
from mrsxr.threads import how

from . import alike, cube_chain, spectrum_chain
from .arrivals import ADVICE, Arrivals, check_usable
from .cal_chain import add_wcs, calibrate, find_mask
from .combine_chain import combine
from .needs import NO_REFERENCES
from .rate_chain import correct_ramps, fit_slopes
from .recipe import Recipe
from .source_types import source_types_of

Things = Sequence[Any]
Made = dict[str, list[Any]]
MASKS = "_badpix.nc"  # end of the names of masks


@dataclass(frozen=True)
class Way:
    """How all pieces are made: reference files, parameters, and what stands beside them.

    ``lazy``: what all exposures decide together is not computed before it is asked for.
    """

    refs: References | None
    recipe: Recipe
    redshift: float | None = None
    arrivals: Arrivals = field(default_factory=lambda: Arrivals({}))
    lazy: bool = False

    def references(self) -> References:
        """Return the reference files; raise where none are given."""
        if self.refs is None:
            raise MrsxrError(NO_REFERENCES)
        return self.refs

    def with_redshift(self, ds: xr.Dataset) -> xr.Dataset:
        """Return a product of the target that knows its redshift."""
        return ds if self.redshift is None else ds.assign_attrs(redshift=float(self.redshift))


@dataclass(frozen=True)
class Filed:
    """A product on disk."""

    path: Path
    role: str
    name: str
    key: str = ""  # of what made it


@dataclass(frozen=True)
class Group:
    """The exposures of a role and setting, and attributes that their files do not hold."""

    members: tuple[Any, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)


def raw_files(arguments: Mapping[str, Things]) -> list[Path]:
    """Return the files among what a piece is given that no piece of this run made."""
    found: list[Path] = []
    for one in (one for things in arguments.values() for thing in things
                for one in (thing.members if isinstance(thing, Group) else (thing,))):  # fmt: skip
        if isinstance(one, Exposure):
            found += [info.path for info in one.files]
        elif isinstance(one, Filed) and not one.key:
            found.append(one.path)
    return found


def together(things: Things) -> xr.Dataset:
    """Return things of one role and setting as one Dataset; raise where they cannot be joined."""
    if len(things) == 1 and isinstance(things[0], Group):
        attrs = dict(things[0].attrs)
        notes = attrs.pop("notes", ())
        return noted(together(things[0].members).assign_attrs(attrs), notes)
    if isinstance(things[0], xr.Dataset):
        (joined,) = one_a_setting(tree.gather({f"/{ds.attrs['setting']}/{k}": ds for k, ds in enumerate(things)}))
        return joined
    files = [info.path for one in things if isinstance(one, Exposure) for info in one.files]
    files += [one.path for one in things if isinstance(one, Filed)]
    ds, heard = _opened_once(tuple(things), *(file_stamp(path) for path in files))
    for text in heard:
        tell(text)
    return ds


@lru_cache(maxsize=2)  # cubes and spectra of both bands of a setting
def _opened_once(things: tuple[Any, ...], *_: tuple[int, int]) -> tuple[xr.Dataset, list[str]]:
    """Return exposures as one lazy Dataset, and what was told; the same again where nobody changed their files."""
    with listen(pass_on=True) as heard:
        exposures = [
            one if isinstance(one, Exposure) else Exposure((classify(one.path, one.role),), one.name) for one in things
        ]
        return open_planned(exposures).assign_attrs(background=int(things[0].role == BACKGROUND)), heard


def one_a_setting(nodes: Mapping[str, xr.Dataset]) -> list[xr.Dataset]:
    """Return nodes of one role and setting; raise where there are two, which could not be joined."""
    found = list(nodes.values())
    for other in found[1:]:
        odd = set(map(str, found[0].data_vars)) ^ set(map(str, other.data_vars))
        raise MrsxrError(
            f"{found[0].attrs['setting']}: two sets of exposures that cannot be joined ({tree.name_of(found[0])} and "
            f"{tree.name_of(other)} differ in {', '.join(sorted(odd)) or 'subarray'}); calibrate them alike"
        )
    return found


def opened(thing: Any) -> xr.Dataset:
    """Return a thing as a Dataset."""
    if isinstance(thing, Filed) and thing.path.name.endswith(MASKS):
        return read_netcdf(thing.path)
    return load_dataset(thing.path) if isinstance(thing, Filed) else thing


def with_wcs(things: Things, way: Way) -> xr.Dataset:
    """Return calibrated exposures with the polynomials behind their coordinates, which files of jwst lack."""
    ds = together(things)
    return ds if "alpha_coefficients" in ds or way.refs is None else add_wcs(ds, way.refs, way.recipe)


# --- exposures ---


def take(way: Way, *, exposure: Things) -> Made:
    """Take what is calibrated as far as it is wanted; raise where it cannot be opened."""
    together(exposure)
    return {"taken": list(exposure)}


def make_rate(way: Way, *, exposure: Things) -> Made:
    """Turn ramps into slopes, and those of the integrations where they are wanted."""
    ds, refs, recipe = together(exposure), way.references(), way.recipe
    kinds = ("rate", "rateints") if recipe.option("rate", "save_rateints") else ("rate",)
    fitted = alike.built(
        ds, refs, recipe, lambda: fit_slopes(correct_ramps(ds, refs, recipe), refs, recipe, len(kinds) > 1)
    )
    return {kind: [one] for kind, one in zip(kinds, fitted, strict=True)}


def make_mask(way: Way, *, exposures: Things) -> Made:
    """Find the pixels that are off in all exposures of a detector."""
    found = find_mask([together([one]) for one in exposures], way.recipe)
    return {} if found is None else {"mask": [found]}


def make_cal(
    way: Way, *, exposure: Things, sky: bool, background: Things = (), history: Things = (), mask: Things = (),
    required: str = "",
) -> Made:  # fmt: skip
    """Turn slopes into surface brightness; ``required`` names the setting whose background must be whole.

    Nothing is subtracted from ``sky`` pixel by pixel: their recipe lacks the step (:mod:`shares`).
    """
    ds, recipe = together(exposure), way.recipe
    sky_rate = together(background) if background else None
    if sky_rate is not None and required:
        sky_rate = way.arrivals.check(BACKGROUND, required, [getattr(one, "name", "") for one in background], sky_rate)
    found = calibrate(
        ds, way.references(), recipe, sky_rate, opened(mask[0]) if mask else None, [together([one]) for one in history]
    )
    return {"cal": [found]}


# --- several exposures ---


def join(way: Way, *, exposures: Things = (), of: tuple[str, str]) -> Made:
    """Bring the exposures of a role and setting together; raise where some are missing and that is not allowed.

    Those without a usable pixel are told, but of lazy data.
    """
    role, setting = of
    names = [getattr(one, "name", "") for one in exposures]
    if not names or not way.arrivals.allow_missing:
        way.arrivals.check(role, setting, names, xr.Dataset())
    if not names:
        raise MrsxrError(f"{role} {setting}: none of its exposures arrived")
    ds = together(exposures)
    checked = way.arrivals.check(role, setting, names, ds)
    checked = checked if way.lazy else check_usable(checked, f"{role} {setting}")
    return {"joined": [Group(tuple(exposures), _more_attrs(ds, checked))]}


def make_background(way: Way, *, exposures: Things, band: str, measured: bool) -> Made:
    """Build a cube of the background exposures of each field, and measure the background on it where that is wanted.

    It is measured on each exposure as well where that is what is subtracted.
    """
    ds, recipe = with_wcs(exposures, way), way.recipe
    cubes = cube_chain.background_cubes(ds, band, way.refs, recipe)
    if not measured:
        return {"background cube": cubes}
    cubes = cubes if way.lazy else computed(cubes)
    of_fields = zip(cubes, cube_chain.fields_of(ds), strict=True)
    found = [cube_chain.background_spectrum(one, part, way.refs, recipe) for one, part in of_fields]
    made = {"background cube": cubes, "background spectrum": found}
    if cube_chain.of_each_exposure(ds, recipe):
        made["exposure spectrum"] = cube_chain.background_spectra(ds, band, way.refs, recipe)
    return made


def combine_exposures(
    way: Way, *, science: Things, background: Things = (), spectra: Things = (), bands: Sequence[str],
    field: bool = False,
) -> Made:  # fmt: skip
    """Bring the exposures of a target into one frame and level: a Group a setting, by its name."""
    nodes = {str(ds.attrs["setting"]): (group, ds) for group in science for ds in [with_wcs([group], way)]}
    others = {str(ds.attrs["setting"]): ds for group in background for ds in [with_wcs([group], way)]}
    if field and background and not way.arrivals.allow_missing:  # what failed stands among the pieces
        nodes = {setting: node for setting, node in nodes.items() if setting in others}
    combined = combine(
        {setting: ds for setting, (_, ds) in nodes.items()}, way.recipe, refs=way.refs,
        spectra=[opened(one) for one in spectra], background=others, eager=not way.lazy, bands=bands,
    )  # fmt: skip
    made: Made = {}
    for setting, ds in combined.items():
        group, before = nodes[setting]
        same = all(v._data is before.variables[name]._data for name, v in ds.variables.items() if name not in ds.dims)
        keep = same and set(ds.variables) == set(before.variables)
        made[setting] = [Group(group.members, {**group.attrs, **_more_attrs(before, ds)}) if keep
                         else replace(group, members=(ds,))]  # fmt: skip
    return made


def _more_attrs(before: xr.Dataset, after: xr.Dataset) -> dict[str, Any]:
    """Return the attributes in which a Dataset differs from what it was."""
    return {k: v for k, v in after.attrs.items() if k not in before.attrs or before.attrs[k] is not v}


# --- bands ---


def make_cube(
    way: Way, *, exposures: Things, band: str, background: Things = (), expected: bool = False, leaking: Things = (),
) -> Made:  # fmt: skip
    """Build the cube of a band of the target; ``expected``: its background is to be off."""
    if expected and not background and not way.arrivals.allow_missing:
        raise MrsxrError(f"the background of band {band} failed; {ADVICE}")
    blue = opened(leaking[0]) if leaking else None
    built = cube_chain.make_target_cube(with_wcs(exposures, way), band, way.refs, way.recipe, blue)
    return {"cube": [way.with_redshift(built)]}


def make_joint_cube(way: Way, *, exposures: Things, joint: str, leaking: Things = ()) -> Made:
    """Build a cube of several bands of the target."""
    sources = [with_wcs([one], way) for one in exposures]
    blue = opened(leaking[0]) if leaking else None
    built = cube_chain.make_joint_cube(joint, sources, way.refs, way.recipe, blue)
    return {"joint cube": [way.with_redshift(built)]}


def match_cubes(way: Way, *, cubes: Things) -> Made:
    """Bring the cubes of single bands to one scale."""
    if len(cubes) < 2:
        raise MrsxrError("match_bands: the cube of one band alone was made; it has no neighbour to be matched to")
    given = [opened(one) for one in cubes]
    return {"matched cube": cube_chain.match_cubes(given, **way.recipe.values("match_bands"))}


def decide_source_type(way: Way, *, cubes: Things) -> Made:
    """Decide whether the target is a point: what is taken, and how that was found."""
    recipe, asked = way.recipe, way.recipe.values("extract_1d")
    decision: dict[str, Any] = {"asked": asked["source_type"]}
    looked_at = [opened(one) for one in cubes]
    kinds = source_types_of(looked_at, recipe, decision)
    if "POINT" in kinds and asked["aperture_correction"]:  # told once, not by each band
        spectrum_chain.require_aperture_correction(looked_at[0], way.refs)
    return {"decision": [decision | {"taken": list(kinds)}]}


def make_spectra(
    way: Way, *, cube: Things, decision: Things, exposures: Things = (), leaking: Things = (),
) -> Made:  # fmt: skip
    """Extract the spectra of a band, one of each type of source that was decided on; without the leak of 1B."""
    recipe, decided = way.recipe, dict(decision[0])
    kinds, built = decided.pop("taken"), opened(cube[0]).compute(**how())
    sources = with_wcs(exposures, way) if exposures else None
    band, made = str(built.attrs["band"]), []
    for number, kind in enumerate(kinds):
        found = spectrum_chain.make_spectrum(built, way.refs, recipe, kind, decision=decided, exposures=sources)
        found = way.with_redshift(found.compute(**how()))
        if leaking:
            parts = {"1B": opened(leaking[number]), band: found}
            found = spectrum_chain.correct_leak(parts, way.refs, recipe, "spectrum")[band]
        made.append(found)
    return {"spectrum": made}


def stitch(way: Way, *, spectra: Sequence[Things]) -> Made:
    """Join the spectra of all bands to one, of each type of source."""
    kinds: dict[str, list[xr.Dataset]] = {}
    for ds in map(opened, spectra):
        kinds.setdefault(str(ds.attrs["source_type"]), []).append(ds)
    return {"stitched": [spectrum.stitch_bands(parts, **way.recipe.values("stitch")) for parts in kinds.values()]}
