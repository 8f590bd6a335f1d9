"""Steps of optimal that judge themselves, with small data where they gain and where they cannot; and those exempt."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import xarray as xr
from helpers import make_reference

import mrsxr as mx
from mrsxr.pipeline import Recipe
from mrsxr.pipeline.combine_chain import combine
from mrsxr.pipeline.cube_chain import make_target_cube

#: Parameters without a fit to the data: what they do is exact, or known to be a mistake of the baseline.
EXEMPT = {
    "rate.ramp_fit.judged": "asks the fit to judge itself",
    "cal.fringe.propagate_errors": "errors of the reference, as variances of their own; the light is the same",
    "cal.photom.propagate_errors": "errors of the reference, as variances of their own; the light is the same",
    "cube.master_background.like_jwst": "mistakes of the baseline: bands mixed, errors dropped, steps",
    "cube.spectral_leak": "fits nothing: the fraction of the reference file, which baseline takes off the spectra",
    "spectrum.extract_1d.like_jwst": "areas not sampled, no clipping by the plane, no extrapolation of corrections",
    "spectrum.exact_errors": "errors with the covariance of voxels; the light is the same",
}
#: (name of the score, what a recipe does to data where optimal gains, or cannot, and whether the step is left out where
#: it cannot: the baseline's takes light of lines).
JUDGED: dict[str, tuple[str, Callable[[Recipe, bool], xr.Dataset], bool]] = {}


def judged(what: str, score: str, left_out: bool = False):
    """Enter ``run(recipe, gains) -> Dataset`` for a step or a parameter of it, which writes ``score_<score>``."""

    def enter(run):
        JUDGED[what] = score, run, left_out
        return run

    return enter


@cache
def module(path):
    """Return a module of the repository, such as "benchmarks/_truth_rate.py"."""
    place = Path(__file__).parents[2] / path
    spec = importlib.util.spec_from_file_location(place.stem, place)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


RATE = "benchmarks/_truth_rate.py"


# --- ramp -> rate ----------------------------------------------------------------------------------------------------


@cache
def rate_references(n_y, n_group):
    truths, image = module(RATE), (n_y, 1032)
    one, bits = np.ones(image, "f4"), np.zeros(image, "u4")
    coefficients = np.stack([0 * one, one])
    dark = np.zeros((1, n_group, *image), "f4")
    return mx.References({
        "mask": make_reference("mask", dq=bits), "gain": make_reference("gain", gain=truths.GAIN * one),
        "readnoise": make_reference("readnoise", read_noise=np.float32(np.sqrt(2) * truths.READ) * one),
        "saturation": make_reference("saturation", threshold=6e4 * one, dq=bits),
        "linearity": make_reference("linearity", coefficients=(("order", "y", "x"), coefficients), dq=bits),
        "dark": make_reference("dark", dark=(("integration", "group", "y", "x"), dark), dq=bits),
        "emicorr": truths.emi_reference(),
    })  # fmt: skip


def rate_of(counts, recipe):
    """Return slopes of counts (integration, group, y, x)."""
    ds = module(RATE).dataset(counts).chunk(dither=1, y=20)
    return mx.make_rate(ds, rate_references(counts.shape[2], counts.shape[1]), recipe).compute()


@cache
def light(**scene):
    return module(RATE).light_ramps(n_y=24, n_x=1032, n_group=20, **scene)[0]


@judged("rate.emicorr", "emicorr")
def emicorr(recipe, gains):
    counts, _ = module(RATE).emi_ramps(n_group=12, n_y=40, n_x=1032, emi=1.5 if gains else 0.0, bend=0.1)
    return rate_of(counts, recipe)


@judged("rate.refpix.method", "refpix")
def refpix(recipe, gains):
    """Where nothing can be gained only the reference pixels drift."""
    truths = module(RATE)
    counts, _ = truths.outer_ramps(n_group=8, n_y=100, **({"drift": 4.0} if gains else {"own": 4.0}))
    whole = np.repeat(counts[..., 8:9], 1032, axis=-1)
    whole[..., truths.OUTER] = counts
    return rate_of(whole, recipe)


@judged("rate.jump.method", "jump")
def jump(recipe, gains):
    """Heavy tails of the noise are told by likelihood; slow noise without hits is not."""
    scene = {"noise": "laplace"} if gains else {"noise": "1/f", "hits": 0.0, "level": 0.5}
    return rate_of(light(**scene), recipe)


@judged("rate.ramp_fit.method", "ramp_fit")
def method(recipe, gains):
    """Ramps that bend differ from half to half by either fit."""
    recipe = recipe.set("ramp_fit", judged=True)
    return rate_of(light(level=1.0) if gains else light(level=100.0, bend=0.4), recipe)


@judged("rate.find_showers", "showers")
def showers(recipe, gains):
    made = module("tests/rate/test_showers.py")
    ds, references = made.made()
    ds = made.with_shower(ds, made.blob(peak=200.0)) if gains else ds
    return mx.rate.remove_showers(ds, **references) if recipe.runs("find_showers") else ds


# --- rate -> cal -> cube ---------------------------------------------------------------------------------------------


@judged("cal.straylight.method", "straylight")
def straylight(recipe, gains):
    made = module("tests/cal/test_straylight.py")
    share = made.matrix((0, 516)) + made.matrix((516, 1024))
    direct = made.scene(20.0) if gains else np.zeros((made.NY, made.NX))
    ds = made.with_slices(made.frames(made.noisy(direct, share, 1.5)[None]))
    return mx.cal.subtract_straylight(ds, mrsxartcorr=made.one_kernel(), **recipe.entry("straylight").given)


@judged("cal.residual_fringe", "residual_fringe")
def residual_fringe(recipe, gains):
    """Three periods at once whose phases drift, or noise alone."""
    made = module("tests/cal/test_residual_fringe.py")
    ds, _, clean = made.made()
    ds, _ = made.drifting(ds, clean, depth=1.0 if gains else 0.0)
    if not recipe.runs("cal.residual_fringe"):
        return ds
    given = recipe.entry("cal.residual_fringe").given
    return mx.cal.correct_residual_fringe(ds, fringefreq=made.fringefreq(), **given)


@cache
def even_sky():
    made, rng = module("benchmarks/_truth_backgrounds.py"), np.random.default_rng(3)
    ds = made.blank("12A", 2, rng, rows=96)
    return made.observed(ds, np.full(ds.flux.shape, 40.0), rng, read=1.5)


@judged("cube.match_backgrounds", "match_backgrounds")
def match_backgrounds(recipe, gains):
    ds = even_sky()
    level = np.array([0.0, 2.0 if gains else 0.0], "f4")[:, None, None]
    ds = ds.assign(flux=(ds.flux + level).assign_attrs(ds.flux.attrs))
    if not recipe.runs("match_backgrounds"):
        return ds
    return mx.cal.match_backgrounds(ds, match=mx.cal.fit_background_match(ds))


@judged("cube.outlier_detection.method", "outlier_detection")
def outliers(recipe, gains):
    """Hits of single exposures are told by the other; exposures of places apart tell nothing of each other."""
    made, rng = module("benchmarks/_truth_backgrounds.py"), np.random.default_rng(4)
    ds = made.blank("12A", 2, rng, rows=96)
    ds = made.observed(ds, np.full(ds.flux.shape, 40.0), rng, hits=0.004)
    if not gains:
        ds = ds.assign_coords(dec_ref=ds.dec_ref + xr.DataArray([0.0, 1 / 60], dims="dither"))
    return combine({"/science/12A": ds}, recipe.skipping("master_background"))["/science/12A"]


@judged("cube.trace_model", "trace_model")
def trace_model(recipe, gains):
    """A star on the detector, or a smooth sky as noisy."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "cube"))
    from test_cube_build import LIMITS
    from test_trace_model import PLACE, lopsided_star

    if recipe.runs("trace_model"):
        recipe = recipe.set("trace_model", source=PLACE)
    return make_target_cube(lopsided_star(1000.0 if gains else 0.0), "1A", None, recipe.set("cube_build", **LIMITS))


