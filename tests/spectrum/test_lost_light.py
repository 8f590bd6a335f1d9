"""What cannot be measured: light that is missing or saturated, sources at the border, cubes without errors."""

import re

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from test_extract_1d import DEC, RA, SCALE, make_cube, point_source

from mrsxr import dq, load, save
from mrsxr.errors import MrsxrWarning
from mrsxr.spectrum import extract_spectrum, say_what_is_lost, stitch_bands

ESTIMATED, SATURATED, UNUSABLE = dq.FLAGS["FLUX_ESTIMATED"], dq.SATURATED, dq.DO_NOT_USE
pytestmark = pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
METHODS = [{"method": "aperture"}, {"method": "aperture", "like_jwst": True}, {"method": "optimal"}]
HERE = {"center": (RA, DEC)}


def noisy(seed=2, **source):
    """A source in the middle with a little noise."""
    rng = np.random.default_rng(seed)
    return point_source(**{"x": 21.0, "y": 21.0, **source}) + rng.normal(0, 0.2, (9, 43, 43))


def spoil(cube, how, where):
    """Take the data of some spaxels away: as NaN, by their flags or by their weight."""
    name, value = {"nan": ("flux", np.nan), "dq": ("dq", UNUSABLE), "weight": ("weight", 0)}[how]
    cube = cube.copy(deep=True)
    for y, x in where:
        cube[name][:, y, x] = value
        if how == "dq":
            cube["flux"][:, y, x] = -7e4  # what is flagged can be anything
    return cube


