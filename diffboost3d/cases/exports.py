"""What an exported data set holds: names, who may be trained on where, labels in a row, and the files that describe it.

A synthetic volume of fold k was made by a generator that saw the training side of fold k. It is in no list but the
training list of fold k, and then only where its case is trained on.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from diffboost3d.cases.accepted import Child, FoldVolumes
from diffboost3d.cases.records import Case, Manifest
from diffboost3d.errors import DataError, WorkspaceError
from diffboost3d.imaging.files import PICTURE_ENDINGS, ending_of

TRAINING, VALIDATION, TEST = "Tr", "Val", "Ts"
IGNORE = "ignore"
ONE_FILE = {".nhdr": ".nrrd", ".mhd": ".mha"}


@dataclass(frozen=True)
class Entry:
    """One image of the data set; child: None for a real one; part: TRAINING, VALIDATION or TEST, the end of its folder."""

    name: str
    case: Case
    child: Child | None
    part: str


def entries_of(manifest: Manifest, folds: Sequence[FoldVolumes], apart: bool, with_test: bool) -> list[Entry]:
    """The images of a data set, real ones first.

    Args:
        apart: validation cases go into folders of their own; else into those of training, for a file of splits to tell.
        with_test: with the test cases that no fold of these trains on or validates with.

    Raises:
        DataError: a real case has a synthetic volume's name.
    """
    training = {case for fold in folds for case in fold.split.training}
    validation = {case for fold in folds for case in fold.split.validation} - training
    test = {case for fold in folds for case in fold.split.test} - training - validation
    parts = dict.fromkeys(training, TRAINING) | dict.fromkeys(validation, VALIDATION if apart else TRAINING)
    if with_test:
        parts |= dict.fromkeys(test, TEST)
    real = [Entry(case.id, case, None, parts[case.id]) for case in manifest.cases if case.id in parts]
    cases = {case.id: case for case in manifest.cases}
    made = [
        Entry(synthetic_name(child), cases[child.record.case], child, TRAINING)
        for fold in folds
        for child in fold.children
    ]
    if twins := sorted({entry.name for entry in real} & {entry.name for entry in made}):
        raise DataError(f"the case {twins[0]} has the name of a synthetic volume; rename it and run `prepare` again")
    return real + made


def synthetic_name(child: Child) -> str:
    """Case, fold and sample of a synthetic volume."""
    return f"{child.record.case}_fold{child.record.fold}_synthetic{child.record.sample:02d}"


def splits_of(manifest: Manifest, folds: Sequence[FoldVolumes]) -> list[dict[str, list[str]]]:
    """nnU-Net's splits_final.json: for each fold what it trains on, with its own synthetic volumes, and real validation cases.

    Raises:
        WorkspaceError: a patient is on both sides of a fold.
    """
    patients = {case.id: case.patient for case in manifest.cases}
    splits = []
    for fold in folds:
        sources = {*fold.split.training, *(child.record.case for child in fold.children)}
        held_out = (*fold.split.validation, *fold.split.test)
        both = {patients[case] for case in sources} & {patients[case] for case in held_out}
        if both or not {child.record.fold for child in fold.children} <= {fold.fold}:
            who = min(both, default="a synthetic volume of another fold")
            raise WorkspaceError(f"fold {fold.fold} would train on {who}, which it holds out; run `prepare` again")
        training = [*fold.split.training, *(synthetic_name(child) for child in fold.children)]
        splits.append({"train": training, "val": list(fold.split.validation)})
    return splits


def label_numbers(manifest: Manifest) -> dict[str, int]:
    """Label name -> number in the exported files: background 0, then 1, 2, ... in the manifest's order, `ignore` last.

    The declared `ignore_label` is exported as nnU-Net's `ignore`.

    Raises:
        DataError: a label other than 0 is called background.
    """
    names = sorted(list(manifest.labels)[1:], key=lambda name: name.lower() == IGNORE)
    names = [IGNORE if name.lower() == IGNORE else name for name in names]
    if "background" in names:
        raise DataError(f"the label of value {manifest.labels['background']} is called background, but 0 is; rename it")
    if manifest.ignore_label is not None and IGNORE not in names:
        names.append(IGNORE)
    return {name: number for number, name in enumerate(["background", *names])}


def renumbering(manifest: Manifest) -> dict[int, int]:
    """Value in the user's label files -> number in the exported ones."""
    names = ["background", *(IGNORE if name.lower() == IGNORE else name for name in list(manifest.labels)[1:])]
    numbers = label_numbers(manifest)
    found = {value: numbers[name] for name, value in zip(names, manifest.labels.values(), strict=True)}
    found |= {value: found[counts_as] for value, counts_as in manifest.merged.items()}
    return found if manifest.ignore_label is None else {**found, manifest.ignore_label: numbers[IGNORE]}


