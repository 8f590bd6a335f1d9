"""Files as STPSF writes them become a PSF of the detector; the layout is that of its calc_datacube and calc_psf."""

import numpy as np
import pytest
from astropy.io import fits

from mrsxr.cal import psf_of_images, psf_of_stpsf
from mrsxr.errors import MrsxrError

STEP = 0.04


def written(path, n=3, extension="OVERDIST", side=60, **cards):
    """Write images of a lopsided source: OVERSAMP in the primary, more behind it, wavelengths in metres."""
    axis = STEP * (np.arange(side) - 0.5 * (side - 1))
    y, x = np.meshgrid(axis, axis, indexing="ij")
    image = np.exp(-0.5 * (x**2 + y**2) / 0.12**2) + 0.1 * np.exp(-0.5 * ((x - 0.3) ** 2 + (y - 0.15) ** 2) / 0.1**2)
    data = np.stack([image] * n) if n > 1 else image
    hdus = [fits.PrimaryHDU(0 * data + 1), fits.ImageHDU(0 * data), fits.ImageHDU(data), fits.ImageHDU(0 * data)]
    for hdu, name in zip(hdus, ("OVERSAMP", "DET_SAMP", extension, "DET_DIST"), strict=True):
        hdu.header["EXTNAME"] = name
        hdu.header["PIXELSCL"] = STEP
        hdu.header["OVERSAMP"] = 5
        for k in range(n):
            key = "WAVE0" if n == 1 else f"WAVELN{k:02d}" if n < 100 else f"WVLN{k:04d}"
            hdu.header[key] = 5e-6 + 1e-8 * k
        hdu.header.update(cards)
    fits.HDUList(hdus).writeto(path)
    return path, image


@pytest.mark.parametrize("n", [1, 3, 101])
def test_images_wavelengths_and_axes(tmp_path, n):
    path, image = written(tmp_path / "one.fits", n, side=60 if n < 9 else 20, BAND="1A")
    psf = psf_of_stpsf(path)
    assert psf.attrs["kind"] == "psf"
    np.testing.assert_allclose(psf.psf_wavelength, 5 + 0.01 * np.arange(n))
    turned = psf_of_images([image.T[::-1, ::-1]], [5.0], step=STEP, band="1A").psf.values[0]
    np.testing.assert_array_equal(psf.psf.values[-1], turned)
    if n == 3:  # the lobe at x > 0 lies at alpha < 0
        light = psf.psf.values[0].sum(axis=1)
        assert light[:30].sum() > light[30:].sum()


def test_without_distortion_the_oversampled_images_serve(tmp_path):
    path, _ = written(tmp_path / "two.fits", extension="OTHER", BAND="3C")
    psf = psf_of_stpsf(path)
    assert set(psf.psf_band.values) == {"3C"}
    np.testing.assert_allclose(psf.psf.values[:, 20:40, 20:40], 1.0)  # the flat images of OVERSAMP


@pytest.mark.parametrize(
    ("cards", "text"),
    [({}, "tells no band"), ({"BAND": "1A", "PIXELSCL": 0.13}, "by more oversampling"),
     ({"BAND": "1A", "PIXELSCL": -1.0}, "PIXELSCL of OVERDIST is -1.0"), ({"BAND": "1A", "WAVELN01": 5.0}, "WAVELN00")],
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path, cards, text):
    path, _ = written(tmp_path / "three.fits", **cards)
    with pytest.raises(MrsxrError, match=text):
        psf_of_stpsf(path)


def test_other_files_are_refused(tmp_path):
    fits.PrimaryHDU(np.ones((3, 3))).writeto(tmp_path / "other.fits")
    with pytest.raises(MrsxrError, match="expected an extension OVERDIST or OVERSAMP"):
        psf_of_stpsf(tmp_path / "other.fits")
