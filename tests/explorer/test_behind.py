"""Which pixels made a spaxel: their weighted mean is the voxel, and they lie where it lies."""

from __future__ import annotations

import re

import numpy as np
import pytest

import mrsxr as mx
from mrsxr.errors import MrsxrError
from mrsxr.explorer import make_server
from mrsxr.explorer.cubes import find_cubes
from mrsxr.explorer.detector import Exposures
from mrsxr.geometry.place import Place
from mrsxr.geometry.sky import tangent_frame, tangent_offsets, with_sky


@pytest.fixture(scope="module")
def behind(reduced):
    return Exposures(reduced.out), find_cubes(reduced.out).cubes


@pytest.fixture(scope="module")
def served(reduced, serving):
    with serving(make_server(reduced.out)) as server:
        yield f"http://127.0.0.1:{server.server_port}/"


def voxels(cube, count, seed):
    good = np.argwhere(np.isfinite(cube["flux"].values) & (cube["dq"].values == 0))
    return [tuple(int(v) for v in row) for row in np.random.default_rng(seed).choice(good, count)]


@pytest.mark.parametrize("band", ["1A", "2A"])
def test_mean_of_the_pixels_is_the_voxel(behind, band):
    exposures, cubes = behind
    for plane, y, x in voxels(cubes[band], 3, 3):
        found = exposures.behind(cubes[band], x, y, plane)
        assert found["value"] == pytest.approx(found["mean"], rel=2e-5)
        assert sum(one["share"] for one in found["pixels"] if one["used"]) == pytest.approx(1.0)
        assert found["exposures"] == 2


