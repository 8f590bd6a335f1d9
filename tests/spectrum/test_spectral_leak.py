"""The second-order light of band 1B in band 3A."""

import re

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step

from mrsxr import dq, schema
from mrsxr.errors import MrsxrError, MrsxrWarning, ReferenceFileError
from mrsxr.io._keywords import step_keywords
from mrsxr.notes import notes_of
from mrsxr.spectrum.spectral_leak import correct_spectral_leak
from mrsxr.step import read_history


def make_spectrum(band, low, high, flux, error=0.0, kind="POINT", n=400):
    wave = np.linspace(low, high, n)
    value = flux(wave)

    def column(values, unit):
        return ("wavelength", np.asarray(values, dtype=float), {"units": unit})

    variables = {
        "flux": column(value, "Jy"), "var": column(np.full(n, error**2), "Jy2"),
        "surface_brightness": column(50 * value, "MJy/sr"),
        "surface_brightness_var": column(np.full(n, (50 * error) ** 2), "MJy2/sr2"),
        "background": column(np.zeros(n), "MJy/sr"), "n_pixels": column(np.ones(n), "1"),
        "dq": ("wavelength", np.zeros(n, dtype="u4"), dq.PIXEL_DQ_ATTRS),
    }  # fmt: skip
    coords = {"wavelength": ("wavelength", wave, {"units": "um"}), "band": ("wavelength", np.full(n, band))}
    return schema.validate(
        xr.Dataset(variables, coords, {"level": "spectrum", "band": band, "source_type": kind, "history_json": "[]"})
    )


def blue(wave):
    return 2.0 + 0.1 * (wave - 6.0)


def red(wave):
    return 0.3 + 0.02 * (wave - 12.0)


@pytest.fixture
def reference():
    wave = np.arange(11.4, 13.6, 0.01)
    fraction = 0.0275 * np.exp(-(((wave - 12.217) / 0.1) ** 2))
    variables = {"frac_leak": ("wavelength", fraction), "err_leak": ("wavelength", 0.03 * fraction)}
    attrs = {"level": "reference", "kind": "mrsptcorr", "ref_id": "ptcorr.fits"}
    return xr.Dataset(variables, {"wavelength": wave}, attrs)


def leaky(reference):
    def total(wave):
        fraction = np.interp(wave, reference.wavelength, reference.frac_leak)
        return red(wave) + fraction * blue(wave / 2)

    return make_spectrum("3A", 11.55, 13.47, total, 0.001)


def test_leak_is_removed_from_flux_and_brightness(reference):
    ds = leaky(reference)
    assert np.abs(ds.flux / red(ds.wavelength) - 1).max() > 0.15
    out = assert_step(
        correct_spectral_leak, ds, leaking=make_spectrum("1B", 5.66, 6.63, blue, 0.01), mrsptcorr=reference
    )
    np.testing.assert_allclose(out.flux, red(ds.wavelength), rtol=1e-5)
    np.testing.assert_allclose(out.surface_brightness, 50 * red(ds.wavelength), rtol=1e-5)
    np.testing.assert_allclose(out.leak, ds.flux - out.flux, atol=1e-12)
    schema.validate(out)
    assert "spectral_leak" in out.attrs["history_json"]


def test_variance_grows_by_both_errors(reference):
    ds = leaky(reference)
    out = correct_spectral_leak(ds, leaking=make_spectrum("1B", 5.66, 6.63, blue, 0.01), mrsptcorr=reference)
    fraction = np.interp(ds.wavelength, reference.wavelength, reference.frac_leak)
    wanted = 0.001**2 + (0.01 * fraction) ** 2 + (blue(ds.wavelength / 2) * 0.03 * fraction) ** 2
    np.testing.assert_allclose(out["var"], wanted, rtol=1e-4)


