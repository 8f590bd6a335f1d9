"""Stage 1 beside jwst: every step on five kinds of exposure, the slopes against the truth, and the cost.

Called by ``compare_jwst.py --stage 1``. The exposures have a saturated core, cosmic rays, dead, hot and NaN pixels, a
lost group or a lost integration (zeros, as the archive delivers them), and reference files with NaN and zero values.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import dask
import numpy as np
from _memory import memory_gb
from astropy.io import fits

LIMIT_STEP, LIMIT_SLOPE = 1e-5, 1e-4
BRIGHTNESS = 40.0  # of the point source against the default scene: its core saturates within a ramp


@dataclass(frozen=True)
class Case:
    """One kind of exposure and the branches of jwst that are run on it."""

    setting: str
    n_integrations: int
    n_groups: int
    readpatt: str = "FASTR1"
    lost: tuple[tuple[int, int | None], ...] = ()  # (integration, group or None for all)
    algorithms: tuple[str, ...] = ()
    options: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Short name, also of the folder."""
        return f"{self.setting} {self.readpatt} {self.n_integrations}x{self.n_groups}"


CASES = (
    Case("12A", 2, 40, lost=((0, 17),), algorithms=("LIKELY",)),
    Case("34A", 2, 40, lost=((1, None),)),
    Case("12A", 1, 5, algorithms=("LIKELY",)),
    Case("34A", 2, 3),
    Case("34A", 1, 10, "SLOWR1"),
)


def make_case(case: Case, folder: Path) -> dict:
    """Simulate one exposure of a case, once, and spoil it and its reference files."""
    from mrsxr.simulate import Effects, Scene, simulate_observation

    facts = folder / "made.json"
    if facts.exists():
        return json.loads(facts.read_text())
    scene = Scene.default()
    source = scene.points[0]
    bright = replace(source, continuum=replace(source.continuum, flux=BRIGHTNESS * source.continuum.flux))
    made = simulate_observation(
        folder / "sim", bands=[case.setting], n_groups=case.n_groups, n_integrations=case.n_integrations,
        n_dithers=1, n_background=0, readpatt=case.readpatt, seed=11, scene=replace(scene, points=(bright,)),
        effects=Effects(emi=3.0),
    )  # fmt: skip
    spoil_exposure(made.uncal[0], case)
    for path in made.reference_folder.glob("miri*.fits"):
        spoil_reference(path)
    told = {"uncal": str(made.uncal[0]), "crds": made.crds, "refs": str(made.reference_folder),
            "truth": str(next(iter(made.slopes.values())))}  # fmt: skip
    facts.write_text(json.dumps(told))
    return told


def spoil_exposure(path: Path, case: Case) -> None:
    """Set lost groups and integrations to zero."""
    with fits.open(path, mode="update", uint=True) as file:
        for integration, group in case.lost:
            file["SCI"].data[integration, slice(None) if group is None else group] = 0


def spoil_reference(path: Path) -> None:
    """Give some pixels of a reference file NaN, zero or negative values."""
    values = {"gain": (np.nan, 0.0, -1.0), "readnoise": (np.nan, 0.0), "saturation": (np.nan,), "linearity": (np.nan,),
              "dark": (np.nan,), "reset": (np.nan,)}  # fmt: skip
    kind = path.name.split("_")[1].split(".")[0]
    rng = np.random.default_rng(len(kind))
    with fits.open(path, mode="update", memmap=True) as file:
        name = "COEFFS" if kind == "linearity" else "SCI"
        for value in values.get(kind, ()):
            y, x = rng.integers(0, 1024, 300), rng.integers(4, 1028, 300)
            file[name].data[..., y, x] = value


def run(args, table, jwst) -> None:
    """Compare all cases, then the truth and the cost."""
    from mrsxr.pipeline import Recipe

    parts = set(args.only)
    for case in CASES if "steps" in parts else ():
        compare_case(args, case, table, jwst, Recipe.of())
    if "showers" in parts:
        compare_showers(args, table, jwst)
    if "truth" in parts:
        from stage1_truth import compare_truth

        compare_truth(args, table, jwst)
    if "speed" in parts:
        compare_speed(args, table, jwst)
    if "many" in parts:
        many_exposures(args, table)


def theirs_of(args, case: Case, jwst) -> tuple[dict, Path]:
    """Return (what was made, folder of jwst's results), running jwst once."""
    folder = args.folder / case.name.replace(" ", "_")
    folder.mkdir(exist_ok=True)
    made = make_case(case, folder)
    out = folder / "steps"
    out.mkdir(exist_ok=True)
    if not (out / "jwst_stage1.json").exists():
        options = {"algorithms": case.algorithms, **case.options}
        jwst(args, made, "stage1", made["uncal"], out, json.dumps(options))
    return made, out


