"""Bins of spaxels, binned cubes, one spectrum a bin."""

import sys

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from helpers import no_compute
from line_cubes import Z, line_cube
from scipy.ndimage import label as pieces

from mrsxr import schema
from mrsxr.errors import LevelError, MrsxrError
from mrsxr.io import product_name
from mrsxr.lines.binning import bin_cube, bin_labels, bin_spaxels, bin_spectra, paint_bins
from mrsxr.lines.moment_maps import moments
from mrsxr.notes import listen
from mrsxr.step import read_history

LINE = "[S III] 18.71"


def disc(n=30, length=5.0, peak=2e-18):
    y, x = np.mgrid[:n, :n]
    radius = np.hypot(y - n / 2 + 0.3, x - n / 2 - 0.2)
    return peak * np.exp(-radius / length), 15.0 * (x - n / 2)


@pytest.fixture(scope="module")
def cube():
    flux, velocity = disc()
    return line_cube(flux, velocity, 60.0, noise=60.0, seed=2)


def maps_of(n=40, length=6.0):
    flux, _ = disc(n, length, 30.0)
    return tuple(xr.DataArray(v, dims=("y", "x")) for v in (flux, 1.0 + 0 * flux))


@pytest.mark.parametrize("target", [8.0, 20.0])
@pytest.mark.parametrize("method", ["weighted", "voronoi"])
def test_bins_reach_the_target(method, target):
    if method == "voronoi":
        pytest.importorskip("vorbin")
    signal, noise = maps_of()
    out = bin_labels(signal, noise, snr=target, method=method)
    labels = out["bin"].values
    assert labels.dtype == np.int32
    n = out.attrs["n_bins"]
    assert set(np.unique(labels)) == set(range(n))
    s, e = (np.bincount(labels.ravel(), v.values.ravel() ** p) for v, p in ((signal, 1), (noise, 2)))
    ratio = s / np.sqrt(e)
    for k in (0, n // 2, n - 1):
        j, i = np.argwhere(labels == k)[0]
        assert float(out.bin_snr[j, i]) == pytest.approx(ratio[k])
        assert int(out.bin_size[j, i]) == (labels == k).sum()
    several = np.bincount(labels.ravel()) > 3
    assert np.median(ratio[several]) == pytest.approx(target, rel=0.12)
    assert np.mean(ratio[several] > 0.7 * target) > 0.95
    assert np.std(ratio[several] / target) < 0.2
    broken = sum(pieces(labels == k, np.ones((3, 3)))[1] > 1 for k in range(n))
    assert broken <= 0.02 * n
    centre = labels[np.unravel_index(np.argmax(signal.values), labels.shape)]
    if target == 8.0:
        assert (labels == centre).sum() == 1


def test_covariance_makes_larger_bins():
    signal, noise = maps_of()
    counts = [bin_labels(signal, noise, snr=15.0, covariance=c).attrs["n_bins"] for c in (0.0, 1.0)]
    assert counts[1] < 0.7 * counts[0]
    own = bin_labels(signal, noise, snr=15.0, covariance=lambda n: 1.0 + np.log10(n))
    assert own.attrs["n_bins"] == counts[1]


def test_what_is_outside_stays_outside():
    signal, noise = maps_of()
    signal[:5], noise[-4:], noise[:, 0] = np.nan, 0.0, np.inf
    out = bin_labels(signal, noise, snr=10.0)
    outside = np.zeros(signal.shape, bool)
    outside[:5], outside[-4:], outside[:, 0] = True, True, True
    np.testing.assert_array_equal(out["bin"] == -1, outside)
    assert np.isnan(out.bin_snr.values[outside]).all()
    assert (out.bin_size.values[outside] == 0).all()
    cut = bin_labels(*maps_of(), snr=10.0, min_snr=1.0)
    np.testing.assert_array_equal(cut["bin"] == -1, maps_of()[0] < 1.0)
    assert bin_labels(*maps_of(), snr=1e9).attrs["n_bins"] == 1
    assert bin_labels(*maps_of(6), snr=0.01).attrs["n_bins"] == 36


@pytest.mark.parametrize("seed", [1, 2])
def test_bins_of_noisy_spaxels_have_the_flux_that_is_there(seed):
    """Spaxels whose noise made the line negative were left out: a disc was 1.2 times too bright, bins by 2 sigma."""
    flux, _ = disc(36, 4.0)
    cube = line_cube(flux, 0.0, 60.0, noise=60.0, seed=seed)
    with listen() as heard:
        bins, out = bin_spaxels(cube, snr=15.0, line=LINE, redshift=Z)
    assert not heard
    labels = bins["bin"].values
    assert (labels >= 0).all()
    first = np.unique(labels, return_index=True)[1]
    maps = moments(out, LINE, redshift=Z)
    mean = np.bincount(labels.ravel(), flux.ravel()) / np.bincount(labels.ravel())
    pulls = (maps.moment0.values.ravel()[first] - mean) / maps.moment0_err.values.ravel()[first]
    assert abs(pulls.mean()) < 0.5
    assert pulls.std() < 1.3
    assert float(maps.moment0.sum()) == pytest.approx(flux.sum(), rel=0.04)
    with listen() as heard:
        bins, _ = bin_spaxels(cube, snr=15.0, line=LINE, redshift=Z, min_snr=1.0)
    assert f"{(bins['bin'] < 0).sum().item()} of 1296 spaxels are below min_snr = 1 and in no bin" in heard[0]


def test_binned_cube(cube):
    bins, out = bin_spaxels(cube, snr=25.0, line=LINE, redshift=Z)
    schema.validate(out)
    labels = bins["bin"].values
    assert bins.attrs["level"] == "bins"
    assert 5 < bins.attrs["n_bins"] < 500
    k = int(np.argmax(np.bincount(labels[labels >= 0])))
    here = labels == k
    values = cube.flux.values[:, here]
    for j, i in np.argwhere(here)[:3]:
        np.testing.assert_allclose(out.flux[:, j, i], values.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(out["var"].values[:, here][:, 0], 3600.0 / here.sum(), rtol=1e-5)
    np.testing.assert_allclose(out.flux.sum(("y", "x")), cube.flux.where(labels >= 0).sum(("y", "x")), rtol=1e-4)
    np.testing.assert_array_equal(out["bin"], labels)
    assert (out.dq.values[:, labels < 0] == 1).all()
    more = bin_cube(cube, bins, covariance=0.5)
    assert product_name(more) == f"{product_name(cube)}_binned"  # not saved over the cube
    factor = 1 + 0.5 * np.log10(here.sum())
    np.testing.assert_allclose(more["var"].values[:, here], out["var"].values[:, here] * factor**2, rtol=1e-5)
    assert read_history(out)[-1]["step"] == "lines.bin_cube"
    before, after = (moments(c, LINE, redshift=Z, threshold=None) for c in (cube, out))
    assert float(after.snr.where(labels >= 0).min()) > 12
    assert float(before.snr.where(labels >= 0).min()) < 5
    spread = [float(np.abs(m.moment1 - disc()[1]).median()) for m in (before, after)]
    assert spread[1] < 0.6 * spread[0]


def test_one_spectrum_a_bin_gives_the_same_maps(cube):
    bins, binned = bin_spaxels(cube, snr=30.0, wavelength=(19.0, 19.02), min_snr=0.5)
    few = bin_spectra(cube, bins)
    assert few.flux.shape == (cube.sizes["wavelength"], bins.attrs["n_bins"], 1)
    assert "wcs" not in few.attrs
    painted = paint_bins(moments(few, LINE, redshift=Z), bins)
    whole = moments(binned, LINE, redshift=Z)
    for name in ("moment0", "moment1", "moment2_err", "snr"):
        np.testing.assert_array_equal(painted[name], whole[name])
    assert painted.attrs["pixel_scale"] == cube.attrs["pixel_scale"]
    place = {"ra": float(cube.ra[12, 14]), "dec": float(cube.dec[12, 14])}
    assert float(painted.sel(place).moment0) == float(whole.moment0[12, 14])
    counted = few.drop_vars(["flux", "var", "weight", "dq"]).drop_dims("wavelength").assign(
        n_components=(("line", "y", "x"), np.ones((2, few.sizes["y"], 1), "i1")),
        text=(("y", "x"), np.full((few.sizes["y"], 1), "a"))
    )  # fmt: skip
    back = paint_bins(counted, bins, like=cube)
    assert back.n_components.dims == ("line", "y", "x")
    assert back.n_components.dtype == np.int8
    assert set(np.unique(back.n_components)) <= {0, 1}


@pytest.mark.parametrize("sizes", [{"wavelength": 20}, {"wavelength": 33, "y": 7}])
def test_lazy_equals_eager(cube, sizes):
    labels = bin_labels(
        *(xr.DataArray(v, dims=("y", "x")) for v in (disc()[0] * 1e18, np.full((30, 30), 0.1))), snr=9.0
    )
    lazy = cube.assign({name: cube[name].chunk(sizes) for name in cube.data_vars})
    for function in (bin_cube, bin_spectra):
        with no_compute():
            out = function(lazy, labels)
        assert isinstance(out.flux.data, da.Array)
        xr.testing.assert_identical(out.compute(), function(cube, labels))


def test_holes_in_bins(cube):
    labels = np.full((30, 30), -1, np.int32)
    labels[:2, :2], labels[5, 5] = 0, 1
    holes = cube.copy(deep=True)
    holes["var_systematic"] = (0 * holes["var"] + 0.04).assign_attrs(holes["var"].attrs)
    holes.flux[3, 0, 0] = np.nan
    holes.dq[4, 0, :2] = 1
    holes.flux[4, 1, 1] = np.nan
    holes.flux[:, 5, 5] = np.nan
    out = bin_cube(holes, xr.DataArray(labels, dims=("y", "x")))
    rest = cube.flux.values[3, :2, :2].ravel()[1:]
    assert float(out.flux[3, 0, 0]) == pytest.approx(rest.mean(), rel=1e-5)
    assert float(out["var"][3, 0, 0]) == pytest.approx(3600.0 / 3, rel=1e-5)
    assert np.isnan(out.flux[4, :2, :2]).all()
    assert (out.dq[4, :2, :2] == 1).all()
    assert np.isnan(out.flux[:, 5, 5]).all()
    np.testing.assert_allclose(out.var_systematic[3, :2, :2], 0.04, rtol=1e-5)
    assert float(out.weight[3, 0, 0]) == 3.0


def test_without_vorbin_one_line_tells(monkeypatch):
    monkeypatch.setitem(sys.modules, "vorbin", None)
    monkeypatch.setitem(sys.modules, "vorbin.voronoi_2d_binning", None)
    with pytest.raises(MrsxrError, match="pip install vorbin; its licence allows non-commercial use only"):
        bin_labels(*maps_of(), snr=10.0, method="voronoi")


def test_wrong_requests_are_told(cube):
    signal, noise = maps_of()
    for function, message in (
        (lambda: bin_labels(signal, noise, snr=0.0), "expected a number above 0"),
        (lambda: bin_labels(signal, noise, snr=5.0, method="squares"), "expected one of weighted, voronoi"),
        (lambda: bin_labels(signal * np.nan, noise, snr=5.0), "nothing can be binned"),
        (lambda: bin_spaxels(cube, snr=5.0), "exactly one of line, wavelength and maps"),
        (lambda: bin_spaxels(cube, snr=5.0, line=LINE, wavelength=(19.0, 19.1)), "exactly one of"),
        (lambda: bin_spaxels(cube, snr=5.0, wavelength=(5.0, 6.0)), "no plane lies between 5.0 and 6.0 um"),
        (lambda: bin_spaxels(cube, snr=5.0, maps=xr.Dataset()), "no moment0 or flux"),
        (lambda: bin_cube(cube, signal.astype(int)), r"expected integers on \(30, 30\)"),
        (lambda: bin_spectra(cube, xr.DataArray(np.full((30, 30), -1), dims=("y", "x"))), "no spaxel is in a bin"),
        (lambda: paint_bins(cube, xr.Dataset({"bin": (("y", "x"), np.zeros((30, 30), int))})), "those of bin_spectra"),
    ):
        with pytest.raises(MrsxrError, match=message):
            function()
    with pytest.raises(LevelError, match="bin_cube needs data of level cube"):
        bin_cube(cube.assign_attrs(level="lines"), signal)


def test_bins_of_other_spaxels_are_refused(cube):
    """A cut or a flip of one of both leaves the shape, not the place."""
    maps = moments(cube, LINE, redshift=Z)
    bins, _ = bin_spaxels(cube, maps=maps, snr=15.0)
    cut = cube.isel(y=slice(4, None))
    spectra = bin_spectra(cut, bins.isel(y=slice(4, None)))
    np.testing.assert_array_equal(bin_spectra(cut, bins["bin"].isel(y=slice(4, None))).flux, spectra.flux)
    bare = xr.DataArray(bins["bin"].values[4:], dims=("y", "x"))  # without a place, taken as they lie
    np.testing.assert_array_equal(bin_spectra(cut, bare).flux, spectra.flux)
    flipped = cube.isel(y=slice(None, None, -1))
    for function in (
        lambda: bin_cube(cut, bins.isel(y=slice(None, -4))), lambda: bin_cube(flipped, bins["bin"]),
        lambda: bin_spectra(cut, bins["bin"].isel(y=slice(None, -4))),
        lambda: bin_spaxels(cut, maps=maps.isel(y=slice(None, -4)), snr=15.0),
        lambda: paint_bins(moments(spectra, LINE, redshift=Z), bins, like=flipped),
    ):  # fmt: skip
        with pytest.raises(MrsxrError, match="lie on other spaxels than the cube"):
            function()
