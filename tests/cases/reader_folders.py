"""Folders that readers are tried on, and what they make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffboost3d.cases.layouts import read_folder
from diffboost3d.errors import DataError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def names(root: Path, *words: Any) -> list[tuple[str, list[str], str | None]]:
    """Of each case its id, its channels' files and its label's."""
    return [
        (
            pair.id,
            [path.relative_to(root).as_posix() for path in (pair.image, *pair.channels)],
            pair.label and pair.label.relative_to(root).as_posix(),
        )
        for pair in read_folder(root, *words).pairs
    ]


def refused(root: Path, *words: Any) -> str:
    with pytest.raises(DataError) as refusal:
        read_folder(root, *words)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)
