"""The jwst half of compare_jwst.py; runs in an environment of its own and imports nothing of mrsxr.

python jwst_side.py steps  UNCAL OUT     every core step of stages 1 and 2 on one exposure, arrays saved as .npy
python jwst_side.py stage1 UNCAL OUT OPTIONS     all of stage 1 step by step; OPTIONS is JSON of extra branches
python jwst_side.py speed  UNCAL OUT OPTIONS     Detector1Pipeline, uncal file to rate file, twice, timed
python jwst_side.py spec2  RATE OUT OPTIONS      all of stage 2, every step saved; OPTIONS name background files
python jwst_side.py speed2 RATE OUT OPTIONS      Spec2Pipeline, rate file to cal file, timed, also with residual_fringe
python jwst_side.py spec3  OUT CAL...    Spec3Pipeline, cal files to cubes and spectra, timed
python jwst_side.py whole  OUT STAGE OPTIONS FILE...   a pipeline as users call it, each file by itself, stage 3 all
python jwst_side.py cal    OUT UNCAL...  core steps to cal files
python jwst_side.py cube   OUT CAL...    cube_build, one cube a band
python jwst_side.py trace  OUT CAL...    adaptive_trace_model with oversample 2, then cube_build
"""

import json
import logging
import sys
import time
import warnings
from pathlib import Path

import numpy as np
from _memory import memory_gb


def core_of_stage1():
    from jwst.dark_current import DarkCurrentStep
    from jwst.dq_init import DQInitStep
    from jwst.jump import JumpStep
    from jwst.lastframe import LastFrameStep
    from jwst.linearity import LinearityStep
    from jwst.ramp_fitting import RampFitStep
    from jwst.saturation import SaturationStep

    return [
        ("dq_init", DQInitStep),
        ("saturation", SaturationStep),
        ("lastframe", LastFrameStep),
        ("linearity", LinearityStep),
        ("dark", DarkCurrentStep),
        ("jump", JumpStep),
        ("ramp_fit", RampFitStep),
    ]


def stage1_steps(options):
    """All steps of Detector1Pipeline for MIRI in its order, as it runs them; ``call`` would run the skipped ones."""
    from jwst.pipeline import Detector1Pipeline

    names = ["group_scale", "dq_init", "emicorr", "saturation", "ipc", "firstframe", "lastframe", "reset", "linearity",
             "rscd", "dark_current", "refpix", "charge_migration", "jump"]  # fmt: skip
    pipeline = Detector1Pipeline()
    parameters = {"jump": options.get("jump", {}), "emicorr": options.get("emicorr", {})}
    chosen = [n for n in names if not getattr(pipeline, n).skip or parameters.get(n)]
    return [(n, Detector1Pipeline.step_defs[n], parameters.get(n, {})) for n in chosen]


def stage1(uncal, out, options):
    """Run stage 1 step by step; save what each step changed, rate, rateints and the branches asked for."""
    from jwst.ramp_fitting import RampFitStep
    from stdatamodels.jwst import datamodels as dm

    model = dm.RampModel(uncal)
    seconds, before = {}, {}
    for name, step, parameters in stage1_steps(options):
        start = time.process_time()
        model = step.call(model, **parameters)
        seconds[name] = time.process_time() - start
        for short, array in (("sci", model.data), ("group_dq", model.groupdq), ("pixel_dq", model.pixeldq)):
            digest = hash(np.asarray(array).tobytes())
            if before.get(short) != digest:
                np.save(out / f"{name}_{short}.npy", np.asarray(array))
            before[short] = digest
    keys = model.to_flat_dict()
    facts = {k: v for k, v in keys.items() if "rscd" in k or "skip" in k.lower()}
    for algorithm in ("OLS_C", *options.get("algorithms", ())):
        start = time.process_time()
        rate, rateints = RampFitStep.call(model.copy(), algorithm=algorithm)
        seconds[f"ramp_fit {algorithm}"] = time.process_time() - start
        _save_image(rate, f"rate_{algorithm}", out)
        if rateints is not None:
            _save_image(rateints, f"rateints_{algorithm}", out)
    return {"cpu_by_step": seconds, "facts": {k: str(v) for k, v in facts.items()}}


