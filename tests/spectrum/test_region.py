"""Regions of the sky as apertures."""

import numpy as np
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from regions import CirclePixelRegion, CircleSkyRegion, PixCoord
from test_extract_1d import DEC, RA, SCALE, make_cube

from mrsxr.errors import MrsxrError
from mrsxr.spectrum import extract_spectrum
from mrsxr.spectrum.region import read_region, region_weights


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


def test_file_and_text_say_the_same(cube, tmp_path):
    path = tmp_path / "nucleus.reg"
    text = f'# Region file format: DS9\nicrs\ncircle({RA},{DEC},1.0")\n'
    path.write_text(text)
    np.testing.assert_array_equal(region_weights(cube, path), region_weights(cube, text))
    np.testing.assert_array_equal(region_weights(cube, str(path)), region_weights(cube, text))


def test_what_is_no_region_of_the_sky_is_refused(cube):
    with pytest.raises(MrsxrError, match="holds no region"):
        read_region("nonsense")
    with pytest.raises(MrsxrError, match="in pixels"):
        read_region(CirclePixelRegion(PixCoord(3, 4), 2))
    with pytest.raises(MrsxrError, match="lies outside cube 1A"):
        region_weights(cube, f'icrs; circle({RA + 1},{DEC},1")')
    with pytest.raises(MrsxrError, match="one or the other"):
        extract_spectrum(cube, region=f'icrs; circle({RA},{DEC},1")', radius=1.0)
