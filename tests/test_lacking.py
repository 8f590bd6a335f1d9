"""Data that lack something or came in another form: one clear error, a word, or the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

import mrsxr as mx
from mrsxr.attributes import varied
from mrsxr.errors import MrsxrError, MrsxrWarning, SchemaError
from mrsxr.inputs import in_order
from mrsxr.notes import listen
from mrsxr.simulate import simulate_cube, simulate_spectrum


@pytest.fixture(scope="module")
def disc():
    return simulate_cube(band="3A", wavelength=(12.9, 13.3)).compute()


CALLS = {
    "fit_line": lambda ds: mx.lines.fit_line(ds, "[Ne II] 12.81"),
    "moments": lambda ds: mx.lines.moments(ds, "[Ne II] 12.81", extent=500),
    "subtract_continuum": lambda ds: mx.lines.subtract_continuum(ds, "[Ne II] 12.81"),
    "bin_spaxels": lambda ds: mx.lines.bin_spaxels(ds, line="[Ne II] 12.81", snr=30),
    "extract_spectrum": lambda ds: mx.spectrum.extract_spectrum(ds),
    "decide_source_type": lambda ds: mx.spectrum.decide_source_type([ds]),
    "correct_residual_fringe_cube": mx.cube.correct_residual_fringe_cube,
    "match_psf": lambda ds: mx.cube.match_psf(ds, fwhm=0.9),
}


NOT_NEEDED = {("match_psf", "var")} | {(name, "weight") for name in CALLS if name != "extract_spectrum"}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("lost", ["flux", "var", "dq", "weight"])
def test_a_lost_variable_is_named_or_not_needed(name, lost, disc):
    without = disc.drop_vars(lost)
    if (name, lost) in NOT_NEEDED:
        CALLS[name](without)
        return
    with pytest.raises(SchemaError, match=rf"[a-z_]+: the cube has no '{lost}' \("):
        CALLS[name](without)


def test_lost_attributes_and_wavelengths_are_named(disc):
    bare = disc.assign_attrs({k: v for k, v in disc.attrs.items() if k != "pixel_scale"})
    bare.attrs.pop("pixel_scale")
    with pytest.raises(SchemaError, match="attribute 'pixel_scale'"):
        mx.spectrum.decide_source_type(bare)
    with pytest.raises(SchemaError, match="no 'wavelength' "):
        mx.spectrum.extract_spectrum(disc.drop_vars("wavelength"))
    nm = disc.assign_coords(wavelength=("wavelength", disc.wavelength.values * 1e3, {"units": "nm"}))
    with pytest.raises(SchemaError, match="wavelength in um, got nm"):
        mx.lines.moments(nm, "[Ne II] 12.81")


def test_other_key_errors_stay_what_they_are():
    @mx.arguments.reads()
    def look(ds, key="colour"):
        return {}[key]

    with pytest.raises(KeyError, match="colour"):
        look(simulate_spectrum(band="1A"))


@pytest.mark.parametrize("lost", [["flux"], ["flux", "wavelength", "var"]])
def test_lost_units_are_told_once_and_the_numbers_are_the_same(lost, disc):
    bare = disc.copy()
    for name in lost:
        bare[name].attrs = {}
    told = "flux has no units, taken for MJy/sr"
    with pytest.warns(MrsxrWarning, match=told) as heard:
        out = mx.spectrum.extract_spectrum(bare)
    assert sum(told in str(one.message) for one in heard) == 1
    assert any(told in text for text in out.attrs["notes"])
    np.testing.assert_array_equal(out.flux, mx.spectrum.extract_spectrum(disc).flux)
    assert bare[lost[0]].attrs == {}  # what was given stays as it is


def test_orders_and_kinds_of_numbers_do_not_count(disc):
    turned, wanted = disc.transpose("x", "wavelength", "y"), mx.spectrum.decide_source_type(disc)
    assert mx.spectrum.decide_source_type([turned]).identical(wanted)
    counts = disc.assign(flux=disc.flux.round().astype("i2"))
    found = mx.convert_units(counts, "mJy/arcsec2")
    assert found.flux.attrs["units"] == "mJy/arcsec2"
    as_floats = mx.convert_units(counts.assign(flux=counts.flux.astype("f4")), "mJy/arcsec2")
    np.testing.assert_array_equal(found.flux, as_floats.flux)
    assert in_order(disc) is disc


def test_a_second_cube_in_another_order_is_the_same(disc):
    fine = simulate_cube(band="1B", wavelength=(6.3, 6.55)).compute()
    turned = fine.transpose("y", "x", "wavelength")
    found = mx.cube.regrid(turned, like=disc)
    np.testing.assert_array_equal(found.flux, mx.cube.regrid(fine, like=disc).flux)
    one, other = (mx.cube.match_psf(disc, others=[ds], fwhm=None) for ds in (fine, turned))
    np.testing.assert_array_equal(one.flux, other.flux)


def test_lazy_flags_alone_make_a_lazy_spectrum(disc):
    part = disc.isel(wavelength=slice(0, 40))
    mixed = part.assign(dq=part.dq.chunk(wavelength=10))
    np.testing.assert_array_equal(
        mx.spectrum.extract_spectrum(mixed).compute().flux, mx.spectrum.extract_spectrum(part).flux
    )


def test_cubes_with_a_wider_psf_tell_no_point(disc):
    with pytest.raises(MrsxrError, match="is psf-matched"):
        mx.spectrum.decide_source_type([disc, varied(disc, "psf-matched")])
    mx.spectrum.decide_source_type(varied(disc, "regridded"))


def test_binned_cubes_hold_the_weight_that_they_had(disc):
    bins, _ = mx.lines.bin_spaxels(disc, line="[Ne II] 12.81", snr=30)
    whole, bare = (mx.lines.bin_cube(ds, bins) for ds in (disc, disc.drop_vars("weight")))
    assert "weight" not in bare
    assert whole.weight.attrs["units"] == "1"
    np.testing.assert_array_equal(whole.flux.values == whole.flux.values, bare.flux.values == bare.flux.values)


@pytest.mark.parametrize("odd", [-2.0, np.nan, np.inf])
@pytest.mark.parametrize("lazy", [True, False])
def test_a_variance_that_is_none_is_told_or_stays_none(odd, lazy, disc):
    """Negative, NaN and infinite: no product claims a negative one, and samples without one are told of."""
    spoiled = np.random.default_rng(5).random(disc["var"].shape) < 0.03
    spoiled[::3] = False
    wrong = np.where(spoiled, disc["var"] * odd, disc["var"]).astype("f4")
    ds = disc.assign(var=(disc["var"].dims, wrong, disc["var"].attrs))
    ds = ds.chunk(wavelength=16) if lazy else ds
    with listen(pass_on=True) as heard:
        spectrum = mx.spectrum.extract_spectrum(ds, center=(float(ds.ra.mean()), float(ds.dec.mean()))).compute()
        mx.spectrum.say_what_is_lost(spectrum)
        maps = mx.lines.moments(ds, "[Ne II] 12.81", extent=500).compute()
        less = mx.lines.subtract_continuum(ds, "[Ne II] 12.81").compute()
    _, binned = mx.lines.bin_spaxels(ds, wavelength=(13.0, 13.1), snr=30)
    assert not np.isfinite(spectrum["var"]).all()
    assert sum("samples have no error" in text for text in heard) == 1
    for one in (spectrum["var"], maps.moment0_err, binned["var"], less["var"]):
        assert not (one < 0).any()
        assert np.isfinite(one).any()
