"""The number of processor cores that this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Count the cores that the system lets this process run on.

    `os.cpu_count` counts all of the machine, although a cluster (SLURM), `taskset` or a container gave only
    some of them.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
