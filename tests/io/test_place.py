"""What is derived from a cube and saved keeps its place on the sky and in wavelength, its area and its flux."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS
from helpers import nearest_pixel
from hypothesis import given, settings
from hypothesis import strategies as st

from mrsxr.cube import match_psf, regrid
from mrsxr.errors import MrsxrError
from mrsxr.geometry.grid import CubeGrid
from mrsxr.geometry.index import attach_index
from mrsxr.geometry.place import Place
from mrsxr.io import load, save
from mrsxr.io._backend import open_file
from mrsxr.io._out_spectral import cube_file
from mrsxr.lines import moments
from mrsxr.spaxels import plane_widths, solid_angle
from mrsxr.spectrum import extract_spectrum
from mrsxr.units import ARCSEC2_TO_SR

sys.path.insert(0, str(Path(__file__).parents[1] / "cube"))
from made_sky import DEC, RA, cube_of, grid_of, star

FWHM, LIGHT = 1.6, 400.0
EVERY, BACK = slice(None, None, 2), slice(None, None, -1)
WIDE = grid_of((36, 40), scale=0.2, angle=25.0, nz=6)


@pytest.fixture(scope="module")
def cube():
    return cube_of(star(FWHM, light=LIGHT), WIDE, points=2).assign_attrs(
        source_type="POINT", target_ra=RA, target_dec=DEC, **WIDE.facts()
    )


def mean(ds, **n):
    return ds.coarsen(n, boundary="trim").mean()


CUTS = {
    "whole": lambda c: c,
    "cut": lambda c: c.isel(x=slice(4, 35), y=slice(3, 34), wavelength=slice(2, 5)),
    "sel": lambda c: c.sel(x=slice(-2.5, 3), y=slice(-3, 2.5)),
    "every second": lambda c: c.isel(x=EVERY, y=EVERY, wavelength=EVERY),
    "flipped": lambda c: c.isel(x=BACK, y=BACK, wavelength=BACK),
    "one axis flipped": lambda c: c.sortby("x", ascending=False),
    "every second, backwards": lambda c: c.isel(x=slice(None, None, -2), y=slice(35, None, -2)),
    "list": lambda c: c.isel(x=list(range(1, 39, 2)), y=list(range(0, 36, 2))),
    "means of two": lambda c: mean(c, y=2, x=2),
    "means of three": lambda c: mean(c, y=3, x=3),
    "means of planes": lambda c: mean(c, wavelength=2),
    "cut means": lambda c: mean(c, y=2, x=2).isel(x=slice(2, 18), y=slice(15, 1, -1)),
    "transposed": lambda c: c.transpose("x", "wavelength", "y"),
    "one plane": lambda c: c.isel(wavelength=[3]),
    "dropped": lambda c: c.where(abs(c.x) < 3, drop=True),
    "uneven planes": lambda c: c.isel(wavelength=[0, 1, 3]),
    "unequal spaxels": lambda c: c.isel(x=EVERY),
    "a row": lambda c: c.isel(y=[7]),
    "a spaxel": lambda c: c.isel(y=[7], x=[30]),
    "matched": lambda c: match_psf(c.isel(x=BACK), fwhm=2.0, psf=FWHM),
    "regridded": lambda c: regrid(c, grid_like(grid_of((24, 26), scale=0.3, angle=-40.0, nz=1))),
    "regridded to every second": lambda c: regrid(c, c.isel(y=EVERY, x=EVERY)),
}  # fmt: skip


def grid_like(grid):
    return cube_of(star(FWHM), grid, points=1)


def derived(name, cube):
    with np.errstate(invalid="ignore"):
        return CUTS[name](cube)


def true_sky(ds):
    """RA and Dec by the grid of the uncut cube and the offsets, with no code of what is tested but CubeGrid's."""
    grid = grid_of((24, 26), scale=0.3, angle=-40.0, nz=1) if ds.sizes["x"] == 26 else WIDE
    return grid.offsets_to_sky(*np.meshgrid(ds.x.values, ds.y.values))


