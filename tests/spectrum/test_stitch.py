"""Stitching of the bands."""

import json

import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.modeling.physical_models import BlackBody

from mrsxr import dq, mrs, schema
from mrsxr.errors import LevelError, MrsxrError, MrsxrWarning
from mrsxr.scores import decisions, score
from mrsxr.spectrum import stitch_bands

BODY = BlackBody(300 * u.K)


def blackbody(wave):
    flux = BODY(wave * u.um).value
    return 0.5 * flux / BODY(10 * u.um).value


def make_spectrum(band, factor=1.0, offset=0.0, noise=0.0, every=4, seed=0, source_type="POINT"):
    low, high = mrs.WAVELENGTH_LIMITS[band]
    step = mrs.WAVELENGTH_STEP[int(band[0])] * every
    wave = np.arange(low + step / 2, high, step)
    flux = blackbody(wave) * factor + offset
    error = noise * flux if noise else np.full(wave.shape, 1e-3)
    flux = flux + np.random.default_rng(seed).normal(0, 1, wave.shape) * (error if noise else 0)
    variables = {
        "flux": flux, "var": error**2, "surface_brightness": 40 * flux, "surface_brightness_var": 1600 * error**2,
        "background": np.full(wave.shape, 3.0), "n_pixels": np.full(wave.shape, 60.0),
    }  # fmt: skip
    data = {k: ("wavelength", v, {"units": schema.units_of("spectrum", k)}) for k, v in variables.items()}
    data["dq"] = ("wavelength", np.zeros(wave.shape, "u4"), dq.PIXEL_DQ_ATTRS)
    coords = {"wavelength": ("wavelength", wave, {"units": "um"}), "band": ("wavelength", np.full(wave.shape, band))}
    attrs = {"level": "spectrum", "band": band, "source_type": source_type, "target": "TEST", "aperture_x": seed,
             "history_json": json.dumps([{"step": "made", "version": "0", "params": {}, "refs": {}}])}  # fmt: skip
    return schema.validate(xr.Dataset(data, coords, attrs))


@pytest.mark.parametrize("method", ["none", "multiplicative", "additive"])
def test_a_single_spectrum_stays_as_it_is(method):
    one = make_spectrum("2B", noise=0.01)
    out = stitch_bands([one], method=method)
    for name in one.variables:
        np.testing.assert_array_equal(out[name], one[name])
    np.testing.assert_array_equal(out.flux_unscaled, one.flux)
    assert out.attrs["band"] == "2B"


def by_band(out, name):
    return dict(zip(out.stitched_band.values.tolist(), out[name].values.tolist(), strict=True))


@pytest.mark.parametrize("method", ["multiplicative", "additive"])
def test_equal_spectra_are_joined_unchanged(method):
    """The same smooth source in every band: factors 1, offsets 0, every sample an input sample."""
    spectra = [make_spectrum(band) for band in mrs.BANDS]
    out = schema.validate(stitch_bands(spectra, method=method))
    np.testing.assert_allclose(out.flux, blackbody(out.wavelength.values), rtol=1e-4)
    assert all(abs(f - 1) < 1e-4 for f in by_band(out, "scale_factor").values())
    assert (np.diff(out.wavelength) > 0).all()
    assert out.sizes["wavelength"] > 1200
    assert list(dict.fromkeys(out.band.values)) == list(mrs.BANDS)
    assert out.attrs["bands"] == list(mrs.BANDS)


def test_scores_of_the_bands_are_not_those_of_samples():
    judged = score("centering", 0.5, method="fit", instead="daofind", held_out="planes")
    spectra = [make_spectrum(band).assign(judged) for band in ("1A", "1B")]
    assert not decisions(stitch_bands(spectra))


def test_band_factors_of_a_blackbody_are_recovered():
    rng = np.random.default_rng(11)
    factors = dict(zip(mrs.BANDS, rng.uniform(0.9, 1.1, 12), strict=True))
    spectra = [make_spectrum(b, f, noise=0.001, every=1, seed=i) for i, (b, f) in enumerate(factors.items())]
    out = stitch_bands(spectra[::-1], method="multiplicative", reference_band="2A")
    found, errors = by_band(out, "scale_factor"), by_band(out, "scale_error")
    for band, factor in factors.items():
        expected = factors["2A"] / factor
        assert found[band] == pytest.approx(expected, rel=0.002)
        assert abs(found[band] - expected) < 5 * errors[band] + 1e-12
    assert found["2A"] == 1.0
    kept = out.sel(wavelength=slice(8, 8.5))
    np.testing.assert_array_equal(kept.flux, kept.flux_unscaled)
    other = out.where(out.band == "3B", drop=True)
    np.testing.assert_allclose(other.flux, found["3B"] * other.flux_unscaled, rtol=1e-12)
    np.testing.assert_allclose(other.scale, found["3B"])
    made = make_spectrum("3B", factors["3B"], noise=0.001, every=1, seed=list(mrs.BANDS).index("3B"))
    wanted = found["3B"] ** 2 * made["var"].sel(wavelength=other.wavelength)
    np.testing.assert_allclose(other["var"], wanted, rtol=1e-12)


