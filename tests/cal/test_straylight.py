"""Stray light: equal to jwst on stored frames, the truth of made ones, promises, pathologies, errors."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from astropy.stats import sigma_clipped_stats
from helpers import assert_step, detector_attrs, dither_coords, make_reference, of_jwst
from parity.make_straylight_parity import CASES, COLUMNS, ROWS, kernel_tables, made_image

from mrsxr import dq
from mrsxr.cal import _straylight_fit as straylight_fit
from mrsxr.cal import _straylight_kernels as kernels
from mrsxr.cal import _straylight_profile_kernels as profile
from mrsxr.cal.straylight import subtract_straylight
from mrsxr.errors import MrsxrError, ReferenceFileError

NY, NX = 1024, 1032
PEDESTAL = 0.11


def frames(rates, flags=None, setting="12A", variance=0.0025):
    """Return a rate Dataset around images (dither, y, x) [DN/s]."""
    dims = ("dither", "y", "x")
    shape = rates.shape
    planes = {"rate": (rates, "DN/s"), "var_poisson": (np.zeros(shape), "DN2/s2"),
              "var_read": (np.full(shape, variance), "DN2/s2")}  # fmt: skip
    ds = xr.Dataset(
        {name: (dims, values.astype("f4"), {"units": unit}) for name, (values, unit) in planes.items()},
        coords={"y": np.arange(shape[1]), "x": np.arange(shape[2]), **dither_coords(shape[0], setting)},
        attrs=detector_attrs("rate", setting, 10, 2),
    )
    flags = np.zeros(shape, "u4") if flags is None else flags
    ds["dq"] = (dims, flags, dq.PIXEL_DQ_ATTRS)
    return ds


def reference(tables):
    """Return a mrsxartcorr Dataset of tables {band: {column: values}}."""
    stacks = {c.lower(): (("band", "y"), np.stack([t[c] for t in tables.values()])) for c in COLUMNS}
    return make_reference("mrsxartcorr", **stacks).assign_coords(band=list(tables))


def one_kernel(bands=("1A", "2A"), **changes):
    values = {"LOR_FWHM": 90.0, "LOR_SCALE": 8e-4, "GAU_FWHM": 8.0, "GAU_XOFF": 22.0, "GAU_SCALE1": 1.5e-3,
              "GAU_SCALE2": 4e-4} | changes  # fmt: skip
    return reference({band: {c: np.full(NY, v, "f4") for c, v in values.items()} for band in bands})


def kernel_at(distance, width, scale, sigma, offset, first, second):
    """The kernel as its formula says."""
    out = scale * width**2 / (width**2 + distance**2)
    for k, amplitude in ((1, first), (2, second)):
        for side in (-1, 1):
            out = out + amplitude * np.exp(-0.5 * ((distance + side * k * offset) / (k * sigma)) ** 2)
    return out


def matrix(columns):
    """Return the share of each column's light that each pixel of a row gets, of the kernel of one_kernel."""
    x = np.arange(NX)
    out = kernel_at(x[:, None] - x, 45.0, 8e-4, 8.0 / 2.354820045, 22.0, 1.5e-3, 4e-4)
    inside = (x >= columns[0]) & (x < columns[1])
    out[:, ~inside] = 0
    out[:4] = out[-4:] = 0
    return out


@pytest.fixture(scope="module")
def scattering():
    return matrix((0, 516)) + matrix((516, 1024))


def slices():
    """Return True (y, x) in made slices; the strip between the channels is dark."""
    x = np.arange(NX)
    inside = ((x - 10) % 27 > 5) & (x > 8) & (x < 1022) & ~((x >= 500) & (x < 519))
    return np.broadcast_to(inside, (NY, NX)).copy()


