"""Pixel background, badpix_selfcal, pixel_replace and srctype beside jwst: parity, cost and truth.

Called by ``compare_jwst.py --stage 2``; alone: ``python benchmarks/stage2_pixels.py FOLDER JWST_PYTHON``. FOLDER holds
``made.json``, ``rate/`` and ``bgrate/`` (rate files of science and background) and ``sim/truth/``, as the comparison
of stage 2 makes them. The half that runs jwst is in the same file and imports nothing of this package.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

LIMIT, LIMIT_PROFILE = 1e-5, 2e-3
FAINT = 1.0  # DN/s


def run(folder: Path, jwst_python: str, table, *, profile: bool = True) -> None:
    """Compare all four steps on the files of one setting.

    Parameters
    ----------
    folder : path
        Folder of one setting.
    jwst_python : str
        Python of an environment with jwst.
    table : Table of compare_jwst.py
    profile : bool
        Also the algorithm "fit_profile", for which jwst takes a minute.
    """
    folder = Path(folder)
    out = folder / "pixels"
    facts = theirs(folder, out, jwst_python, profile)
    name = folder.name
    science, background = exposures(folder)
    if background is not None:
        compare_background(table, name, science, background, out, facts)
        compare_selfcal(table, name, science, background, out, facts)
        compare_truth(table, name, folder, science, background)
    compare_replace(table, name, folder, out, facts, profile)
    compare_srctype(table, name, science, background, facts)


def files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the rate files of science and background."""
    return sorted((folder / "rate").glob("*_rate.fits")), sorted((folder / "bgrate").glob("*_rate.fits"))


def exposures(folder: Path):
    """Return science and background (None where there is none), in memory."""
    from mrsxr.io import open_exposures

    return tuple(open_exposures(paths).load() if paths else None for paths in files(folder))


def timed(function, *args, **kwargs):
    """Return (result in memory, CPU seconds) of the second of two calls, which has nothing left to compile or load."""
    function(*args, **kwargs).compute()
    start = time.process_time()
    result = function(*args, **kwargs).compute()
    return result, time.process_time() - start


def cost(table, what: str, ours: float, their: float, most: float) -> None:
    """Add the CPU time of a step."""
    table.add(f"{what} CPU", f"{ours:.3f} s, jwst {their:.2f}: x {their / ours:.0f}", f"< {most:g} s", ours < most)


def compare_background(table, name, science, background, out: Path, facts: dict) -> None:
    """Compare the baseline with jwst and time both methods."""
    from mrsxr.cal.background import subtract_background

    one = science.isel(dither=[0])
    ours, seconds = timed(subtract_background, one, background=background)
    their = np.load(out / "background_sci.npy")
    known = np.isfinite(their) & (their != 0)
    table.share(f"{name} background", ours.rate[0].values, their, LIMIT, good=known)
    table.equal(f"{name} background DQ", ours.dq[0].values, np.load(out / "background_dq.npy"), 1.0)
    cost(table, f"{name} background", seconds, facts["cpu"]["background"], 0.1)
    _, seconds = timed(subtract_background, one, background=background, method="weighted")
    cost(table, f"{name} background weighted", seconds, facts["cpu"]["background"], 0.2)


def compare_selfcal(table, name, science, background, out: Path, facts: dict) -> None:
    """Compare the mask of the baseline with jwst's; tell how many pixels of the better one are truly off."""
    from mrsxr.cal.badpix_selfcal import self_calibrate_bad_pixels

    one = science.isel(dither=[0])
    others = [science.isel(dither=slice(1, None)), background] if science.sizes["dither"] > 1 else [background]
    ours, seconds = timed(self_calibrate_bad_pixels, one, others=others)
    table.equal(f"{name} selfcal DQ", ours.dq[0].values, np.load(out / "selfcal_dq.npy"), 1.0)
    sci = np.load(out / "selfcal_sci.npy")
    table.equal(f"{name} selfcal NaN pattern", np.isnan(ours.rate[0].values), np.isnan(sci), 1.0)
    cost(table, f"{name} selfcal", seconds, facts["cpu"]["selfcal"], 0.3)
    _, seconds = timed(self_calibrate_bad_pixels, one, others=others, method="significance")
    cost(table, f"{name} selfcal significance", seconds, facts["cpu"]["selfcal"], 0.5)


