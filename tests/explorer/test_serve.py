"""The explorer that is served: the page asks, the package answers; nobody else is answered."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import numpy as np
import pytest
from field import Z, made_cube

import mrsxr as mx
from mrsxr.explorer import make_server
from mrsxr.notes import listen

pytestmark = pytest.mark.browser
LINE = "[S III] 18.71"
REGION = {"kind": "ellipse", "u": 0.3, "v": -0.2, "a": 1.1, "b": 0.7, "angle": 0.5}
READY = """
const done = arguments[0];
const wait = () => {
  const seen = mrsxr.cubes.every(cube => cube.spectrum) && !mrsxr.asker.busy && !mrsxr.dirty.size;
  return seen ? done(null) : setTimeout(wait, 20);
};
setTimeout(wait, 50);
"""


@pytest.fixture(scope="module")
def cubes():
    line = made_cube("4A", field=4.6)
    line = line.isel(wavelength=np.abs(line.wavelength - 18.713 * (1 + Z)) < 0.35)
    return {"2B": made_cube("2B", planes=30, field=3.6), "4A": line}


@pytest.fixture(scope="module")
def server(cubes, tmp_path_factory, serving):
    folder = tmp_path_factory.mktemp("served")
    for cube in cubes.values():
        mx.save(cube, folder)
    with serving(make_server(folder, redshift=Z)) as made:
        yield made


def ask(server, what, question, **headers):
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.server_port}/{what}", json.dumps(question).encode(),
        {"Content-Type": "application/json", **headers},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_page_that_is_served(browser, server, cubes):
    assert browser.open_address(f"http://127.0.0.1:{server.server_port}/") == "yes"
    browser.settled("mrsxr.setRegion(arguments[0])", REGION)
    browser.driver.execute_async_script(READY)
    text, flux, image = browser.run(
        "const cube = mrsxr.cubes[1];"
        "return [mrsxr.regionText(), Array.from(cube.spectrum.main.flux), Array.from(cube.image)]"
    )
    with listen(pass_on=True):
        true = mx.spectrum.extract_spectrum(cubes["4A"], region=text)
    np.testing.assert_allclose(flux, true.flux, rtol=1e-6)
    mean = cubes["4A"].flux.mean("wavelength").values
    np.testing.assert_allclose(np.reshape(np.array(image, float), mean.shape), mean, rtol=1e-5)
    browser.settled("mrsxr.panels.toLine(arguments[0])", LINE)
    found = browser.driver.execute_async_script(
        "const done = arguments[0]; mrsxr.fitNow().then(() => done({...mrsxr.fit, cube: null}))"
    )
    fit = mx.lines.fit_line(true, LINE, redshift=Z)
    assert found["flux"] == pytest.approx(float(fit.flux[0]), rel=1e-6)
    assert len(found["model"]) == len(found["wave"]) > 30
    name = browser.driver.execute_async_script(
        "const done = arguments[0]; mrsxr.mapNow().then(() => done(mrsxr.cube.name))"
    )
    assert name == f"{LINE} flux"
    assert browser.complaints() == []
    assert all(url.startswith("http://127.0.0.1") for url in browser.requests())


def test_what_cannot_be_answered_is_said(server):
    for what, question, headers, status, told in (
        ("spectrum", {"cube": "9Z", "region": "icrs; circle(1,2,3\")"}, {}, 400, "there is no cube '9Z'"),
        ("spectrum", {"cube": "2B"}, {}, 400, "region"),
        ("secret", {}, {}, 404, "no such"),
        ("image", {}, {"Content-Type": "text/plain"}, 404, "no such"),
        ("image", {}, {"Host": "evil.example:80"}, 403, "this machine alone"),
    ):  # fmt: skip
        with pytest.raises(urllib.error.HTTPError) as error:
            ask(server, what, question, **headers)
        assert error.value.code == status
        assert told in error.value.read().decode()
    assert ask(server, "spectrum", {"cube": "2B", "region": 'icrs; circle(150.12,-2.21,1")'}) is None
