"""Errors of sums over planes, against draws of noise in detector pixels."""

import numpy as np
import pytest
import xarray as xr
from noise_draws import draws_of
from test_cube_build import build, make_cal

from mrsxr import mrs
from mrsxr.errors import MrsxrError
from mrsxr.lines import channel_maps, fit_line, moments
from mrsxr.sums import correlation_length, shared_light, variance_of_sum, wavelength_correlation

LINE = 5.016


@pytest.fixture(scope="module")
def noisy():
    """Return a cube and 200 draws of its noise; slices and dithers share no phase of pixels and planes."""
    ds = make_cal(4)
    moved = ds.wavelength_coefficients.copy(deep=True)
    moved[:, 0, 0] += 8.3e-4 * np.array([0.0, 0.31, 0.77, 0.55, 0.12, 0.93])
    moved[:, 0, 1] = 6e-5
    moved[:, 1, 0] = 9.3e-4
    ds = ds.assign(wavelength_coefficients=moved)
    cube = build(ds)
    return cube, draws_of(ds, cube, 200).astype("f4")


@pytest.mark.parametrize(("distance", "length"), [(1.0, 1.1), (2.0, 1.4), (0.5, 0.6), (3.0, 1.5)])
def test_shared_light_against_pixels_at_many_places(distance, length):
    start = np.linspace(-4, 8, 200_001)

    def overlap(plane):
        return np.clip(np.minimum(start + length, plane + 0.5) - np.maximum(start, plane - 0.5), 0, None)

    slow = (overlap(0.0) * overlap(distance)).sum() / (overlap(0.0) ** 2).sum()
    assert shared_light(distance, length) == pytest.approx(slow, abs=1e-4)


@pytest.mark.parametrize("number", [3, 8])
def test_scatter_of_sums_over_planes(noisy, number):
    cube, noise = noisy
    part = cube.isel(wavelength=slice(4, 4 + number))
    sums = noise[:, 4 : 4 + number].sum(axis=1)
    seen = np.isfinite(sums).all(axis=0)
    error = np.sqrt(variance_of_sum(part).values)[seen]
    assert (sums[:, seen] / error).std() == pytest.approx(1.0, abs=0.05)
    assert (sums[:, seen] / np.sqrt(part["var"].sum("wavelength").values[seen])).std() > 1.13
    mean = variance_of_sum(part, xr.ones_like(part.wavelength) / number)
    np.testing.assert_allclose(mean.values[seen], (error / number) ** 2)


def test_errors_of_lines_in_cubes(noisy):
    """Moments, channels and fits of a line of known flux: scatter over error in a cube of noise as it is made."""
    cube, noise = noisy
    wave = cube.wavelength.values[:, None, None]
    light = 40.0 * np.exp(-0.5 * ((wave - LINE) / 0.0014) ** 2) + 300.0
    cube = cube.isel(y=slice(2, -2), x=slice(2, -2))
    pulls: dict[str, list] = {"moment0": [], "channel": [], "fit": [], "velocity": []}
    options = {"redshift": 0.0, "window": 900.0, "noise": "error", "exclude": ()}
    for one in noise[:6, :, 2:-2, 2:-2]:
        made = cube.assign(flux=cube.flux.copy(data=(one + light).astype("f4")))
        found = moments(made, LINE, extent=250, threshold=None, **options)
        pulls["moment0"].append((found.moment0 - found.moment0.mean()) / found.moment0_err)
        found = channel_maps(made, LINE, edges=[-150, 150], **options)
        pulls["channel"].append((found.flux - found.flux.mean()) / found.flux_err)
        found = fit_line(made, LINE, redshift=0.0, window=880.0, noise="given")
        pulls["fit"].append((found.flux - found.flux.mean()) / found.flux_err)
        pulls["velocity"].append((found.velocity - found.velocity.mean()) / found.velocity_err)
    for name, values in pulls.items():
        assert float(np.nanstd(values)) == pytest.approx(1.0, abs=0.1), name


def test_planes_cut_out_and_of_other_bands(noisy):
    cube, _ = noisy
    whole = wavelength_correlation(cube)
    assert len(whole) == 3
    assert whole[1, :-2].min() > 0.2
    np.testing.assert_array_equal(wavelength_correlation(cube.isel(wavelength=slice(3, 9)))[:, 0], whole[:, 3])
    wide = wavelength_correlation(cube.coarsen(wavelength=2, boundary="trim").mean())
    alike = (2 + 2 * whole[1, 0]) / 2  # variance of a sum of two
    assert wide[1, 0] == pytest.approx((whole[1, 0] + 2 * whole[2, 0]) / 2 / alike, abs=0.01)
    band = np.where(np.arange(cube.sizes["wavelength"]) < 10, "1A", "1B")
    both = wavelength_correlation(cube.assign_coords(band=("wavelength", band)))
    assert both[1, 8] > 0.2
    assert both[1, 9] == both[2, 8] == 0
    assert correlation_length(cube.assign_attrs(weighting="simulated")) == 1.0
    assert correlation_length(cube) == pytest.approx(1 + 2 * whole[1:].max(axis=1).sum(), rel=0.01)
    lazy = variance_of_sum(cube.chunk(wavelength=7))
    assert lazy.chunks is not None
    np.testing.assert_allclose(lazy, variance_of_sum(cube))


def test_what_has_no_variance_is_refused(noisy):
    with pytest.raises(MrsxrError, match="no 'var' on wavelength"):
        variance_of_sum(noisy[0].drop_vars("var"))


def test_pixels_shrink_along_every_band():
    for band, (low, high) in mrs.WAVELENGTH_LIMITS.items():
        ends = mrs.pixel_length(low, band), mrs.pixel_length(high, band)
        assert ends == pytest.approx(mrs.PIXEL_LENGTH[band])
        assert 0.75 < ends[1] / ends[0] < 0.85