def test_offsets_are_recovered():
    offsets = {"1A": 0.0, "1B": 0.02, "1C": -0.01}
    spectra = [make_spectrum(b, offset=o, noise=0.001, every=1, seed=i) for i, (b, o) in enumerate(offsets.items())]
    out = stitch_bands(spectra, method="additive")
    found = by_band(out, "flux_offset")
    for band, offset in offsets.items():
        assert found[band] == pytest.approx(-offset, abs=1e-4)
    brightness = by_band(out, "brightness_offset")
    assert brightness["1B"] == pytest.approx(-0.8, abs=4e-3)
    assert set(by_band(out, "scale_factor").values()) == {1.0}


def test_outliers_in_the_overlap_do_not_move_the_factor():
    a, b = make_spectrum("1A", every=1), make_spectrum("1B", 1.05, every=1)
    b.flux[5:9] = 100.0
    out = stitch_bands([a, b], method="multiplicative")
    assert by_band(out, "scale_factor")["1B"] == pytest.approx(1 / 1.05, rel=2e-3)


def test_extended_sources_are_matched_in_surface_brightness():
    a, b = (make_spectrum(band, source_type="EXTENDED") for band in ("1A", "1B"))
    b["flux"] = b.flux * 3.0  # a larger field
    b["surface_brightness"] = b.surface_brightness.copy() * 1.04
    out = stitch_bands([a, b], method="multiplicative")
    assert by_band(out, "scale_factor")["1B"] == pytest.approx(1 / 1.04, rel=1e-4)


def test_cut_at_the_middle_of_the_good_overlap():
    a, b = make_spectrum("1A"), make_spectrum("1B")
    a.flux[-3:] = np.nan
    a.dq[-3:] |= 1
    out = stitch_bands([a, b])
    end, start = float(a.wavelength[-4]), float(b.wavelength[0])
    middle = 0.5 * (end + start)
    assert float(out.wavelength[out.band == "1A"].max()) < middle
    assert float(out.wavelength[out.band == "1B"].min()) >= middle
    assert np.isfinite(out.flux).all()
    samples = np.concatenate([a.flux[a.wavelength < middle], b.flux[b.wavelength >= middle]])
    np.testing.assert_array_equal(out.flux, samples)


def test_average_lowers_the_noise_of_the_overlap():
    a, b = (make_spectrum(band, noise=0.01, every=1, seed=i) for i, band in enumerate(("1A", "1B")))
    a.flux[-20] = np.nan
    a.dq[-20] = 1
    out = stitch_bands([a, b], overlap="average")
    inside = out.sel(wavelength=slice(float(b.wavelength[0]), float(a.wavelength[-1])))
    assert inside.sizes["wavelength"] > 90
    assert float((np.sqrt(inside["var"]) / inside.flux).median()) == pytest.approx(0.01 / np.sqrt(2), rel=0.05)
    pull = (inside.flux - blackbody(inside.wavelength.values)) / np.sqrt(inside["var"])
    assert float(pull.std()) < 1.15
    assert np.isfinite(inside.flux).all()
    assert not inside.dq.any()
    assert (np.diff(out.wavelength) > 0).all()


def test_bands_without_overlap_are_joined_unscaled():
    with pytest.warns(MrsxrWarning, match="share 0 good samples"):
        out = stitch_bands([make_spectrum("1A"), make_spectrum("3A", 2.0)], method="multiplicative")
    assert by_band(out, "scale_factor") == {"1A": 1.0, "3A": 1.0}
    assert by_band(out, "scale_error")["3A"] != by_band(out, "scale_error")["3A"]


def test_a_band_of_nan_stays_flagged():
    b = make_spectrum("1B")
    b["flux"] = b.flux * np.nan
    b["dq"] = b.dq | np.uint32(1)
    with pytest.warns(MrsxrWarning, match="share 0 good"):
        out = stitch_bands([make_spectrum("1A"), b], method="multiplicative")
    part = out.where(out.band == "1B", drop=True)
    assert np.isnan(part.flux).all()
    assert (part.dq == 1).all()


