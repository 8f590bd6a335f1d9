"""Residual fringes of spectra: columns RF_ as jwst has them."""

import numpy as np
import pytest
from helpers import assert_step
from test_stitch import make_spectrum
from threadpoolctl import threadpool_info, threadpool_limits

from mrsxr import schema
from mrsxr.errors import MrsxrError
from mrsxr.fringes import _group_kernels, correct_spectra
from mrsxr.notes import notes_of
from mrsxr.spectrum import stitch_bands
from mrsxr.spectrum.fringe_1d import correct_residual_fringe_1d
from mrsxr.threads import _aside


def fringed(band="2B", amplitude=0.02):
    ds = make_spectrum(band, every=1)
    wave = 1 + amplitude * np.cos(2 * np.pi * 1e4 / ds.wavelength.values / 2.9)
    noise = 1 + np.random.default_rng(2).normal(0, 5e-4, wave.size)
    out = ds.copy()
    for name in ("flux", "surface_brightness"):
        out[name] = (ds[name] * wave * noise).assign_attrs(ds[name].attrs)
    out["aperture_correction"] = ("wavelength", np.linspace(1.1, 1.3, wave.size), {"units": "1"})
    return out, ds


def test_small_matrices_take_one_thread_of_blas(monkeypatch):
    """With two, that wait for each other, a spectrum of channel 3 took 7 s of CPU for 0.5 s."""
    limits, seen, fit = [], [], _group_kernels.correct_group

    def look(*given):
        seen.append({one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"})
        return fit(*given)

    monkeypatch.setattr(_group_kernels, "correct_group", look)
    _aside(lambda: limits.append(threadpool_limits(3, user_api="blas")))  # also where the machine has one core
    try:
        correct_spectra(np.linspace(10.1, 11.6, 60), np.ones(60), channel=2, method="slices")
    finally:
        _aside(limits[0].restore_original_limits)
    assert seen == [{1}]


@pytest.mark.parametrize("method", ["columns", "slices"])
def test_fringes_go_and_the_flux_stays(method):
    ds, clean = fringed()
    out = assert_step(correct_residual_fringe_1d, ds, method=method)
    inner = slice(40, -40)
    before, after = (np.std((f / clean.flux).values[inner]) for f in (ds.flux, out.rf_flux))
    assert before > 0.013
    assert after < 0.1 * before
    np.testing.assert_array_equal(out.flux, ds.flux)
    np.testing.assert_allclose(out.rf_surf_bright / out.surface_brightness, out.rf_flux / out.flux, rtol=1e-3)
    # of a smooth spectrum jwst's fit, ended early, leaves a trace
    np.testing.assert_allclose(out.rf_background, out.background, rtol=0 if method == "slices" else 1e-3)
    schema.validate(out)


def test_a_spectrum_that_does_not_gain_stays_as_it_is():
    taken = correct_residual_fringe_1d(fringed()[0], method="slices")
    assert float(taken.score_residual_fringe) < 0.5
    ds, _ = fringed(amplitude=0.0)
    out = correct_residual_fringe_1d(ds, method="slices")
    assert not float(out.score_residual_fringe) < 1
    np.testing.assert_allclose(out.rf_flux, out.flux, rtol=1e-12)
    assert "score_residual_fringe" not in correct_residual_fringe_1d(ds)


def test_variances_follow():
    ds, _ = fringed()
    out = correct_residual_fringe_1d(ds)
    np.testing.assert_allclose(out.rf_flux_var, out["var"] * (out.rf_flux / out.flux) ** 2, rtol=1e-6)
    assert out.rf_flux.attrs["units"] == "Jy"
    assert out.rf_flux_var.attrs["units"] == "Jy2"


def test_flux_is_fitted_in_the_unit_of_jwst():
    ds, _ = fringed()
    sums = (ds.surface_brightness / ds.aperture_correction).values
    same = ds.assign(flux=(ds.surface_brightness * 1e6 * 1.35e-12).assign_attrs(ds.flux.attrs))
    out = correct_residual_fringe_1d(same.assign_attrs(pixel_area_sr=1.35e-12))
    alone, _ = correct_spectra(ds.wavelength.values, sums, channel=2)
    np.testing.assert_allclose(out.rf_flux, alone * 1e6 * 1.35e-12 * ds.aperture_correction, rtol=1e-12)
    small = correct_residual_fringe_1d(same.assign(flux=1e-9 * same.flux).assign_attrs(pixel_area_sr=1e-6))
    assert np.std(small.rf_flux / out.rf_flux / 1e-9) > 1e-7
    late = correct_residual_fringe_1d(same.assign_attrs(pixel_area_sr=1.35e-12), tolerance=0.0)
    assert 0 < np.std(late.rf_flux / out.rf_flux) < 1e-3


def test_an_earlier_correction_is_noted():
    ds, _ = fringed()
    plain = correct_residual_fringe_1d(ds)
    assert "notes" not in plain.attrs
    for mark, where in (("residual_fringe", "on the detector"), ("residual_fringe_cube", "in the cube")):
        out = correct_residual_fringe_1d(ds.assign_attrs({mark: 1}))
        assert f"found {where} were corrected before" in out.attrs["notes"][0]
        np.testing.assert_array_equal(out.rf_flux, plain.rf_flux)


def test_spectrum_of_nan_stays_nan():
    ds, _ = fringed()
    out = correct_residual_fringe_1d(ds.assign(flux=ds.flux * np.nan))
    assert np.isnan(out.rf_flux).all()
    assert np.isfinite(out.rf_surf_bright).all()


def test_stitched_spectra_are_refused_before_and_carried_after():
    bands = [correct_residual_fringe_1d(fringed(band)[0]) for band in ("2A", "2B")]
    bands[1] = bands[1].assign({n: (1.1 * bands[1][n]).assign_attrs(bands[1][n].attrs) for n in ("flux", "rf_flux")})
    for overlap in ("cut", "average"):
        out = stitch_bands(bands, method="multiplicative", overlap=overlap)
        ratio = (out.rf_flux / out.flux).values
        assert np.isfinite(ratio).all()
        assert float(out.scale[-1]) == pytest.approx(1 / 1.1, rel=5e-3)
        np.testing.assert_allclose(out.rf_flux[-50:], bands[1].rf_flux[-50:] * out.scale[-50:].values, rtol=1e-12)
    with pytest.raises(MrsxrError, match="band MULTIPLE; fringes are corrected band by band"):
        correct_residual_fringe_1d(out)
    twice = correct_residual_fringe_1d(bands[0])  # of flux, which stays as it is
    np.testing.assert_array_equal(twice.rf_flux, bands[0].rf_flux)


def test_bands_without_dichroics_stay_where_theirs_alone_are_wanted():
    spectra = [fringed(band)[0] for band in ("2C", "3A")]
    done = [correct_residual_fringe_1d(ds, dichroic_only=True) for ds in spectra]
    np.testing.assert_array_equal(done[0].rf_flux, spectra[0].flux)
    np.testing.assert_array_equal(done[0].rf_flux_var, spectra[0]["var"])
    assert "no fringes of the dichroics" in notes_of(done[0])[-1]
    assert not notes_of(done[1])
    assert stitch_bands(done).rf_flux.notnull().all()
