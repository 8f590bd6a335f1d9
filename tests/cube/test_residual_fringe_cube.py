"""Residual fringes of every spaxel of a cube."""

import numpy as np
import pytest
import xarray as xr
from helpers import assert_step
from test_spectral_leak_cube import cube_of

from mrsxr.cube.residual_fringe import correct_residual_fringe_cube
from mrsxr.errors import MrsxrError
from mrsxr.notes import notes_of


@pytest.fixture(scope="module")
def pair():
    """A small cube with fringes whose phase runs over the field, and the same without."""
    cube = cube_of("2A", lambda e, n, w: 50 + 4 * e + w, half=0.4, low=7.6, high=8.5, var=1e-3)
    turn = 2 * np.pi * 1e4 / cube.wavelength / 2.9 + cube.x + 2 * cube.y
    noise = np.random.default_rng(1).normal(0, 0.03, cube.flux.shape)
    fringed = cube.assign(flux=(cube.flux * (1 + 0.02 * np.cos(turn)) + noise).transpose(*cube.flux.dims).astype("f4"))
    fringed["flux"].attrs = cube.flux.attrs
    return fringed, cube


@pytest.mark.parametrize("method", ["columns", "slices"])
def test_fringes_go_from_every_spaxel(pair, method):
    fringed, clean = pair
    out = assert_step(correct_residual_fringe_cube, fringed, method=method)
    inner = {"wavelength": slice(40, -40)}
    before, after = ((c.flux / clean.flux).isel(inner).std("wavelength") for c in (fringed, out))
    assert float(before.min()) > 0.013
    assert float(after.max()) < 0.2 * float(before.max())
    ratio = (out.flux / fringed.flux) ** 2
    assert (out["var"] >= 0.999 * fringed["var"] * ratio).all()
    if method == "slices":
        assert (out.score_residual_fringe < 0.5).all()
        assert out.score_residual_fringe.dims == ("y", "x")


def test_lazy_is_eager(pair):
    chunked = pair[0].chunk(wavelength=64)
    lazy = correct_residual_fringe_cube(chunked)
    assert lazy.flux.chunks == chunked.flux.chunks
    xr.testing.assert_identical(lazy.compute().drop_attrs(), correct_residual_fringe_cube(pair[0]).drop_attrs())


def test_faint_bad_and_empty_spaxels_stay(pair):
    cube = pair[0].copy(deep=True)
    cube["var"][:, 0, 0] = 1e6
    cube["flux"][:, 1, 1] = np.nan
    cube["flux"][100:110, 2, 2] = -1e5
    cube["dq"][100:110, 2, 2] = 1
    out = correct_residual_fringe_cube(cube)
    for y, x in ((0, 0), (1, 1)):
        np.testing.assert_array_equal(out.flux[:, y, x], cube.flux[:, y, x])
    np.testing.assert_array_equal(out.flux[100:110, 2, 2], cube.flux[100:110, 2, 2])
    assert (out.flux[:, 2, 2] != cube.flux[:, 2, 2]).mean() > 0.9


def test_what_was_corrected_before_is_told_or_refused(pair):
    once = correct_residual_fringe_cube(pair[0])
    assert "notes" not in once.attrs
    with pytest.raises(MrsxrError, match="corrected in the cube already"):
        correct_residual_fringe_cube(once)
    for attrs in ({"residual_fringe": 1}, {"residual_fringe": 0.25}):
        again = correct_residual_fringe_cube(pair[0].assign_attrs(attrs))
        assert (
            "found on the detector were corrected before; the cubes lose what that left of them"
            in again.attrs["notes"][0]
        )
        np.testing.assert_array_equal(again.flux, once.flux)


def test_wrong_input_is_named(pair):
    with pytest.raises(MrsxrError, match="of band MULTIPLE"):
        correct_residual_fringe_cube(pair[0].assign_attrs(band="MULTIPLE"))
    with pytest.raises(MrsxrError, match="expected one of columns, slices"):
        correct_residual_fringe_cube(pair[0], method="sine")


def test_a_band_without_dichroics_stays_where_theirs_alone_are_wanted(pair):
    """A recipe says dichroic_only of all bands."""
    out = correct_residual_fringe_cube(pair[0], dichroic_only=True)
    assert "no fringes of the dichroics" in notes_of(out)[-1]
    assert "residual_fringe_cube" not in out.attrs
    xr.testing.assert_equal(out, pair[0])
