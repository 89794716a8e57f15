"""Whole volumes in memory, or, where they are large, in files that vanish with the process."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

COPIES = 12  # float32 arrays of a volume that are alive at the same time, about


class Scratch:
    """Makes arrays.

    Args:
        folder: of the files. None: the system's.
        limit_bytes: of a volume's arrays together; a volume that needs more is kept in files, of which the system holds in
            memory what it has room for. None: no limit.
    """

    def __init__(self, limit_bytes: float | None = None, folder: Path | None = None) -> None:
        self._limit, self._folder = limit_bytes, folder

    def in_memory(self, shape: Sequence[int]) -> bool:
        """Whether the arrays of a volume (I, J, K) are kept in memory."""
        return self._limit is None or COPIES * 4 * int(np.prod(shape)) <= self._limit

    def file_bytes(self, shape: Sequence[int]) -> int:
        """What the files of a volume (I, J, K) take on the disk together, at most about."""
        return 0 if self.in_memory(shape) else COPIES * 4 * int(np.prod(shape))

    def empty(self, shape: Sequence[int], dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """An array whose values are not set."""
        if self.in_memory(shape):
            return np.empty(shape, dtype)
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        # without a name: nothing is left behind, however the process ends
        with tempfile.TemporaryFile(dir=self._folder) as file:
            file.truncate(size)
            return np.asarray(np.memmap(file, dtype, "r+", shape=tuple(shape)))

    def copy(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """A contiguous float32 copy."""
        made = self.empty(array.shape)
        made[...] = array
        return made


IN_MEMORY = Scratch()