def test_negative_factor_is_not_applied():
    with pytest.warns(MrsxrWarning, match=r"factor, -1 .* joined unscaled"):
        out = stitch_bands([make_spectrum("1A"), make_spectrum("1B", -1.0)], method="multiplicative")
    assert by_band(out, "scale_factor")["1B"] == 1.0


def test_history_keeps_that_of_each_band():
    out = stitch_bands([make_spectrum("1A"), make_spectrum("1B", seed=3)], method="multiplicative")
    (entry,) = json.loads(out.attrs["history_json"])
    assert entry["step"] == "spectrum.stitch_bands"
    assert entry["params"]["method"] == "multiplicative"
    assert [e["step"] for e in entry["inputs"]["1B"]] == ["made"]
    assert out.attrs["target"] == "TEST"
    assert by_band(out, "aperture_x") == {"1A": make_spectrum("1A").attrs["aperture_x"], "1B": 3}


@pytest.mark.parametrize("number", [np.float32(2.5), np.float64(2.5), np.array(2.5), np.int64(2)])
def test_numbers_of_numpy_stand_in_the_history_as_those_of_python(number):
    out = stitch_bands([make_spectrum("2A"), make_spectrum("2B")], clip_sigma=number)
    kept = json.loads(out.attrs["history_json"])[0]["params"]["clip_sigma"]
    assert kept == number
    assert type(kept) in (int, float)


def test_lazy_input_and_no_changes_to_it():
    spectra = [make_spectrum("1A"), make_spectrum("1B", 1.1)]
    before = [s.copy(deep=True) for s in spectra]
    out = stitch_bands([s.chunk(wavelength=50) for s in spectra], method="multiplicative")
    xr.testing.assert_identical(out, stitch_bands(spectra, method="multiplicative"))
    for a, b in zip(spectra, before, strict=True):
        xr.testing.assert_identical(a, b)


@pytest.mark.parametrize(
    ("bands", "options", "text"),
    [
        ([], {}, "no spectra"),
        (["1A", "1A"], {}, "comes twice"),
        (["1A"], {"method": "divide"}, "divide"),
        (["1A"], {"overlap": "sum"}, "sum"),
        (["1A"], {"reference_band": "2C"}, "2C"),
    ],
)
def test_wrong_input_is_named(bands, options, text):
    with pytest.raises(MrsxrError, match=text):
        stitch_bands([make_spectrum(b) for b in bands], **options)


def test_other_levels_and_mixed_sources_are_refused():
    with pytest.raises(LevelError, match="level spectrum"):
        stitch_bands([make_spectrum("1A").assign_attrs(level="cube")])
    with pytest.raises(MrsxrError, match="EXTENDED and POINT"):
        stitch_bands([make_spectrum("1A"), make_spectrum("1B", source_type="EXTENDED")])


@pytest.mark.parametrize("overlap", ["cut", "average"])
def test_common_errors_are_scaled_and_not_averaged_down(overlap):
    def with_common(ds):
        return ds.assign(
            var_systematic=((0.05 * ds.flux) ** 2).assign_attrs(units="Jy2"),
            surface_brightness_var_systematic=((0.05 * ds.surface_brightness) ** 2).assign_attrs(units="MJy2/sr2"),
        )

    bands = [with_common(make_spectrum("1A")), with_common(make_spectrum("1B", factor=1.2))]
    out = stitch_bands(bands, method="multiplicative", overlap=overlap)
    np.testing.assert_allclose(np.sqrt(out.var_systematic), 0.05 * out.flux, rtol=1e-3)
    np.testing.assert_allclose(np.sqrt(out.surface_brightness_var_systematic), 0.05 * out.surface_brightness, rtol=1e-3)
    assert out.var_systematic.attrs["units"] == "Jy2"


def test_noise_does_not_bend_the_factor():
    """A regression of noisy on noisy samples would give a factor that is too small by noise^2 / flux^2, 10 % here."""
    factors = []
    for seed in range(12):
        left, right = (
            make_spectrum("1A", noise=0.32, seed=seed, every=1),
            make_spectrum("1B", noise=0.32, seed=99 + seed, every=1),
        )
        out = stitch_bands([left, right], method="multiplicative", clip_sigma=6.0)
        factors.append(by_band(out, "scale_factor")["1B"])
    assert np.mean(factors) == pytest.approx(1.0, abs=3.5 * np.std(factors) / np.sqrt(12))
    assert np.std(factors) / np.sqrt(12) < 0.02


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("level", [0.0, 2e-5, -2e-4])
def test_noise_alone_makes_no_factor(seed, level):
    """Blank sky (or next to nothing) in two bands: whatever their sums say, nothing is scaled by it."""
    bands = []
    for number, band in enumerate(("1A", "1B")):
        one = make_spectrum(band)
        noise = np.random.default_rng([seed, number]).normal(level, 1e-3, one.sizes["wavelength"])
        bands.append(one.assign(flux=one.flux.copy(data=noise), var=one["var"].copy(data=np.full(noise.shape, 1e-6))))
    with pytest.warns(MrsxrWarning, match=r"rests on light of S/N .* joined unscaled"):
        out = stitch_bands(bands, method="multiplicative")
    assert by_band(out, "scale_factor") == {"1A": 1.0, "1B": 1.0}
    assert by_band(out, "scale_error")["1B"] != by_band(out, "scale_error")["1B"]
    assert any("joined unscaled" in note for note in out.attrs["notes"])
    np.testing.assert_array_equal(out.flux, out.flux_unscaled)


