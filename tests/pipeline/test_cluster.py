"""Workers elsewhere: how they are named, what is refused, and that pieces travel to them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import types

import pytest
from fake_pieces import die_once, ladder, reduction

from mrsxr.errors import MrsxrError
from mrsxr.pipeline import cluster
from mrsxr.pipeline.cluster import executor_of
from mrsxr.pipeline.plan import Task
from mrsxr.pipeline.record import read_runs
from mrsxr.pipeline.runner import carry_out


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("local:0", "expected local:N with 1 to"), ("local:many", "expected local:N"),
        ("host", "expected tcp://host:port, local:N or a TOML file"), ("none.toml", "cannot be read as TOML"),
    ],
)  # fmt: skip
def test_what_is_no_cluster_is_refused(where, message):
    with pytest.raises(MrsxrError, match=message), executor_of(where):
        pass


def test_a_scheduler_that_does_not_answer_is_told(monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE", 0.2)
    with pytest.raises(MrsxrError, match="no scheduler answers"), executor_of("tcp://127.0.0.1:9"):
        pass


def test_batch_systems(tmp_path, monkeypatch):
    path = tmp_path / "slurm.toml"
    for text, message in (
        ("jobs = 2\n", "system is None; expected one of slurm"),
        ('system = "slurm"\njobs = 0\n', "jobs is 0; expected how many jobs"),
        (
            'system = "slurm"\njobs = 2\ncores = 4\n',
            r"needs dask-jobqueue; install it \(pip install 'mrsxr\[cluster\]'",
        ),
    ):
        path.write_text(text)
        monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
        with pytest.raises(MrsxrError, match=message):
            cluster._batch(path)
    asked = []

    class Fake:
        def __init__(self, *, cores):
            asked.append(cores)

        def scale(self, *, jobs):
            asked.append(jobs)

    monkeypatch.setitem(sys.modules, "dask_jobqueue", types.SimpleNamespace(SLURMCluster=Fake))
    assert isinstance(cluster._batch(path), Fake)
    assert asked == [4, 2]
    path.write_text('system = "slurm"\njobs = 2\ncores = 4\nqueues = "long"\n')
    with pytest.raises(MrsxrError, match="slurm refuses this"):
        cluster._batch(path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets of the worker that dies
def test_pieces_go_to_processes_of_a_cluster(tmp_path):
    """A worker that dies costs its piece, which another does; run.json says what that of threads says.

    Where the port of dask's dashboard is taken, nothing is said of it.
    """
    with taken_port(8787), executor_of("local:2") as executor:
        assert cluster.workers_of(executor) == 2
        workers = set(executor._client.run(os.getpid).values())
        for pid in workers:  # as a terminal or batch system signals all: for the run, not for them
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        tasks = [*ladder(), Task("spectrum", "dies", die_once, {}, {"marker": str(tmp_path / "marker")})]
        here, there = reduction(tasks, tmp_path / "out"), reduction(tasks, tmp_path / "threads")
        carry_out([here], executor, 2)
        assert len(workers & set(executor._client.run(os.getpid).values())) == 1
    carry_out([there], None, 2)
    assert here.result.failed == {"2": "it does"}
    assert [piece.name for piece in here.record.pieces] == ["1", "2", "some", "last", "dies"]
    assert said(tmp_path / "out") == said(tmp_path / "threads")


@pytest.mark.slow
def test_a_local_cluster_without_workers_gets_new_ones():
    """As where one dies while it starts, which dask does not start again: the run would wait for ever."""
    with executor_of("local:1") as executor:
        for one in list(executor._client.cluster.workers.values()):
            executor._client.sync(one.close)
        assert executor.submit(abs, -3).result(timeout=60) == 3


@contextlib.contextmanager
def taken_port(number):
    with socket.socket() as one:
        with contextlib.suppress(OSError):  # another process has it, which is as good
            one.bind(("", number))
            one.listen()
        yield


def said(out):
    """Return what a run has written down, without times, memory and its name."""
    (run,) = read_runs(out)
    of_run = ("id", "started", "seconds", "peak_memory")
    pieces = [{k: v for k, v in one.items() if k not in ("seconds", "peak_memory")} for one in run["pieces"]]
    return {key: value for key, value in run.items() if key not in of_run} | {"pieces": pieces}
