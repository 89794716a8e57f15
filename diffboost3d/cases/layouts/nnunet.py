"""The raw layout of nnU-Net, versions 1 and 2: one file a channel, `imagesTr/CASE_0000`, `CASE_0001`, `labelsTr/CASE`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffboost3d.cases.layouts.folder import (
    Folder,
    Pair,
    described,
    images_in,
    lost_in_list,
    missing_channel,
    pair_of,
    read_json,
)
from diffboost3d.cases.records import Finding
from diffboost3d.errors import DataError
from diffboost3d.imaging.files import ENDINGS, ending_of, stem_of

IGNORE = "ignore"


def read_nnunet(root: Path) -> Folder:
    """`dataset.json` of version 1 (`modality`, `training`) or 2 (`channel_names`, `file_ending`, maybe `dataset`), or none.

    A label called `ignore` is that of voxels that nobody labelled. Regions (labels of several values) are no labels: the
    values they are made of are taken as they are.
    """
    facts = read_json(root / "dataset.json")
    regions = _regions(facts)
    labels = {} if regions else facts.get("labels") or {}
    ignored = _ignored(facts.get("labels"), root)
    known = {name: value for name, value in labels.items() if name != IGNORE} if isinstance(labels, dict) else labels
    folder = described(root, "nnunet", {**facts, "labels": known}, [])
    listed = facts.get("dataset")
    cases = _listed(root, listed) if isinstance(listed, dict) and listed else _found(root, facts)
    kept, unlisted = _of_the_list(facts, cases)
    count = len(folder.channel_names) or max((len(numbers) for numbers in kept.values()), default=1)
    pairs, findings = _pairs(root, facts, kept, count, isinstance(listed, dict) and bool(listed))
    notes = [*lost_in_list(root, pairs)]
    if regions:
        notes.append(
            f"dataset.json has regions ({', '.join(regions)}), which share voxels; each label value is learned as a label of "
            "its own (data.labels names them)"
        )
    return dataclasses.replace(
        folder,
        pairs=tuple(sorted(pairs, key=lambda pair: pair.id)),
        unlisted=unlisted,
        ignore_label=ignored,
        findings=tuple(findings),
        notes=tuple(notes),
    )


def _regions(facts: Mapping[str, Any]) -> list[str]:
    """Names of labels that are made of several values."""
    labels = facts.get("labels")
    if not isinstance(labels, dict):
        return []
    return [
        str(name)
        for name, value in labels.items()
        if isinstance(value, list) and value and all(isinstance(one, int) for one in value)
    ]


def _ignored(labels: Any, root: Path) -> int | None:
    if not isinstance(labels, dict) or IGNORE not in labels:
        return None
    try:
        return int(labels[IGNORE])
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{root / 'dataset.json'}: labels should be names and whole numbers; {IGNORE} is {labels[IGNORE]}"
        ) from error


def _found(root: Path, facts: Mapping[str, Any]) -> dict[str, dict[int, Path]]:
    """Case -> channel number -> file, of those in imagesTr. A case's own name may end in four digits, too."""
    ending = str(facts.get("file_ending") or "").lower()
    images = images_in(root / "imagesTr")
    if ending and ending not in ENDINGS:
        raise DataError(f"{root / 'dataset.json'}: file_ending={ending} can't be read; allowed: {', '.join(ENDINGS)}")
    if ending and images and not any(image.name.lower().endswith(ending) for image in images):
        raise DataError(f"{root / 'dataset.json'}: file_ending={ending}, but {images[0].name} is in imagesTr")
    images = [image for image in images if image.name.lower().endswith(ending)]
    stems = {stem_of(image) for image in images}
    labels = {stem_of(label) for label in images_in(root / "labelsTr")}
    cases: dict[str, dict[int, Path]] = {}
    for image in images:
        stem = stem_of(image)
        match = re.fullmatch(r"(.+)_(\d{4})", stem)
        if match is None or stem in labels or not (f"{match[1]}_0000" in stems or match[1] in labels):
            cases.setdefault(stem, {})[0] = image
        else:
            cases.setdefault(match[1], {})[int(match[2])] = image
    return cases


def _listed(root: Path, listed: Mapping[str, Any]) -> dict[str, dict[int, Path]]:
    """The cases under "dataset", of version 2: {case: {"images": [...], "label": ...}}."""
    cases = {}
    for case, entry in listed.items():
        images = entry.get("images") if isinstance(entry, dict) else None
        if not isinstance(images, list) or not images:
            raise DataError(f"{root / 'dataset.json'}: dataset.{case} names no images")
        cases[str(case)] = {number: root / str(image) for number, image in enumerate(images)}
    return cases


def _of_the_list(facts: Mapping[str, Any], cases: dict[str, dict[int, Path]]) -> tuple[dict[str, dict[int, Path]], int]:
    """Those under "training", of version 1, without their channels' numbers; and how many images others have."""
    entries = facts.get("training")
    if not isinstance(entries, list) or not entries:
        return cases, 0
    named = [str(entry.get("image", "") if isinstance(entry, dict) else entry) for entry in entries]
    wanted = {stem_of(name) for name in named}
    wanted |= {stem.removesuffix("_0000") for stem in wanted}
    kept = {case: channels for case, channels in cases.items() if case in wanted}
    return kept, sum(len(channels) for case, channels in cases.items() if case not in wanted)


def _pairs(
    root: Path, facts: Mapping[str, Any], cases: Mapping[str, dict[int, Path]], count: int, is_listed: bool
) -> tuple[list[Pair], list[Finding]]:
    pairs, findings = [], []
    labels: dict[str, list[Path]] = {}
    for path in images_in(root / "labelsTr"):
        labels.setdefault(stem_of(path), []).append(path)
    for case, channels in cases.items():
        lost = [number for number in range(count) if number not in channels or not channels[number].is_file()]
        if lost and (count > 1 or is_listed or lost[0] not in channels):
            there = f"{case}_{lost[0]:04d}" if lost[0] not in channels else channels[lost[0]].name
            more = ", ".join(path.name for number, path in sorted(channels.items()) if number >= count)
            findings.append(missing_channel(case, there, more))
            continue
        first, *others = (channels[number] for number in sorted(channels))
        if is_listed:
            told = facts["dataset"][case].get("label")
            label = root / str(told) if told else None
        else:
            label = _label_of(root / "labelsTr", case, first, labels.get(case, []))
        pairs.append(dataclasses.replace(pair_of(root, case, first, label), channels=tuple(others)))
    return pairs, findings


def _label_of(folder: Path, case: str, image: Path, there: Sequence[Path]) -> Path:
    """Of the labels of a case's name the one with its image's ending, else the first; where there are none, what is missing."""
    own = folder / f"{case}{ending_of(image)}"
    return own if own in there or not there else there[0]


def lists_channels(root: Path, training: Sequence[Any]) -> bool:
    """Whether a list of training pairs is nnU-Net's of version 1, which leaves out the channels' numbers of the file names."""
    for entry in training:
        name = entry.get("image") if isinstance(entry, dict) else entry
        if not isinstance(name, str) or (root / name).is_file():
            return False
        image = root / name
        if image.with_name(f"{stem_of(image)}_0000{ending_of(image)}").is_file():
            return True
    return False
