"""The page that holds cubes, in a browser: its numbers are those of the package, and it works by hand and keyboard."""

from __future__ import annotations

import json

import numpy as np
import pytest
from field import Z, made_cube

import mrsxr as mx
from mrsxr.errors import MrsxrError
from mrsxr.explorer.cubes import find_cubes
from mrsxr.notes import listen

pytestmark = pytest.mark.browser
LINE = "[S III] 18.71"
CENTRE = {"u": 0.31, "v": -0.22}
REGIONS = {
    "circle": {"kind": "circle", **CENTRE, "a": 1.13, "b": 1.13, "angle": 0},
    "small": {"kind": "circle", **CENTRE, "a": 0.09, "b": 0.09, "angle": 0},
    "ellipse": {"kind": "ellipse", **CENTRE, "a": 1.4, "b": 0.53, "angle": 0.7},
    "box": {"kind": "box", **CENTRE, "a": 0.9, "b": 0.4, "angle": -0.4},
    "polygon": {"kind": "polygon", "points": [[-0.9, -0.7], [1.1, -0.4], [0.2, 0.1], [0.5, 1.2], [-0.6, 0.8]]},
    "annulus": {"kind": "annulus", **CENTRE, "a": 1.5, "b": 1.5, "inner": 0.8, "angle": 0},
    "off": {"kind": "circle", "u": 1.6, "v": 0.4, "a": 1.2, "b": 1.2, "angle": 0},
}


@pytest.fixture(scope="module")
def cubes():
    made = {band: made_cube(band, planes=40, field=3.6) for band in ("1A", "2B", "3C")}
    made["3C"] = made_cube("3C", planes=40, field=3.6, holes=0.1)
    line = made_cube("4A", field=4.6)
    near = np.abs(line.wavelength - 18.713 * (1 + Z)) < 0.35
    return made | {"4A": line.isel(wavelength=near)}


@pytest.fixture(scope="module")
def page(browser, cubes, tmp_path_factory):
    path = mx.explore(list(cubes.values()), html=tmp_path_factory.mktemp("explore") / "page.html")
    assert browser.open(path) == "yes"
    return browser


def extracted(cube, text):
    with listen(pass_on=True):  # what is lost at the border is told, here and in the page
        return mx.spectrum.extract_spectrum(cube, region=text)


def measured(page, region):
    page.settled("mrsxr.setRegion(arguments[0], 'main')", region)
    return page.run(
        "const of = ({flux, error}) => ({flux: Array.from(flux), error: Array.from(error)});"
        "const bands = mrsxr.spectra.map(({cube, main}) => [cube.name, of(main)]);"
        "return {text: mrsxr.regionText(), bands: Object.fromEntries(bands)}"
    )


@pytest.mark.parametrize("name", REGIONS)
def test_spectrum_of_a_region_is_that_of_the_package(page, cubes, name):
    found = measured(page, REGIONS[name])
    for band, numbers in found["bands"].items():
        true = extracted(cubes[band], found["text"])
        flux, error = (np.array(numbers[key], float) for key in ("flux", "error"))
        sigma = np.sqrt(true["var"].values)
        np.testing.assert_array_equal(np.isfinite(flux), np.isfinite(true.flux.values), err_msg=band)
        off = np.abs(flux - true.flux.values) / sigma
        assert np.nanmax(off) < 1e-3, band
        np.testing.assert_allclose(flux, true.flux.values, rtol=1e-3)
        np.testing.assert_allclose(error, sigma, rtol=0.06)


def test_background_comes_off(page, cubes):
    measured(page, REGIONS["circle"])
    page.settled("mrsxr.setRegion(arguments[0], 'ring')", REGIONS["annulus"])
    texts, flux = page.settled(
        "const cube = mrsxr.cubes.find(one => one.name === '2B');"
        "return [['main', 'ring'].map(name => mrsxr.regionText(name)), Array.from(cube.spectrum.main.flux)]"
    )
    source, ring = (extracted(cubes["2B"], text) for text in texts)
    expected = source.flux - ring.surface_brightness * source.n_pixels * 1e6 * source.attrs["pixel_area_sr"]
    np.testing.assert_allclose(flux, expected, rtol=2e-3, atol=2e-3 * float(np.sqrt(source["var"]).median()))
    page.settled("mrsxr.setRegion(arguments[0], 'second')", REGIONS["box"])
    page.settled("mrsxr.setRegion(null, 'ring'); mrsxr.setRegion(null, 'second')")
    assert page.run("return mrsxr.spectra.every(one => one.second === null)")


