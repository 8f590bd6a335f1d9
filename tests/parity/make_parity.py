"""Run the jwst steps on small ramps and store what comes out; needs an environment with jwst, not part of the tests.

python tests/parity/make_parity.py        writes tests/parity/data/stage1_<case>.npz
"""

import logging
import warnings
from pathlib import Path

import numpy as np

OUT = Path(__file__).parent / "data"
CASES = {"single_pass": (2, 14, 11), "iterative": (2, 7, 12), "three_groups": (1, 4, 13)}
NY, NX = 24, 32


def make_inputs(n_int, n_group, seed):
    """Small ramps with everything that goes wrong: jumps, saturation, floor, NaN and dead reference values."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.6, 120.0, (NY, NX)).astype("f4")
    gain = rng.normal(4.0, 0.05, (NY, NX)).astype("f4")
    noise = rng.normal(8.0, 0.4, (NY, NX)).astype("f4")
    steps = rng.poisson(np.clip(rate * gain * 2.775, 0, None), (n_int, n_group, NY, NX)) / gain
    ramp = 9000 + np.cumsum(steps, axis=1) + rng.normal(0, noise / np.sqrt(2), steps.shape)
    for _ in range(260):
        i, g, y, x = (rng.integers(n) for n in ramp.shape)
        ramp[i, g:, y, x] += 10 ** rng.uniform(1.3, 4.3)
    ramp[:, 1:, 3, 5] = 65535
    ramp[:, :, 9, 9] = 65535
    ramp[0, :, 12, 20] = 65535
    ramp[:, 2, 15, 15] = 0
    data = np.clip(np.rint(ramp), 0, 65535).astype("f4")
    refs = {
        "mask": np.zeros((NY, NX), "u4"), "threshold": rng.normal(52000, 500, (NY, NX)).astype("f4"),
        "sat_dq": np.zeros((NY, NX), "u4"), "lin_dq": np.zeros((NY, NX), "u4"), "gain": gain, "read_noise": noise,
        "coefficients": np.stack([np.zeros((NY, NX)), np.ones((NY, NX)), rng.normal(1e-6, 1e-7, (NY, NX)),
                                  rng.normal(2e-12, 1e-13, (NY, NX))]).astype("f4"),
        "dark": np.cumsum(rng.normal(0.6, 0.1, (1, n_group - 2, NY, NX)), axis=1).astype("f4"),
        "dark_dq": np.zeros((NY, NX), "u4"),
    }  # fmt: skip
    refs["mask"][2, 2], refs["mask"][2, 3], refs["mask"][20, :4] = 1 | 1024, 2048, 2**31
    refs["threshold"][5, 5], refs["sat_dq"][6, 6] = np.nan, 2**21
    refs["coefficients"][2, 7, 7], refs["coefficients"][1, 8, 8], refs["lin_dq"][8, 9] = np.nan, 0, 2**20
    refs["gain"][10, 10], refs["gain"][10, 11] = np.nan, -1
    refs["dark"][0, 1, 11, 11], refs["dark_dq"][11, 12] = np.nan, 2**23
    return data, refs


def run(n_int, n_group, seed):
    """Return the arrays of one case: inputs, references and the product of every step."""
    from jwst.dark_current import DarkCurrentStep
    from jwst.dq_init import DQInitStep
    from jwst.jump import JumpStep
    from jwst.lastframe import LastFrameStep
    from jwst.linearity import LinearityStep
    from jwst.ramp_fitting import RampFitStep
    from jwst.saturation import SaturationStep
    from stdatamodels.jwst import datamodels as dm

    data, refs = make_inputs(n_int, n_group, seed)
    model = dm.RampModel(data=data.copy())
    describe(model)
    model.meta.exposure.ngroups, model.meta.exposure.nints = n_group, n_int
    models = {
        "mask": dm.MaskModel(dq=refs["mask"].copy()),
        "saturation": dm.SaturationModel(data=refs["threshold"].copy(), dq=refs["sat_dq"].copy()),
        "linearity": dm.LinearityModel(coeffs=refs["coefficients"].copy(), dq=refs["lin_dq"].copy()),
        "dark": dm.DarkMIRIModel(data=refs["dark"].copy(), dq=refs["dark_dq"][None, None].copy()),
        "gain": dm.GainModel(data=refs["gain"].copy()),
        "readnoise": dm.ReadnoiseModel(data=refs["read_noise"].copy()),
    }
    for ref in models.values():
        describe(ref)
    models["dark"].meta.exposure.average_dark_current = 0.2
    models["dark"].meta.exposure.ngroups = n_group - 2
    noise = {"override_gain": models["gain"], "override_readnoise": models["readnoise"]}
    chain = [
        ("dq_init", DQInitStep, {"override_mask": models["mask"]}),
        ("saturation", SaturationStep, {"override_saturation": models["saturation"]}),
        ("lastframe", LastFrameStep, {}),
        ("linearity", LinearityStep, {"override_linearity": models["linearity"]}),
        ("dark", DarkCurrentStep, {"override_dark": models["dark"]}),
        ("jump", JumpStep, noise),
    ]
    out = {f"ref_{k}": v for k, v in refs.items()} | {"input": data}
    for name, step, kw in chain:
        model = call(step, model, kw)
        out[f"{name}_group_dq"], out[f"{name}_pixel_dq"] = model.groupdq.copy(), model.pixeldq.copy()
        if name in ("linearity", "dark"):
            out[f"{name}_sci"] = model.data.copy()
    rate, ints = call(RampFitStep, model, noise)
    for label, m in (("rate", rate), ("rateints", ints)):
        for key in ("data", "err", "var_poisson", "var_rnoise", "dq"):
            out[f"{label}_{key}"] = np.asarray(getattr(m, key)).copy()
    return out


def call(step, model, overrides):
    """Run the body of a step with reference models given by hand: nobody is asked for files or parameters."""
    instance = step()
    instance.get_reference_file = lambda _model, kind: overrides.get(f"override_{kind}", "N/A")
    instance.prepare_output = lambda m, **_: m.copy()
    return instance.process(model)


def describe(model):
    """Set the keywords that the steps ask for."""
    from stdatamodels.jwst import datamodels as dm

    model.meta.instrument.name, model.meta.instrument.detector = "MIRI", "MIRIFUSHORT"
    model.meta.instrument.channel, model.meta.instrument.band = "12", "SHORT"
    model.meta.telescope = "JWST"
    model.meta.exposure.type, model.meta.exposure.readpatt = "MIR_MRS", "FASTR1"
    e = model.meta.exposure
    e.nframes, e.groupgap, e.group_time, e.frame_time = 1, 0, 2.77504, 2.77504
    e.integration_start, e.integration_end, e.sample_time, e.nsamples = 1, 2, 10.0, 1
    s = model.meta.subarray
    s.name, s.xstart, s.ystart, s.xsize, s.ysize, s.fastaxis, s.slowaxis = "FULL", 1, 1, NX, NY, 1, 2
    if isinstance(model, dm.RampModel):
        model.meta.observation.date, model.meta.observation.time = "2022-07-01", "00:00:00"


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    OUT.mkdir(exist_ok=True)
    import jwst

    for name, shape in CASES.items():
        np.savez_compressed(OUT / f"stage1_{name}.npz", jwst_version=jwst.__version__, **run(*shape))
        print(name, (OUT / f"stage1_{name}.npz").stat().st_size)
