"""Run jwst's emicorr on small ramps and store what it subtracts; needs an environment with jwst, not part of the tests.

python tests/parity/make_emicorr_parity.py        writes tests/parity/emicorr_<case>.npz
"""

import logging
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np

OUT = Path(__file__).parent
STEP = (slice(None), slice(None, None, 3), slice(None, None, 5), slice(None, None, 3))  # samples that are stored
FULL = {"subarray": "FULL", "shape": (2, 12, 48, 64), "frequencies": {"Hz10": 10.039216}, "amplitude": 8.0}
SUB64 = {"subarray": "SUB64", "shape": (3, 12, 64, 64), "frequencies": {"Hz390": 390.625, "Hz218": 218.52055},
         "amplitude": 10.0}  # fmt: skip
SEPARATE = {"algorithm": "joint", "fit_ints_separately": True}
UNSCALED = {"algorithm": "sequential", "scale_reference": False, "use_n_cycles": None, "nbins": 60}
BY_HAND = {"algorithm": "sequential", "onthefly_corr_freq": [390.625], "nints_to_phase": 2}
JOINT = {"algorithm": "joint"}
CASES = {
    "full": (FULL, {"joint": JOINT, "joint_separate": SEPARATE}),
    "short": ({**FULL, "shape": (3, 4, 48, 64)}, {"joint": JOINT}),
    "slow": ({**FULL, "readpatt": "SLOWR1", "detector": "MIRIFULONG"}, {"joint": JOINT}),
    "sub64": (SUB64, {"joint": JOINT, "sequential": {"algorithm": "sequential"}, "sequential_unscaled": UNSCALED,
                      "sequential_by_hand": BY_HAND}),
}  # fmt: skip


def make_case(subarray, shape, frequencies, amplitude, readpatt="FASTR1", detector="MIRIFUSHORT"):
    """Return ramps [DN], pixel flags, waveforms and the branch of the subarray in the reference."""
    rng = np.random.default_rng(7)
    n_int, n_group, n_y, n_x = shape
    speed = readpatt[:4]
    rows = {"SUB64": 28, "FULL": 271 if speed == "FAST" else 2333}[subarray]
    frame = n_y * rows + (1024 - n_y) * 7
    samples = 9 if speed == "SLOW" else 1
    names = list(frequencies)
    case = {"rowclocks": rows, "frameclocks": frame, "freqs": {"FAST": names} if speed == "FAST" else
            {"SLOW": {detector: names}}}  # fmt: skip
    waves = {}
    for number, (name, frequency) in enumerate(frequencies.items()):
        n = 500 if frequency < 100 else round(0.5e5 / frequency)
        phase = 2 * np.pi * np.arange(n) / n
        waves[name] = (np.sin(phase) + 0.4 * np.cos(2 * phase + 1) + 0.15 * np.sin(3 * phase + number)).astype("f4")
    i, g, y, x = np.ogrid[:n_int, :n_group, :n_y, :n_x]
    clock = (i * (n_group + 1) + g) * frame + y * rows + x // 4 * samples
    ramp = 300 + rng.gamma(0.5, 4.0, (n_y, n_x)) * g + rng.normal(0, 4, shape)
    for name, frequency in frequencies.items():
        phase = (clock * frequency * 1e-5 + 0.37) % 1
        wave = waves[name]
        ramp += amplitude * np.interp(phase * len(wave) - 0.5, np.arange(len(wave)), wave, period=len(wave))
    for _ in range(100):
        where = [rng.integers(n) for n in shape]
        ramp[where[0], where[1] :, where[2], where[3]] += 10 ** rng.uniform(1.3, 3.5)
    flags = np.zeros((n_y, n_x), "u4")
    flags[rng.random((n_y, n_x)) < 0.03] = 1
    return np.clip(np.rint(ramp), 0, 65535).astype("u2"), flags, waves, case


def run(runs, subarray, readpatt="FASTR1", detector="MIRIFUSHORT", **more):
    """Return the arrays of one case: input, reference and what jwst subtracts at some samples in each run."""
    from jwst.emicorr.emicorr import apply_emicorr

    data, flags, waves, case = make_case(subarray, readpatt=readpatt, detector=detector, **more)
    name = f"FULL_{readpatt[:4]}" if subarray == "FULL" else subarray
    meta = SimpleNamespace(
        instrument=SimpleNamespace(detector=detector),
        subarray=SimpleNamespace(name=subarray, xsize=data.shape[3], xstart=1),
        exposure=SimpleNamespace(readpatt=readpatt, nsamples=9 if readpatt[:4] == "SLOW" else 1),
    )
    frequencies = {n: SimpleNamespace(frequency=more["frequencies"][n], phase_amplitudes=w) for n, w in waves.items()}
    freqs = SimpleNamespace(**{k: SimpleNamespace(**v) if isinstance(v, dict) else v for k, v in case["freqs"].items()})
    branch = SimpleNamespace(rowclocks=case["rowclocks"], frameclocks=case["frameclocks"], freqs=freqs)
    reference = SimpleNamespace(
        subarray_cases=SimpleNamespace(**{name: branch}), frequencies=SimpleNamespace(**frequencies)
    )
    out = {"data": data, "flags": flags, "case": name, "row_clocks": case["rowclocks"],
           "frame_clocks": case["frameclocks"]}  # fmt: skip
    for label, options in runs.items():
        model = SimpleNamespace(data=data.astype("f4"), pixeldq=flags.copy(), meta=meta)
        corrected = apply_emicorr(model, reference, **options).data
        out[f"correction_{label}"] = (data.astype("f8") - corrected)[STEP].astype("f4")
    return out | {f"wave_{n}": w for n, w in waves.items()}


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    import jwst

    for label, (settings, runs) in CASES.items():
        path = OUT / f"emicorr_{label}.npz"
        np.savez_compressed(path, jwst_version=jwst.__version__, **run(runs, **settings))
        print(label, path.stat().st_size)
