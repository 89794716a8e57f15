"""Recognising how a data folder is laid out: MSD, nnU-Net, or plain images/ and labels/."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffboost3d.errors import DataError
from diffboost3d.imaging.files import ENDINGS, ending_of, stem_of

LABEL_FOLDERS = ("labels", "masks")


@dataclass(frozen=True)
class Pair:
    """An image file and its label file (None: unlabelled); `missing` names a label that should be there and is not.

    `channels`: files of further image channels, in order; (): one channel, or several in one 4D file.
    """

    id: str
    image: Path
    label: Path | None
    missing: str | None = None
    channels: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Folder:
    """What a data folder says of itself. labels: name -> value or None; unlisted: images not in its list.

    channel_names: of the image channels, in order; (): it doesn't say.
    """

    layout: str
    name: str
    modality: str
    labels: dict[str, int] | None
    licence: str
    pairs: tuple[Pair, ...]
    unlisted: int = 0
    channel_names: tuple[str, ...] = ()


def read_folder(root: Path, layout: str = "auto") -> Folder:
    """Recognise a data folder.

    Args:
        layout: auto, or msd, nnunet, plain to insist on one.

    Raises:
        DataError: no such folder, no images in it, or it isn't of that layout.
    """
    if not root.is_dir():
        raise DataError(f"data.root={root}: no such folder")
    found = layout if layout != "auto" else _recognise(root)
    folder = READERS[found](root)
    if not folder.pairs:
        raise DataError(f"{root}: no images found; {EXPECTED}")
    _refuse_twins(root, folder.pairs)
    return folder


EXPECTED = "expected imagesTr/ + labelsTr/ + dataset.json, or images/ + labels/, with files " + ", ".join(ENDINGS)


def _recognise(root: Path) -> str:
    if (root / "imagesTr").is_dir():
        training = _dataset_json(root).get("training")
        return "msd" if isinstance(training, list) and training else "nnunet"
    if (root / "images").is_dir():
        return "plain"
    raise DataError(f"{root}: the layout isn't recognised; {EXPECTED}")


def _dataset_json(root: Path) -> dict[str, Any]:
    path = root / "dataset.json"
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: is no valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: should hold a JSON object")
    return value


def _labels_of(facts: dict[str, Any], root: Path) -> dict[str, int] | None:
    """Name -> value of either direction: {"0": "background"} (MSD) or {"background": 0} (nnU-Net v2)."""
    labels = facts.get("labels")
    if not labels:
        return None
    try:
        pairs = [(v, int(k)) if isinstance(v, str) else (str(k), int(v)) for k, v in labels.items()]
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{root / 'dataset.json'}: labels should be names and whole numbers, not {labels}") from error
    return dict(sorted(pairs, key=lambda pair: pair[1]))


def _describe(root: Path, layout: str, facts: dict[str, Any], pairs: list[Pair]) -> Folder:
    channels = facts.get("modality") or facts.get("channel_names") or {}
    modality = str(next(iter(channels.values()), "")) if isinstance(channels, dict) else str(channels)
    return Folder(
        layout,
        str(facts.get("name") or root.resolve().name),
        modality,
        _labels_of(facts, root),
        str(facts.get("licence") or facts.get("license") or "not stated"),
        tuple(sorted(pairs, key=lambda pair: pair.id)),
        channel_names=_channel_names(channels, root),
    )


def _channel_names(channels: Any, root: Path) -> tuple[str, ...]:
    """In the order of their numbers, of {"0": "T2", "1": "ADC"}."""
    if not isinstance(channels, dict):
        return tuple(map(str, channels)) if isinstance(channels, list) else (str(channels),)
    try:
        return tuple(str(channels[number]) for number in sorted(channels, key=int))
    except (TypeError, ValueError) as error:
        raise DataError(f"{root / 'dataset.json'}: channels should be numbers and names, not {channels}") from error


def _read_msd(root: Path) -> Folder:
    """`dataset.json` lists the pairs under "training"."""
    facts = _dataset_json(root)
    pairs = []
    for entry in facts.get("training") or []:
        if isinstance(entry, dict) and "image" not in entry:
            raise DataError(f"{root / 'dataset.json'}: a training entry names no image: {entry}")
        image = root / str(entry["image"] if isinstance(entry, dict) else entry)
        label = root / str(entry["label"]) if isinstance(entry, dict) and entry.get("label") else None
        pairs.append(_pair(root, stem_of(image), image, label))
    listed = {pair.image.resolve() for pair in pairs}
    unlisted = sum(image.resolve() not in listed for image in _images_in(root / "imagesTr"))
    return dataclasses.replace(_describe(root, "msd", facts, pairs), unlisted=unlisted)


def _read_nnunet(root: Path) -> Folder:
    """`imagesTr/<case>_0000.ending`, `_0001`, ... and `labelsTr/<case>.ending`; also without the channel number."""
    pairs: dict[str, Pair] = {}
    images = _images_in(root / "imagesTr")
    stems = {stem_of(image) for image in images}
    for image in images:
        stem = stem_of(image)
        case = re.sub(r"_\d{4}$", "", stem)
        if f"{case}_0000" not in stems or (root / "labelsTr" / f"{stem}{ending_of(image)}").is_file():
            case = stem  # four digits that are the case's own number
        elif stem != f"{case}_0000":  # sorted: the first channel was before it
            pairs[case] = dataclasses.replace(pairs[case], channels=(*pairs[case].channels, image))
            continue
        pairs[case] = _pair(root, case, image, root / "labelsTr" / f"{case}{ending_of(image)}")
    return _describe(root, "nnunet", _dataset_json(root), list(pairs.values()))


def _read_plain(root: Path) -> Folder:
    """`images/` and `labels/` (or `masks/`) with files of the same name, whatever the ending; `dataset.json` optional."""
    labels = {
        stem_of(path): path for name in LABEL_FOLDERS if (root / name).is_dir() for path in _images_in(root / name)
    }
    where = next((name for name in LABEL_FOLDERS if (root / name).is_dir()), LABEL_FOLDERS[0])
    pairs = []
    for image in _images_in(root / "images"):
        case = stem_of(image)
        pairs.append(_pair(root, case, image, labels.get(case, root / where / image.name)))
    return _describe(root, "plain", _dataset_json(root), pairs)


READERS: dict[str, Callable[[Path], Folder]] = {"msd": _read_msd, "nnunet": _read_nnunet, "plain": _read_plain}


def _images_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if ending_of(path) and not path.name.startswith("."))


def _pair(root: Path, case: str, image: Path, label: Path | None) -> Pair:
    missing = None if label is None or label.is_file() else os.path.relpath(label, root)
    return Pair(case, image, None if missing else label, missing)


def _refuse_twins(root: Path, pairs: tuple[Pair, ...]) -> None:
    seen: dict[str, Path] = {}
    for pair in pairs:
        if pair.id in seen:
            raise DataError(
                f"{root}: two images are called {pair.id} ({seen[pair.id].name}, {pair.image.name}); rename one"
            )
        seen[pair.id] = pair.image
