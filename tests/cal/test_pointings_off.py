"""Pointings that are off by more than a fit can follow are found in the images, told, and mended; others stay."""

import json

import numpy as np
import pytest
from star_scene import made, pixel_psf

import mrsxr as mx
from mrsxr.cal import assign_mtwcs, fit_point_source, fit_trace_model, measure_offsets, subtract_point_source, tie_bands
from mrsxr.errors import MrsxrWarning
from mrsxr.notes import listen
from mrsxr.spectrum import fit_spectrum
from mrsxr.traces.pixels import lit_pixels, places_of
from mrsxr.traces.search import searched
from mrsxr.tree import join_dithers

STAR = (0.0, 0.0)
HOSTS = {
    "lone": None,
    "host": lambda a, b, wave: 60.0 * np.exp(-np.hypot(a, 1.5 * b) / 0.6),
    "second star": lambda a, b, wave: 95.0 * pixel_psf(a - 0.42, b + 0.30, wave),
}


def star(host="lone", noise=0.3, light=160.0):
    return made(lambda wave: light + 0 * wave, HOSTS[host], noise=noise)


def moved(ds, off):
    """Return data whose pointings are off (dither, 2) [arcsec east, north]."""
    for k, name in enumerate(("ra_ref", "dec_ref")):
        ds = ds.assign_coords({name: ds[name] + np.asarray(off)[:, k] / 3600})
    return ds


def offsets(**of_exposures):
    out = np.zeros((4, 2))
    for name, off in of_exposures.items():
        out[int(name[1:])] = off
    return out


def search(ds, source=STAR):
    lit = lit_pixels(ds, "1A")
    return searched(lit, "1A", places_of(lit, "1A", source), source)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("noise", [0.3, 150.0], ids=["bright", "faint"])
def test_offsets_of_one_and_of_two_exposures_are_found(host, noise):
    ds, right = star(host, noise), star(host, noise)
    places = places_of(lit_pixels(right, "1A"), "1A", STAR)
    for off in (offsets(d1=(0.32, 0.1)), offsets(d0=(-0.6, 0.5)), offsets(d2=(0.9, 0.0), d3=(-0.2, -0.8))):
        found = search(moved(ds, off))
        np.testing.assert_allclose(found.off, off, atol=0.13)
        np.testing.assert_allclose(found.place, places, atol=0.13)


@pytest.mark.parametrize("source", [STAR, None], ids=["told", "brightest"])
def test_one_of_two_exposures(source):
    ds = star().isel(dither=[0, 1])
    found = search(moved(ds, [(0.0, 0.0), (0.7, -0.4)]), source)
    np.testing.assert_allclose(found.off[1] - found.off[0], (0.7, -0.4), atol=0.13)
    assert (found.off == 0).all(axis=1).sum() == 1
    np.testing.assert_allclose(found.place, places_of(lit_pixels(ds, "1A"), "1A", STAR), atol=0.2)


@pytest.mark.parametrize("host", HOSTS)
def test_right_pointings_and_those_slightly_off_stay_as_they_are(host):
    rng = np.random.default_rng(3)
    for noise, jitter in ((0.3, 0.0), (0.3, 0.04), (150.0, 0.04)):
        ds = moved(star(host, noise), rng.normal(0, jitter, (4, 2)))
        lit = lit_pixels(ds, "1A")
        place = places_of(lit, "1A", STAR)
        found = searched(lit, "1A", place, STAR)
        assert found.place is place
        assert not found.off.any()


def test_dirt_and_light_that_lies_alike_on_the_detector_move_nothing():
    ds, rng = star(), np.random.default_rng(4)
    flux = ds.flux.values
    peak = np.nanmax(flux)
    hits = flux + np.where(rng.random(flux.shape) < 0.03, 10 * peak, 0.0)
    columns = flux.copy()
    columns[:, :, rng.integers(0, ds.sizes["x"], 12)] += 2 * peak
    core = flux.copy()
    core[1][core[1] > 0.3 * peak] = np.nan
    only = np.where(np.isfinite(flux), 0, np.nan) + rng.normal(size=flux.shape) + 30 * np.sin(ds.x.values / 7.0)
    for dirty in (hits, columns, core, only):
        assert not search(ds.assign(flux=ds.flux.copy(data=dirty))).off.any()
    off = offsets(d1=(0.6, 0.3))
    np.testing.assert_allclose(search(moved(ds.assign(flux=ds.flux.copy(data=hits)), off)).off, off, atol=0.13)


def test_the_model_of_exposures_that_are_off_is_that_of_right_ones_and_tells_so():
    ds, off = star("host"), offsets(d1=(0.9, -0.3))
    right = fit_point_source(ds, trace_model=fit_trace_model(ds, band="1A", source=STAR))
    with pytest.warns(mx.MrsxrWarning, match=r"00002_mirifushort by \+0.9., -0.3. arcsec"):
        model = fit_trace_model(moved(ds, off), band="1A", source=STAR)
    np.testing.assert_allclose(model.pointing_off, off, atol=0.13)
    point = fit_point_source(moved(ds, off), trace_model=model)
    np.testing.assert_allclose(point.place, right.place, atol=0.003)
    np.testing.assert_allclose(point.peak[:, 5:-5], right.peak[:, 5:-5], rtol=0.01)
    np.testing.assert_allclose([point.ra, point.dec], [right.ra, right.dec], atol=1e-6)


