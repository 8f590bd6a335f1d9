"""Our products in what others open them with: gwcs and specutils (here), jdaviz (where it is installed)."""

import io

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from test_io_products import make_cube, make_spectrum

from mrsxr.io import load, write_fits
from mrsxr.io._out_spectral import spectrum_file, write_cube

NO_JDAVIZ = "jdaviz is not installed; it brings a desktop of packages and is no part of the extra 'test'"
quiet = pytest.mark.filterwarnings("ignore")  # of their packages


@pytest.fixture(params=["linear", "unequal", "turned"])
def cube_path(request, tmp_path):
    """An s3d file, streamed."""
    cube = make_cube(n=(12, 7, 5))
    if request.param == "unequal":
        cube = cube.assign_coords(wavelength=("wavelength", np.geomspace(5, 20, 12), {"units": "um"}))
        cube.attrs.update(band="1A,2A,3A", bands=["1A", "2A", "3A"])
    if request.param == "turned":
        header = fits.Header.fromstring(cube.attrs["wcs"], sep="\n")
        turn = np.deg2rad(33.0)
        header.update({"PC1_1": -np.cos(turn), "PC1_2": np.sin(turn), "PC2_1": np.sin(turn), "PC2_2": np.cos(turn)})
        cube.attrs["wcs"] = header.tostring(sep="\n", endcard=False, padding=False)
    return write_cube(cube.chunk(wavelength=5), tmp_path / "a_s3d.fits")


@quiet
def test_gwcs_of_a_cube_is_its_wcs(cube_path):
    pytest.importorskip("gwcs")
    import asdf

    with fits.open(cube_path) as hdulist:
        buffer = io.BytesIO(hdulist["ASDF"].data["ASDF_METADATA"].tobytes())
        celestial = WCS(hdulist["SCI"].header, hdulist).celestial
        assert hdulist["SCI"].header["DISPAXIS"] == 2
    with asdf.open(buffer) as file:
        wcs = file["meta"]["wcs"]
        assert wcs.bounding_box.bounding_box(order="F") == ((0, 4), (0, 6), (0, 11))
        z, y, x = np.indices((12, 7, 5))
        ra, dec, wavelength = wcs(x, y, z)
        back = wcs.invert(ra, dec, wavelength, with_bounding_box=False)
    expected = celestial.pixel_to_world(x, y)
    np.testing.assert_allclose(ra, expected.ra.deg, rtol=0, atol=1e-10)
    np.testing.assert_allclose(dec, expected.dec.deg, rtol=0, atol=1e-10)
    np.testing.assert_allclose(wavelength, load(cube_path).wavelength.values[z], rtol=1e-12)
    np.testing.assert_allclose(back, [x, y, z], atol=1e-6)


@quiet
def test_specutils_opens_the_cube(cube_path):
    specutils = pytest.importorskip("specutils")
    pytest.importorskip("stdatamodels")
    cube, found = load(cube_path), specutils.Spectrum.read(cube_path)
    np.testing.assert_allclose(found.spectral_axis.to_value("um"), cube.wavelength, rtol=1e-12)
    assert found.flux.unit == "MJy / sr"
    np.testing.assert_array_equal(found.flux.value, cube.flux)


@quiet
def test_jdaviz_opens_the_cube(cube_path):
    jdaviz = pytest.importorskip("jdaviz", reason=NO_JDAVIZ)
    cube, viz = load(cube_path), jdaviz.Cubeviz()
    viz.load(str(cube_path), data_label="ours")
    found = viz.get_data("ours")
    np.testing.assert_allclose(found.spectral_axis.to_value("um"), cube.wavelength, rtol=1e-12)
    axes = np.moveaxis(found.flux.to_value("MJy/sr"), found.spectral_axis_index, 0)
    axes = axes if axes.shape == cube.flux.shape else np.swapaxes(axes, 1, 2)
    np.testing.assert_array_equal(axes, cube.flux)


@quiet
@pytest.mark.parametrize("bands", [("1A",), ("1A", "3C")])
@pytest.mark.parametrize("source_type", ["POINT", "EXTENDED"])
def test_jdaviz_opens_the_spectrum(tmp_path, bands, source_type):
    jdaviz = pytest.importorskip("jdaviz", reason=NO_JDAVIZ)
    spectrum = make_spectrum(bands)
    spectrum.attrs["source_type"] = source_type
    path = write_fits(spectrum_file(spectrum, "a_x1d.fits"), tmp_path / "a_x1d.fits")
    viz = jdaviz.Specviz()
    viz.load(str(path), data_label="ours")
    found = viz.get_data("ours")
    np.testing.assert_allclose(found.spectral_axis.to_value("um"), spectrum.wavelength, rtol=1e-12)
    name, unit = ("flux", "Jy") if source_type == "POINT" else ("surface_brightness", "MJy/sr")
    np.testing.assert_allclose(found.flux.to_value(unit), spectrum[name], rtol=1e-12)
