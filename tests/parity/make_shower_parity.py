"""Run stcal's jump and shower search on small ramps and store what comes out; needs an environment with jwst.

python tests/parity/make_shower_parity.py [jump.npz showers.npz] [number of random jump cases]

By default writes tests/parity/data/jump_cases.npz and shower_cases.npz; not part of the tests.
"""

import logging
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np

OUT = Path(__file__).parent / "data"
GROUP_TIME = 2.77504

#: (integrations, groups, what is lost, options); options under the names of jwst's jump step
JUMP_CASES = [
    (1, 3, "", {}), (1, 4, "", {}), (1, 5, "", {}), (1, 6, "", {}), (1, 10, "", {}), (1, 11, "", {}), (1, 40, "", {}),
    (2, 3, "", {}), (2, 4, "last", {}), (2, 5, "last", {}), (2, 6, "first last", {}), (2, 10, "last", {}),
    (2, 11, "last", {}), (2, 12, "last", {}), (2, 13, "first middle", {}), (2, 40, "last", {}),
    (5, 4, "", {}), (5, 5, "last", {}), (5, 11, "middle", {}), (2, 12, "integration", {}), (5, 3, "", {}),
    (2, 14, "last", {"after_jump_flag_dn1": 40.0, "after_jump_flag_time1": 6.0}),
    (2, 14, "", {"after_jump_flag_dn1": 40.0, "after_jump_flag_time1": 3.0, "after_jump_flag_dn2": 300.0,
                 "after_jump_flag_time2": 12.0}),
    (1, 6, "", {"after_jump_flag_dn1": 0.0, "after_jump_flag_time1": 90.0}),
    (6, 5, "", {"minimum_sigclip_groups": 6}), (9, 6, "last", {"minimum_sigclip_groups": 9}),
    (3, 30, "middle", {"minimum_sigclip_groups": 60, "only_use_ints": False}),
    (2, 20, "", {"minimum_sigclip_groups": 41, "only_use_ints": False}),
    (2, 9, "", {"min_diffs_single_pass": 6}), (2, 14, "", {"flag_4_neighbors": False}),
    (2, 14, "", {"rejection_threshold": 5.5, "min_jump_to_flag_neighbors": 7.0, "max_jump_to_flag_neighbors": 30.0}),
]  # fmt: skip
SHOWER_CASES = [
    (2, 9, {"extend_snr_threshold": 1.4}), (1, 12, {"extend_snr_threshold": 1.2, "time_masked_after_shower": 30.0}),
    (2, 7, {"extend_snr_threshold": 1.3, "extend_min_area": 50, "extend_inner_radius": 2.0, "extend_outer_radius": 3.0,
            "extend_ellipse_expand_ratio": 1.3, "max_extended_radius": 7}),
    (6, 5, {"extend_snr_threshold": 1.3, "minimum_sigclip_groups": 6}), (1, 7, {"extend_snr_threshold": 1.1}),
]  # fmt: skip
DEFAULTS = {
    "rejection_threshold": 4.0, "three_group_rejection_threshold": 6.0, "four_group_rejection_threshold": 5.0,
    "flag_4_neighbors": True, "max_jump_to_flag_neighbors": 1000.0, "min_jump_to_flag_neighbors": 10.0,
    "after_jump_flag_dn1": 0.0, "after_jump_flag_time1": 0.0, "after_jump_flag_dn2": 0.0, "after_jump_flag_time2": 0.0,
    "find_showers": False, "extend_snr_threshold": 1.2, "extend_min_area": 90, "extend_inner_radius": 1.0,
    "extend_outer_radius": 2.6, "extend_ellipse_expand_ratio": 1.1, "time_masked_after_shower": 15.0,
    "min_diffs_single_pass": 10, "max_extended_radius": 200, "minimum_groups": 3, "minimum_sigclip_groups": 100,
    "only_use_ints": True,
}  # fmt: skip