def test_errors_that_are_too_small_make_no_factor_either():
    """The scatter of the samples counts, not their errors alone."""
    bands = []
    for number, band in enumerate(("1A", "1B")):
        one = make_spectrum(band)
        noise = np.random.default_rng([5, number]).normal(0, 1e-3, one.sizes["wavelength"])
        bands.append(one.assign(flux=one.flux.copy(data=noise), var=one["var"].copy(data=np.full(noise.shape, 1e-14))))
    with pytest.warns(MrsxrWarning, match="joined unscaled"):
        out = stitch_bands(bands, method="multiplicative")
    assert by_band(out, "scale_factor")["1B"] == 1.0


@pytest.mark.parametrize("name", ["flux", "surface_brightness"])
def test_what_is_not_matched_is_named(name):
    """Of light that one band does not hold in the overlap; the other quantity is matched."""
    bands = [make_spectrum("2A"), make_spectrum("2B", 1.1)]
    bands[1] = bands[1].assign({name: bands[1][name] * np.nan})
    with pytest.warns(MrsxrWarning, match=rf"2A and 2B share 0 good samples of {name}; .* it is joined unscaled"):
        out = stitch_bands(bands, method="additive")
    offsets = [out[key].values[1] for key in ("flux_offset", "brightness_offset")]
    assert [offset != 0 for offset in offsets] == [name != "flux", name == "flux"]


def test_faint_light_is_still_matched():
    """Each sample at S/N 2, the overlap far above 5: the factor of 0.8 comes out within its error."""
    bands = [make_spectrum("1A", noise=0.5, seed=1, every=1), make_spectrum("1B", 1.25, noise=0.5, seed=2, every=1)]
    out = stitch_bands(bands, method="multiplicative")
    factor, error = (by_band(out, key)["1B"] for key in ("scale_factor", "scale_error"))
    assert abs(factor - 0.8) < 3 * error
    assert error < 0.16
    with pytest.warns(MrsxrWarning, match="joined unscaled"):
        stitch_bands(bands, method="multiplicative", min_snr=1000)


@pytest.mark.parametrize("unit", ["mJy", "W m-2 um-1"])
@pytest.mark.parametrize("method", ["none", "multiplicative", "additive"])
def test_unequal_units_are_refused(unit, method):
    first, second = make_spectrum("1A"), make_spectrum("1B")
    second["flux"].attrs["units"] = unit
    text = rf"'flux' of band 1A is in Jy, that of 1B in {unit}; .*convert_units"
    with pytest.raises(MrsxrError, match=text):
        stitch_bands([first, second], method=method)
    del second["flux"].attrs["units"]
    with pytest.warns(MrsxrWarning, match="flux has no units, taken for Jy"):
        assert stitch_bands([first, second], method=method).flux.attrs["units"] == "Jy"


def test_units_count_by_what_they_mean():
    first, second = make_spectrum("1A"), make_spectrum("1B")
    second["surface_brightness"].attrs["units"] = "MJy / sr"
    stitch_bands([first, second])
    second["background"].attrs["units"] = "Jy/sr"
    with pytest.raises(MrsxrError, match="'background' of band 1A is in MJy/sr, that of 1B in Jy/sr"):
        stitch_bands([first, second])
    second = make_spectrum("1B")
    second["wavelength"].attrs["units"] = "nm"
    with pytest.raises(MrsxrError, match="stitch_bands needs wavelength in um, got nm"):
        stitch_bands([first, second])


def test_converted_spectra_are_stitched_in_their_units():
    bands = [make_spectrum(band) for band in ("1A", "1B")]
    plain = stitch_bands(bands)
    for ds in bands:
        ds["flux"] = (ds.flux * 1e3).assign_attrs(units="mJy")
        ds["var"] = (ds["var"] * 1e6).assign_attrs(units="mJy2")
    np.testing.assert_allclose(stitch_bands(bands).flux, plain.flux * 1e3)
    assert stitch_bands(bands).flux.attrs["units"] == "mJy"
