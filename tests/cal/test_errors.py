"""Variances of stage 2: every step carries them, and they tell the scatter of the results."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from helpers import assert_step, detector_attrs, dither_coords, make_reference, no_compute

from mrsxr import cal, dq
from mrsxr.cal._invalid import apply_factor, reference_images
from mrsxr.cal._scale_kernels import flat_factor, scale_frames
from mrsxr.errors import ReferenceFileError
from mrsxr.io import save
from mrsxr.rate import fit_ramps
from mrsxr.schema import SCATTER, SYSTEMATIC, VARIANCES

NY, NX = 24, 40


def rate_ds(level=30.0, noise=1.0, variances=VARIANCES, n_dither=2):
    rng = np.random.default_rng(5)
    dims, shape = ("dither", "y", "x"), (n_dither, NY, NX)
    variables = {"rate": (dims, rng.uniform(0.5 * level, 1.5 * level, shape).astype("f4"), {"units": "DN/s"})}
    for name in variances:
        values = (noise**2 * rng.uniform(0.5, 1.5, shape)).astype("f4")
        variables[name] = (dims, values, {"units": "DN2/s2"})
    variables["dq"] = (dims, np.zeros(shape, "u4"), dq.PIXEL_DQ_ATTRS)
    coords = {"y": np.arange(NY), "x": np.arange(NX), **dither_coords(n_dither)}
    return xr.Dataset(variables, coords, detector_attrs("rate", "12A", 10, 2))


def references(seed=6, error=0.02):
    rng = np.random.default_rng(seed)
    shape = (NY, NX)

    def image(low, high):
        return rng.uniform(low, high, shape).astype("f4")

    flat, fringe, conversion = image(0.9, 1.1), image(0.6, 1.4), image(2, 3)
    none = np.zeros(shape, "u4")
    return {
        "flat": make_reference("flat", flat=flat, flat_err=(error * flat), dq=none),
        "fringe": make_reference("fringe", fringe=fringe, fringe_err=(error * fringe), dq=none),
        "photom": make_reference("photom", conversion=conversion, conversion_err=(error * conversion), dq=none,
                                 pixel_area=image(0.02, 0.03)),
    }  # fmt: skip


def calibrated(ds, refs, **options):
    ds = cal.divide_flat(ds, flat=refs["flat"])
    ds = cal.divide_fringe_flat(ds, fringe=refs["fringe"], **options)
    return cal.calibrate_flux(ds, photom=refs["photom"], **options)


def test_names():
    assert set(SYSTEMATIC) < set(VARIANCES)
    assert {"var_poisson", "var_read"}.isdisjoint(SYSTEMATIC)
    assert {"var_fringe", "var_photom", "var_background"} <= set(SYSTEMATIC)


def slow_scale(ds, name, factor):
    out = ds.copy(deep=True)
    out[name].values[:] = ds[name].values * factor
    for variance in VARIANCES:
        out[variance].values[:] = ds[variance].values * factor**2
    return out


def test_scale_and_match_against_the_slow_version():
    ds = rate_ds()
    rng = np.random.default_rng(7)
    for name in ("rate", *VARIANCES):
        ds[name].values[:, rng.integers(0, NY, 4), rng.integers(0, NX, 4)] = np.nan
    ds.rate.values[0, 3, 3], ds.var_photom.values[1, 4, 4] = np.inf, -np.inf
    ds.dq.values[:, rng.integers(0, NY, 9), rng.integers(0, NX, 9)] = 1 | 64
    factor = rng.uniform(0.5, 2, (NY, NX)).astype("f4")
    scaled = apply_factor(ds, "rate", xr.DataArray(factor, dims=("y", "x")))
    expected = slow_scale(ds, "rate", factor)
    xr.testing.assert_allclose(scaled, expected, rtol=3e-7)
    matched = apply_factor(scaled, "rate", match=True)
    bad = (ds.dq.values & 1) != 0
    for name in ("rate", *VARIANCES):
        bad |= ~np.isfinite(expected[name].values)
    for name in ("rate", *VARIANCES):
        np.testing.assert_array_equal(np.isnan(matched[name].values), bad)
        np.testing.assert_array_equal(matched[name].values[~bad], scaled[name].values[~bad])
        assert matched[name].attrs == ds[name].attrs
    np.testing.assert_array_equal(matched.dq.values, ds.dq.values | bad.astype("u4"))
    assert 20 < bad.sum() < bad.size / 4
    again = apply_factor(matched, "rate", match=True)
    xr.testing.assert_identical(again, matched)


def test_a_factor_of_each_dither_and_flags_to_add():
    ds = rate_ds(variances=("var_poisson", "var_read"))
    factor = xr.DataArray(
        np.array([2.0, 3.0], "f4")[:, None, None] * np.ones((1, NY, NX), "f4"), dims=("dither", "y", "x")
    )
    flags = xr.DataArray(np.full((NY, NX), 64, "u4"), dims=("y", "x"))
    out = apply_factor(ds, "rate", factor, relative=factor * 0 + np.float32(0.1), variance="var_fringe", flags=flags)
    for d, by in enumerate((2, 3)):
        np.testing.assert_allclose(out.rate[d], by * ds.rate[d], rtol=1e-6)
        np.testing.assert_allclose(out.var_read[d], by**2 * ds.var_read[d], rtol=1e-6)
        np.testing.assert_allclose(out.var_fringe[d], (0.1 * out.rate[d]) ** 2, rtol=1e-5)
    assert (out.dq == 64).all()
    assert out.var_fringe.attrs["units"] == "DN2/s2"


def test_wrappers_take_any_memory_layout():
    rng = np.random.default_rng(8)
    data, variance = (rng.uniform(1, 2, (1, NX, NY)).astype(">f4").transpose(0, 2, 1) for _ in range(2))
    factor = rng.uniform(1, 2, (NX, NY)).T
    options = {"factor": True, "relative": False, "more": False, "match": True}
    out, flags, scaled = scale_frames(data, np.zeros((1, NY, NX), ">u4"), factor, variance, **options)
    np.testing.assert_allclose(out[0], data[0] * factor, rtol=3e-7)
    np.testing.assert_allclose(scaled[0], variance[0] * factor**2, rtol=3e-7)
    assert out.dtype == "float32"
    assert not flags.any()


def test_flat_factor_of_every_kind_of_pixel():
    no_flat, unreliable = dq.NO_FLAT_FIELD, dq.FLAGS["UNRELIABLE_FLAT"]
    flat = np.array([[2.0, np.nan, 0.0, np.inf, 2.0, 2.0, 2.0, -2.0]], "f4")
    flags = np.array([[0, 0, 0, 0, no_flat, 1, unreliable, 0]], "u4")
    factor, relative, out = flat_factor(flat, np.full_like(flat, 0.1), flags)
    np.testing.assert_allclose(factor, [[0.5, 1, 1, 1, 1, 1, 0.5, -0.5]])
    np.testing.assert_allclose(relative, [[0.05, 0.1, 0.1, 0.1, 0.1, 0.1, 0.05, -0.05]])
    bad = no_flat | 1
    np.testing.assert_array_equal(out, [[0, bad, bad, bad, bad, 1, unreliable, 0]])


def test_every_step_carries_every_variance():
    ds, refs = rate_ds(), references()
    out = calibrated(ds, refs)
    factor = (refs["photom"].conversion / refs["flat"].flat / refs["fringe"].fringe).values
    for name in set(VARIANCES) - {"var_flat"}:
        np.testing.assert_allclose(out[name], ds[name] * factor**2, rtol=2e-6, err_msg=name)
        assert out[name].attrs["units"] == "MJy2/sr2"
    np.testing.assert_allclose(out.var_flat, (0.02 * out.flux) ** 2, rtol=2e-6)


def test_errors_of_the_references_become_variances():
    ds, refs = rate_ds(variances=("var_poisson", "var_read")), references()
    out = assert_step(cal.divide_fringe_flat, ds, fringe=refs["fringe"], propagate_errors=True)
    np.testing.assert_allclose(out.var_fringe, (0.02 * out.rate) ** 2, rtol=2e-6)
    full = calibrated(ds, refs, propagate_errors=True)
    for name in ("var_flat", "var_fringe", "var_photom"):
        np.testing.assert_allclose(full[name], (0.02 * full.flux) ** 2, rtol=5e-6, err_msg=name)
    plain = calibrated(ds, refs)
    assert not {"var_fringe", "var_photom"} & set(plain)
    xr.testing.assert_identical(plain.flux, full.flux)
    xr.testing.assert_identical(plain.var_read, full.var_read)


@pytest.mark.parametrize("kinds", [("flat",), ("fringe",), ("photom",), ("flat", "fringe", "photom")])
def test_pulls_of_perturbed_references_have_width_one(kinds):
    ds, refs = rate_ds(level=300.0, variances=("var_poisson", "var_read")), references()
    truth, rng, pulls = calibrated(ds, refs), np.random.default_rng(9), []
    noise = np.sqrt((ds.var_poisson + ds.var_read).values)
    names = {"flat": "flat", "fringe": "fringe", "photom": "conversion"}
    for _ in range(12):
        moved = dict(refs)
        for kind in kinds:
            value, error = refs[kind][names[kind]], refs[kind][f"{names[kind]}_err"]
            shift = (error.values * rng.standard_normal(error.shape)).astype("f4")
            moved[kind] = refs[kind].assign({names[kind]: value + shift})
        noisy = ds.assign(rate=ds.rate + (noise * rng.standard_normal(noise.shape)).astype("f4"))
        out = calibrated(noisy, moved, propagate_errors=True)
        parts = ["var_poisson", "var_read", *(f"var_{kind}" for kind in kinds)]
        pulls.append((out.flux - truth.flux).values / np.sqrt(sum(out[p].values for p in parts)))
    pulls = np.array(pulls)
    assert np.std(pulls) == pytest.approx(1.0, abs=0.015)  # 23 040 samples: +- 0.005, 2 % of error square: 0.0012
    two = pulls[:, 0], pulls[:, 1]
    if kinds != ("flat", "fringe", "photom"):
        return
    correlation = np.corrcoef(two[0].ravel(), two[1].ravel())[0, 1]
    assert correlation > 0.8  # the dithers share the error of the references: a mean over them does not lower it


def test_nothing_is_computed_and_chunks_stay():
    ds, refs = rate_ds(), references()
    lazy = ds.chunk(dither=1)
    chunked = {k: r.chunk(y=8) for k, r in refs.items()}
    chunked["photom"] = chunked["photom"].assign(pixel_area=refs["photom"].pixel_area)
    with no_compute():
        out = calibrated(lazy, chunked, propagate_errors=True)
    assert out.flux.chunks == lazy.rate.chunks
    xr.testing.assert_allclose(out.compute(), calibrated(ds, refs, propagate_errors=True), rtol=1e-6)


def test_pathological_pixels_are_flagged_and_nothing_is_raised():
    ds, refs = rate_ds(variances=("var_poisson", "var_read")), references()
    ds.rate.values[:] = np.nan
    out = calibrated(ds, refs, propagate_errors=True)
    assert (out.dq == dq.DO_NOT_USE).all()
    for name in ("flux", "var_poisson", "var_flat", "var_fringe", "var_photom"):
        assert np.isnan(out[name]).all()
    dark = rate_ds(variances=("var_poisson", "var_read"))
    dark.rate.values[:] = 0
    out = calibrated(dark, refs, propagate_errors=True)
    assert (out.flux == 0).all()
    assert (out.var_photom == 0).all()
    assert (out.dq == 0).all()
    nothing = dict(refs, flat=refs["flat"].assign(flat=refs["flat"].flat * np.float32(0)))
    out = calibrated(rate_ds(), nothing)
    assert (out.dq == dq.NO_FLAT_FIELD | dq.DO_NOT_USE).all()
    assert np.isnan(out.flux).all()


def test_fringe_values_of_no_use_count_as_one():
    ds, refs = rate_ds(variances=("var_poisson", "var_read")), references()
    fringe = refs["fringe"].copy(deep=True)
    fringe.fringe.values[0, :3] = np.nan, 0, np.inf
    fringe.fringe_err.values[1, 0] = np.nan
    fringe.dq.values[:] = dq.DO_NOT_USE
    out = cal.divide_fringe_flat(ds, fringe=fringe, propagate_errors=True)
    assert (out.rate[:, 0, :3] == ds.rate[:, 0, :3]).all()
    assert (out.var_fringe[:, 0, :3] == 0).all()
    assert (out.var_fringe[:, 1, 0] == 0).all()
    assert (out.dq == 0).all()
    again = out.assign_attrs(fringe_flat=0)
    back = cal.divide_fringe_flat(again, fringe=fringe.assign(fringe=1 / fringe.fringe.where(fringe.fringe != 0, 1)))
    np.testing.assert_allclose(back.rate, ds.rate, rtol=3e-7)


def test_references_that_do_not_fit_are_refused():
    ds, refs = rate_ds(), references()
    for kind, step, image in (("flat", cal.divide_flat, "flat"), ("fringe", cal.divide_fringe_flat, "fringe")):
        ref = refs[kind]
        with pytest.raises(ReferenceFileError, match=f"the {kind} reference is missing"):
            step(ds, **{kind: None})
        with pytest.raises(ReferenceFileError, match=f"{kind} reference {kind}_made.fits has 23 rows"):
            step(ds, **{kind: ref.isel(y=slice(1, None))})
        with pytest.raises(ReferenceFileError, match=f"'{image}' has .*group: 2"):
            step(ds, **{kind: ref.expand_dims(group=2)})
        with pytest.raises(ReferenceFileError, match=f"expected a reference of kind {kind}, got one of kind gain"):
            step(ds, **{kind: ref.assign_attrs(kind="gain")})
        with pytest.raises(ReferenceFileError, match="for band LONG, expected SHORT"):
            step(ds, **{kind: ref.assign_attrs(band="LONG")})
    bare = refs["fringe"].drop_vars("fringe_err")
    with pytest.raises(ReferenceFileError, match="has no 'fringe_err'"):
        cal.divide_fringe_flat(ds, fringe=bare, propagate_errors=True)
    image = reference_images(ds, bare.assign_attrs(band="", detector="N/A"), "fringe", ["fringe"])[0]
    assert image.dims == ("y", "x")


@pytest.mark.parametrize("level", [40.0, 900.0])
def test_pixels_scatter_by_the_error_in_their_file(level, tmp_path):
    """Ramps by plain numpy of a bright source, slopes and flux conversion as in optimal: pulls of what ERR says."""
    rng, groups, gain, read = np.random.default_rng(11), 22, 5.1, 3.4
    truth = level * rng.uniform(0.6, 1.4, (NY, NX)) * 4
    charge = np.cumsum(rng.poisson(truth * 2.775 * gain, (groups, 60, NY, NX)), axis=0) / gain
    ramps = charge + rng.normal(0, read, charge.shape)
    dims = ("dither", "integration", "group", "y", "x")
    ds = rate_ds(n_dither=60)
    sci = np.moveaxis(ramps, 0, 1)[:, None].astype("f4")
    ds = ds.drop_vars([*VARIANCES, "rate", "dq"]).assign_attrs(level="ramp", group_time=2.775)
    ds = ds.assign(
        sci=(dims, sci, {"units": "DN"}), group_dq=(dims, np.zeros(sci.shape, "u1"), dict(dq.GROUP_DQ_ATTRS))
    )
    ds = ds.assign(pixel_dq=(("dither", "y", "x"), np.zeros((60, NY, NX), "u4"), dict(dq.PIXEL_DQ_ATTRS)))
    ones = np.ones((NY, NX), "f4")
    rates = fit_ramps(
        ds, method="gls", gain=make_reference("gain", gain=5.1 * ones),
        readnoise=make_reference("readnoise", read_noise=np.float32(np.sqrt(2) * read) * ones),
    )  # fmt: skip
    photom = references(error=0.015)["photom"]
    out = cal.calibrate_flux(rates, photom=photom, propagate_errors=True)
    save(out.isel(dither=[0]), tmp_path)
    told = fits.getdata(next(tmp_path.glob("*_cal.fits")), "ERR")
    error = np.sqrt(sum(out[name] for name in SCATTER if name in out)).values
    np.testing.assert_allclose(told, error[0], rtol=1e-5)
    pulls = (out.flux.values - truth * photom.conversion.values) / error
    assert pulls.std() == pytest.approx(1.0, abs=0.02)
    with_all = pulls * error / np.sqrt(error**2 + out.var_photom.values)
    assert with_all.std() < 0.9
