"""Cubes smoothed to one PSF."""

import dask.array as da
import numpy as np
import pytest
from helpers import assert_step, no_compute
from made_sky import cube_of, from_flux, grid_of, star, star_in_spaxels
from scipy.optimize import least_squares

from mrsxr import mrs
from mrsxr.cube.psf import gaussian_kernel, match_psf
from mrsxr.errors import MrsxrError


def width_of(plane, scale):
    """Return the FWHM [arcsec] of a source by a fit of a Gaussian averaged over spaxels."""
    from scipy.special import erf

    rows, columns = (np.arange(n) for n in plane.shape)

    def model(p):
        root = 1 / (np.sqrt(2) * p[3])
        parts = [0.5 * (erf((v + 0.5 - c) * root) - erf((v - 0.5 - c) * root))
                 for v, c in ((rows, p[2]), (columns, p[1]))]  # fmt: skip
        return p[0] * np.outer(*parts)

    j, i = np.unravel_index(np.argmax(plane), plane.shape)
    fit = least_squares(lambda p: (model(p) - plane).ravel(), [plane.sum(), i, j, 1.5])
    return fit.x[3] * 2.35482 * scale


@pytest.mark.parametrize("channel", [1, 2, 3, 4])
def test_width_of_a_point_source_is_the_target(channel):
    """Kernels of a tenth of a spaxel to two spaxels; planes over the whole channel."""
    low, high = mrs.WAVELENGTH_LIMITS[f"{channel}A"][0], mrs.WAVELENGTH_LIMITS[f"{channel}C"][1]
    grid = grid_of((41, 43), scale=mrs.SPAXEL_SIZE[channel], start=low, step=(high - low) / 12, nz=12)
    planes = [star_in_spaxels(mrs.psf_fwhm(w), grid, (0.04, -0.09)) for w in grid.wavelengths]
    cube = from_flux(np.array(planes, "f4"), grid)
    out = match_psf(cube)
    target = mrs.psf_fwhm(grid.wavelengths[-1])
    assert out.attrs["psf_fwhm"] == pytest.approx(target)
    before = [width_of(p, grid.spaxel_size) for p in planes]
    after = [width_of(p, grid.spaxel_size) for p in out.flux.values.astype(float)]
    assert before[0] < 0.93 * target
    np.testing.assert_allclose(after, target, rtol=0.02)
    np.testing.assert_allclose(out.flux.sum(("y", "x")), cube.flux.sum(("y", "x")), rtol=1e-3)


def test_ratio_of_two_bands_of_a_point_source_is_constant():
    """18.7 and 26.3 um on one grid: before the ratio runs from 1.7 to 0.1, afterwards within 2 %."""
    maps = {}
    for wave, light in ((18.7, 400.0), (26.3, 200.0)):
        grid = grid_of((31, 33), start=wave, nz=1)
        maps[wave] = from_flux(
            star_in_spaxels(mrs.psf_fwhm(wave + 0.003), grid, (0.1, 0.05), light)[None].astype("f4"), grid
        )
    blue, red = maps[18.7], maps[26.3]
    y, x = np.meshgrid(blue.y, blue.x, indexing="ij")
    near = np.hypot(x - 0.1, y - 0.05) < 1.25  # down to 1 % of the peak

    def ratio(a, b):
        return a.flux.values[0][near] / b.flux.values[0][near] / 2.0

    before = ratio(blue, red)
    after = ratio(*(match_psf(cube, others=[blue, red]) for cube in (blue, red)))
    assert before.max() > 1.5
    assert before.min() < 0.15
    np.testing.assert_allclose(after, 1.0, atol=0.02)


def test_kernels_have_the_width_asked_for():
    """A sampled Gaussian comes out as wide as it should, wherever its centre lies in a spaxel."""
    place = np.arange(61) - 30.0
    for sigma in (0.05, 0.2, 0.4, 0.6, 0.8, 0.99, 1.0, 3.0):
        kernel = gaussian_kernel(sigma, 1.0)
        assert kernel.sum() == pytest.approx(1.0)
        np.testing.assert_allclose(kernel, kernel[::-1])
        for phase in (0.0, 0.25, 0.5):
            before, after = (np.exp(-0.5 * ((place - phase) / s) ** 2) / s for s in (1.0, np.hypot(1.0, sigma)))
            found = np.convolve(before, kernel, mode="same")
            np.testing.assert_allclose(found, after, atol=3e-3 * after.max())
    np.testing.assert_array_equal(gaussian_kernel(0.0, 1.0), [1.0])


def test_step_keeps_its_promises():
    cube = cube_of(star(0.8), grid_of((9, 11), nz=6))
    cube["var_systematic"] = 0 * cube["var"] + 0.01
    cube["var_systematic"].attrs = cube["var"].attrs
    assert_step(match_psf, cube, fwhm=1.1)
    lazy = cube.assign({name: cube[name].chunk(wavelength=4, y=5) for name in cube.data_vars})
    with no_compute():
        out = match_psf(lazy, fwhm=1.1)
    assert isinstance(out.flux.data, da.Array)
    for name in cube.data_vars:
        np.testing.assert_array_equal(out[name], match_psf(cube, fwhm=1.1)[name])


