"""Jump against stored results of stcal in many configurations, and what those do not reach."""

from __future__ import annotations

import ast

import numpy as np
import pytest
from helpers import assert_step, make_ramp, make_reference, of_jwst
from hypothesis import given, settings
from hypothesis import strategies as st

from mrsxr import dq
from mrsxr.errors import MrsxrError
from mrsxr.rate._jump_kernels import (
    CLIP_ALL,
    CLIP_INTEGRATIONS,
    ITERATIVE,
    SINGLE_PASS,
    SKIP,
    choose_mode,
    clip_sorted,
    dilate,
    merge,
)
from mrsxr.rate.jump import flag_jumps, lost_groups


def cases():
    stored = of_jwst("jump_cases")
    numbers = sorted({int(name.partition("_")[0]) for name in stored})
    return [{k.partition("_")[2]: v for k, v in stored.items() if k.startswith(f"{n}_")} for n in numbers]


CASES = cases()


def case_name(case):
    return f"{case['sci'].shape[0]}x{case['sci'].shape[1]} {case['options']}"


def prepared(case):
    ds = make_ramp(case["sci"][None])
    ds["group_dq"] = ds.group_dq.copy(data=case["group_dq"][None])
    references = {
        "gain": make_reference("gain", gain=case["gain"]),
        "readnoise": make_reference("readnoise", read_noise=case["noise"]),
    }
    return ds, references, ast.literal_eval(str(case["options"]))


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_equal_to_stcal(case):
    ds, references, options = prepared(case)
    for chunked in (ds, ds.chunk(y=2)):
        out = flag_jumps(chunked, **references, **options)
        np.testing.assert_array_equal(out.group_dq[0], case["out"])
        np.testing.assert_array_equal(out.pixel_dq[0], case["pixel_dq"])


def test_stored_cases_hold_every_way():
    options = [ast.literal_eval(str(case["options"])) for case in CASES]
    assert len(CASES) > 25
    assert sum("minimum_sigclip_groups" in o for o in options) >= 3
    assert sum("after_jump_flag_time1" in o for o in options) >= 3
    assert sum((case["out"] != case["group_dq"]).any() for case in CASES) >= 25


@pytest.mark.parametrize("number", [0, 9, 12, 21, 24, 26])
def test_promises_of_a_step(number):
    ds, references, options = prepared(CASES[number])
    assert_step(flag_jumps, ds, **references, **options)


def test_mode():
    assert choose_mode([40, 40]) == SINGLE_PASS
    assert choose_mode([11, 12]) == SINGLE_PASS
    assert choose_mode([10, 40]) == ITERATIVE
    assert choose_mode([40, 0]) == SKIP
    assert choose_mode([4, 4], minimum_groups=5) == SKIP
    assert choose_mode([2] * 100) == CLIP_INTEGRATIONS
    assert choose_mode([60, 40], only_use_ints=False) == CLIP_ALL
    assert choose_mode([60, 39], only_use_ints=False) == SINGLE_PASS


def slow_clip(values, limit):
    kept = values
    for _ in range(5):
        middle, width = np.median(kept), limit * np.std(kept)
        inside = (kept >= middle - width) & (kept <= middle + width)
        if inside.all():
            break
        kept = kept[inside]
    return kept


@given(seed=st.integers(0, 500), n=st.integers(1, 60), limit=st.floats(1.5, 5))
def test_clipping_against_numpy(seed, n, limit):
    rng = np.random.default_rng(seed)
    values = np.sort(rng.normal(0, 1, n) + 20 * (rng.random(n) < 0.1))
    first, last = clip_sorted(values.copy(), n, limit)
    np.testing.assert_array_equal(values[first:last], slow_clip(values, limit))


def noise(shape, gain=4.0, read_noise=8.0):
    return {
        "gain": make_reference("gain", gain=np.full(shape, gain, "f4")),
        "readnoise": make_reference("readnoise", read_noise=np.full(shape, read_noise, "f4")),
    }


