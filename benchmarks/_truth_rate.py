"""Stage 1 on ramps that the package's simulator did not make: plain numpy with other noise, and a test rig's ramps.

Every step of the optimal mode that judges itself is run as the baseline has it, without its judge ("before": the
optimal mode as it was) and with it. The noise of the reference columns, twice that of the pixels under light in the
same rows, is what the ramps of the test rig show.
"""

import numpy as np
import xarray as xr

from mrsxr import dq, rate, schema
from mrsxr.references.table_readers import read_emicorr

GAIN, READ, GROUP_TIME = 5.5, 4.0, 2.77504  # electron/DN; DN of one read; s
ROW, FRAME, HZ10 = 271, 277504, 10.039216  # clocks of 10 us of a row and a frame in FAST; Hz
OUTER = np.r_[0:8, 500:508, 1024:1032]  # columns
REAL = "data/detector/MIRI_5582_89_S_20180308-010230_SCE1.fits.gz"


def dataset(sci, x=None, flags=None):
    """Return counts (integration, group, y, x) [DN] as a ramp Dataset of one dither."""
    ramp = ("dither", "integration", "group", "y", "x")
    n_int, n_group, n_y, n_x = sci.shape
    coords = {"dither": [1], "integration": np.arange(1, n_int + 1), "group": np.arange(1, n_group + 1),
              "y": np.arange(n_y), "x": np.arange(n_x) if x is None else x}  # fmt: skip
    for spec in schema.DITHER_COORDS:
        value = "{}" if spec.name == "fits_header" else "made" if spec.name == "exposure" else np.nan
        coords[spec.name] = ("dither", [value], {"units": spec.units} if spec.units else {})
    attrs = {
        "level": "ramp", "setting": "12A", "detector": "MIRIFUSHORT", "channels": "12", "band": "SHORT",
        "readpatt": "FASTR1", "subarray": "FULL", "group_time": GROUP_TIME, "frame_time": GROUP_TIME,
        "n_groups": n_group, "n_integrations": n_int, "target": "made", "program": "0", "background": 0,
        "history_json": "[]", "Conventions": "mrsxr-1",
    }  # fmt: skip
    flags = np.zeros(sci.shape, np.uint8) if flags is None else flags
    return xr.Dataset(
        {
            "sci": (ramp, sci.astype(np.float32)[None], {"units": "DN"}),
            "group_dq": (ramp, flags[None], dq.GROUP_DQ_ATTRS),
            "pixel_dq": (("dither", "y", "x"), np.zeros((1, n_y, n_x), np.uint32), dq.PIXEL_DQ_ATTRS),
        },
        coords=coords, attrs=attrs,
    )  # fmt: skip


def reference(kind, **arrays):
    """Return a reference Dataset of images (y, x) or (dims, values)."""
    values = {name: v if isinstance(v, tuple) else (("y", "x"), v) for name, v in arrays.items()}
    return xr.Dataset(values, attrs={"level": "reference", "kind": kind, "ref_id": "made"})


