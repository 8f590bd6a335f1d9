"""The pattern that point sources show at their dither places: off where the vectors fit, else left."""

import json

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from helpers import assert_step
from scipy.ndimage import median_filter

from mrsxr import mrs
from mrsxr.errors import MrsxrError, ReferenceMissingError
from mrsxr.notes import notes_of
from mrsxr.references import References, read_reference
from mrsxr.simulate import write_reference
from mrsxr.spectrum import correct_fixed_pattern

POINTS = {"PATTTYPE": "4-POINT", "DITHDIRC": "NEGATIVE", "DITHOPFR": "POINT-SOURCE"}
WAVE = np.arange(8.68, 10.12, 0.0013)


def spectrum(flux, number, wave=WAVE, band="2B", **keywords):
    """Return a spectrum of the exposure at a dither position."""
    header = {"PRIMARY": POINTS | {"PATT_NUM": number} | keywords}
    units = {"flux": "Jy", "var": "Jy2", "surface_brightness": "MJy/sr", "surface_brightness_var": "MJy2/sr2",
             "background": "MJy/sr", "n_pixels": "1"}  # fmt: skip
    values = dict.fromkeys(units, np.ones(wave.size)) | {"flux": flux, "surface_brightness": 2 * flux}
    data = {name: ("wavelength", values[name], {"units": unit}) for name, unit in units.items()}
    data["dq"] = ("wavelength", (~np.isfinite(flux)).astype("u4"), {"units": "1"})
    coords = {"wavelength": ("wavelength", wave, {"units": "um"}), "band": ("wavelength", np.full(wave.size, band))}
    attrs = {"level": "spectrum", "band": band, "source_type": "POINT", "fits_header": json.dumps(header)}
    return xr.Dataset(data, coords, attrs | {"history_json": "[]"})


def scene(seed=1, own=0.01, common=0.01):
    """Return the true flux, the vectors, and the spectra of four exposures."""
    rng = np.random.default_rng(seed)
    shape = [median_filter(rng.normal(size=WAVE.size), 5) for _ in range(5)]
    vectors = np.array([1 + common * shape[4] / shape[4].std() + own * s / s.std() for s in shape[:4]])
    line = 0.6 * np.exp(-0.5 * ((WAVE - 9.4) / 0.003) ** 2)
    true = 0.5 * (WAVE / 9) ** -2 + line
    seen = [true * v * (1 + rng.normal(0, 0.002, WAVE.size)) for v in vectors]
    coords = {"position": [1, 2, 3, 4], "wavelength": WAVE}
    names = {"dither_type": "4-POINT", "dither_direction": "NEGATIVE", "dither_optimized_for": "POINT-SOURCE"}
    pfpc = xr.Dataset({"pattern": (("position", "wavelength"), vectors)}, coords, {"kind": "pfpc", **names})
    return true, pfpc, [spectrum(one, k + 1) for k, one in enumerate(seen)]


@pytest.mark.parametrize("members", [(0, 1, 2, 3), (2, 0), (3,)])
def test_the_light_comes_back_and_lines_keep_theirs(members):
    true, pfpc, exposures = scene()
    some = [exposures[k] for k in members]
    mean = spectrum(np.mean([one.flux for one in some], axis=0), members[0] + 1)
    out = assert_step(correct_fixed_pattern, mean, dithers=some, pfpc=pfpc)
    before, after = (np.std(one.flux / true) for one in (mean, out))
    assert before > 0.009
    assert after < 0.0025
    assert float(out.score_pfpc) < 0.2
    factor = out.fixed_pattern
    np.testing.assert_allclose(out.surface_brightness * factor, mean.surface_brightness)
    np.testing.assert_allclose(out["var"] * factor**2, 1.0)
    np.testing.assert_allclose(out.background, 1.0)
    near = np.abs(WAVE - 9.4) < 0.01
    assert float(out.flux[near].sum()) == pytest.approx(true[near].sum(), rel=2e-3)
    with pytest.raises(MrsxrError, match="the fixed pattern was divided already"):
        correct_fixed_pattern(out, dithers=some, pfpc=pfpc)