def test_variance_is_that_of_many_draws():
    grid = grid_of((9, 9), nz=400)
    draws = np.random.default_rng(2).normal(0, 2.0, grid.shape).astype("f4")
    cube = from_flux(draws, grid, var=4.0)
    cube["var_systematic"] = 0 * cube["var"] + 0.09
    cube.flux[:, 4, 6] = np.nan
    out = match_psf(cube, psf=0.5, fwhm=1.2)
    assert float(out["var"].max()) < 2.0
    scatter = out.flux.var("wavelength", ddof=1)
    ratio = (scatter / out["var"].mean("wavelength")).values
    assert np.nanmean(ratio) == pytest.approx(1.0, abs=0.05)
    assert np.nanmax(np.abs(ratio - 1)) < 0.35
    np.testing.assert_allclose(out["var_systematic"].values[:, 0, 0], 0.09, rtol=1e-5)


def test_edges_and_holes():
    grid = grid_of((11, 13), nz=2)
    cube = cube_of(lambda e, n, w: 7.0 + 0 * e, grid)
    cube.flux[0, 3, 4] = np.nan
    cube.dq[1, 5, 5] = 1
    cube.flux[1, 5, 5] = 1e9
    kept = match_psf(cube, fwhm=1.4)
    np.testing.assert_allclose(kept.flux.values[np.isfinite(kept.flux)], 7.0, rtol=1e-6)
    assert np.isnan(kept.flux[0, 3, 4])
    assert np.isnan(kept.flux[1, 5, 5])
    assert kept.dq[0, 3, 4] == 1
    assert int(np.isnan(kept.flux).sum()) == 2
    corner = star_in_spaxels(0.7, grid, (grid.x[1], grid.y[1]), light=100.0)[None].astype("f4")
    one = from_flux(np.repeat(corner, 2, axis=0), grid)
    lost = match_psf(one, fwhm=1.4, edges="zero").flux.sum(("y", "x")) / one.flux.sum(("y", "x"))
    assert (lost < 1.0).all()
    assert (lost > 0.5).all()
    blind = match_psf(cube.assign(flux=cube.flux * np.nan), fwhm=1.4)
    assert np.isnan(blind.flux).all()
    assert (blind.dq == 1).all()


def test_targets():
    cube = cube_of(star(0.8), grid_of((7, 7), nz=2))
    red = cube_of(star(0.8), grid_of((7, 7), start=26.0, nz=2))
    assert match_psf(cube, wavelength=28.0).attrs["psf_fwhm"] == pytest.approx(mrs.psf_fwhm(28.0))
    assert match_psf(cube, others=[red]).attrs["psf_fwhm"] == pytest.approx(mrs.psf_fwhm(26.009))
    assert match_psf(cube, psf=lambda w: 0.02 * w).attrs["psf_fwhm"] == pytest.approx(0.02 * 18.009)
    same = match_psf(cube, psf=0.9)
    np.testing.assert_array_equal(same.flux, cube.flux)
    for options, message in (
        ({"fwhm": 0.3}, "target of 0.300 arcsec is sharper than the cube, 0.700 arcsec at 18.009 um"),
        ({"fwhm": 1.0, "wavelength": 20.0}, "expected one of them"),
        ({"fwhm": -1.0}, "expected a number above 0"),
        ({"psf": 0.0}, "not above 0 everywhere"),
        ({"edges": "mirror"}, "expected one of normalise, zero"),
    ):
        with pytest.raises(MrsxrError, match=message):
            match_psf(cube, **options)
    bare = cube.drop_vars(["y", "x", "ra", "dec"])  # neither offsets nor attribute tell the spaxel
    for key in ("pixel_scale", "wcs"):
        del bare.attrs[key]
    with pytest.raises(MrsxrError, match="pixel_scale"):
        match_psf(bare)


def test_a_matched_cube_has_the_width_that_it_was_matched_to():
    grid = grid_of((33, 31), start=9.1, step=0.3, nz=4)
    planes = [star_in_spaxels(mrs.psf_fwhm(w), grid, (-0.07, 0.03)) for w in grid.wavelengths]
    cube = from_flux(np.array(planes, "f4"), grid)
    once = match_psf(cube, fwhm=0.8)
    np.testing.assert_array_equal(match_psf(once, fwhm=0.8).flux, once.flux)
    steps, straight = match_psf(once, fwhm=1.3), match_psf(cube, fwhm=1.3)
    for one in (steps, straight):
        widths = [width_of(plane, grid.spaxel_size) for plane in one.flux.values.astype(float)]
        np.testing.assert_allclose(widths, 1.3, rtol=0.02)
    assert match_psf(cube, others=[once]).attrs["psf_fwhm"] == 0.8
    with pytest.raises(MrsxrError, match=r"sharper than the cube, 0\.800 arcsec"):
        match_psf(once, fwhm=0.6)