def scene(flux):
    """Return direct light [DN/s]: a point source in some slices of both halves, lines, a faint background."""
    y, x = np.mgrid[:NY, :NX].astype(float)
    out = 0.03 + 0.02 * x / NX
    for centre in (238.0, 265.0, 778.0):
        place = x - centre - 3e-6 * (y - 512) ** 2
        out = out + flux * np.exp(-0.5 * (place / 1.6) ** 2) * (1 + 4 * np.exp(-0.5 * ((y - 300) / 2) ** 2))
    return np.where(slices(), out, 0.0)


def noisy(direct, scattering, amplitude=1.0, seed=1, noise=0.05):
    rng = np.random.default_rng(seed)
    return direct + amplitude * direct @ scattering.T + PEDESTAL + rng.normal(0, noise, direct.shape)


def with_slices(ds):
    return ds.assign_coords(slice=(("y", "x"), np.where(slices(), 101, 0).astype("i2"), {"units": "1"}))


@pytest.mark.parametrize("name", CASES)
def test_equal_to_jwst(name):
    channels, band, missing = CASES[name]
    letter = {"SHORT": "a", "MEDIUM": "b"}[band]
    tables = kernel_tables([f"ch{c}{letter}_table" for c in channels])
    known = {key[2:4].upper(): value for key, value in tables.items() if key not in missing}
    rate, flags, _ = made_image(list(CASES).index(name))
    ds = frames(rate[None], flags[None], name)
    stored = of_jwst("straylight")
    wanted = stored[name]
    out = subtract_straylight(ds, mrsxartcorr=reference(known))
    found = out.rate.values[0][ROWS]
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    same = np.isfinite(wanted)
    np.testing.assert_allclose(found[same], wanted[same], rtol=0, atol=2e-7 * np.nanmax(wanted))
    shift = np.abs(wanted - rate[ROWS])[same].max()
    assert shift > 0.2  # what jwst subtracts is not small
    np.testing.assert_array_equal(out.dq, ds.dq)


def test_strip_of_jwst_counts_nan_as_zero():
    rate, flags, _ = made_image(0)
    rate[50:974:2, 503:516] = np.nan
    ds, ref = frames(rate[None], flags[None]), one_kernel(LOR_SCALE=0, GAU_SCALE1=0, GAU_SCALE2=0)
    out = subtract_straylight(ds, mrsxartcorr=ref).rate.values[0]
    strip = rate[50:974, 503:516].astype("f8")
    with_zeros = sigma_clipped_stats(np.nan_to_num(strip))[1]
    assert with_zeros < 0.09
    np.testing.assert_allclose(rate[300, 100] - out[300, 100], with_zeros, atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 9, 400])
def test_clipped_statistics_are_those_of_astropy(n):
    values = np.random.default_rng(n).standard_t(1.5, n)
    np.testing.assert_allclose(kernels.clipped_statistics(values.copy()), sigma_clipped_stats(values), rtol=1e-9)
    assert np.isnan(kernels.clipped_statistics(values[:0].copy())).all()


def test_table_and_row():
    rng = np.random.default_rng(3)
    n = 60
    half, table = np.empty(n, "f4"), np.empty(2 * n - 1, "f4")
    for parameters in ((40.0, 1e-3, 3.0, 11.0, 2e-3, 5e-4), (5.0, 0.0, 9.0, 2.0, 1e-3, 0.0)):
        assert kernels.fill_table(np.array(parameters), half, table)
        wanted = kernel_at(np.arange(1 - n, n), *parameters)
        np.testing.assert_allclose(table, wanted, atol=1e-9)
        source = np.where(rng.uniform(size=n) < 0.4, rng.uniform(0, 9, n), 0).astype("f4")
        out = np.zeros(n, "f4")
        kernels.spread_row(source, 7, 53, table, out)
        slow = sum(source[k] * kernel_at(np.arange(n) - k, *parameters) for k in range(7, 53))
        np.testing.assert_allclose(out, slow, rtol=1e-5)
    for nothing in ((0.0, 0.0, 0.0, 0.0, 0.0, 0.0), (50.0, np.nan, 3.0, 11.0, 1e-3, 1e-3)):
        assert not kernels.fill_table(np.array(nothing), half, table)