def stage2():
    from jwst.assign_wcs import AssignWcsStep
    from jwst.flatfield import FlatFieldStep
    from jwst.fringe import FringeStep
    from jwst.photom import PhotomStep

    return [("assign_wcs", AssignWcsStep), ("flat", FlatFieldStep), ("fringe", FringeStep), ("photom", PhotomStep)]


def steps(uncal, out):
    """Run the core steps; save what each changed."""
    from stdatamodels.jwst import datamodels as dm

    model = dm.RampModel(uncal)
    seconds = {}
    for name, step in core_of_stage1():
        start = time.process_time()
        result = step.call(model)
        seconds[name] = time.process_time() - start
        if name == "ramp_fit":
            model = result[0]
            break
        model = result
        if name in ("linearity", "dark"):
            np.save(out / f"{name}_sci.npy", model.data)
        if name in ("dq_init", "saturation", "lastframe", "jump"):
            np.save(out / f"{name}_group_dq.npy", model.groupdq)
        np.save(out / f"{name}_pixel_dq.npy", model.pixeldq)
    _save_image(model, "ramp_fit", out)
    for name, step in stage2():
        start = time.process_time()
        model = step.call(model)
        seconds[name] = time.process_time() - start
        _save_image(model, name, out)
        if name == "assign_wcs":
            _save_wcs(model, out)
    return {"cpu_by_step": seconds}


def _save_image(model, name, out):
    for ours, theirs in (("sci", "data"), ("dq", "dq"), ("err", "err"), ("var_poisson", "var_poisson"),
                         ("var_read", "var_rnoise"), ("var_flat", "var_flat")):  # fmt: skip
        value = getattr(model, theirs, None)
        if value is not None and np.size(value):
            np.save(out / f"{name}_{ours}.npy", np.asarray(value))


def _save_wcs(model, out):
    y, x = np.mgrid[:1024, :1032]
    alpha, beta, wave = model.meta.wcs.transform("detector", "alpha_beta", x, y)
    ra, dec, bary = model.meta.wcs(x, y)
    for name, value in (
        ("alpha", alpha),
        ("beta", beta),
        ("wavelength", wave),
        ("ra", ra),
        ("dec", dec),
        ("bary", bary),
    ):
        np.save(out / f"wcs_{name}.npy", value)


