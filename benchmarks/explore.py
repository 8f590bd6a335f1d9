"""The page of `mrsxr explore` on twelve full bands: its size, the first picture, how fast a region is dragged.

    python benchmarks/explore.py [--planes N] [--keep FOLDER]
    python benchmarks/explore.py --serve REDUCED

Makes twelve cubes of a galaxy (tests/explorer/field.py) of the size that four dithers give, writes the page, opens it
in the system's Chromium (selenium, chromedriver), drags the region by pointer events and prints what it measured. The
work is that of the page's main thread, so that a busy machine counts less. The second form serves a folder of `mrsxr
run` and looks at all: spectra of all cubes, the pixels behind a spaxel of each, a map, all frames; it prints what
the memory of the server came to.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _memory import memory_gb

import mrsxr as mx
from mrsxr.notes import listen

sys.path.append(str(Path(__file__).parents[1] / "tests" / "explorer"))
from conftest import Page, start_browser
from field import twelve

DRAG = """
const done = arguments[arguments.length - 1], path = document.querySelector(".shape.main path"), n = arguments[0];
const box = path.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2, first = mrsxr.updates;
const fire = (target, type, k) => target.dispatchEvent(new PointerEvent(type, {
  clientX: x + 40 * Math.sin(k / 15), clientY: y + 40 * (1 - Math.cos(k / 15)), button: 0, bubbles: true}));
fire(path, "pointerdown", 0);
const start = performance.now();
let k = 0;
const step = () => {
  if (k++ < n) { fire(window, "pointermove", k); return requestAnimationFrame(step); }
  fire(window, "pointerup", k);
  done([mrsxr.updates - first, (performance.now() - start) / 1000]);
};
requestAnimationFrame(step);
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planes", type=int, help="Planes of a band, about its middle; by default all.")
    parser.add_argument("--keep", type=Path, help="Folder for the page.")
    parser.add_argument("--serve", type=Path, help="Folder of products to serve, for the memory of the server.")
    given = parser.parse_args()
    if given.serve:
        return serve(given.serve)
    with tempfile.TemporaryDirectory() as folder:
        measure(twelve(planes=given.planes), (given.keep or Path(folder)) / "explore.html")


def measure(cubes, path: Path) -> None:
    start = time.perf_counter()
    mx.explore(list(cubes.values()), html=path)
    voxels = sum(int(np.isfinite(cube.flux.values).sum()) for cube in cubes.values()) / 1e6
    size = path.stat().st_size / 1e6
    print(f"written in {time.perf_counter() - start:.1f} s: {size:.1f} MB, {voxels:.1f} million voxels with data")
    driver = start_browser()
    page = Page(driver)
    try:
        state = page.open(path)
        print(f"ready: {state}, first picture after {page.run('return mrsxr.firstPicture') / 1e3:.2f} s")
        time.sleep(2.0)
        driver.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
        for radius in (0.5, 1.0, 2.0):
            place = {"kind": "circle", "u": 0.0, "v": 0.0, "a": radius, "b": radius, "angle": 0.0}
            page.settled("mrsxr.setRegion(arguments[0])", place)
            before = busy(driver)
            updates, seconds = driver.execute_async_script(DRAG, 120)
            spent = 1e3 * (busy(driver) - before) / updates
            print(f"radius {radius} arcsec: {updates / seconds:.0f} updates a second, {spent:.1f} ms of work each")
            text = page.run("return mrsxr.regionText()")
            off = 1e3 * np.concatenate([distance(page, cube, text) for cube in cubes.values()])
            print(f"  off extract_spectrum by {np.sqrt(np.mean(off**2)):.2f} (rms), {off.max():.2f} (most) 1e-3 errors")
        print("requests:", page.requests(), "complaints:", page.complaints())
    finally:
        driver.quit()


SETTLED = """
const done = arguments[0], wait = () => mrsxr.cubes.every(cube => cube.spectrum) && !mrsxr.asker.busy
  && !mrsxr.dirty.size ? done(null) : setTimeout(wait, 50);
setTimeout(wait, 200);
"""
FRAMES = """
const done = arguments[0], list = document.getElementById("exposure"), all = [...list.options];
(async () => { for (const one of all) { list.value = one.value; await mrsxr.detector.load(); } done(all.length); })();
"""


def serve(folder: Path) -> None:
    """Serve a folder, look at all that it holds, and print the largest memory of the server."""
    start, port = time.perf_counter(), 8765
    command = [sys.executable, "-c", "from mrsxr.cli import main; main()", "explore", str(folder), "--serve"]
    server = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.PIPE, text=True)
    driver = start_browser()
    driver.set_script_timeout(600)

    def told(what: str) -> None:
        print(f"{what}: after {time.perf_counter() - start:.0f} s, at most {memory_gb(server.pid):.2f} GB")

    try:
        print(server.stdout.readline().strip() if server.stdout else "")
        page = Page(driver)
        page.open_address(f"http://127.0.0.1:{port}/", wait=300.0)
        driver.execute_async_script(SETTLED)
        numbers = page.run("return [mrsxr.cubes, mrsxr.facts.exposures].map(all => all.length)")
        told("spectra of {} cubes, of {} exposures".format(*numbers))
        page.settled("document.getElementById('tool-pixels').click()")
        for number in range(page.run("return mrsxr.cubes.length")):
            page.settled("mrsxr.choose(mrsxr.cubes[arguments[0]])", number)
            driver.execute_async_script(SETTLED)
        told("pixels behind a spaxel of each cube")
        driver.execute_async_script("mrsxr.mapNow().then(arguments[0])")
        told("a map")
        told(f"{driver.execute_async_script(FRAMES)} frames")
        print("complaints:", page.complaints())
    finally:
        driver.quit()
        server.terminate()


def distance(page, cube, text: str) -> np.ndarray:
    """Return how far the spectrum of the page is from that of the package, in errors."""
    with listen(pass_on=True):
        true = mx.spectrum.extract_spectrum(cube, region=text)
    script = "return Array.from(mrsxr.cubes.find(cube => cube.name === arguments[0]).spectrum.main.flux)"
    found = page.run(script, cube.attrs["band"])
    off = np.abs(np.array(found, float) - true.flux.values) / np.sqrt(true["var"].values)
    return off[np.isfinite(off)]


def busy(driver) -> float:
    """Return the seconds that the main thread of the page has worked."""
    found = driver.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
    return next(one["value"] for one in found if one["name"] == "TaskDuration")


if __name__ == "__main__":
    main()