@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
@pytest.mark.parametrize("name", CUTS)
def test_place_in_the_file_is_that_of_the_dataset(cube, name, tmp_path):
    ds = derived(name, cube)
    (path,) = save(ds, tmp_path / "a_s3d.fits")
    ra, dec = true_sky(ds)
    n_waves, ny, nx = (ds.sizes[d] for d in ("wavelength", "y", "x"))
    with fits.open(path) as hdus:
        header = hdus["SCI"].header
        wcs = WCS(header, hdus)
        y, x = np.indices((ny, nx))
        there = wcs.pixel_to_world_values(x, y, 0)
        np.testing.assert_allclose(np.mod(there[0], 360), ra, rtol=0, atol=1e-9)
        np.testing.assert_allclose(there[1], dec, rtol=0, atol=1e-9)
        if header["CTYPE3"] == "WAVE":
            waves = 1e6 * np.array(wcs.pixel_to_world_values(0, 0, np.arange(n_waves))[2])
        else:
            waves = hdus["WCS-TABLE"].data["wavelength"].ravel()
        np.testing.assert_allclose(waves, ds.wavelength, rtol=2e-7)
        assert (header["CTYPE3"] == "WAVE") == (name != "uneven planes")
        step = [abs(header[f"CDELT{k}"]) * 3600 for k in (1, 2)]
        assert header["PIXAR_A2"] == pytest.approx(step[0] * step[1], rel=1e-9)
        assert header["PIXAR_SR"] == pytest.approx(step[0] * step[1] * ARCSEC2_TO_SR, rel=1e-9)
        corners = np.array(header["S_REGION"].split()[2:], float).reshape(4, 2)
        np.testing.assert_allclose(corners.max(axis=0), [ra.max(), dec.max()], atol=2e-5)
        np.testing.assert_allclose(corners.min(axis=0), [ra.min(), dec.min()], atol=2e-5)
        check_gwcs(hdus, ra, dec, ds.wavelength.values)
    back = load(path)
    np.testing.assert_allclose(back.ra, ra, rtol=0, atol=1e-10)
    np.testing.assert_allclose(back.dec, dec, rtol=0, atol=1e-10)
    for dim in ("wavelength", "y", "x"):
        np.testing.assert_array_equal(back[dim], ds[dim])
    np.testing.assert_array_equal(back.flux, ds.flux.transpose("wavelength", "y", "x"))
    assert solid_angle(back) == pytest.approx(solid_angle(ds), rel=1e-12)
    np.testing.assert_allclose(plane_widths(back), plane_widths(ds), rtol=1e-12)
    if ds.dq.dtype == "uint32":
        xr.testing.assert_identical(
            back.compute().drop_vars(["ra", "dec"]).drop_encoding(),
            ds.drop_vars(["ra", "dec"], errors="ignore").transpose("wavelength", "y", "x"),
        )


def check_gwcs(hdus, ra, dec, waves):
    """The gWCS of the ASDF extension says the same, where gwcs is there to read it."""
    asdf = pytest.importorskip("asdf")
    pytest.importorskip("gwcs")
    tree = asdf.open(io.BytesIO(hdus["ASDF"].data["ASDF_METADATA"][0].tobytes()))
    found = tree["meta"]["wcs"](ra.shape[1] - 1.0, ra.shape[0] - 1.0, len(waves) - 1.0)
    np.testing.assert_allclose(found, [ra[-1, -1], dec[-1, -1], waves[-1]], rtol=1e-9)


def flux_at(ds, radius=2.4):
    center = RA + 0.21 / 3600 / np.cos(np.radians(DEC)), DEC - 0.13 / 3600
    return extract_spectrum(ds, center=center, radius=radius, background=None, source_type="POINT")


@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
@pytest.mark.parametrize(
    "name", [n for n in CUTS if n not in ("unequal spaxels", "a row", "a spaxel", "matched", "sel")]
)  # fmt: skip
def test_flux_at_the_target_is_the_same(cube, name, tmp_path):
    ds = derived(name, cube)
    truth = LIGHT * ARCSEC2_TO_SR * 1e6 * (1 - 0.5 ** ((2 * 2.4 / FWHM) ** 2))
    one = flux_at(ds)
    np.testing.assert_allclose(one.flux, truth, rtol=0.02)
    np.testing.assert_allclose(flux_at(load(*save(ds, tmp_path / "a_s3d.fits"))).flux, one.flux, rtol=1e-6)
    if ds.sizes["x"] < 15:
        return
    found = extract_spectrum(ds, radius=2.4, background=None, source_type="POINT")  # found, not told
    assert abs(found.aperture_ra - RA - 0.21 / 3600 / np.cos(np.radians(DEC))) * 3600 < 0.03
    assert abs(found.aperture_dec - DEC + 0.13 / 3600) * 3600 < 0.03
    optimal = extract_spectrum(ds, radius=2.4, source_type="POINT", method="optimal")
    np.testing.assert_allclose(optimal.flux.mean(), truth, rtol=0.04)
    circle = f'icrs; circle({found.aperture_ra}, {found.aperture_dec}, 2.4")'
    np.testing.assert_allclose(extract_spectrum(ds, region=circle).flux, truth, rtol=0.02)


