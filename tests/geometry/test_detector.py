from __future__ import annotations

import csv
import time

import asdf
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from made_instrument import DISPERSION, HALF, LABELS, made_model, made_slice_map, real_labels, real_model

from mrsxr import mrs
from mrsxr.errors import MrsxrError, ReferenceFileError
from mrsxr.geometry import detector, sky
from mrsxr.mrs import SETTINGS, bands_of_setting


def slow_polynomial(matrix, a, b):
    return sum(matrix[i, j] * a**i * b**j for i in range(matrix.shape[0]) for j in range(matrix.shape[1]))


def test_grid_and_points_agree_and_equal_the_plain_sum():
    model, labels = made_model(), made_slice_map()
    alpha, beta, wavelength = detector.slicer_grid(model, labels)
    lit = labels > 0
    assert np.array_equal(np.isfinite(alpha), lit)
    assert np.array_equal(np.isnan(beta), ~lit)
    y, x = np.nonzero(lit)
    points = detector.detector_to_slicer(x, y, labels[lit], model)
    for grid, point in zip((alpha, beta, wavelength), points, strict=True):
        np.testing.assert_allclose(grid[lit], point, rtol=0, atol=1e-12)
    s = 4
    one = (labels == LABELS[s])[lit]
    shift = model.alpha_x_shift.values[s]
    expected = slow_polynomial(model.alpha_coefficients.values[s], y[one].astype(float), x[one] - shift)
    np.testing.assert_allclose(points[0][one], expected, rtol=0, atol=1e-12)
    assert set(np.unique(points[1][one])) == {model.slice_beta.values[s]}


def test_cut_out_equals_full_grid():
    model, labels = made_model(), made_slice_map()
    full = detector.slicer_grid(model, labels)
    part = detector.slicer_grid(model, labels[10:30, 40:130], origin=(10, 40))
    for a, b in zip(full, part, strict=True):
        np.testing.assert_array_equal(a[10:30, 40:130], b)


def test_shapes_unknown_labels_and_mappings():
    model = made_model()
    plain = {name: model[name].values for name in model.variables}
    x = np.array([[60.0, 60.5], [61.0, 5.0]])
    label = np.array([[101, 101], [0, 777]])
    out = detector.detector_to_slicer(x, 20.25, label, model)
    again = detector.detector_to_slicer(x, 20.25, label, plain)
    for a, b in zip(out, again, strict=True):
        assert a.shape == (2, 2)
        np.testing.assert_array_equal(a, b)
        assert np.array_equal(np.isnan(a), label < 101) or np.isnan(a[1]).all()
    assert np.ndim(detector.detector_to_slicer(60.0, 3.0, 101, model)[0]) == 0
    with pytest.raises(MrsxrError, match="alpha_coefficients"):
        detector.detector_to_slicer(x, x, label, {k: v for k, v in plain.items() if k != "alpha_coefficients"})


@given(alpha=st.floats(-1.8, 1.8), number=st.integers(0, 2), row=st.floats(2, 60), band=st.sampled_from(["1A", "2A"]))
def test_round_trip_of_an_invertible_instrument(alpha, number, row, band):
    model = made_model()
    s = number + (3 if band == "2A" else 0)
    beta = float(model.slice_beta.values[s])
    wavelength = float(model.y_lambda_shift.values[s]) + row * DISPERSION[s]
    x, y, label = detector.slicer_to_detector(alpha, beta, wavelength, band, model)
    assert int(label) == LABELS[s]
    back = detector.detector_to_slicer(x, y, label, model)
    np.testing.assert_allclose([float(v) for v in back], [alpha, beta, wavelength], rtol=0, atol=1e-9)


def test_beta_outside_the_slices_has_no_place():
    model = made_model()
    x, y, label = detector.slicer_to_detector(
        np.zeros(5), [-0.28, -0.26, 0.0, 0.26, 0.28], np.full(5, 5.32), "1A", model
    )
    assert label.tolist() == [0, 101, 102, 103, 0]
    assert np.isnan(x[[0, 4]]).all()
    assert np.isfinite(y[1:4]).all()
    assert detector.slicer_to_detector(0.0, np.nan, 5.3, "1A", model)[2] == 0
    with pytest.raises(MrsxrError, match="3A"):
        detector.slicer_to_detector(0.0, 0.0, 12.0, "3A", model)


