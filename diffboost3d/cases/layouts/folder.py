"""What every reader of a layout answers with, and what they share: pairs, findings, `dataset.json`, names of files."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffboost3d.cases.records import Finding
from diffboost3d.errors import DataError
from diffboost3d.imaging.files import ending_of, stem_of

SKIPPED = "the case is skipped"
SHOWN = 3  # names in a note


@dataclass(frozen=True)
class Pair:
    """The files of a case.

    Attributes:
        image: of the first channel. channels: of the further ones, in order.
        label: None: unlabelled. missing: a label that should be there and is not. masks: further files joined with `label`.
        patient: as the folder tells; None: it doesn't. stratum: class for stratified splits.
    """

    id: str
    image: Path
    label: Path | None
    missing: str | None = None
    channels: tuple[Path, ...] = ()
    masks: tuple[Path, ...] = ()
    patient: str | None = None
    stratum: str | None = None


@dataclass(frozen=True)
class Folder:
    """What a data folder says of itself.

    Attributes:
        labels: name -> value; None: the files have to tell. ignore_label: value of voxels that nobody labelled.
        unlisted: images not in its list. channel_names: () where it names none.
        findings: cases that are lost already, since a file of theirs is missing. notes: lines that the user should read.
        root: what paths are relative to.
    """

    layout: str
    name: str
    modality: str
    labels: dict[str, int] | None
    licence: str
    pairs: tuple[Pair, ...]
    unlisted: int = 0
    channel_names: tuple[str, ...] = ()
    ignore_label: int | None = None
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    root: Path = Path()


@dataclass(frozen=True)
class BidsChoice:
    """Which files of a BIDS data set are meant, where it holds several kinds.

    Attributes:
        images: one a channel, in order: suffix after all entities but sub, ses and run (`T1w`, `ce-gd_T1w`); (): the only
            kind there is.
        label: what the label's name has besides its image's (`dseg`, `label-lesion_mask`), maybe after its folder in
            derivatives (`manual/dseg`); None: the only kind there is.
    """

    images: tuple[str, ...] = ()
    label: str | None = None


@dataclass(frozen=True)
class Choice:
    """What a user can choose of how a folder is read."""

    bids: BidsChoice = BidsChoice()
    series: tuple[str, ...] = ()  # of DICOM: patterns, a channel each; see `layouts.dicom.dicom_cases`
    labels_named: bool = False  # by the user, so that names in files don't count


FREE = Choice()


def images_in(folder: Path, endings: Sequence[str] = ()) -> list[Path]:
    """Image files of a folder by name, hidden ones left out; those of `endings` alone, if any are given."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if ending_of(path) and not path.name.startswith("."))
    return sorted(path for path in found if (not endings or ending_of(path) in endings) and _is_file_or_lost_link(path))


def _is_file_or_lost_link(path: Path) -> bool:
    """A link to nothing is listed, too, so that reading it says what is wrong."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def folders_in(folder: Path) -> list[Path]:
    """Its folders by name, hidden ones left out."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def pair_of(root: Path, case: str, image: Path, label: Path | None) -> Pair:
    """A pair; a label that isn't there is a missing one."""
    missing = None if label is None or label.is_file() else os.path.relpath(label, root)
    return Pair(case, image, None if missing else label, missing)


def by_id(pairs: Sequence[Pair]) -> tuple[Pair, ...]:
    """Sorted."""
    return tuple(sorted(pairs, key=lambda pair: pair.id))


def without_missing_channels(root: Path, pairs: Sequence[Pair]) -> tuple[list[Pair], list[Finding]]:
    """The pairs all of whose channels are there, and a finding for each other one."""
    kept, findings = [], []
    for pair in pairs:
        lost = [path for path in (pair.image, *pair.channels) if not path.exists()] if pair.channels else []
        if lost:
            findings.append(missing_channel(pair.id, os.path.relpath(lost[0], root)))
        else:
            kept.append(pair)
    return kept, findings


def with_missing_labels(pairs: Sequence[Pair], name: Callable[[Pair], str]) -> list[Pair]:
    """The pairs; where most have labels, each other one misses its own, whose name is `name` of it."""
    if 2 * sum(pair.label is not None for pair in pairs) <= len(pairs):
        return list(pairs)
    return [pair if pair.label or pair.missing else dataclasses.replace(pair, missing=name(pair)) for pair in pairs]


def lost_labels(root: Path, paths: Iterable[Path], what: str = "label") -> tuple[str, ...]:
    """A note on the labels that no image has, if there are any."""
    names = sorted(os.path.relpath(path, root) for path in paths)
    if not names:
        return ()
    return (f"{len(names)} {what}{' has' if len(names) == 1 else 's have'} no image: {some(names)}",)


def some(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)


def lost_in_list(root: Path, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """`lost_labels` in `labelsTr/` of a listed or numbered set; those of images that a list leaves out are not lost."""
    used = {os.path.abspath(pair.label) for pair in pairs if pair.label}
    labelled = {pair.id for pair in pairs if pair.label}
    stems = {stem_of(image) for image in images_in(root / "imagesTr")}
    known = (stems | {re.sub(r"_\d{4}$", "", stem) for stem in stems}) - labelled
    left = [path for path in images_in(root / "labelsTr") if os.path.abspath(path) not in used]
    return lost_labels(root, [path for path in left if stem_of(path) not in known])


def missing_channel(case: str, name: str, others: str = "") -> Finding:
    """A case that a channel is missing of; others: files of it that are of no channel."""
    instead = f"; there is {others}, a channel that dataset.json does not name" if others else ""
    return Finding(case, f"its channel {name} is missing{instead}", SKIPPED)


# --- dataset.json ----------------------------------------------------------------------------------------------------
def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; {} where there is no such file. Raises DataError for anything else."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path}: is no valid JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: should hold a JSON object")
    return value


def labels_of(facts: Mapping[str, Any], root: Path) -> dict[str, int] | None:
    """Name -> value of either direction: {"0": "background"} (MSD) or {"background": 0} (nnU-Net v2)."""
    labels = facts.get("labels")
    if not labels:
        return None
    try:
        pairs = [(v, int(k)) if isinstance(v, str) else (str(k), int(v)) for k, v in labels.items()]
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{root / 'dataset.json'}: labels should be names and whole numbers, not {labels}") from error
    return dict(sorted(pairs, key=lambda pair: pair[1]))


def channel_names_of(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the channels in order: `channel_names` (nnU-Net v2) or `modality` (MSD, nnU-Net v1)."""
    told = facts.get("modality") or facts.get("channel_names") or {}
    if isinstance(told, Mapping):
        numbered = all(str(key).isdigit() for key in told)
        return tuple(str(told[key]) for key in (sorted(told, key=lambda key: int(key)) if numbered else told))
    return tuple(map(str, told)) if isinstance(told, list) else (str(told),)


def described(root: Path, layout: str, facts: Mapping[str, Any], pairs: Sequence[Pair]) -> Folder:
    """A folder with what its `dataset.json` tells."""
    names = channel_names_of(facts)
    return Folder(
        layout,
        str(facts.get("name") or root.resolve().name),
        names[0] if names else "",
        labels_of(facts, root),
        str(facts.get("licence") or facts.get("license") or "not stated"),
        by_id(pairs),
        channel_names=names,
        root=root,
    )
