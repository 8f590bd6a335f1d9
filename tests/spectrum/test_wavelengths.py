"""Zero points of wavelength between bands, from forests of lines that both see, and from a table."""

import re

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step
from scipy.special import erf
from test_stitch import make_spectrum

from mrsxr.errors import MrsxrError, MrsxrWarning
from mrsxr.notes import notes_of
from mrsxr.spectrum import correct_wavelengths, measure_velocity, stitch_bands

C = 2.99792458e5


def forest(band, velocity=0.0, resolution=3500.0, noise=3e-3, seed=0, n=150, strength=0.2):
    """Return a band full of lines at fixed places, as bins see them, shifted by a velocity [km/s]."""
    ds = make_spectrum(band, every=1)
    rng, wave = np.random.default_rng(42), ds.wavelength.values
    places, depths = rng.uniform(4.8, 6.8, n), rng.exponential(strength, n) * rng.choice([-0.5, 1.0], n)
    step, flux = np.median(np.diff(wave)) / 2, np.ones(wave.size)
    for place, depth in zip(places * (1 + velocity / C), depths, strict=True):
        sigma = place / resolution / 2.3548
        ends = [erf((wave + s * step - place) / sigma / np.sqrt(2)) for s in (1, -1)]
        flux += depth * (ends[0] - ends[1]) / (2 * step) * sigma * np.sqrt(np.pi / 2)
    flux = flux * (1 + 0.1 * (wave - 5.7)) * (1 + 0.03 * (band == "1B")) + np.random.default_rng(seed).normal(
        0, noise, wave.size
    )
    return ds.assign(flux=ds.flux.copy(data=flux), var=ds["var"].copy(data=np.full(wave.size, noise**2)))


@pytest.mark.parametrize("velocity", [5.0, -5.0, 30.0, 0.0])
def test_a_shift_between_bands_comes_out(velocity):
    """Bands of other resolving power and level; the overlap is 5.66 to 5.74 um."""
    found, error = measure_velocity(
        forest("1B", velocity, resolution=3300.0, seed=1), reference=forest("1A", resolution=3600.0)
    )
    assert abs(found - velocity) < 1.0
    assert 0.02 < error < 1.0


def test_errors_are_those_of_the_scatter():
    found = [measure_velocity(forest("1B", 5.0, noise=0.01, seed=k), reference=forest("1A", noise=0.01, seed=99 + k))
             for k in range(12)]  # fmt: skip
    pulls = [(velocity - 5.0) / error for velocity, error in found]
    assert 0.4 < np.std(pulls) < 1.6
    assert abs(np.mean(pulls)) < 1.0


def test_exposures_of_one_band():
    found, error = measure_velocity(forest("1A", 5.0, seed=3), reference=forest("1A", seed=4))
    assert abs(found - 5.0) < 0.3
    assert error < 0.3


def test_without_lines_or_overlap_there_is_none():
    velocity, error = measure_velocity(forest("1B", strength=0.0, seed=1), reference=forest("1A", strength=0.0))
    assert np.isnan(velocity) or error > 3.0
    assert np.isnan(measure_velocity(make_spectrum("3A"), reference=forest("1A"))[0])


def test_stitching_ties_the_bands():
    spectra = [forest("1A"), forest("1B", 8.0, seed=1), forest("1C", -6.0, seed=2)]
    plain, tied = stitch_bands(spectra), stitch_bands(spectra, tie_velocities=True)
    found = dict(zip(tied.stitched_band.values.tolist(), tied.velocity_offset.values.tolist(), strict=True))
    assert found["1A"] == 0.0
    assert found["1B"] == pytest.approx(8.0, abs=1.0)
    assert found["1C"] == pytest.approx(-6.0, abs=1.5)
    assert "velocity_offset" not in plain.coords
    ours = tied.wavelength[tied.band == "1B"]
    theirs = correct_wavelengths(spectra[1], velocity=found["1B"]).wavelength
    assert np.isin(ours, theirs).all()
    with pytest.warns(MrsxrWarning, match="no lines tie"):
        stitch_bands([forest("1A", strength=0.0), forest("1B", strength=0.0, seed=1)], tie_velocities=True)


