"""Regions of the sky as apertures."""

from pathlib import Path

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from regions import (
    CircleAnnulusSkyRegion,
    CirclePixelRegion,
    CircleSkyRegion,
    EllipseAnnulusSkyRegion,
    EllipseSkyRegion,
    PixCoord,
    RectangleAnnulusSkyRegion,
    RectangleSkyRegion,
    Regions,
)
from test_extract_1d import DEC, RA, SCALE, make_cube

from mrsxr.errors import MrsxrError, MrsxrWarning
from mrsxr.spectrum import decide_source_type, extract_spectrum, extraction_weights
from mrsxr.spectrum.region import read_region, region_weights

CIRCLE = CircleSkyRegion(SkyCoord(RA, DEC, unit="deg"), 1.0 * u.arcsec)


@pytest.fixture
def cube():
    rng = np.random.default_rng(3)
    flux = rng.normal(5, 1, (6, 41, 43)).astype("f4")
    flux[:, 20, 22] = np.nan
    return make_cube(flux)


def area(cube, text):
    return region_weights(cube, text).sum() * SCALE**2


def test_areas_are_those_of_the_shapes(cube):
    place = f"{RA},{DEC}"
    assert area(cube, f'icrs; circle({place},1.0")') == pytest.approx(np.pi, rel=1e-5)
    assert area(cube, f'icrs; ellipse({place},1.0",0.5",30)') == pytest.approx(np.pi / 2, rel=1e-5)
    assert area(cube, f'icrs; box({place},1.2",0.6",30)') == pytest.approx(0.72, rel=1e-5)
    side = 1.0 / 3600
    corners = f"{RA},{DEC},{RA + side / np.cos(np.deg2rad(DEC))},{DEC},{RA},{DEC + side}"
    assert area(cube, f"icrs; polygon({corners})") == pytest.approx(0.5, rel=0.01)  # by subpixels


def test_regions_unite_and_cut_out(cube):
    circle, far = f'circle({RA},{DEC},1.0")', f'circle({RA},{DEC + 2 / 3600},0.4")'
    assert area(cube, f"icrs\n{circle}\n{circle}") == pytest.approx(np.pi, rel=1e-5)
    assert area(cube, f"icrs\n{circle}\n{far}") == pytest.approx(1.16 * np.pi, rel=1e-5)
    assert area(cube, f'icrs\n{circle}\n-circle({RA},{DEC},0.5")') == pytest.approx(0.75 * np.pi, rel=1e-5)


def test_region_equals_the_circle(cube):
    region = CircleSkyRegion(SkyCoord(RA, DEC, unit="deg"), 0.9 * u.arcsec)
    ours = extract_spectrum(cube, region=region)
    circle = extract_spectrum(cube, source_type="EXTENDED", center=(RA, DEC), radius=0.9)
    for name in ("flux", "var", "surface_brightness", "background", "n_pixels"):
        np.testing.assert_allclose(ours[name], circle[name], rtol=1e-6)
    assert ours.attrs["source_type"] == "EXTENDED"
    assert ours.attrs["region"].startswith("# Region file format: DS9")


@pytest.mark.filterwarnings("ignore:spectrum 1A. . of:mrsxr.errors.MrsxrWarning")
def test_lazy_equals_eager(cube):
    text = f'icrs; ellipse({RA},{DEC},1.0",0.5",30)'
    lazy = extract_spectrum(cube.chunk({"wavelength": 2}), region=text)
    assert lazy.flux.chunks is not None
    np.testing.assert_array_equal(lazy.flux.values, extract_spectrum(cube, region=text).flux.values)


