from __future__ import annotations

import ast
import json
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from helpers import make_ramp, make_reference

import mrsxr
from mrsxr import rate
from mrsxr.errors import MrsxrWarning
from mrsxr.io import load_dataset, save
from mrsxr.notes import caught_warnings, listen, noted, notes_of, tell
from mrsxr.tree import join_dithers

pytestmark = pytest.mark.filterwarnings("ignore::mrsxr.errors.MrsxrWarning")


def test_what_a_step_tells_stands_in_its_product_and_all_after(tmp_path):
    ramp = make_ramp(np.full((1, 1, 6, 8, 12), 100.0, "f4"))
    dark = make_reference("dark", dark=(("integration", "group", "y", "x"), np.zeros((1, 3, 8, 12), "f4")),
                          dq=np.zeros((8, 12), "u4"))  # fmt: skip
    with listen() as heard:
        out = rate.flag_last_frame(rate.subtract_dark(ramp, dark=dark))
    assert len(heard) == 1
    assert "3 groups, the exposure 6" in heard[0]
    assert notes_of(out) == heard
    assert notes_of(ramp) == []
    for name in ("ramp.fits", "ramp.nc"):
        path = save(out, tmp_path / name)[0]
        assert notes_of(load_dataset(path)) == heard
    comment = "".join(str(fits.getheader(tmp_path / "ramp.fits")["COMMENT"]).split("\n"))
    assert "NOTE: dark" in comment


def test_joined_exposures_keep_the_notes_of_all():
    one = noted(make_ramp(np.zeros((1, 1, 3, 2, 2), "f4")), ["one"])
    two = noted(make_ramp(np.zeros((1, 1, 3, 2, 2), "f4")), ["two", "one"])
    assert notes_of(join_dithers([one, two])) == ["one", "two"]


def test_listeners_hear_their_own_thread_and_each_text_once():
    heard = {}

    def work(number: int) -> None:
        with listen() as outer, listen() as inner:
            for _ in range(3):
                tell(f"thread {number}")
        heard[number] = (outer, inner)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert heard == {n: ([f"thread {n}"], [f"thread {n}"]) for n in range(4)}


def test_tell_warns_at_the_place_of_the_caller():
    with pytest.warns(MrsxrWarning, match="look") as caught:
        tell("look", stacklevel=1)
    assert Path(caught[0].filename) == Path(__file__)


def test_no_notes_leave_a_dataset_as_it_is():
    ds = xr.Dataset()
    assert noted(ds, []) is ds
    assert json.dumps(notes_of(ds, {"notes": "alone"})) == '["alone"]'


def test_nothing_in_the_package_warns_past_the_notes():
    """... or catches warnings elsewhere: threads that do it at once leave filters changed and take each other's."""
    filters = {"catch_warnings", "simplefilter", "filterwarnings", "showwarning", "resetwarnings"}
    for path in Path(mrsxr.__file__).parent.rglob("*.py"):
        text = path.read_text()
        if path.name in ("notes.py", "celestial.py") or "warn" not in text:  # the second imports nothing of ours
            continue
        for node in ast.walk(ast.parse(text)):
            name = getattr(node, "attr", getattr(node, "id", None))
            assert name not in filters, f"{path.name}:{node.lineno}: use notes.caught_warnings"
            if isinstance(node, ast.Call) and getattr(node.func, "attr", None) == "warn":
                assert "MrsxrWarning" not in ast.unparse(node), f"{path.name}:{node.lineno}: use notes.tell"


def test_threads_that_catch_warnings_change_nothing_for_others():
    """What is caught is of this kind and this thread; what others warn of is shown, and the process is as before."""
    before, seen = (warnings.filters[:], warnings.showwarning), []
    inside, told = threading.Event(), threading.Event()

    def another():
        inside.wait(10)
        seen.extend([warn_of(UserWarning, "of another thread"), warn_of(ResourceWarning, "of another kind")])
        told.set()

    def warn_of(kind, text):
        with pytest.raises(kind, match=text):
            warnings.warn(text, kind, stacklevel=1)
        return text

    thread = threading.Thread(target=another)
    thread.start()
    with caught_warnings(DeprecationWarning) as texts:
        warnings.warn("of mine", DeprecationWarning, stacklevel=1)
        inside.set()
        assert told.wait(10)
        warn_of(UserWarning, "aloud")
    thread.join()
    assert texts == ["of mine"]
    assert seen == ["of another thread", "of another kind"]

    def again(number):
        for _ in range(20):
            with caught_warnings(UserWarning) as mine:
                warnings.warn(f"{number}", UserWarning, stacklevel=1)
            assert mine == [str(number)]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(again, range(8)))
    assert (warnings.filters[:], warnings.showwarning) == before


def test_a_block_that_catches_warnings_within_another_waits_for_nobody():
    caught = []

    def nested():
        with caught_warnings(UserWarning) as outer:
            with caught_warnings(DeprecationWarning) as inner:
                warnings.warn("inner", DeprecationWarning, stacklevel=1)
                warnings.warn("outer", UserWarning, stacklevel=1)
            warnings.warn("outer again", UserWarning, stacklevel=1)
        caught.append((outer, inner))

    thread = threading.Thread(target=nested, daemon=True)
    thread.start()
    thread.join(10)
    assert caught == [(["outer", "outer again"], ["inner"])]