REFUSED = {
    "uneven": (lambda c: c.isel(x=[0, 1, 3]), "not equally spaced"),
    "twice": (lambda c: c.isel(y=[2, 2]), "not equally spaced"),
    "padded": (lambda c: c.pad(x=2), "not equally spaced"),
    "image": (lambda c: c.isel(wavelength=0), r"isel\(wavelength=\[k\]\)"),
    "slit": (lambda c: c.isel(y=3), "needs the dimensions"),
    "a column of means": (lambda c: mean(c, y=2, x=2).isel(x=[3]), "width of the only spaxel along x"),
    "no offsets": (lambda c: c.drop_vars("x"), "coordinate 'x'"),
    "no wcs": (lambda c: c.drop_attrs(deep=False).assign_attrs(level="cube"), "no attribute 'wcs'"),
    "no variance": (lambda c: c.drop_vars("var"), "no 'var'"),
}


@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_what_fits_cannot_say_is_refused_and_netcdf_keeps_it(cube, name, tmp_path):
    change, message = REFUSED[name]
    ds = change(cube.drop_vars(["ra", "dec"]) if name == "padded" else cube)
    with pytest.raises(MrsxrError, match=message) as error:
        save(ds, tmp_path / "a_s3d.fits")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
    (path,) = save(ds, tmp_path / "a.nc")
    back = load(path)
    np.testing.assert_array_equal(back.weight, ds.weight)
    for coord in ("ra", "dec"):
        if coord in ds.coords:
            np.testing.assert_allclose(back[coord], ds[coord], rtol=0, atol=1e-10)


def test_steps_refuse_what_is_no_cube_any_more(cube):
    spatial, lines = (extract_spectrum, match_psf), (lambda c: moments(c, 18.0),)
    for odd, steps in (  # a row that was picked tells its axis: lines are measured in it
        (cube.isel(wavelength=0), spatial + lines),
        (cube.isel(x=3), spatial),
        (cube.mean("wavelength"), spatial + lines),
    ):
        for step in steps:
            with pytest.raises(MrsxrError, match="needs a cube on wavelength, y, x, got one on"):
                step(odd)


def test_extraction_wants_square_spaxels_for_circles(cube):
    odd = cube.isel(x=EVERY)
    for options in ({"source_type": "POINT"}, {"region": f'icrs; circle({RA}, {DEC}, 1")'}):
        with pytest.raises(MrsxrError, match=r"spaxels are 0.2 x 0.4 arcsec \(y, x\); expected square ones"):
            extract_spectrum(odd, **options)
    whole = extract_spectrum(odd, source_type="EXTENDED")
    np.testing.assert_allclose(whole.flux, LIGHT * ARCSEC2_TO_SR * 1e6, rtol=0.02)


rows = st.one_of(
    st.tuples(st.sampled_from(["slice"]), st.integers(0, 6), st.sampled_from([1, 2, 3, -1, -2])),
    st.tuples(st.sampled_from(["mean"]), st.integers(0, 4), st.integers(1, 4)),
    st.tuples(st.sampled_from(["list"]), st.integers(0, 3), st.integers(1, 3)),
)


def changed(ds, dim, kind, first, step):
    if kind == "mean":
        return ds.isel({dim: slice(first, None)}).coarsen({dim: step}, boundary="trim").mean()
    part = slice(first, None, step) if step > 0 else slice(-1 - first, None, step)
    return ds.isel({dim: part if kind == "slice" else list(range(ds.sizes[dim]))[part]})


