"""Run jwst's ramp fits on small awkward ramps and store what comes out; needs an environment with jwst.

python tests/parity/make_likelihood_parity.py                    writes tests/parity/data/ramp_fit.npz
python tests/parity/make_likelihood_parity.py --out FILE --n 50  writes 50 random cases more, for a wider search
"""

import argparse
import json
import logging
import warnings
from pathlib import Path

import numpy as np

OUT = Path(__file__).parent / "data" / "ramp_fit.npz"
NY, NX = 3, 37
#: n_int, n_group, algorithm and what is special; see make_inputs.
CASES = [
    {"n_int": 2, "n_group": 11},
    {"n_int": 1, "n_group": 3},
    {"n_int": 1, "n_group": 5},
    {"n_int": 3, "n_group": 5, "first_unusable": 1},
    {"n_int": 2, "n_group": 9, "lost_group": 4},
    {"n_int": 3, "n_group": 8, "lost_integration": 1},
    {"n_int": 2, "n_group": 10, "firstgroup": 3, "lastgroup": 7},
    {"n_int": 2, "n_group": 7, "suppress_one_group": False},
    {"n_int": 2, "n_group": 10, "first_unusable": 2, "chargeloss": True},
    {"n_int": 1, "n_group": 1},
    {"n_int": 2, "n_group": 2, "last_unusable": False},
    {"n_int": 2, "n_group": 11, "algorithm": "LIKELY"},
    {"n_int": 3, "n_group": 9, "algorithm": "LIKELY", "lost_group": 4},
    {"n_int": 1, "n_group": 6, "algorithm": "LIKELY", "first_unusable": 1},
    {"n_int": 1, "n_group": 4, "algorithm": "LIKELY"},
    {"n_int": 1, "n_group": 12, "algorithm": "LIKELY", "firstgroup": 2, "lastgroup": 9},
    {"n_int": 2, "n_group": 3, "algorithm": "LIKELY"},
]


def make_inputs(seed, case):
    """Ramps of all rates with jumps (flagged and not), saturation, single good groups, odd references."""
    rng = np.random.default_rng(seed)
    n_int, n_group = case["n_int"], case["n_group"]
    rate = (10 ** rng.uniform(-1, 3.3, (NY, NX))).astype("f4")
    gain = rng.normal(4.0, 0.05, (NY, NX)).astype("f4")
    noise = rng.normal(8.0, 0.4, (NY, NX)).astype("f4")
    steps = rng.poisson(rate * gain * 2.775, (n_int, n_group, NY, NX)) / gain
    data = 9000 + np.cumsum(steps, axis=1) + rng.normal(0, noise / np.sqrt(2), steps.shape)
    group_dq = np.zeros(data.shape, "u1")
    for number in range(40):
        i, g, y, x = (rng.integers(n) for n in data.shape)
        data[i, g:, y, x] += 10 ** rng.uniform(1.3, 4.3)
        if number % 2 and g > 0:
            group_dq[i, g, y, x] |= 4
    for number in range(36):
        i, g, y, x = (rng.integers(n) for n in data.shape)
        kind = number % 6
        if kind < 3:
            group_dq[i, g:, y, x] |= 2
            data[i, g:, y, x] = 60000
        elif kind == 3:
            group_dq[i, g, y, x] |= 1 | 64
            data[i, g, y, x] = 0
        elif kind == 4:
            group_dq[i, g, y, x] |= 32
        else:
            group_dq[:, :, y, x] |= 1
    group_dq[:, :, 0, 0] |= 2
    group_dq[:, 1:, 0, 1] |= 2
    group_dq[0, 1:, 0, 2] |= 2
    group_dq[0, :, 0, 3] |= 2
    group_dq[:, 2:, 0, 4] |= 2
    if case.get("chargeloss"):
        group_dq[:, 6:, 1, ::3] |= 1 | 128
    if n_group > 2 and case.get("last_unusable", True):
        group_dq[:, -1] |= 1
    group_dq[:, : case.get("first_unusable", 0)] |= 1
    if "lost_group" in case:
        group_dq[:, case["lost_group"]] |= 1
    if "lost_integration" in case:
        group_dq[case["lost_integration"]] |= 1
    group_dq[(group_dq & 3) > 0] &= 251
    pixel_dq = np.zeros((NY, NX), "u4")
    pixel_dq[2, 2], pixel_dq[2, 3], pixel_dq[2, 4] = 2048, 1, 2**31
    gain[2, 33], gain[2, 34] = np.nan, 0
    return {
        "data": np.rint(data).astype("f4"), "group_dq": group_dq, "pixel_dq": pixel_dq, "gain": gain,
        "read_noise": noise,
    }  # fmt: skip


