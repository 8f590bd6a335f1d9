from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from mrsxr.errors import MrsxrError
from mrsxr.simulate import Background, LineDisc, PointSource, PowerLaw, Psf, Scene
from mrsxr.simulate.instrument import footprints, make_geometry
from mrsxr.simulate.pointing import aim_at
from mrsxr.simulate.render import point_shape, render
from mrsxr.units import MJYSR_TO_JY_PER_ARCSEC2


@pytest.fixture(scope="module")
def psf():
    return Psf.spiked(7.4, 8.9, step=0.04)


def few(geometry, middle=8.1):
    """Footprints of band 2A within 0.002 um of a wavelength."""
    from dataclasses import fields, replace

    pixels = footprints(geometry)["2A"]
    near = np.abs(pixels.wavelength - middle) < 0.002
    return replace(pixels, **{f.name: getattr(pixels, f.name)[near] for f in fields(pixels) if f.name != "band"})


def test_means_are_sums_of_the_pixels_of_the_image(psf):
    n = psf.images.shape[1] // 2
    assert psf.images.sum(axis=(1, 2)) == pytest.approx(1.0)
    half = psf.step / 2
    low, high = np.array([-2, 5]) * psf.step - half, np.array([1, 6]) * psf.step + half
    found = psf.mean((low, high), (np.full(2, -3 * half), np.full(2, 5 * half)), np.full(2, psf.wavelengths[2]))
    area = (high - low) * 8 * half
    expected = [psf.images[2, n - 2 : n + 2, n - 1 : n + 3].sum(), psf.images[2, n + 5 : n + 7, n - 1 : n + 3].sum()]
    np.testing.assert_allclose(found * area, expected, rtol=1e-9)


def test_spiked_psf_has_the_measured_width_and_no_symmetry(psf):
    for wavelength, image in zip(psf.wavelengths, psf.images, strict=True):
        width = 2 * np.sqrt(np.count_nonzero(image > 0.5 * image.max()) / np.pi) * psf.step
        assert width == pytest.approx(0.033 * wavelength + 0.106, rel=0.06)
    image = psf.images[0]
    assert np.abs(image - image[::-1, ::-1]).sum() > 0.02
    ring = np.abs(np.hypot(*np.indices(image.shape) - image.shape[0] // 2) * psf.step - 1.5) < psf.step
    assert image[ring].max() > 2 * np.median(image[ring])


def test_scene_is_blurred_by_the_images(psf):
    geometry = make_geometry("12A")
    pixels, aim = few(geometry), aim_at(150.0, 20.0, 33.0, (0.1, -0.2), 1.0, 0.0)
    source = PointSource(150.0, 20.0, PowerLaw(20.0, 0.0))
    disc = LineDisc(150.0, 20.0, scale_length=0.12, inclination=40.0, continuum=PowerLaw(20.0, 0.0))
    scene = Scene(150.0, 20.0, points=(source,), discs=(disc,), background=Background(scale=0.0), psf=psf)
    parts = render(scene, aim, geometry, pixels)
    shape = point_shape(source, aim, geometry, pixels, psf=psf)
    assert parts.point == pytest.approx(0.02 * shape / MJYSR_TO_JY_PER_ARCSEC2)
    assert np.abs(shape - point_shape(source, aim, geometry, pixels)).max() > 0.1 * shape.max()
    axis = 0.08 * np.arange(-8, 9)
    share = disc.surface(axis[:, None], axis[None, :])[0] * 0.08**2
    total = np.zeros(shape.size)
    for (i, k), weight in np.ndenumerate(share / share.sum()):
        one = PointSource(150.0 + axis[i] / 3600 / np.cos(np.radians(20.0)), 20.0 + axis[k] / 3600)
        total += weight * point_shape(one, aim, geometry, pixels, psf=psf)
    expected = 0.02 * total / MJYSR_TO_JY_PER_ARCSEC2
    assert np.abs(parts.extended - expected).max() < 0.03 * expected.max()


def test_a_file_of_images(tmp_path, psf):
    axis = psf.step * (np.arange(psf.images.shape[1]) - psf.images.shape[1] // 2)
    file = xr.Dataset(
        {"psf": (("wavelength", "alpha", "beta"), 7.0 * psf.images)},
        {"wavelength": psf.wavelengths, "alpha": axis, "beta": axis},
    )
    file.to_netcdf(tmp_path / "psf.nc", engine="netcdf4")
    read = Psf.read(tmp_path / "psf.nc")
    np.testing.assert_allclose(read.images, psf.images)
    assert read.step == pytest.approx(psf.step)
    file.rename(psf="other").to_netcdf(tmp_path / "no.nc", engine="netcdf4")
    with pytest.raises(MrsxrError, match="variable psf"):
        Psf.read(tmp_path / "no.nc")