@pytest.mark.parametrize("components", [1, 2])
def test_fit_is_that_of_the_package(page, cubes, components):
    text = measured(page, REGIONS["circle"])["text"]
    fit = page.settled(
        "mrsxr.panels.toLine(arguments[0]); mrsxr.components = arguments[1];"
        "const {flux, flux_err, parts, line} = mrsxr.fitNow(); return {flux, flux_err, parts, label: line.label}",
        LINE, components,
    )  # fmt: skip
    true = mx.lines.fit_line(extracted(cubes["4A"], text), LINE, redshift=Z, components=components)
    error = float(true.flux_err[0])
    assert fit["label"] == LINE
    assert abs(fit["flux"] - float(true.flux[0])) < 0.2 * error
    assert fit["flux_err"] == pytest.approx(error, rel=0.05)
    if components == 1:
        part = fit["parts"][0]
        assert abs(part["velocity"] - float(true.velocity[0])) < 0.2 * float(true.velocity_err[0])
        assert abs(part["dispersion"] - float(true.dispersion[0])) < 0.2 * float(true.dispersion_err[0])
    assert "km/s" in page.run("return document.getElementById('fitted').textContent")


@pytest.mark.parametrize(("rest", "components"), [(18.60, 1), (18.78, 1), (18.86, 2), (18.69, 2)])
def test_fit_of_noise_and_of_wings_is_that_of_the_package(page, cubes, rest, components):
    """No line there, or not at its place: several minima, of which both take the same."""
    text = measured(page, REGIONS["ellipse"])["text"]
    fit = page.settled(
        "mrsxr.setWindow(arguments[0] - 1e-3, arguments[0] + 1e-3); mrsxr.components = arguments[1];"
        "const line = {label: '', mu0: arguments[0], wave: arguments[0] / (1 + mrsxr.z), window: 2500};"
        "line.instrument = mrsxr.instrument(line.mu0);"
        "mrsxr.line = () => line; const {flux, flux_err, parts} = mrsxr.fitNow(); delete mrsxr.line;"
        "return {flux, flux_err, parts}",
        rest * (1 + Z), components,
    )  # fmt: skip
    with listen(pass_on=True):
        true = mx.lines.fit_line(extracted(cubes["4A"], text), rest, redshift=Z, components=components)
    assert abs(fit["flux"] - float(true.flux[0])) < 0.2 * float(true.flux_err[0])
    assert fit["flux_err"] == pytest.approx(float(true.flux_err[0]), rel=0.06)
    for number, part in enumerate(fit["parts"]):
        one = true.isel(line=0, component=number)
        for name in ("velocity", "width"):
            error = float(one[f"component_{name}_err"])
            if np.isfinite(error):
                assert abs(part[name] - float(one[f"component_{name}"])) < 0.2 * error
                assert part[f"{name}_err"] == pytest.approx(error, rel=0.1) or error > 1e3


def test_window_makes_the_image(page, cubes):
    cube = cubes["4A"]
    low, high = 18.92, 18.96
    page.settled("mrsxr.setWindow(arguments[0], arguments[1]); mrsxr.setMode('line')", low, high)
    name, image, sides = page.settled("return [mrsxr.cube.name, Array.from(mrsxr.cube.image), mrsxr.sides]")
    assert name == "4A"
    mean, left, right = (cube.flux.sel(wavelength=slice(*part)) for part in ((low, high), *sides))
    middles = [float(part.wavelength[[0, -1]].mean()) for part in (left, right, mean)]
    levels = [part.mean("wavelength").values for part in (left, right)]
    share = (middles[2] - middles[0]) / (middles[1] - middles[0])
    expected = mean.mean("wavelength").values - levels[0] - (levels[1] - levels[0]) * share
    np.testing.assert_allclose(np.reshape(np.array(image, float), expected.shape), expected, atol=2e-3)
    page.settled("mrsxr.setMode('all')")