class Theirs:
    """Arrays of jwst after a step; what a step left alone is that of the step before."""

    def __init__(self, folder: Path):
        self.folder, self.last = folder, {}

    def after(self, step: str, name: str) -> np.ndarray:
        """Return ``sci``, ``group_dq`` or ``pixel_dq`` after a step."""
        path = self.folder / f"{step}_{name}.npy"
        if path.exists():
            self.last[name] = path
        return np.load(self.last[name], mmap_mode="r")

    def image(self, product: str, name: str) -> np.ndarray:
        """Return an image of a product, ``rate_OLS_C`` ..."""
        return np.load(self.folder / f"{product}_{name}.npy")


def compare_case(args, case: Case, table, jwst, recipe) -> None:
    """Compare every step of one case, each on our own result of the step before."""
    from mrsxr import rate
    from mrsxr.io import open_exposures
    from mrsxr.pipeline.rate_chain import ramp_steps
    from mrsxr.references import References

    made, out = theirs_of(args, case, jwst)
    theirs = Theirs(out)
    refs = References(made["refs"])
    ds = open_exposures(made["uncal"])
    print(f"--- {case.name}", flush=True)
    for name, step in ramp_steps(ds, refs, recipe):
        before = ds
        ds = step(ds).persist()
        if ds.sci is not before.sci:
            table.share(f"{name} SCI", ds.sci[0].values, theirs.after(name, "sci"), LIMIT_STEP)
        for ours, short in (("group_dq", "group_dq"), ("pixel_dq", "pixel_dq")):
            table.equal(f"{name} {ours}", ds[ours][0].values, theirs.after(name, short))
    noise = {k: refs.get(k, ds) for k in ("gain", "readnoise")}
    for algorithm, product in (("ols", "OLS_C"), ("likelihood", "LIKELY")):
        if product != "OLS_C" and product not in case.algorithms:
            continue
        fits_ = rate.fit_ramps_and_integrations(ds, **noise, method=algorithm)
        for level, fitted in zip(("rate", "rateints"), dask.compute(*fits_), strict=True):
            if (out / f"{level}_{product}_sci.npy").exists():
                compare_slopes(table, f"{level} {product}", fitted, theirs, f"{level}_{product}")


def compare_slopes(table, what: str, ours, theirs: Theirs, product: str) -> None:
    """Compare slopes, variances and flags; those of the likelihood fit on the scale of their error."""
    slope, error = theirs.image(product, "sci"), theirs.image(product, "err")
    dq, their_dq = ours.dq[0].values, theirs.image(product, "dq")
    known = np.isfinite(slope) | ("LIKELY" not in product)  # jwst's likelihood leaves many NaN without a flag
    table.equal(f"{what} DQ", dq[known], their_dq[known])
    table.equal(f"{what} NaN pattern", np.isnan(ours.rate[0].values), np.isnan(slope))
    good = np.isfinite(slope) & np.isfinite(ours.rate[0].values)
    if "LIKELY" in product:
        off = np.abs(ours.rate[0].values - slope)[good] / error[good]
        share = float(np.mean(off <= 0.01))
        table.add(f"{what} slope", f"{100 * share:.4f} % (max {off.max():.1e} sigma)", ">= 99.9 % in 0.01 sigma",
                  share >= 0.999)  # fmt: skip
    else:
        table.share(f"{what} slope", ours.rate[0].values, slope, LIMIT_SLOPE, good=good)
    for name in ("var_poisson", "var_read"):
        found, wanted = ours[name][0].values, theirs.image(product, name)
        limit = 1e-3 if "LIKELY" in product else LIMIT_SLOPE
        table.share(f"{what} {name}", found, wanted, limit, good=good & (wanted > 0))


def compare_showers(args, table, jwst) -> None:
    """Compare the flags of jump with find_showers on exposures with showers."""
    from stage1_truth import SHOWER_JUMP, make_truth

    from mrsxr.io import open_exposures
    from mrsxr.pipeline import Recipe
    from mrsxr.pipeline.rate_chain import correct_ramps
    from mrsxr.references import References

    for setting in ("12A", "34A"):
        folder = args.folder / f"truth_{setting}"
        folder.mkdir(exist_ok=True)
        made = make_truth(setting, folder).made
        out = folder / "jwst"
        out.mkdir(exist_ok=True)
        if not (out / "jwst_stage1.json").exists():
            jwst(args, made, "stage1", made["uncal"], out, json.dumps({"jump": SHOWER_JUMP}))
        recipe = Recipe.of().set("find_showers", extend_snr_threshold=1.4)
        flags = correct_ramps(open_exposures(made["uncal"]), References(made["refs"]), recipe).group_dq[0].values
        theirs = np.load(out / "jump_group_dq.npy")
        table.equal(f"{setting} jump with showers, group_dq", flags, theirs)
        jump = (theirs & 4) != 0
        agree = np.sum(jump & ((flags & 4) != 0)) / np.sum(jump | ((flags & 4) != 0))
        table.add(f"{setting} flagged by both, of those by either", f"{100 * agree:.2f} %", ">= 98 %", agree >= 0.98)


