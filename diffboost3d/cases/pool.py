"""A pool: a folder tree modality/anatomy/finding/... of images, listed once in an index that stays on disk.

The index is a folder: `paths.txt` (one relative path a line, grouped by modality), `offsets.npy` (where the line of each
file starts, ordered by modality and part), `folders.txt` (when each folder last changed) and `index.json` (counts, and a
digest of the listing). A path is looked up by one seek, so a pool of millions costs no memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from diffboost3d.cases.atomic import replacing_folder, write_json
from diffboost3d.errors import DataError
from diffboost3d.imaging.planes import PLANE_ENDINGS, is_plane_file

VERSION = 2
PATHS, OFFSETS, FOLDERS, FACTS = "paths.txt", "offsets.npy", "folders.txt", "index.json"
SKIPPED, SKIPPED_AT_MOST = "skipped.txt", 10_000
PARTS = ("training", "held_out")
BALANCES = ("modality", "file")
LAYOUT = "expected modality/anatomy/finding/... with files " + ", ".join(PLANE_ENDINGS)


# --- the index -------------------------------------------------------------------------------------------------------
class PoolIndex:
    """The files of a pool by modality, part and number; see `open_pool`, which makes it.

    Attributes:
        root: of the pool. folder: of the index.
        modalities: names of the first level of folders, sorted.
        digest: of the listing and the parts; equal for copies of a pool in other places.
        facts: what index.json holds.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.folder = root, folder
        self.facts: dict[str, Any] = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        self.modalities: tuple[str, ...] = tuple(self.facts["modalities"])
        self.digest: str = self.facts["digest"]
        self._offsets = np.load(folder / OFFSETS, mmap_mode="r")

    def __reduce__(self) -> tuple[type[PoolIndex], tuple[Path, Path]]:
        """A loader's worker opens the index again instead of being sent it."""
        return PoolIndex, (self.root, self.folder)

    def count(self, modality: str | None = None, part: str = "training") -> int:
        """How many files of a modality (None: of all) are in a part."""
        wanted = self.modalities if modality is None else (modality,)
        return sum(self.facts["modalities"][name][part][1] for name in wanted)

    def folders(self) -> Iterator[str]:
        """Paths of all folders, relative to the root; "" is the root itself."""
        with (self.folder / FOLDERS).open(encoding="utf-8") as lines:
            for line in lines:
                yield line.rstrip("\n").partition("\t")[2]

    def path(self, modality: str, number: int, part: str = "training") -> str:
        """Path of a file, relative to the root, with "/" between its parts.

        Raises:
            IndexError: the modality has no such number in this part.
        """
        first, count = self.facts["modalities"][modality][part]
        if not 0 <= number < count:
            raise IndexError(f"{modality} has {count} {part} files, so there is no number {number}")
        # read, not mapped: pages of a map that were once touched would count as memory of the process
        with (self.folder / PATHS).open("rb") as lines:
            lines.seek(int(self._offsets[first + number]))
            return lines.readline().decode("utf-8").rstrip("\n")

    def draw(self, random: np.random.Generator, balance: str = "modality", part: str = "training") -> str:
        """A random path of a part.

        Args:
            balance: modality (each that has files in this part is equally likely, and each file in it) or file (each
                file is equally likely).
        """
        counts = np.array([self.count(modality, part) for modality in self.modalities])
        shares = counts / counts.sum() if balance == "file" else (counts > 0) / (counts > 0).sum()
        chosen = int(random.choice(len(counts), p=shares))
        return self.path(self.modalities[chosen], int(random.integers(counts[chosen])), part)

    def report_skipped(self, path: str, reason: str) -> None:
        """Add a file that is of no use to skipped.txt, once (at most `SKIPPED_AT_MOST` files); any process may."""
        start = f"{path}\t".encode()
        with (self.folder / SKIPPED).open("a+b") as listing, _alone(listing):
            listing.seek(0)
            listed = 0
            for line in listing:
                listed += 1
                if line.startswith(start):
                    return
            if listed < SKIPPED_AT_MOST:
                listing.write(start + " ".join(reason.split()).encode() + b"\n")
                listing.flush()

    def summary(self) -> str:
        """One line for the log: files of each modality, held-out ones, and what was ignored."""
        counts = ", ".join(f"{self.facts['modalities'][name]['files']} {name}" for name in self.modalities)
        ignored = ", ".join(f"{count} {kind}" for kind, count in self.facts["ignored"].items())
        text = f"{self.facts['files']} images ({counts}), {self.count(part='held_out')} held out"
        return f"{text}; ignored {ignored}" if ignored else text