@pytest.mark.parametrize("method", ["kernel", "fitted"])
def test_promises(method, scattering):
    """The second exposure of the fitted method is lost, which costs no second fit."""
    rates = np.stack([noisy(scene(f), scattering, seed=k) for k, f in enumerate((30.0, 3.0))])
    if method == "fitted":
        rates[1] = np.nan
    out = assert_step(subtract_straylight, with_slices(frames(rates)), mrsxartcorr=one_kernel(), method=method)
    assert ("var_straylight" in out) == (method == "fitted")
    np.testing.assert_array_equal(out.rate.values[..., :4], rates.astype("f4")[..., :4])


@pytest.mark.parametrize(("band", "bands"), [("SHORT-MEDIUM", ("1A", "2A")), ("SHORT", ("3A", "4A"))])
@pytest.mark.parametrize("method", ["kernel", "fitted"])
def test_without_a_table_only_the_pedestal_goes(band, bands, method, scattering):
    rate = noisy(scene(10.0), scattering)[None]
    ds = with_slices(frames(rate).assign_attrs(band=band))
    out = subtract_straylight(ds, mrsxartcorr=one_kernel(bands), method=method)
    shift = (ds.rate - out.rate).values[0, :, 4:-4]
    assert np.ptp(shift) < 1e-5
    assert abs(shift.mean() - PEDESTAL) < 0.05


def left_over(out, direct, where):
    """Return the sum of what is left of the stray light, in per cent of the light."""
    return 100 * np.nansum(np.where(where, out - direct, 0)) / direct[where].sum()


@pytest.mark.parametrize("amplitude", [0.8, 1.25])
def test_fitted_frees_a_bright_source(amplitude, scattering):
    direct = scene(60.0)
    rate = noisy(direct, scattering, amplitude)
    inside = slices()
    before = left_over(rate - PEDESTAL, direct, inside)
    assert 7 < before < 20
    ds = with_slices(frames(rate[None]))
    kernel, fitted = (subtract_straylight(ds, mrsxartcorr=one_kernel(), method=m) for m in ("kernel", "fitted"))
    assert abs(left_over(fitted.rate.values[0], direct, inside)) < 0.05
    worst = np.abs((fitted.rate.values[0] - direct)[:, 4:-4].reshape(64, 16, -1, 16).mean(axis=(1, 3))).max()
    others = np.abs((kernel.rate.values[0] - direct)[:, 4:-4].reshape(64, 16, -1, 16).mean(axis=(1, 3))).max()
    assert worst < 0.03 < 0.1 < others


def test_fitted_finds_a_profile_that_no_table_holds():
    x = np.arange(NX)
    d = (x[:, None] - x).astype(float)
    share = kernel_at(d, 30.0, 1.1e-3, 5.5, 19.0, 1.1e-3, 2e-4) * (1 + 0.3 * np.tanh(d / 15))
    share[:4] = share[-4:] = 0
    direct = scene(60.0)
    ds = with_slices(frames(noisy(direct, share, np.linspace(1.7, 0.8, NY)[:, None])[None]))
    kernel, fitted = (subtract_straylight(ds, mrsxartcorr=one_kernel(), method=m) for m in ("kernel", "fitted"))
    assert (fitted.score_straylight < 0.9).all()
    bright = direct > 15
    assert abs(left_over(fitted.rate.values[0], direct, bright)) < 0.5 < left_over(ds.rate.values[0], direct, bright)
    off = [np.abs((image.rate.values[0] - direct)[:, 4:-4].reshape(64, 16, -1, 16).mean(axis=(1, 3))).mean()
           for image in (kernel, fitted)]  # fmt: skip
    assert off[1] < 0.5 * off[0]


def test_fitted_without_gain_is_the_baseline():
    rng = np.random.default_rng(4)
    rate = rng.normal(PEDESTAL, 0.05, (1, NY, NX))
    ds = with_slices(frames(rate))
    kernel, fitted = (subtract_straylight(ds, mrsxartcorr=one_kernel(), method=m) for m in ("kernel", "fitted"))
    np.testing.assert_array_equal(fitted.rate, kernel.rate)
    assert not fitted.var_straylight.any()
    assert ((fitted.score_straylight > 0.95) & (fitted.score_straylight < 1.1)).all()