def file_ending(entries: Iterable[Entry]) -> str:
    """The one ending of all files. Raises DataError where pictures and volumes are mixed.

    .png for pictures; .nii, .nrrd or .mha where all are so (.nhdr and .mhd, of two files each, become .nrrd and .mha), which
    nnU-Net reads, too; else .nii.gz.
    """
    named = (ending_of(entry.case.image) or ".nii.gz" for entry in entries)  # DICOM has none
    endings = {ONE_FILE.get(ending, ending) for ending in named}
    pictures = endings & set(PICTURE_ENDINGS)
    if pictures and endings - pictures:
        raise DataError(f"the data set mixes {' and '.join(sorted(endings))}; keep pictures and volumes apart")
    if pictures:
        return ".png"
    return endings.pop() if len(endings) == 1 else ".nii.gz"


def channel_names(manifest: Manifest) -> dict[str, str]:
    """Number -> name. `CT` for channels in HU, so that nnU-Net normalises them alike; each other image by itself.

    A single channel is called as the modality.
    """
    if manifest.channel_count == 1:
        return {"0": _only_channel(manifest)}
    maps = manifest.cases[0].maps
    names = ["CT" if one.unit == "HU" else name for name, one in zip(manifest.channels, maps, strict=True)]
    return {str(number): name for number, name in enumerate(names)}


def _only_channel(manifest: Manifest) -> str:
    is_ct = manifest.modality.strip().upper() == "CT" or any(
        case.intensity.kind == "ct_window" for case in manifest.cases
    )
    return "CT" if is_ct else manifest.modality


def plain_name(name: str) -> str:
    """A data set's name as one word of letters and digits."""
    words: list[str] = re.findall(r"[A-Za-z0-9]+", name)
    return "".join(word[:1].upper() + word[1:] for word in words) or "Dataset"


def nnunet_facts(manifest: Manifest, entries: Sequence[Entry], ending: str, version: str) -> dict[str, Any]:
    """dataset.json of nnU-Net v2."""
    return {
        "channel_names": channel_names(manifest),
        "labels": label_numbers(manifest),
        "numTraining": sum(entry.part == TRAINING for entry in entries),
        "file_ending": ending,
        **_about(manifest, entries, version),
    }


def msd_facts(manifest: Manifest, entries: Sequence[Entry], ending: str, version: str) -> dict[str, Any]:
    """dataset.json of the Medical Segmentation Decathlon; `validation` is a list beside `training`, as MONAI reads it."""

    def pairs(part: str) -> list[dict[str, str]]:
        return [
            {"image": f"./images{part}/{entry.name}{ending}", "label": f"./labels{part}/{entry.name}{ending}"}
            for entry in entries
            if entry.part == part
        ]

    training, validation = pairs(TRAINING), pairs(VALIDATION)
    test = [f"./images{TEST}/{entry.name}{ending}" for entry in entries if entry.part == TEST]
    return {
        **_about(manifest, entries, version),
        "tensorImageSize": f"{manifest.spatial_dims}D",
        "modality": channel_names(manifest),
        "labels": {str(number): name for name, number in label_numbers(manifest).items()},
        "numTraining": len(training),
        "numTest": len(test),
        "training": training,
        "validation": validation,
        "test": test,
    }


def _about(manifest: Manifest, entries: Sequence[Entry], version: str) -> dict[str, Any]:
    made = sum(entry.child is not None for entry in entries)
    numbers = renumbering(manifest)
    return {
        "name": manifest.name,
        "description": (
            f"{manifest.name}: {len(entries) - made} real and {made} SYNTHETIC images; the synthetic ones have _synthetic in "
            "their names, were made from real training cases, and are not anonymised. Not for clinical use."
        ),
        "reference": f"diffboost3d {version}; the real images: see the source of {manifest.name}",
        "licence": f"{manifest.licence} (of the real images; the synthetic ones derive from them)",
        "release": version,
        "label_values_before": {name: value for name, value in manifest.labels.items() if numbers[value] != value},
    }


def provenance(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """What each image is: its case and patient; of a synthetic one, how it was made."""
    return [
        {
            "name": entry.name,
            "part": entry.part,
            "case": entry.case.id,
            "patient": entry.case.patient,
            "synthetic": entry.child is not None,
            **({} if entry.child is None else {"record": _record(entry.child)}),
        }
        for entry in entries
    ]


def _record(child: Child) -> dict[str, Any]:
    left_out = ("path", "label", "channels")
    return {key: value for key, value in dataclasses.asdict(child.record).items() if key not in left_out}
