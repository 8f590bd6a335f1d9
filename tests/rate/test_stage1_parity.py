"""The core of stage 1 against stored results of jwst 3.0.0 (tests/parity/make_parity.py)."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import make_ramp, make_reference, of_jwst

from mrsxr import dq, rate
from mrsxr.errors import MrsxrWarning

CASES = ["single_pass", "iterative", "three_groups"]


def references(stored, chunks=None):
    r = {k.removeprefix("ref_"): v for k, v in stored.items() if k.startswith("ref_")}
    cube = ("order", "y", "x")
    return {
        "mask": make_reference("mask", chunks, dq=r["mask"]),
        "saturation": make_reference("saturation", chunks, threshold=r["threshold"], dq=r["sat_dq"]),
        "linearity": make_reference("linearity", chunks, coefficients=(cube, r["coefficients"]), dq=r["lin_dq"]),
        "dark": make_reference("dark", chunks, {"average_dark_current": 0.2},
                               dark=(("integration", "group", "y", "x"), r["dark"]), dq=r["dark_dq"]),
        "gain": make_reference("gain", chunks, gain=r["gain"]),
        "readnoise": make_reference("readnoise", chunks, read_noise=r["read_noise"]),
    }  # fmt: skip


def run(stored, chunks=None):
    """Return the Dataset after each step of the chain."""
    refs = references(stored, chunks)
    noise = {"gain": refs["gain"], "readnoise": refs["readnoise"]}
    out = {}
    ds = make_ramp(stored["input"][None], chunks)
    out["dq_init"] = ds = rate.flag_bad_pixels(ds, mask=refs["mask"])
    out["saturation"] = ds = rate.flag_saturation(ds, saturation=refs["saturation"])
    out["lastframe"] = ds = rate.flag_last_frame(ds)
    out["linearity"] = ds = rate.correct_linearity(ds, linearity=refs["linearity"])
    with pytest.warns(MrsxrWarning, match="continued with its last difference"):
        out["dark"] = ds = rate.subtract_dark(ds, dark=refs["dark"])
    out["jump"] = ds = rate.flag_jumps(ds, **noise)
    out["rate"] = rate.fit_ramps(ds, **noise)
    from mrsxr.rate.ramp_fit import fit_integrations

    out["rateints"] = fit_integrations(ds, **noise)
    return out


@pytest.fixture(params=CASES)
def stored(request):
    return of_jwst(f"stage1_{request.param}")


@pytest.mark.parametrize("chunks", [None, {"y": 7}])
def test_every_step_equals_jwst(stored, chunks):
    out = run(stored, chunks)
    for name in ("dq_init", "saturation", "lastframe", "linearity", "dark", "jump"):
        np.testing.assert_array_equal(out[name].group_dq[0], stored[f"{name}_group_dq"], err_msg=name)
        np.testing.assert_array_equal(out[name].pixel_dq[0], stored[f"{name}_pixel_dq"], err_msg=name)
    for name in ("linearity", "dark"):
        ours, theirs = out[name].sci[0].values, stored[f"{name}_sci"]
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=0.01, err_msg=name)
    assert (stored["jump_group_dq"] & dq.JUMP_DET).any()


@pytest.mark.parametrize("label", ["rate", "rateints"])
def test_slopes_equal_jwst(stored, label):
    ours = run(stored)[label]
    np.testing.assert_array_equal(ours.dq[0], stored[f"{label}_dq"])
    for name, theirs in (("rate", "data"), ("var_poisson", "var_poisson"), ("var_read", "var_rnoise")):
        np.testing.assert_allclose(ours[name][0], stored[f"{label}_{theirs}"], rtol=2e-5, atol=2e-5, err_msg=name)