@pytest.mark.parametrize("case", ["moved", "none there", "few samples"])
def test_vectors_that_do_not_fit_change_nothing(case):
    _, pfpc, exposures = scene(own=0.0 if case == "none there" else 0.01, common=0.0 if case == "none there" else 0.01)
    wrong = scene(seed=2)[1] if case == "none there" else pfpc.assign(pattern=pfpc.pattern.roll(position=1))
    if case == "few samples":
        exposures = [one.isel(wavelength=slice(0, 150)) for one in exposures]
    mean = exposures[0].assign(flux=sum(one.flux for one in exposures).assign_attrs(units="Jy") / 4)
    mean["flux"].attrs["units"] = "Jy"
    out = correct_fixed_pattern(mean, dithers=exposures, pfpc=wrong)
    assert not float(out.score_pfpc) < 1
    assert "fixed_pattern" not in out
    np.testing.assert_array_equal(out.flux, mean.flux)


def test_a_sample_that_one_exposure_lacks():
    true, pfpc, exposures = scene()
    flux = exposures[1].flux.values.copy()
    flux[300:310] = np.nan
    exposures[1] = spectrum(flux, 2)
    mean = spectrum(np.nanmean([one.flux for one in exposures], axis=0), 1)
    out = correct_fixed_pattern(mean, dithers=exposures, pfpc=pfpc)
    np.testing.assert_allclose(out.flux[300:310], true[300:310], rtol=0.01)


@pytest.mark.parametrize(
    ("attrs", "keywords", "text"),
    [
        ({"source_type": "EXTENDED"}, {}, "no point"), ({}, {"DITHDIRC": "POSITIVE"}, "DITHDIRC is POSITIVE"),
        ({}, {"PATTTYPE": "2-POINT"}, "PATTTYPE is 2-POINT"), ({}, {"PATT_NUM": 7}, "dither position 7"),
        ({}, {"DITHOPFR": None}, "DITHOPFR is none"),
    ],
)  # fmt: skip
def test_other_sources_and_dithers_stay(attrs, keywords, text):
    _, pfpc, _ = scene()
    one = spectrum(np.ones(WAVE.size), 1, **keywords).assign_attrs(attrs)
    out = correct_fixed_pattern(one, pfpc=pfpc)
    np.testing.assert_array_equal(out.flux, one.flux)
    assert "score_pfpc" not in out
    assert text in " ".join(notes_of(out))


def test_what_cannot_be_is_refused():
    _, pfpc, exposures = scene()
    with pytest.raises(MrsxrError, match="of band MULTIPLE"):
        correct_fixed_pattern(exposures[0].assign_attrs(band="MULTIPLE"), pfpc=pfpc)
    with pytest.raises(MrsxrError, match="same planes"):
        correct_fixed_pattern(exposures[0], dithers=[exposures[1].isel(wavelength=slice(5, None))], pfpc=pfpc)


def test_files_are_chosen_by_band_and_by_their_names(tmp_path):
    for channel in "12":
        rows = np.linspace(*mrs.WAVELENGTH_LIMITS[f"{channel}B"], 50)
        table = {"WAVELENGTH": rows, **{f"DITHER{k}": 1 + 0.001 * k + 0 * rows for k in (1, 2, 3, 4)}}
        header = {"channel": channel, "band": "MEDIUM", "dither_direction": "NEGATIVE"}
        path = write_reference(tmp_path / f"p{channel}.fits", "pfpc", header, tables={"PFPC": table})
    found = References(tmp_path).get("pfpc", spectrum(np.ones(WAVE.size), 1))
    assert found.attrs["ref_id"] == "p2.fits"
    assert found.attrs["dither_direction"] == "NEGATIVE"
    np.testing.assert_allclose(found.pattern.sel(position=3), 1.003)
    with pytest.raises(ReferenceMissingError):
        References({}).get("pfpc", spectrum(np.ones(WAVE.size), 1))
    bare = tmp_path / "bare"
    bare.mkdir()
    with fits.open(path) as hdus:
        table = fits.BinTableHDU(hdus[1].data)
        table.header["DITHOPFR"] = "POINT-SOURCE"
        for name in ("mrs_pfpc_chn3_long.fits", "mrs_pfpc_chn2_medium.fits"):
            fits.HDUList([fits.PrimaryHDU(), table]).writeto(bare / name)
    found = References(bare).get("pfpc", spectrum(np.ones(WAVE.size), 1))
    assert found.attrs["ref_id"] == "mrs_pfpc_chn2_medium.fits"
    assert found.attrs["dither_optimized_for"] == "POINT-SOURCE"
    np.testing.assert_allclose(found.pattern.sel(position=2), 1.002)


