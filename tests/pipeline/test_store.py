"""The store: what is done is taken over, what is not whole is made again, and one run works in a folder at a time."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import forked

from mrsxr.cli import main
from mrsxr.errors import MrsxrError
from mrsxr.io.atomic import BOOKS, is_temporary, temporary_name
from mrsxr.pipeline.lock import holder_of
from mrsxr.pipeline.signals import Stopped, graceful
from mrsxr.pipeline.store import Label, Store, status, stores_below

CUBE = Label("cube", "2B")
KEY, OTHER = "0011223344556677", "ffeeddccbbaa9988"


def make(store, piece, key=KEY, text="content", name="stage3/a_s3d.fits", **facts):
    path = store.out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    store.done(piece, key, [path], **facts)
    return path


def taken_over(store, piece=CUBE, key=KEY):
    """Return the files of a piece that is taken over, None of one that must be made."""
    entry = store.taken_over(piece, key)
    return None if entry is None else [store.out / one.path for one in entry.outputs]


def test_taken_over_with_the_right_key_and_whole_files_alone(tmp_path):
    with Store(tmp_path / "out") as store:
        assert taken_over(store) is None
        path = make(store, CUBE, notes=["a note"], scores=[{"step": "fit"}], values={"type": "POINT"}, seconds=1.23456)
        assert taken_over(store) == [path]
        assert taken_over(store, key=OTHER) is None
        assert taken_over(store, CUBE._replace(role="background")) is None
    again = Store(tmp_path / "out")
    assert taken_over(again) == [path]
    (entry,) = again.pieces().values()
    assert entry.label == CUBE
    assert (entry.notes, entry.scores, entry.values) == (("a note",), ({"step": "fit"},), {"type": "POINT"})
    assert entry.seconds == 1.235


def test_files_that_changed_since(tmp_path):
    store = Store(tmp_path)
    path = make(store, CUBE)
    os.utime(path, ns=(0, 0))
    assert taken_over(store) == [path]  # copied elsewhere: another time, the same content
    path.write_text("c0ntent")
    assert taken_over(store) is None  # the same size
    make(store, CUBE)
    path.write_text("conten")
    assert taken_over(store) is None
    path.unlink()
    assert taken_over(store) is None
    with pytest.raises(MrsxrError, match="is not there"):
        store.done(CUBE, KEY, [path])
    with pytest.raises(MrsxrError, match="lies outside"):
        store.done(CUBE, KEY, ["/etc/hostname"])


def test_folders_are_outputs_too(tmp_path):
    store = Store(tmp_path)
    chunk = tmp_path / "a.zarr" / "flux" / "0.0"
    chunk.parent.mkdir(parents=True)
    chunk.write_bytes(b"1234")
    store.done(CUBE, KEY, [tmp_path / "a.zarr"])
    assert taken_over(store) == [tmp_path / "a.zarr"]
    chunk.write_bytes(b"1235")
    os.utime(chunk, ns=(0, 0))
    assert taken_over(store) is None


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b"7", b'{"stage": "cube"}', b"\xff\xfe", b"\0\0", b"torn", b"state", b"outputs"]
)
def test_damaged_books_are_no_books(tmp_path, damage):
    """... and what stands in other lines counts."""
    store = Store(tmp_path)
    make(store, CUBE)
    make(store, Label("cube", "3C"), name="stage3/b_s3d.fits")
    place = tmp_path / BOOKS / "ledger.jsonl"
    first, second = place.read_bytes().splitlines()
    swaps = {b"state": (b'"done"', b'"well"'), b"outputs": (b'"outputs": [[', b'"outputs": [["a"], [')}
    if damage in swaps:
        damage = first.replace(*swaps[damage])
    elif damage == b"torn":
        damage = first[: len(first) // 2]
    assert damage != first
    place.write_bytes(damage + b"\n" + second + b"\n")
    (tmp_path / BOOKS / "plan.json").write_bytes(damage)
    (tmp_path / BOOKS / "lock").write_bytes(damage)
    store = Store(tmp_path)
    assert taken_over(store) is None
    assert [label.name for label in store.pieces()] == ["3C"]
    with store:
        make(store, CUBE)
    assert taken_over(store)


def test_a_line_torn_anywhere_costs_its_piece_alone(tmp_path):
    """What is appended to what is left is read."""
    store = Store(tmp_path)
    store.done(CUBE, KEY, [], notes=["\xb5m"])
    place = tmp_path / BOOKS / "ledger.jsonl"
    whole = place.read_bytes()
    store.started(other := Label("cube", "3C"), OTHER)
    both = place.read_bytes()
    for size in (*range(0, len(both), 11), len(whole) - 1, len(whole), len(both) - 1, len(both)):
        place.write_bytes(both[:size])
        names = [CUBE] * (size >= len(whole)) + [other] * (size == len(both))
        assert list(Store(tmp_path).pieces()) == names, size
        (again := Store(tmp_path)).started(last := Label("stitch", "all"), KEY)
        found = again.pieces()
        assert list(found) in ([*names, last], [CUBE, last], [CUBE, other, last]), size
        assert set(found) >= {*names, last}


def test_a_full_disk_tears_one_line(tmp_path):
    with Store(tmp_path) as store:
        store.done(CUBE, KEY, [])
        size, before = (tmp_path / BOOKS / "ledger.jsonl").stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
        try:
            with pytest.raises(MrsxrError, match=r"ledger.jsonl: cannot be written \(No space left on device\)"):
                store.done(Label("cube", "3C"), KEY, [])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert (tmp_path / BOOKS / "ledger.jsonl").stat().st_size == size + 10
        assert list(store.pieces()) == [CUBE]
        store.done(Label("cube", "4C"), KEY, [])
        assert [one.name for one in store.pieces()] == [one.name for one in Store(tmp_path).pieces()] == ["2B", "4C"]


def test_another_process_reads_on_where_it_was(tmp_path):
    writer, reader = Store(tmp_path), Store(tmp_path)
    for number, label in enumerate([CUBE, Label("cube", "3C"), CUBE]):
        writer.started(label, str(number))
        assert reader.pieces()[label].key == str(number)
    assert [one.key for one in reader.pieces().values()] == ["2", "1"]


def test_lines_that_do_not_count_any_more_are_taken_out(tmp_path):
    store = Store(tmp_path)
    for number in range(20):
        make(store, CUBE, key=str(number))
        store.failed(Label("cube", "3C"), str(number), "why")
    before, place = Store(tmp_path).pieces(), tmp_path / BOOKS / "ledger.jsonl"
    assert place.read_bytes().count(b"\n") == 40
    with Store(tmp_path) as again:
        assert again.pieces() == before
        assert place.read_bytes().count(b"\n") == 2
        make(again, CUBE)
        assert again.pieces() == before | {CUBE: again.pieces()[CUBE]} == Store(tmp_path).pieces()
        assert taken_over(again)


def test_odd_names(tmp_path):
    store = Store(tmp_path)
    labels = [Label("cube", name) for name in ("a/b", "a-b", "a\nb", "../../x", "\u2028", "\udcff", ".")]
    for number, label in enumerate(labels):
        store.done(label, f"{number:016x}", [])
    assert {label: int(entry.key, 16) for label, entry in Store(tmp_path).pieces().items()} == {
        one: i for i, one in enumerate(labels)
    }
    assert [path.name for path in tmp_path.iterdir()] == [BOOKS]


def test_status_from_the_files_alone(tmp_path):
    with pytest.raises(MrsxrError, match="no run has written here"):
        status(tmp_path)
    labels = [Label("rate", f"e{i}") for i in range(5)]
    with Store(tmp_path) as store:
        store.plan({label: f"mark {label.name}" for label in labels})
        store.done(labels[0], KEY, [], plan="mark e0")
        store.failed(labels[1], KEY, "the file is damaged", plan="mark e1")
        store.started(labels[2], KEY, "mark e2")
        store.done(labels[4], KEY, [], plan="of other parameters")
        store.done(Label("rate", "of an earlier plan"), OTHER, [])
        now = status(tmp_path)
        assert now.holder.pid == os.getpid()
        assert [[e.name for e in part] for part in (now.done, now.running, now.failed)] == [["e0"], ["e2"], ["e1"]]
        assert now.failed[0].failed == "the file is damaged"
        assert {label.name for label in now.left} == {"e3", "e4"}
    later = status(tmp_path)
    assert later.holder is None
    assert not later.running
    assert [label.name for label in later.left] == ["e2", "e3", "e4"]
    store.kept(store.pieces()[labels[4]], "mark e4")
    assert [label.name for label in status(tmp_path).left] == ["e2", "e3"]


def test_stores_of_several_observations(tmp_path):
    for name in ("b", "a"):
        Store(tmp_path / name).begin().finish()
    (tmp_path / "c").mkdir()
    assert stores_below(tmp_path / "a") == [tmp_path / "a"]
    assert stores_below(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert stores_below(tmp_path / "none") == []


def test_the_second_run_is_refused_by_name_of_the_first(tmp_path):
    with Store(tmp_path):
        with pytest.raises(
            MrsxrError, match=f"another run works here, process {os.getpid()} on {socket.gethostname()}"
        ):
            Store(tmp_path).begin()
        assert holder_of(tmp_path / BOOKS) is not None
    with pytest.raises(ZeroDivisionError), Store(tmp_path):
        1 / 0  # noqa: B018
    assert holder_of(tmp_path / BOOKS) is None


def test_a_lock_of_another_machine_says_how_to_remove_it(tmp_path):
    with Store(tmp_path):
        place = tmp_path / BOOKS / "lock"
        facts = json.loads(place.read_text()) | {"host": "elsewhere", "pid": 1}
        place.write_text(json.dumps(facts))
    with pytest.raises(MrsxrError, match=f"process 1 on elsewhere.* remove {place}"):
        Store(tmp_path).begin()
    place.unlink()
    Store(tmp_path).begin().finish()


def hold(tell, folder, seconds):
    with Store(folder):
        os.write(tell, b"locked")
        time.sleep(seconds)


def test_a_killed_run_leaves_no_lock_and_no_litter(tmp_path):
    other, told = forked(hold, tmp_path, 60)
    assert os.read(told, 100) == b"locked"
    (litter := temporary_name(tmp_path / "stage2" / "a_cal.fits")).parent.mkdir()
    litter.write_bytes(b"half")
    (of_another := temporary_name(tmp_path / "inner" / "a_cal.fits")).parent.mkdir()
    of_another.write_bytes(b"half")
    (tmp_path / "inner" / BOOKS).mkdir()
    (store := temporary_name(tmp_path / "x.zarr")).mkdir()
    with pytest.raises(MrsxrError, match=f"process {other}"):
        Store(tmp_path).begin()
    assert litter.exists()
    os.kill(other, signal.SIGKILL)
    while "State:\tZ" not in Path(f"/proc/{other}/status").read_text():  # not waited for: it becomes a zombie
        time.sleep(0.01)
    with Store(tmp_path):
        assert holder_of(tmp_path / BOOKS).pid == os.getpid()
        assert not litter.exists()
        assert not store.exists()
        assert of_another.exists()
    os.waitpid(other, 0)
    os.close(told)


def test_waiting_for_the_other_run(tmp_path):
    other, told = forked(hold, tmp_path, 0.1)
    assert os.read(told, 100) == b"locked"
    with Store(tmp_path).begin(wait=True) as store:
        assert holder_of(store.books).pid == os.getpid()
    os.waitpid(other, 0)
    os.close(told)


def test_the_folder_is_tried_before_work_begins(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MrsxrError, match="cannot be written"):
        Store(tmp_path / "file").begin()


def test_names_of_temporary_files():
    assert is_temporary(temporary_name(Path("x/a.fits")).name)
    assert not any(map(is_temporary, (".mrsxr", ".mrsxr-0011223~a", "mrsxr-00112233~a", ".00112233.a.fits", "~a")))


def stop_when_asked(tell, twice):
    try:
        with graceful() as stop:
            os.write(tell, b"ready")
            while not stop:
                time.sleep(0.01)
            if twice:
                os.write(tell, b"stopping")
                time.sleep(60)
            raise stop.error("1 of 2 done")
    except Stopped as error:
        os.write(tell, str(error).encode())
        raise SystemExit(error.exit_code) from None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("twice", [False, True])
def test_signals_stop_in_order(number, code, twice):
    run, told = forked(stop_when_asked, twice)
    assert os.read(told, 100) == b"ready"
    os.kill(run, number)
    text = os.read(told, 100).decode()
    if twice:
        os.kill(run, number)
    _, ended = os.waitpid(run, 0)
    os.close(told)
    assert os.waitstatus_to_exitcode(ended) == code
    assert text == ("stopping" if twice else f"by {number.name}; 1 of 2 done")


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with graceful() as stop:
        assert stop.seconds_left == float("inf")
        os.kill(os.getpid(), signal.SIGTERM)
        while not stop:
            time.sleep(0.01)
        assert 3 < stop.seconds_left <= 4
    assert signal.getsignal(signal.SIGTERM) is before


def test_status_on_the_command_line(tmp_path):
    def told(folder):
        found = CliRunner().invoke(main, ["status", str(folder)])
        return found.exit_code, " ".join(found.output.replace("│", " ").split())

    code, text = told(tmp_path / "none")
    assert code == 1
    assert "no run has written here" in text
    with Store(tmp_path / "jw01234-o001") as store:
        labels = [Label("rate", "a"), Label("rate", "b"), Label("cube", "1A"), Label("cube", "1B")]
        store.plan(dict.fromkeys(labels, ""))
        store.done(labels[0], KEY, [])
        store.failed(labels[1], KEY, "the file [b] is damaged")
        store.started(labels[2], KEY)
        code, text = told(store.out)
        assert code == 0
        assert "rate 1 - 1 - cube - 1 - 1" in text
        assert "failed (rate) b: the file [b] is damaged" in text
        assert f"works: the run of process {os.getpid()}" in text
    Store(tmp_path / "jw01234-o002").begin().finish()
    code, text = told(tmp_path)
    assert code == 0
    assert "jw01234-o001 1 - 1 2" in text
    assert "jw01234-o002 - - - -" in text
    assert "failed (rate) b into jw01234-o001: the file [b] is damaged" in text
    assert "works" not in text


def test_a_command_that_is_interrupted_early_tells_it(monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("mrsxr.io.summarize", interrupted)
    monkeypatch.setattr("os._exit", sys.exit)
    found = CliRunner().invoke(main, ["info", "x"])
    assert (found.exit_code, found.output.strip()) == (130, "stopped: by SIGINT")


def test_a_stopped_command_tells_the_signal(monkeypatch):
    def stopped(*_args, **_kwargs):
        raise Stopped("by SIGTERM; 3 of 7 pieces are done", signal.SIGTERM)

    monkeypatch.setattr("mrsxr.io.summarize", stopped)
    monkeypatch.setattr("os._exit", sys.exit)
    found = CliRunner().invoke(main, ["info", "x"])
    assert found.exit_code == 143
    assert "stopped: by SIGTERM; 3 of 7 pieces are done" in found.output
