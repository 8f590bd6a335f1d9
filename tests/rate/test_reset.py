"""Step reset: stored results of jwst 3.0.0, later integrations, short references, NaN."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_step, make_ramp, make_reference, of_jwst

from mrsxr.errors import ReferenceFileError
from mrsxr.rate._dark_kernels import subtract
from mrsxr.rate.reset import subtract_reset


@pytest.fixture(scope="module")
def stored():
    return of_jwst("simple_steps")


def reference(values, bits=None, **attrs):
    bits = np.zeros(values.shape[-2:], "u4") if bits is None else bits
    return make_reference("reset", attrs=attrs, reset=(("integration", "group", "y", "x"), values), dq=bits)


def test_equals_jwst(stored):
    ref = reference(stored["reset_ref"], stored["reset_bits"])
    out = assert_step(subtract_reset, make_ramp(stored["sci"][None]), reset=ref)
    np.testing.assert_array_equal(out.sci[0], stored["reset_sci"])
    np.testing.assert_array_equal(out.pixel_dq[0], stored["reset_pixel_dq"])
    assert out.pixel_dq.values.any()


def test_a_later_integration_keeps_its_number(stored):
    ref = reference(stored["reset_ref"])
    ds = make_ramp(stored["sci"][None])
    alone = subtract_reset(ds.isel(integration=[1]), reset=ref)
    np.testing.assert_array_equal(alone.sci[:, 0], subtract_reset(ds, reset=ref).sci[:, 1])


@pytest.mark.parametrize("n_reset", [1, 4, 9])
def test_kernel_equals_the_obvious_version(n_reset):
    rng = np.random.default_rng(n_reset)
    sci, values = rng.normal(0, 9, (2, 3, 6, 5, 7)).astype("f4"), rng.normal(0, 9, (2, n_reset, 5, 7)).astype("f4")
    values[:, 0, 1, 1] = np.nan
    expected = sci.copy()
    for i in range(3):
        for g in range(min(6, n_reset)):
            expected[:, i, g] -= np.nan_to_num(values[min(i, 1), g])
    np.testing.assert_array_equal(subtract(sci, values, (0, 1, 1), False), expected)
    ds = subtract_reset(make_ramp(sci), reset=reference(values))
    np.testing.assert_array_equal(ds.sci, expected)


def test_refuses_another_readout_pattern():
    ds = make_ramp(np.ones((1, 1, 3, 4, 4), "f4"))
    with pytest.raises(ReferenceFileError, match=r"for the readout pattern SLOWR1, the exposure \(12A\) has FASTR1"):
        subtract_reset(ds, reset=reference(np.ones((1, 2, 4, 4), "f4"), readpatt="SLOWR1"))
