"""BUSI (breast ultrasound, 780 pictures): the downloaded folder becomes a ready one that `diffboost3d run` takes as it is.

    python preprocessing/busi.py Dataset_BUSI_with_GT data/busi --dry-run
    python preprocessing/busi.py Dataset_BUSI_with_GT data/busi
    python preprocessing/busi.py Dataset_BUSI_with_GT data/busi --checksums old/index.csv --dry-run
    diffboost3d run data=breast_us data.root=data/busi workspace=ws preset=quick

The data (Al-Dhabyani et al., Data in Brief 28:104863, 2020) are given at https://scholar.cu.edu.eg/?q=afahmy/pages/dataset;
nothing is downloaded here. In benign/, malignant/ and normal/, `benign (1).png` has its masks in `benign (1)_mask.png`,
`benign (1)_mask_1.png`, ... Here pictures become grey and the masks of each are joined, both of the original size: images/,
masks/ (0, 255) and index.csv with class, size, number of masks, lesion pixels and the SHA-256 of every file that was read.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from recipe import answered, file_digest, refuse_others

from diffboost3d.cases.atomic import replacing
from diffboost3d.cases.checks import check_pair
from diffboost3d.cases.layouts import Pair, read_folder
from diffboost3d.errors import DataError
from diffboost3d.imaging.files import write_label_like, write_like
from diffboost3d.imaging.fingerprints import Likeness, fingerprint, groups_of, near_duplicates

CLASSES = {"benign": 437, "malignant": 210, "normal": 133}  # pictures of each, as published
KNOWN = (0, 255)


class Kept(NamedTuple):
    """A usable picture: its new name, its files, and what was read of them, (width, height, 1)."""

    name: str
    pair: Pair
    masks: tuple[Path, ...]
    image: NDArray[Any]
    label: NDArray[np.uint8]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the downloaded and unpacked folder")
    parser.add_argument("target", type=Path, help="the folder to make")
    parser.add_argument("--dry-run", action="store_true", help="check and count, write nothing")
    parser.add_argument(
        "--checksums", type=Path, metavar="FILE", help="compare with the index.csv of an earlier folder"
    )
    given = parser.parse_args(arguments)

    def work() -> None:
        root = _root(given.source)
        if root.resolve() == given.target.resolve():
            raise DataError(f"{given.target}: is the source itself; choose another target")
        kept = _checked(root)
        _tell_duplicates(kept)
        rows = [_row(root, one) for one in kept]
        if given.checksums is not None:
            refuse_others(_digests(rows), _digests(_listed(given.checksums)), given.checksums)
            print(f"all {len(rows)} pictures and their masks have the checksums of {given.checksums}")
        if not given.dry_run:
            _write(given.target, kept, rows)
            print(f"written to {given.target}")

    return answered("busi", work)


def _root(source: Path) -> Path:
    """The folder with the classes: the source, or a folder in it."""
    folders = (source, *sorted(source.iterdir())) if source.is_dir() else ()
    for one in folders:
        if any((one / name).is_dir() for name in CLASSES):
            return one
    raise DataError(f"{source}: holds none of {', '.join(CLASSES)}; give the folder Dataset_BUSI_with_GT")


def _checked(root: Path) -> list[Kept]:
    """The usable pictures; says what is wrong with the others, what was done, and the counts."""
    folder = read_folder(root, "pictures")
    for note in folder.notes:
        print(f"! {note}")
    kept = []
    for pair in folder.pairs:
        checked, finding = check_pair(pair, KNOWN)
        if finding:
            print(f"! {finding}")
        if checked is None or checked.label is None:
            continue
        for note in (*checked.image.notes, *checked.label_notes):
            print(f"! {pair.id}: {note}")
        assert pair.label is not None  # it was read
        masks = (pair.label, *pair.masks)
        kept.append(Kept(_name(pair), pair, masks, checked.image.array, checked.label.astype(np.uint8)))
    if not kept:
        raise DataError(f"{root}: none of {len(folder.pairs)} pictures can be used")
    counts, listed = (Counter(pair.stratum for pair in pairs) for pairs in ([one.pair for one in kept], folder.pairs))
    for name, published in CLASSES.items():
        print(f"{name}: {counts[name]} of {listed[name]} pictures are usable (published: {published})")
    joined = sum(len(one.masks) > 1 for one in kept)
    empty = sum(not one.label.any() for one in kept)
    print(f"{joined} pictures had several masks, which are joined; {empty} have an empty one")
    return kept


def _name(pair: Pair) -> str:
    """benign_001 of `benign (1)`; another name as it is, without spaces."""
    match = re.fullmatch(r"(\w+) \((\d+)\)", pair.id)
    return f"{match[1]}_{int(match[2]):03d}" if match else re.sub(r"[^\w.-]+", "_", pair.id)


def _tell_duplicates(kept: list[Kept]) -> None:
    """List the near-duplicates; none is left out, `prepare` keeps each group on one side of a split."""
    twins = near_duplicates([fingerprint(one.image) for one in kept], Likeness())
    groups = groups_of(len(kept), twins)
    print(f"{len(groups)} groups of near-duplicates, of {sum(map(len, groups))} pictures; all are kept")
    for group in groups:
        strata = {kept[number].pair.stratum for number in group}
        warning = "  (several classes!)" if len(strata) > 1 else ""
        print("  " + ", ".join(kept[number].name for number in group) + warning)


def _row(root: Path, one: Kept) -> dict[str, Any]:
    """Of index.csv."""
    return {
        "file": f"{one.name}.png",
        "class": one.pair.stratum,
        "width": one.label.shape[0],
        "height": one.label.shape[1],
        "masks": len(one.masks),
        "lesion_pixels": int((one.label > 0).sum()),
        "source": one.pair.image.relative_to(root).as_posix(),
        "source_sha256": file_digest(one.pair.image),
        "masks_sha256": " ".join(file_digest(mask) for mask in one.masks),
    }


def _digests(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What was read of each picture and its masks, by the picture's path in the download."""
    return {row["source"]: f"{row['source_sha256']} {row['masks_sha256']}" for row in rows}


def _listed(index: Path) -> list[dict[str, str]]:
    """The rows of an earlier index.csv. Raises DataError where it is none."""
    try:
        with index.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"--checksums {index}: can't be read ({error})") from error
    if not rows or not {"source", "source_sha256", "masks_sha256"} <= rows[0].keys():
        raise DataError(f"--checksums {index}: has no checksums; give the index.csv of a folder that this recipe made")
    return rows


def _write(target: Path, kept: Sequence[Kept], rows: Sequence[Mapping[str, Any]]) -> None:
    """Pictures and masks first, index.csv last, so that a folder with one is complete."""
    for one in kept:
        write_like(target / "images" / f"{one.name}.png", one.image, one.pair.image)
        write_label_like(target / "masks" / f"{one.name}.png", one.label, one.pair.image)
    with replacing(target / "index.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