@pytest.mark.filterwarnings("ignore:spectrum 1A. . of:mrsxr.errors.MrsxrWarning")
def test_every_kind_of_region_has_its_area(cube):
    place, sec = SkyCoord(RA, DEC, unit="deg"), u.arcsec
    other = SkyCoord(RA, DEC + 1.5 / 3600, unit="deg")
    ring = CircleAnnulusSkyRegion(place, 0.4 * sec, 1.1 * sec)
    assert area(cube, ring) == pytest.approx(np.pi * (1.1**2 - 0.4**2), rel=1e-5)
    assert area(cube, f'icrs; annulus({RA},{DEC},0.4",1.1")') == pytest.approx(area(cube, ring), rel=1e-6)
    ellipses = EllipseAnnulusSkyRegion(place, 0.6 * sec, 2.0 * sec, 0.3 * sec, 1.0 * sec, 20 * u.deg)
    assert area(cube, ellipses) == pytest.approx(np.pi / 4 * (2.0 - 0.18), rel=1e-5)
    boxes = RectangleAnnulusSkyRegion(place, 0.5 * sec, 1.5 * sec, 0.4 * sec, 1.2 * sec, 20 * u.deg)
    assert area(cube, boxes) == pytest.approx(1.8 - 0.2, rel=1e-5)
    assert area(cube, RectangleSkyRegion(place, 1.2 * sec, 0.6 * sec)) == pytest.approx(0.72, rel=1e-5)
    assert area(cube, EllipseSkyRegion(place, 1.2 * sec, 0.6 * sec)) == pytest.approx(0.18 * np.pi, rel=1e-5)
    circles = CircleSkyRegion(place, 0.5 * sec) | CircleSkyRegion(other, 0.4 * sec)
    assert area(cube, circles) == pytest.approx(np.pi * (0.25 + 0.16), rel=1e-5)
    assert area(cube, Regions([CircleSkyRegion(place, 0.5 * sec)])) == pytest.approx(np.pi / 4, rel=1e-5)
    extract_spectrum(cube, region=Regions([ring]))
    assert area(cube, [ring, circles]) == pytest.approx(np.pi * (1.21 + 0.16), rel=2e-3)  # inner border twice


