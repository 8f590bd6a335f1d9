"""Cubes as they come: whatever is odd in them is shown, or the page says why it is not; what it shows stays true."""

from __future__ import annotations

import numpy as np
import pytest
from field import Z, made_cube

import mrsxr as mx
from mrsxr.explorer import pack
from mrsxr.notes import listen

pytestmark = pytest.mark.browser
NASTY = '</script><img src=x onerror="window.hit=1">\'"`${1}--><!--'


def small(band, **options):
    return made_cube(band, planes=24, field=2.4, seed=4, **options)


def without_wcs():
    cube = small("2B").drop_vars(["ra", "dec"], errors="ignore")
    del cube.attrs["wcs"]
    return cube


def changed(band, **variables):
    cube = small(band)
    for name, change in variables.items():
        cube[name] = change(cube[name]).astype("f4").assign_attrs(cube[name].attrs)
    return cube


CUBES = {
    "holes": lambda: small("3A", holes=0.1),
    "no errors": lambda: changed("3B", var=lambda v: v * np.nan),
    "no noise": lambda: changed("2C", var=lambda v: v * 0),
    "negative": lambda: changed("1B", flux=lambda f: f - 300),
    "bright": lambda: changed("1C", flux=lambda f: f * 1e12, var=lambda v: v * 1e24),
    "infinite": lambda: changed("2A", flux=lambda f: f.where(f < 100, np.inf)),
    "tiny": lambda: small("1A").isel(y=slice(8, 11), x=slice(8, 11)),
    "a spaxel": lambda: small("1A").isel(y=[8], x=[9]),
    "two planes": lambda: small("1A").isel(wavelength=[3, 4]),
    "turned": lambda: small("1A").isel(x=slice(None, None, -1)),
}


@pytest.mark.parametrize("name", CUBES)
def test_odd_cubes_are_shown_as_they_are(browser, name, tmp_path):
    cube = CUBES[name]()
    assert browser.open(mx.explore(cube, html=tmp_path / "page.html")) == "yes"
    text, flux, error, told = browser.run(
        "const {flux, error} = mrsxr.spectra[0].main;"
        "return [mrsxr.regionText(), Array.from(flux), Array.from(error), document.querySelector('aside')?.textContent]"
    )
    with listen(pass_on=True):
        true = mx.spectrum.extract_spectrum(cube, region=text)
    flux, error, sigma = np.array(flux, float), np.array(error, float), np.sqrt(true["var"].values)
    np.testing.assert_array_equal(np.isfinite(flux), np.isfinite(true.flux.values))
    np.testing.assert_allclose(flux, true.flux.values, rtol=1e-3)
    if known := bool((sigma > 0).any()):
        assert np.abs((flux - true.flux.values) / sigma)[np.isfinite(flux)].max() < 1e-3
        np.testing.assert_allclose(error, sigma, rtol=0.06)
    assert known is (name not in ("no errors", "no noise"))
    assert told is None
    assert np.isfinite(flux).any()
    assert browser.complaints() == []
    assert browser.requests() == []


def test_page_says_what_it_cannot_show(browser, tmp_path):
    empty = changed("4B", flux=lambda f: f * np.nan)
    assert browser.open(mx.explore([without_wcs(), empty], html=tmp_path / "page.html")) == "yes"
    problems, region, image = browser.run(
        "return [document.querySelector('aside').textContent,"
        " ...['told-region', 'told-image'].map(id => document.getElementById(id).textContent)]"
    )
    assert "2B: " in problems
    assert "wcs" in problems
    assert "no spectrum" in region
    assert "no data" in image
    assert browser.open(mx.explore(without_wcs(), html=tmp_path / "none.html")) == "yes"
    assert "no cube to show" in browser.run("return document.getElementById('told').textContent")
    assert browser.complaints() == []


def test_names_with_markup_stay_text(browser, tmp_path):
    cube = made_cube("4A", field=2.6)
    cube = cube.isel(wavelength=np.abs(cube.wavelength - 18.713 * (1 + Z)) < 0.3).assign_attrs(target=NASTY)
    maps = mx.lines.fit_line(cube.isel(y=slice(2, 5), x=slice(2, 5)), "[S III] 18.71", redshift=Z).compute()
    maps = maps.assign_coords(line=[NASTY])
    assert browser.open(mx.explore({NASTY: cube}, maps=maps, html=tmp_path / "page.html")) == "yes"
    heading, hit, images, name, table = browser.settled(
        "mrsxr.choose(mrsxr.maps[0]);"
        "return [document.querySelector('h1').textContent, window.hit, document.querySelectorAll('img').length,"
        " document.getElementById('told-image').textContent, mrsxr.table('ecsv')]"
    )
    browser.settled("")
    assert heading == NASTY
    assert hit is None
    assert images == 0
    assert NASTY in browser.run("return document.getElementById('told-image').textContent") + name
    assert len(table.splitlines()) > cube.sizes["wavelength"]
    assert browser.complaints() == []