KEYS = """
const shape = document.querySelector(".shape.main"), rest = document.querySelector(".window");
const press = (key, target) => target.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
shape.focus();
for (const key of ["ArrowRight", "ArrowUp", "+"]) press(key, shape);
press("ArrowRight", rest);
return {...mrsxr.regions.main, window: mrsxr.window, focus: document.activeElement === shape};
"""
PULL = """
const path = document.querySelector(".shape.main path"), box = path.getBoundingClientRect();
const fire = (target, type, dx) => target.dispatchEvent(new PointerEvent(type, {
  clientX: box.x + box.width / 2 + dx, clientY: box.y + box.height / 2, button: 0, bubbles: true}));
fire(path, "pointerdown", 0);
for (const dx of [-20, -30]) fire(window, "pointermove", dx);
fire(window, "pointerup", -30);
fire(window, "pointermove", -90);
const {figure} = mrsxr.sky;
return {u: mrsxr.regions.main.u, per: figure.width / (figure.x.end - figure.x.start)};
"""


def test_keys_and_pointer_move_what_they_should(page):
    measured(page, REGIONS["circle"])
    before = page.run("return {...mrsxr.regions.main, window: mrsxr.window}")
    after = page.settled(KEYS)
    assert after["focus"]
    assert after["u"] > before["u"]
    assert after["v"] > before["v"]
    assert after["a"] == pytest.approx(1.1 * before["a"])
    assert after["window"][0] > before["window"][0]
    pulled = page.settled(PULL)
    assert pulled["u"] == pytest.approx(after["u"] - 30 / pulled["per"], abs=1e-6)


def test_code_of_the_screen_runs(page, cubes, tmp_path, monkeypatch):
    measured(page, REGIONS["ellipse"])
    page.settled(
        "mrsxr.setRegion(arguments[0], 'ring'); mrsxr.panels.toLine(arguments[1]); mrsxr.setMode('line')",
        REGIONS["annulus"],
        LINE,
    )
    code = page.settled("return mrsxr.panels.rest(), document.getElementById('code').textContent")
    mx.save(cubes["4A"], tmp_path / "cube_s3d.fits")
    monkeypatch.chdir(tmp_path)
    made: dict = {}
    exec(code, made)
    flux = page.run("return Array.from(mrsxr.windowCube().spectrum.main.flux)")
    np.testing.assert_allclose(made["spectrum"].flux, flux, rtol=5e-3)
    assert made["fit"].line.values[0] == LINE
    page.settled("mrsxr.setRegion(null, 'ring'); mrsxr.setMode('all')")


def test_what_is_saved_can_be_read(page, tmp_path):
    from astropy.table import Table

    measured(page, REGIONS["box"])
    for kind in ("csv", "ecsv"):
        text = page.run("return mrsxr.table(arguments[0])", kind)
        (tmp_path / f"s.{kind}").write_text(text)
        table = Table.read(tmp_path / f"s.{kind}", format=f"ascii.{kind}")
        assert len(table) == page.run("return mrsxr.cubes.reduce((n, c) => n + c.planes, 0)")
        assert np.isfinite(table["flux"]).any()
    assert str(table["flux"].unit) == "Jy"
    assert "box(" in table.meta["region"]
    for name in ("sky", "view"):
        picture = page.driver.execute_async_script(
            f"const done = arguments[0];mrsxr.png(mrsxr.picture(mrsxr.{name})).then(blob => done(blob.size))"
        )
        assert picture > 5000


def test_page_asks_for_nothing_and_complains_of_nothing(page):
    assert page.requests() == []
    assert page.complaints() == []
    assert page.run("return document.querySelector('h1').textContent") == "NGC 0 <b>"
    assert page.run("return document.querySelector('h1 b')") is None