@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
@settings(max_examples=15, deadline=None)
@given(
    x=st.lists(rows, min_size=1, max_size=2), y=st.lists(rows, min_size=1, max_size=2), wave=rows,
    centre=st.tuples(st.sampled_from([1e-5, 120.0, 359.9999]), st.floats(-80, 80)), angle=st.floats(-180, 180),
)  # fmt: skip
def test_any_cut_keeps_its_place(x, y, wave, centre, angle):
    grid = CubeGrid(centre, 0.13, 27, 25, 5.0, 0.001, 12, angle, (9.0, 3.5))
    shape, dims = grid.shape, ("wavelength", "y", "x")
    data = np.random.default_rng(1).normal(5, 1, shape).astype("f4")
    variables = {name: (dims, data, {"units": unit}) for name, unit in (("flux", "MJy/sr"), ("var", "MJy2/sr2"))}
    variables["dq"] = (dims, np.zeros(shape, "u4"), {})
    ds = xr.Dataset(variables, grid.coords(), {"level": "cube", "band": "1A", "wcs": grid.header().tostring(sep="\n")})
    ds = changed(ds.assign_attrs(grid.facts()), "wavelength", *wave)
    for dim, steps in (("x", x), ("y", y)):
        for step in steps:
            ds = changed(ds, dim, *step)
    if min(ds.sizes.values()) < 2:
        return
    hdus = cube_file(ds, "a_s3d.fits")
    ra, dec = grid.offsets_to_sky(*np.meshgrid(ds.x.values, ds.y.values))
    j, i = np.indices(ra.shape)
    there = WCS(hdus["SCI"].header).pixel_to_world_values(i, j, np.zeros(ra.shape))
    assert np.abs((there[0] - ra + 180) % 360 - 180).max() * np.cos(np.radians(centre[1])) < 1e-9
    assert np.abs(there[1] - dec).max() < 1e-9
    area = hdus["SCI"].header["PIXAR_A2"]
    assert area == pytest.approx(abs(float(ds.x.diff("x")[0] * ds.y.diff("y")[0])), rel=1e-9)
    place = Place.of(ds)
    px, py = place.to_pixels(ra, dec)
    np.testing.assert_allclose([px, py], [i, j], atol=1e-7)
    assert nearest_pixel(attach_index(ds), (float(ra[1, 1]), float(dec[1, 1]))) == (1, 1)


@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
def test_usual_north_up_cubes_of_others_are_not_mirrored(tmp_path):
    """CDELT1 < 0 and no PC, LONPOLE given, CD in PC, arcsec: what astropy says is what we say."""
    for n, cards in enumerate((
        {"CDELT1": -0.13 / 3600, "CDELT2": 0.13 / 3600},
        {"CDELT1": -0.13 / 3600, "CDELT2": 0.13 / 3600, "LONPOLE": 160.0},
        {"CDELT1": 1.0, "CDELT2": 1.0, "PC1_1": -3e-5, "PC1_2": 1e-5, "PC2_1": 1e-5, "PC2_2": 3e-5},
        {"CDELT1": 0.13 / 3600, "CDELT2": -0.26 / 3600, "PC1_1": 0.6, "PC1_2": 0.8, "PC2_1": -0.8, "PC2_2": 0.6},
        {"CDELT1": 0.13 / 3600, "CDELT2": 0.13 / 3600, "PC1_1": -1.0, "CRVAL1": -64.53508099747749},
    )):  # fmt: skip
        sci = fits.ImageHDU(np.ones((3, 5, 7), "f4"), name="SCI")
        sci.header.update({
            "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CTYPE3": "WAVE", "CUNIT1": "deg", "CUNIT2": "deg",
            "CUNIT3": "um", "CRPIX1": 2.0, "CRPIX2": 3.0, "CRPIX3": 1.0, "CRVAL1": 120.0, "CRVAL2": -40.0,
            "CRVAL3": 5.0, "CDELT3": 0.001, "BUNIT": "MJy/sr",
        } | cards)  # fmt: skip
        primary = fits.PrimaryHDU()
        primary.header.update({
            "TELESCOP": "JWST", "INSTRUME": "MIRI", "EXP_TYPE": "MIR_MRS", "DATAMODL": "IFUCubeModel", "CHANNEL": "1",
            "BAND": "SHORT",
        })  # fmt: skip
        path = tmp_path / f"other{n}_s3d.fits"
        fits.HDUList([primary, sci]).writeto(path)
        y, x = np.indices((5, 7))
        ra, dec = WCS(sci.header).celestial.wcs_pix2world(x, y, 0)
        ds = load(path)
        np.testing.assert_allclose(ds.ra, ra % 360, rtol=0, atol=1e-10)
        np.testing.assert_allclose(ds.dec, dec, rtol=0, atol=1e-10)
        np.testing.assert_allclose(Place.of(ds).to_pixels(ra, dec), [x, y], atol=1e-7)
        (again,) = save(ds.isel(x=slice(2, None), y=BACK), tmp_path / f"again{n}_s3d.fits")
        with fits.open(again) as hdus:
            found = WCS(hdus["SCI"].header).celestial.wcs_pix2world(x[:, :5], y[:, :5], 0)
        np.testing.assert_allclose(np.mod(found[0], 360), ra[::-1, 2:] % 360, rtol=0, atol=1e-9)
        np.testing.assert_allclose(found[1], dec[::-1, 2:], rtol=0, atol=1e-9)


