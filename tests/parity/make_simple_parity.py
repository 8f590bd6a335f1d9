"""Run the short jwst steps on small ramps and store what comes out; needs an environment with jwst, not the tests.

python tests/parity/make_simple_parity.py        writes tests/parity/data/simple_steps.npz and simple_refpix.npz
"""

import logging
import warnings
from pathlib import Path

import numpy as np
from make_parity import describe

OUT = Path(__file__).parent / "data"
NY, NX = 18, 24
N_INT, N_GROUP = 3, 8
RSCD_CASES = {"long": (3, 8, 1, 4), "deep": (2, 12, 3, 6), "five": (2, 5, 2, 4), "four": (2, 4, 1, 4),
              "three": (2, 3, 1, 4), "two": (2, 2, 1, 4), "one_int": (1, 9, 4, 4), "nearly": (2, 6, 4, 5)}  # fmt: skip

RSCD_FACTS = ("ngroups_skip", "keep_groups_saturation", "keep_bright_firstgroup")


def ramps(n_int=N_INT, n_group=N_GROUP, seed=1):
    """Return counts and group flags with saturation from every group on and some DO_NOT_USE."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(0.5, 4000.0, (NY, NX))
    data = 9000 + rate * np.arange(1, n_group + 1)[:, None, None] + rng.normal(0, 5, (n_int, n_group, NY, NX))
    data[rng.integers(0, n_int, 20), :, rng.integers(0, NY, 20), rng.integers(0, NX, 20)] += 45000
    saturated = np.maximum.accumulate(data > 52000, axis=1)
    flags = saturated.astype("u1") * 2
    flags[:, -1] |= 1
    flags[:, :, 3, 4:7] |= 1
    flags[0, 1, 10, 10] |= 65
    return np.rint(np.clip(data, 0, 65535)).astype("f4"), flags


def model_of(data, flags):
    from stdatamodels.jwst import datamodels as dm

    model = dm.RampModel(data=data.copy(), groupdq=flags.copy(), pixeldq=np.zeros(data.shape[-2:], "u4"))
    describe(model)
    e = model.meta.exposure
    e.ngroups, e.nints, e.integration_start, e.integration_end = data.shape[1], data.shape[0], 1, data.shape[0]
    e.start_time, e.integration_time = 59760.0, 2.77504 * data.shape[1]
    model.meta.subarray.xsize, model.meta.subarray.ysize = data.shape[-1], data.shape[-2]
    return model


def run_rscd():
    from jwst.rscd import rscd_sub

    out = {}
    for name, (n_int, n_group, skip1, skip2) in RSCD_CASES.items():
        data, flags = ramps(n_int, n_group, seed=n_group)
        model = rscd_sub.correction_skip_groups(model_of(data, flags), skip1, skip2)
        out[f"rscd_{name}_case"] = np.array([skip1, skip2])
        out[f"rscd_{name}_input"], out[f"rscd_{name}_group_dq"] = flags, model.groupdq
        out[f"rscd_{name}_pixel_dq"] = model.pixeldq
        r = model.meta.rscd
        facts = [getattr(r, f"{what}_{part}") for part in ("int1", "int2p") for what in RSCD_FACTS]
        out[f"rscd_{name}_facts"] = np.array([-1 if f is None else int(f) for f in facts])
    return out


def run_reset(data, flags):
    from jwst.reset import reset_sub
    from stdatamodels.jwst import datamodels as dm

    rng = np.random.default_rng(2)
    values = rng.normal(0, 20, (2, 5, NY, NX)).astype("f4")
    values[0, 2, 4, 4], values[1, :, 5, 5] = np.nan, np.nan
    bits = np.zeros((NY, NX), "u4")
    bits[7, 7] = 2**22
    ref = dm.ResetModel(data=values.copy(), dq=bits.copy())
    ref.meta.exposure.nints, ref.meta.exposure.ngroups = values.shape[:2]
    model = reset_sub.do_correction(model_of(data, flags), ref)
    return {"reset_ref": values, "reset_bits": bits, "reset_sci": model.data, "reset_pixel_dq": model.pixeldq}


def run_flags(data, flags):
    """firstframe, charge migration and persistence."""
    from jwst.charge_migration.charge_migration import charge_migration
    from jwst.firstframe import firstframe_sub
    from jwst.persistence.persistence import DataSet

    out = {}
    for bright in (True, False):
        model = firstframe_sub.do_correction(model_of(data, flags), bright_use_group1=bright)
        out[f"firstframe_{bright}_group_dq"], out[f"firstframe_{bright}_pixel_dq"] = model.groupdq, model.pixeldq
    out["migration_group_dq"] = charge_migration(model_of(data, flags), 25000.0).groupdq
    for name, threshold, dnu in (("plain", None, False), ("threshold", 30000.0, True)):
        window = np.zeros((NY, NX))
        model, _ = DataSet(model_of(data, flags), None, 20, threshold, window, dnu).do_all()
        out[f"persistence_{name}_group_dq"] = model.groupdq
        out[f"persistence_{name}_end"] = np.where(window > 0, window / 86400 + 40587 - 59760, 0.0)
    return out


def run_ipc(data, flags):
    from jwst.ipc import ipc_corr
    from stdatamodels.jwst import datamodels as dm

    rng = np.random.default_rng(3)
    kernels = {
        "plain": np.array([[0.001, -0.02, 0.002], [-0.03, 1.1, -0.025], [0.003, -0.015, 0.0015]], "f4"),
        "wide": rng.normal(0, 0.01, (3, 5)).astype("f4"),
        "pixel": rng.normal(0, 0.01, (3, 3, NY, NX)).astype("f4"),
    }
    kernels["wide"][1, 2], kernels["pixel"][1, 1] = 1.05, 1.1
    out = {}
    for name, kernel in kernels.items():
        model = ipc_corr.ipc_correction(model_of(data[:1, :2], flags[:1, :2]), dm.IPCModel(data=kernel.copy()))
        out[f"ipc_{name}_kernel"], out[f"ipc_{name}_sci"] = kernel, model.data
    return out


def run_refpix():
    """A full frame, of which the reference columns and four columns beside them are stored."""
    from jwst.refpix import reference_pixels

    rng = np.random.default_rng(4)
    columns = np.r_[0:8, 1024:1032]
    data = np.zeros((2, 4, 1024, 1032), "f4")
    drift = rng.normal(0, 8, (2, 4, 2, 4))
    noise = rng.normal(0, 6, (2, 4, 1024, 16))
    ends = 9000 + noise + np.tile(drift[:, :, np.arange(1024) % 2], 4)
    ends[rng.integers(0, 2, 60), rng.integers(0, 4, 60), rng.integers(0, 1024, 60), rng.integers(0, 16, 60)] += 500
    data[..., columns] = np.rint(ends)
    flags = np.zeros(data.shape, "u1")
    model = model_of(data, flags)
    bad = np.zeros((1024, 1032), "u4")
    bad[100:180, 1], bad[::2, 1030][:400] = 1, 3
    model.pixeldq |= bad
    kernel = {"refpix_algorithm": "median", "sirs_kernel_model": None, "sigreject": 4.0, "gaussmooth": 1.0}
    kernel["halfwidth"] = 30
    out = {"input": data[..., columns].astype("i2"), "pixel_dq": bad[:, columns].astype("u1"), "columns": columns}
    for name, parity in (("parity", True), ("all_rows", False)):
        one = model.copy()
        reference_pixels.correct_model(one, False, False, 11, 1.0, parity, kernel, 3.0)
        out[name] = one.data[:, :, :24][..., columns]
    return out


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    import jwst

    counts, group_flags = ramps()
    steps = {"sci": counts, "group_dq": group_flags, **run_rscd(), **run_reset(counts, group_flags)}
    steps |= {**run_flags(counts, group_flags), **run_ipc(counts, group_flags)}
    for label, arrays in (("steps", steps), ("refpix", run_refpix())):
        path = OUT / f"simple_{label}.npz"
        np.savez_compressed(path, jwst_version=jwst.__version__, **arrays)
        print(path.name, path.stat().st_size)
