"""A headless browser, and a page of small cubes open in it."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


class Page:
    """A page in a browser without a window; what it asked for and complained of is kept."""

    def __init__(self, driver):
        self.driver, self.seen = driver, []

    def open(self, path, wait: float = 60.0) -> str:
        """Open a file and wait until it is ready; return how that went."""
        return self.open_address(path.as_uri(), wait)

    def open_address(self, address: str, wait: float = 60.0) -> str:
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.driver.get(address)
        end = time.monotonic() + wait
        while time.monotonic() < end:
            state = self.run("return document.body.dataset.ready")
            if state:
                return state
            time.sleep(0.05)
        raise AssertionError(f"the page is not ready after {wait:.0f} s: {self.complaints()}")

    def run(self, script: str, *given):
        return self.driver.execute_script(script, *given)

    def settled(self, script: str, *given):
        """Run a script, and wait until what it asked for is drawn; return what it returns."""
        return self.driver.execute_async_script(
            f"const done = arguments[arguments.length - 1], out = (() => {{ {script} }}).apply(null, arguments);"
            "const wait = () => (mrsxr.dirty.size ? requestAnimationFrame(wait) : done(out));"
            "requestAnimationFrame(wait);",
            *given,
        )

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """Return what was asked for beside the page itself and what it holds."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("file:", "data:", "blob:"))]


@contextlib.contextmanager
def answering(server):
    """Answer in a thread as long as the block lasts."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="session")
def serving():
    return answering


def start_browser():
    """Return Chromium of the system, driven by selenium; the test is skipped where one of them is missing."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    binary, driver = next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip(
            f"no browser to open the page in: {' or '.join(BROWSERS)} and chromedriver are not both on the PATH"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1500,1300"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    made.set_script_timeout(60)
    return made


@pytest.fixture(scope="session")
def browser():
    driver = start_browser()
    yield Page(driver)
    driver.quit()
