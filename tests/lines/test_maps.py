"""Masks and ratios of line maps."""

import astropy.units as u
import numpy as np
import pytest
import xarray as xr
from line_cubes import Z, line_cube

from mrsxr.errors import MrsxrError
from mrsxr.geometry.index import CelestialIndex
from mrsxr.lines.maps import line_ratio, mask_maps
from mrsxr.lines.moment_maps import moments
from mrsxr.step import branches, read_history

LABELS = ["[Ne II] 12.81", "[Ne III] 15.56", "[Fe II] 5.34", "[Fe II] 25.99"]


def fitted(ny=4, nx=5, **changes):
    """Return line maps as fit_lines makes them: S/N grows along x."""
    like = line_cube(np.ones((ny, nx)))
    dims = ("line", "y", "x")
    snr = np.broadcast_to(np.array([1.0, 4.0, 6.0, 10.0, 50.0])[:nx], (4, ny, nx)).copy()
    flux = np.array([4.0, 2.0, 1.0, 3.0])[:, None, None] * 1e-18 + np.zeros(snr.shape)
    data = {
        "flux": (dims, flux, {"units": "W m-2"}), "flux_err": (dims, flux / snr, {"units": "W m-2"}),
        "velocity": (dims, 0 * flux + 30.0, {"units": "km/s"}),
        "velocity_err": (dims, 0 * flux + 3.0, {"units": "km/s"}),
        "dispersion": (dims, 0 * flux + 60.0, {"units": "km/s"}), "snr": (dims, snr, {"units": "1"}),
        "continuum": (dims, 0 * flux + 9.0, {"units": "MJy/sr"}), "fit_flags": (dims, np.zeros(snr.shape, "u1")),
        "upper_limit": (dims, 3 * flux / snr, {"units": "W m-2"}),
        "component_flux": (("line", "component", "y", "x"), np.stack([0.9 * flux, 0.1 * flux], 1), {"units": "W m-2"}),
        "component_flux_err": (("line", "component", "y", "x"), np.stack([flux / snr] * 2, 1), {"units": "W m-2"}),
        "component_velocity": (("line", "component", "y", "x"), np.stack([0 * flux] * 2, 1), {"units": "km/s"}),
    }  # fmt: skip
    coords = {"line": LABELS, "wavelength_rest": ("line", [12.81355, 15.5551, 5.34017, 25.98829], {"units": "um"})}
    frame = like.drop_dims("wavelength").assign_attrs(level="lines")
    return frame.assign_coords(coords).assign(data | changes)


def test_masks_by_signal_to_noise():
    maps = fitted()
    maps.fit_flags[0, 2, 4] = 4
    out = mask_maps(maps)

    def seen(name):
        return np.isfinite(out[name].values[0, ..., 0, :]).tolist()

    assert seen("flux") == seen("flux_err") == [False, True, True, True, True]
    assert seen("velocity") == seen("velocity_err") == [False, False, True, True, True]
    assert seen("dispersion") == [False, False, False, True, True]
    assert seen("component_flux")[0] == [False, True, True, True, True]
    assert seen("component_flux")[1] == [False] * 4 + [True]
    assert seen("component_velocity")[1] == [False] * 4 + [True]
    assert np.isfinite(out.continuum).all()
    assert np.isfinite(out.upper_limit).all()
    assert np.isnan(out.flux[0, 2, 4])
    assert out.flux.attrs["units"] == "W m-2"
    assert out.component_flux.dims == maps.component_flux.dims
    assert isinstance(out.xindexes["ra"], CelestialIndex)
    assert np.isfinite(maps.flux).all()
    assert read_history(out)[-1]["params"] == {"snr": 3.0, "velocity": 5.0, "dispersion": 8.0}
    xr.testing.assert_identical(mask_maps(maps.chunk(y=2)).compute(), out)
    assert np.isfinite(mask_maps(maps.isel(y=0, x=3)).dispersion).all()
    with pytest.raises(MrsxrError, match="no 'snr'"):
        mask_maps(maps.drop_vars("snr"))


def test_moments_are_masked_too():
    flux = np.array([[1e-20, 1e-18, 2e-18, 8e-18]])
    out = mask_maps(moments(line_cube(flux, 20.0, noise=20.0, seed=1), "[S III]", redshift=Z, threshold=None), snr=5)
    assert np.isfinite(out.moment0.values[0]).tolist() == [False, True, True, True]
    assert np.isnan(out.moment1[0, 0])
    assert np.isnan(out.moment2[0, 0])