# --- cube -> spectrum ------------------------------------------------------------------------------------------------


def spectrum_of(cube, recipe, **changes):
    """Return the spectrum of a cube by a recipe, with changes of its extraction."""
    recipe = recipe.set("extract_1d", aperture_correction=False, **changes)
    return mx.make_spectra(cube, None, recipe)["/science/1B"].to_dataset()


def made_scene(kind, size):
    """Return a cube of tests/spectrum/scenes.py whose header says EXTENDED."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "spectrum"))
    from scenes import cube_of

    return cube_of(kind, size, 500, "1B", 4).assign_attrs(source_type="EXTENDED")


@judged("spectrum.extract_1d.source_type", "source_type")
def source_type(recipe, gains):
    """A point source whose header says EXTENDED; one that is a disc in every second window of wavelength."""
    point, disc = made_scene("point", 0.0), made_scene("disc", 3.0)
    flux = point.flux.values.copy()
    n = len(flux)
    if not gains:
        flux[n // 3 : 2 * n // 3] = disc.flux.values[n // 3 : 2 * n // 3]
    return spectrum_of(point.assign(flux=point.flux.copy(data=flux)), recipe.skipping("spectrum.residual_fringe"))


@judged("spectrum.extract_1d.centering", "centering")
def centering(recipe, gains):
    """A star of rings and wings; a single plane leaves none to judge it on."""
    cube = made_scene("point", 0.0).isel(wavelength=slice(0, 8 if gains else 1))
    return spectrum_of(cube, recipe.skipping("spectrum.residual_fringe"), source_type="POINT")


@judged("spectrum.residual_fringe.method", "residual_fringe", left_out=True)
def residual_fringe_1d(recipe, gains):
    """A fringe of 2 %, or noise alone: then nothing is taken off, where the fit of the baseline takes off noise."""
    rng, wave = np.random.default_rng(11), np.linspace(5.66, 6.63, 1213)
    even = made_scene("point", 0.0).isel(wavelength=slice(0, 2))
    light = np.cos(2 * np.pi * 1e4 / wave / 2.8) * (0.02 if gains else 0.0) + rng.normal(1.0, 0.003, wave.size)
    cube = even.isel(wavelength=np.zeros(wave.size, int))
    cube = cube.assign_coords(wavelength=("wavelength", wave, even.wavelength.attrs)).assign_attrs(even.attrs)
    flux = (cube.flux * xr.DataArray(light, dims="wavelength")).astype("f4").assign_attrs(even.flux.attrs)
    out = spectrum_of(cube.assign(flux=flux), recipe, source_type="POINT")
    return (
        out
        if not recipe.runs("spectrum.residual_fringe")
        else out.assign(flux=out.rf_flux.assign_attrs(out.flux.attrs))
    )
