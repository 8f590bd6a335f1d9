"""Cubes of bands brought to one scale: factors and offsets that were put in come out, others are not made up."""

import json

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from made_sky import DEC, RA, cube_of, grid_of, star

import mrsxr as mx
from mrsxr.cube import match_bands
from mrsxr.errors import LevelError, MrsxrError, MrsxrWarning

OTHER = {"scale": 0.27, "angle": 40.0, "centre": (RA + 5e-5, DEC - 4e-5)}


def sky(fwhm):
    """Return a nucleus on a slope beside a knot, all as blurred by a PSF, whose colour changes with wavelength."""
    nucleus, knot = star(fwhm, light=60.0), star(np.hypot(1.6, fwhm), (1.4, -0.9), 90.0)

    def surface(east, north, wave):
        colour = 1 + 0.3 * (wave - 20.8)
        return colour * (30.0 + 4.0 * east + 2.0 * north + knot(east, north, wave)) + nucleus(east, north, wave)

    return surface


def band(name, start, nz, grid, fwhm, factor=1.0, offset=0.0, noise=0.2, seed=1, hit=1e5):
    made = cube_of(sky(fwhm), grid_of((27, 27) if not grid else (35, 37), start=start, nz=nz, **grid), band=name,
                   var=noise**2, points=3)  # fmt: skip
    rng = np.random.default_rng(seed)
    flux = factor * made.flux + offset + rng.normal(0, noise, made.flux.shape)
    flux[dict(wavelength=2, y=13, x=13)] += hit
    return made.assign(flux=flux.astype("f4").assign_attrs(units="MJy/sr"))


@pytest.fixture(scope="module")
def pair():
    """Two cubes of other spaxels, 1.03 and 3 MJy/sr apart, and one that continues them at 0.95."""
    one = band("4A", 20.6, 25, {}, 0.8)
    two = band("4B", 20.69, 25, OTHER, 0.8, 1.03, 3.0, seed=2)
    return one, two


def test_both_come_out_within_their_errors(pair):
    one, two = match_bands(pair, method="both")
    np.testing.assert_array_equal(one.flux, pair[0].flux)
    factor, error, offset, spread = (
        two.attrs[k] for k in ("scale_factor", "scale_factor_error", "scale_offset", "scale_offset_error")
    )
    assert abs(factor - 1 / 1.03) < min(0.004, 4 * error)
    assert abs(offset + 3.0 / 1.03) < min(0.15, 4 * spread)
    np.testing.assert_allclose(two.flux, factor * pair[1].flux + offset, rtol=1e-5)
    np.testing.assert_allclose(two["var"], factor**2 * pair[1]["var"], rtol=1e-5)
    entry = json.loads(two.attrs["history_json"])[-1]
    assert entry["step"] == "cube.match_bands"
    assert entry["params"]["reference_band"] == "4A"


@pytest.mark.parametrize(("method", "wanted"), [("multiplicative", (1 / 1.2, 0.0)), ("additive", (1.0, -5.0))])
def test_one_of_them(method, wanted):
    given = {"multiplicative": (1.2, 0.0), "additive": (1.0, 5.0)}[method]
    cubes = band("4A", 20.6, 25, {}, 0.8), band("4B", 20.69, 25, OTHER, 0.8, *given, seed=2)
    _, two = match_bands(cubes, method=method)
    assert two.attrs["scale_factor"] == pytest.approx(wanted[0], rel=2e-3)
    assert two.attrs["scale_offset"] == pytest.approx(wanted[1], abs=0.05)
    _, near = match_bands(cubes, method=method, center=(RA, DEC), radius=2.0)
    assert near.attrs["scale_factor"] == pytest.approx(wanted[0], rel=5e-3)
    assert near.attrs["scale_factor"] != two.attrs["scale_factor"] or method == "additive"


def test_unequal_psfs_are_matched():
    """A bright star in a sharper cube: without its FWHM the line through both images is too flat."""
    cubes = [band(name, start, 25, {}, fwhm, seed=k, hit=0.0) for k, (name, start, fwhm) in
             enumerate((("4A", 20.6, 1.2), ("4B", 20.69, 0.8)))]  # fmt: skip
    plain = match_bands(cubes, method="both", clip_sigma=1e3)[1].attrs["scale_factor"]
    told = match_bands(cubes, method="both", clip_sigma=1e3, psf={"4A": 1.2, "4B": 0.8})[1].attrs["scale_factor"]
    assert abs(told - 1) < 0.01
    assert abs(told - 1) < 0.3 * abs(plain - 1)


