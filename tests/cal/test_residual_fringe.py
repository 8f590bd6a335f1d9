"""Step residual_fringe on a small detector: promises, both methods, both levels, errors, pathologies."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step, detector_attrs, dither_coords, no_compute

from mrsxr import dq
from mrsxr.cal.residual_fringe import correct_residual_fringe
from mrsxr.errors import LevelError, MrsxrError, ReferenceFileError
from mrsxr.step import read_history
from mrsxr.tree import join_dithers

NY, NX = 512, 40
SLICES = {101: slice(3, 15), 201: slice(25, 37)}
DIMS = ("dither", "y", "x")


def fringefreq(labels=(101, 201), band="SHORT", **changes):
    n = len(labels)
    one = {"ffreq": 2.9, "dffreq": 1.5, "max_nfringes": 10.0, "min_snr": 10.0, "pgram_res": 0.001}
    planes = {k: (("band", "slice_label", "family"), np.full((1, n, 1), changes.get(k, v))) for k, v in one.items()}
    return xr.Dataset(
        {**planes, "min_nfringes": (("band", "slice_label"), np.zeros((1, n))),
         "max_amplitude": ("wavelength", [0.2, 0.1])},
        {"band": [band], "slice_label": np.array(labels), "wavelength": [4.5, 29.0]},
        {"kind": "fringefreq", "ref_id": "fringefreq_made.fits"},
    )  # fmt: skip


def made(level="cal", depth=0.05, bright=200.0):
    """Return (Dataset of two dithers, noiseless data with fringes, without)."""
    rng = np.random.default_rng(3)
    y = np.arange(NY)[:, None]
    labels, wave, alpha = np.zeros((NY, NX), "i2"), np.full((NY, NX), np.nan), np.full((NY, NX), np.nan)
    clean, pattern = np.ones((NY, NX)), np.ones((NY, NX))
    for label, columns in SLICES.items():
        start = 4.9 if label == 101 else 7.5
        n = columns.stop - columns.start
        labels[:, columns] = label
        wave[:, columns] = start + 8e-4 * y + 1e-5 * np.arange(n)
        alpha[:, columns] = 0.2 * (np.arange(n) - 5)
        clean[:, columns] = bright * np.exp(-0.5 * ((np.arange(n) - 5) / 3) ** 2) + 2
        pattern[:, columns] = 1 + depth * np.cos(2 * np.pi * 1e4 / wave[:, columns] / 2.88 + 0.04 * np.arange(n))
    name, unit = ("flux", "MJy/sr") if level == "cal" else ("rate", "DN/s")
    square = "MJy2/sr2" if level == "cal" else "DN2/s2"
    data = clean * pattern + 0.5 * rng.standard_normal((2, NY, NX))
    data[:, labels == 0] = np.nan
    variables = {name: (DIMS, data.astype("f4"), {"units": unit})}
    for plane, value in (("var_poisson", 0.24), ("var_read", 0.01), ("var_flat", 0.0)):
        variables[plane] = (DIMS, np.full(data.shape, value, "f4"), {"units": square})
    variables["dq"] = (DIMS, np.where(np.isnan(data), dq.DO_NOT_USE, 0).astype("u4"), dq.PIXEL_DQ_ATTRS)
    ds = xr.Dataset(
        variables, coords={"y": np.arange(NY), "x": np.arange(NX), **dither_coords(2)},
        attrs=detector_attrs(level, "12A", 10, 2),
    )  # fmt: skip
    grids = {"slice": (labels, "1"), "wavelength": (wave, "um"), "alpha": (alpha.astype("f4"), "arcsec")}
    ds = ds.assign_coords({k: (("y", "x"), v, {"units": u}) for k, (v, u) in grids.items()})
    ds.attrs["fringe_flat"] = 1
    return ds, clean * pattern, clean


@pytest.mark.parametrize("level", ["cal", "rate"])
@pytest.mark.parametrize("method", ["columns", "slices"])
def test_step(level, method):
    ds, fringed, clean = made(level)
    name = "flux" if level == "cal" else "rate"
    out = assert_step(correct_residual_fringe, ds, fringefreq=fringefreq(), method=method)
    core = np.s_[:, :, 6:11]
    left = (fringed * out[name].values / ds[name].values / clean - 1)[core]
    assert np.std(left) < 0.1 * np.std((fringed / clean - 1)[:, 6:11])
    for plane in ("dq", "var_poisson", "var_read", "var_flat"):
        np.testing.assert_array_equal(out[plane], ds[plane])
    np.testing.assert_array_equal(np.isnan(out[name]), np.isnan(ds[name]))
    assert out[name].attrs == ds[name].attrs
    assert ("var_fringe" in out) == ("score_residual_fringe" in out) == (method == "slices")
    if method == "slices":
        assert out.var_fringe.dtype == "float32"
        assert out.var_fringe.attrs["units"] == ds.var_poisson.attrs["units"]
        error = (fringed * out[name].values / ds[name].values - clean)[core]
        assert 0.3 < np.sqrt(np.mean(error**2) / np.mean(out.var_fringe.values[core])) < 3
    entry = read_history(out)[-1]
    assert entry["refs"] == {"fringefreq": "fringefreq_made.fits"}
    assert entry["params"]["method"] == method


def test_a_variance_of_the_fringe_flat_is_kept():
    ds, _, _ = made()
    plain = correct_residual_fringe(ds, fringefreq=fringefreq(), method="slices")
    more = ds.assign(var_fringe=ds.var_poisson + 1)
    out = correct_residual_fringe(more, fringefreq=fringefreq(), method="slices")
    np.testing.assert_allclose(out.var_fringe, plain.var_fringe + more.var_fringe, rtol=1e-6)


def drifting(ds, clean, *, depth=1.0, noise=0.5, seed=4):
    """Return the Dataset with fringes of three periods whose phases and depths drift, as no reference says."""
    wave, alpha = ds.wavelength.values, np.nan_to_num(ds.alpha.values.astype(float))
    pattern, t = np.ones(wave.shape), np.linspace(-1, 1, NY)[:, None]
    for period, height, drift in ((2.9, 0.022, 0.7), (2.72, 0.012, -0.5), (3.1, 0.008, 1.1)):
        phase = 2 * np.pi * 1e4 / wave / period + drift * alpha + 1.5 * t**2 + t**3
        pattern += np.nan_to_num(depth * height * (1 + 0.3 * t) * np.cos(phase))
    data = clean * pattern + noise * np.random.default_rng(seed).standard_normal((2, NY, NX))
    return ds.assign(flux=(DIMS, np.where(ds.slice > 0, data, np.nan).astype("f4"), ds.flux.attrs)), pattern


def test_lines_are_kept_and_drifting_fringes_fall():
    ds, _, clean = made()
    fringed, pattern = drifting(ds, clean)
    without = correct_residual_fringe(fringed, fringefreq=fringefreq(), method="slices").flux.values
    core = np.s_[:, :, 6:11]
    left = without / fringed.flux.values * pattern - 1
    assert np.std(left[core]) < 0.7 * np.std(pattern[:, 6:11])
    wave = ds.wavelength.values
    for sigma, share, at in ((80.0, 0.3, 5.02), (160.0, 0.08, 5.13)):
        line = np.nan_to_num(share * clean * np.exp(-0.5 * ((wave / at - 1) * 299792.458 / sigma) ** 2))
        lit = fringed.assign(flux=fringed.flux + (line * pattern).astype("f4"))
        found = correct_residual_fringe(lit, fringefreq=fringefreq(), method="slices").flux.values - without
        wanted = line * pattern * without / fringed.flux.values
        kept = found[core].sum(axis=(1, 2)) / wanted[core].sum(axis=(1, 2))
        np.testing.assert_allclose(kept, 1, atol=0.03)


def test_what_shows_no_gain_stays_as_it_is():
    ds, _, clean = made()
    plain, _ = drifting(ds, clean, depth=0.0)
    out = correct_residual_fringe(plain, fringefreq=fringefreq(), method="slices")
    scores = out.score_residual_fringe
    assert scores.dims == ("dither", "slice_label")
    for d in range(2):
        for n, label in enumerate(SLICES):
            here = (ds.slice == label).values
            same = (out.flux.values[d][here] == plain.flux.values[d][here]).all()
            assert same or scores.values[d, n] < 1
            assert np.abs(out.flux.values[d][here] / plain.flux.values[d][here] - 1).max() < 0.01
    fringed, _ = drifting(ds, clean)
    assert (
        correct_residual_fringe(fringed, fringefreq=fringefreq(), method="slices").score_residual_fringe[:, 0] < 0.9
    ).all()
    blind = fringed.assign(flux=fringed.flux.where(ds.slice != 201))
    judged = correct_residual_fringe(blind, fringefreq=fringefreq(), method="slices").score_residual_fringe
    assert np.isnan(judged[:, 1]).all()
    assert not np.isnan(judged[:, 0]).any()


def test_lazy_data_stay_in_their_chunks():
    ds, _, _ = made()
    lazy = ds.assign({name: ds[name].chunk({"dither": 1, "y": 200}) for name in ds.data_vars})
    with no_compute():
        out = correct_residual_fringe(lazy, fringefreq=fringefreq(), method="slices")
    assert out.flux.chunks == lazy.flux.chunks
    assert out.var_fringe.chunks == lazy.flux.chunks
    assert out.score_residual_fringe.chunks[0] == (1, 1)


def test_limits_of_the_reference_hold():
    ds, _, _ = made()
    for changes in ({"min_snr": 1e4}, {"max_nfringes": 0.0}, {"ffreq": 0.0}, {"ffreq": 200.0}, {"dffreq": 0.0}):
        for method in ("columns", "slices"):
            out = correct_residual_fringe(ds, fringefreq=fringefreq(**changes), method=method)
            xr.testing.assert_equal(out.flux, ds.flux)
    only = correct_residual_fringe(ds, fringefreq=fringefreq(labels=(101,)))
    assert (only.flux != ds.flux)[:, :, 8].any()
    np.testing.assert_array_equal(only.flux[..., 20:], ds.flux[..., 20:])


@pytest.mark.parametrize("method", ["columns", "slices"])
def test_pathologies(method):
    ds, _, _ = made()
    first = xr.DataArray(ds.slice.values == 101, dims=("y", "x"))
    every = ds.dq | np.uint32(dq.DO_NOT_USE)
    cases = {
        "flagged": ds.assign(dq=ds.dq.where(~first, every).astype("uint32")),
        "zero": ds.assign(flux=ds.flux.where(~first, np.float32(0))),
        "NaN": ds.assign(flux=ds.flux.where(~first)),
        "negative": ds.assign(flux=ds.flux.where(~first, -ds.flux)),
    }
    for case in cases.values():
        out = correct_residual_fringe(case, fringefreq=fringefreq(), method=method)
        np.testing.assert_array_equal(out.flux.where(first), case.flux.where(first))
        assert (out.flux != case.flux).where(ds.slice == 201)[:, :, 28].any()
        np.testing.assert_array_equal(out.dq, case.dq)


def test_errors():
    ds, _, _ = made()
    good = {"fringefreq": fringefreq()}
    with pytest.raises(MrsxrError, match="expected one of columns, slices"):
        correct_residual_fringe(ds, **good, method="rows")
    with pytest.raises(MrsxrError, match="of some width"):
        correct_residual_fringe(ds, **good, ignore_regions=[(6.0, 6.0)])
    with pytest.raises(MrsxrError, match="snr_share"):
        correct_residual_fringe(ds, **good, snr_share=-1.0)
    with pytest.raises(MrsxrError, match="run assign_wcs before"):
        correct_residual_fringe(ds.drop_vars("wavelength"), **good)
    bare = ds.assign_attrs(fringe_flat=0)
    with pytest.raises(MrsxrError, match="run divide_fringe_flat before"):
        correct_residual_fringe(bare, **good)
    with pytest.raises(MrsxrError, match="corrected already, again it would count twice"):
        correct_residual_fringe(correct_residual_fringe(ds, **good), **good)
    mixed = join_dithers([ds.isel(dither=[1]), bare.isel(dither=[0])])
    with pytest.raises(MrsxrError, match=f"not divided in {bare.exposure.values[0]} .1 of 2 exposures.; run divide"):
        correct_residual_fringe(mixed, **good)
    with pytest.raises(ReferenceFileError, match="fringefreq reference is missing"):
        correct_residual_fringe(ds, fringefreq=None)
    with pytest.raises(ReferenceFileError, match="has no 'ffreq'"):
        correct_residual_fringe(ds, fringefreq=xr.Dataset(attrs={"kind": "fringefreq"}))
    with pytest.raises(ReferenceFileError, match="has no band SHORT"):
        correct_residual_fringe(ds, fringefreq=fringefreq(band="LONG"))
    with pytest.raises(ReferenceFileError, match="other detector"):
        correct_residual_fringe(ds, fringefreq=fringefreq(labels=(301, 401)))
    with pytest.raises(LevelError):
        correct_residual_fringe(ds.assign_attrs(level="ramp"), **good)
