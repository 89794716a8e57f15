"""Every random number of the project: one generator per key, never a global one.

A key is a run seed and words and numbers that name the use: `(0, "synthesize", "case_003", 2)`. The stream depends on
the key alone, so it is the same on resume, in any order of work, on any number of processes and with any batch size.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Key = str | int


def seed_of(*key: Key) -> int:
    """A seed in [0, 2^63) made of `key` by SHA-256; other keys give unrelated seeds."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*key: Key) -> np.random.Generator:
    """A NumPy generator for `key`; see `seed_of`."""
    import numpy as np

    return np.random.default_rng(seed_of(*key))
