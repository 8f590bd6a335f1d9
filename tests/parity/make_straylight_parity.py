"""Run jwst's straylight and clean_showers on made images and store what comes out; needs an environment with jwst.

python tests/parity/make_straylight_parity.py        writes tests/parity/data/straylight.npz

The images follow from integers alone, so that the tests make the same ones; of full frames some rows are stored.
"""

import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np

OUT = Path(__file__).parent / "data"
SHAPE = (1024, 1032)
#: Channels, band and, of the kernel tables that jwst finds, those that are missing.
CASES = {"12A": ("12", "SHORT", ()), "34B": ("34", "MEDIUM", ("ch4b_table",))}
ROWS = np.arange(5, 1024, 73)
COLUMNS = ("LOR_FWHM", "LOR_SCALE", "GAU_FWHM", "GAU_XOFF", "GAU_SCALE1", "GAU_SCALE2")
#: Shape, plane, standard deviations and percentiles of clean_showers.
SHOWER_CASES = [((110, 130), 3, 18.0, 5.0, 0.1, 99.9), ((60, 90), 1, 3.0, 6.5, 2.0, 97.0)]


def scramble(count, seed):
    """Return numbers in [0, 1) that look random, from integer arithmetic."""
    state = np.arange(count, dtype=np.uint64) + np.uint64(7919 * seed + 1)
    for factor in (2654435761, 2246822519, 3266489917):
        state = (state * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
        state ^= state >> np.uint64(15)
    return state.astype(np.float64) / 2.0**32


def made_image(seed, shape=SHAPE, slices=24):
    """Return rate, flags (y, x) and slices: noise, a pedestal, bent slices with a source and lines, faulty pixels."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float64)
    size = y.size
    noise = sum(scramble(size, seed + k) for k in range(4)).reshape(shape) - 2.0
    phase = (x + 10.0 * (y / shape[0] - 0.5) ** 2 - 6.0) % slices
    inside = (phase > 4) & (x > 3) & (x < shape[1] - 4)
    glow = 2.0 + 30.0 / (1.0 + ((phase - 14.0) / 2.0) ** 2) / (1.0 + ((x - 300.0) / 90.0) ** 2)
    glow = glow * (1.0 + 9.0 * ((y.astype(int) % 97) == 5))
    rate = (0.13 + 0.05 * noise + np.where(inside, glow, 0.0)).astype(np.float32)
    flags = np.zeros(shape, dtype=np.uint32)
    places = np.floor(scramble(400, seed + 9) * size).astype(int)
    for bits, some in ((1, places[:100]), (2048, places[100:180]), (1024 | 1, places[180:260]), (512, places[260:300]),
                       (4, places[300:360]), (1 << 31, places[360:])):  # fmt: skip
        flags.flat[some] |= np.uint32(bits)
    rate[(flags & 1) != 0] = np.nan
    rate.flat[places[100:140]] += 500.0
    if shape == SHAPE:
        strip = np.floor(scramble(900, seed + 11) * 924 * 10).astype(int)
        rate[50 + strip // 10, 505 + strip % 10] = np.nan  # of NaN pixels there jwst makes zeros
        rate[60, 480:520] = 300.0
        rate[200, 200] = np.inf
    return rate, flags, inside


def kernel_tables(names):
    """Return the kernel table of each name: another one for each, changing with the row."""
    row = np.arange(SHAPE[0]) / SHAPE[0]
    tables = {}
    for k, name in enumerate(sorted(names)):
        values = (90.0 + 30.0 * row + 7 * k, 8e-4 * (1.2 - 0.4 * row), 7.0 + 2.0 * row, 21.3 + 2.0 * row + k,
                  1.5e-3 * (1 + 0.3 * row), 4e-4 * (1 - 0.2 * row) / (k + 1))  # fmt: skip
        pairs = zip(COLUMNS, values, strict=True)
        tables[name] = {c: np.asarray(v * np.ones(SHAPE[0]), dtype=np.float32) for c, v in pairs}
    return tables


def regions_of(inside):
    """Return nine planes (plane, y, x), narrower from plane to plane."""
    return np.stack([np.where(inside & np.roll(inside, k, axis=1), 101, 0).astype(np.int16) for k in range(9)])


def run():
    """Return everything that is stored."""
    from jwst.straylight.straylight import clean_showers, correct_xartifact

    out = {}
    for number, (name, (channel, band, missing)) in enumerate(CASES.items()):
        rate, flags, _ = made_image(number)
        letter = {"SHORT": "a", "MEDIUM": "b", "LONG": "c"}[band]
        tables = kernel_tables([f"ch{c}{letter}_table" for c in channel])
        instrument = SimpleNamespace(channel=channel, band=band)
        model = SimpleNamespace(data=rate.copy(), dq=flags, meta=SimpleNamespace(instrument=instrument))
        correct_xartifact(model, {key: value for key, value in tables.items() if key not in missing})
        out[name] = np.asarray(model.data, dtype=np.float32)[ROWS]
    for number, (shape, plane, x_stddev, y_stddev, low, high) in enumerate(SHOWER_CASES):
        rate, flags, inside = made_image(20 + number, shape)
        model = SimpleNamespace(data=rate.copy(), dq=flags)
        clean_showers(model, regions_of(inside), plane, x_stddev, y_stddev, low, high)
        out[f"showers_{number}"] = (rate - model.data).astype(np.float32)
    return out


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    np.savez_compressed(OUT / "straylight.npz", **run())