def test_chains_start_at_the_reference_and_errors_grow(pair):
    last = band("4C", 20.78, 25, {}, 0.8, 0.95, seed=3)
    out = match_bands([last, *pair], method="both", reference_band="4B")
    by_band = {ds.attrs["band"]: ds.attrs for ds in out}
    assert [ds.attrs["band"] for ds in out] == ["4C", "4A", "4B"]
    assert by_band["4B"]["scale_factor"] == 1.0
    assert by_band["4C"]["scale_factor"] == pytest.approx(1.03 / 0.95, rel=6e-3)
    assert by_band["4A"]["scale_factor"] == pytest.approx(1.03, rel=4e-3)
    chained = match_bands([last, *pair], method="both")[0].attrs
    assert chained["scale_factor"] == pytest.approx(1 / 0.95, rel=8e-3)
    assert chained["scale_factor_error"] > by_band["4C"]["scale_factor_error"]


def test_lazy_cubes_stay_lazy_and_give_the_same(pair):
    lazy = [ds.chunk(wavelength=10) for ds in pair]
    out = match_bands(lazy, method="both")
    assert isinstance(out[1].flux.data, da.Array)
    xr.testing.assert_identical(out[1].compute(), match_bands(pair, method="both")[1])


def test_noise_and_gaps_make_no_factor(pair):
    rng = np.random.default_rng(9)
    noise = [ds.assign(flux=ds.flux.copy(data=rng.normal(0, 1, ds.flux.shape).astype("f4"))) for ds in pair]
    with pytest.warns(MrsxrWarning, match="scaled alike"):
        out = match_bands(noise)
    np.testing.assert_array_equal(out[1].flux, noise[1].flux)
    with pytest.warns(MrsxrWarning, match="do not overlap"):
        match_bands([pair[0], pair[1].assign_coords(wavelength=pair[1].wavelength + 2)])
    far = cube_of(star(0.8), grid_of((9, 9), start=20.69, nz=5, centre=(RA + 0.1, DEC)), band="4B")
    with pytest.warns(MrsxrWarning, match="do not overlap"):
        match_bands([pair[0], far])


def test_what_cannot_be_is_refused(pair):
    with pytest.raises(MrsxrError, match="two or more"):
        match_bands([pair[0]])
    with pytest.raises(MrsxrError, match="two or more"):
        match_bands([pair[0], pair[0]])
    with pytest.raises(LevelError, match="level cube"):
        match_bands([pair[0], pair[1].assign_attrs(level="cal")])
    with pytest.raises(MrsxrError, match="reference_band is 1A"):
        match_bands(pair, reference_band="1A")
    with pytest.raises(MrsxrError, match="go together"):
        match_bands(pair, radius=2.0)


@pytest.mark.shared
def test_real_cubes_with_factors_put_in(shared_data):
    """NGC 7469 4A to 4C as jwst made them: what is put in beside what is there comes out."""
    names = {"4A": "short", "4B": "medium", "4C": "long"}
    folder = shared_data / "s3d_ngc7469"
    cubes = {b: mx.load(folder / f"NGC7469_ch4-{n}_s3d.fits.gz") for b, n in names.items()}
    put = {"4A": (1.0, 0.0), "4B": (1.03, 4.0), "4C": (0.97, -6.0)}
    found = {}
    for case in ("plain", "changed"):
        some = [
            ds
            if case == "plain"
            else ds.assign(
                flux=(put[b][0] * ds.flux + put[b][1]).assign_attrs(ds.flux.attrs),
                var=(put[b][0] ** 2 * ds["var"]).assign_attrs(ds["var"].attrs),
            )
            for b, ds in cubes.items()
        ]
        found[case] = [ds.attrs for ds in match_bands(some, method="both")]
    for k, (factor, offset) in enumerate(put.values()):
        plain, changed = (found[case][k] for case in ("plain", "changed"))
        assert changed["scale_factor"] * factor == pytest.approx(plain["scale_factor"], rel=1e-3)
        wanted = plain["scale_offset"] - changed["scale_factor"] * offset
        assert changed["scale_offset"] == pytest.approx(wanted, abs=0.1)
        assert plain["scale_factor_error"] < 0.05
        assert plain["scale_factor"] == pytest.approx(1.0, abs=0.1)


def test_attributes_tell_the_scale_of_all_matches(pair):
    first = match_bands(pair, method="both")[1]
    brighter = pair[0].assign(flux=(1.2 * pair[0].flux).assign_attrs(pair[0].flux.attrs))
    again = match_bands([brighter, first], method="both")[1]
    told = [again.attrs[f"scale_{name}"] for name in ("factor", "offset", "factor_error", "offset_error")]
    assert told[0] == pytest.approx(1.2 * first.attrs["scale_factor"], rel=1e-3)
    np.testing.assert_allclose(again.flux, told[0] * pair[1].flux + told[1], rtol=1e-4)
    np.testing.assert_allclose(again["var"], told[0] ** 2 * pair[1]["var"], rtol=1e-4)
    assert told[2] > 1.2 * first.attrs["scale_factor_error"]
    assert told[3] > 1.2 * first.attrs["scale_offset_error"]