def test_light_taken_off_the_cube_leaves_its_variance(reference):
    ds, partner = leaky(reference), make_spectrum("1B", 5.66, 6.63, blue, 0.01)
    whole = correct_spectral_leak(ds, leaking=partner, mrsptcorr=reference)
    out = correct_spectral_leak(ds, leaking=partner, mrsptcorr=reference, in_cube=True)
    np.testing.assert_array_equal(out.flux, ds.flux)
    for name in ("var", "surface_brightness_var", "leak"):
        np.testing.assert_array_equal(out[name], whole[name])


@pytest.mark.parametrize("kind", ["POINT", "EXTENDED"])
def test_area_of_3a_counts(reference, kind):
    """Of a field twice as large as that of 1B: as much flux of a POINT, as much brightness of EXTENDED light."""
    ds, partner = (
        make_spectrum(band, *limits, blue, kind=kind) for band, *limits in (("3A", 11.6, 13.4), ("1B", 5.7, 6.6))
    )
    for one, pixels in ((ds, 20.0), (partner, 10.0)):
        one.attrs["pixel_area_sr"] = 1e-9
        one["n_pixels"][:] = pixels
        one["surface_brightness"][:] = one.flux.values / (pixels * 1e-3)
        one["surface_brightness_var"][:] = 0.0
    out = correct_spectral_leak(ds, leaking=partner, mrsptcorr=reference)
    fraction = np.interp(ds.wavelength, reference.wavelength, reference.frac_leak)
    lost = blue(ds.wavelength / 2) * fraction * (1.0 if kind == "POINT" else 2.0)
    np.testing.assert_allclose(ds.flux - out.flux, lost, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(ds.surface_brightness - out.surface_brightness, lost / 20e-3, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(out.surface_brightness_var, out["var"] / 20e-3**2, rtol=1e-5)


def test_samples_without_data_in_1b_are_bridged(reference):
    blind = make_spectrum("1B", 5.66, 6.63, blue)
    blind["flux"][150:160] = np.nan
    out = correct_spectral_leak(leaky(reference), leaking=blind, mrsptcorr=reference)
    np.testing.assert_allclose(out.flux, red(out.wavelength), rtol=1e-5)


def steep(wave):
    return 0.5 + 4.0 * (wave - 5.66) ** 2


def test_order_flags_and_gaps_of_either_do_not_count(reference):
    partner = make_spectrum("1B", 5.66, 6.63, steep)
    ds = leaky(reference)
    wanted = correct_spectral_leak(ds, leaking=partner, mrsptcorr=reference)
    flagged = partner.copy(deep=True)
    flagged["flux"][182:190] *= 30.0
    flagged["dq"][182:190] = dq.DO_NOT_USE
    holes = reference.copy(deep=True)
    holes["frac_leak"][79:82] = np.nan
    for blues, table, close in (
        (partner.isel(wavelength=slice(None, None, -1)), reference.isel(wavelength=slice(None, None, -1)), 1e-12),
        (flagged, reference, 3e-5),
        (partner, holes, 2e-3),
    ):
        out = correct_spectral_leak(ds, leaking=blues, mrsptcorr=table)
        np.testing.assert_allclose(out.flux, wanted.flux, atol=close)
        assert not notes_of(out)


def test_leaks_of_light_that_is_not_known_are_told(reference):
    for low, high, text in ((5.66, 6.05, "end at 5.660 and 6.050 um"), (6.15, 6.63, "at 12.05 to 12.30 um")):
        out = correct_spectral_leak(
            leaky(reference), leaking=make_spectrum("1B", low, high, steep), mrsptcorr=reference
        )
        (note,) = notes_of(out)
        assert re.search(text, note)


@pytest.mark.parametrize(("factor", "text"), [(-1.0, "frac_leak is -0.02"), (60.0, "to 1.64852; expected 0 to 1")])
def test_fractions_that_are_none_are_refused(reference, factor, text):
    table = reference.assign(frac_leak=factor * reference.frac_leak)
    with pytest.raises(ReferenceFileError, match=text):
        correct_spectral_leak(leaky(reference), leaking=make_spectrum("1B", 5.66, 6.63, blue), mrsptcorr=table)


def test_other_bands_are_left_alone(reference):
    ds = make_spectrum("2A", 7.5, 8.7, blue)
    out = correct_spectral_leak(ds, leaking=make_spectrum("1B", 5.66, 6.63, blue), mrsptcorr=reference)
    xr.testing.assert_equal(out, ds)


def test_wrong_partners_are_refused(reference):
    ds = leaky(reference)
    extended = make_spectrum("1B", 5.66, 6.63, blue, kind="EXTENDED")
    without_table = reference.drop_vars(["frac_leak", "err_leak"])
    with pytest.raises(MrsxrError, match="of band 1A; expected 1B"):
        correct_spectral_leak(ds, leaking=make_spectrum("1A", 4.9, 5.7, blue), mrsptcorr=reference)
    with pytest.raises(MrsxrError, match="POINT and EXTENDED; extract them alike"):
        correct_spectral_leak(ds, leaking=extended, mrsptcorr=reference)
    with pytest.raises(ReferenceFileError, match="no table LEAKCOR"):
        correct_spectral_leak(ds, leaking=make_spectrum("1B", 5.66, 6.63, blue), mrsptcorr=without_table)


def test_a_leaking_band_without_light_leaves_the_other_as_it_is(reference):
    ds, nothing = leaky(reference), make_spectrum("1B", 5.7, 6.6, lambda w: np.full_like(w, np.nan))
    with pytest.warns(MrsxrWarning, match="band 1B has no good sample: its light of the second order stays in 3A"):
        out = correct_spectral_leak(ds, leaking=nothing, mrsptcorr=reference)
    np.testing.assert_array_equal(out.flux, ds.flux)
    assert len(notes_of(out)) == 1
    assert step_keywords(read_history(out)) == {"S_SPLEAK": "SKIPPED"}


def test_the_leak_is_taken_off_once(reference):
    partner = make_spectrum("1B", 5.7, 6.6, blue)
    ds = leaky(reference).assign_attrs(spectral_leak_cube=1)
    once = correct_spectral_leak(ds, leaking=partner, mrsptcorr=reference)
    np.testing.assert_array_equal(once.flux, ds.flux)  # it is off the cube; only errors are added
    assert (once["var"] > ds["var"]).any()
    with pytest.raises(
        MrsxrError, match="band 3A: the spectral leak was taken off already, again it would count twice"
    ):
        correct_spectral_leak(once, leaking=partner, mrsptcorr=reference)


def joined(*parts):
    bands = [str(one.attrs["band"]) for one in parts]
    return xr.concat(parts, "wavelength").assign_attrs(parts[0].attrs | {"band": " ".join(bands)})


def test_spectra_of_joint_cubes(reference):
    """Of a channel and of all bands: the samples of 3A are corrected by those of 1B, the others stay."""
    lone, blues = leaky(reference), make_spectrum("1B", 5.66, 6.63, blue, 0.01)
    wanted = correct_spectral_leak(lone, leaking=blues, mrsptcorr=reference)
    channel = joined(lone, make_spectrum("3B", 13.34, 15.57, red))
    one = joined(make_spectrum("1A", 4.9, 5.74, red), blues)
    everything = joined(make_spectrum("1A", 4.9, 5.74, red), blues, lone)
    for ds, leaking, first in ((channel, blues, 0), (channel, one, 0), (everything, everything, 800)):
        out = correct_spectral_leak(ds, leaking=leaking, mrsptcorr=reference)
        here = slice(first, first + 400)
        for name in ("flux", "var", "surface_brightness"):
            np.testing.assert_array_equal(out[name][here], wanted[name])
            others = np.r_[0:first, first + 400 : ds.sizes["wavelength"]]
            np.testing.assert_array_equal(out[name][others], ds[name][others])