def test_what_cannot_be_shown_is_told(browser, cubes, tmp_path):
    lost = cubes["1A"].drop_vars(["ra", "dec"])
    del lost.attrs["wcs"]
    given = {"no place": lost, "one plane": cubes["1A"].isel(wavelength=[3]), "<i>": cubes["1A"].flux}
    given["alone"] = cubes["2B"].drop_vars(["var", "weight", "dq"])
    assert browser.open(mx.explore(given, html=tmp_path / "page.html")) == "yes"
    told = browser.run("return document.querySelector('.problems').textContent")
    assert all(name in told for name in ("no place", "one plane", "<i>"))
    assert browser.run("return mrsxr.cubes.map(c => c.name)") == ["2B"]
    flux, error = browser.settled("const s = mrsxr.spectra[0].main; return [Array.from(s.flux), Array.from(s.error)]")
    assert np.isfinite(np.array(flux, float)).all()
    assert not np.isfinite(np.array(error, float)).any()
    assert browser.open(mx.explore({"no place": lost}, html=tmp_path / "none.html")) == "yes"
    assert "no cube to show" in browser.run("return document.getElementById('told').textContent")
    assert browser.complaints() == []


def test_maps_and_spectra_are_shown(browser, cubes, tmp_path):
    cube = cubes["4A"].isel(y=slice(3, 9), x=slice(3, 9))
    maps = mx.lines.fit_line(cube, LINE, redshift=Z).compute()
    spectrum = extracted(cubes["4A"], 'icrs; circle(150.1163,-2.2051,1")')
    assert browser.open(mx.explore(cubes["4A"], spectrum, maps, html=tmp_path / "page.html")) == "yes"
    name, image, place = browser.settled(
        "const map = mrsxr.maps[1]; mrsxr.choose(map);return [map.name, Array.from(map.image), map.grid.toPlane(2, 3)]"
    )
    assert name == f"{LINE} velocity"
    true = maps.velocity.where(maps.snr >= 3).values[0]
    np.testing.assert_allclose(np.reshape(np.array(image, float), true.shape), true, rtol=1e-4)
    west = (150.1163 - float(maps.ra[3, 2])) * np.cos(np.radians(2.2051)) * 3600
    np.testing.assert_allclose(place, [west, (float(maps.dec[3, 2]) + 2.2051) * 3600], atol=1e-4)
    assert name in browser.run("return document.getElementById('told-image').textContent")
    assert browser.run("return mrsxr.view.curves.some(one => one.colour === '#808080' && one.x.length > 50)")
    with pytest.raises(MrsxrError, match="for a cube"):
        mx.explore(cubes["4A"], maps=spectrum, html=tmp_path / "no.html")
    assert browser.complaints() == []


def test_side_windows_stay_where_the_window_goes(page):
    page.settled("mrsxr.panels.toLine(arguments[0]); mrsxr.setMode('line')", LINE)
    before = page.run("return [mrsxr.sides, mrsxr.window]")
    sides, window, label = page.settled(
        "const [a] = mrsxr.window; mrsxr.setWindow(a + 0.01, a + 0.016);"
        "return [mrsxr.sides, mrsxr.window, mrsxr.line().label]"
    )
    assert (sides, label) == (before[0], LINE)
    assert window != before[1]
    assert sides[0][1] < before[1][0] < before[1][1] < sides[1][0]
    page.settled("mrsxr.setMode('all')")


