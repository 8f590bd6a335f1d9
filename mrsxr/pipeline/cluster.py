"""Workers elsewhere: a dask cluster by its address, one of processes on this machine, or one of a batch system."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mrsxr.errors import MrsxrError, ParameterError
from mrsxr.threads import MOST_WORKERS

from .toml_files import read_toml

_PATIENCE = 30  # seconds until a scheduler must have answered
#: What workers here run first: a signal to all processes of a terminal or batch job is for the run, which ends them.
_DEAF = "import signal; [signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)]"
#: Classes of dask-jobqueue by the word for them.
_SYSTEMS = {
    "slurm": "SLURMCluster", "pbs": "PBSCluster", "lsf": "LSFCluster", "sge": "SGECluster", "oar": "OARCluster",
    "htcondor": "HTCondorCluster",
}  # fmt: skip


@contextmanager
def executor_of(where: str) -> Iterator[Executor]:
    """Give an executor on a cluster; one that was made for this is closed after.

    Parameters
    ----------
    where : str
        ``tcp://host:8786``, the scheduler of a dask cluster that is there; ``local:4``, so many processes on this
        machine; or a TOML file of a batch system: ``system = "slurm"``, ``jobs = 10``, and what the class of
        dask-jobqueue takes (``cores``, ``memory``, ``queue``, ``walltime`` ...).

    Raises
    ------
    MrsxrError
        Where it is none of these, the scheduler does not answer, or dask-jobqueue is not installed.
    """
    from distributed import Client, LocalCluster

    with ExitStack() as stack:
        kind, _, rest = where.partition(":")
        address: Any = where
        if kind == "local":
            count = int(rest) if rest.isdigit() else 0
            if not 1 <= count <= MOST_WORKERS:
                raise ParameterError(f"cluster is '{where}'; expected local:N with 1 to {MOST_WORKERS} processes")
            address = stack.enter_context(
                LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=":0", preload=_DEAF)
            )
            address.adapt(minimum=count, maximum=count)  # one that dies while it starts is not started again else
        elif where.endswith(".toml"):
            address = stack.enter_context(_batch(Path(where)))
        elif "://" not in where:
            raise ParameterError(f"cluster is '{where}'; expected tcp://host:port, local:N or a TOML file")
        try:
            client = stack.enter_context(Client(address, timeout=_PATIENCE))
        except (OSError, TimeoutError, ValueError) as error:
            raise MrsxrError(f"cluster {where}: no scheduler answers ({error}); start one, or correct it") from error
        yield client.get_executor()


def workers_of(executor: Executor) -> int:
    """Return how many pieces the workers of an executor do at once, at least 1: those of a cluster come and go."""
    client = getattr(executor, "_client", None)
    found = sum(client.nthreads().values()) if client is not None else getattr(executor, "_max_workers", 1)
    return max(1, found)


def _batch(path: Path) -> Any:
    """Return the cluster of a batch system that a TOML file describes, its jobs asked for."""
    options = read_toml(path)
    system, jobs = options.pop("system", None), options.pop("jobs", None)
    if system not in _SYSTEMS:
        raise ParameterError(f"{path}: system is {system!r}; expected one of {', '.join(_SYSTEMS)}")
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise ParameterError(f"{path}: jobs is {jobs!r}; expected how many jobs are asked for, a whole number above 0")
    try:
        import dask_jobqueue
    except ModuleNotFoundError:
        raise MrsxrError(
            f"{path}: a cluster of {system} needs dask-jobqueue; install it (pip install 'mrsxr[cluster]')"
        ) from None
    try:
        cluster = getattr(dask_jobqueue, _SYSTEMS[system])(**options)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{path}: {system} refuses this ({' '.join(str(error).split())})") from error
    cluster.scale(jobs=jobs)
    return cluster
