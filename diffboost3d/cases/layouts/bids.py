"""BIDS: raw images of `sub-XX[/ses-YY]/<datatype>/`, and their labels below `derivatives/`.

File names are entities (`sub-01`, `ce-gd`) and at the end a suffix (`T1w`), joined by `_`. A label's name has all that its
image's has, but maybe for the suffix, and something of its own besides: `dseg`, `label-lesion_mask`, `desc-manual_dseg`.
Names: https://bids-specification.readthedocs.io/en/stable/derivatives/imaging.html
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffboost3d.cases.layouts.folder import (
    FREE,
    BidsChoice,
    Folder,
    Pair,
    by_id,
    folders_in,
    images_in,
    lost_labels,
    missing_channel,
    read_json,
)
from diffboost3d.cases.layouts.table import read_rows
from diffboost3d.cases.records import Finding
from diffboost3d.errors import DataError
from diffboost3d.imaging.files import VOLUME_ENDINGS, ending_of, stem_of

LABEL_SUFFIXES = ("dseg", "mask", "seg", "label", "roi")
FIRST_DATATYPE = "anat"
MODALITIES = {"anat": "MRI", "ct": "CT", "pet": "PET"}


@dataclass(frozen=True)
class _File:
    """An image of the raw data; kind: its own entities (but sub and ses) and suffix."""

    path: Path
    subject: str
    datatype: str
    entities: tuple[str, ...]
    suffix: str

    @property
    def kind(self) -> str:
        own = [entity for entity in self.entities if not entity.startswith(("sub-", "ses-", "run-"))]
        return "_".join([*own, self.suffix])


@dataclass(frozen=True)
class _Label:
    """A label of the derivatives: the parts of its name, and the folder in `derivatives` that it is in."""

    path: Path
    pipeline: str
    parts: tuple[str, ...]


def is_bids(root: Path) -> bool:
    """Whether a subject's folder holds a datatype's with volumes."""
    return any(True for _ in _raw_files(root))


def read_bids(root: Path, choice: BidsChoice = FREE.bids) -> Folder:
    """Every image of the chosen kind is a case; entities that tell two images apart (session, run) are in its id.

    The patient is the subject. `dataset_description.json` gives name and licence, and a `*dseg.tsv` with columns `index` and
    `name` the names of the labels.

    Raises:
        DataError: several kinds of images or of labels and none chosen, or no such kind.
    """
    raw = list(_raw_files(root))
    wanted = choice.images or (_only_kind(root, raw),)
    groups = _grouped(root, raw, wanted)
    labels = [label for label in _label_files(root) if len(label.parts) > 1]
    kinds = {case: _kinds_of(files, labels) for case, files in groups.items()}
    kind = _chosen_label(root, kinds.values(), choice.label)
    pairs, findings = [], []
    for case, files in groups.items():
        if lost := [name for name in wanted if name not in files]:
            findings.append(missing_channel(case, lost[0]))
            continue
        found = kinds[case].get(kind, []) if kind else []
        if len(found) > 1:
            findings.append(Finding(case, f"two labels: {found[0].name}, {found[1].name}", "the case is skipped"))
            continue
        first, *others = (files[name] for name in wanted)
        missing = f"{kind} in derivatives" if kind and not found else None
        pairs.append(
            Pair(
                case,
                first.path,
                found[0] if found else None,
                missing,
                tuple(other.path for other in others),
                patient=first.subject,
            )
        )
    alone = [label.path for label in labels if all(_left(file, label) is None for file in raw)]
    folder = _described(root, pairs, findings, wanted, raw, kind)
    return dataclasses.replace(folder, notes=lost_labels(root, alone))


def _described(
    root: Path,
    pairs: Sequence[Pair],
    findings: Sequence[Finding],
    wanted: Sequence[str],
    raw: Sequence[_File],
    kind: str | None,
) -> Folder:
    facts = read_json(root / "dataset_description.json")
    datatypes = Counter(file.datatype for file in raw if file.kind == wanted[0])
    datatype = datatypes.most_common(1)[0][0] if datatypes else ""
    return Folder(
        "bids",
        str(facts.get("Name") or root.resolve().name),
        MODALITIES.get(datatype, ""),
        _label_names(root, kind),
        str(facts.get("License") or "not stated"),
        by_id(pairs),
        channel_names=tuple(wanted),
        findings=tuple(findings),
        root=root,
    )


# --- images ----------------------------------------------------------------------------------------------------------
def _raw_files(root: Path) -> Iterator[_File]:
    """Volumes below `sub-*/` and `sub-*/ses-*/`."""
    for subject in folders_in(root):
        if not subject.name.startswith("sub-"):
            continue
        places = [subject, *(one for one in folders_in(subject) if one.name.startswith("ses-"))]
        for datatype in (one for place in places for one in folders_in(place)):
            for path in images_in(datatype, VOLUME_ENDINGS):
                *entities, suffix = stem_of(path).split("_")
                if entities and entities[0] == subject.name and "-" not in suffix:
                    yield _File(path, subject.name, datatype.name, tuple(entities), suffix)


def _only_kind(root: Path, raw: Sequence[_File]) -> str:
    """The kind that all images are of; those in `anat` decide, where there are any."""
    candidates = [file for file in raw if file.datatype == FIRST_DATATYPE] or list(raw)
    kinds = Counter(file.kind for file in candidates)
    if len(kinds) == 1:
        return next(iter(kinds))
    if not kinds:
        raise DataError(f"{root}: no volumes below sub-*/<datatype>/ or sub-*/ses-*/<datatype>/")
    listed = ", ".join(f"{kind} ({count})" for kind, count in sorted(kinds.items()))
    example = kinds.most_common(1)[0][0]
    raise DataError(
        f"{root}: images of several kinds: {listed}; choose, in the order of the channels: data.bids.images=[{example}]"
    )


def _grouped(root: Path, raw: Sequence[_File], wanted: Sequence[str]) -> dict[str, dict[str, _File]]:
    """Case id -> kind -> file. The id is made of the entities that are no part of the kind."""
    groups: dict[str, dict[str, _File]] = {}
    for file in raw:
        if file.kind not in wanted:
            continue
        case = "_".join(entity for entity in file.entities if entity not in file.kind.split("_"))
        if other := groups.setdefault(case, {}).get(file.kind):
            raise DataError(f"{root}: {other.path.name} and {file.path.name} could both be {file.kind} of {case}")
        groups[case][file.kind] = file
    if not groups:
        known = ", ".join(sorted({file.kind for file in raw})) or "none"
        raise DataError(f"{root}: no image of kind {', '.join(wanted)} (data.bids.images); there are: {known}")
    return groups


# --- labels ----------------------------------------------------------------------------------------------------------
def _label_files(root: Path) -> Iterator[_Label]:
    """Volumes below `derivatives/`, in a pipeline's folder or directly there, whose names tell that they are labels."""
    derivatives = root / "derivatives"
    if not derivatives.is_dir():
        return
    for path in sorted(derivatives.rglob("sub-*")):
        if ending_of(path) and path in images_in(path.parent, VOLUME_ENDINGS):
            parts = tuple(stem_of(path).split("_"))
            inner = path.relative_to(derivatives).parts
            pipeline = "" if inner[0].startswith("sub-") else inner[0]
            if parts[-1] in LABEL_SUFFIXES or any(part.startswith(("label-", "seg-")) for part in parts):
                yield _Label(path, pipeline, parts)


