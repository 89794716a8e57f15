"""What the tests of launching let processes do: write a file, fail, or die; the name of the folder says which."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def work(folder: Path) -> None:
    """Leave result.txt, unless the folder's name says otherwise."""
    print(f"works in {folder.name}")
    if folder.name.startswith("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    if not folder.name.startswith("fails"):
        (folder / "result.txt").write_text(str(os.getpid()))