def test_fitted_finds_that_there_is_none(scattering):
    """Bright sources without stray light: any profile fits none of it, so that a fit of a free one does not settle."""
    direct = scene(30.0)
    ds = with_slices(frames(noisy(direct, scattering, amplitude=0.0)[None]))
    out = {name: subtract_straylight(ds, mrsxartcorr=one_kernel(), method=name) for name in ("kernel", "fitted")}
    assert np.isfinite(out["fitted"].score_straylight).all()
    off = {name: (one.rate.values[0] - direct)[:, 8:1024] for name, one in out.items()}
    off = {name: one.reshape(64, 16, 127, 8).mean((1, 3)) for name, one in off.items()}
    assert np.std(off["fitted"]) < 0.01 < 0.05 < np.std(off["kernel"])


@pytest.mark.parametrize(("amplitude", "flux", "seed"), [(0.0, 10.0, 3), (0.0, 60.0, 1), (1.0, 60.0, 3)])
def test_profile_is_not_freed_by_noise(amplitude, flux, seed, scattering, monkeypatch):
    """One of noise alone leaves more behind, and where there is no stray light it does not settle."""
    fits, iterate = [], straylight_fit._free

    def noted(*args):
        found = iterate(*args)
        fits.append((args[3].freedom, bool(found[-1])))
        return found

    monkeypatch.setattr(straylight_fit, "_free", noted)
    ds = with_slices(frames(noisy(scene(flux), scattering, amplitude, seed)[None]))
    subtract_straylight(ds, mrsxartcorr=one_kernel(), method="fitted")
    assert fits == [(straylight_fit.FREEDOMS[0], True)]


def test_kernels_of_the_fit_against_numpy():
    rng = np.random.default_rng(5)
    rows = rng.normal(size=(60, 7)).astype("f4")
    weight, chosen = rng.uniform(size=60).astype("f4"), rng.random(60) < 0.6
    slow = (rows[chosen].T * weight[chosen]).astype("f8") @ rows[chosen].astype("f8")
    fast = profile.normal_matrix(rows, weight, chosen)
    np.testing.assert_allclose(fast, slow, rtol=1e-5, atol=1e-5)
    knots = np.array([-50, -9, 0, 4, 20, 50], "f4")
    index, share = np.empty(79, dtype=np.int64), np.empty(79, "f4")
    profile.knot_weights(knots, 40, index, share)
    r = rng.normal(size=6)
    found = r[index] * (1 - share) + r[index + 1] * share
    np.testing.assert_allclose(found, np.interp(np.arange(-39, 40), knots, r), rtol=1e-5, atol=1e-6)


