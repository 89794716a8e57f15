"""The layout `dicom`: patients, studies and series in folders of any depth, labels as DICOM-SEG or as files in `labels/`.

Nothing of a patient's identity is passed on: cases are named by their folders, and patients are numbered.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffboost3d.cases.layouts.folder import (
    SKIPPED,
    Folder,
    Pair,
    described,
    images_in,
    lost_labels,
    read_json,
    with_missing_labels,
)
from diffboost3d.cases.records import Finding
from diffboost3d.errors import DataError
from diffboost3d.imaging.dicom import Series, is_dicom, series_in
from diffboost3d.imaging.dicom_segments import segments_of
from diffboost3d.imaging.files import VOLUME_ENDINGS, ending_of, stem_of

LABELS = "labels"  # folder, in the data folder, of label files named as series' folders or cases
MODALITIES = {"CT": "CT", "MR": "MRI", "US": "Ultrasound", "PT": "PET"}


@dataclass(frozen=True)
class DicomCase:
    """The series of a case, a channel each, and the path that `imaging.files.read` takes for each."""

    id: str
    series: tuple[Series, ...]
    paths: tuple[Path, ...]


def has_dicom(root: Path) -> bool:
    """Whether there is a DICOM file anywhere in a folder."""
    files = (path for path in sorted(root.rglob("*")) if not path.name.startswith(".") and path.is_file())
    return any(is_dicom(path) and not ending_of(path) for path in files)


def read_dicom(root: Path, patterns: Sequence[str] = ()) -> Folder:
    """The cases of a folder of DICOM files with their labels; see `dicom_cases`.

    Raises:
        DataError: as `dicom_cases`. A case whose DICOM-SEG is damaged is among the findings.
    """
    found = series_in(root)
    cases, left_out = _cases(root, found, patterns)
    patients = _patients(cases)
    drawn: dict[str, list[Path]] = {}
    for one in found:
        for uid in one.references if one.kind == "segmentation" else ():
            drawn.setdefault(uid, []).extend(one.files)
    pairs, used = [], []
    for case in cases:
        label, missing = _label_file(root, case)
        segments = sorted({path for one in case.series for path in drawn.get(one.uid, [])}) if label is None else []
        try:
            labels_of_segments(segments)
        except DataError as error:
            left_out.append(Finding(case.id, str(error), SKIPPED))
            continue
        used += segments
        pairs.append(
            Pair(
                case.id,
                case.paths[0],
                segments[0] if segments else label,
                None if segments else missing,
                channels=case.paths[1:],
                masks=tuple(segments[1:]),
                patient=patients[case.id],
            )
        )
    pairs = with_missing_labels(pairs, lambda pair: "DICOM-SEG of its series")
    kinds = {MODALITIES.get(one.modality, "") for case in cases for one in case.series}
    folder = described(root, "dicom", read_json(root / "dataset.json"), pairs)
    return dataclasses.replace(
        folder,
        modality=folder.modality or (kinds.pop() if len(kinds) == 1 else ""),
        labels=folder.labels or labels_of_segments(used),
        channel_names=folder.channel_names or (tuple(patterns) if len(patterns) > 1 else ()),
        findings=tuple(left_out),
        notes=(*_of_copies(root, found), *_lost_labels(root, found, cases)),
    )


def _of_copies(root: Path, found: Sequence[Series]) -> tuple[str, ...]:
    """A note on files that are copies of others, if there are any."""
    copies = sorted(path for one in found for path in one.copies)
    if not copies:
        return ()
    what = "DICOM files are copies of others" if len(copies) > 1 else "DICOM file is a copy of another"
    return (f"{len(copies)} {what}, e.g. {os.path.relpath(copies[0], root)}; each is taken once",)


def _lost_labels(root: Path, found: Sequence[Series], cases: Sequence[DicomCase]) -> tuple[str, ...]:
    """A note on DICOM-SEG of series that are not there, and one on files in `labels/` of no case or series."""
    images = {one.uid for one in found if one.kind == "image"}
    drawn = [one for one in found if one.kind == "segmentation" and not images & set(one.references)]
    names = {case.id for case in cases} | {_folder_of(one).name for one in found if one.kind == "image"}
    files = [path for path in images_in(root / LABELS, VOLUME_ENDINGS) if stem_of(path) not in names]
    segments = [path for one in drawn for path in one.files]
    return (*lost_labels(root, segments, "DICOM-SEG file"), *lost_labels(root, files))


def dicom_cases(root: Path, patterns: Sequence[str] = ()) -> tuple[list[DicomCase], list[Finding]]:
    """The cases in a folder, and a finding for each folder or study that is left out.

    Args:
        patterns: regular expressions, one a channel, that a series' description or its folder's name has in it, upper or lower
            case; a name that is just the pattern goes before others. A study is one case then. (): each series is a case.

    Raises:
        DataError: no series, or none of them can be used.
    """
    return _cases(root, series_in(root), patterns)


def _cases(root: Path, found: Sequence[Series], patterns: Sequence[str]) -> tuple[list[DicomCase], list[Finding]]:
    images = [one for one in found if one.kind == "image"]
    if not images:
        raise DataError(f"{root}: no DICOM images found")
    groups, left_out = _by_study(root, images, patterns) if patterns else _one_a_folder(root, images)
    cases = []
    for name, group in zip(_ids(root, groups), groups, strict=True):
        try:
            cases.append(DicomCase(name, group, tuple(_path_of(one, images) for one in group)))
        except DataError as error:
            left_out.append(Finding(name, str(error), SKIPPED))
    if not cases:
        raise DataError(f"{root}: no series can be used; the first: {left_out[0]}")
    return sorted(cases, key=lambda case: case.id), left_out


def labels_of_segments(paths: Sequence[Path]) -> dict[str, int] | None:
    """Label names and values of DICOM-SEG files: the segments' numbers where all files agree on them, else 1, 2, ... by name."""
    told = [(name, number) for path in paths for number, name in segments_of(path).items() if number]
    if not told:
        return None
    names, numbers = Counter(name for name, _ in set(told)), Counter(number for _, number in set(told))
    agree = max(names.values()) == 1 and max(numbers.values()) == 1
    values = dict(told) if agree else {name: number for number, name in enumerate(sorted(names), 1)}
    return {"background": 0, **dict(sorted(values.items(), key=lambda one: one[1]))}


