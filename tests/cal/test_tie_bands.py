"""Places of a source in exposures and bands: found where they are, and pointings moved so that all have it at one."""

import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step

import mrsxr as mx
from mrsxr import mrs
from mrsxr.attributes import of_each
from mrsxr.cal import measure_offsets, tie_bands
from mrsxr.errors import MrsxrError
from mrsxr.geometry.sky import Pointing, sky_to_v2v3, slicer_to_sky, v2v3_to_slicer
from mrsxr.notes import notes_of

sys.path.append(str(Path(__file__).parents[1] / "cube"))
import star_scene
import test_cube_build as made

PLACE = (339.015, 33.976)
COS = np.cos(np.deg2rad(PLACE[1]))
JITTER = np.random.default_rng(8).normal(0, 0.03, (2, 4, 2))  # arcsec east, north; of setting and exposure


def observed(n, noise=0.3, star=1000.0):
    """Return the exposures of a setting, each of a lopsided star that stands off what the pointing says."""
    model = made.wcs_model()
    model["alpha_coefficients"][:, 1, 0] = 0.01
    model["alpha_coefficients"][:, 0, 0] = -0.2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made, "wcs_model", lambda: model)
        ds = made.make_cal(4)
    rng, flux = np.random.default_rng(n), np.full(ds.flux.shape, np.nan)
    for d in range(4):
        real = PLACE[0] + JITTER[n, d, 0] / COS / 3600, PLACE[1] + JITTER[n, d, 1] / 3600
        alpha, beta = v2v3_to_slicer(*sky_to_v2v3(*real, Pointing.of(ds, d)), "1A", ds)
        a, b = ds.alpha.values - alpha, ds.beta.values - beta
        core = np.exp(-4 * np.log(2) * ((a / 0.27) ** 2 + (b / 0.30) ** 2 + 0.1 * a * b / 0.08))
        wings = 0.05 / (1 + (np.hypot(a, b) / 0.3) ** 2) ** 1.5
        flux[d] = star * (core + wings) + 5.0 + a
    flux += np.where(ds["slice"].values > 0, noise, np.nan) * rng.normal(size=flux.shape)
    ds = ds.assign(flux=ds.flux.copy(data=flux.astype("f4")))
    names = [f"jw0273200400{n}_02101_{d + 1:05d}_mirifushort" for d in range(4)]
    return ds.assign_coords(exposure=("dither", names)).assign_attrs(setting=("12A", "12B")[n]) if n == 0 else (
        ds.assign_coords(exposure=("dither", names), band=["1B"]).assign_attrs(setting="12B", band="MEDIUM")
    )  # fmt: skip


@pytest.fixture(scope="module")
def exposures():
    return [observed(0), observed(1)]


def east_north(found):
    return np.array([[found[name].sel(band=band).values[4 * n : 4 * n + 4] for name in ("east", "north")]
                     for n, band in enumerate(("1A", "1B"))]).transpose(0, 2, 1)  # fmt: skip


def test_jitter_is_found_and_taken_out(exposures):
    found = measure_offsets(exposures, source=PLACE, position=PLACE)
    assert found.error.max() < 1e-3
    np.testing.assert_allclose(east_north(found), JITTER, atol=0.003)
    tied = [tie_bands(ds, offsets=found) for ds in exposures]
    after = measure_offsets(tied, source=PLACE, position=PLACE)
    np.testing.assert_allclose(east_north(after), 0.0, atol=0.0015)
    for n, ds in enumerate(tied):
        moved = np.stack([of_each(ds, "tie_ra"), of_each(ds, "tie_dec")], axis=1)
        np.testing.assert_allclose(moved, -JITTER[n], atol=0.003)
        for d in range(4):
            real = PLACE[0] + JITTER[n, d, 0] / COS / 3600, PLACE[1] + JITTER[n, d, 1] / 3600
            band = str(ds.band.values[0])
            seen = v2v3_to_slicer(*sky_to_v2v3(*real, Pointing.of(exposures[n], d)), band, exposures[n])
            ra, dec = slicer_to_sky(*seen, band, ds, Pointing.of(ds, d))
            assert np.hypot((ra - PLACE[0]) * COS, dec - PLACE[1]) * 3600 < 0.004


