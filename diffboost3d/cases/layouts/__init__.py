"""Recognising how a data folder is laid out: `read_folder` is the one way in, `READERS` the list of layouts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from diffboost3d.cases.layouts.bids import is_bids, read_bids
from diffboost3d.cases.layouts.decathlon import read_msd
from diffboost3d.cases.layouts.dicom import has_dicom, read_dicom
from diffboost3d.cases.layouts.folder import (
    FREE,
    SKIPPED,
    BidsChoice,
    Choice,
    Folder,
    Pair,
    folders_in,
    images_in,
    read_json,
    without_missing_channels,
)
from diffboost3d.cases.layouts.names import IMAGE_FOLDER, folders_named
from diffboost3d.cases.layouts.nnunet import lists_channels, read_nnunet
from diffboost3d.cases.layouts.pictures import has_pictures, read_pictures
from diffboost3d.cases.layouts.plain import is_flat, is_folder_per_case, read_flat, read_folder_per_case, read_plain
from diffboost3d.cases.layouts.table import TABLE, is_table, read_csv
from diffboost3d.cases.records import Finding
from diffboost3d.errors import DataError
from diffboost3d.imaging.files import ENDINGS, PICTURE_ENDINGS, VOLUME_ENDINGS, ending_of
from diffboost3d.imaging.slicer_segments import slicer_segments

__all__ = ["READERS", "SKIPPED", "BidsChoice", "Choice", "Folder", "Pair", "read_folder"]

READERS: dict[str, Callable[[Path, Choice], Folder]] = {
    "msd": lambda root, choice: read_msd(root),
    "nnunet": lambda root, choice: read_nnunet(root),
    "plain": lambda root, choice: read_plain(root),
    "pictures": lambda root, choice: read_pictures(root),
    "flat": lambda root, choice: read_flat(root),
    "folder_per_case": lambda root, choice: read_folder_per_case(root),
    "bids": lambda root, choice: read_bids(root, choice.bids),
    "csv": lambda root, choice: read_csv(root),
    "dicom": lambda root, choice: read_dicom(root, choice.series),
}
EXPECTED = (
    "expected imagesTr/ + labelsTr/ + dataset.json (MSD, nnU-Net), images/ + labels/ or masks/, CASE + CASE_label files, "
    "CASE/image + CASE/label, pictures with NAME_mask beside NAME, BIDS (sub-*/anat/), a CSV of paths, DICOM; with files "
    + ", ".join(ENDINGS)
)


def read_folder(root: Path, layout: str = "auto", choice: Choice = FREE) -> Folder:
    """Recognise a data folder.

    Args:
        root: the folder, or a CSV file of paths.
        layout: auto, or one of `READERS` to insist on it.
        choice: of what there may be several.

    Returns:
        What it holds. Cases that a file is missing of are among its findings, not its pairs.

    Raises:
        DataError: no such folder, no images in it, two of one name, it isn't of that layout, or its NRRD labels contradict
            each other.
    """
    if not root.is_dir() and not (root.is_file() and layout in ("auto", "csv")):
        raise DataError(f"data.root={root}: no such folder")
    found = layout if layout != "auto" else _recognise(root)
    folder = READERS[found](root, choice)
    base = root if folder.root == Path() else folder.root
    kept, lost = without_missing_channels(base, folder.pairs)
    kept, odd = _of_one_kind(kept) if found in ("plain", "pictures") else (kept, [])
    notes = (*folder.notes, *_left_aside(root, found, folder.pairs))
    folder = dataclasses.replace(
        folder, root=base, pairs=tuple(kept), findings=(*folder.findings, *lost, *odd), notes=notes
    )
    if not folder.pairs:
        why = f"; the first: {folder.findings[0]}" if folder.findings else f"; {EXPECTED}"
        asked = "" if layout == "auto" else f" as data.layout={layout} has them"
        raise DataError(f"{root}: no images found{asked}{why}")
    _refuse_twins(root, folder.pairs)
    if folder.labels or choice.labels_named:
        return folder
    return dataclasses.replace(folder, labels=_named_by_slicer(base, folder.pairs))


def _named_by_slicer(root: Path, pairs: tuple[Pair, ...]) -> dict[str, int] | None:
    """Names and values of labels by the headers of NRRD files from 3D Slicer, each of which numbers its segments by itself.

    Capitals don't make another name.

    Raises:
        DataError: one number is given to different segments, or one segment has different numbers, or is called background.
    """
    values: dict[str, tuple[int, str]] = {}
    names: dict[int, tuple[str, str]] = {}
    for pair in pairs:
        for path in (pair.label, *pair.masks):
            file = "" if path is None else os.path.relpath(path, root)
            for value, name in (slicer_segments(path) if path is not None else {}).items():
                known, first = names.setdefault(value, (name, file))
                number, other = values.setdefault(name.lower(), (value, file))
                if known.lower() != name.lower() or number != value:
                    said = f"{first} has {known} as {value}" if number == value else f"{other} has it as {number}"
                    raise DataError(
                        f"{root}: {file} has {name} as label {value}; {said}; number the segments alike in all files (3D Slicer "
                        "exports them by a colour table), or name the labels yourself: data.labels={background: 0, liver: 1}"
                    )
    if values.get("background", (0, ""))[0]:
        number, file = values["background"]
        raise DataError(
            f"{root}: {file} has a segment called background as label {number}, but background is 0; name the labels yourself: "
            "data.labels={background: 0, liver: 1}"
        )
    told = sorted((value, name) for value, (name, _) in names.items() if value)
    return {"background": 0, **{name: value for value, name in told}} if told else None


def _of_one_kind(pairs: list[Pair]) -> tuple[list[Pair], list[Finding]]:
    """Those of the kind, pictures or volumes, that most are of; and a finding for each other one."""
    pictures = [pair for pair in pairs if ending_of(pair.image) in PICTURE_ENDINGS]
    volumes = [pair for pair in pairs if pair not in pictures]
    if not pictures or not volumes:
        return pairs, []
    kept, few = (pictures, volumes) if len(pictures) > len(volumes) else (volumes, pictures)
    what = "a volume among pictures" if few is volumes else "a picture among volumes"
    return kept, [
        Finding(pair.id, f"{pair.image.name}: {what}; put it into a folder of its own", SKIPPED) for pair in few
    ]


def _left_aside(root: Path, layout: str, pairs: tuple[Pair, ...]) -> tuple[str, ...]:
    """A line on the files of another kind beside those that are read."""
    endings, what = (VOLUME_ENDINGS, "volumes") if layout == "pictures" else (PICTURE_ENDINGS, "pictures")
    if layout not in ("pictures", "flat", "folder_per_case", "bids", "dicom") or not root.is_dir():
        return ()
    used = {path for pair in pairs for path in (pair.image, pair.label, *pair.masks)}
    aside = [path for folder in (root, *folders_in(root)) for path in images_in(folder, endings) if path not in used]
    if not aside:
        return ()
    named = ", ".join(path.relative_to(root).as_posix() for path in aside[:3]) + ", ..." * (len(aside) > 3)
    kept = "pictures" if layout == "pictures" else "volumes"
    return (f"{len(aside)} {what} are left aside, since the folder mostly holds {kept}: {named}",)


def _recognise(root: Path) -> str:
    """The layout. Raises DataError for none, and for a table of cases beside another: either may be what is meant."""
    if root.is_file():
        if is_table(root.name):
            return "csv"
        raise DataError(f"data.root={root}: is a file, but no CSV; {EXPECTED}")
    found = _by_names(root)
    if (root / TABLE).is_file():
        if found is not None:
            raise DataError(f"{root}: {TABLE} lies in a folder of layout {found}; choose data.layout=csv or {found}")
        return "csv"
    if found is not None:
        return found
    if has_dicom(root):
        return "dicom"
    raise DataError(f"{root}: the layout isn't recognised; found {_contents(root)}; {EXPECTED}")


def _by_names(root: Path) -> str | None:
    """The layout that names of files and folders tell; None: none."""
    if (root / "imagesTr").is_dir():
        facts = read_json(root / "dataset.json")
        training = facts.get("training")
        is_msd = isinstance(training, list) and training and not lists_channels(root, training)
        return "msd" if is_msd and not isinstance(facts.get("dataset"), dict) else "nnunet"
    if has_pictures(root):
        return "pictures"
    if folders_named(root, IMAGE_FOLDER):
        return "plain"
    if is_bids(root):
        return "bids"
    mixed = [name for name, fits in (("flat", is_flat), ("folder_per_case", is_folder_per_case)) if fits(root)]
    if len(mixed) > 1:
        raise DataError(
            f"{root}: images and labels lie both in it and in its folders; choose data.layout={' or '.join(mixed)}"
        )
    return mixed[0] if mixed else None


def _contents(root: Path) -> str:
    """What is in a folder, in a few words."""
    folders, images = folders_in(root), images_in(root)
    others = sum(path.is_file() for path in root.iterdir()) - len(images)
    names = [f"{folder.name}/" for folder in folders[:3]] + (["..."] if len(folders) > 3 else [])
    said = [
        f"{len(folders)} folder{'s' * (len(folders) != 1)} ({', '.join(names)})" if folders else "",
        f"{len(images)} image{'s' * (len(images) != 1)} ({images[0].name}{', ...' * (len(images) > 1)})"
        if images
        else "",
        f"{others} other file{'s' * (others != 1)}" if others > 0 else "",
    ]
    return ", ".join(one for one in said if one) or "nothing"


def _refuse_twins(root: Path, pairs: tuple[Pair, ...]) -> None:
    seen: dict[str, Path] = {}
    for pair in pairs:
        if pair.id in ("", ".", "..") or any(one in pair.id for one in "/\\\0"):
            raise DataError(
                f"{root}: {pair.id!r} can't be the name of a case ({pair.image.name}): it is a folder's name too"
            )
        if pair.id in seen:
            first, second = (
                os.path.relpath(one, root if root.is_dir() else root.parent) for one in (seen[pair.id], pair.image)
            )
            way = "; give a column id" if is_table(root.name) else "; rename one"
            raise DataError(f"{root}: two images are called {pair.id} ({first}, {second}){way}")
        seen[pair.id] = pair.image