@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
def test_pixar_of_a_file_is_used(cube, tmp_path):
    (path,) = save(cube, tmp_path / "a_s3d.fits")
    own = float(flux_at(load(path)).flux[0])
    with fits.open(path) as hdus:  # as of another maker, jwst rounds the solid angle of an arcsec2
        plain = fits.HDUList([h for h in hdus if h.name != "MRSXR"])
        for name, factor in (("jwst", 2.3504e-11 / ARCSEC2_TO_SR), ("other", 1.5)):
            plain["SCI"].header["PIXAR_SR"] = 0.04 * ARCSEC2_TO_SR * factor
            plain.writeto(tmp_path / f"{name}_s3d.fits")
    for name, factor in (("jwst", 2.3504e-11 / ARCSEC2_TO_SR), ("other", 1.5)):
        ds = load(tmp_path / f"{name}_s3d.fits")
        assert float(flux_at(ds).flux[0]) / own == pytest.approx(factor, rel=1e-7)
        coarse = flux_at(mean(ds, y=2, x=2))
        assert float(coarse.flux[0]) / own == pytest.approx(factor, rel=0.01)
        assert bool(ds.attrs.get("notes")) == (name == "other")
        (again,) = save(ds, tmp_path / f"again_{name}_s3d.fits")
        assert fits.getval(again, "PIXAR_SR", "SCI") == pytest.approx(0.04 * ARCSEC2_TO_SR * factor, rel=1e-12)


def test_a_header_edited_after_saving_counts(cube, tmp_path):
    (path,) = save(cube.isel(x=slice(5, None), y=BACK), tmp_path / "a_s3d.fits")
    before = load(path)
    with fits.open(path, mode="update") as hdus:
        hdus["SCI"].header["CRVAL2"] += 0.5 / 3600
        hdus["SCI"].header["PIXAR_SR"] *= 1.25
    after = open_file(path)
    np.testing.assert_allclose((attach_index(after).dec.values - before.dec.values) * 3600, 0.5, atol=1e-4)
    assert solid_angle(after) == pytest.approx(1.25 * solid_angle(before))


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")
def test_header_of_a_real_cube_is_written_again(shared_data, tmp_path):
    path = shared_data / "s3d_ngc7469" / "NGC7469_ch4-long_s3d.fits.gz"
    ds = load(path)
    (again,) = save(ds, tmp_path / "again_s3d.fits")
    with fits.open(path) as one, fits.open(again) as other:
        before, after = one["SCI"].header, other["SCI"].header
        for key in [k for k in before if k.startswith(("CRPIX", "CRVAL", "CTYPE", "CDELT", "PC", "PIXAR"))]:
            wanted = before[key]
            assert after[key] == (wanted if isinstance(wanted, str) else pytest.approx(wanted, rel=1e-6)), key
        wanted, found = (np.array(h["S_REGION"].split()[2:], float) for h in (before, after))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-9)
        assert after["PIXAR_SR"] == before["PIXAR_SR"]
    cut = ds.isel(x=slice(4, None, 2), y=BACK)
    (small,) = save(cut, tmp_path / "cut_s3d.fits")
    with fits.open(path) as one, fits.open(small) as other:
        y, x = np.mgrid[: cut.sizes["y"], : cut.sizes["x"]]
        there = WCS(other["SCI"].header, fix=False).celestial.wcs_pix2world(x, y, 0)
        truth = WCS(one["SCI"].header, fix=False).celestial.wcs_pix2world(4 + 2 * x, ds.sizes["y"] - 1 - y, 0)
        np.testing.assert_allclose(there, truth, rtol=0, atol=1e-10)
