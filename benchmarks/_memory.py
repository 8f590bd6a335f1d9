"""Memory of processes; also for the jwst halves, so it imports nothing of mrsxr."""

from pathlib import Path


def memory_gb(pid="self", key="VmHWM"):
    """Return the largest resident size of a process alone [GB], or with VmRSS the present one.

    ru_maxrss would count that of the parent before exec.
    """
    line = next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith(key))
    return int(line.split()[1]) / 1e6