def test_what_the_halves_scatter_over_the_knots_adds_up():
    rng = np.random.default_rng(6)
    fit = straylight_fit.Fit(
        np.zeros((16, NX), "f4"), np.ones((16, NX), bool), np.ones((16, NX), bool),
        np.array([[45.0, 8e-4, 3.4, 22.0, 1.5e-3, 4e-4]] * 2)[:, :, None] * np.ones(16), 64, 0.3, 0.05,
    )  # fmt: skip
    light = np.where(rng.random((2, NX)) < 0.1, rng.uniform(1, 9, (2, NX)), 0).astype("f4")
    light[:, :4] = light[:, -8:] = 0
    bins, columns = np.repeat([0, 1], 3), np.tile([60, 500, 700], 2)
    out = np.empty((6, 2 * fit.m + 2), "f4")
    profile.design(light, *fit.kernels, 8, fit.index, fit.share, bins, columns, out)
    models = np.empty((2, 2, NX), "f4")
    r = rng.uniform(0, 1, (2, fit.m))
    along = np.stack([r[k][fit.index] * (1 - fit.share) + r[k][fit.index + 1] * fit.share for k in (0, 1)])
    kernels.scatter_halves(light, *fit.kernels, along.astype("f4"), False, models)
    for side in (0, 1):
        part = out[:, side * (fit.m + 1) : (side + 1) * (fit.m + 1)]
        np.testing.assert_allclose(part @ np.append(1.0, r[side]), models[side, bins, columns], rtol=2e-4)
    between, some = rng.random((2, NX)) < 0.1, np.empty_like(models)
    between[:, :4] = between[:, -4:] = False
    kernels.scatter_between(light, *fit.kernels, along.astype("f4"), between, some)
    np.testing.assert_allclose(some, np.where(between, models, 0), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ((9.0, 4.0), False),  # too few to tell
        ((9.0, 4.0, 2.0), False),
        ((2.0, 90.0, 1.9), True),  # 0.97 a sweep is not enough
        ((2.0, 3.0, 4.0), True),
        ((20.0, 12.0, 14.0), False),
        ((np.inf, np.inf, np.nan), False),
    ],
)
def test_changes_that_do_not_fall_fast_enough_are_lost(changes, lost):
    assert straylight_fit._is_lost(list(changes), 1.0, 16) is lost


def test_fitted_fills_dead_pixels_and_ignores_hot_ones(scattering):
    direct = scene(60.0)
    rate = noisy(direct, scattering)
    rng = np.random.default_rng(8)
    flags = np.zeros((1, NY, NX), "u4")
    dead = (rng.integers(5, NY - 5, 4000), 234 + rng.integers(0, 9, 4000))
    hot = (rng.integers(5, NY - 5, 300), rng.integers(20, 180, 300))
    rate[dead], flags[0][dead] = np.nan, 1
    rate[hot] += rng.uniform(50, 3000, 300)
    ds = with_slices(frames(rate[None], flags))
    good = np.isfinite(rate) & slices()
    good[hot] = False
    kernel, fitted = (
        left_over(subtract_straylight(ds, mrsxartcorr=one_kernel(), method=m).rate.values[0], direct, good)
        for m in ("kernel", "fitted")
    )
    assert abs(fitted) < 0.1 < 0.4 < abs(kernel)


def test_fitted_does_no_harm_where_little_shines(scattering):
    direct = np.where(slices(), 0.01, 0.0)
    ds = with_slices(frames(noisy(direct, scattering, seed=2)[None]))
    out = subtract_straylight(ds, mrsxartcorr=one_kernel(), method="fitted")
    off = (out.rate.values[0] - direct)[:, 4:-4]
    assert off.std() < 1.002 * 0.05
    assert abs(off.mean()) < 1e-3


@pytest.mark.slow
def test_variance_is_the_scatter(scattering):
    direct = scene(20.0)
    rates = np.stack([noisy(direct, scattering, 1.5, seed=s, noise=0.2) for s in range(4)])
    out = subtract_straylight(
        with_slices(frames(rates, variance=0.04)), mrsxartcorr=one_kernel(), method="fitted", amplitude_step=0.02
    )
    assert (out.score_straylight < 0.9).all()
    correction = (rates - out.rate.values)[:, :, 4:-4]
    ratio = correction.var(axis=0, ddof=1) / out.var_straylight.values[:, :, 4:-4].mean(axis=0)
    assert 0.4 < np.median(ratio) < 2.0
    # at short distances the variance holds what is not known of the kernel, which is no noise
    assert 0.2 < np.median(ratio[slices()[:, 4:-4] & (direct[:, 4:-4] > 5)]) < 2.0


