"""Stage 1 on ramps of another electronics: what no judge was made for, with several seeds.

Where ``_truth_rate.py`` asks each judge for a kind of noise, these ramps have noise of the read-out as one series in
time (1/f over columns, rows and groups), pixels that switch, waves that come, run or turn, light that jitters, hits of
another distribution whose charge trickles in, latent light that fades, rows that the judges do not see. Each step is
held against the baseline; ``before`` is the optimal mode as it was when these ramps first met it.
"""

import numpy as np
from _truth_rate import (
    FRAME,
    GAIN,
    GROUP_TIME,
    HZ10,
    OUTER,
    READ,
    ROW,
    dataset,
    describe,
    emi_reference,
    noise_references,
    slope_error,
    three_ways,
)

from mrsxr import dq, rate


def series(rng, shape, slope):
    """Return noise of a power f^-slope in the order of the read-out, of scatter 1."""
    n = int(np.prod(shape))
    f = np.fft.rfftfreq(n)
    f[0] = f[1]
    out = np.fft.irfft(np.fft.rfft(rng.normal(size=n)) * f ** (-slope / 2), n)
    return (out / out.std()).reshape(shape)


def spectra(n_y, n_x, level, tilt):
    """Return light [DN/s] of slices, with a bright line; ``tilt``: its logarithm rises by so much along the rows."""
    y, x = np.arange(n_y)[:, None], np.arange(n_x)
    line = 4 * np.exp(-0.5 * ((y - 0.6 * n_y) / 2.5) ** 2)
    along = (1 + 0.4 * np.sin(y / 7.0) + line) * level * np.exp(tilt * y / n_y)
    return along * (0.15 + np.exp(-np.abs((x % 27 - 11) / 4.0)))


def hits_of(rng, shape, often, power, tails):
    """Return the charge [electron] of hits in each difference; a share ``tails`` of it trickles in later."""
    struck = rng.random(shape) < often * GROUP_TIME
    out = np.where(struck, np.minimum(100 * rng.pareto(power, shape), 2e5), 0.0)
    fade = np.exp(-np.arange(shape[1]) / 3.0)
    fade *= tails / fade.sum()
    late = sum(np.pad(out[:, : shape[1] - k] * fade[k], ((0, 0), (k, 0), (0, 0), (0, 0))) for k in range(shape[1]))
    return (1 - tails) * out + late


def fading(size, n_group, n_y, n_x):
    """Return latent light [electron in a group] (group, y, x) of a peak of ``size`` DN."""
    y, x = np.arange(n_y)[:, None], np.arange(n_x)
    patch = np.exp(-0.5 * (((y - 70) / 25.0) ** 2 + ((x - 0.47 * n_x) / 30.0) ** 2))
    return size * GAIN * np.exp(-np.arange(n_group)[:, None, None] / 8.0) * patch


WAVES = {
    "": lambda phase, g: np.sin(phase), "sharp": lambda phase, g: np.exp(-(np.sin(0.5 * phase) / 0.25) ** 2),
    "comes": lambda phase, g: np.sin(phase) * np.clip((g - 0.4) / 0.3, 0, 1),
    "runs": lambda phase, g: np.sin(phase + 2.5 * g), "turns": lambda phase, g: np.sin(phase) * np.sign(0.5 - g),
}  # fmt: skip


def wave_of(shape, frequency, size, kind=""):
    """Return interference [DN] of a frequency [Hz]."""
    i, g, y, x = np.ogrid[tuple(slice(n) for n in shape)]
    clock = (i * (shape[1] + 1) + g) * FRAME + y * ROW + x // 4
    return size * WAVES[kind](2 * np.pi * clock * frequency * 1e-5 + 1.0, g / shape[1])


