"""What the tests of launching let processes do: write a file, fail, or die; the name of the folder says which."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path


def work(folder: Path) -> None:
    """Leave result.txt, unless the folder's name says otherwise."""
    print(f"works in {folder.name}")
    if folder.name.startswith("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    if folder.name.startswith("loads"):
        child = multiprocessing.get_context("spawn").Process(target=print, args=("loaded",), daemon=True)
        child.start()
        child.join()
    if not folder.name.startswith("fails"):
        (folder / "result.txt").write_text(str(os.getpid()))