def test_pixels_lie_where_the_spaxel_lies(behind):
    """Against the centres of all pixels on the sky, by plain numpy: those inside the voxel are found, no far ones."""
    exposures, cubes = behind
    cube = cubes["1A"]
    place, size = Place.of(cube), float(cube.attrs["pixel_scale"])
    step = float(np.diff(cube["wavelength"].values[:2])[0])
    names = [str(name) for name in cube.attrs["exposures"]]
    skies = {name: with_sky(mx.load(exposures.files[name]["crf"])) for name in names}
    for plane, y, x in voxels(cube, 2, 8):
        found = exposures.behind(cube, x, y, plane)["pixels"]
        sky = [float(v) for v in place.to_sky(x, y)]
        for name in names:
            ds = skies[name]
            near = [ds[key].values[0] for key in ("ra", "dec", "wavelength_barycentric")]
            west, north = tangent_offsets(*(np.nan_to_num(v, nan=-60.0) for v in near[:2]), tangent_frame(*sky))
            apart = np.hypot(west, north)
            waves = np.abs(near[2] - float(cube["wavelength"][plane]))
            ours = {(one["x"], one["y"]) for one in found if one["exposure"] == name}
            usable = (ds["slice"].values // 100 == 1) & (ds["x"].values < 512)
            inside = np.argwhere(usable & (apart < 0.5 * size) & (waves < 0.5 * step))
            assert {(int(i), int(j)) for j, i in inside} <= ours
            for i, j in ours:
                assert apart[j, i] < 0.5 * np.hypot(
                    0.18 + size, 0.2 + size
                )  # half a slice, half a pixel, half a spaxel
                assert waves[j, i] < 1.5 * step


def test_what_is_not_there_is_said(behind):
    exposures, cubes = behind
    with pytest.raises(MrsxrError, match="no voxel"):
        exposures.behind(cubes["1A"], 400, 2, 0)
    with pytest.raises(MrsxrError, match="no cal or crf"):
        Exposures(None).behind(cubes["1A"], 5, 5, 5)
    corner = exposures.behind(cubes["1A"], 0, 0, 3)
    assert corner["pixels"] == []
    assert corner["mean"] is None


CLICK = """
const {figure} = mrsxr.sky, box = figure.sheet.getBoundingClientRect(), [u, v] = mrsxr.cube.grid.toPlane(...arguments);
const [x, y] = figure.toPx(u, v), where = {clientX: box.x + x, clientY: box.y + y, button: 0, bubbles: true};
const target = document.elementFromPoint(where.clientX, where.clientY);
target.dispatchEvent(new PointerEvent("pointerdown", where));
window.dispatchEvent(new PointerEvent("pointerup", where));
"""
TOLD = """
const done = arguments[1], wait = () => {
  const text = document.getElementById("told-behind").textContent;
  return text.includes(arguments[0]) && !mrsxr.asker.busy ? done(text) : setTimeout(wait, 30);
};
wait();
"""


@pytest.mark.browser
def test_click_on_a_spaxel_leads_to_ramps(browser, served):
    assert browser.open_address(served) == "yes"
    driver, before = browser.driver, browser.run("return mrsxr.regions.main")
    driver.find_element("id", "tool-pan").send_keys("\ue014")  # to the right: the tool after it, by keyboard alone
    text = driver.execute_async_script(TOLD, "Spaxel")
    assert browser.run("return mrsxr.tool") == "pixels"
    x, y = (int(v) for v in text.split("(")[1].split(")")[0].split(","))
    driver.find_element("css selector", ".spaxel").send_keys("\ue012")  # to the left
    assert "weighted mean" in driver.execute_async_script(TOLD, f"({x - 1}, {y})")
    browser.settled(CLICK, x + 1, y - 2)  # over the region, which lets it through
    driver.execute_async_script(TOLD, f"({x + 1}, {y - 2})")
    after = browser.run("return mrsxr.regions.main")
    assert after == before
    button = driver.find_element("css selector", "#behind button")
    browser.run("arguments[0].focus()", button)
    button.send_keys("\ue007")
    column, row, name = re.match(r"Ramp of pixel x (\d+), y (\d+) of (.+)", button.get_attribute("aria-label")).groups()
    told = driver.execute_async_script(
        "const done = arguments[0], wait = () => mrsxr.detector.place"
        " ? done([mrsxr.detector.place, mrsxr.detector.exposure[0],"
        "  document.querySelectorAll('#ramp .sample, #ramp .flagged').length,"
        "  document.querySelectorAll('#frame .made').length]) : setTimeout(wait, 30); wait();"
    )
    assert [str(v) for v in told[0]] == [column, row]
    assert told[1] == name
    assert told[2] > 3
    assert told[3] > 0
    assert browser.complaints() == []


@pytest.mark.browser
def test_a_pixel_and_its_ramp(browser, behind, served):
    exposures, _ = behind
    name = exposures.names()[0]["name"]
    cal = mx.load(exposures.files[name]["crf"])
    y, x = (int(v[0]) for v in np.nonzero((cal["slice"].values == 105) & np.isfinite(cal.flux.values[0])))
    found = exposures.pixel(name, x, y)
    facts = dict(found["facts"])
    assert facts["slice"] == "5 of channel 1"
    assert facts["crf"].startswith(f"{float(cal.flux[0, y, x]):.5g}")
    sky = mx.geometry.sky.with_sky(cal)
    assert facts["RA, Dec"] == f"{float(sky.ra[0, y, x]):.6f}, {float(sky.dec[0, y, x]):.6f}"
    raw = mx.load(exposures.files[name]["uncal"])
    assert found["ramp"]["counts"] == raw.sci.values[0, :, :, y, x].tolist()
    for product, values in (("crf", cal.flux), ("rate", mx.load(exposures.files[name]["rate"]).rate)):
        frame = exposures.frame(name, product)
        low, high = np.nanpercentile(values.values, (1.0, 99.5))
        assert (frame["nx"], frame["low"], frame["high"]) == (1032, pytest.approx(low), pytest.approx(high))
        assert frame["unit"] == values.attrs["units"]
    assert browser.open_address(served) == "yes"
    told = browser.driver.execute_async_script(
        "const done = arguments[2]; document.getElementById('detector').open = true;"
        "const wait = () => mrsxr.detector.image ? mrsxr.detector.take(arguments[0], arguments[1]).then(() => done("
        "  [document.getElementById('pixel').textContent, document.querySelectorAll('#ramp .sample').length]))"
        "  : setTimeout(wait, 50); wait();",
        x, y,
    )  # fmt: skip
    assert "5 of channel 1" in told[0]
    assert_on_sky(browser, float(sky.ra[0, y, x]), float(sky.dec[0, y, x]))
    assert told[1] == raw.sizes["group"] * raw.sizes["integration"]
    assert browser.complaints() == []


def assert_on_sky(browser, ra, dec):
    """The cross of the pixel stands at its place on the sky."""
    box, place = browser.run(
        "const {x, y, width, height} = mrsxr.sky.layer.querySelector('.cross').getBBox(), {figure} = mrsxr.sky;"
        "return [[x + width / 2, y + height / 2], [figure.x.start, figure.x.end, figure.width, figure.y.end,"
        " figure.y.start, figure.height, ...mrsxr.facts.cubes[0].crval]]"
    )
    x0, x1, width, y1, y0, height, ra0, dec0 = place
    west, north = tangent_offsets(ra, dec, tangent_frame(ra0, dec0))
    np.testing.assert_allclose(box, [(west - x0) / (x1 - x0) * width, (y1 - north) / (y1 - y0) * height], atol=0.05)