def compare_truth(table, name, folder: Path, science, background) -> None:
    """Hold the background subtraction and the flags of selfcal against the slopes that were put in."""
    from mrsxr.cal.background import combine, subtract_background
    from mrsxr.cal.badpix_selfcal import find_bad_pixels

    shifts = zero_points(folder, science), zero_points(folder, background)
    level, variance, _ = combine(background, method="weighted")
    truth = light_of(folder, background).mean(axis=0) + shifts[1].mean()
    report_pull(table, f"{name} weighted mean", level.values - truth, np.asarray(variance), truth)
    first, second = background.isel(dither=[0]), background.isel(dither=[1])
    ours = subtract_background(first, background=second, method="weighted")
    alone, both = error_planes(ours)
    light = light_of(folder, first)[0] - light_of(folder, second)[0] + shifts[1][0] - shifts[1][1]
    report_pull(table, f"{name} sky - sky", ours.rate.values[0] - light, both, light_of(folder, first)[0])
    ratio = float(np.nanmedian(both / np.where(alone > 0, alone, np.nan)))
    table.add(f"{name} variance of both, of one", f"{ratio:.4f}", "2 within 0.01", abs(ratio - 2) < 0.01)
    ours = subtract_background(science.isel(dither=[0]), background=background, method="weighted")
    left = ours.rate.values[0] - light_of(folder, science)[0] + light_of(folder, background).mean(axis=0)
    report_pull(table, f"{name} science - sky", left - shifts[0][0] + shifts[1].mean(), error_planes(ours)[1],
                light_of(folder, science)[0])  # fmt: skip
    report_zero_point(table, f"{name} science - sky", left, np.concatenate(shifts), background.sizes["dither"])
    sigma = np.sqrt(science.var_poisson + science.var_read).values
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.abs(science.rate.values - light_of(folder, science)) / sigma
    off = np.where(np.isfinite(off), off, 0).min(axis=0)
    for method, least in (("fraction", 0.0), ("significance", 0.9)):
        bad = find_bad_pixels([science, background], method=method).bad.values
        share = float((off[bad] > 4).mean()) if bad.any() else 1.0
        table.add(f"{name} selfcal {method}: truly off", f"{100 * share:.1f} % of {bad.sum()}", f">= {100 * least:g} %",
                  share >= least)  # fmt: skip


def zero_points(folder: Path, ds) -> np.ndarray:
    """Return by what the slopes of each exposure are off the truth as a whole [DN/s]: a drift left by stage 1."""
    variance = (ds.var_poisson + ds.var_read).values
    truth = light_of(folder, ds)
    return np.array([mean_offset(*planes)[0] for planes in zip(ds.rate.values - truth, variance, truth, strict=True)])


def mean_offset(left: np.ndarray, variance: np.ndarray, light: np.ndarray) -> tuple[float, float, float]:
    """Return mean [DN/s], its error and the width in errors of result - truth, of faint pixels within 5 errors.

    Each pixel counts alike: with the noise of its own photons, a pixel that is low by chance would weigh more.
    """
    good = np.isfinite(left) & (variance > 0) & (light < FAINT)
    good[:, :4] = good[:, 1028:] = False
    good[good] &= left[good] ** 2 < 25 * variance[good]
    values, square = left[good].astype(np.float64), variance[good].astype(np.float64)
    return float(values.mean()), float(np.sqrt(square.mean() / square.size)), float((values / np.sqrt(square)).std())


def error_planes(ds) -> tuple[np.ndarray, np.ndarray]:
    """Return the variance of the exposure alone and with that of its background."""
    alone = (ds.var_poisson + ds.var_read).values[0]
    return alone, alone + ds.var_background.values[0]


def report_pull(table, what: str, left: np.ndarray, variance: np.ndarray, light: np.ndarray) -> None:
    """Add the mean of result - truth over its error."""
    mean, error, width = mean_offset(left, variance, light)
    found = f"{mean / error:+.1f} ({mean:+.5f} DN/s), width {width:.3f}"
    table.add(f"{what}: mean over its error", found, "within 3, width 1 +- 0.03", abs(mean) < 3 * error and
              abs(width - 1) < 0.03)  # fmt: skip


def report_zero_point(table, what: str, left: np.ndarray, shifts: np.ndarray, n: int) -> None:
    """Add the offset of the whole frame from the truth against the scatter of the offsets of the exposures."""
    offset, error = float(np.nanmedian(left)), float(shifts.std(ddof=1) * np.sqrt(1 + 1 / n))
    table.add(f"{what}: whole frame", f"{offset:+.4f} +- {error:.4f} DN/s", "< 3 errors", abs(offset) < 3 * error)


def light_of(folder: Path, ds) -> np.ndarray:
    """Return the slopes that were put in [DN/s] (dither, y, x)."""
    import xarray as xr

    paths = [folder / "sim" / "truth" / f"{name}_slope.nc" for name in ds.exposure.values]
    return np.stack([xr.open_dataset(path).slope.values for path in paths])