# --- which series -------------------------------------------------------------------------------------------------------
def _folder_of(series: Series) -> Path:
    return Path(os.path.commonpath([path.parent for path in series.files]))


def _one_a_folder(root: Path, images: Sequence[Series]) -> tuple[list[tuple[Series, ...]], list[Finding]]:
    """The series of each folder: of several the one that can be read as a volume; a finding for each that has more."""
    folders: dict[Path, list[Series]] = {}
    for one in images:
        folders.setdefault(_folder_of(one), []).append(one)
    chosen: list[tuple[Series, ...]] = []
    findings = []
    for folder, there in folders.items():
        usable = [one for one in there if one.problem is None] or there
        if len(usable) > 1:
            named = "; ".join(str(one) for one in usable)
            what = f"{len(there)} DICOM series ({named}) in one folder; choose by data.series=[PATTERN], or part them"
            findings.append(Finding(os.path.relpath(folder, root), what, SKIPPED))
        else:
            chosen.append((usable[0],))
    return chosen, findings


def _by_study(
    root: Path, images: Sequence[Series], patterns: Sequence[str]
) -> tuple[list[tuple[Series, ...]], list[Finding]]:
    """One case a study, a series a pattern; and a finding for each study that has none or several for one."""
    studies: dict[str, list[Series]] = {}
    for one in images:
        studies.setdefault(one.study, []).append(one)
    groups, findings = [], []
    for there in studies.values():
        matches = [_matching(pattern, there) for pattern in patterns]
        where = os.path.relpath(os.path.commonpath([_folder_of(one) for one in there]), root)
        lacking = [
            f"no series matches data.series {pattern!r} ({'; '.join(str(one) for one in there)})"
            if not matching
            else f"{len(matching)} series match data.series {pattern!r} ({'; '.join(map(str, matching))})"
            for pattern, matching in zip(patterns, matches, strict=True)
            if len(matching) != 1
        ]
        if lacking:
            findings.append(Finding(where, lacking[0], SKIPPED))
        else:
            groups.append(tuple(matching[0] for matching in matches))
    return groups, findings


def _matching(pattern: str, there: Sequence[Series]) -> list[Series]:
    names = {one.uid: (one.description, _folder_of(one).name) for one in there}
    for match in (re.fullmatch, re.search):
        found = [one for one in there if any(match(pattern, name, re.IGNORECASE) for name in names[one.uid])]
        if found:
            return [one for one in found if one.problem is None] or found
    return []


def _path_of(series: Series, images: Sequence[Series]) -> Path:
    """The series' folder where that says which one is meant, else its first file.

    Raises:
        DataError: neither does.
    """
    folder = _folder_of(series)
    others = [one for one in images if one.uid != series.uid and folder in {*one.files[0].parents}]
    if others and len({path.parent for path in series.files}) > 1:  # a file says its own folder's part only
        raise DataError(
            f"{folder}: a series ({series.description or series.uid}) lies in several folders among files of other series; "
            "put it into a folder of its own"
        )
    return series.files[0] if others else folder


# --- names --------------------------------------------------------------------------------------------------------------
def _ids(root: Path, groups: Sequence[tuple[Series, ...]]) -> list[str]:
    """A safe name for each case: its folders below `root`; where that is not enough its description, then a digest of its UID."""
    ids = []
    for group in groups:
        folder = Path(os.path.commonpath([_folder_of(one) for one in group]))
        parts = folder.relative_to(root).parts or (root.resolve().name,)
        ids.append("_".join(_safe(part) for part in parts))
    descriptions = [_safe(group[0].description) for group in groups]
    digests = [hashlib.sha256(group[0].uid.encode()).hexdigest()[:8] for group in groups]
    for more in (descriptions, digests):
        often = Counter(ids)
        ids = [f"{name}_{one}" if often[name] > 1 else name for name, one in zip(ids, more, strict=True)]
    return ids


def _safe(text: str) -> str:
    """Letters, digits, points, hyphens and underscores, so that it can be the name of a folder anywhere."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "series"


def _patients(cases: Sequence[DicomCase]) -> dict[str, str]:
    """Case id -> patient, numbered in the order of the cases; where there is no PatientID the study stands for it."""
    numbers: dict[str, int] = {}
    patients = {}
    for case in cases:
        first = case.series[0]
        known = first.patient or f"study {first.study}"
        patients[case.id] = f"patient_{numbers.setdefault(known, len(numbers) + 1):03d}"
    return patients


def _label_file(root: Path, case: DicomCase) -> tuple[Path | None, str | None]:
    """The label file in `labels/` named as the case or as its series' folder; else the name of the one that is missing."""
    folder = root / LABELS
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    named = {stem_of(path): path for path in files if ending_of(path) in VOLUME_ENDINGS}
    for name in (case.id, _folder_of(case.series[0]).name):
        if name in named:
            return named[name], None
    return None, f"{LABELS}/{case.id}{VOLUME_ENDINGS[0]}" if named else None