def test_bands_of_a_joint_cube_are_not_joined_by_a_line(browser, tmp_path):
    import xarray as xr

    parts = [small("1A"), small("1A").isel(wavelength=slice(0, 9))]
    parts[1]["wavelength"] = parts[1].wavelength + 0.4
    cube = xr.concat(parts, "wavelength", combine_attrs="override").assign_attrs(band="1A 1B")
    assert browser.open(mx.explore(cube, html=tmp_path / "page.html")) == "yes"
    stretches, gap = browser.settled(
        "mrsxr.view.whole(); const cube = mrsxr.cubes[0]; return [cube.stretches, cube.lo[24] - cube.hi[23]]"
    )
    assert stretches == [[0, 24], [24, 33]]
    assert gap == pytest.approx(0.4 - 24 * 0.0008, abs=2e-3)
    assert sorted(len(x) for x in browser.run("return mrsxr.view.curves.map(one => one.x)")) == [9, 24]


def test_rounding_is_fine_and_coarser_where_the_field_is_large(browser, tmp_path):
    cube = made_cube("2B", planes=80, field=3.2)
    fine = mx.explore(cube, html=tmp_path / "fine.html").stat().st_size
    most = fine / 1e6 - 0.025
    page = mx.explore(cube, html=tmp_path / "page.html", megabytes=most)
    assert page.stat().st_size < 1e6 * most
    assert browser.open(page) == "yes"
    quantum, told, foot, text, flux = browser.run(
        "return [mrsxr.cubes[0].quantum, document.querySelector('aside').textContent,"
        " document.querySelector('footer').textContent, mrsxr.regionText(), Array.from(mrsxr.spectra[0].main.flux)]"
    )
    assert pack.FINEST < quantum <= pack.COARSEST
    assert f"1/{round(1 / quantum)} of their errors" in told
    assert f"1/{round(1 / quantum)} of their errors" in foot
    true = mx.spectrum.extract_spectrum(cube, region=text)
    off = (np.array(flux, float) - true.flux.values) / np.sqrt(true["var"].values)
    assert np.sqrt(np.mean(off**2)) == pytest.approx(0.29 * quantum, rel=0.5)
    huge = mx.explore(cube, html=tmp_path / "huge.html", megabytes=0.3)
    assert f"1/{round(1 / pack.COARSEST)} of" in huge.read_text(encoding="utf-16")


TABS = """
const seen = [];
for (const element of document.querySelectorAll("a, button, input, select, summary, pre, [tabindex]")) {
  if (!element.checkVisibility() || element.tabIndex < 0) continue;
  element.focus();
  const name = element.ariaLabel || element.textContent.trim() || element.labels?.[0]?.textContent.trim();
  seen.push([document.activeElement === element, !!name]);
}
return seen;
"""


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1600, False)])
def test_page_fits_and_every_control_has_a_name(browser, tmp_path, width, dark):
    driver = browser.driver
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        assert browser.open(mx.explore([small("1A"), small("2A")], html=tmp_path / "page.html")) == "yes"
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
        found = browser.run(TABS)
        assert len(found) > 30
        assert all(focus and named for focus, named in found)
        ground, ink = browser.run("const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]")
        assert (sum(map(int, ground[4:-1].split(","))) < sum(map(int, ink[4:-1].split(",")))) is dark
        assert browser.complaints() == []
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_notebook_shows_the_page(browser, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = mx.explore(small("1A"), html=tmp_path / "look at.html")
    shown = page._repr_html_()
    assert "http" not in shown.split("srcdoc")[0]
    (tmp_path / "notebook.html").write_text(f"<!doctype html><meta charset=utf-8><body data-ready=yes>{shown}")
    assert browser.open(tmp_path / "notebook.html") == "yes"
    driver = browser.driver
    driver.switch_to.frame(driver.find_element("tag name", "iframe"))
    try:
        driver.set_script_timeout(30)
        names = driver.execute_async_script(
            "const done = arguments[0], wait = () => document.body.dataset.ready"
            " ? done(mrsxr.cubes.map(cube => cube.name)) : setTimeout(wait, 20); wait();"
        )
        assert names == ["1A"]
    finally:
        driver.switch_to.default_content()
    assert browser.requests() == []
    monkeypatch.setattr("mrsxr.explorer.page._IN_PLACE", 1000)
    assert 'src="look%20at.html"' in page._repr_html_()
    monkeypatch.chdir(tmp_path.parent)
    assert f'src="{tmp_path.name}/look%20at.html"' in page._repr_html_()
    (tmp_path / "deeper").mkdir()
    monkeypatch.chdir(tmp_path / "deeper")
    assert "iframe" not in page._repr_html_()
