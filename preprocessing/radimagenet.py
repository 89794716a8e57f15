"""RadImageNet (1.35 million CT, MR and ultrasound images): the licensed download becomes a pool to pre-train on.

    python preprocessing/radimagenet.py radimagenet.tar.gz pools/radimagenet --dry-run
    python preprocessing/radimagenet.py radimagenet.tar.gz pools/radimagenet
    diffboost3d pretrain workspace=ws diffusion.pool.root=pools/radimagenet

The data are given on request at https://www.radimagenet.com; nothing is downloaded here. In the tar, CT/, MR/ and US/ hold
anatomy/finding/*.png (US: anatomy/*.png), which are kept byte for byte. What was unpacked before is left, so a run that was
stopped goes on. The folder of an unpacked download is a pool as it is; given without a target it is only looked at.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tarfile
import tempfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath

import numpy as np
from recipe import answered

from diffboost3d.cases.atomic import replacing
from diffboost3d.cases.pool import open_pool
from diffboost3d.cases.prompts import prompt_of, read_abbreviations
from diffboost3d.config import configs_folder
from diffboost3d.errors import DataError
from diffboost3d.imaging.planes import is_plane_file, read_plane

MODALITIES = ("CT", "MR", "US")
LOOKED_AT, SHOWN = 200, 6


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the downloaded tar, or its unpacked folder")
    parser.add_argument("target", type=Path, nargs="?", help="the pool folder to make of a tar")
    parser.add_argument("--dry-run", action="store_true", help="count, write nothing")
    given = parser.parse_args(arguments)

    def work() -> None:
        if given.source.is_dir() == (given.target is not None):
            raise DataError(f"{given.source}: give a tar and a target, or an unpacked folder alone")
        if given.target is not None:
            _unpack(given.source, None if given.dry_run else given.target)
        if given.target is None or not given.dry_run:
            _look_at(given.target or _pool_in(given.source))

    return answered("radimagenet", work)


def _pool_in(folder: Path) -> Path:
    """The folder that holds the modalities: this one, or one in it."""
    for one in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if any((one / modality).is_dir() for modality in MODALITIES):
            return one
    raise DataError(f"{folder}: holds none of {', '.join(MODALITIES)}; give the folder radiology_ai")


def _unpack(source: Path, target: Path | None) -> None:
    """Put every image of the tar into the target (None: nowhere), and print the counts; one file in memory at a time."""
    counts = Counter[str]()
    try:
        with tarfile.open(source, "r|*") as archive:
            while (member := archive.next()) is not None:
                path = _path_in_pool(member.name) if member.isfile() else ""
                if path:
                    counts["/".join(path.split("/")[:2])] += 1
                    if target is not None:
                        _write(archive, member, target / path)
                archive.members.clear()  # else it would remember a million of them
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise DataError(f"{source}: is no complete tar file ({error}); download it again") from error
    except OSError as error:
        raise DataError(f"{error.filename or source}: {error.strerror or error}") from error
    if not counts:
        raise DataError(f"{source}: holds no images below {', '.join(MODALITIES)}; is it RadImageNet?")
    for folder, count in sorted(counts.items()):
        print(f"{count:9,d}  {folder}")
    print(f"{counts.total():9,d}  images (published: 1.35 million)")


def _path_in_pool(name: str) -> str:
    """The part of a path from its modality folder on; empty for what is no image of the data set."""
    parts = PurePosixPath(name).parts
    inside = parts[next((index for index, part in enumerate(parts) if part in MODALITIES), len(parts)) :]
    return "/".join(inside) if is_plane_file(name) and not any(part.startswith(".") for part in inside) else ""


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    content = archive.extractfile(member)
    if content is None or (path.is_file() and path.stat().st_size == member.size):
        return
    with replacing(path) as temporary, temporary.open("wb") as file:
        shutil.copyfileobj(content, file)


def _look_at(pool: Path) -> None:
    """List the pool, read some of its files, and show how their prompts read."""
    abbreviations = read_abbreviations(configs_folder() / "pool" / "abbreviations.yaml")
    with tempfile.TemporaryDirectory() as temporary:
        index, random, bad = open_pool(pool, Path(temporary) / "index"), np.random.default_rng(0), 0
        print(index.summary())
        for number in range(LOOKED_AT):
            path = index.draw(random)
            try:
                read_plane(pool / path)
            except DataError as error:
                bad += 1
                print(f"! {error}")
            if number < SHOWN:
                print(f"  {path}: {prompt_of(path, abbreviations)!r}")
    print(f"{LOOKED_AT - bad} of {LOOKED_AT} images looked at can be read; diffusion.pool.root={pool}")


if __name__ == "__main__":
    sys.exit(main())