def test_without_a_position_the_mean_place_stays(exposures):
    found = measure_offsets(exposures)
    assert abs(float(found.east.mean())) < 1e-6
    assert abs(float(found.north.mean())) < 1e-6
    ra, dec = found.attrs["position"]
    mean = JITTER.mean(axis=(0, 1))
    assert (ra - PLACE[0]) * COS * 3600 == pytest.approx(mean[0], abs=0.003)
    assert (dec - PLACE[1]) * 3600 == pytest.approx(mean[1], abs=0.003)


def test_places_are_those_of_the_middle_of_a_psf_that_is_given():
    """A lopsided star, off what the pointing says: its centroid is not where it stands; images of its light tell."""
    jitter = np.array([[0.02, -0.03], [-0.01, 0.02], [0.03, 0.01], [-0.02, -0.015]])  # arcsec, alpha and beta
    ds = star_scene.made(lambda wave: 140.0 + 0 * wave, lambda a, b, wave: 7.0 + 0 * wave)
    for k, name in enumerate(("ra_ref", "dec_ref")):
        ds[name] = ds[name] + jitter[:, k] / 3600
    step, waves = 0.02, np.array([4.99, 5.06])
    axis = step * np.arange(-70, 71)
    images = []
    for fwhm in mrs.psf_fwhm(waves):
        blobs = [(w / s**2, *((axis - u * fwhm) / (s * fwhm) for u in middle)) for w, s, *middle in star_scene.BLOBS]
        images.append(sum(w * np.exp(-0.5 * (a[:, None] ** 2 + b**2)) for w, a, b in blobs))
    psf = mx.cal.psf_of_images(images, waves, step=step, band="1A", pixel=star_scene.PIXEL)
    off = []
    for given in ((), psf, [psf.assign_coords(psf_band=("plane", ["3C", "3C"]))]):
        found = measure_offsets(ds, source=(0.0, 0.0), position=(0.0, 0.0), psf=given)
        off.append(np.stack([found.east.values[:, 0], found.north.values[:, 0]], axis=1) - jitter)
    assert 0.004 < np.abs(off[0].mean(axis=0)).max() < 0.03
    np.testing.assert_array_equal(off[2], off[0])
    np.testing.assert_allclose(off[1], 0.0, atol=0.001)
    assert np.std(off[1] - off[1].mean(axis=0)) < np.std(off[0] - off[0].mean(axis=0))


def test_step(exposures):
    found = xr.Dataset(
        {name: (("exposure", "band"), [[0.01]]) for name in ("alpha", "beta", "east", "north")},
        {"exposure": exposures[0].exposure.values[1:2], "band": ["1A"]}, {"kind": "offsets", "position": PLACE},
    )  # fmt: skip
    out = assert_step(tie_bands, exposures[0], offsets=found)
    np.testing.assert_allclose((out.dec_ref - exposures[0].dec_ref) * 3600, -0.01, atol=1e-5)  # unseen ones as well
    assert tie_bands(exposures[1], offsets=found).ra_ref.equals(exposures[1].ra_ref)
    assert "no exposure shows the source" in str(notes_of(tie_bands(exposures[1], offsets=found)))
    with pytest.raises(MrsxrError, match="take those of measure_offsets"):
        tie_bands(exposures[0], offsets=xr.Dataset())


@pytest.mark.parametrize("star", [0.0, 2.0])
def test_no_source_moves_nothing(star):
    with pytest.raises(MrsxrError, match="no band shows a point source"):
        measure_offsets(observed(0, star=star, noise=1.0), source=PLACE)


def test_what_cannot_be_read_is_no_band_without_a_source():
    def damaged(block):
        raise MrsxrError("a.fits is cut off")

    ds = observed(0)
    flux = ds.flux.chunk(dither=1).data.map_blocks(damaged, dtype="f4", meta=np.empty((0, 0, 0), "f4"))
    with pytest.raises(MrsxrError, match="is cut off"):
        measure_offsets(ds.assign(flux=(ds.flux.dims, flux, ds.flux.attrs)), source=PLACE)


