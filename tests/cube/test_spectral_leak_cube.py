"""Second-order light of band 1B taken out of cubes of 3A, on made-up cubes and on simulated ones."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step, no_compute
from simulated import cal_of

from mrsxr import dq, mrs, schema
from mrsxr.cube import build_cube
from mrsxr.cube.spectral_leak import correct_spectral_leak_cube
from mrsxr.errors import MrsxrError, MrsxrWarning, ReferenceFileError, ReferenceMissingError
from mrsxr.geometry.grid import CubeGrid
from mrsxr.notes import notes_of
from mrsxr.pipeline import Recipe
from mrsxr.pipeline.spectrum_chain import correct_leak
from mrsxr.simulate import Effects, PointSource, PowerLaw, Scene
from mrsxr.simulate.render import leak_fraction
from mrsxr.spectrum import extract_spectrum

RA, DEC = 339.015, 33.976


@pytest.fixture
def reference():
    wave = np.arange(11.4, 13.6, 0.01)
    fraction = leak_fraction(wave)
    variables = {"frac_leak": ("wavelength", fraction), "err_leak": ("wavelength", 0.03 * fraction)}
    attrs = {"level": "reference", "kind": "mrsptcorr", "ref_id": "ptcorr.fits"}
    return xr.Dataset(variables, {"wavelength": wave}, attrs)


def cube_of(band, surface, *, half, low, high, angle=0.0, var=0.0):
    """Return a cube of surface(east, north [arcsec], wavelength) with spaxels within ``half`` of the centre."""
    scale, step = mrs.SPAXEL_SIZE[int(band[0])], mrs.WAVELENGTH_STEP[int(band[0])]
    n = 2 * int(half / scale) + 1
    nz = int((high - low) / step)
    grid = CubeGrid((RA, DEC), scale, n, n, low, step, nz, angle)
    points = (np.arange(4) - 1.5) / 4 * scale  # means over the spaxels
    x, y, dx, dy = np.meshgrid(grid.x, grid.y, points, points)
    ra, dec = grid.offsets_to_sky(x + dx, y + dy)
    east, north = (ra - RA) * np.cos(np.deg2rad(DEC)) * 3600, (dec - DEC) * 3600
    flux = np.stack([surface(east, north, w).mean(axis=(2, 3)) for w in grid.wavelengths]).astype("f4")
    dims = ("wavelength", "y", "x")
    variables = {
        "flux": (dims, flux, {"units": "MJy/sr"}),
        "var": (dims, np.full_like(flux, var), {"units": "MJy2/sr2"}),
        "weight": (dims, np.ones_like(flux), {"units": "1"}),
        "dq": (dims, np.zeros(flux.shape, "u4"), dq.PIXEL_DQ_ATTRS),
    }  # fmt: skip
    attrs = {"level": "cube", "band": band, "channels": band[0], "wcs": grid.header().tostring(sep="\n"),
             "pixel_scale": scale, "history_json": "[]"}  # fmt: skip
    return xr.Dataset(variables, grid.coords(), attrs)


def gaussian(fwhm):
    """Return a star at (0.21, -0.13) on a slope, brighter to short wavelengths."""

    def surface(east, north, wave):
        square = (east - 0.21) ** 2 + (north + 0.13) ** 2
        return (400 * np.exp(-4 * np.log(2) * square / fwhm**2) / fwhm**2 + 30 + 2 * east) * (6.1 / wave) ** 1.5

    return surface


def pair(reference, *, fwhm=0.5, half=1.9, angle=20.0):
    """Return cubes of 3A without and with the leak, whose image has the width ``fwhm``, and of 1B."""
    blue, red = gaussian(fwhm), gaussian(0.55)

    def both(east, north, wave):
        fraction = np.interp(wave, reference.wavelength, reference.frac_leak)
        return red(east, north, wave) + fraction * blue(east, north, wave / 2)

    limits = {"half": 2.4, "low": 12.1, "high": 12.4}
    clean, leaky = (cube_of("3A", f, **limits) for f in (red, both))
    return clean, leaky, cube_of("1B", blue, half=half, low=5.9, high=6.4, angle=angle)


def inside(cube, half):
    return (np.abs(cube.x) < half) & (np.abs(cube.y) < half)


def test_leak_is_gone_on_another_grid(reference):
    clean, leaky, blue = pair(reference)
    out = assert_step(correct_spectral_leak_cube, leaky, leaking=blue, mrsptcorr=reference)
    near = inside(clean, 1.2)
    before, after = (np.abs(c.flux - clean.flux).where(near).max() for c in (leaky, out))
    assert float(before) > 0.02 * float(clean.flux.max())
    assert float(after) < 0.08 * float(before)
    sums = [float((c.flux * near).sum()) for c in (clean, leaky, out)]
    assert abs(sums[2] / sums[0] - 1) < 2e-4 < 0.01 < sums[1] / sums[0] - 1


def test_lazy_is_eager(reference):
    _, leaky, blue = pair(reference)
    eager = correct_spectral_leak_cube(leaky, leaking=blue, mrsptcorr=reference)
    lazy = correct_spectral_leak_cube(
        leaky.chunk(wavelength=32), leaking=blue.chunk(wavelength=50), mrsptcorr=reference
    )
    assert lazy.flux.chunks[0] == leaky.chunk(wavelength=32).flux.chunks[0]
    xr.testing.assert_identical(lazy.compute().drop_attrs(), eager.drop_attrs())


def test_variance_holds_that_of_1b_and_of_the_fraction(reference):
    level = 80.0
    blue = cube_of("1B", lambda e, n, w: level + 0 * e, half=3.0, low=5.9, high=6.4, var=4.0)
    red = cube_of("3A", lambda e, n, w: 9.0 + 0 * e, half=2.0, low=12.1, high=12.4, var=0.25)
    out = correct_spectral_leak_cube(red, leaking=blue, mrsptcorr=reference)
    fraction = np.interp(red.wavelength, reference.wavelength, reference.frac_leak)
    np.testing.assert_allclose(out.flux[:, 9, 9], 9.0 - fraction * level, rtol=1e-5)
    np.testing.assert_allclose(out["var"][:, 9, 9], 0.25 + 4.0 * fraction**2, rtol=1e-4)
    common = (0.03 * fraction * level) ** 2
    np.testing.assert_allclose(out["var_systematic"][:, 9, 9], common, rtol=1e-4)
    more = correct_spectral_leak_cube(red.assign(var_systematic=red["var"]), leaking=blue, mrsptcorr=reference)
    np.testing.assert_allclose(more["var_systematic"][:, 9, 9], 0.25 + common, rtol=1e-4)
    schema.validate(out)


@pytest.mark.parametrize("outside", ["nearest", "keep", "blank"])
def test_what_lies_beyond_the_field_of_1b(reference, outside):
    clean, leaky, blue = pair(reference, half=1.0, angle=0.0)
    out = correct_spectral_leak_cube(leaky, leaking=blue, mrsptcorr=reference, outside=outside)
    corner = {"wavelength": int(np.argmin(np.abs(leaky.wavelength.values - 12.217))), "y": 1, "x": 1}
    before, found, truth = (float(c.flux[corner]) for c in (leaky, out, clean))
    if outside == "nearest":
        assert abs(found - truth) < 0.2 * (before - truth)
        assert float(out["var"][corner]) > 0.6 * (before - truth) ** 2
    elif outside == "keep":
        assert found == before
    else:
        assert np.isnan(found)
        assert out.dq[corner] == 1
        assert out.dq[:, out.sizes["y"] // 2, out.sizes["x"] // 2].max() == 0


def test_leak_of_the_shape_of_3a(reference):
    """Where the leaked light is as wide as band 3A the 1B cube is blurred by the difference."""
    narrow = 0.5
    width = np.hypot(narrow, np.sqrt(mrs.psf_fwhm(12.25) ** 2 - mrs.psf_fwhm(6.125) ** 2))
    clean, leaky, _ = pair(reference, fwhm=width)
    blue = cube_of("1B", gaussian(narrow), half=2.6, low=5.9, high=6.4)
    near = inside(clean, 1.2)
    left = {}
    for shape in ("leaking", "leaked"):
        out = correct_spectral_leak_cube(leaky, leaking=blue, mrsptcorr=reference, shape=shape)
        left[shape] = float(np.abs(out.flux - clean.flux).where(near).max())
    assert left["leaked"] < 0.25 * left["leaking"]


def test_holes_and_bad_voxels_of_1b_are_bridged(reference):
    clean, leaky, blue = pair(reference)
    blue["flux"][:, 10, 10] = np.nan
    blue["flux"][:, 15, 16] = 1e6
    blue["dq"][:, 15, 16] = 1
    out = correct_spectral_leak_cube(leaky, leaking=blue, mrsptcorr=reference)
    assert np.isfinite(out.flux).all()
    assert float(np.abs(out.flux - clean.flux).where(inside(clean, 1.2)).max()) < 0.15 * float(
        np.abs(leaky.flux - clean.flux).max()
    )
    blind = correct_spectral_leak_cube(leaky, leaking=blue.assign(flux=blue.flux * np.nan), mrsptcorr=reference)
    assert np.isnan(blind.flux).all()
    assert (blind.dq == 1).all()


def test_wrong_partners_are_named(reference):
    _, leaky, blue = pair(reference)
    assert correct_spectral_leak_cube(blue, leaking=blue, mrsptcorr=reference).flux.identical(blue.flux)
    with pytest.raises(MrsxrError, match="of band 3A; expected 1B"):
        correct_spectral_leak_cube(leaky, leaking=leaky, mrsptcorr=reference)
    with pytest.raises(MrsxrError, match="expected one of leaking, leaked"):
        correct_spectral_leak_cube(leaky, leaking=blue, mrsptcorr=reference, shape="round")
    with pytest.raises(MrsxrError, match="expected one of nearest, keep, blank"):
        correct_spectral_leak_cube(leaky, leaking=blue, mrsptcorr=reference, outside="guess")
    with pytest.raises(ReferenceFileError, match="no table LEAKCOR"):
        correct_spectral_leak_cube(leaky, leaking=blue, mrsptcorr=reference.drop_vars("frac_leak"))


class Files:
    """Reference files by kind, as far as there are some."""

    def __init__(self, **files):
        self.files = files

    def get(self, kind, ds):
        if kind not in self.files:
            raise ReferenceMissingError(f"no {kind} file")
        return self.files[kind]


def test_the_chains_take_the_leak_off_once(reference):
    _, leaky, blue = pair(reference)
    refs = Files(mrsptcorr=reference)
    cubes = {"1B": blue, "3A": leaky.chunk(wavelength=40)}
    kept = correct_leak(cubes, refs, Recipe.of("baseline"), "cube")
    assert kept["3A"] is cubes["3A"]
    with no_compute():
        off = correct_leak(cubes, refs, Recipe.of("optimal"), "cube")
    wanted = correct_spectral_leak_cube(leaky, leaking=blue, mrsptcorr=reference)
    np.testing.assert_array_equal(off["3A"].flux, wanted.flux)
    assert off["1B"] is blue
    assert correct_leak({"3A": leaky}, refs, Recipe.of("optimal"), "cube")["3A"] is leaky

    options = {"source_type": "POINT", "center": (RA, DEC), "radius": 0.8, "background": None}
    recipe = Recipe.of("baseline")
    found = {}
    for name, one in (("cube", off), ("spectrum", kept)):
        spectra = {band: extract_spectrum(c.compute(), **options) for band, c in one.items()}
        found[name] = spectra["3A"], correct_leak(spectra, refs, recipe, "spectrum")["3A"]
    np.testing.assert_array_equal(*(s.flux for s in found["cube"]))
    assert (found["cube"][1]["var"] > found["cube"][0]["var"]).any()
    with pytest.raises(MrsxrError, match="band 3A: the spectral leak was taken off the cube already"):
        correct_leak(off, refs, Recipe.of("optimal"), "cube")
    assert float((found["spectrum"][0].flux - found["spectrum"][1].flux).max()) > 0
    with pytest.warns(MrsxrWarning, match="no mrsptcorr file; the spectral leak 1B to 3A stays"):
        left = correct_leak(cubes, Files(), Recipe.of("optimal"), "cube")["3A"]
    assert left.flux.variable.data is cubes["3A"].flux.variable.data
    assert "the spectral leak 1B to 3A stays" in notes_of(left)[0]


@pytest.mark.parametrize("kind", ["uniform", "point"])
def test_light_of_the_simulator(reference, kind):
    """Of the leak that the simulator puts into 3A less than 0.1 % of the light of 1B is left."""
    points = (PointSource(RA, DEC, PowerLaw(50.0, 0.0)),) if kind == "point" else ()
    scene = Scene(RA, DEC, points=points, background=lambda w: (50.0 if kind == "uniform" else 0.0) + 0.0 * w)
    offsets = [(1.1, 0.7), (-1.0, -0.85)] if kind == "point" else [(0.4, 0.3)]
    options = {"center": (RA, DEC), "wavelength_min": 6.08, "wavelength_max": 6.14}
    blue = build_cube(cal_of(scene, "12B", offsets, within=("1B", 6.06, 6.16)), band="1B", **options).compute()
    options |= {"wavelength_min": 12.17, "wavelength_max": 12.27}
    leak = replace(Effects.none(), leak=True)
    cals = [cal_of(scene, "34A", offsets, e, within=("3A", 12.14, 12.3)) for e in (None, leak)]
    clean, leaky = (build_cube(ds, band="3A", **options).compute() for ds in cals)
    light = leak_fraction(leaky.wavelength.values)
    out = correct_spectral_leak_cube(leaky, leaking=blue, mrsptcorr=reference)
    if kind == "uniform":
        assert float(np.abs(leaky.flux / 50.0 - 1).max()) > 0.02
        assert float(np.abs(out.flux / 50.0 - 1).max()) < 1e-3
        return
    near = np.hypot(clean.x, clean.y) < 1.2
    before, after = (((c.flux - clean.flux) * near).sum(("y", "x")) / clean.flux.where(near).sum(("y", "x"))
                     for c in (leaky, out))  # fmt: skip
    assert float(before.min()) > float(light.min()) > 0.015  # sharper than light of 12 um: more of it within the circle
    assert float(np.abs(after).max()) < 1e-3


def joined(*cubes):
    bands = [str(one.attrs["band"]) for one in cubes]
    parts = [one.assign_coords(band=("wavelength", np.full(one.sizes["wavelength"], band)))
             for one, band in zip(cubes, bands, strict=True)]  # fmt: skip
    return xr.concat(parts, "wavelength").assign_attrs(cubes[0].attrs | {"band": " ".join(bands)})


def test_joint_cubes_lose_the_leak(reference):
    """Of a channel and of all bands, by the chain: the planes of 3A are those of its own cube, the others stay."""
    _, leaky, blue = pair(reference)
    redder = cube_of("3B", gaussian(0.6), half=2.4, low=13.4, high=13.5)
    first = cube_of("1B", gaussian(0.5), half=2.5, low=5.9, high=6.4)
    first = first.sel(y=leaky.y, x=leaky.x, method="nearest").assign_coords(y=leaky.y, x=leaky.x)
    first = first.assign_attrs(leaky.attrs | {"band": "1B"})
    refs = Files(mrsptcorr=reference)
    wanted = correct_leak({"1B": blue, "3A": leaky}, refs, Recipe.of("optimal"), "cube")["3A"]
    cubes = {"1B": blue, "ch3": joined(leaky, redder).chunk(wavelength=50)}
    out = correct_leak(cubes, refs, Recipe.of("optimal"), "cube")["ch3"]
    n = leaky.sizes["wavelength"]
    for name in ("flux", "var", "dq"):
        np.testing.assert_array_equal(out[name][:n], wanted[name])
        np.testing.assert_array_equal(out[name][n:], redder[name])
    assert correct_leak(cubes, refs, Recipe.of("baseline"), "cube")["ch3"] is cubes["ch3"]
    multi = joined(first, leaky)
    by_itself = correct_leak({"multi": multi}, refs, Recipe.of("optimal"), "cube")["multi"]
    taken = [float((before.flux - after.flux)[-n:].sum()) for before, after in ((multi, by_itself), (leaky, wanted))]
    assert taken[0] == pytest.approx(taken[1], rel=0.1)  # the field of the other is smaller
    np.testing.assert_array_equal(by_itself.flux[:-n], multi.flux[:-n])