def test_an_exposure_that_does_not_show_the_source_is_left_out():
    ds = star()
    flux = ds.flux.values.copy()
    flux[2] = star(light=0.0).flux.values[2]
    ds = ds.assign(flux=ds.flux.copy(data=flux))
    for use in ([0, 1, 2, 3], [1, 2]):
        here = ds.isel(dither=use)
        with pytest.warns(mx.MrsxrWarning, match="00003_mirifushort does not show the source"):
            model = fit_trace_model(here, band="1A", source=STAR)
        at = use.index(2)
        assert np.isnan(model.pointing_off[at]).all()
        assert not model.used[:, at].any()
        point = fit_point_source(here, trace_model=model, around="level")
        rest = here.isel(dither=[k for k in range(len(use)) if k != at])
        alone = fit_point_source(rest, trace_model=fit_trace_model(rest, band="1A", source=STAR), around="level")
        np.testing.assert_allclose(point.peak, alone.peak, rtol=1e-6)
        left = subtract_point_source(here, trace_model=point)
        np.testing.assert_array_equal(left.flux[at], here.flux[at])


def test_pointings_are_mended_by_the_offsets():
    off = offsets(d3=(1.0, 0.4))
    ds = moved(star(), off)
    with pytest.warns(mx.MrsxrWarning, match="pointings are off"):
        found = measure_offsets(ds)
    np.testing.assert_allclose(found.east[3] - found.east[0], off[3, 0], atol=0.01)
    np.testing.assert_allclose(found.north[3] - found.north[0], off[3, 1], atol=0.01)
    tied = tie_bands(ds, offsets=found)
    right = star()
    for name in ("ra_ref", "dec_ref"):
        np.testing.assert_allclose(3600 * ((tied[name] - right[name] + 180) % 360 - 180), 0.0, atol=0.03)


# --- targets that move ---


def on_the_way(ds, target="MOVING", ra=(0.0, 1e-4, 2e-4, 3e-4), dec=(0.0, 0.0, 0.0, 0.0)):
    """Return data whose headers say where the target was [deg]."""
    cards = [{"MT_RA": a, "MT_DEC": b} for a, b in zip(ra, dec, strict=True)]
    headers = [json.dumps({"PRIMARY": {"TARGTYPE": target}, "SCI": one}) for one in cards]
    return ds.assign_coords(fits_header=("dither", headers))


def told(ds):
    with listen(pass_on=True) as heard:
        lit_pixels(ds, "1A")
    return heard


@pytest.mark.parametrize(
    ("target", "ra", "dec", "text"),
    [
        ("MOVING", (0.0, 1e-4, 2e-4, 3e-4), (0.0,) * 4, "moves by 1.08 arcsec over"),
        ("moving", (0.0, 359.9999, 0.0, 0.0), (0.0,) * 4, "moves by 0.36 arcsec over"),
        (None, (10.0,) * 4, (60.0, 60.001, 60.0, 60.0), "moves by 3.60 arcsec over"),
        ("MOVING", (None,) * 4, (None,) * 4, "moves over the sky"),
        ("MOVING", (10.0, None, 10.0, 10.0), (60.0,) * 4, "moves over the sky"),
        ("MOVING", (10.0, "ten", 10.0, 10.0), (60.0,) * 4, "moves over the sky"),
        ("MOVING", (10.0,) * 4, (60.0,) * 4, None),
        ("FIXED", (None,) * 4, (None,) * 4, None),
    ],
)
def test_a_target_that_was_not_brought_to_rest_is_told_of(target, ra, dec, text):
    heard = told(on_the_way(star(), target, ra, dec))
    assert len(heard) == (text is not None)
    assert text is None or text in heard[0]
    assert told(on_the_way(star(), target, ra, dec).isel(dither=[0])) == []


def test_a_target_that_was_brought_to_rest_is_not():
    ds = on_the_way(star())
    assert told(assign_mtwcs(ds)) == []
    half = join_dithers([assign_mtwcs(ds.isel(dither=[0, 1]), center=(0.0, 0.0)), ds.isel(dither=[2, 3])])
    assert "moves by 1.08 arcsec" in told(half)[0]


def test_every_fit_of_point_sources_tells_of_a_target_that_moves():
    still = star().isel(dither=[0, 1], y=slice(0, 60))
    ds = on_the_way(star()).isel(dither=[0, 1], y=slice(0, 60))
    model = fit_trace_model(still, band="1A", source=STAR)
    source = fit_point_source(still, trace_model=model)
    for call in (
        lambda: fit_trace_model(ds, band="1A", source=STAR),
        lambda: fit_point_source(ds, trace_model=model),
        lambda: fit_spectrum(ds, trace_model=source),
        lambda: subtract_point_source(ds, trace_model=model),
        lambda: measure_offsets(ds, source=STAR, max_error=1.0),
    ):
        with pytest.warns(MrsxrWarning, match="the target moves by 0.36 arcsec over the sky"):
            call()