def make_ramps(rng, n_int, n_group, lost, shape):
    """Ramps with jumps, saturation, NaN, lost groups, dead gain and noise values."""
    n_y, n_x = shape
    rate = rng.gamma(0.6, 120.0, shape)
    gain, noise = rng.normal(4.0, 0.05, shape), rng.normal(8.0, 0.4, shape)
    steps = rng.poisson(rate * gain * GROUP_TIME, (n_int, n_group, *shape)) / gain
    data = 9000 + np.cumsum(steps, axis=1) + rng.normal(0, noise / np.sqrt(2), steps.shape)
    for _ in range(n_int * n_group * n_y * n_x // 60):
        i, g, y, x = (rng.integers(n) for n in data.shape)
        data[i, g:, y, x] += 10 ** rng.uniform(1.3, 4.3)
    group_dq = np.zeros(data.shape, "u1")
    for _ in range(n_y * n_x // 20):
        i, g, y, x = (rng.integers(n) for n in data.shape)
        group_dq[i, g:, y, x] |= 2
    for bits in (1, 65, 128, 32, 4):
        for _ in range(n_y * n_x // 30):
            group_dq[tuple(rng.integers(n) for n in data.shape)] |= bits
    for _ in range(4):
        data[tuple(rng.integers(n) for n in data.shape)] = np.nan
    for what, where in (("first", (slice(None), 0)), ("last", (slice(None), -1)), ("middle", (-1, n_group // 2)),
                        ("integration", (0,))):  # fmt: skip
        if what in lost:
            group_dq[where] |= 1
    for image, bad in ((gain, (np.nan, 0.0, -2.0)), (noise, (np.nan, 0.0))):
        for value in bad:
            image[rng.integers(n_y), rng.integers(n_x)] = value
    return data.astype("f4"), group_dq, gain.astype("f4"), noise.astype("f4")


def add_showers(rng, data, gain):
    """Add diffuse charge that falls in and fades within a few groups."""
    n_int, n_group, n_y, n_x = data.shape
    y, x = np.mgrid[:n_y, :n_x]
    for _ in range(3):
        i, g = rng.integers(n_int), rng.integers(1, max(2, n_group - 2))
        sy, sx, angle = rng.uniform(4, 7), rng.uniform(5, 12), rng.uniform(0, np.pi)
        dy, dx = y - rng.uniform(0, n_y), x - rng.uniform(0, n_x)
        u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        blob = rng.uniform(40, 150) * np.exp(-0.5 * ((u / sx) ** 2 + (v / sy) ** 2)) / np.nan_to_num(gain, nan=4.0)
        blob[~np.isfinite(blob)] = 0
        fade = np.cumsum(np.exp(-np.arange(n_group - g) / 1.5))
        data[i, g:] += (fade[:, None, None] * blob).astype("f4")


def run(data, group_dq, pixel_dq, gain, noise, options):
    """Return stcal's group and pixel flags, set up as jwst's jump step does."""
    from stcal.jump.jump import detect_jumps_data
    from stcal.jump.jump_class import JumpData
    from stdatamodels.jwst.datamodels import dqflags

    o = {**DEFAULTS, **options}
    exposure = SimpleNamespace(nframes=1)
    model = SimpleNamespace(data=data.copy(), groupdq=group_dq.copy(), pixeldq=pixel_dq.copy(),
                            meta=SimpleNamespace(exposure=exposure))  # fmt: skip
    jump = JumpData(model, gain.copy(), noise.copy(), dqflags.pixel)
    jump.set_detection_settings(o["rejection_threshold"], o["three_group_rejection_threshold"],
                                o["four_group_rejection_threshold"], o["max_jump_to_flag_neighbors"],
                                o["min_jump_to_flag_neighbors"], o["flag_4_neighbors"])  # fmt: skip
    jump.set_after_jump(o["after_jump_flag_dn1"], int(o["after_jump_flag_time1"] // GROUP_TIME),
                        o["after_jump_flag_dn2"], int(o["after_jump_flag_time2"] // GROUP_TIME))  # fmt: skip
    jump.set_snowball_info(False, 5.0, 1.0, 2.0, True, 2.5, 4, 25)
    jump.set_shower_info(o["find_showers"], o["extend_snr_threshold"], o["extend_min_area"], o["extend_inner_radius"],
                         o["extend_outer_radius"], o["extend_ellipse_expand_ratio"], o["min_diffs_single_pass"],
                         2 * o["max_extended_radius"])  # fmt: skip
    jump.set_sigma_clipping_info(o["minimum_groups"], o["minimum_sigclip_groups"], o["only_use_ints"])
    jump.max_cores = "1"
    jump.grps_masked_after_shower = int(o["time_masked_after_shower"] // GROUP_TIME)
    jump.max_shower_amplitude *= GROUP_TIME
    new_dq, new_pixel_dq, _, n_showers = detect_jumps_data(jump)
    return new_dq, new_pixel_dq, n_showers


def jump_cases(cases, shape, seed):
    out = {}
    for n, (n_int, n_group, lost, options) in enumerate(cases):
        data, group_dq, gain, noise = make_ramps(np.random.default_rng(seed + n), n_int, n_group, lost, shape)
        flags, pixel_dq, _ = run(data, group_dq, np.zeros(shape, "u4"), gain, noise, options)
        arrays = {"sci": data, "group_dq": group_dq, "gain": gain, "noise": noise, "out": flags, "pixel_dq": pixel_dq,
                  "options": np.array(repr(options))}  # fmt: skip
        out |= {f"{n}_{name}": value for name, value in arrays.items()}
    return out


def shower_cases(cases, shape, seed):
    out = {}
    for n, (n_int, n_group, options) in enumerate(cases):
        rng = np.random.default_rng(seed + n)
        data, group_dq, gain, noise = make_ramps(rng, n_int, n_group, "last", shape)
        add_showers(rng, data, gain)
        stored = np.where(np.isnan(data), 65535, np.clip(np.rint(data), 0, 65534)).astype("u2")  # 65535 stands for NaN
        data = np.where(stored == 65535, np.nan, stored).astype("f4")
        pixel_dq = np.zeros(shape, "u4")
        pixel_dq[:, :4] = pixel_dq[:, -4:] = 2**31
        pixel_dq[5, 9] = 1
        plain, new_pixel_dq, _ = run(data, group_dq, pixel_dq, gain, noise, options)
        flags, _, n_showers = run(data, group_dq, pixel_dq, gain, noise, {**options, "find_showers": True})
        print(f"case {n}: {n_showers} showers, {np.sum(flags != plain)} samples newly flagged")
        arrays = {"sci": stored, "gain": gain, "noise": noise, "pixel_dq": new_pixel_dq, "group_dq": plain,
                  "out": flags, "options": np.array(repr(options))}  # fmt: skip
        out |= {f"{n}_{name}": value for name, value in arrays.items()}
    return out


def random_cases(count):
    rng = np.random.default_rng(7)
    return [(int(rng.choice([1, 2, 5])), int(rng.choice([3, 4, 5, 6, 10, 11, 12, 14, 40])),
             str(rng.choice(["", "last", "first last", "middle", "integration last"], p=[0.3, 0.3, 0.2, 0.15, 0.05])),
             {"flag_4_neighbors": bool(rng.random() < 0.9), "after_jump_flag_dn1": float(rng.choice([0, 30, 100])),
              "after_jump_flag_time1": float(rng.choice([0, 0, 6, 40]))}) for _ in range(count)]  # fmt: skip


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    jump_path, shower_path = sys.argv[1:3] if len(sys.argv) > 2 else (OUT / "jump_cases.npz", OUT / "shower_cases.npz")
    cases = random_cases(int(sys.argv[3])) if len(sys.argv) > 3 else JUMP_CASES
    np.savez_compressed(jump_path, **jump_cases(cases, (5, 7), 100))
    np.savez_compressed(shower_path, **shower_cases(SHOWER_CASES, (26, 38), 375))
