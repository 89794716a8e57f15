"""Writing files so that a reader, or a kill at any moment, never meets half a file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PREFIX = ".partial-"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder (same ending) that becomes `path` when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_PREFIX}{os.getpid()}-{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends well; an older `folder` is removed.

    A kill leaves the old folder, the new one, or (between two renames) none, never a part of one.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f"{_PREFIX}{os.getpid()}-{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(new: Path, folder: Path) -> None:
    """Give the folder `new` the name `folder`, beside it; an older `folder` is removed."""
    if not folder.exists():
        os.replace(new, folder)
        return
    old = folder.with_name(f"{_PREFIX}{os.getpid()}-old-{folder.name}")
    shutil.rmtree(old, ignore_errors=True)
    os.replace(folder, old)
    os.replace(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def place(source: Path, target: Path, how: str) -> None:
    """Make the unchanged bytes of `source` be had under the name `target`; atomic.

    Args:
        how: copy, hardlink (same file system), or symlink (relative).

    Raises:
        OSError: the file system has no such links, or the two are on different ones.
    """
    with replacing(target) as temporary:
        if how == "copy":
            shutil.copyfile(source, temporary)
        elif how == "hardlink":
            os.link(source.resolve(), temporary)
        else:
            temporary.symlink_to(os.path.relpath(source.resolve(), target.parent.resolve()))


def link_folder(source: Path, folder: Path) -> None:
    """Make `folder` a tree of hard links to the files of `source`, or of copies where there can be no links; atomic.

    Files are only ever replaced, never written into, so that neither tree can change the other.
    """
    with replacing_folder(folder) as temporary:
        for path in sorted(source.rglob("*")):
            if path.is_dir() or path.name.startswith(_PREFIX):
                continue
            target = temporary / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(path, target)


def link_or_copy(source: Path, target: Path) -> None:
    """Give the bytes of `source` the name `target`, without a copy where the file system can; atomic."""
    try:
        place(source, target, "hardlink")
    except OSError:
        place(source, target, "copy")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; atomic."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented, keys in the order given; atomic. NaN is refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def remove_partial(folder: Path) -> None:
    """Remove what a killed process left unfinished below `folder`."""
    for path in sorted(folder.rglob(f"{_PREFIX}*"), reverse=True):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