@pytest.mark.parametrize("method", ["kernel", "fitted"])
def test_pathologies(method, scattering):
    rate = noisy(scene(20.0), scattering)
    lost, all_lost = (rate.copy() for _ in range(2))
    lost[50:974, 503:516] = np.nan  # the strip
    lost[:, 232:246] = np.nan  # a slice
    all_lost[:] = np.nan
    rates = np.stack([lost, all_lost, np.zeros_like(rate)])
    flags = np.where(np.isnan(rates), 1, 0).astype("u4")
    ds = with_slices(frames(rates, flags))
    out = subtract_straylight(ds, mrsxartcorr=one_kernel(), method=method)
    np.testing.assert_array_equal(np.isnan(out.rate), np.isnan(rates))
    np.testing.assert_array_equal(out.dq, ds.dq)
    if method == "kernel":  # no pedestal is known
        none = one_kernel(LOR_SCALE=0, GAU_SCALE1=0, GAU_SCALE2=0)
        plain = subtract_straylight(ds, mrsxartcorr=none)
        np.testing.assert_array_equal(plain.rate[0], ds.rate[0])
    np.testing.assert_array_equal(out.rate[2], 0.0)
    assert np.isfinite(out.get("var_straylight", xr.DataArray(0.0))).all()


def test_errors():
    ds = frames(np.zeros((1, NY, NX)))
    ref = one_kernel()
    with pytest.raises(MrsxrError, match="expected one of kernel, fitted"):
        subtract_straylight(ds, mrsxartcorr=ref, method="best")
    with pytest.raises(MrsxrError, match="run assign_wcs before or give regions"):
        subtract_straylight(ds, mrsxartcorr=ref, method="fitted")
    for cut in (ds.isel(y=slice(0, 900)), ds.isel(x=slice(4, 1028)), ds.assign_coords(y=ds.y + 3)):
        with pytest.raises(MrsxrError, match="needs the full frame of 1024 x 1032 pixels"):
            subtract_straylight(cut, mrsxartcorr=ref)
    with pytest.raises(MrsxrError, match="amplitude_prior is 0"):
        subtract_straylight(ds, mrsxartcorr=ref, amplitude_prior=0.0)
    with pytest.raises(MrsxrError, match="straylight expects 12 or 34"):
        subtract_straylight(ds.assign_attrs(channels="1"), mrsxartcorr=ref)
    with pytest.raises(ReferenceFileError, match="mrsxartcorr has no column 'gau_xoff'"):
        subtract_straylight(ds, mrsxartcorr=ref.drop_vars("gau_xoff"))
    with pytest.raises(ReferenceFileError, match="mrsxartcorr has 1000 rows"):
        subtract_straylight(ds, mrsxartcorr=ref.isel(y=slice(0, 1000)))
    regions = make_reference("regions", regions=(("plane", "y", "x"), np.zeros((9, NY, NX), "i2")))
    with pytest.raises(ReferenceFileError, match="plane 12 of regions asked for"):
        subtract_straylight(ds, mrsxartcorr=ref, method="fitted", regions=regions, region_plane=12)
    with pytest.raises(ReferenceFileError, match="regions has 900 x 1032 pixels"):
        subtract_straylight(ds, mrsxartcorr=ref, method="fitted", regions=regions.isel(y=slice(0, 900)))
    with pytest.raises(ReferenceFileError, match="expected a reference of kind regions, got one of kind mrsxartcorr"):
        subtract_straylight(ds, mrsxartcorr=ref, method="fitted", regions=ref)


def test_regions_tell_the_slices_as_well(monkeypatch):
    """What the fit is told of the slices is the same, and true in them."""
    planes = np.stack([np.where(slices(), 101, 0)] * 9).astype("i2")
    regions = make_reference("regions", regions=(("plane", "y", "x"), planes))
    told = []

    def instead_of_a_fit(rate, dq, variance, inside, parameters, **_):
        told.append(inside)
        return rate, variance, np.zeros((len(rate), 2), "f4")

    monkeypatch.setattr(straylight_fit, "fitted_wrapper", instead_of_a_fit)
    ds = frames(np.zeros((1, NY, NX)))
    subtract_straylight(ds, mrsxartcorr=one_kernel(), method="fitted", regions=regions)
    subtract_straylight(with_slices(ds), mrsxartcorr=one_kernel(), method="fitted")
    for inside in told:
        np.testing.assert_array_equal(inside, slices())
    assert len(told) == 2
