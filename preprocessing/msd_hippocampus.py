"""MSD Task04 (hippocampus, MRI): the downloaded folder or tar becomes a checked folder that `diffboost3d run` takes as it is.

    python preprocessing/msd_hippocampus.py Task04_Hippocampus.tar data/hippocampus --dry-run
    python preprocessing/msd_hippocampus.py Task04_Hippocampus.tar data/hippocampus
    diffboost3d run data=hippocampus data.root=data/hippocampus workspace=ws preset=quick

Images and labels are copied byte for byte; cases that the library's checks refuse are left out, and dataset.json lists the rest.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

from diffboost3d.cases.atomic import replacing, write_json
from diffboost3d.cases.checks import check_pair
from diffboost3d.cases.layouts import Folder, Pair, read_folder
from diffboost3d.cases.splits import patients_of
from diffboost3d.errors import DataError, DiffBoostError
from diffboost3d.imaging.files import read


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the downloaded folder or .tar")
    parser.add_argument("target", type=Path, help="the folder to make")
    parser.add_argument("--dry-run", action="store_true", help="check and count, write nothing")
    given = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            root = _root(given.source, Path(temporary))
            if root.resolve() == given.target.resolve():
                raise DataError(f"{given.target}: is the source itself; choose another target")
            folder = read_folder(root, "msd")
            kept = _checked(folder)
            if not given.dry_run:
                _copy(root, given.target, kept)
                print(f"written to {given.target}")
    except DiffBoostError as error:
        print(f"msd_hippocampus: {error}", file=sys.stderr)
        return 1
    return 0


def _root(source: Path, temporary: Path) -> Path:
    """The folder with dataset.json: the source, a folder in it, or what a tar holds."""
    if source.is_file():
        try:
            with tarfile.open(source) as archive:
                archive.extractall(temporary, filter="data")
        except (tarfile.TarError, EOFError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{source}: is no complete tar file ({reason}); download it again") from error
        source = temporary
    listings = [path for path in (source / "dataset.json", *source.glob("*/dataset.json")) if path.is_file()]
    if not listings:
        raise DataError(f"{source}: no dataset.json in it or one folder below; give the folder Task04_Hippocampus")
    return listings[0].parent


def _checked(folder: Folder) -> list[Pair]:
    """The usable pairs; says what is wrong with the others, and counts."""
    kept, stored_as = [], Counter[str]()
    for pair in folder.pairs:
        checked, finding = check_pair(pair, set((folder.labels or {}).values()) or None)
        if finding:
            print(f"! {finding}")
        if checked is None:
            continue
        kept.append(pair)
        if pair.label is not None:
            stored_as[kind := read(pair.label).dtype] += 1
            if kind.startswith("float"):
                print(f"! {pair.id}: its label is stored as {kind}; its values are whole, it is kept as it is")
    if not kept:
        raise DataError(f"none of {len(folder.pairs)} listed cases can be used")
    patients = set(patients_of([pair.id for pair in kept], "consecutive_numbers").values())
    types = ", ".join(f"{count} as {kind}" for kind, count in sorted(stored_as.items()))
    print(f"{len(kept)} of {len(folder.pairs)} listed cases are usable, in {len(patients)} runs of consecutive numbers")
    print(f"{stored_as.total()} of them have a label (stored {types})")
    return kept


def _copy(root: Path, target: Path, kept: list[Pair]) -> None:
    """Files first, dataset.json last, so that a folder with one is complete."""
    entries = []
    for pair in kept:
        files = {"image": pair.image} | ({"label": pair.label} if pair.label else {})
        for part, path in files.items():
            with replacing(target / f"{part}sTr" / path.name) as temporary:
                shutil.copyfile(path, temporary)
        entries.append({part: f"./{part}sTr/{path.name}" for part, path in files.items()})
    facts = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    write_json(
        target / "dataset.json", {**facts, "numTraining": len(entries), "numTest": 0, "training": entries, "test": []}
    )


if __name__ == "__main__":
    sys.exit(main())