def run(case, arrays):
    """Return the arrays of jwst's rate and rateints; empty where jwst refuses."""
    from jwst.ramp_fitting import RampFitStep
    from stdatamodels.jwst import datamodels as dm

    model = dm.RampModel(data=arrays["data"].copy(), groupdq=arrays["group_dq"].copy(),
                         pixeldq=arrays["pixel_dq"].copy())  # fmt: skip
    model.meta.instrument.name = "MIRI"
    model.meta.exposure.type = "MIR_MRS"
    e, s = model.meta.exposure, model.meta.subarray
    e.nframes, e.groupgap, e.group_time, e.frame_time = 1, 0, 2.77504, 2.77504
    e.ngroups, e.nints = case["n_group"], case["n_int"]
    model.average_dark_current = np.full((NY, NX), 0.2, "f4")
    refs = {"gain": dm.GainModel(data=arrays["gain"].copy()),
            "readnoise": dm.ReadnoiseModel(data=arrays["read_noise"].copy())}  # fmt: skip
    for m in (model, *refs.values()):
        s = m.meta.subarray
        s.xstart, s.ystart, s.xsize, s.ysize, s.name = 1, 1, NX, NY, "FULL"
        m.meta.instrument.detector = "MIRIFUSHORT"
    step = RampFitStep()
    step.get_reference_file = lambda _model, kind: refs[kind]
    step.prepare_output = lambda m, **_: m.copy()
    step.algorithm = case.get("algorithm", "OLS_C")
    step.suppress_one_group = case.get("suppress_one_group", True)
    step.firstgroup, step.lastgroup = case.get("firstgroup"), case.get("lastgroup")
    step.save_opt = step.algorithm == "LIKELY"
    kept = {}
    step.save_model = lambda m, suffix, **_: kept.update({suffix: m})
    rate, ints = step.process(model)
    out = {}
    if rate is None:
        return out
    for label, m in (("rate", rate), ("rateints", ints)):
        for key in ("data", "err", "var_poisson", "var_rnoise", "dq"):
            out[f"{label}_{key}"] = np.asarray(getattr(m, key)).copy()
    if "likely_chisq" in kept:
        out["rate_chisq"] = np.asarray(kept["likely_chisq"].data).copy()
    return out


def random_case(rng):
    """A configuration drawn by chance."""
    n_group = int(rng.integers(2, 16))
    case = {"n_int": int(rng.integers(1, 4)), "n_group": n_group, "suppress_one_group": bool(rng.random() < 0.7)}
    if rng.random() < 0.5:
        case["algorithm"] = "LIKELY"
    if n_group > 4 and rng.random() < 0.4:
        case["first_unusable"] = int(rng.integers(1, min(4, n_group - 3)))
    if n_group > 4 and rng.random() < 0.3:
        case["lost_group"] = int(rng.integers(1, n_group - 1))
    if case["n_int"] > 1 and rng.random() < 0.3:
        case["lost_integration"] = int(rng.integers(0, case["n_int"]))
    if rng.random() < 0.3:
        case["firstgroup"] = int(rng.integers(0, n_group))
    if rng.random() < 0.3:
        case["lastgroup"] = int(rng.integers(1, n_group + 1))
    if rng.random() < 0.2:
        case["last_unusable"] = False
    if rng.random() < 0.2 and n_group > 8:
        case["chargeloss"] = True
    return case


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--n", type=int, default=0)
    args = parser.parse_args()
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    import jwst

    rng = np.random.default_rng(99)
    cases = [random_case(rng) for _ in range(args.n)] or CASES
    out = {"jwst_version": jwst.__version__, "cases": json.dumps(cases)}
    for number, case in enumerate(cases):
        arrays = make_inputs(1000 + number, case)
        out |= {f"{number}_in_{k}": v for k, v in arrays.items()}
        out |= {f"{number}_out_{k}": v for k, v in run(case, arrays).items()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(args.out, **out)
    print(args.out, len(cases), args.out.stat().st_size)


if __name__ == "__main__":
    main()