@pytest.mark.slow
def test_bands_of_one_detector_with_another_psf():
    """Spikes, rings and jitter on the whole detector; the fields of both bands are off what the distortion says."""
    import simulated

    from mrsxr.simulate import Background, PointSource, PowerLaw, Psf, Scene
    from mrsxr.simulate.pointing import DITHERS, aim_at

    scene = Scene(150.0, 20.0, points=(PointSource(150.0, 20.0, PowerLaw(60.0, 0.5)),), discs=(),
                  background=Background(scale=0.0), psf=Psf.spiked(4.9, 8.8, asymmetry=0.0))  # fmt: skip
    told = np.array(DITHERS["EXTENDED"])
    real = told + np.random.default_rng(3).normal(0, 0.03, told.shape)
    ds = simulated.cal_of(scene, "12A", [tuple(one) for one in real])
    aims = [aim_at(150.0, 20.0, 247.0, tuple(one), 1.0, 12000.0).pointing for one in told]
    ds = ds.assign_coords({k: (*ds[k].variable.dims, [getattr(p, k) for p in aims]) for k in ("ra_ref", "dec_ref")})
    off = {"v2_coefficients": [0.02, -0.03], "v3_coefficients": [-0.025, 0.015]}
    for name, values in off.items():
        ds[name] = ds[name].copy(data=ds[name].values.copy())
        ds[name].values[:, 0, 0] += values
    place = (150.0, 20.0)
    found = measure_offsets(ds, source=place, position=place)
    assert float(np.hypot(found.east, found.north).mean()) > 0.03
    out = tie_bands(ds, offsets=found)
    places = []
    for band in mrs.bands_of_setting("12A"):
        for d, one in enumerate(real):
            true = aim_at(150.0, 20.0, 247.0, tuple(one), 1.0, 12000.0).pointing
            k = list(ds.band.values).index(band)
            plain = ds.assign({n: ds[n].copy(data=ds[n].values.copy()) for n in off})
            for n, values in off.items():
                plain[n].values[k, 0, 0] -= values[k]
            seen = v2v3_to_slicer(*sky_to_v2v3(*place, true), band, plain)
            ra, dec = slicer_to_sky(*seen, band, out, Pointing.of(out, d))
            places.append([(ra - 150.0) * np.cos(np.deg2rad(20.0)), dec - 20.0])
    off_by = 3600 * np.array(places)
    assert np.sqrt((off_by**2).mean()) < 0.002
    assert np.abs(off_by).max() < 0.004


def test_a_recipe_ties_all_settings(exposures):
    from mrsxr.pipeline import Recipe
    from mrsxr.pipeline.combine_chain import combine

    recipe = Recipe.of().set("tie_bands", source=PLACE, position=PLACE)
    recipe = recipe.skipping("master_background").skipping("outlier_detection")
    out = combine({"a": exposures[0], "b": exposures[1]}, recipe)
    found = measure_offsets(exposures, source=PLACE, position=PLACE)
    for name, ds in zip("ab", exposures, strict=True):
        np.testing.assert_array_equal(out[name].dec_ref, tie_bands(ds, offsets=found).dec_ref)
    blank = exposures[0].assign(flux=exposures[0].flux * 0 + 1.0)
    with pytest.warns(mx.MrsxrWarning, match="no band shows a point source"):
        assert combine({"a": blank}, recipe)["a"].dec_ref.equals(blank.dec_ref)


def test_an_exposure_without_a_pixel_has_no_place_and_moves_none(exposures):
    ds = exposures[0]
    flux = ds.flux.values.copy()
    flux[1] = np.nan
    blank, rest = ds.assign(flux=ds.flux.copy(data=flux)), ds.isel(dither=[0, 2, 3])
    three = measure_offsets(rest, source=PLACE, position=PLACE)
    with pytest.warns(mx.MrsxrWarning, match=f"{ds.exposure.values[1]} 1A: hardly shows the source"):
        found = measure_offsets(blank, source=PLACE, position=PLACE)
    assert list(found.exposure.values) == list(rest.exposure.values)
    for name in ("east", "north"):
        np.testing.assert_allclose(found[name], three[name], atol=1e-6)
    out = tie_bands(blank, offsets=found)
    assert of_each(out, "tie_dec")[1] == pytest.approx(-float(found.north.mean()), abs=1e-5)
