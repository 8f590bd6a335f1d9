"""Moments, continua and channel maps on cubes with known lines."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from helpers import no_compute
from line_cubes import S_III, Z, instrument_sigma, line_cube
from scipy.ndimage import gaussian_filter1d

from mrsxr import schema
from mrsxr.errors import LevelError, MrsxrError, SchemaError
from mrsxr.lines.fit import fit_line
from mrsxr.lines.moment_maps import channel_maps, instrument_dispersion, moments, subtract_continuum
from mrsxr.step import read_history

LINE = "[S III] 18.71"
MAPS = ("moment0", "moment1", "moment2")


def rotating(ny=9, nx=11):
    y, x = np.mgrid[:ny, :nx]
    return 3e-18 * np.exp(-np.hypot(y - 4, x - 5) / 4), 30.0 * (x - 5), 50.0 + 5 * np.abs(y - 4)


def test_moments_without_noise():
    flux, velocity, dispersion = rotating()
    out = moments(line_cube(flux, velocity, dispersion, slope=8.0), "[S III]", redshift=Z, extent=900, threshold=None)
    np.testing.assert_allclose(out.moment0, flux, rtol=1e-3)
    np.testing.assert_allclose(out.moment1, velocity, atol=0.5)
    np.testing.assert_allclose(out.moment2, dispersion, atol=1.0)
    np.testing.assert_allclose(out.continuum, 50.0, atol=0.5)
    assert {name: out[name].attrs["units"] for name in (*MAPS, "ew")} == {
        "moment0": "W m-2", "moment1": "km/s", "moment2": "km/s", "ew": "um"}  # fmt: skip
    per_um = 2.99792458e-6 * 2.3504430539e-11 * 0.35**2 * 50.0 / (S_III * (1 + Z)) ** 2
    np.testing.assert_allclose(out.ew, flux / per_um, rtol=0.02)
    assert out.attrs["level"] == "moments"
    assert str(out.line.values) == LINE
    assert read_history(out)[-1]["step"] == "lines.moments"
    spot = out.sel(ra=float(out.ra[3, 4]), dec=float(out.dec[3, 4]))
    assert float(spot.moment0) == float(out.moment0[3, 4])


def test_width_of_the_instrument_is_removed_by_option():
    cube = line_cube(np.full((2, 2), 1e-18), 0.0, 60.0)
    observed = moments(cube, LINE, redshift=Z, extent=900, threshold=None, instrument=False).moment2
    step = 0.006 / (S_III * (1 + Z)) * 299792.458
    total = np.sqrt(60.0**2 + instrument_sigma(S_III * (1 + Z)) ** 2 + step**2 / 12)
    np.testing.assert_allclose(observed, total, rtol=3e-3)
    assert instrument_dispersion(LINE, redshift=Z) == pytest.approx(instrument_sigma(S_III * (1 + Z)))
    narrow = moments(cube, LINE, redshift=Z, extent=900, threshold=None, resolution=500.0)
    assert (narrow.moment2 == 0).all()
    assert np.isfinite(narrow.moment2_err).all()
    by_law = moments(cube, LINE, redshift=Z, extent=900, threshold=None, resolution=lambda w: 1e9)
    np.testing.assert_allclose(by_law.moment2**2, total**2 - step**2 / 12, rtol=5e-3)


@pytest.mark.parametrize("told", [0.5, 1.5])
def test_errors_are_right_whatever_the_cube_claims(told):
    """Pulls have std 1 where the given errors are 3 times too small or too large."""
    flux, velocity, dispersion = np.full((80, 80), 6e-19), 40.0, 70.0
    cube = line_cube(flux, velocity, dispersion, noise=20.0, told=20 * told, seed=4)
    out = moments(cube, LINE, redshift=Z, extent=800, threshold=None)
    assert 40 < float(out.snr.median()) < 80
    for name, truth in zip(MAPS, (flux, velocity, dispersion), strict=True):
        pulls = (out[name] - truth) / out[f"{name}_err"]
        assert float(pulls.std()) == pytest.approx(1.0, abs=0.04), name
        assert abs(float(pulls.mean())) < (0.3 if name == "moment2" else 0.04), name  # a width is not linear in noise
    assert float(out.noise_scale.median()) == pytest.approx(1 / told, rel=0.05)
    level = (out.continuum - 50.0) / out.continuum_err
    assert float(level.std()) == pytest.approx(1.0, abs=0.04)
    as_given = moments(cube, LINE, redshift=Z, extent=800, threshold=None, noise="error")
    assert float((as_given.moment0_err / out.moment0_err).median()) == pytest.approx(told, rel=0.05)


def test_threshold_keeps_velocities_of_faint_lines():
    cube = line_cube(np.full((30, 30), 1.5e-19), 60.0, 50.0, noise=20.0, seed=5)
    spread = {t: float(moments(cube, LINE, redshift=Z, threshold=t).moment1.std()) for t in (3.0, None)}
    assert spread[3.0] < 0.5 * spread[None]


@pytest.mark.parametrize(("band", "share"), [("4A", 0.0), ("1C", 0.44)])
@pytest.mark.parametrize("snr", [15, 50])
def test_velocity_and_width_of_the_found_planes_scatter_as_their_errors_say(band, share, snr):
    """The light of voxels above 3 sigma alone had widths of a half and pulls of 2 to 5."""
    truth = {"moment0": 1e-19, "moment1": 120.0, "moment2": 80.0}
    rest, step, scale = (18.713, 0.006, 0.35) if band == "4A" else (6.985, 0.0008, 0.13)
    clean = line_cube(np.full((25, 30), 1e-19), 120.0, 80.0, rest=rest, step=step, scale=scale, slope=6.0)
    raw = np.random.default_rng(snr).normal(0, 1, (clean.sizes["wavelength"] + 1, 25, 30))
    part = np.sqrt(0.5 - np.sqrt(0.25 - share**2))  # of the plane before, so that neighbours share so much
    noise = np.sqrt(1 - part**2) * raw[1:] + part * raw[:-1]
    planes = np.sqrt(4 * np.pi) * np.hypot(80.0, instrument_sigma(rest * (1 + Z))) / (3e5 * step / (rest * (1 + Z)))
    peak = float(clean.flux.max("wavelength").mean()) - 50.0
    sigma = peak / snr * np.sqrt(planes / 2 / (1 + 2 * share))
    cube = clean.assign(flux=(clean.flux + sigma * noise).astype("f4").assign_attrs(clean.flux.attrs))
    cube = cube.assign(var=xr.full_like(cube["var"], sigma**2)).assign_attrs(band=band)
    if share:
        cube.attrs["weighting"] = "drizzle"
    out = moments(cube, rest, redshift=Z)
    for name, value in truth.items():
        pulls = ((out[name] - value) / out[f"{name}_err"]).values
        pulls = pulls[np.isfinite(pulls)]
        assert pulls.size > 700, name
        assert abs(pulls.mean()) < 0.3, name
        assert pulls.std() == pytest.approx(1.0, abs=0.12), name
    cut = moments(cube, rest, redshift=Z, threshold=None)
    assert float(out.moment1_err.median()) < 0.6 * float(cut.moment1_err.median())


@pytest.mark.parametrize("noise", ["residual", "given"])
def test_noise_that_is_smooth_over_more_planes_than_pixels_reach_widens_errors(noise):
    """Pulls of fluxes were 1.6 to 2.3, of fits with errors as given and of all moments."""
    clean = line_cube(np.full((25, 30), 1e-18), 30.0, 60.0, half=4000.0, step=0.003)
    smooth = gaussian_filter1d(np.random.default_rng(6).normal(0, 1, clean.flux.shape), 1.2, axis=0)
    error = 20.0 * smooth / smooth.std()
    cube = clean.assign(flux=(clean.flux + error).astype("f4").assign_attrs(clean.flux.attrs))
    cube = cube.assign(var=xr.full_like(cube["var"], 400.0))
    fit = fit_line(cube, S_III, redshift=Z, noise=noise).isel(line=0)
    maps = moments(cube, LINE, redshift=Z, noise="error" if noise == "given" else "residual", window=3500)
    channels = channel_maps(cube, LINE, redshift=Z, edges=[-800, -600], extent=600, window=3500)
    for found, sigma, truth in (
        (fit.flux, fit.flux_err, 1e-18), (maps.moment0, maps.moment0_err, 1e-18),
        (maps.continuum, maps.continuum_err, 50.0), (channels.flux, channels.flux_err, 0.0),
    ):  # fmt: skip
        pulls = ((found - truth) / sigma).values
        assert 0.8 < pulls.std() < 1.25, found.attrs["long_name"]


@pytest.mark.parametrize("order", ["one after the other", "sorted", "falling"])
def test_where_bands_overlap_a_line_counts_once(order):
    """Planes of both bands were added (twice the flux), or none had a width once they were sorted."""
    flux = np.full((3, 4), 2e-18)
    parts = []
    for band, step, half, seed in (("3C", 0.0025, 2600.0, 1), ("4A", 0.006, 3600.0, 2)):
        one = line_cube(flux, 30.0, 60.0, rest=17.85, redshift=0.0, step=step, half=half, noise=4.0, seed=seed)
        parts.append(one.assign_coords(band=("wavelength", np.full(one.sizes["wavelength"], band))))
    joined = xr.concat([parts[0], parts[1].assign_coords(ra=parts[0].ra, dec=parts[0].dec)], "wavelength",
                       coords="minimal", compat="override", combine_attrs="override")  # fmt: skip
    assert joined.attrs["wavelength_step"] == 0.0025
    if order != "one after the other":
        joined = joined.sortby("wavelength") if order == "sorted" else joined.isel(wavelength=slice(None, None, -1))
    for function in (moments, channel_maps, fit_line):
        found, alone = (function(ds, 17.85, redshift=0.0) for ds in (joined, parts[1]))
        name = "moment0" if "moment0" in found else "flux"
        np.testing.assert_allclose(found[name], alone[name], rtol=1e-6)
        np.testing.assert_allclose(found[f"{name}_err"], alone[f"{name}_err"], rtol=1e-6)
    cut = subtract_continuum(joined, 17.85, redshift=0.0)
    assert set(cut.band.values) == {"4A"}
    shuffled = parts[1].isel(wavelength=np.random.default_rng(1).permutation(parts[1].sizes["wavelength"]))
    with pytest.raises(MrsxrError, match="do not increase; sort the cube by wavelength"):
        moments(shuffled, 17.85, redshift=0.0)


def test_spaxels_without_a_line_have_a_velocity_by_chance_alone():
    cube = line_cube(np.zeros((50, 50)), noise=3.0, seed=9)
    shares = [float(np.isfinite(moments(cube, LINE, redshift=Z, threshold=t).moment1).mean()) for t in (3.0, 4.0)]
    assert 0.02 < shares[0] < 0.08
    assert shares[1] < 0.012


def test_planes_of_the_line_against_numpy():
    """The kernels that look for it, against sums written out."""
    from mrsxr.lines._range_kernels import FAINT, cut_to, find_line

    rng = np.random.default_rng(2)
    speed = np.linspace(-600, 600, 25)
    centre, width = (grid.ravel() for grid in np.meshgrid(np.linspace(-500, 500, 21), [40.0, 90.0, 200.0]))
    shapes = np.exp(-0.5 * ((speed - centre[:, None]) / width[:, None]) ** 2)
    sigma2 = rng.uniform(0.5, 2.0, 25)
    weight = (np.abs(speed) < 560) * 1.0
    weight[9] = 0.0
    for place, wide in ((-150.0, 90.0), (300.0, 200.0)):
        lines = 20 * np.exp(-0.5 * ((speed - place) / wide) ** 2) + rng.normal(0, np.sqrt(sigma2))
        best, found, reach = find_line(lines, sigma2, weight, shapes, 1.5)
        part = weight > 0
        over = (shapes * lines / sigma2)[:, part].sum(1), (shapes**2 / sigma2)[:, part].sum(1)
        ratio = over[0] / np.sqrt(over[1])
        assert best == np.argmax(ratio)
        assert (centre[best], width[best]) == (place, wide)
        assert found == pytest.approx(ratio.max() / np.sqrt(1.5))
        error = np.sqrt((shapes[best] ** 2)[part].sum() / over[1][best])
        assert reach == pytest.approx(np.sqrt(2 * np.log(over[0][best] / over[1][best] / error / FAINT)))
    out = np.empty(25)
    cut_to(weight, speed - 25, speed + 25, -110.0, 80.0, out)
    share = np.clip((np.minimum(speed + 25, 80) - np.maximum(speed - 25, -110)) / 50, 0, 1)
    np.testing.assert_allclose(out, weight * share)


def test_wings_that_are_seen_count():
    core = line_cube(np.full((6, 6), 1e-17), 0.0, 40.0, half=5000.0)
    wing = line_cube(np.full((6, 6), 5e-18), 250.0, 250.0, continuum=0.0, half=5000.0)
    cube = core.assign(flux=(core.flux + wing.flux).assign_attrs(core.flux.attrs))
    noisy = np.random.default_rng(1).normal(0, 2.0, cube.flux.shape).astype("f4")
    cube = cube.assign(flux=(cube.flux + noisy).assign_attrs(core.flux.attrs), var=xr.full_like(core["var"], 4.0))
    out = moments(cube, LINE, redshift=Z, extent=1300, window=4500)
    assert float(out.snr.median()) > 300
    mean = 250.0 / 3
    square = (40.0**2 + 0.5 * 250.0**2) / 1.5 + (mean**2 + 0.5 * (250.0 - mean) ** 2) / 1.5
    assert float(out.moment1.mean()) == pytest.approx(mean, abs=6.0)
    assert float(out.moment2.mean()) == pytest.approx(np.sqrt(square), rel=0.06)


def slow(cube, side, share, degree, clip):
    """Return flux of the line by numpy, spectrum by spectrum: np.polyfit, voxels beyond clip robust sigma left out."""
    wave = cube.wavelength.values
    t = (wave - 0.5 * (wave[0] + wave[-1])) / (0.5 * (wave[-1] - wave[0]))
    power = 2.99792458e-6 * 2.3504430539097885e-11 * 0.35**2 * 0.006 / wave**2
    out = np.empty(cube.flux.shape[1:])
    for j, i in np.ndindex(*out.shape):
        values = cube.flux.values[:, j, i].astype(float)
        good = side & np.isfinite(values)
        used = good.copy()
        for _ in range(12):
            fit = np.polyfit(t[used], values[used], degree)
            rest = np.abs(values - np.polyval(fit, t))
            m = int(used.sum())
            limit = clip * 1.4826 * np.sort(rest[used])[m // 2] * np.sqrt(m / (m - degree - 1))
            new = good & (rest <= limit)
            if (new == used).all():
                break
            used = new
        line = values - np.polyval(fit, t)
        line = np.interp(wave, wave[np.isfinite(line)], line[np.isfinite(line)])
        out[j, i] = np.sum(share * power * line)
    return out


def test_kernel_against_numpy():
    cube = line_cube(np.full((3, 4), 5e-19), 20.0, 60.0, noise=1.0, slope=5.0, seed=8)
    cube.flux[5, 1, 1] += 60.0
    cube.flux[12, 2, 3] = np.nan
    middle = cube.sizes["wavelength"] // 2
    cube.flux[middle, 0, 2] = np.nan
    speed = 299792.458 * (cube.wavelength.values / (S_III * (1 + Z)) - 1)
    width = 299792.458 * 0.006 / (S_III * (1 + Z))
    here = np.abs(speed) <= 2500.0
    part = cube.isel(wavelength=here)
    speed = speed[here]
    share = np.clip((np.minimum(600.0, speed + width / 2) - np.maximum(-600.0, speed - width / 2)) / width, 0, 1)
    for degree in (0, 1, 3):
        out = moments(cube, LINE, redshift=Z, degree=degree, exclude=())
        np.testing.assert_allclose(out.moment0, slow(part, share == 0, share, degree, 4.0), rtol=1e-4)


def chunked(cube, **sizes):
    return cube.assign({name: cube[name].chunk(sizes) for name in cube.data_vars})


@pytest.mark.parametrize("sizes", [{"wavelength": 7}, {"y": 2, "x": 3}, {"wavelength": 16, "y": 4}])
def test_lazy_equals_eager_in_any_chunks(sizes):
    flux, velocity, dispersion = rotating(5, 7)
    cube = line_cube(flux, velocity, dispersion, noise=0.5)
    lazy = chunked(cube, **sizes)
    for function in (moments, channel_maps, subtract_continuum):
        with no_compute():
            out = function(lazy, LINE, redshift=Z)
        assert all(isinstance(out[name].data, da.Array) for name in out.data_vars)
        xr.testing.assert_identical(out.compute(), function(cube, LINE, redshift=Z))


def test_spaxels_with_too_little_data_are_blank_and_holes_are_bridged():
    cube = line_cube(np.full((2, 3), 2e-18), 10.0, 60.0)
    n = cube.sizes["wavelength"]
    cube.flux[: int(0.3 * n) + 9, 0, 0] = np.nan  # much of the window
    cube.dq[int(n / 2) - 4 : int(n / 2) + 4, 0, 1] = 1  # much of the line
    cube.flux[n // 2 + 2, 0, 2] = np.nan  # one voxel
    cube.flux[:, 1, 0] = np.nan
    out = moments(cube, LINE, redshift=Z, threshold=None)
    assert np.isnan(out.moment0.values[[0, 0, 1], [0, 1, 0]]).all()
    assert float(out.coverage[1, 0]) == 0.0
    assert float(out.coverage[0, 0]) < 0.75
    np.testing.assert_allclose(out.moment0[0, 2], 2e-18, rtol=0.1)
    assert abs(float(out.moment0[0, 2]) - 2e-18) < float(out.moment0_err[0, 2]) < 0.2 * 2e-18
    np.testing.assert_allclose(out.moment0[1, 1:], 2e-18, rtol=2e-3)
    cut = subtract_continuum(cube, LINE, redshift=Z)
    assert (cut.dq.values[:, 1, 0] == 1).all()
    assert np.isnan(channel_maps(cube, LINE, redshift=Z).flux[:, 1, 0]).all()


def test_nothing_to_see_is_no_crash():
    cube = line_cube(np.full((2, 2), 1e-18))
    assert np.isnan(moments(cube.assign(flux=cube.flux * np.nan), LINE, redshift=Z).moment0).all()
    blind = moments(cube.assign(var=cube["var"] * np.nan), LINE, redshift=Z)
    np.testing.assert_allclose(blind.moment0, 1e-18, rtol=1e-3)
    dark = moments(cube.assign(flux=(cube.flux * 0).assign_attrs(cube.flux.attrs)), LINE, redshift=Z)
    assert (dark.moment0 == 0).all()
    assert np.isnan(dark.moment1).all()
    zero = cube.assign(var=(cube["var"] * 0).assign_attrs(cube["var"].attrs))
    out = moments(zero, LINE, redshift=Z)
    np.testing.assert_allclose(out.moment0, 1e-18, rtol=2e-3)  # errors of the scatter alone
    assert np.isfinite(out.moment0_err).all()
    given = moments(zero, LINE, redshift=Z, noise="error")
    assert np.isnan(given.moment0_err).all()
    assert np.isnan(given.snr).all()


def test_channels_add_up_to_the_line():
    flux, velocity, dispersion = rotating()
    cube = line_cube(flux, velocity, dispersion, noise=0.3)
    edges = [-600.0, -333.3, -120.0, -77.0, 1.0, 250.5, 600.0]
    out = channel_maps(cube, LINE, redshift=Z, edges=edges)
    assert out.flux.dims == ("velocity", "y", "x")
    whole = moments(cube, LINE, redshift=Z)
    np.testing.assert_allclose(out.flux.sum("velocity"), whole.moment0, rtol=1e-9)
    np.testing.assert_allclose(out.velocity_low, edges[:-1])
    even = channel_maps(cube, LINE, redshift=Z, width=150.0)
    np.testing.assert_allclose(np.diff(even.velocity), 150.0)
    assert even.sizes["velocity"] == 8
    np.testing.assert_allclose(even.flux.sum("velocity"), whole.moment0, rtol=1e-9)
    peak = even.velocity.values[np.argmax(even.flux.values, axis=0)]
    assert np.abs(peak - velocity)[2:7].max() < 110.0
    assert float(even.flux_err.median()) > 0
    assert even.sel(velocity=75.0).attrs["level"] == "channel_maps"


def test_continuum_is_gone():
    flux, velocity, dispersion = rotating()
    cube = line_cube(flux, velocity, dispersion, slope=9.0, noise=0.5)
    out = subtract_continuum(cube, LINE, redshift=Z)
    schema.validate(out)
    assert out.sizes["wavelength"] < cube.sizes["wavelength"]
    speed = 299792.458 * (out.wavelength / (S_III * (1 + Z)) - 1)
    beside = out.flux.where(np.abs(speed) > 900.0)
    assert abs(float(beside.mean())) < 0.02
    assert (out["var"] > cube["var"].isel(wavelength=0).max()).all()
    np.testing.assert_allclose(out.flux + out.continuum, cube.flux.sel(wavelength=out.wavelength), rtol=1e-5)


def test_neighbouring_lines_are_no_continuum():
    """[Fe II] 25.99 lies 1134 km/s from [O IV] 25.89: as a third of it, it must not change the flux."""
    flux = np.full((2, 2), 5e-18)
    cube = line_cube(flux, 0.0, 60.0, rest=25.8903, more=((25.98829, flux / 3),), continuum=300.0)
    out = moments(cube, "[O IV]", redshift=Z)
    np.testing.assert_allclose(out.moment0, flux, rtol=0.01)
    blind = moments(cube, "[O IV]", redshift=Z, exclude=(), clip=0.0)
    assert (np.abs(blind.moment0 / flux - 1) > 0.05).all()
    told = moments(cube, "[O IV]", redshift=Z, exclude=[(25.9 * (1 + Z), 26.08 * (1 + Z))])
    np.testing.assert_allclose(told.moment0, flux, rtol=0.01)


def test_redshift_of_the_attributes_and_lines_by_wavelength():
    cube = line_cube(np.full((2, 2), 1e-18))
    named = moments(cube, LINE, redshift=Z)
    by_attribute = moments(cube.assign_attrs(redshift=Z), S_III)
    np.testing.assert_array_equal(named.moment0, by_attribute.moment0)
    assert by_attribute.attrs["redshift"] == Z


@pytest.mark.parametrize(
    "change",
    [
        {"line": "SIII"}, {"line": "[S III] 18.7um"}, {"line": S_III * 1e4 * u.AA}, {"redshift": str(Z)},
        {"extent": 0.6 * u.Mm / u.s}, {"extent": (600, -600)}, {"window": "2500 km/s"},
        {"exclude": [(19.5, 19.4)]}, {"exclude": [[1e9 / 194, 1e9 / 195] / u.km]},
    ],
    ids=str,
)  # fmt: skip
def test_requests_may_be_written_in_other_ways(change):
    cube = line_cube(np.full((2, 2), 1e-18), 40.0, 90.0)
    plain = {"line": LINE, "redshift": Z, "extent": 600.0, "exclude": [(19.4, 19.5)]}
    expected = moments(cube, **plain)
    np.testing.assert_allclose(moments(cube, **{**plain, **change}).moment1, expected.moment1, rtol=1e-9)
    assert not np.allclose(expected.moment1, moments(cube, **{**plain, "extent": (-100, 600)}).moment1)


def test_channels_by_falling_edges_of_other_units():
    cube = line_cube(np.full((2, 2), 1e-18))
    edges = np.array([-250.0, -20.0, 130.0])
    out = channel_maps(cube, LINE, redshift=Z, edges=edges[::-1] * 1e3 * u.m / u.s)
    np.testing.assert_array_equal(out.flux, channel_maps(cube, LINE, redshift=Z, edges=edges).flux)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extent": 2 * u.um}, "extent is 2.0 um; expected a number of km / s"),
        ({"exclude": [3.0]}, "two wavelengths"),
        ({"redshift": 0.01 * u.km / u.s}, "a velocity; expected a number"),
        ({"line": "[S III] 33"}, "no line of line_list"),
        ({"line": "[Fe II]"}, "stands for several lines; expected one of .*25.99"),
        ({"line": "[O IV]"}, r"lies at 26.3045 um .* the cube has 18.8"),
        ({"redshift": 0.0}, "the cube has"),
        ({"redshift": -3.0}, "redshift is -3"),
        ({"line": -1.0}, "expected um above 0"),
        ({"extent": -100.0}, "expected a half width above 0"),
        ({"degree": 7}, "degree is 7"),
        ({"noise": "guess"}, "expected one of residual, error"),
        ({"window": 650.0}, "planes below and"),
        ({"coverage": 2.0}, "coverage is 2.0"),
        ({"resolution": 0.0}, "resolving power at .* um is 0"),
    ],
)
def test_wrong_requests_are_told(change, message):
    cube = line_cube(np.full((2, 2), 1e-18))
    arguments = {"line": LINE, "redshift": Z} | change
    with pytest.raises(MrsxrError, match=message):
        moments(cube, arguments.pop("line"), **arguments)


def test_wrong_data_are_told():
    cube = line_cube(np.full((2, 2), 1e-18))
    with pytest.raises(LevelError, match="moments needs data of level cube, got rate"):
        moments(cube.assign_attrs(level="rate"), LINE)
    other = cube.assign(flux=cube.flux.assign_attrs(units="Jy/pix"))
    with pytest.raises(SchemaError, match="use convert_units"):
        channel_maps(other, LINE)
    with pytest.raises(MrsxrError, match="edges of the channels do not rise"):
        channel_maps(cube, LINE, redshift=Z, edges=[100.0, 0.0, 50.0])
    with pytest.raises(MrsxrError, match="width is 0"):
        channel_maps(cube, LINE, redshift=Z, width=0.0)
    bare = cube.drop_vars(["y", "x", "ra", "dec"])  # neither offsets nor attribute tell the spaxel
    for key in ("pixel_scale", "wcs"):
        del bare.attrs[key]
    with pytest.raises(SchemaError, match="pixel_scale"):
        moments(bare, LINE, redshift=Z)


@pytest.mark.shared
def test_ngc_7469(shared_data):
    """[S III] 18.71 turns by 120 km/s about a major axis at 304 degrees; [O IV] in an aperture as numpy adds it up."""
    import mrsxr as mx

    folder = shared_data / "s3d_ngc7469"
    maps = moments(mx.load(folder / "NGC7469_ch4-short_s3d.fits.gz"), "[S III]", redshift=0.01627).compute()
    north, east = ((maps.dec - 8.8739) * 3600, (maps.ra - 345.8151) * np.cos(np.deg2rad(8.8739)) * 3600)
    radius, angle = np.hypot(east, north), np.arctan2(east, north)
    used = ((maps.snr > 8) & (radius > 1.0) & (radius < 3.0)).values
    a, b = np.cos(angle.values[used]), np.sin(angle.values[used])
    system, along, across = np.linalg.lstsq(
        np.stack([np.ones(a.size), a, b], axis=1), maps.moment1.values[used], rcond=None
    )[0]
    assert 95 < np.hypot(along, across) < 135
    assert np.rad2deg(np.arctan2(across, along)) % 360 == pytest.approx(304, abs=8)
    assert abs(system) < 60
    assert 8e-16 < float(maps.moment0.sum()) < 1e-15

    cube = mx.load(folder / "NGC7469_ch4-long_s3d.fits.gz").compute()
    near = (np.hypot((cube.ra - 345.8151) * np.cos(np.deg2rad(8.8739)), cube.dec - 8.8739) * 3600 < 1.5).values
    found = moments(cube, "[O IV]", redshift=0.01627).moment0.values[near].sum()
    wave = cube.wavelength.values
    speed = 299792.458 * (wave / (25.8903 * 1.01627) - 1)
    light = np.nansum(cube.flux.values[:, near].astype(float), axis=1) * 2.3504430539e-11 * 0.35**2 * 2.99792458e-6
    light /= wave**2
    side = (np.abs(speed) > 600) & (np.abs(speed) < 2500) & ~((speed > 630) & (speed < 1640))
    rest = light - np.polyval(np.polyfit(speed[side], light[side], 1), speed)
    assert found == pytest.approx(rest[np.abs(speed) < 600].sum() * 0.006, rel=0.05)
    assert 1e-16 < found < 4e-16