def _kinds_of(files: dict[str, _File], labels: Sequence[_Label]) -> dict[str, list[Path]]:
    """Kind -> files, of the labels of a case: what is left of their names without that of one of its images."""
    kinds: dict[str, list[Path]] = {}
    for label in labels:
        rests = (_left(file, label) for file in files.values())
        left = [rest for rest in rests if rest is not None]
        if left:
            shortest = min(left, key=len)
            kind = "_".join(shortest)
            kinds.setdefault(f"{label.pipeline}/{kind}" if label.pipeline else kind, []).append(label.path)
    return kinds


def _left(file: _File, label: _Label) -> tuple[str, ...] | None:
    """What a label's name has besides an image's; None where it isn't that image's."""
    if not set(file.entities) <= set(label.parts):
        return None
    foreign = {part.partition("-")[0] for part in label.parts if part not in file.entities}
    if foreign & {"sub", "ses", "run", "acq", "ce", "echo"}:
        return None
    return tuple(part for part in label.parts if part not in file.entities and part != file.suffix)


def _chosen_label(root: Path, found: Iterable[dict[str, list[Path]]], choice: str | None) -> str | None:
    """The kind of label that is meant; None where there are no labels."""
    counts = Counter(kind for kinds in found for kind in kinds)
    listed = ", ".join(f"{kind} ({count})" for kind, count in sorted(counts.items())) or "none"
    fitting = sorted(kind for kind in counts if choice is None or choice in (kind, kind.partition("/")[2]))
    if len(fitting) == 1:
        return fitting[0]
    if choice is not None:
        what = "several labels" if fitting else "no label"
        raise DataError(f"{root}: {what} of kind {choice} (data.bids.label) in derivatives; there are: {listed}")
    if fitting:
        raise DataError(f"{root}: labels of several kinds: {listed}; choose one: data.bids.label={fitting[0]}")
    return None


def _label_names(root: Path, kind: str | None) -> dict[str, int] | None:
    """Of the one table that tells them, in the label's folder of derivatives or in the root."""
    if kind is None:
        return None
    pipeline = root / "derivatives" / kind.partition("/")[0] if "/" in kind else root / "derivatives"
    tables = [*pipeline.glob("*dseg.tsv"), *root.glob("*dseg.tsv")]
    if len(tables) != 1:
        return None
    columns, rows = read_rows(tables[0])
    if not {"index", "name"} <= set(columns):
        return None
    try:
        values = {row["name"]: int(row["index"]) for row in rows}
    except ValueError as error:
        raise DataError(f"{tables[0]}: its column index should hold whole numbers ({error})") from error
    named = values if 0 in values.values() else {"background": 0, **values}
    return dict(sorted(named.items(), key=lambda pair: pair[1]))
