"""What the recipes share: opening a download, checksums, counts, checks, and the ready folder that they write.

A ready folder is in MSD layout: imagesTr/, labelsTr/, checksums.sha256 (`sha256sum -c` reads it) and, written last, dataset.json.
Images and labels are the download's, byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from diffboost3d.cases.atomic import replacing, write_json
from diffboost3d.cases.checks import CheckedPair, check_pair
from diffboost3d.cases.layouts import Pair
from diffboost3d.errors import DataError, DiffBoostError

CHECKSUMS = "checksums.sha256"


@dataclass(frozen=True)
class Item:
    """A case of the ready folder: its files in the download, and the name that both get."""

    image: Path
    label: Path | None
    name: str

    def files(self) -> dict[str, Path]:
        """Path in the ready folder -> file of the download."""
        found = {f"imagesTr/{self.name}": self.image}
        return found if self.label is None else {**found, f"labelsTr/{self.name}": self.label}


# --- the command line ------------------------------------------------------------------------------------------------
def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments that all recipes of volumes take."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("source", type=Path, help="the downloaded archive (.tar, .tar.gz, .zip), or its unpacked folder")
    made.add_argument("target", type=Path, help="the folder to make")
    made.add_argument("--dry-run", action="store_true", help="check and count, write nothing")
    made.add_argument(
        "--checksums", type=Path, metavar="FILE", help=f"compare with the {CHECKSUMS} of an earlier ready folder"
    )
    return made


def answered(name: str, work: Callable[[], None]) -> int:
    """The exit status of a recipe; a mistake of the user is one line."""
    try:
        work()
    except DiffBoostError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0


# --- the download ----------------------------------------------------------------------------------------------------
@contextmanager
def opened(source: Path, target: Path) -> Iterator[Path]:
    """The folder of a download; an archive is unpacked beside the target, and removed in the end.

    Raises:
        DataError: nothing there, the target is the source, no complete archive, or one that would write outside its folder.
    """
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    if source.resolve() == target.resolve():
        raise DataError(f"{target}: is the source itself; choose another target")
    if source.is_dir():
        yield source
        return
    beside = next(folder for folder in target.resolve().parents if folder.is_dir())
    with tempfile.TemporaryDirectory(dir=beside, prefix=".unpacked-") as temporary:
        unpack(source, Path(temporary))
        yield Path(temporary)


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar (packed or not) or zip. Raises DataError as `opened` does."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as packed:
                for name in packed.namelist():
                    path = PurePosixPath(name.replace("\\", "/"))
                    if path.is_absolute() or ".." in path.parts:
                        raise DataError(f"{archive}: would write outside its folder ({name}); don't trust it")
                packed.extractall(folder)
        else:
            with tarfile.open(archive) as packed_tar:
                packed_tar.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{archive}: can't be unpacked ({reason}); download it again") from error


def check_archive(source: Path, md5: str | None) -> None:
    """Say whether a downloaded archive is the one whose MD5 is published; a folder has none."""
    if md5 is None or not source.is_file():
        return
    found = file_digest(source, "md5")
    if found == md5:
        print(f"{source.name}: MD5 {md5}, as published")
    else:
        print(f"! {source.name}: MD5 {found}, published is {md5}; it is damaged, or another release")


def file_digest(path: Path, kind: str = "sha256") -> str:
    """Of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


# --- cases -----------------------------------------------------------------------------------------------------------
Check = Callable[[Pair, Collection[int] | None], tuple[CheckedPair | None, Any]]


def usable(pairs: Sequence[Pair], known: Collection[int] | None, check: Check = check_pair) -> list[Pair]:
    """The pairs that the library can use; what is wrong with the others is printed. Raises DataError where none is left."""
    kept = []
    for pair in pairs:
        checked, finding = check(pair, known)
        if finding:
            print(f"! {finding}")
        if checked is not None:
            kept.append(pair)
    if not kept:
        raise DataError(f"none of {len(pairs)} cases can be used")
    return kept


def counted(found: int, documented: int, what: str) -> None:
    """Print how many there are, and a warning where it isn't what the data set's description says."""
    print(f"{found} {what}")
    if found != documented:
        print(f"! documented are {documented} {what}, {found} are here; is the download complete?")


# --- the ready folder ------------------------------------------------------------------------------------------------
def finish(given: argparse.Namespace, items: Sequence[Item], facts: Mapping[str, Any]) -> None:
    """Compare the checksums that were asked for, and write the ready folder unless it is a dry run."""
    files = {name: path for item in items for name, path in item.files().items()}
    if given.checksums is not None:
        compare({name: file_digest(path) for name, path in files.items()}, given.checksums)
    if given.dry_run:
        print("dry run: nothing is written")
        return
    listing = []
    for name, path in files.items():
        with replacing(given.target / name) as temporary:
            shutil.copyfile(path, temporary)
        listing.append(f"{file_digest(given.target / name)}  {name}\n")
    with replacing(given.target / CHECKSUMS) as temporary:
        temporary.write_text("".join(listing), encoding="utf-8")
    entries = [
        {"image": f"./imagesTr/{item.name}"} | ({"label": f"./labelsTr/{item.name}"} if item.label else {})
        for item in items
    ]
    counts = {"numTraining": len(entries), "numTest": 0, "training": entries, "test": []}
    write_json(given.target / "dataset.json", {**facts, **counts})
    print(f"written to {given.target}")


def compare(found: Mapping[str, str], listing: Path) -> None:
    """Hold files against a list of checksums. Raises DataError naming the first difference, and how many there are."""
    try:
        lines = listing.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--checksums {listing}: can't be read ({error})") from error
    parts = (line.partition(" ") for line in lines if line)
    refuse_others(found, {name.strip().lstrip("*"): digest for digest, _, name in parts}, listing)


def refuse_others(found: Mapping[str, str], listed: Mapping[str, str], listing: Path) -> None:
    """Hold digests by file against those that a list has. Raises DataError as `compare` does."""
    differing = [f"{name} is not in the download" for name in sorted(listed.keys() - found.keys())]
    differing += [f"{name} is not in the list" for name in sorted(found.keys() - listed.keys())]
    differing += [
        f"{name} has another content" for name in sorted(found.keys() & listed.keys()) if found[name] != listed[name]
    ]
    if differing:
        raise DataError(f"--checksums {listing}: {differing[0]}; {len(differing)} of {len(found)} files differ")
    print(f"all {len(found)} files have the checksums of {listing}")
