"""What the machine has: cores, memory, a device for networks, disk; limits of a container count."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from diffboost3d.training.loading import CGROUP, available_cores


@dataclass(frozen=True)
class Machine:
    """What there is to work with.

    Attributes:
        cores: that this process may use. memory: bytes of main memory in all. free_memory: of it, what nobody uses now.
        device: cpu, cuda or mps, where networks run. device_memory: bytes of that device's own memory; None: it has none.
        free_disk: bytes where the workspace is. load: processes that wanted a core in the last minute, on average; 0: not known.
    """

    cores: int
    memory: int
    free_memory: int
    device: str
    device_memory: int | None
    free_disk: int
    load: float = 0.0

    @property
    def network_memory(self) -> int:
        """Bytes that networks may take: nine tenths of the device's own memory, else three quarters of the free main memory."""
        if self.device_memory is not None:
            return int(0.9 * self.device_memory)
        return int(0.75 * self.free_memory)


def read_machine(folder: Path, device: str) -> Machine:
    """The machine that this process runs on.

    Args:
        folder: whose disk counts. device: cpu, cuda or mps, as a torch device's type.
    """
    import psutil

    memory = psutil.virtual_memory()
    limit, used = _number(CGROUP / "memory.max"), _number(CGROUP / "memory.current")
    total, free = int(memory.total), int(memory.available)
    if limit is not None and limit < total:
        total, free = limit, min(free, max(0, limit - (used or 0)))
    own = None
    if device == "cuda":
        import torch

        own = int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    return Machine(available_cores(), total, free, device, own, shutil.disk_usage(folder).free, _load())


def _load() -> float:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):  # not on every system
        return 0.0


def _number(path: Path) -> int | None:
    """A number in a file of the kernel; None where there is none, or no limit ("max")."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