@pytest.mark.shared
def test_real_cubes_rotation_and_fits(browser, shared_data, tmp_path):
    """NGC 7469: the wings of [S III] lie on opposite sides; sums and fits are those of the package."""
    z = 0.0163
    file = shared_data / "s3d_ngc7469" / "NGC7469_ch4-short_s3d.fits.gz"
    assert browser.open(mx.explore(file, html=tmp_path / "page.html", redshift=z)) == "yes"
    browser.settled("mrsxr.panels.toLine(arguments[0]); mrsxr.setMode('line')", LINE)
    centres = []
    for low, high in ((19.003, 19.012), (19.024, 19.033)):
        browser.settled("mrsxr.setWindow(arguments[0], arguments[1])", low, high)
        centres.append(browser.run(
            "const {image, nx, grid} = mrsxr.cube, top = Math.max(...image.filter(Number.isFinite)), sum = [0, 0, 0];"
            "image.forEach((value, s) => { if (value > 0.3 * top) {"
            "  const [u, v] = grid.toPlane(s % nx, Math.floor(s / nx));"
            "  sum[0] += value * u; sum[1] += value * v; sum[2] += value; } });"
            "return [sum[0] / sum[2], sum[1] / sum[2]]"
        ))  # fmt: skip
    blue, red = centres
    assert red[0] - blue[0] > 0.5  # arcsec to the west
    assert red[1] - blue[1] > 0.5  # and to the north
    found = measured(browser, {"kind": "box", "u": 0.2, "v": 1.5, "a": 1.5, "b": 0.6, "angle": 0.3})
    true = extracted(mx.load(file).compute(), found["text"])
    off = np.abs(np.array(found["bands"]["4A"]["flux"], float) - true.flux.values) / np.sqrt(true["var"].values)
    assert np.nanmax(off) < 1e-3
    for line, components in ((LINE, 1), (LINE, 2), ("[Fe II] 17.94", 1), ("[Fe II] 17.94", 2)):
        fit = browser.settled(
            "mrsxr.panels.toLine(arguments[0]); mrsxr.components = arguments[1];"
            "const {flux, flux_err} = mrsxr.fitNow(); return [flux, flux_err]",
            line, components,
        )  # fmt: skip
        with listen(pass_on=True):
            expected = mx.lines.fit_line(true, line, redshift=z, components=components)
        assert abs(fit[0] - float(expected.flux[0])) < 0.2 * float(expected.flux_err[0]), (line, components)
        assert fit[1] == pytest.approx(float(expected.flux_err[0]), rel=0.05)
    assert browser.complaints() == []


def test_folders_and_files(cubes, tmp_path):
    mx.save(cubes["4A"], tmp_path / "reduced")
    mx.save(cubes["2B"], tmp_path / "reduced")
    found = find_cubes(tmp_path / "reduced")
    assert list(found.cubes) == ["2B", "4A"]
    assert not found.problems
    (tmp_path / "empty").mkdir()
    with pytest.raises(MrsxrError, match="empty"):
        find_cubes(tmp_path / "empty")
    (tmp_path / "reduced" / "broken_s3d.fits").write_bytes(b"SIMPLE  =")
    assert list(find_cubes(tmp_path / "reduced").cubes) == ["2B", "4A"]
    (problem,) = find_cubes(tmp_path / "reduced" / "broken_s3d.fits").problems
    assert problem.startswith("broken_s3d.fits: ")
    assert str(tmp_path) not in problem


def test_facts_hold_no_markup(cubes):
    from mrsxr.explorer.page import _json

    assert "</" not in _json({"file": "</script><b>&"})
    assert json.loads(_json({"file": "</script>&"}))["file"] == "</script>&"


def test_command_writes_the_page(cubes, tmp_path):
    from click.testing import CliRunner

    from mrsxr.cli import main

    mx.save(cubes["2B"], tmp_path)
    done = CliRunner().invoke(main, ["explore", str(tmp_path), "--redshift", "0.02", "--megabytes", "50"])
    assert done.exit_code == 0, done.output
    assert '"redshift":0.02' in (tmp_path / "explore.html").read_text(encoding="utf-16")


def test_report_links_the_page_beside_it(cubes, tmp_path):
    from mrsxr.report import write_report

    mx.save(cubes["2B"], tmp_path)
    link = '<a href="explore.html">'
    assert link not in write_report(tmp_path).read_text(encoding="utf-8")
    (tmp_path / "explore.html").write_text("a page")
    assert link in write_report(tmp_path).read_text(encoding="utf-8")
