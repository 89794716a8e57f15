"""How many processes make samples: enough that a GPU doesn't wait for data."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
SHARED_MEMORY = Path("/dev/shm")
MOST_WORKERS = 8
LEAST_SHARED = 2**30  # bytes, through which samples come from loader processes; a container may have 64 MB


def available_cores() -> int:
    """Cores that the process may be put on, at most as many as a container's quota of time."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = CGROUP / "cpu.max"  # "MAX PERIOD" in microseconds, or "max PERIOD"
    try:
        share, period = quota.read_text(encoding="ascii").split()
        return there if share == "max" else max(1, min(there, round(int(share) / int(period))))
    except (OSError, ValueError):
        return there


def loader_workers(cores: int, device: str, processes: int = 1) -> int:
    """Loader processes of a training process: with a GPU one a core, at most 8; on the CPU, which networks keep busy, none.

    None either where there is little shared memory, or where processes don't begin as forks: each would have a copy of all
    volumes.

    Args:
        cores: that the training processes of this machine share; each keeps one for itself.
        device: cpu, cuda or mps. processes: that train on this machine.
    """
    if device != "cuda" or start_method() is None or _shared_memory() < LEAST_SHARED:
        return 0
    return max(0, min(MOST_WORKERS, cores // processes - 1))


def start_method() -> str | None:
    """How loader processes begin: as forks, which share the volumes in memory; None: as this system has it."""
    forks = sys.platform == "linux" and "fork" in multiprocessing.get_all_start_methods()
    return "fork" if forks else None


def _shared_memory() -> int:
    """Bytes that are free; where it can't be told, none."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0