def open_pool(
    root: Path, folder: Path, held_out: float = 0.02, patient_pattern: str | None = None, refresh: bool = False
) -> PoolIndex:
    """The index of a pool, which is made anew where there is none or the pool has changed.

    A folder's time of change tells of added, removed and renamed files, so the check costs one `stat` a folder. Several
    processes must not make the index at the same time; let one go first.

    Args:
        root: of the pool.
        folder: where the index is kept, outside the pool.
        held_out: share of the patients that is never trained on, chosen by a hash of the name, so that each stays on its
            side when others come and go.
        patient_pattern: regular expression; what it finds in a file's path (relative to the root) names the patient: its first
            group, or all of it. A path without a match, or any path where this is None, is a patient of its own.
        refresh: list the pool anew in any case, for file systems that don't keep times of change.

    Raises:
        DataError: no such folder, no images in it, no level of modalities, or the index would lie inside the pool.
    """
    if not root.is_dir():
        raise DataError(f"diffusion.pool.root={root}: no such folder")
    if folder.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{folder}: the index would lie inside the pool and change it; choose a folder outside {root}")
    if refresh or not _is_current(root, folder, held_out, patient_pattern):
        _list(root, folder, held_out, patient_pattern)
    return PoolIndex(root, folder)


def _is_current(root: Path, folder: Path, held_out: float, patient_pattern: str | None) -> bool:
    """Whether an index of this version, share and pattern describes the pool as it is."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if (facts["version"], facts["held_out"], facts["patient_pattern"]) != (VERSION, held_out, patient_pattern):
            return False
        with (folder / FOLDERS).open(encoding="utf-8") as lines:
            for line in lines:
                changed, _, relative = line.rstrip("\n").partition("\t")
                if os.stat(root / relative).st_mtime_ns != int(changed):
                    return False
    except (OSError, ValueError, KeyError):
        return False
    return True


def _list(root: Path, folder: Path, held_out: float, patient_pattern: str | None) -> None:
    """Write the index; memory is 8 bytes a file while it is made."""
    groups: defaultdict[tuple[str, str], array[int]] = defaultdict(lambda: array("q"))
    anatomies: defaultdict[str, Counter[str]] = defaultdict(Counter)
    patient = None if patient_pattern is None else re.compile(patient_pattern)
    rule = f"{held_out}\n" if patient_pattern is None else f"{held_out} {patient_pattern}\n"
    ignored, digest, position = Counter[str](), hashlib.sha256(rule.encode()), 0
    with replacing_folder(folder) as new:
        with (new / PATHS).open("wb") as paths, (new / FOLDERS).open("w", encoding="utf-8", newline="\n") as folders:
            for relative, changed, names in _walk(root, ignored):
                folders.write(f"{changed}\t{relative}\n")
                modality, _, below = relative.partition("/")
                anatomies[modality][below.partition("/")[0]] += len(names)
                for name in names:
                    path = f"{relative}/{name}"
                    groups[modality, PARTS[_share(_patient_of(path, patient)) < held_out]].append(position)
                    line = f"{path}\n".encode()
                    digest.update(line)
                    position += paths.write(line)
        if not groups:
            raise DataError(_why_empty(root, ignored))
        modalities = _write_offsets(new / OFFSETS, groups)
        for modality, own in modalities.items():
            own["anatomies"] = {name: count for name, count in sorted(anatomies[modality].items()) if count}
        facts = {
            "version": VERSION,
            "held_out": held_out,
            "patient_pattern": patient_pattern,
            "files": sum(own["files"] for own in modalities.values()),
            "digest": digest.hexdigest(),
            "modalities": modalities,
            "ignored": dict(sorted(ignored.items())),
        }
        write_json(new / FACTS, facts)


def _write_offsets(path: Path, groups: Mapping[tuple[str, str], array[int]]) -> dict[str, dict[str, Any]]:
    """Write the offsets, and say of each modality how many files it has and where those of its parts are: [first, count]."""
    total = sum(len(offsets) for offsets in groups.values())
    written = np.lib.format.open_memmap(path, mode="w+", dtype=np.int64, shape=(total,))
    modalities: dict[str, dict[str, Any]] = {}
    first = 0
    for modality in sorted({modality for modality, _ in groups}):
        parts = {part: groups.get((modality, part), array("q")) for part in PARTS}
        modalities[modality] = {"files": sum(len(offsets) for offsets in parts.values())}
        for part, offsets in parts.items():
            written[first : first + len(offsets)] = offsets
            modalities[modality][part] = [first, len(offsets)]
            first += len(offsets)
    written.flush()
    return modalities


def _patient_of(path: str, pattern: re.Pattern[str] | None) -> str:
    """What stands for the patient of a file."""
    found = pattern.search(path) if pattern else None
    if found is None:
        return path
    name = found.group(1) if found.re.groups and found.group(1) is not None else found.group()
    return name or path  # an empty match names nobody


def _share(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


def _why_empty(root: Path, ignored: Mapping[str, int]) -> str:
    if outside := ignored.get(OUTSIDE):
        return f"{root}: its {outside} images lie in no modality folder; {LAYOUT}"
    others = sum(ignored.values())
    return f"{root}: no images found{f' among {others} files' if others else ''}; {LAYOUT}"


# --- walking ---------------------------------------------------------------------------------------------------------
OUTSIDE, HIDDEN, UNPRINTABLE, BROKEN, CIRCULAR = (
    "in no modality folder",
    "hidden",
    "of unprintable name",
    "broken links",
    "circular links",
)


def _walk(root: Path, ignored: Counter[str]) -> Iterator[tuple[str, int, list[str]]]:
    """Each folder's relative path, time of change in ns, and image names, in sorted order; what isn't listed is counted.

    Linked folders are followed. Memory is that of the names of one folder.
    """
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        relative, above = pending.pop()
        try:
            status = os.stat(root / relative)  # before its entries, so that a change while they are read shows later
            own = (status.st_dev, status.st_ino)
            if own in above:
                ignored[CIRCULAR] += 1
                continue
            files, folders = _entries(root / relative, ignored)
        except OSError as error:
            raise DataError(f"{root / relative}: can't be listed ({error.strerror})") from error
        if not relative:
            ignored.update({OUTSIDE: len(files)} if files else {})
            files = []
        prefix = f"{relative}/" if relative else ""
        pending += [(f"{prefix}{name}", above | {own}) for name in sorted(folders, reverse=True)]
        yield relative, status.st_mtime_ns, sorted(files)


def _entries(folder: Path, ignored: Counter[str]) -> tuple[list[str], list[str]]:
    """Names of the images and of the folders in a folder, unsorted."""
    files: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                ignored[HIDDEN] += 1
            elif (
                not entry.name.isprintable()
            ):  # a line break would spoil the listing, bytes that are no text the prompt
                ignored[UNPRINTABLE] += 1
            elif entry.is_dir():
                folders.append(entry.name)
            elif not is_plane_file(entry.name):
                ignored[Path(entry.name).suffix.lower() or "without ending"] += 1
            elif entry.is_file():
                files.append(entry.name)
            else:
                ignored[BROKEN] += 1
    return files, folders


@contextmanager
def _alone(file: IO[bytes]) -> Iterator[None]:
    """Hold a file against the other processes that do so too."""
    try:
        import fcntl
    except ImportError:  # Windows: two workers may then list the same file
        yield
        return
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