@pytest.mark.parametrize("how", ["nan", "dq", "weight"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "where", [[(21, 22)], [(21, 21)], [(20, 21), (22, 22)], [(y, x) for y in (20, 21, 22) for x in (20, 21, 22)]]
)
def test_missing_light_is_measured_and_flagged(how, method, where):
    cube = make_cube(noisy())
    whole = extract_spectrum(cube, **HERE, **method)
    assert float(whole.lost_light.max()) == 0.0
    assert not whole.dq.any()
    assert "notes" not in whole.attrs
    out = extract_spectrum(spoil(cube, how, where), **HERE, **method)
    lost = float(out.lost_light.mean())
    limit = 0.5 if method["method"] == "optimal" else 0.2
    assert lost > 0.05
    assert any(" of the light of the aperture" in note for note in out.attrs["notes"])
    if lost > limit:
        assert np.isnan(out.flux).all()
        assert (out.dq == UNUSABLE).all()
        return
    assert (out.dq == ESTIMATED).all()
    ratio = float((out.flux / whole.flux).mean())
    assert ratio == pytest.approx(1.0 if limit == 0.5 else 1.0 - lost, abs=0.04)


def test_saturated_light_is_flagged():
    cube = make_cube(noisy())
    cube["dq"][:, 20:23, 20:23] |= SATURATED
    cube["dq"][:4, 35, 35] |= SATURATED  # far off
    out = extract_spectrum(cube, **HERE)
    assert (out.dq == SATURATED).all()
    assert (out.saturated_light > 0.5).all()
    np.testing.assert_array_equal(out.flux, extract_spectrum(make_cube(noisy()), **HERE).flux)
    assert any("9 of 9 samples hold saturated spaxels" in note for note in out.attrs["notes"])
    cube["dq"][:, 20:23, 20:23] &= ~np.uint32(SATURATED)
    assert not extract_spectrum(cube, **HERE).dq.any()


@pytest.mark.parametrize(("cut", "bits"), [(13, 0), (19, ESTIMATED), (21, UNUSABLE)])
@pytest.mark.parametrize("how", ["isel", "nan"])
def test_a_source_at_the_border(cut, bits, how):
    """The field ends ``cut`` rows from the south; the source is in row 21, its aperture 4.1 spaxels wide."""
    cube = make_cube(noisy())
    cube = (
        cube.isel(y=slice(cut, None))
        if how == "isel"
        else spoil(cube, "nan", [(y, x) for y in range(cut) for x in range(43)])
    )
    out = extract_spectrum(cube, **HERE)
    assert (out.dq == bits).all()
    assert np.isnan(out.flux).all() == (bits == UNUSABLE)
    assert (0.0 < float(out.annulus_lost.mean())) == (cut > 10)


def test_an_annulus_without_room():
    cube = make_cube(noisy(x=21.0, y=21.0)).isel(y=slice(14, 29), x=slice(13, 30))
    out = extract_spectrum(cube, **HERE)
    assert (out.annulus_lost > 0.9).all()
    assert np.isnan(out.flux).all()
    assert any("more than half of the annulus" in note for note in out.attrs["notes"])
    free = extract_spectrum(cube, **HERE, background=None)
    assert not free.dq.any()
    assert "annulus_lost" not in free


def test_an_aperture_within_one_spaxel_is_no_surprise():
    cube = make_cube(noisy())
    out = extract_spectrum(cube, **HERE, radius=0.3 * SCALE)
    np.testing.assert_allclose(out.n_pixels, np.pi * 0.09, rtol=1e-9)
    assert not out.dq.any()
    gone = extract_spectrum(spoil(cube, "nan", [(21, 21)]), **HERE, radius=0.3 * SCALE)
    assert (gone.dq == UNUSABLE).all()


def test_area_counts_for_extended_light_and_regions():
    cube = make_cube(np.full((3, 21, 21), 4.0), source_type="EXTENDED")
    circle = f'icrs; circle({RA},{DEC},0.5")'
    for options in ({"radius": 0.5, **HERE}, {"region": circle}):
        part = extract_spectrum(spoil(cube, "nan", [(10, 10), (10, 11)]), **options)
        area = np.pi * 0.25 / SCALE**2
        np.testing.assert_allclose(part.lost_light, 2 / area, rtol=0.01)
        np.testing.assert_allclose(part.surface_brightness, 4.0, rtol=1e-6)
        assert (part.dq == ESTIMATED).all()
    south = DEC - 10 * SCALE / 3600  # on the border
    half = extract_spectrum(cube, region=f'icrs; circle({RA},{south},0.5")')
    np.testing.assert_allclose(half.lost_light, 0.5 - SCALE / 2 / 0.5 / np.pi * 2, atol=0.02)
    assert (half.dq == ESTIMATED).all()
    gone = extract_spectrum(cube, region=f'icrs; circle({RA},{south - 2.5 * SCALE / 3600},0.5")')
    assert (gone.dq == UNUSABLE).all()
    field = extract_spectrum(spoil(cube, "nan", [(y, 0) for y in range(21)]))
    assert not field.dq.any()


def test_lazy_data_say_the_same_once_they_are_computed():
    cube = spoil(make_cube(noisy()), "nan", [(21, 22)])
    eager = extract_spectrum(cube, **HERE)
    lazy = extract_spectrum(cube.chunk(wavelength=4), **HERE)
    assert "notes" not in lazy.attrs
    with pytest.warns(MrsxrWarning, match="9 of 9 samples lack up to"):
        told = say_what_is_lost(lazy.compute())
    xr.testing.assert_identical(told, eager)


@pytest.mark.parametrize("options", [*METHODS, {"source_type": "EXTENDED"},
                                     {"region": f'icrs; circle({RA},{DEC},0.5")'}])  # fmt: skip
def test_light_without_an_error_counts_and_takes_the_error_away(options):
    cube = make_cube(noisy())
    where = {} if "region" in options else HERE
    whole = extract_spectrum(cube, **where, **options)
    blind = cube.copy(deep=True)
    blind["var"][3, 20:22, 20:22] = np.nan
    out = extract_spectrum(blind, **where, **options)
    tolerance = 0.02 if options.get("method") == "optimal" else 1e-12
    np.testing.assert_allclose(out.flux, whole.flux, rtol=tolerance)
    assert np.flatnonzero(np.isnan(out["var"])).tolist() == [3]
    assert not out.dq.any()
    assert out.attrs["notes"] == ["spectrum 1A: 1 of 9 samples have no error, as spaxels of the cube have none"]


@pytest.mark.parametrize("lost", [["ERR"], ["WMAP", "MRSXR"], ["ERR", "WMAP", "MRSXR"], ["ERR", "WMAP", "DQ", "MRSXR"]])
@pytest.mark.parametrize("method", METHODS)
def test_cubes_without_errors_or_weights(tmp_path, lost, method):
    cube = make_cube(noisy())
    truth = extract_spectrum(cube, **HERE, **method)
    path = save(cube, tmp_path / "whole_s3d.fits")[0]
    with fits.open(path) as hdus:
        fits.HDUList([hdu for hdu in hdus if hdu.name not in lost]).writeto(tmp_path / "cut_s3d.fits")
    out = extract_spectrum(load(tmp_path / "cut_s3d.fits").compute(), source_type="POINT", **HERE, **method)
    np.testing.assert_allclose(out.flux, truth.flux, rtol=0.01 if method["method"] == "optimal" else 1e-6)
    assert not out.dq.any()
    blind = {"ERR", "MRSXR"} <= set(lost)  # our own extension has the variances as well
    assert bool(np.isnan(out["var"]).all()) == blind
    assert any("have no error" in note for note in out.attrs.get("notes", ())) == blind


@pytest.mark.parametrize("method", ["none", "multiplicative", "additive"])
@pytest.mark.parametrize("overlap", ["cut", "average"])
def test_bands_without_errors_are_matched_all_the_same(method, overlap):
    first = extract_spectrum(make_cube(noisy()), **HERE)
    second = extract_spectrum(make_cube(1.3 * noisy(), band="1B", wave0=5.04), **HERE)
    known = stitch_bands([first, second], method=method, overlap=overlap)
    blind = [ds.assign(var=ds["var"] * np.nan, surface_brightness_var=ds["var"] * np.nan) for ds in (first, second)]
    out = stitch_bands(blind, method=method, overlap=overlap)
    np.testing.assert_allclose(out.flux, known.flux, rtol=5e-3)
    assert np.isnan(out["var"]).all()


PATCHES = {
    "at the edge": (slice(0, 3), slice(10, 13)), "in a corner": (slice(0, 2), slice(41, 43)),
    "beside the edge": (slice(2, 5), slice(30, 33)), "wide": (slice(0, 5), slice(10, 15)),
    "a row": (slice(0, 1), slice(5, 40)), "a spaxel": (slice(4, 5), slice(4, 5)),
    "inside": (slice(6, 8), slice(35, 37)),
}  # fmt: skip


@pytest.mark.parametrize("patch", PATCHES)
def test_the_centre_does_not_walk_to_a_bright_patch(patch):
    flux = noisy(x=20.3, y=21.4)
    flux[(slice(None), *PATCHES[patch])] = 7 + 5 * (flux.max() - 7)
    out = extract_spectrum(make_cube(flux))
    assert (out.attrs["aperture_x"], out.attrs["aperture_y"]) == pytest.approx((20.3, 21.4), abs=0.05)
    np.testing.assert_allclose(out.flux, 0.1, rtol=0.01)
    assert any("a brighter place at spaxel" in note for note in out.attrs["notes"])
    if patch != "inside":  # of which jwst makes a star
        dao = extract_spectrum(make_cube(flux), centering="daofind")
        assert (dao.attrs["aperture_x"], dao.attrs["aperture_y"]) == pytest.approx((20.3, 21.4), abs=0.1)


def test_a_source_far_from_the_target_is_told():
    cube = make_cube(noisy(x=8.0, y=30.0))
    out = extract_spectrum(cube)
    assert (out.attrs["aperture_x"], out.attrs["aperture_y"]) == pytest.approx((8.0, 30.0), abs=0.05)
    assert "the source is found 2.1 arcsec from the target" in out.attrs["notes"][0]


def test_a_field_without_a_point_falls_back_to_the_target():
    flux = np.random.default_rng(3).normal(7, 0.2, (9, 43, 43))
    flux[:, 0:3, 20:23] = 900.0
    out = extract_spectrum(make_cube(flux))
    assert (out.attrs["aperture_x"], out.attrs["aperture_y"]) == pytest.approx((21.0, 21.0), abs=1e-3)
    told = re.search(r"off the border \(the brightest place is at spaxel \((\d+), (\d+)\)\)", out.attrs["notes"][0])
    assert told
    assert (float(told[1]), float(told[2])) == pytest.approx((21.0, 1.0), abs=1.5)