def test_coordinate_model_joins_two_files():
    model = made_model()
    attrs = {"level": "reference", "detector": "MIRIFUSHORT", "band": "SHORT", "channels": "12"}
    wave = ["wavelength_coefficients", "wavelength_x_shift"]
    distortion = model.drop_vars(wave).assign_attrs(attrs, ref_id="d.asdf")
    specwcs = (
        model[wave].drop_vars("band", errors="ignore").isel(power_y=slice(0, 2)).assign_attrs(attrs, ref_id="s.asdf")
    )
    joined = detector.coordinate_model(distortion, specwcs)
    xr.testing.assert_equal(joined, model)
    assert joined.wavelength_coefficients.attrs["units"] == "um"
    assert (joined.attrs["distortion"], joined.attrs["specwcs"]) == ("d.asdf", "s.asdf")
    assert "level" not in joined.attrs
    with pytest.raises(ReferenceFileError, match=r"d\.asdf is of band SHORT, s\.asdf of LONG"):
        detector.coordinate_model(distortion, specwcs.assign_attrs(band="LONG"))
    with pytest.raises(ReferenceFileError, match="other slices"):
        detector.coordinate_model(distortion, specwcs.isel(slice_label=slice(1, None)))


def test_slice_map_takes_the_plane_asked_for():
    planes = np.stack([np.full((4, 6), 101 + k, np.int16) for k in range(9)])
    regions = xr.Dataset({"regions": (("plane", "y", "x"), planes)}, attrs={"ref_id": "made.asdf"})
    assert np.unique(detector.slice_map(regions)) == [108]
    assert np.unique(detector.slice_map(regions, plane=3)) == [104]
    assert np.unique(detector.slice_map(regions.isel(plane=[2]))) == [103]
    with pytest.raises(ReferenceFileError, match=r"made\.asdf: plane 9"):
        detector.slice_map(regions, plane=9)