def test_ratio_and_its_error():
    maps = fitted()
    maps.fit_flags.attrs = {}
    out = line_ratio(maps, "[Ne III]", "[Ne II] 12.81")
    np.testing.assert_allclose(out.ratio[:, 1:], 0.5)
    np.testing.assert_allclose(out.ratio_err[:, 1:], 0.5 * np.sqrt(2) / maps.snr[0, :, 1:])
    assert np.isnan(out.ratio[:, 0]).all()
    assert np.isnan(out.lower_limit).all()
    assert out.ratio.attrs["long_name"] == "[Ne III] 15.56 / [Ne II] 12.81"
    assert "line" not in out.coords
    assert out.sel(ra=float(maps.ra[1, 2]), dec=float(maps.dec[1, 2])).ratio == 0.5
    by_wavelength = line_ratio(maps, 15.5551, 12.81355)
    for pair in (("15.555 um", "12.814"), ("15555.1 nm", "1.281355e-5 m"), (15.5551 * u.um, 128135.5 * u.AA)):
        xr.testing.assert_identical(line_ratio(maps, *pair).ratio, by_wavelength.ratio)
    np.testing.assert_array_equal(by_wavelength.ratio, out.ratio)
    close = maps.assign_coords(wavelength_rest=("line", [12.8100, 15.5551, 12.8155, 25.98829], {"units": "um"}))
    with pytest.raises(MrsxrError, match="stands for several lines"):
        line_ratio(close, 15.5551, "12.813")
    assert line_ratio(close, 15.5551, "12.8154 um").ratio.attrs["long_name"] == "[Ne III] 15.56 / [Fe II] 5.34"
    spectrum = maps.isel(y=0, x=4).drop_vars(["y", "x", "ra", "dec"], errors="ignore")
    assert float(line_ratio(spectrum, "[Ne III]", "[Ne II]").ratio) == 0.5


def test_error_of_the_ratio_is_that_of_many_draws():
    rng = np.random.default_rng(0)
    a, b = (value + rng.normal(0, error, 40000) for value, error in ((3.0, 0.15), (5.0, 0.2)))
    maps = fitted(1, 1)
    for i, (value, error) in enumerate(((3.0, 0.15), (5.0, 0.2))):
        maps.flux[i], maps.flux_err[i] = value, error
    assert line_ratio(maps, "[Ne II]", "[Ne III]").ratio_err.item() == pytest.approx((a / b).std(), rel=0.02)


def test_limits_where_one_line_is_seen():
    maps = fitted()
    maps.flux_err[0, :, 4] = 1e-17
    out = line_ratio(maps, "[Ne II]", "[Ne III]")
    assert np.isnan(out.ratio[:, 4]).all()
    np.testing.assert_allclose(out.upper_limit[:, 4], 3e-17 / 2e-18)
    out = line_ratio(maps, "[Ne III]", "[Ne II]")
    np.testing.assert_allclose(out.lower_limit[:, 4], 2e-18 / 3e-17)
    nothing = maps.assign(flux=maps.flux * np.nan)
    assert np.isnan(line_ratio(nothing, "[Ne III]", "[Ne II]").ratio).all()
    zero = maps.assign(flux_err=0 * maps.flux_err)
    assert np.isnan(line_ratio(zero, "[Ne III]", "[Ne II]").ratio).all()


def test_lines_of_two_cubes_need_one_grid():
    one, other = fitted(), fitted(5, 5)
    np.testing.assert_allclose(line_ratio(one, "[Ne III]", "[Ne II]", denominator_maps=fitted()).ratio[:, 1:], 0.5)
    with pytest.raises(MrsxrError, match=r"different sky grids.*regrid\(maps, like=other_maps\)"):
        line_ratio(one, "[Ne III]", "[Ne II]", denominator_maps=other)
    moved = one.drop_vars(["ra", "dec"])
    moved.attrs["wcs"] = line_cube(np.ones((4, 5)), angle=21.0).attrs["wcs"]
    with pytest.raises(MrsxrError, match="different sky grids"):
        line_ratio(one, "[Ne III]", "[Ne II]", denominator_maps=moved)
    m = moments(line_cube(np.full((4, 5), 2e-18), noise=0.1), "[S III]", redshift=Z)
    mixed = line_ratio(m, "[S III]", "[Ne II]", denominator_maps=one, snr=0.5)
    np.testing.assert_allclose(mixed.ratio, 0.5, rtol=0.01)
    ways = [[entry["step"].rpartition(".")[2] for entry in way] for way in branches(read_history(mixed))]
    assert ways[0][-2:] == ["moments", "line_ratio"]
    assert ways[1][-1] == "line_ratio"
    assert "moments" not in ways[1]
    with pytest.raises(MrsxrError, match=r"the moments are of \[S III\] 18.71; expected \[O IV\] 25.89"):
        line_ratio(m, "[O IV]", "[S III]")


def test_lines_by_wavelength_where_wavelengths_are_lost():
    """The answer was that the line is not in the maps."""
    bare = fitted().drop_vars("wavelength_rest")
    text = r"is a wavelength, and the coordinate 'wavelength_rest'.*name the line: \[Ne II\] 12.81, "
    for asked in (12.81355, "12.81 um", 12.81355 * u.um):
        with pytest.raises(MrsxrError, match=text):
            line_ratio(bare, asked, "[Ne III]")
    assert line_ratio(bare, "[Ne II]", "[Ne III]").ratio.notnull().any()


def test_lines_that_are_not_there():
    with pytest.raises(MrsxrError, match=r"'\[O IV\]' is not in the maps; expected one of \[Ne II\] 12.81"):
        line_ratio(fitted(), "[O IV]", "[Ne II]")
    with pytest.raises(MrsxrError, match=r"'\[Fe II\]' stands for several lines"):
        line_ratio(fitted(), "[Fe II]", "[Ne II]")
    with pytest.raises(MrsxrError, match="expected the result of fit_lines"):
        line_ratio(fitted().drop_vars("flux_err"), "[Fe II]", "[Ne II]")