def test_a_table_is_added(tmp_path):
    path = tmp_path / "shift.csv"
    path.write_text("WL,SHIFT\n5.0,-0.0004\n5.2,0.0\n5.2,0.0002\n5.7,0.0\n")
    ds = forest("1A")
    out = assert_step(correct_wavelengths, ds, table=str(path))
    np.testing.assert_allclose(
        out.wavelength.values - ds.wavelength.values,
        np.interp(ds.wavelength, [5.0, 5.2, 5.7], [-4e-4, 1e-4, 0.0]),
        atol=1e-12,
    )
    np.testing.assert_array_equal(out.flux, ds.flux)
    assert correct_wavelengths(ds).wavelength.equals(ds.wavelength)
    path.write_text("WL,SHIFT\n5.0,0.0\n5.001,-0.0015\n")
    with pytest.raises(MrsxrError, match="smoother than a sample"):
        correct_wavelengths(ds, table=str(path))
    path.write_text("a,b\n1,2\n")
    with pytest.raises(MrsxrError, match="no table of wavelengths"):
        correct_wavelengths(ds, table=str(path))


@pytest.mark.parametrize("rows", ["5.0,0.002\n5.3,-0.0004\n", "5.0,-0.4\n5.5,-0.4\n", "0.0,0.0\n5.5,0.0001\n"])
def test_shifts_that_are_none_are_refused(tmp_path, rows):
    path = tmp_path / "shift.csv"
    path.write_text("WL,SHIFT\n" + rows)
    with pytest.raises(MrsxrError, match="expected less than 100 km/s, both in um"):
        correct_wavelengths(forest("1A"), table=str(path))


@pytest.mark.parametrize(("factor", "share"), [(1.0, "48 %"), (1e3, "100 %")])
def test_wavelengths_that_a_table_does_not_reach_are_told(tmp_path, factor, share):
    path = tmp_path / "shift.csv"
    path.write_text(f"WL,SHIFT\n{5.3 * factor},0.0001\n{6.0 * factor},0.0001\n")
    (note,) = notes_of(correct_wavelengths(forest("1A"), table=str(path)))
    assert re.search(f"at {share} of the wavelengths", note)


def test_a_recipe_sets_them_right():
    from mrsxr.pipeline import Recipe
    from mrsxr.pipeline.exposure_steps import done

    ds, recipe = forest("1A"), Recipe.of().set("correct_wavelengths", velocity=12.0)
    assert "correct_wavelengths" in [one.name for one in recipe.steps("spectrum")]
    out = done(recipe.entry("spectrum.correct_wavelengths"), ds, None)
    np.testing.assert_array_equal(out.wavelength, correct_wavelengths(ds, velocity=12.0).wavelength)
    with pytest.raises(MrsxrError, match="table"):
        correct_wavelengths(ds, table=5)


def test_cubes_keep_their_even_planes_by_a_velocity():
    from mrsxr.simulate import simulate_cube
    from mrsxr.spaxels import plane_widths

    cube = simulate_cube(band="1A", wavelength=(5.0, 5.05))
    out = correct_wavelengths(cube, velocity=20.0)
    np.testing.assert_allclose(out.wavelength * (1 + 20 / C), cube.wavelength, rtol=1e-12)
    np.testing.assert_allclose(plane_widths(out), 0.0008 / (1 + 20 / C), rtol=1e-9)
    xr.testing.assert_identical(out.flux.drop_vars("wavelength"), cube.flux.drop_vars("wavelength"))


@pytest.mark.shared
def test_the_table_of_water_lines(shared_data):
    ds = forest("1A")
    path = shared_data / "calibrators_mirideep" / "wavecal_wlcorr_7.1.csv"
    out = correct_wavelengths(ds, table=str(path))
    moved = out.wavelength.values - ds.wavelength.values
    assert -5e-4 < moved.min() < moved.max() < 0
    assert np.abs(np.diff(moved)).max() < 1e-5  # rows scatter by 1e-4