def test_derived_map_of_the_made_instrument_is_exact():
    model = made_model()
    limits = {int(label): (-HALF[int(label)], HALF[int(label)]) for label in LABELS}
    derived = detector.derive_slice_map(model, model, alpha_limits=limits, shape=(64, 1032))
    np.testing.assert_array_equal(derived, made_slice_map())
    ranges = xr.Dataset({"limits": (("band", "limit"), [[5.31, 5.34], [0.0, 30.0]])}, {"band": ["1A", "2A"]})
    cut = detector.derive_slice_map(model, model, ranges, alpha_limits=limits, shape=(64, 1032))
    wavelength = detector.slicer_grid(model, derived)[2]
    outside = (derived // 100 == 1) & ~((wavelength >= 5.31) & (wavelength <= 5.34))
    np.testing.assert_array_equal(cut, np.where(outside, 0, derived))
    with pytest.raises(ReferenceFileError, match="no band 2A"):
        detector.derive_slice_map(model, model, ranges.isel(band=[0]), shape=(64, 1032))


@pytest.mark.shared
@pytest.mark.parametrize("setting", SETTINGS)
def test_real_pixels_equal_the_astropy_models(shared_data, setting):
    model, labels = real_model(shared_data, setting), real_labels(shared_data, setting)
    alpha, beta, wavelength = detector.slicer_grid(model, labels)
    stem = shared_data / "coords_flt9" / f"jwst_miri_mrs{setting}"
    with asdf.open(f"{stem}_distortion_flt9.asdf") as distortion, asdf.open(f"{stem}_specwcs_flt9.asdf") as specwcs:
        seen = 0
        for i, label in enumerate(distortion["slices"]):
            lit = labels == label
            y, x = (v.astype(float) for v in np.nonzero(lit))
            np.testing.assert_allclose(alpha[lit], distortion["alpha_model"][i](y, x), rtol=0, atol=1e-8)
            np.testing.assert_allclose(wavelength[lit], specwcs["model"][i](y, x), rtol=0, atol=1e-8)
            np.testing.assert_allclose(beta[lit], distortion["beta_model"][i](x), rtol=0, atol=1e-12)
            seen += lit.sum()
    assert seen == (labels > 0).sum() > 600_000
    for band in bands_of_setting(setting):
        lit = labels // 100 == int(band[0])
        y, x = np.nonzero(lit)
        x2, y2, label = detector.slicer_to_detector(alpha[lit], beta[lit], wavelength[lit], band, model)
        np.testing.assert_array_equal(label, labels[lit])
        # the inverse polynomials are fits of their own; measured at worst 0.12 and 0.38 pixels
        assert np.abs(x2 - x).max() < 0.15
        assert np.abs(y2 - y).max() < 0.45
        assert np.percentile(np.abs(x2 - x), 99) < 0.03
        assert np.percentile(np.abs(y2 - y), 99) < 0.1


@pytest.mark.shared
def test_a_full_detector_is_fast(shared_data):
    model, labels = real_model(shared_data, "12A"), real_labels(shared_data, "12A")
    detector.slicer_grid(model, labels[:2])
    times = []
    for _ in range(3):
        start = time.perf_counter()
        detector.slicer_grid(model, labels)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.15


def siaf_limits(shared_data, setting: str, model) -> dict[int, tuple[float, float]]:
    """Return the limits of alpha of each slice from its corners in the SIAF."""
    with open(shared_data / "siaf" / "miri_mrs_siaf_PRDOPSSOC-075.csv") as file:
        rows = {row["AperName"]: row for row in csv.DictReader(file)}
    limits = {}
    for label in model.slice_label.values:
        band = f"{label // 100}{setting[2]}"
        row = rows[f"MIRIFU_{band}SLICE{label % 100:02d}"]
        v2 = [float(row["V2Ref"]) - float(row[f"XIdlVert{k}"]) for k in (1, 2, 3, 4)]
        v3 = [float(row["V3Ref"]) + float(row[f"YIdlVert{k}"]) for k in (1, 2, 3, 4)]
        alpha = np.sort(sky.v2v3_to_slicer(v2, v3, band, model)[0])
        limits[int(label)] = (float(alpha[:2].mean()), float(alpha[2:].mean()))
    return limits


#: Differing pixels against the CDP-8b masks of about 700 000: (default limits, limits of the SIAF corners).
DIFFERING = {
    "12A": (9850, 5101), "12B": (9402, 5283), "12C": (9256, 5278),
    "34A": (13920, 4373), "34B": (11151, 4475), "34C": (13019, 4507),
}  # fmt: skip


@pytest.mark.shared
@pytest.mark.parametrize("setting", SETTINGS)
def test_derived_map_agrees_with_the_real_masks(shared_data, setting):
    model, labels = real_model(shared_data, setting), real_labels(shared_data, setting)
    counts = []
    for limits in (None, siaf_limits(shared_data, setting, model)):
        derived = detector.derive_slice_map(model, model, alpha_limits=limits)
        differ = derived != labels
        counts.append(int(differ.sum()))
        # never one slice in place of another, and never inside a slice
        both = (derived > 0) & (labels > 0)
        assert (derived[both] == labels[both]).all()
    np.testing.assert_allclose(counts, DIFFERING[setting], rtol=0.01)


@pytest.mark.shared
@pytest.mark.parametrize(("setting", "band"), [("12B", "1B"), ("34C", "4C"), ("34A", "3A")])
def test_length_of_pixels_is_that_of_the_flight_geometry(shared_data, setting, band):
    model, labels = real_model(shared_data, setting), real_labels(shared_data, setting)
    y, x = (a[::97].astype(float) for a in np.nonzero(labels // 100 == int(band[0])))
    label = labels[y.astype(int), x.astype(int)]
    below, above = (detector.detector_to_slicer(x, y + side, label, model)[2] for side in (-0.5, 0.5))
    middle, length = 0.5 * (below + above), np.abs(above - below)
    inside = (middle > mrs.WAVELENGTH_LIMITS[band][0]) & (middle < mrs.WAVELENGTH_LIMITS[band][1])
    np.testing.assert_allclose(length[inside], mrs.pixel_length(middle[inside], band), rtol=0.05)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_runs_of_a_slice_equal_its_points_one_by_one(length):
    """Points of a slice are taken together, up to 64 of them: bit by bit what each gives alone."""
    model, rng = made_model(), np.random.default_rng(length)
    label = np.concatenate([np.full(length, one) for one in (LABELS[1], 0, LABELS[0], LABELS[0], 9999, LABELS[2])])
    x, y = rng.uniform(40, 120, label.size), rng.uniform(0, 60, label.size)
    for name in ("alpha", "wavelength"):
        alone = [detector.detector_coordinate(name, a, b, one, model) for a, b, one in zip(x, y, label, strict=True)]
        np.testing.assert_array_equal(detector.detector_coordinate(name, x, y, label, model), alone)
