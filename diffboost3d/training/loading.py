"""How many processes make samples: enough that a GPU doesn't wait for data."""

from __future__ import annotations

import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
MOST_WORKERS = 8


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
    """Loader processes of a training process: none on the CPU, whose cores the networks keep busy; else one a core, at most 8.

    Args:
        cores: that the training processes of this machine share; each keeps one for itself.
        device: cpu, cuda or mps. processes: that train on this machine.
    """
    return 0 if device == "cpu" else max(0, min(MOST_WORKERS, cores // processes - 1))