def compare_replace(table, name, folder: Path, out: Path, facts: dict, profile: bool) -> None:
    """Compare what was filled in jwst's cal image: flux, variances and flags."""
    from mrsxr.cal import assign_wcs
    from mrsxr.cal.pixel_replace import replace_pixels
    from mrsxr.io import open_exposures
    from mrsxr.references import References

    refs = References(json.loads((folder / "made.json").read_text())["refs"])
    ds = open_exposures(out / "before_cal.fits")
    ds = assign_wcs(ds, **{kind: refs.get(kind, ds) for kind in ("distortion", "specwcs", "regions")}).load()
    for algorithm in ("mingrad", "fit_profile") if profile else ("mingrad",):
        ours, seconds = timed(replace_pixels, ds, method=algorithm)
        limit = LIMIT if algorithm == "mingrad" else LIMIT_PROFILE
        what = f"{name} {algorithm}"
        their = {
            k: np.load(out / f"{algorithm}_{k}.npy") for k in ("sci", "dq", "var_poisson", "var_rnoise", "var_flat")
        }
        filled = ((their["dq"] & ~ds.dq.values[0]) & (1 << 28)) != 0
        table.add(f"{what} pixels filled", f"{int(filled.sum())}", "> 0", filled.any())
        table.equal(f"{what} DQ", ours.dq[0].values, their["dq"], 1.0)
        table.equal(f"{what} NaN pattern", np.isnan(ours.flux[0].values), np.isnan(their["sci"]), 1.0)
        table.share(f"{what} flux", ours.flux[0].values, their["sci"], limit, good=filled)
        for v, k in (("var_poisson", "var_poisson"), ("var_read", "var_rnoise"), ("var_flat", "var_flat")):
            known = filled & np.isfinite(their[k]) & (their[k] > 0)
            if known.any():
                table.share(f"{what} {v}", ours[v][0].values, their[k], 2 * limit, good=known)
        cost(table, what, seconds, facts["cpu"][algorithm], 0.1 if algorithm == "mingrad" else 0.5)


def compare_srctype(table, name, science, background, facts: dict) -> None:
    """Compare the keyword SRCTYPE."""
    from mrsxr.cal.srctype import set_source_type

    for ds, what in ((science, "science"), (background, "background")):
        if ds is not None:
            found = set_source_type(ds.isel(dither=[0])).attrs["source_type"]
            table.add(f"{name} srctype of {what}", found, facts["srctype"][what], found == facts["srctype"][what])


def theirs(folder: Path, out: Path, jwst_python: str, profile: bool) -> dict:
    """Run the jwst half once and return what it tells."""
    told = out / "jwst.json"
    if not told.exists():
        out.mkdir(exist_ok=True)
        made = json.loads((folder / "made.json").read_text())
        env = {**os.environ, **{k: str(v) for k, v in made["crds"].items()}, "OMP_NUM_THREADS": "1"}
        env.pop("PYTHONPATH", None)
        command = [jwst_python, str(Path(__file__).resolve()), "jwst", str(folder), str(out), str(int(profile))]
        subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    return json.loads(told.read_text())


def jwst_half(folder: Path, out: Path, profile: bool) -> None:
    """Run the steps of jwst; needs its environment."""
    import logging
    import warnings

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    from jwst.assign_wcs import AssignWcsStep
    from jwst.background import BackgroundStep
    from jwst.badpix_selfcal import BadpixSelfcalStep
    from jwst.photom import PhotomStep
    from jwst.pixel_replace import PixelReplaceStep
    from jwst.srctype import SourceTypeStep
    from stdatamodels.jwst import datamodels as dm

    science, background = ([str(p) for p in paths] for paths in files(folder))
    cpu, kinds = {}, {}

    def clock(label, function, *args, **kwargs):
        start = time.process_time()
        result = function(*args, **kwargs)
        cpu[label] = time.process_time() - start
        return result

    if background:
        model = clock("background", BackgroundStep.call, dm.IFUImageModel(science[0]), background)
        np.save(out / "background_sci.npy", model.data)
        np.save(out / "background_dq.npy", model.dq)
        model = dm.IFUImageModel(science[0])
        model.meta.wcsinfo.dispersion_direction = 2
        model, _ = clock("selfcal", BadpixSelfcalStep.call, model, science[1:], background, skip=False)
        np.save(out / "selfcal_sci.npy", model.data)
        np.save(out / "selfcal_dq.npy", model.dq)
        kinds["background"] = SourceTypeStep.call(dm.IFUImageModel(background[0])).meta.target.source_type
    model = AssignWcsStep.call(dm.IFUImageModel(science[0]))
    kinds["science"] = SourceTypeStep.call(model).meta.target.source_type
    model = PhotomStep.call(model)
    model._instance.pop("extra_fits", None)  # what another program knew of the rate file
    model.save(str(out / "before_cal.fits"))
    for algorithm in ("mingrad", "fit_profile") if profile else ("mingrad",):
        result = clock(algorithm, PixelReplaceStep.call, model.copy(), algorithm=algorithm, skip=False)
        planes = {"sci": result.data, "dq": result.dq, "var_poisson": result.var_poisson}
        planes |= {"var_rnoise": result.var_rnoise, "var_flat": result.var_flat}
        for key, plane in planes.items():
            np.save(out / f"{algorithm}_{key}.npy", np.zeros(result.data.shape, "f4") if plane is None else plane)
    (out / "jwst.json").write_text(json.dumps({"cpu": cpu, "srctype": kinds}))


def main(folder: str, jwst_python: str) -> None:
    """Run by itself on the files of one setting."""
    from compare_jwst import Table

    table = Table()
    run(Path(folder), jwst_python, table)
    sys.exit(0 if all(row[-1] for row in table.rows) else 1)


if __name__ == "__main__":
    if sys.argv[1] == "jwst":
        jwst_half(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4] == "1")
    else:
        main(*sys.argv[1:])
