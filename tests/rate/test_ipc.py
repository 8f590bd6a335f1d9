"""Step ipc: stored results of jwst 3.0.0, blocks, subarrays and numbers that are not finite."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import assert_step, make_ramp, make_reference, of_jwst

from mrsxr import dq
from mrsxr.errors import ReferenceFileError
from mrsxr.rate.ipc import correct_ipc

KERNEL = np.array([[0.0, -0.02, 0.0], [-0.03, 1.1, -0.03], [0.0, -0.02, 0.0]], "f4")


def reference(kernel):
    dims = ("kernel_y", "kernel_x", "y", "x")[: kernel.ndim]
    return make_reference("ipc", kernel=(dims, kernel))


def spike(n_x=20, chunks=None, value=1000.0):
    sci = np.zeros((1, 1, 2, 12, n_x), "f4")
    sci[0, 0, 1, 5, 10] = value
    return make_ramp(sci, chunks)


@pytest.mark.parametrize("kind", ["plain", "wide", "pixel"])
def test_equals_jwst(kind):
    stored = of_jwst("simple_steps")
    ds = make_ramp(stored["sci"][None, :1, :2])
    out = assert_step(correct_ipc, ds, ipc=reference(stored[f"ipc_{kind}_kernel"]))
    np.testing.assert_allclose(out.sci[0], stored[f"ipc_{kind}_sci"], rtol=2e-6, atol=0.002)
    assert np.abs(out.sci - ds.sci).max() > 100


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("chunk", [1, 2, 5, 12])
def test_a_spike_becomes_the_kernel(wide, chunk):
    kernel = KERNEL.copy()
    kernel[0, 2], kernel[2, 1] = 0.5, 0.25
    given = np.broadcast_to(kernel[:, :, None, None], (3, 3, 12, 20)).copy() if wide else kernel
    out = correct_ipc(spike(chunks={"y": chunk}), ipc=reference(given)).sci.values[0, 0]
    assert not out[0].any()
    np.testing.assert_allclose(out[1, 4:7, 9:12], 1000 * kernel, rtol=1e-6)
    assert np.count_nonzero(out[1]) == np.count_nonzero(kernel)


def test_even_kernels_are_anchored_as_in_jwst():
    kernel = np.array([[1.0, 2.0], [3.0, 4.0]], "f4")
    out = correct_ipc(spike(), ipc=reference(kernel)).sci.values[0, 0, 1]
    np.testing.assert_allclose(out[5:7, 10:12], 1000 * kernel[:, :])


def test_reference_pixels_take_no_part():
    ds = make_ramp(np.full((1, 1, 1, 6, 1032), 100, "f4"))
    out = correct_ipc(ds, ipc=reference(KERNEL)).sci.values[0, 0, 0]
    assert (out[:, [0, 3, 1028, 1031]] == 100).all()
    np.testing.assert_allclose(out[2, 5:1027], 100, rtol=1e-6)
    np.testing.assert_allclose(out[2, [4, 1027]], 103, rtol=1e-6)
    np.testing.assert_allclose(out[[0, 5], 100], 102, rtol=1e-6)


def test_a_subarray_knows_its_place():
    ds = make_ramp(np.full((1, 1, 1, 6, 8), 100, "f4"))
    header = np.array([json.dumps({"SCI": {"SUBSTRT1": 1023}})])
    out = correct_ipc(ds.assign_coords(fits_header=("dither", header)), ipc=reference(KERNEL)).sci.values[0, 0, 0]
    np.testing.assert_allclose(out[2], [103, 100, 100, 100, 100, 103, 100, 100], rtol=1e-6)


def test_nan_does_not_spread_and_is_flagged():
    out = correct_ipc(spike(value=np.nan), ipc=reference(KERNEL)).sci.values[0, 0, 1]
    assert np.isnan(out).sum() == 1
    pixel = np.broadcast_to(KERNEL[:, :, None, None], (3, 3, 12, 20)).copy()
    pixel[0, 1, 5, 10] = np.nan
    bad = correct_ipc(spike(), ipc=reference(pixel))
    assert bad.sci[0, 0, 1, 5, 10] == 1000
    assert bad.pixel_dq.values[0, 5, 10] == dq.FLAGS["UNRELIABLE_SLOPE"]
    assert np.count_nonzero(bad.pixel_dq) == 1
    with pytest.raises(ReferenceFileError, match="not finite"):
        correct_ipc(spike(), ipc=reference(KERNEL * np.nan))
    with pytest.raises(ReferenceFileError, match="has 12 rows and 20 columns, the data 12 and 18"):
        correct_ipc(spike(18), ipc=reference(pixel))
