"""The page in a real browser without a window: pictures load, nothing sticks out, nothing is complained of."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest

from mrsxr.report import write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# The page in two frames, one as wide as a phone; what they hold is written where --dump-dom finds it.
LOOK = """<!doctype html><title>look</title><pre id="found"></pre>
<iframe id="wide" src="report.html" style="width:1280px;height:900px;border:0"></iframe>
<iframe id="phone" src="report.html" style="width:400px;height:900px;border:0"></iframe>
<script>
function look(name) {
  const page = document.getElementById(name).contentDocument, root = page.documentElement;
  const tables = [...page.querySelectorAll("table")];
  const inner = [...page.querySelectorAll("body *")].filter(e => !e.closest(".scroll") && !e.closest(".skip"));
  return {
    images: page.images.length, broken: [...page.images].filter(i => !i.complete || !i.naturalWidth).length,
    shown: [...page.images].filter(i => i.getBoundingClientRect().width > 100).length,
    tables: tables.length,
    empty: tables.filter(t => ![...t.querySelectorAll("tbody td")].some(c => c.textContent)).length,
    scroll: root.scrollWidth, client: root.clientWidth,
    out: inner.filter(e => e.getBoundingClientRect().right > root.clientWidth + 1)
      .map(e => e.tagName + "." + e.className),
    small: [...page.querySelectorAll("p, td, th, li, a, summary")]
      .filter(e => parseFloat(getComputedStyle(e).fontSize) < 12).length,
    title: page.title,
  };
}
window.onload = () => {
  document.getElementById("found").textContent = JSON.stringify({wide: look("wide"), phone: look("phone")});
};
</script>"""


@pytest.fixture(scope="module")
def browser():
    found = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if found is None:
        pytest.skip(f"no browser to open the page in; none of {', '.join(BROWSERS)} is on the PATH")
    return found


def see(browser, folder):
    """Return what the two frames hold, and what the browser complained of."""
    (folder / "look.html").write_text(LOOK, encoding="utf-8")
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
            "--disable-dev-shm-usage", "--allow-file-access-from-files", "--enable-logging=stderr", "--v=0",
            "--window-size=1800,1000", f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000",
            "--dump-dom", f"file://{folder / 'look.html'}",
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert found, done.stderr[-2000:]
    assert found.group(1), f"the browser gave no page: {done.stderr[-2000:]}"
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found.group(1))), console


def test_page_in_a_browser(browser, reduced, tmp_path):
    write_report(reduced.out, tmp_path / "report.html", redshift=0.0225)
    found, console = see(browser, tmp_path)
    assert not console
    for name, width in (("wide", 1280), ("phone", 400)):
        page = found[name]
        assert "MIRI MRS" in page["title"]
        assert page["images"] >= 5, name
        assert page["broken"] == 0, name
        assert page["shown"] == page["images"], name
        assert page["tables"] >= 7, name
        assert page["empty"] == 0, name
        assert page["client"] <= width
        assert page["scroll"] <= page["client"], f"{name}: the page is {page['scroll']} px wide"
        assert not page["out"], name
        assert page["small"] == 0, name


def test_the_look_would_see_what_is_wrong(browser, tmp_path):
    """A page with a broken picture, a wide element, an empty table and an error: all are found."""
    (tmp_path / "report.html").write_text(
        '<!doctype html><title>bad</title><img src="data:image/png;base64,AAAA" alt="broken">'
        "<table><tbody><tr><td></td></tr></tbody></table><p style='width:700px'>wide</p>"
        "<script>console.error('complaint')</script>",
        encoding="utf-8",
    )
    found, console = see(browser, tmp_path)
    assert found["phone"]["broken"] == 1
    assert found["phone"]["scroll"] > 400
    assert found["phone"]["empty"] == 1
    assert "P." in found["phone"]["out"]
    assert any("complaint" in line for line in console)