def sky(rng, n_y, n_x, level):
    """Return spectra of slices [DN/s]: light in strips of columns, wavy along the rows, with a line."""
    y, x = np.arange(n_y)[:, None], np.arange(n_x)
    strips = np.exp(-0.5 * ((x % 24 - 12) / 3.0) ** 2)
    spectrum = 1 + 0.5 * np.sin(y / 9.0) + 3 * np.exp(-0.5 * ((y - n_y // 2) / 2.0) ** 2)
    return 0.2 * level + level * strips * spectrum


# --- EMI -------------------------------------------------------------------------------------------------------------

EMI_SCENES = {
    "no EMI": {}, "no EMI, bent ramps": {"bend": 0.3}, "no EMI, noise of rows": {"rows": 2.0},
    "no EMI, rows drift": {"drift": 0.3}, "0.1 DN": {"emi": 0.1}, "1 DN": {"emi": 1.0},
    "0.5 DN, bent ramps": {"emi": 0.5, "bend": 0.3}, "3 DN of 218 Hz": {"emi": 3.0, "frequency": 218.52},
    "2 DN, stronger to one side": {"emi": 2.0, "side": True},
    "3 DN, new phase every integration": {"emi": 3.0, "n_int": 4},
}  # fmt: skip


def emi_ramps(n_int=1, n_group=20, n_y=128, n_x=256, emi=0.0, frequency=HZ10, bend=0.0, rows=0.0, drift=0.0, side=False,
              seed=0):  # fmt: skip
    """Return (counts, wave) (integration, group, y, x) [DN]; ``bend``: share that is lost of 50 000 DN."""
    rng = np.random.default_rng(seed)
    shape = (n_int, n_group, n_y, n_x)
    ramp = sky(rng, n_y, n_x, 100.0) * GROUP_TIME * np.arange(n_group)[:, None, None]
    clean = 9000.0 + rng.normal(0, 60, (n_y, n_x)) + ramp - bend * ramp**2 / 50000.0 + rng.normal(0, READ, shape)
    clean += np.cumsum(rng.normal(0, 2.0, shape[:2]), axis=1)[..., None, None]
    clean += rng.normal(0, rows, shape[:3])[..., None]
    clean += np.cumsum(rng.normal(0, drift, shape[:3]).reshape(n_int, -1), axis=1).reshape(*shape[:3], 1)
    for _ in range(100):
        i, g, y, x = (rng.integers(n) for n in shape)
        clean[i, g:, y, x] += 10 ** rng.uniform(1.5, 4)
    i, g, y, x = np.ogrid[:n_int, :n_group, :n_y, :n_x]
    clock = (i * (n_group + 1) + g) * FRAME + y * ROW + x // 4
    phase = np.zeros((n_int, 1, 1, 1)) if n_int < 4 else rng.uniform(0, 1, (n_int, 1, 1, 1))
    wave = emi * np.sin(2 * np.pi * (clock * frequency * 1e-5 + phase)) * (np.linspace(0, 2, n_x) if side else 1.0)
    return clean + wave, wave


def emi_reference():
    """Return the reference of a sine of 10 Hz."""
    wave = np.sin(2 * np.pi * (np.arange(500) + 0.5) / 500)
    tree = {
        "frequencies": {"Hz10": {"frequency": HZ10, "phase_amplitudes": wave}},
        "subarray_cases": {"FULL_FAST": {"rowclocks": ROW, "frameclocks": FRAME, "freqs": {"FAST": ["Hz10"]}}},
    }
    made = {name: (one.dims, one.values) for name, one in read_emicorr(tree, "made")[0].variables.items()}
    return reference("emicorr", **made)


def slope_error(left):
    """Rms of the slopes [DN/s] of what is left in ramps (integration, group, y, x)."""
    t = GROUP_TIME * (np.arange(left.shape[1]) - 0.5 * (left.shape[1] - 1))
    return float(np.einsum("igyx,g->iyx", left, t).std() / (t @ t))


#: Slope errors of the optimal mode before it judged itself [DN/s].
EMI_BEFORE = {
    "no EMI": 9.4e-5, "no EMI, bent ramps": 1.1e-3, "no EMI, noise of rows": 6.5e-4, "no EMI, rows drift": 9.2e-4,
    "0.1 DN": 5.4e-5, "1 DN": 5.7e-5, "0.5 DN, bent ramps": 8.9e-4, "3 DN of 218 Hz": 1.2e-2,
    "2 DN, stronger to one side": 9.3e-3, "3 DN, new phase every integration": 2.2e-2,
}  # fmt: skip


def compare_emi(table):
    """Slopes are not worse than without correction."""
    for name, scene in EMI_SCENES.items():
        counts, wave = emi_ramps(**scene)
        out = rate.correct_emi(dataset(counts), emicorr=emi_reference(), method="harmonics")
        none, left = slope_error(wave), slope_error(out.sci.values[0] - (counts - wave).astype(np.float32))
        told = f"{left:.1e} (score {float(out.score_emicorr[0]):.3f})"
        table.add(f"emicorr, {name}: slope error [DN/s]", told, "<= baseline", left <= none + 1e-5,
                  baseline=f"{none:.1e}", before=f"{EMI_BEFORE[name]:.1e}")  # fmt: skip


# --- reference pixels ------------------------------------------------------------------------------------------------

REFPIX_SCENES = {
    "nothing drifts": {}, "4 DN drift": {"drift": 4.0}, "4 DN drift of the reference pixels alone": {"own": 4.0},
    "4 DN noise of their rows alone": {"own_rows": 4.0},
    "rows 2.4 DN, twice in them (as the rig)": {"rows": 2.4, "share": 2.0},
    "2 DN drift, 2.5 times in them": {"drift": 2.0, "share": 2.5},
    "2 DN drift, 1.5 times in them": {"drift": 2.0, "share": 1.5},
    "2 DN drift, 5 groups": {"drift": 2.0, "n_group": 5}, "2 DN drift, bright": {"drift": 2.0, "level": 500.0},
}  # fmt: skip
#: Error left [DN] by the optimal mode before it judged itself.
REFPIX_BEFORE = (0.26, 0.62, 2.76, 1.56, 3.36, 2.54, 0.63, 0.57, 0.74)


def outer_ramps(n_int=1, n_group=20, n_y=1024, drift=0.0, own=0.0, own_rows=0.0, rows=0.0, share=1.0, level=10.0,
                seed=0):  # fmt: skip
    """Return (counts, what the electronics add) (integration, group, y, column of OUTER) [DN].

    ``share``: how much more drift and noise of rows the reference pixels have than the others; ``own``: what only they
    have.
    """
    rng = np.random.default_rng(seed)
    y, shape = np.arange(n_y), (n_int, n_group, n_y)
    blind = (OUTER < 4) | (OUTER >= 1028)

    def wave(size):
        return size * np.sin(2 * np.pi * y / 150.0 + rng.uniform(0, 6, shape[:2])[..., None])[..., None]

    slopes = level * np.exp(rng.normal(0, 1, (n_y, OUTER.size))) * ~blind
    light = np.cumsum(rng.poisson(np.broadcast_to(slopes * GROUP_TIME * GAIN, (*shape, OUTER.size))), axis=1) / GAIN
    offset = rng.normal(0, 8, (n_int, n_group, 2, 4))[:, :, y % 2][..., OUTER % 4]
    shared = (wave(drift) + rng.normal(0, rows, shape)[..., None]) * np.where(blind, share, 1.0)
    alone = (wave(own) + rng.normal(0, own_rows, shape)[..., None]) * blind
    added = offset + shared + alone
    return 9000.0 + light + added + rng.normal(0, 6.0, light.shape), added - added[:, :1]


def compare_refpix(table):
    """What is left in pixels under light is not more than with the constant."""
    for (name, scene), before in zip(REFPIX_SCENES.items(), REFPIX_BEFORE, strict=True):
        counts, added = outer_ramps(**scene)
        ds = dataset(counts, OUTER)
        left = {}
        for method in ("constant", "smooth"):
            out = rate.subtract_reference_pixels(ds, method=method)
            left[method] = float(((ds.sci - out.sci).values[0] - added)[..., 8:16].std())
        table.add(f"refpix, {name}: error left [DN]", f"{left['smooth']:.2f} (score {float(out.score_refpix[0]):.3f})",
                  "<= baseline", left["smooth"] <= left["constant"] + 1e-6, baseline=f"{left['constant']:.2f}",
                  before=f"{before:.2f}")  # fmt: skip


# --- jumps and slopes ------------------------------------------------------------------------------------------------

SLOPE_SCENES = {
    "white noise, 0.3 DN/s": {"level": 0.3}, "white noise, 5 DN/s, 2 integrations": {"level": 5.0, "n_int": 2},
    "white noise, 100 DN/s": {"level": 100.0}, "no hits": {"level": 5.0, "hits": 0.0},
    "10 groups": {"level": 5.0, "n_group": 10}, "5 groups x 4": {"level": 5.0, "n_group": 5, "n_int": 4},
    "heavy tails": {"noise": "laplace"}, "1/f noise": {"noise": "1/f"}, "noise of rows": {"noise": "rows"},
    "10 % of pixels flicker": {"noise": "flicker"},
    "30 % of 50 000 DN lost, not linearised": {"level": 100.0, "bend": 0.3},
    "saturating": {"level": 200.0, "full": 20000.0},
}  # fmt: skip


def light_ramps(
    level=2.0, n_int=1, n_group=40, n_y=32, n_x=516, hits=1e-4, noise="white", bend=0.0, full=np.inf, seed=0
):
    """Return (counts, flags) (integration, group, y, x) and the true slope (y, x) [DN/s]; hits [1/s] of a pixel."""
    rng = np.random.default_rng(seed)
    shape = (n_int, n_group, n_y, n_x)
    truth = level * np.exp(rng.normal(0, 1, (n_y, n_x)))
    light = np.cumsum(rng.poisson(np.broadcast_to(truth * GROUP_TIME * GAIN, shape)), axis=1) / GAIN
    struck = rng.random(shape) < hits * GROUP_TIME
    light += np.cumsum(np.where(struck, 10 ** rng.uniform(1.3, 4.3, shape) / GAIN, 0.0), axis=1)
    light -= bend * light**2 / 50000.0
    flags = np.zeros(shape, np.uint8)
    flags[:, [0, -1]] = dq.DO_NOT_USE
    flags[np.maximum.accumulate(light > full, axis=1)] |= dq.SATURATED
    return 10000.0 + light + read_noise(rng, shape, noise), flags, truth


def read_noise(rng, shape, kind):
    """Return noise of READ DN and some kind."""
    white = rng.normal(0, READ, shape)
    if kind == "laplace":
        return rng.laplace(0, READ / np.sqrt(2), shape)
    if kind == "1/f":
        frequency = np.fft.rfftfreq(shape[1])
        scale = 1 / np.sqrt(np.maximum(frequency, frequency[1]))
        pink = np.fft.irfft(np.fft.rfft(white, axis=1) * scale[:, None, None], shape[1], axis=1)
        return 0.8 * white + 0.6 * READ * pink / pink.std()
    if kind == "rows":
        return 0.7 * (white + rng.normal(0, READ, shape[:3])[..., None])
    if kind == "flicker":
        state = np.cumsum(rng.random(shape) < 0.05, axis=1) % 2
        return white + 15.0 * state * (rng.random(shape[2:]) < 0.1)
    return white


def describe(ramps, slopes, truth):
    """Return (loss of each pixel against the true slope, text: bias, std of pulls, flagged groups)."""
    error = np.sqrt(slopes.var_poisson + slopes.var_read).values[0].astype(float)
    use = ((slopes.dq.values[0] & 1) == 0) & (error > 0)
    pull = np.where(use, (slopes.rate.values[0] - truth) / np.where(use, error, 1.0), np.nan)
    loss = 2 * np.log(np.where(use, error, 1.0)) + np.minimum(pull**2, 25.0)
    near = use & (np.abs(pull) < 5)
    bias = float((slopes.rate.values[0] - truth)[near].mean() / max(np.abs(truth[near]).mean(), 1e-9))
    jumps = float(((ramps.group_dq.values & dq.JUMP_DET) > 0).mean())
    told = f"bias {100 * bias:+.2f} %, pulls {pull[near].std():.3f}, jumps {100 * jumps:.3f} %"
    return np.where(use, loss, np.nan), told if np.abs(truth).max() > 0 else told.partition(", ")[2]


def three_ways(ds, refs):
    """Return ramps and slopes of baseline, of optimal without judge and of optimal."""
    methods = {"baseline": "two-point", "before": "likelihood", "after": "judged"}
    out = {}
    for name, method in methods.items():
        ramps = rate.flag_jumps(ds, method=method, **refs)
        fit = {} if name == "baseline" else {"method": "gls", "find_jumps": False, "judged": name == "after"}
        out[name] = ramps, rate.fit_ramps(ramps, **refs, **fit)
    return out


def compare_slopes(table, name, ds, refs, truth):
    """Slopes and errors are not further from the truth than the baseline's (loss of :mod:`mrsxr.rate._slope_score`)."""
    told, losses = {}, {}
    ways = three_ways(ds, refs)
    for way, (ramps, slopes) in ways.items():
        losses[way], told[way] = describe(ramps, slopes, truth)
    change = {way: losses[way] - losses["baseline"] for way in ("before", "after")}
    ratio = {way: np.exp(np.nanmean(values)) for way, values in change.items()}
    error = float(np.nanstd(change["after"]) / np.sqrt(np.isfinite(change["after"]).sum()))
    ramps, slopes = ways["after"]
    score = f"scores {float(ramps.score_jump[0]):.3f}, {float(slopes.score_ramp_fit[0]):.3f}"
    table.add(f"jump, ramp_fit, {name}: misfit to the truth", f"{ratio['after']:.3f} ({told['after']}; {score})",
              "<= 1 within 2 sigma", ratio["after"] <= 1 + 2 * error, baseline=f"1 ({told['baseline']})",
              before=f"{ratio['before']:.3f} ({told['before']})")  # fmt: skip


def noise_references(n_y, n_x):
    """Return {"gain", "readnoise"} of :func:`light_ramps`."""
    flat = np.ones((n_y, n_x), np.float32)
    return {"gain": reference("gain", gain=GAIN * flat),
            "readnoise": reference("readnoise", read_noise=np.float32(np.sqrt(2) * READ) * flat)}  # fmt: skip


def compare_real(table, shared):
    """Dark ramps of the test rig, from the sixth group on: their slopes are zero."""
    from real_ramps import read_ramp

    ds, refs = read_ramp(shared / REAL)
    ds = ds.isel(integration=slice(1, None), group=slice(5, -1)).assign_attrs(n_integrations=4, n_groups=44)
    ds = ds.assign(sci=ds.sci.copy(data=np.ascontiguousarray(ds.sci.values)))
    ds = ds.assign(group_dq=ds.group_dq.copy(data=np.ascontiguousarray(ds.group_dq.values)))
    compare_slopes(table, "real dark ramps", ds, refs, np.zeros(ds.sci.shape[-2:]))


def run(table, shared, quick):
    """Add the figures of stage 1."""
    compare_emi(table)
    compare_refpix(table)
    for number, (name, scene) in enumerate(SLOPE_SCENES.items()):
        if not quick or number % 3 == 0:
            counts, flags, truth = light_ramps(**scene)
            compare_slopes(table, name, dataset(counts, flags=flags), noise_references(*truth.shape), truth)
    if shared is not None:
        compare_real(table, shared)
