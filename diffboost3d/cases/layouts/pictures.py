"""Picture folders: images/ and masks/, or a folder a class with the masks beside their images, as ultrasound sets are given.

A mask is called like its image, also with _mask, _mask_1, _seg, ... behind the name; several masks of an image are joined.
The class of an image, for splits that keep the share of classes, is its folder's name, or what `index.csv` says.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from diffboost3d.cases.layouts.folder import (
    Folder,
    Pair,
    described,
    folders_in,
    images_in,
    lost_labels,
    read_json,
    some,
)
from diffboost3d.cases.layouts.names import (
    IMAGE_FOLDER,
    LABEL_FOLDERS,
    LABEL_WORDS,
    could_be_label,
    folders_named,
    images_in_all,
    longer_name,
)
from diffboost3d.cases.layouts.table import read_rows
from diffboost3d.cases.records import Finding
from diffboost3d.errors import DataError
from diffboost3d.imaging.dicom import DICOM_ENDINGS
from diffboost3d.imaging.files import PICTURE_ENDINGS, VOLUME_ENDINGS, ending_of, stem_of

MASK_NAME = re.compile(rf"^(?P<image>.+?)[_ .-](?:{'|'.join(LABEL_WORDS)})(?:[_ -]?\d+)?$", re.IGNORECASE)
INDEX = "index.csv"
FILE_COLUMNS, CLASS_COLUMNS, PATIENT_COLUMNS = ("file", "image", "filename"), ("class", "stratum"), ("patient",)


def has_pictures(root: Path) -> bool:
    """Whether a folder mostly is one of these: images/ of pictures, or pictures with a mask beside them, also by class."""
    if of_images := folders_named(root, IMAGE_FOLDER):
        return _mostly_pictures(images_in_all(of_images))
    folders = (root, *_class_folders(root))
    marked = any(mask for folder in folders for _, mask in _beside(images_in(folder, PICTURE_ENDINGS)))
    return marked and _mostly_pictures(path for path in root.rglob("*") if not path.name.startswith("."))


def _mostly_pictures(paths: Iterable[Path]) -> bool:
    """Whether more of the files are pictures than volumes."""
    pictures = volumes = 0
    for path in paths:
        ending = ending_of(path)
        pictures += ending in PICTURE_ENDINGS
        volumes += ending in VOLUME_ENDINGS or path.name.lower().endswith(DICOM_ENDINGS)
    return pictures > volumes


def read_pictures(root: Path) -> Folder:
    """Masks beside their images or in a folder of their own, classes by folder or index.csv.

    Raises:
        DataError: an index.csv that can't be read or names no file column.
    """
    if folders_named(root, IMAGE_FOLDER):
        pairs, notes = _in_two_folders(root)
        findings: list[Finding] = []
    else:
        pairs, notes, findings = _in_class_folders(root)
    folder = described(root, "pictures", read_json(root / "dataset.json"), pairs)
    return dataclasses.replace(folder, notes=notes, findings=tuple(findings))


def _in_class_folders(root: Path) -> tuple[list[Pair], tuple[str, ...], list[Finding]]:
    """Masks beside their images, in the folder or in one a class: pairs, notes, and what could be a mask by another name."""
    pairs: list[Pair] = []
    findings: list[Finding] = []
    orphans = []
    for folder in (root, *_class_folders(root)):
        beside = _beside(images_in(folder, PICTURE_ENDINGS))
        stems = {stem_of(image) for image, _ in beside}
        stratum = None if folder == root else folder.name
        for image, masks in beside:
            stem, case = stem_of(image), _identifier(image, stratum)
            if masks:
                pairs.append(Pair(case, image, masks[0], masks=tuple(masks[1:]), stratum=stratum))
            elif _named(stem):
                orphans.append(image)
            elif other := longer_name(stem, stems):
                findings.append(could_be_label(case, image, other))
            else:
                pairs.append(Pair(case, image, None, f"{stem}_mask beside {image.name}", stratum=stratum))
    return pairs, lost_labels(root, orphans, "mask"), findings


def _in_two_folders(root: Path) -> tuple[list[Pair], tuple[str, ...]]:
    """`images/` and `masks/` or `labels/`, with index.csv or without."""
    label_folders = folders_named(root, *LABEL_FOLDERS) or [root / LABEL_FOLDERS[0]]
    images = images_in_all(folders_named(root, IMAGE_FOLDER))
    names = {stem_of(image) for image in images}
    masks: dict[str, list[Path]] = {}
    orphans = []
    for path in images_in_all(label_folders):
        stem = stem_of(path)
        owner = stem if stem in names else _named(stem)
        if owner in names:
            masks.setdefault(str(owner), []).append(path)
        else:
            orphans.append(path)
    rows = _index(root / INDEX)
    pairs = []
    for image in images:
        stem = stem_of(image)
        row = rows.get(image.name) or rows.get(stem) or _Row()
        own = masks.get(stem, [])
        label, missing = (own[0], None) if own else (None, f"{label_folders[0].name}/{image.name}")
        pairs.append(Pair(stem, image, label, missing, (), tuple(own[1:]), row.patient, row.stratum))
    notes = lost_labels(root, orphans, "mask")
    if gone := sorted(name for name in rows if stem_of(name) not in names):
        notes += (f"{len(gone)} files of {INDEX} are not in images/: {some(gone)}",)
    if rows and (new := sorted(image.name for image in images if not {image.name, stem_of(image)} & set(rows))):
        notes += (f"{len(new)} images are not in {INDEX}: {some(new)}",)
    return pairs, notes


def _beside(images: list[Path]) -> list[tuple[Path, list[Path]]]:
    """Images of a folder with the masks that lie beside them."""
    stems = {stem_of(path) for path in images}
    masks: dict[str, list[Path]] = {}
    for path in images:
        if (image := _named(stem_of(path))) in stems:
            masks.setdefault(str(image), []).append(path)
    taken = {path for paths in masks.values() for path in paths}
    return [(path, masks.get(stem_of(path), [])) for path in images if path not in taken]


def _class_folders(root: Path) -> list[Path]:
    return [folder for folder in folders_in(root) if not folder.name.startswith("__")]


def _named(stem: str) -> str | None:
    """The image that a mask's name names."""
    match = MASK_NAME.match(stem)
    return match["image"] if match else None


def _identifier(image: Path, stratum: str | None) -> str:
    """The file's name, behind that of its class where it doesn't begin with it, so that classes may number alike."""
    stem = stem_of(image)
    return stem if stratum is None or stem.lower().startswith(stratum.lower()) else f"{stratum}_{stem}"


# --- index.csv -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Row:
    """What index.csv says of an image."""

    stratum: str | None = None
    patient: str | None = None


def _index(path: Path) -> dict[str, _Row]:
    """Image file -> its row; empty where there is no such file, or none of the columns that are read."""
    if not path.is_file():
        return {}
    found = {}
    for row in read_rows(path)[1]:
        values = {name.lower(): value for name, value in row.items() if value}
        name = _first(values, FILE_COLUMNS)
        if name is None:
            raise DataError(f"{path}: a row names no file; expected a column {' or '.join(FILE_COLUMNS)}")
        found[Path(name).name] = _Row(_first(values, CLASS_COLUMNS), _first(values, PATIENT_COLUMNS))
    return found


def _first(values: Mapping[str, str], names: Iterable[str]) -> str | None:
    return next((values[name] for name in names if values.get(name)), None)