@pytest.mark.shared
def test_the_star_hd_163466(shared_data):
    """It stands, most likely, among the stars that the vectors were made of: its gain is what may be had at most."""
    refs = References(shared_data / "fringe_leak" / "pfpc")
    rms, kept = {}, []
    with fits.open(shared_data / "calibrators_mirideep" / "hd163466_0624_per_dither.fits.gz") as hdus:
        for band in ("1A", "1B", "1C", "2A", "2B", "2C", "3A", "3B", "3C", "4A", "4C"):
            rows = hdus[f"CH{band[0]}_{mrs.GRATINGS[band[1]]}"].data
            wave, fluxes = rows["WAVELENGTH"].astype(float), [rows[f"FLUX_D{k}"].astype(float) for k in (1, 2, 3, 4)]
            fluxes = [np.where((f > 0) & (np.arange(f.size) >= 10) & (np.arange(f.size) < f.size - 10), f, np.nan)
                      for f in fluxes]  # fmt: skip
            dithers = [spectrum(f, k + 1, wave, band) for k, f in enumerate(fluxes)]
            mean = spectrum(np.mean(fluxes, axis=0), 1, wave, band)
            out = correct_fixed_pattern(mean, dithers=dithers, pfpc=refs.get("pfpc", mean))
            kept += [band] if "fixed_pattern" not in out else []
            inner = slice(45, -45)
            rms[band] = [np.std((one.flux.values / median_filter(one.flux.values, 61))[inner]) for one in (mean, out)]
    assert kept == ["1A", "1B", "4A", "4C"]  # no gain beyond chance
    for band, (before, after) in rms.items():
        assert band in kept or after < {"2": 0.5, "1": 0.65}.get(band[0], 0.85) * before, band
    assert read_reference(shared_data / "fringe_leak" / "pfpc" / "mrs_pfpc_chn1_long.fits").sizes["position"] == 4


@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")  # no extract1d reference
def test_a_recipe_takes_it_off_the_spectrum_of_a_cube(monkeypatch):
    from scenes import cube_of

    from mrsxr import cube as cubes
    from mrsxr.pipeline import Recipe
    from mrsxr.pipeline.spectrum_chain import make_spectrum

    wave, one = np.linspace(5.7, 6.0, 250), cube_of("point", 0.0, 500, "1B", 4).isel(wavelength=[0])
    whole = xr.concat([one] * wave.size, "wavelength", data_vars="minimal", combine_attrs="override")
    whole = whole.assign_coords(wavelength=("wavelength", wave, one.wavelength.attrs))
    vectors = 1 + 0.03 * np.random.default_rng(4).normal(size=(4, wave.size))
    singles = {}
    for k, vector in enumerate(vectors):
        flux = (whole.flux * vector[:, None, None]).astype("f4").assign_attrs(whole.flux.attrs)
        header = json.dumps({"PRIMARY": POINTS | {"PATT_NUM": k + 1, "CHANNEL": "12", "BAND": "MEDIUM"}})
        singles[str(k)] = whole.assign(flux=flux).assign_attrs(fits_header=header)
    flux = (sum(one.flux for one in singles.values()) / 4).assign_attrs(whole.flux.attrs)
    monkeypatch.setattr(cubes, "build_exposure_cubes", lambda ds, **options: singles)
    coords = {"position": [1, 2, 3, 4], "wavelength": ("wavelength", wave, {"units": "um"})}
    refs = References({"pfpc": xr.Dataset({"pattern": (("position", "wavelength"), vectors)}, coords)})
    recipe = Recipe.of().set("pfpc").set("extract_1d", aperture_correction=False).skipping("residual_fringe")
    seen = whole.assign(flux=flux).assign_attrs(fits_header=header)
    out = make_spectrum(seen, refs, recipe, "POINT", exposures=xr.Dataset())
    true = make_spectrum(whole, refs, recipe.skipping("pfpc"), "POINT")
    np.testing.assert_allclose(out.flux, true.flux, rtol=2e-3)
    assert float(out.score_pfpc) < 0.1