@given(dn=st.integers(50, 400), groups=st.integers(0, 12), at=st.integers(1, 12), size=st.integers(20, 500))
@settings(max_examples=40)
def test_groups_after_a_jump(dn, groups, at, size):
    ds = make_ramp(np.full((1, 1, 13, 4, 5), 1000, "f4"))
    ds.sci[0, 0, at:, 2, 2] += np.float32(size)
    ds.group_dq[0, 0, 8, 2, 2] = dq.SATURATED
    out = flag_jumps(ds, **noise((4, 5)), flag_4_neighbors=False, after_jump_flag_dn1=dn - 0.5,
                     after_jump_flag_time1=2.77504 * groups + 0.1).group_dq.values[0, 0, :, 2, 2]  # fmt: skip
    found = size > 32 and at not in (8, 9)
    expected = [g for g in range(13) if g != 8 and found and (g == at or (size >= dn and at <= g <= at + groups))]
    assert np.nonzero(out & dq.JUMP_DET)[0].tolist() == expected


def test_lost_groups():
    ds = make_ramp(np.full((1, 2, 20, 80, 5), 1000, "f4"))
    ds.group_dq[0, 1, 4] = dq.DO_NOT_USE | dq.AD_FLOOR
    ds.group_dq[0, 0, 7, 1:] = dq.DO_NOT_USE
    asked = lost_groups(ds)  # three rows of this long exposure
    assert set(zip(*np.nonzero(asked[0].values), strict=True)) == {(1, 4), (0, 7)}
    whole = lost_groups(ds.isel(integration=slice(0, 1)))
    assert not whole.any()


def test_a_lost_integration_ends_the_search():
    ds = make_ramp(np.full((2, 2, 20, 6, 5), 1000, "f4"))
    ds.sci[:, 0, 9:, 3, 3] += np.float32(200)
    ds.group_dq[1, 1] = dq.DO_NOT_USE
    out = assert_step(flag_jumps, ds, **noise((6, 5))).group_dq.values
    assert out[0, 0, 9, 3, 3] == dq.JUMP_DET
    assert not (out[1] & dq.JUMP_DET).any()


def test_pathologies():
    ds = make_ramp(np.full((1, 2, 14, 6, 5), 1000, "f4"))
    ds.sci[:, :, 9:] += np.float32(500)
    shape = (6, 5)
    for broken in (
        ds.assign(sci=ds.sci * np.float32(np.nan)), ds.assign(group_dq=ds.group_dq | np.uint8(dq.SATURATED)),
    ):  # fmt: skip
        assert not (flag_jumps(broken, **noise(shape)).group_dq & dq.JUMP_DET).any()
    for gain in (0.0, np.nan):
        out = flag_jumps(ds, **noise(shape, gain=gain))
        assert not (out.group_dq & dq.JUMP_DET).any()
        assert (out.pixel_dq == dq.NO_GAIN_VALUE | dq.DO_NOT_USE).all()
    assert not (flag_jumps(ds, **noise(shape, read_noise=np.nan)).group_dq & dq.JUMP_DET).any()
    assert (flag_jumps(ds, **noise(shape)).group_dq.values[:, :, 9] == dq.JUMP_DET).all()
    short = ds.isel(group=slice(0, 2))
    assert not flag_jumps(short, **noise(shape)).group_dq.any()


def test_group_time_is_asked_for():
    ds = make_ramp(np.full((1, 1, 5, 4, 4), 1000, "f4")).assign_attrs(group_time=0.0)
    flag_jumps(ds, **noise((4, 4)))
    with pytest.raises(MrsxrError, match="group_time"):
        flag_jumps(ds, **noise((4, 4)), after_jump_flag_time1=10)


@pytest.mark.parametrize("shape", [(1, 1, 3, 4, 5), (2, 1, 2, 7, 11), (1, 1, 1, 1, 1), (1, 2, 3, 8, 8)])
def test_neighbours_and_their_flags(shape):
    rng = np.random.default_rng(7)
    flags, hit = rng.integers(0, 256, shape).astype(np.uint8), rng.random(shape) < 0.2
    wanted = hit.copy()
    for *plane, y, x in np.argwhere(hit):
        for b, a in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if 0 <= b < shape[-2] and 0 <= a < shape[-1]:
                wanted[(*plane, b, a)] = True
    np.testing.assert_array_equal(dilate(hit), wanted)
    for one in (flags, flags[..., ::-1]):
        used = one & 3 == 0
        np.testing.assert_array_equal(merge(one, wanted), np.where(used, one | 4 * wanted, one & 251))
