"""The comparison of dithers on the sky: finds outliers of single exposures, leaves lines and point sources alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step, detector_attrs, dither_coords, no_compute

from mrsxr import dq
from mrsxr.cal import _sky_outlier_kernels as kernels
from mrsxr.cal import sky_outliers
from mrsxr.cal._sky_outlier_kernels import _block_noise, contrast
from mrsxr.cal.outlier_detection import flag_outliers
from mrsxr.cal.sky_outliers import detect_sky_outliers
from mrsxr.errors import LevelError, MrsxrError, SchemaError
from mrsxr.geometry.sky import with_sky
from mrsxr.schema import SLICE_COORDS

NY, NX, N_SLICES, PIXEL = 160, 250, 11, 0.19
SIGMA = 3.0
LINE = 5.0 + 8e-4 * 80
SHIFTS = ((0.0, 0.0), (0.97, 0.43), (-0.52, 0.36), (0.55, -0.44))  # arcsec along V2 and V3


def wcs_of(labels: np.ndarray) -> dict:
    """Return slices with slanted traces: alpha grows with x, wavelength with y."""
    n = labels.size
    alpha, wave = np.zeros((n, 3, 3)), np.zeros((n, 3, 3))
    alpha[:, 0, 1], alpha[:, 1, 0] = PIXEL, -0.02 * PIXEL
    alpha[:, 0, 0] = 0.01 * PIXEL * NY
    wave[:, 0, 0], wave[:, 1, 0], wave[:, 0, 1] = 5.0, 8e-4, 2e-6
    field = np.zeros((2, 2, 2))
    v2, v3 = field.copy(), field.copy()
    v2[:, 0, 0], v2[:, 1, 0], v3[:, 0, 0], v3[:, 0, 1] = -503, 1, -319, 1
    poly, plane = ("slice_label", "power_y", "power_x"), ("band", "power_alpha", "power_beta")
    middle = 20.0 + 22 * np.arange(n)
    return {
        "alpha_coefficients": (poly, alpha), "alpha_x_shift": ("slice_label", middle),
        "wavelength_coefficients": (poly, wave), "wavelength_x_shift": ("slice_label", middle),
        "slice_beta": ("slice_label", 0.177 * (np.arange(n) - n // 2)), "slice_width": ("band", [0.177, 0.28]),
        "v2_coefficients": (plane, v2), "v3_coefficients": (plane, v3),
    }  # fmt: skip


def make_scene(n_dither: int = 4, seed: int = 1, shifts: tuple = SHIFTS) -> tuple[xr.Dataset, np.ndarray]:
    """Return cal data of a point source with a line on a background with the line, and the truth."""
    labels = np.arange(101, 101 + N_SLICES).astype("i2")
    model = xr.Dataset(wcs_of(labels), {"slice_label": labels, "band": ["1A", "2A"]})
    y, x = np.mgrid[:NY, :NX]
    middle = model.alpha_x_shift.values
    image = np.zeros((NY, NX), "i2")
    for s, label in enumerate(labels):
        image[np.abs(x - middle[s] - 0.02 * (y - NY / 2)) < 9.0] = label
    s = np.where(image > 0, image - 101, 0)
    inside = image > 0
    alpha = 0.01 * PIXEL * NY + PIXEL * (x - middle[s]) - 0.02 * PIXEL * y
    grids = {
        "slice": image, "channel": (image // 100).astype("i1"), "alpha": np.where(inside, alpha, np.nan).astype("f4"),
        "beta": np.where(inside, model.slice_beta.values[s], np.nan).astype("f4"),
        "wavelength": np.where(inside, 5.0 + 8e-4 * y + 2e-6 * (x - middle[s]), np.nan),
    }  # fmt: skip
    units = {v.name: v.units for v in SLICE_COORDS}
    coords = {name: (("y", "x"), value, {"units": units[name]}) for name, value in grids.items()}
    coords |= {"y": np.arange(NY), "x": np.arange(NX), **dither_coords(n_dither)}
    shift = np.array(shifts[:n_dither]) / 3600
    coords["dec_ref"] = ("dither", 33.976 + shift[:, 1], {"units": "deg"})
    coords["ra_ref"] = ("dither", 339.015 + shift[:, 0] / np.cos(np.radians(33.976)), {"units": "deg"})
    coords["roll_ref"] = ("dither", np.zeros(n_dither), {"units": "deg"})
    ds = xr.Dataset(coords=coords, attrs=detector_attrs("cal", "12A", 10, 1))
    ds = ds.assign({name: model[name].assign_attrs(units=units[name]) for name in model.data_vars})
    sky = with_sky(ds)
    off = np.hypot((sky.ra - 339.015) * np.cos(np.radians(33.976)), sky.dec - 33.976).values * 3600
    profile = 1 + 4 * np.exp(-0.5 * ((grids["wavelength"] - LINE) / 8e-4) ** 2)
    truth = 50 * profile + 600 * np.exp(-0.5 * (off / 0.16) ** 2) * profile
    noise = np.random.default_rng(seed).normal(0, SIGMA, truth.shape)
    flux = np.where(inside, truth + noise, np.nan).astype("f4")
    dims = ("dither", "y", "x")
    third = np.where(np.isnan(flux), np.nan, SIGMA**2 / 3).astype("f4")
    for name in ("var_poisson", "var_read", "var_flat"):
        ds[name] = (dims, third.copy(), {"units": "MJy2/sr2"})
    ds["flux"] = (dims, flux, {"units": "MJy/sr"})
    ds["dq"] = (dims, np.where(np.isnan(flux), 513, 0).astype("u4"), dq.PIXEL_DQ_ATTRS)
    return ds, truth


@pytest.fixture(scope="module")
def scene():
    return make_scene()


def inner(ds: xr.Dataset) -> np.ndarray:
    """Return the pixels in the middle of the field, which every dither sees."""
    label = ds.slice.values
    return (label >= 104) & (label <= 108) & (np.abs(ds.alpha.values) < 0.6)


def hit(ds: xr.Dataset, amplitude: float, n: int | None = None, seed: int = 5, where: np.ndarray | None = None):
    """Return the data with outliers, and where they are."""
    good = np.isfinite(ds.flux.values)
    good[:, :4], good[:, -4:] = False, False
    good &= inner(ds)
    candidates = np.flatnonzero(good if where is None else good & where)
    n = candidates.size // 50 if n is None else n
    chosen = np.random.default_rng(seed).choice(candidates, n, replace=False)
    flux = ds.flux.values.copy()
    flux.ravel()[chosen] += amplitude * SIGMA
    mask = np.zeros(flux.shape, bool)
    mask.ravel()[chosen] = True
    return ds.assign(flux=ds.flux.copy(data=flux)), mask


def test_a_clean_scene_keeps_its_lines_and_its_core(scene):
    ds, truth = scene
    found = detect_sky_outliers(ds).outliers.values > 0
    good = np.isfinite(ds.flux.values)
    assert found.sum() < 1e-3 * good.sum()
    core = good & (truth > 300)
    line = good & (np.abs(ds.wavelength.values - LINE) < 2e-3)
    assert core.sum() > 2000
    for part in (core, line):
        assert truth[found & part].sum() < 1e-3 * truth[part].sum()


def test_hits_are_found_on_the_background_and_on_the_source(scene):
    ds, truth = scene
    beside = np.abs(ds.wavelength.values - LINE) > 4e-3  # on the line the differences of sampling are larger than a hit
    bright = beside & (truth > 200)
    for where, amplitude, rate in ((truth < 60, 12, 0.0), (bright, 12, 0.01), (bright, -14, 0.01)):
        spoilt, mask = hit(ds, amplitude, where=where)
        # hits fall everywhere: of those on the source alone it would say that they are its light
        outside = np.isfinite(ds.flux.values) & ~inner(ds) & (np.random.default_rng(9).uniform(size=mask.shape) < rate)
        spoilt.flux.values[outside] += amplitude * SIGMA
        found = detect_sky_outliers(spoilt).outliers.values > 0
        assert found[mask].mean() >= 0.93
        assert (found & ~mask & ~outside).sum() < 1e-3 * found.size


def test_a_hot_pixel_is_found_in_every_dither(scene):
    ds, _ = scene
    flux = ds.flux.values.copy()
    places = [(60, 106), (90, 128), (110, 150)]
    for y, x in places:
        flux[:, y, x] += 25 * SIGMA
    found = detect_sky_outliers(ds.assign(flux=ds.flux.copy(data=flux))).outliers.values > 0
    assert all(found[:, y, x].all() for y, x in places)


def test_a_hit_on_a_slope_does_not_spread(scene):
    ds, truth = scene
    flux = ds.flux.values.copy()
    steep = np.abs(np.diff(truth, axis=1, prepend=np.nan)) > 1.5 * SIGMA
    steep &= inner(ds) & (np.abs(ds.wavelength.values - LINE) > 0.02)
    steep[:, :6], steep[:, -6:] = False, False
    d, y, x = np.argwhere(steep)[:: max(1, steep.sum() // 5)].T
    assert y.size >= 5
    flux[d, y, x] += 40 * SIGMA
    found = detect_sky_outliers(ds.assign(flux=ds.flux.copy(data=flux))).outliers.values > 0
    for one, row, column in zip(d, y, x, strict=True):
        assert found[one, row, column]
        assert found[one, row - 4 : row + 5, column].sum() == 1


def test_a_hit_on_three_pixels_does_not_spread(scene):
    ds, _ = scene
    flux = ds.flux.values.copy()
    flux[2, 60:63, 106] += 40 * SIGMA
    found = detect_sky_outliers(ds.assign(flux=ds.flux.copy(data=flux))).outliers.values > 0
    assert found[2, 60:63, 106].all()
    assert found[:, 54:69, 100:112].sum() == 3


def test_a_hot_pixel_is_no_witness_of_itself():
    ds, _ = make_scene(2, shifts=((0.0, 0.0), (1.3 * PIXEL, 0.0)))
    flux = ds.flux.values.copy()
    flux[:, 60, 106] += 25 * SIGMA
    found = detect_sky_outliers(ds.assign(flux=ds.flux.copy(data=flux))).outliers.values > 0
    assert found[:, 60, 106].all()


@pytest.mark.parametrize("n_dither", [2, 3])
def test_few_dithers_blame_the_right_one(n_dither):
    ds, _ = make_scene(n_dither)
    spoilt, mask = hit(ds.isel(dither=slice(0, n_dither)), 20, 80)
    found = detect_sky_outliers(spoilt).outliers.values > 0
    clean = detect_sky_outliers(ds).outliers.values > 0
    assert found[mask].mean() >= 0.93
    assert (found & ~mask & ~clean).sum() < 5


def test_too_small_errors_raise_the_limit(scene):
    ds, _ = scene
    small = ds.assign({v: ds[v] / 9 for v in ("var_poisson", "var_read", "var_flat")})
    assert (detect_sky_outliers(small).outliers.values > 0).sum() < 2e-3 * np.isfinite(ds.flux.values).sum()


def test_bad_pixels_and_rows_without_value_give_no_flags(scene):
    ds, _ = scene
    flux = ds.flux.values.copy()
    flux[0, 70:90], flux[1] = np.nan, np.nan
    found = detect_sky_outliers(ds.assign(flux=ds.flux.copy(data=flux))).outliers.values > 0
    assert not found[1].any()
    assert not found[0, 70:90].any()
    assert found.sum() < 1e-3 * np.isfinite(flux).sum()


def test_a_slice_without_pixels_leaves_a_gap(scene):
    ds, truth = scene
    labels = np.where(ds.slice.values == 103, 0, ds.slice.values).astype("i2")
    spoilt, mask = hit(ds.assign_coords(slice=ds.slice.copy(data=labels)), 20, 40, where=truth < 60)
    found = detect_sky_outliers(spoilt).outliers.values > 0
    assert found[mask].mean() >= 0.93
    assert not found[:, ds.slice.values == 103].any()


def test_one_dither_falls_back_to_the_detector(scene):
    ds = scene[0].isel(dither=[0])
    mask = xr.Dataset({"outliers": (("y", "x"), np.zeros((NY, NX), "u4"))}, attrs={"detector": "MIRIFUSHORT"})
    mask.outliers[70, 100] = 17
    found = detect_sky_outliers(ds, outliers=mask)
    np.testing.assert_array_equal(found.outliers.values[0], mask.outliers.values)
    assert (detect_sky_outliers(ds).outliers.values > 0).any()  # the percentile of jwst


def test_pixels_without_a_witness_are_taken_from_the_detector(scene):
    ds = scene[0]
    everywhere = xr.Dataset({"outliers": (("y", "x"), np.full((NY, NX), 17, "u4"))})
    nowhere = everywhere * np.uint32(0)
    alone = [detect_sky_outliers(ds, outliers=m).outliers.values > 0 for m in (everywhere, nowhere)]
    np.testing.assert_array_equal(alone[1], detect_sky_outliers(ds).outliers.values > 0)
    edge = alone[0] & ~alone[1]
    assert 0.005 < edge.mean() < 0.2
    assert not edge[:, inner(ds)].any()


def test_lazy_and_eager_agree_and_nothing_is_computed(scene):
    ds, _ = scene
    lazy = ds.chunk({"dither": 1, "y": 50})
    with no_compute():
        found = detect_sky_outliers(lazy)
    assert found.outliers.chunks is not None
    assert found.outliers.dtype == np.uint32
    xr.testing.assert_equal(found.compute(), detect_sky_outliers(ds))


def test_the_flags_go_into_the_data(scene):
    spoilt, mask = hit(scene[0], 50, 40)
    found = detect_sky_outliers(spoilt)
    out = assert_step(flag_outliers, spoilt, outliers=found)
    assert np.isnan(out.flux.values[mask & (found.outliers.values > 0)]).all()
    assert ((out.dq.values & 16) > 0).sum() == (found.outliers.values > 0).sum()


def test_the_way_back_to_the_detector_is_exact(scene):
    ds, _ = scene
    model = ds[[n for n in ds.data_vars if "coefficients" in n or "shift" in n or "slice" in n]]
    band = sky_outliers.band_geometry("1A", ds.slice.values, ds.alpha.values, ds.wavelength.values, model)
    s, alpha, wave, _ = band.pixels
    x_of, y_of, middle, half = band.inverse
    u, v = (alpha - middle[s, 0]) / half[s, 0], (wave - middle[s, 1]) / half[s, 1]
    for series, wanted in ((x_of, band.index % NX), (y_of, band.index // NX)):
        found = sum(series[s, i, j] * u**i * v**j for i in range(series.shape[1]) for j in range(series.shape[2]))
        assert np.abs(found - wanted).max() < 2e-3


def test_contrast_against_the_obvious_one():
    rng = np.random.default_rng(4)
    flux = rng.normal(0, 1, (60, 6)).astype("f4")
    labels = np.full(flux.shape, 101, "i2")
    labels[40:, 2], labels[:, 5] = 102, 0
    flags = np.zeros(flux.shape, "u4")
    flags[20, 1] = 1
    got, _, shown, level = contrast(flux, flags, np.ones_like(flux), labels, 4, 64)
    value = np.where(flags, np.nan, flux)
    for y in range(60):
        for x in range(6):
            same = [k for k in range(1, 5) if 0 <= y - k and y + k < 60]
            same = [k for k in same if labels[y - k, x] == labels[y + k, x] == labels[y, x]]
            pairs = [value[[y - k, y + k], x] for k in same if np.isfinite(value[[y - k, y + k], x]).all()]
            if len(same) < 2 or labels[y, x] == 0 or np.isnan(value[y, x]):
                assert np.isnan(got[y, x])
            else:
                levels = np.median(pairs), np.median(np.mean(pairs, axis=1))
                closer = min(levels, key=lambda v, y=y, x=x: abs(value[y, x] - v))
                assert got[y, x] == pytest.approx(value[y, x] - closer, abs=1e-6)
                assert level[y, x] == pytest.approx(closer, abs=1e-6)
    assert (shown >= 1).all()


def test_the_noise_of_a_block_is_that_of_its_columns():
    rng = np.random.default_rng(4)
    score = rng.normal(0, [1, 3, 3, 3, 1, 40, 1], (128, 7)).astype("f4")
    score[64:] *= np.float32(2)
    score[5, 2] = np.nan
    out = np.empty_like(score)
    _block_noise(score, 64, out)
    own = 1.4826 * np.nanmedian(np.abs(score.reshape(2, 64, 7)), axis=1)
    wanted = [max(1, own[b, max(x - 1, 0) : x + 2].mean(), 0.85 * own[b, x]) for b in range(2) for x in range(7)]
    np.testing.assert_allclose(out[[0, 64]].ravel(), wanted, rtol=1e-5)


def test_errors_name_what_is_wrong(scene):
    ds = scene[0]
    with pytest.raises(LevelError, match="level cal, got rate"):
        detect_sky_outliers(ds.assign_attrs(level="rate"))
    with pytest.raises(LevelError, match="slice is missing; run assign_wcs"):
        detect_sky_outliers(ds.drop_vars("slice"))
    with pytest.raises(MrsxrError, match=r"snr is 2\.0 and snr_neighbour 3\.0"):
        detect_sky_outliers(ds, snr=2.0)
    with pytest.raises(MrsxrError, match="half_window is 1"):
        detect_sky_outliers(ds, half_window=1)


def test_predictions_against_those_taken_pixel_by_pixel():
    rng = np.random.default_rng(11)
    n_y, n_x, n = 23, 31, 700
    label_of = np.array([101, 102, 103], dtype=np.int16)
    labels = np.where(np.arange(n_x) % 10 > 7, 0, label_of[np.minimum(np.arange(n_x) // 10, 2)]) + np.zeros((n_y, 1))
    values, noise, shown = rng.normal(size=(3, n_y, n_x)).astype(np.float32) ** 2
    labels = labels.astype(np.int16)
    values[(rng.random((n_y, n_x)) < 0.2) | (labels == 0)] = np.nan
    slice_of, x, y = rng.integers(0, 3, n), rng.uniform(-0.7, 9, n), rng.uniform(-1, 23, n)
    x[:90], y[:90] = np.rint(x[:90]), np.rint(y[:90])  # at the very pixel
    own = np.clip(np.rint(y) + rng.integers(-2, 3, n), 0, n_y - 1).astype(int) * n_x
    own += np.clip(10 * slice_of + np.rint(x) + rng.integers(-2, 3, n), 0, n_x - 1).astype(int)
    beta = np.array([[0.2, 0.0], [0.6, 0.0], [2.0, 0.0]])  # between the first two, nearer to the second, on the third
    same, one = np.array([[0.0, 1.0]] * 3), np.zeros((3, 2, 2))
    x_of, y_of = one.copy(), one.copy()
    x_of[:, 0, 0], x_of[:, 1, 0], y_of[:, 0, 0], y_of[:, 0, 1] = 10.0 * np.arange(3) + 4.0, 5.0, 11.0, 13.0
    middles, halves = np.array([[4.0, 11.0]] * 3), np.array([[5.0, 13.0]] * 3)
    slices = (label_of, 0.0, 1.0, np.zeros(3), np.ones(3))
    frames = (values, noise, shown, values, kernels.around(values, shown, labels))
    pixels, inverse = (slice_of, x, y, own), (x_of, y_of, middles, halves)
    got = np.zeros((3, pixels[0].size), dtype=np.float32)
    kernels.predict(frames, labels, slices, pixels, inverse, (same, beta, 1.0), got)

    for k in range(n):
        place = beta[slice_of[k], 0]
        both = [int(np.floor(place + 0.5)), int(np.floor(place + 0.5)) + (1 if place > np.floor(place + 0.5) else -1)]
        seen = [sample(values, noise, shown, labels, label_of[q], 10 * q + x[k], y[k], own[k]) for q in both if q < 3]
        if not seen[0][2] >= 0.5:
            assert np.isnan(got[0, k])
            continue
        value, variance = seen[0][0] / seen[0][2], seen[0][1] / seen[0][2] ** 2
        if len(seen) == 2 and seen[1][2] >= 0.5:
            share = abs(place - both[0])
            value = (1 - share) * value + share * seen[1][0] / seen[1][2]
            variance = (1 - share) ** 2 * variance + share**2 * seen[1][1] / seen[1][2] ** 2
        low, high = min(one[3] for one in seen), max(one[4] for one in seen)
        usual = kernels.NOISE_RANGE * np.sqrt(sum(one[5] for one in seen) / sum(one[6] for one in seen))
        np.testing.assert_allclose(got[:, k], [value, variance, max(0.0, high - low - usual)], rtol=2e-5, atol=1e-6)
    assert 300 < np.isfinite(got[0]).sum() < n


def sample(values, noise, shown, labels, label, px, py, own):
    """Return what pixels show at a place in a slice: sums of weighted values, noise and weights; what lies around."""
    if not (-0.5 < px < values.shape[1] - 0.5 and -0.5 < py < values.shape[0] - 0.5):
        return 0.0, 0.0, 0.0, np.inf, -np.inf, 0.0, 0
    known, (y, x) = [], (int(np.floor(py + 0.5)), int(np.floor(px + 0.5)))
    for j, i in itertools.product(range(max(y - 1, 0), y + 2), range(max(x - 1, 0), x + 2)):
        if j >= values.shape[0] or i >= values.shape[1] or labels[j, i] != label:
            continue
        weight = max(0.0, 1 - abs(i - px)) * max(0.0, 1 - abs(j - py))
        if np.isfinite(values[j, i]) and (j * values.shape[1] + i != own or weight >= 0.5):
            known.append((weight, values[j, i], noise[j, i], shown[j, i]))
    if not known:
        return 0.0, 0.0, 0.0, np.inf, -np.inf, 0.0, 0
    w, v, n, s = np.array(known, dtype=float).T
    return (w * v).sum(), (w * w * n).sum(), w.sum(), v.min(), v.max(), s.sum(), len(known)


@pytest.mark.parametrize("lost", ["var_poisson", "var_read"])
def test_a_lost_variance_is_refused_not_taken_for_none(lost):
    ds, _ = make_scene()
    with pytest.raises(SchemaError, match=f"no '{lost}' "):
        detect_sky_outliers(ds.drop_vars(lost))