def speed(uncal, out, options):
    """Time stage 1 from uncal file to rate file, twice: with what the first run must load, and without."""
    from jwst.pipeline import Detector1Pipeline

    found = []
    for _ in range(2):
        wall, cpu = time.perf_counter(), time.process_time()
        Detector1Pipeline.call(uncal, steps={"jump": options.get("jump", {})}, output_dir=str(out), save_results=True)
        found.append({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak_gb": memory_gb()})
    return {**found[1], "first": found[0]}


def spec2(rate, out, options):
    """Run stage 2 step by step in jwst's order; save the image after every step."""
    from jwst.assign_wcs import AssignWcsStep
    from jwst.background import BackgroundStep
    from jwst.flatfield import FlatFieldStep
    from jwst.fringe import FringeStep
    from jwst.photom import PhotomStep
    from jwst.residual_fringe import ResidualFringeStep
    from jwst.srctype import SourceTypeStep
    from jwst.straylight import StraylightStep
    from stdatamodels.jwst import datamodels as dm

    model = dm.IFUImageModel(rate)
    seconds = {}
    chain = [("assign_wcs", AssignWcsStep), ("bkg_subtract", BackgroundStep), ("srctype", SourceTypeStep),
             ("straylight", StraylightStep), ("flat_field", FlatFieldStep), ("fringe", FringeStep),
             ("photom", PhotomStep), ("residual_fringe", ResidualFringeStep)]  # fmt: skip
    for name, step in chain:
        if (name == "bkg_subtract" and not options.get("background")) or (
            name == "residual_fringe" and not options.get("residual_fringe")
        ):
            continue
        start = time.process_time()
        rest = (options["background"],) if name == "bkg_subtract" else ()
        model = step.call(model, *rest, **({"skip": False} if name == "residual_fringe" else {}))
        seconds[name] = time.process_time() - start
        _save_image(model, name, out)
    _save_wcs(model, out)
    model.save(str(out / "theirs_cal.fits"))
    return {"cpu_by_step": seconds, "s_region": model.meta.wcsinfo.s_region, "srctype": model.meta.target.source_type}


def speed2(rate, out, options):
    """Time stage 2 from rate file to cal file; the first run loads what the others need."""
    from jwst.pipeline import Spec2Pipeline

    found = []
    for residual in (False, False, True):
        off = {"skip": True}
        steps = {"cube_build": off, "extract_1d": off, "residual_fringe": {"skip": not residual}}
        wall, cpu = time.perf_counter(), time.process_time()
        Spec2Pipeline.call(rate, steps=steps, output_dir=str(out), save_results=True)
        found.append({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "peak_gb": memory_gb()})
    return {**found[1], "first": found[0], "residual_fringe": found[2]}


def spec3(out, cals):
    """Time stage 3 from cal files to cubes and spectra of all bands."""
    from jwst.pipeline import Spec3Pipeline

    members = [{"expname": str(c), "exptype": "science"} for c in cals]
    asn = {
        "asn_type": "spec3", "asn_rule": "DMS_Level3_Base", "asn_id": "o004", "asn_pool": "none", "program": "02732",
        "target": "t004", "products": [{"name": "theirs", "members": members}],
    }  # fmt: skip
    path = out / "whole_asn.json"
    path.write_text(json.dumps(asn))
    wall, cpu = time.perf_counter(), time.process_time()
    Spec3Pipeline.call(str(path), output_dir=str(out), save_results=True)
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def whole(out, arguments):
    """Run the pipeline of a stage, files to files; OPTIONS is JSON of parameters of steps."""
    stage, options, *files = arguments
    steps = json.loads(options)
    if stage == "stage3":
        return spec3(out, files)
    from jwst.pipeline import Detector1Pipeline, Spec2Pipeline

    pipeline = {"stage1": Detector1Pipeline, "stage2": Spec2Pipeline}[stage]
    if stage == "stage2":
        steps = {"cube_build": {"skip": True}, "extract_1d": {"skip": True}, **steps}
    for path in files:
        pipeline.call(path, steps=steps, output_dir=str(out), save_results=True)
    return {}


def cal(out, uncals):
    """Make cal files by the core steps."""
    from stdatamodels.jwst import datamodels as dm

    for uncal in uncals:
        model = dm.RampModel(uncal)
        for name, step in [*core_of_stage1(), *stage2()]:
            model = step.call(model)
            if name == "ramp_fit":
                model = model[0]
        model.save(out / Path(uncal).name.replace("_uncal", "_cal"))
        model.close()
    return {}


def trace(out, cals):
    """Oversample cal files by adaptive_trace_model; build one cube a band from the results."""
    from jwst.adaptive_trace_model import AdaptiveTraceModelStep

    start, files = time.process_time(), []
    for path in cals:
        model = AdaptiveTraceModelStep.call(path, skip=False, oversample=2.0)
        files.append(str(out / Path(path).name.replace("_cal", "_finer_cal")))
        model.save(files[-1])
        model.close()
    seconds = time.process_time() - start
    return cube(out, files) | {"cpu_of_model": seconds}


def cube(out, cals):
    """Build one cube a band from cal files."""
    from jwst.cube_build import CubeBuildStep

    members = [{"expname": str(c), "exptype": "science"} for c in cals]
    asn = {
        "asn_type": "spec3", "asn_rule": "DMS_Level3_Base", "asn_id": "o004", "asn_pool": "none", "program": "02732",
        "target": "t004", "products": [{"name": "theirs", "members": members}],
    }  # fmt: skip
    path = out / "spec3_asn.json"
    path.write_text(json.dumps(asn))
    start = time.process_time()
    result = CubeBuildStep.call(str(path), output_type="band", output_dir=str(out))
    seconds = time.process_time() - start
    names = []
    for model in result:
        name = f"theirs_ch{model.meta.instrument.channel}-{model.meta.instrument.band.lower()}_s3d.fits"
        model.save(str(out / name))
        names.append(name)
    return {"cpu": seconds, "cubes": names}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    what = sys.argv[1]
    if what in ("steps", "stage1", "speed", "spec2", "speed2"):
        folder = Path(sys.argv[3])
        answer = globals()[what](sys.argv[2], folder, *(json.loads(text) for text in sys.argv[4:]))
    else:
        folder = Path(sys.argv[2])
        answer = globals()[what](folder, sys.argv[3:])
    answer["peak_gb"] = answer["first"]["peak_gb"] if "first" in answer else memory_gb()
    (folder / f"jwst_{what}.json").write_text(json.dumps(answer))