def ramps(
    seed, n_int=1, n_group=24, n_y=160, n_x=128, level=30.0, tilt=0.0, hits=1e-4, power=1.0, tails=0.0, bend=0.0,
    full=np.inf, pink=0.0, slope=1.0, rows=0.0, switch=0.0, burst=12.0, latent=0.0, settle=0.0, jitter=0.0, read=READ,
    drift=0.0,
):  # fmt: skip
    """Return (counts, flags) (integration, group, y, x) and the true slope (y, x) [DN/s]."""
    rng = np.random.default_rng(seed)
    shape = (n_int, n_group, n_y, n_x)
    truth = spectra(n_y, n_x, level, tilt)
    step = truth * GROUP_TIME * GAIN * (1 + jitter * rng.normal(size=shape[:2]))[..., None, None]
    charge = rng.poisson(step + fading(latent, n_group, n_y, n_x)) + hits_of(rng, shape, hits, power, tails)
    light = np.cumsum(charge, axis=1) / GAIN
    light -= bend * light**2 / 50000.0
    flags = np.zeros(shape, np.uint8)
    flags[:, [0, -1]] = dq.DO_NOT_USE
    flags[np.maximum.accumulate(light > full, axis=1)] |= dq.SATURATED
    out = 9000.0 + rng.normal(0, 50, (n_y, n_x)) + np.minimum(light, full * 1.02) + rng.normal(0, read, shape)
    out -= settle * np.exp(-np.arange(n_group) / 2.0)[:, None, None]
    if pink:
        out += pink * np.repeat(series(rng, (n_int, n_group, n_y, n_x // 4), slope), 4, axis=-1)
    out += rng.normal(0, rows, shape[:3])[..., None]
    out += np.cumsum(rng.normal(0, drift, shape[:2]), axis=1)[..., None, None]
    state = np.cumsum(rng.random(shape) < 0.08, axis=1) % 2
    return out + burst * state * (rng.random((n_y, n_x)) < switch), flags, truth


#: Scenes of ramps; and seeds where chance is shared by all pixels, so that one draw tells nothing.
SCENES = {
    "1/f read-out": {"pink": 3.0}, "pixels switch": {"switch": 0.2},
    "pixels switch by 60 DN": {"switch": 0.4, "burst": 60.0},
    "hits trickle in": {"hits": 1e-3, "tails": 0.6}, "many hits, steep": {"hits": 4e-3, "power": 2.0},
    "many hits, flat": {"hits": 2e-3, "power": 0.5}, "saturating": {"level": 300.0, "full": 15000.0},
    "judged rows faint, others bend": {"level": 2.0, "tilt": 5.0, "bend": 0.3},
    "judged rows bend, others faint": {"level": 300.0, "tilt": -5.0, "bend": 0.2}, "latent": {"latent": 200.0},
    "settling": {"settle": 60.0}, "settling, 4 integrations": {"settle": 60.0, "n_int": 4, "n_group": 12},
    "noise of rows": {"rows": 3.0}, "half the noise more than told": {"read": 1.5 * READ},
    "6 groups x 3": {"n_group": 6, "n_int": 3},
    "faint": {"level": 0.1}, "pixels switch, 4 integrations": {"switch": 0.2, "n_int": 4, "n_group": 10},
}  # fmt: skip
SHARED = {
    "steep 1/f read-out": {"pink": 6.0, "slope": 2.0}, "light jitters by 5 %": {"level": 100.0, "jitter": 0.05},
    "all pixels drift": {"drift": 2.0},
}  # fmt: skip
#: Misfit to the truth over the baseline's, mean and worst of 12 draws, before what is shared counted as one draw.
SHARED_BEFORE = {
    "steep 1/f read-out": "1.008 (worst 1.438)", "light jitters by 5 %": "1.012 (worst 1.659)",
    "all pixels drift": "0.970 (worst 1.015)",
}  # fmt: skip


def change_of_misfit(counts, flags, truth):
    """Return the change of loss of optimal over baseline, its error, and the scores."""
    ways = three_ways(dataset(counts, flags=flags), noise_references(*truth.shape))
    change = describe(*ways["after"], truth)[0] - describe(*ways["baseline"], truth)[0]
    change = change[np.isfinite(change)]
    scores = float(ways["after"][0].score_jump[0]), float(ways["after"][1].score_ramp_fit[0])
    return float(change.mean()), float(change.std() / np.sqrt(change.size)), scores


def compare_slopes(table, quick):
    """Slopes and errors are not further from the truth than the baseline's."""
    for number, (name, scene) in enumerate(SCENES.items()):
        if not quick or number % 4 == 0:
            change, error, scores = change_of_misfit(*ramps(3000 + number, **scene))
            table.add(f"jump, ramp_fit, {name}: misfit to the truth",
                      f"{np.exp(change):.3f} (scores {scores[0]:.3f}, {scores[1]:.3f})", "<= 1 within 2 sigma",
                      change <= 2 * error, baseline="1")  # fmt: skip
    for name, scene in {} if quick else SHARED.items():
        found = np.array([change_of_misfit(*ramps(seed, **scene))[0] for seed in range(3000, 3012)])
        error = found.std(ddof=1) / np.sqrt(found.size)
        table.add(f"jump, ramp_fit, {name}: misfit to the truth, 12 draws",
                  f"{np.exp(found.mean()):.3f} (worst {np.exp(found.max()):.3f})", "<= 1 within 2 sigma, worst < 1.15",
                  found.mean() <= 2 * error and found.max() < np.log(1.15), baseline="1",
                  before=SHARED_BEFORE[name])  # fmt: skip


# --- EMI -------------------------------------------------------------------------------------------------------------

EMI = {
    "light jitters": ({"jitter": 0.05, "level": 200.0}, None), "1/f read-out": ({"pink": 3.0}, None),
    "pixels switch": ({"switch": 0.6, "burst": 40.0}, None), "latent": ({"latent": 200.0}, None),
    "saturating": ({"level": 300.0, "full": 15000.0}, None), "9.7 Hz": ({}, (9.7, 3.0)), "10.2 Hz": ({}, (10.2, 2.0)),
    "390 Hz": ({}, (390.625, 3.0)), "comes": ({}, (HZ10, 2.0, "comes")), "runs": ({}, (HZ10, 2.0, "runs")),
    "turns": ({}, (HZ10, 2.0, "turns")), "sharp": ({}, (HZ10, 2.0, "sharp")), "0.02 DN": ({}, (HZ10, 0.02)),
    "comes, 4 integrations": ({"n_int": 4, "n_group": 8}, (HZ10, 2.0, "comes")),
}  # fmt: skip


def compare_emi(table, quick):
    """Slopes are not worse than without correction, whatever the wave or its absence."""
    for number, (name, (scene, wave)) in enumerate(EMI.items()):
        if quick and number % 4:
            continue
        none, left, taken, seeds = [], [], 0, range(10 if name == "light jitters" else 3)
        for seed in seeds:
            counts, flags, _ = ramps(1000 + seed, n_y=96, **{"n_group": 20, **scene})
            added = wave_of(counts.shape, *wave) if wave else np.zeros(counts.shape)
            ds = dataset(counts + added, flags=flags)
            out = rate.correct_emi(ds, emicorr=emi_reference(), method="harmonics")
            none.append(slope_error(added))
            left.append(slope_error(added - (ds.sci.astype(float) - out.sci).values[0]))
            taken += int(out.score_emicorr[0] < 1)
        table.add(f"emicorr, {name}: slope error [DN/s], worst of {len(seeds)}",
                  f"{max(left):.1e} (taken in {taken} of {len(seeds)})", "<= baseline", max(left) <= max(none) + 1e-5,
                  baseline=f"{max(none):.1e}", before="4.3e-03" if name == "light jitters" else "")  # fmt: skip


# --- reference pixels ------------------------------------------------------------------------------------------------

ELECTRONICS = {
    "1/f": {"slope": 1.0}, "steep 1/f": {"slope": 2.0}, "twice in the reference pixels": {"share": 2.0},
    "of the other sign in them": {"share": -1.0}, "one side late by 3 rows": {"delay": 3, "slope": 1.5},
    "one side late by 200 rows": {"delay": 200, "slope": 1.5}, "one side alone": {"left": 0.0},
    "each amplifier its own": {"amplifiers": 4.0}, "light jitters": {"size": 0.0, "jitter": 0.05},
    "4 integrations of 5 groups": {"n_int": 4, "n_group": 5, "slope": 1.5}, "nothing": {"size": 0.0},
}  # fmt: skip


def outer_columns(
    seed, n_int=1, n_group=12, n_y=1024, size=3.0, slope=2.0, share=1.0, delay=0, left=1.0, amplifiers=0.0, jitter=0.0
):
    """Return (counts, what the electronics add) (integration, group, y, column of OUTER) [DN]."""
    rng = np.random.default_rng(seed)
    blind, right = (OUTER < 4) | (OUTER >= 1028), OUTER > 516
    shape = (n_int, n_group, n_y)
    one = size * series(rng, shape, slope)
    other = np.roll(one.ravel(), delay).reshape(shape)
    added = np.where(right, other[..., None], left * one[..., None]) * np.where(blind, share, 1.0)
    if amplifiers:
        added = np.stack([amplifiers * series(rng, shape, slope) for _ in range(4)], axis=-1)[..., OUTER % 4]
    slopes = (100.0 if jitter else 10.0) * np.exp(rng.normal(0, 1, (n_y, OUTER.size))) * ~blind
    step = slopes * GROUP_TIME * GAIN * (1 + jitter * rng.normal(size=(n_int, n_group, 1, 1)))
    light = np.cumsum(rng.poisson(step), axis=1) / GAIN
    return 9000.0 + light + added + rng.normal(0, 5.0, light.shape), added - added[:, :1]


def compare_refpix(table, quick):
    """What is left in pixels under light is not more than with the constant."""
    for number, (name, scene) in enumerate(ELECTRONICS.items()):
        if quick and number % 4:
            continue
        left = {"constant": [], "smooth": []}
        for seed in range(2000, 2003):
            counts, added = outer_columns(seed, **scene)
            ds = dataset(counts, OUTER)
            for method, found in left.items():
                out = rate.subtract_reference_pixels(ds, method=method)
                found.append(float(((ds.sci - out.sci).values[0] - added)[..., 8:16].std()))
        constant, smooth = (float(np.mean(one)) for one in left.values())
        score = float(out.score_refpix[0])
        table.add(f"refpix, {name}: error left [DN], mean of 3", f"{smooth:.2f} (score {score:.3f})", "<= baseline",
                  smooth <= constant + 1e-3, baseline=f"{constant:.2f}")  # fmt: skip


# --- showers ---------------------------------------------------------------------------------------------------------


def compare_showers(table, quick):
    """Nothing is taken where there is no shower; latent light is taken off, not more."""
    scenes = SCENES | SHARED | {"interference": {}}
    worst = 0.0
    for number, (name, scene) in enumerate(scenes.items()):
        if "latent" not in scene and (not quick or number % 4 == 0):
            counts, flags, truth = ramps(5000 + number, **{"n_y": 256, "n_x": 256, **scene})
            counts = counts + (wave_of(counts.shape, HZ10, 8.0, "comes") if name == "interference" else 0.0)
            ds = dataset(counts, flags=flags)
            out = rate.remove_showers(ds, **noise_references(*truth.shape))
            worst = max(worst, float(np.abs(out.sci - ds.sci).max()))
    table.add("showers, none in any of these ramps: most that is taken [DN]", f"{worst:.1f}", "0", worst == 0.0)
    for size in (5.0,) if quick else (5.0, 20.0, 200.0):
        counts, flags, truth = ramps(700, n_y=256, n_x=256)
        light = np.cumsum(fading(size, 24, 256, 256) / GAIN, axis=0)[None]
        ds = dataset(counts + light, flags=flags)
        out = rate.remove_showers(ds, **noise_references(*truth.shape))
        left = slope_error(light - (ds.sci.astype(float) - out.sci).values[0])
        table.add(f"showers, latent light of {size:g} DN a group: slope error [DN/s]", f"{left:.3f}", "<= baseline",
                  left <= slope_error(light), baseline=f"{slope_error(light):.3f}")  # fmt: skip


def run(table, shared, quick):
    """Add the figures of stage 1 on these ramps."""
    compare_emi(table, quick)
    compare_refpix(table, quick)
    compare_slopes(table, quick)
    compare_showers(table, quick)