def test_pixels_are_those_of_the_cube_that_is_cut(cube):
    cut = cube.isel(y=slice(4, 38), x=slice(6, None))
    whole = extract_spectrum(cube, region=CirclePixelRegion(PixCoord(21.3, 19.8), 6.0))
    part = extract_spectrum(cut, region=CirclePixelRegion(PixCoord(15.3, 15.8), 6.0))
    text = extract_spectrum(cut, region="image; circle(16.3, 16.8, 6)")
    for found in (part, text):
        np.testing.assert_allclose(found.flux, whole.flux, rtol=1e-5)
        np.testing.assert_allclose(found.attrs["aperture_ra"], whole.attrs["aperture_ra"], rtol=1e-9)
    assert "image" not in whole.attrs["region"]
    np.testing.assert_allclose(region_weights(cube, whole.attrs["region"]).sum(), np.pi * 36, rtol=1e-4)
    weights = extraction_weights(cut, part)
    np.testing.assert_allclose((weights * cut.flux).sum(("y", "x")), part.flux, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:spectrum 1A. . of:mrsxr.errors.MrsxrWarning")
def test_an_annulus_is_the_difference_of_its_circles(cube):
    place = SkyCoord(RA, DEC, unit="deg")
    ring = extract_spectrum(cube, region=CircleAnnulusSkyRegion(place, 0.5 * u.arcsec, 1.0 * u.arcsec))
    inner, outer = (extract_spectrum(cube, region=CircleSkyRegion(place, r * u.arcsec)) for r in (0.5, 1.0))
    np.testing.assert_allclose(ring.flux, outer.flux - inner.flux, rtol=1e-4)
    again = extract_spectrum(cube, region=ring.attrs["region"])
    np.testing.assert_allclose(again.flux, ring.flux, rtol=1e-6)


def test_circles_in_other_words(cube):
    plain = extract_spectrum(cube, source_type="EXTENDED", center=(RA, DEC), radius=0.9)
    place = SkyCoord(RA, DEC, unit="deg")
    for center, radius in (
        (place.galactic, 0.9 * u.arcsec), (place.to_string("hmsdms", precision=6), "0.015 arcmin"),
        (f"{RA} {DEC}", 0.9), (np.array([RA, DEC]), np.float32(0.9)),
    ):  # fmt: skip
        found = extract_spectrum(cube, source_type="extended", center=center, radius=radius)
        np.testing.assert_allclose(found.flux, plain.flux, rtol=1e-5)
        assert found.attrs["aperture_ra"] == pytest.approx(RA, abs=1e-7)
    with pytest.raises(MrsxrError, match=r"radius is 1\.0 um; expected a number of arcsec"):
        extract_spectrum(cube, source_type="EXTENDED", center=(RA, DEC), radius=1 * u.um)


def test_swapped_places_are_told(cube):
    with pytest.raises(MrsxrError, match=r"declination .* expected -90 to 90; are right ascension and .* swapped\?$"):
        extract_spectrum(cube, center=(DEC, RA))
    with pytest.raises(MrsxrError, match=r"lies outside cube 1A, .* expected a place in it$"):
        extract_spectrum(cube, center=(RA + 0.1, DEC))
    header = fits.Header.fromstring(cube.attrs["wcs"], sep="\n")
    header["CRVAL1"] = 40.67
    seyfert = cube.assign_attrs(wcs=header.tostring(sep="\n"))
    for center in ((DEC, 40.67), f"{DEC} 40.67", SkyCoord(DEC, 40.67, unit="deg")):
        for function in (extract_spectrum, decide_source_type):
            with pytest.raises(MrsxrError, match=r"lies outside cube 1A, whose centre .* declination are swapped$"):
                function(seyfert, center=center)
    assert extract_spectrum(seyfert, center=(40.67, DEC), source_type="EXTENDED").attrs["aperture"] == "whole field"


def test_file_and_text_say_the_same(cube, tmp_path):
    path = tmp_path / "nucleus.reg"
    text = f'# Region file format: DS9\nicrs\ncircle({RA},{DEC},1.0")\n'
    path.write_text(text)
    np.testing.assert_array_equal(region_weights(cube, path), region_weights(cube, text))
    np.testing.assert_array_equal(region_weights(cube, str(path)), region_weights(cube, text))


def test_what_a_file_says_beyond_regions_with_area_is_told(cube, tmp_path):
    path = tmp_path / "my region (2).reg"
    path.write_text(f'icrs\ncircle({RA},{DEC},1.0")\nvector({RA},{DEC},1",20)\n')
    with pytest.warns(MrsxrWarning, match="vector"):
        out = extract_spectrum(cube, region=str(path))
    assert any("vector" in note for note in out.attrs["notes"])
    casa = tmp_path / "nucleus.crtf"
    casa.write_text(f"#CRTFv0\ncircle[[{RA}deg, {DEC}deg], 1.0arcsec], coord=ICRS\n")
    assert area(cube, casa) == pytest.approx(np.pi, rel=1e-5)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ("nucleus.reg", "nucleus.reg: no such region file"),
        (Path("nowhere/nucleus"), "no such region file"),
        ("regions/nucleus", "no such region file"),
        ("", "holds no region"),
        ([], "holds no region"),
        (5, "region is 5; expected a region of the sky"),
        ((1.0, 2.0), "region is 1.0"),
        ('circle(22:36:03.6,+33:58:33,1.5")', "coordinate frame was not found"),
        (f"icrs; point({RA},{DEC})", "PointSkyRegion has no area"),
        (f'icrs; -circle({RA},{DEC},1")', "only cuts out"),
        (f"icrs; circle({RA},{DEC}", "region 'icrs; circle"),
        (CIRCLE & CIRCLE, "an intersection or difference"),
        (CIRCLE.to_pixel, "region is <bound method"),
    ],
)
def test_what_is_no_region_is_refused_in_one_line(region, message):
    with pytest.raises(MrsxrError, match=message) as error:
        read_region(region)
    assert "\n" not in str(error.value)


def test_files_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "a.reg").write_bytes(b"\xff\xfe\x00circle(")
    for path in (tmp_path / "a.reg", tmp_path):
        with pytest.raises(MrsxrError, match="the region file cannot be read"):
            read_region(path)


def test_what_is_no_region_of_the_sky_is_refused(cube):
    with pytest.raises(MrsxrError, match="holds no region"):
        read_region("nonsense")
    with pytest.raises(MrsxrError, match="in pixels"):
        read_region(CirclePixelRegion(PixCoord(3, 4), 2))
    with pytest.raises(MrsxrError, match="lies outside cube 1A"):
        region_weights(cube, f'icrs; circle({RA + 1},{DEC},1")')
    with pytest.raises(MrsxrError, match="one or the other"):
        extract_spectrum(cube, region=f'icrs; circle({RA},{DEC},1")', radius=1.0)