def compare_speed(args, table, jwst) -> None:
    """Time uncal file to rate file in fresh processes in turn.

    The second exposure of each process counts, which has nothing left to import or load; for memory the first.
    """
    from stage1_truth import make_truth

    made = make_truth("12A", args.folder / "truth_12A").made
    out = args.folder / "speed"
    out.mkdir(exist_ok=True)
    for what, jump, ours in (
        ("stage 1", {}, "baseline"),
        ("stage 1 with showers", {"find_showers": True, "extend_snr_threshold": 1.4}, "showers"),
    ):
        pairs = []
        for _ in range(args.repeat):
            jwst(args, made, "speed", made["uncal"], out, json.dumps({"jump": jump}))
            command = [sys.executable, __file__, made["uncal"], made["refs"], str(out), ours]
            subprocess.run(command, check=True)
            pairs.append([json.loads((out / f).read_text()) for f in ("jwst_speed.json", "mrsxr_speed.json")])
        for key, wanted in (("wall", 8.0), ("cpu", 4.0), ("peak_gb", 4.0)):
            first, second = (float(np.median([p[i][key] for p in pairs])) for i in (0, 1))
            ratio = float(np.median([p[0][key] / p[1][key] for p in pairs]))
            table.add(f"{what}: {key}", f"{second:.2f}, jwst {first:.2f}: x {ratio:.1f}", f">= x {wanted:g}",
                      ratio >= wanted)  # fmt: skip
        if not jump:
            peak = float(np.median([p[1]["peak_gb"] for p in pairs]))
            table.add("peak memory", f"{peak:.2f} GB", "< 0.5 GB", peak < 0.5)
        one = pairs[-1]
        walls = [side["first"]["wall"] for side in (one[1], one[0])]
        print(
            f"  first exposure of a process: {walls[0]:.2f} s wall, jwst {walls[1]:.2f}; import {one[1]['import']:.2f}"
        )


def ours_speed(uncal: str, refs: str, out: str, what: str) -> None:
    """Our half of the speed comparison, in a process of its own."""
    start = time.perf_counter()
    import mrsxr as mx
    from mrsxr.pipeline import Recipe

    imported = time.perf_counter() - start
    recipe = Recipe.of()
    if what == "showers":
        recipe = recipe.set("find_showers", extend_snr_threshold=1.4)
    references = mx.References(refs)
    found = []
    for _ in range(2):
        wall, cpu = time.perf_counter(), time.process_time()
        with dask.config.set(scheduler="threads", num_workers=2):
            mx.save(mx.make_rate(mx.open_exposures(uncal), references, recipe).compute(), out)
        found.append({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak_gb": memory_gb()})
    answer = {**found[1], "first": found[0], "import": imported, "peak_gb": found[0]["peak_gb"]}
    (Path(out) / "mrsxr_speed.json").write_text(json.dumps(answer))


def many_exposures(args, table, count: int = 36) -> None:
    """Reduce one exposure 36 times in one process: time of each and growth of memory."""
    from stage1_truth import make_truth

    import mrsxr as mx

    made = make_truth("12A", args.folder / "truth_12A").made
    refs = mx.References(made["refs"])
    seconds, size = [], []
    for _ in range(count):
        start = time.perf_counter()
        with dask.config.set(scheduler="threads", num_workers=2):
            mx.save(mx.make_rate(mx.open_exposures(made["uncal"]), refs).compute(), args.folder / "speed")
        seconds.append(time.perf_counter() - start)
        size.append(memory_gb(key="VmRSS"))
    worst, typical = max(seconds[1:]), float(np.median(seconds))
    table.add("36 exposures: wall of each", f"{typical:.2f} s, worst {worst:.2f}", "< 3 s", worst < 3)
    growth = size[-1] - size[4]
    table.add("36 exposures: memory growth 5th to last", f"{1e3 * growth:+.0f} MB of {size[-1]:.2f} GB", "< 50 MB",
              growth < 0.05)  # fmt: skip


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    ours_speed(*sys.argv[1:])
