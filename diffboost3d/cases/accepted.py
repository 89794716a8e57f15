"""Which synthetic volumes of a fold may be used outside: finished, accepted, and made without any of its held-out patients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diffboost3d.cases.records import Manifest, Split, SyntheticRecord
from diffboost3d.cases.workspace import CONFIG, Workspace
from diffboost3d.errors import WorkspaceError


@dataclass(frozen=True)
class Child:
    """An accepted synthetic volume: its record, its image, its own label (None: it has that of its case), further channels."""

    record: SyntheticRecord
    image: Path
    label: Path | None
    channels: tuple[Path, ...] = ()


@dataclass(frozen=True)
class FoldVolumes:
    """The cases of a fold, and the children of its training cases, by case and sample."""

    fold: int
    split: Split
    children: tuple[Child, ...]


def read_fold(workspace: Workspace, manifest: Manifest, fold: int, samples: int | None = None) -> FoldVolumes:
    """The accepted synthetic volumes of a fold.

    Args:
        samples: volumes a case, at most, the first ones; None: all. 0: none is looked for, nor need there be any.

    Raises:
        WorkspaceError: not synthesized yet, a volume is missing, or it was made by another generator than the fold's, or by
            one that saw other cases than the present splits allow.
    """
    split = workspace.read_split(fold)
    if samples == 0:
        return FoldVolumes(fold, split, ())
    workspace.require(workspace.synthetic(fold), "synthesize")
    model = _checked_generator(workspace, manifest, fold, split)
    records = _by_sample(workspace, fold, set(split.training))
    refined = any(record.refiner for found in records.values() for _, record in found)
    refiner = _checked_refiner(workspace, manifest, fold, split) if refined else ""
    children: list[Child] = []
    for case in split.training:
        accepted = []
        for sample in _wanted(workspace, fold, records, case):
            found = records.get((case, sample), [])
            if not found:
                raise WorkspaceError(
                    f"{workspace.synthetic_record(fold, case, sample)} is missing: run `diffboost3d synthesize` again"
                )
            accepted += [
                _child(workspace, fold, path, record, model, refiner) for path, record in found if record.accepted
            ]
        children += accepted[:samples]
    return FoldVolumes(fold, split, tuple(children))


def _checked_generator(workspace: Workspace, manifest: Manifest, fold: int, split: Split) -> str:
    """Digest of the fold's generator, which must have learned from the fold's own side only."""
    finetuned = workspace.require(workspace.finetuned(fold), "finetune")
    pretrained = workspace.require(workspace.pretrained(fold), "pretrain")
    leaked = _leaked(manifest, split, {*finetuned["training"], *pretrained["training"]})
    if leaked or set(finetuned["training"]) != set(split.training):
        what = f"saw {leaked[0]}, now held out" if leaked else "was trained on other cases"
        raise WorkspaceError(
            f"fold {fold}: the splits have changed since its generator was trained ({what}): run `diffboost3d pretrain`, "
            "`finetune` and `synthesize` again"
        )
    return str(finetuned["digest"])


def _checked_refiner(workspace: Workspace, manifest: Manifest, fold: int, split: Split) -> str:
    """Digest of the fold's refiner, which must have learned from the fold's own side only."""
    record = workspace.require(workspace.refiner(fold), "train-refiner")
    if leaked := _leaked(manifest, split, set(record["training"])):
        raise WorkspaceError(
            f"fold {fold}: the splits have changed since its refiner was trained (saw {leaked[0]}, now held out): run "
            "`diffboost3d train-refiner` and `synthesize` again"
        )
    return str(record["digest"])


def _leaked(manifest: Manifest, split: Split, seen: set[str]) -> list[str]:
    """Of the cases that were seen those whose patients are held out."""
    patients = {case.id: case.patient for case in manifest.cases}
    held_out = {patients[case] for case in (*split.validation, *split.test)}
    return sorted(case for case in seen if patients.get(case, case) in held_out)


def _by_sample(
    workspace: Workspace, fold: int, cases: set[str]
) -> dict[tuple[str, int], list[tuple[Path, SyntheticRecord]]]:
    """(case, sample) -> its records, wherever they lie in the fold's folder: a sample that was refused has some too."""
    found: dict[tuple[str, int], list[tuple[Path, SyntheticRecord]]] = {}
    for path, record in _records(workspace.synthetic(fold)):
        if record.case in cases and record.fold == fold:
            found.setdefault((record.case, record.sample), []).append((path, record))
    return found


def _records(folder: Path) -> Iterator[tuple[Path, SyntheticRecord]]:
    for path in sorted(folder.rglob("*.json")):
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise WorkspaceError(f"{path} is no valid JSON: run `diffboost3d synthesize` again") from error
        if isinstance(value, dict) and value.get("synthetic") is True and "sample" in value:
            yield path, SyntheticRecord.from_json(value)


def _wanted(
    workspace: Workspace,
    fold: int,
    records: dict[tuple[str, int], list[tuple[Path, SyntheticRecord]]],
    case: str,
) -> list[int]:
    """Numbers of the samples that the last `synthesize` was asked for; others are left from an earlier one."""
    path = workspace.synthetic(fold) / CONFIG
    if not path.is_file():
        return sorted(sample for one, sample in records if one == case) or [0]
    from omegaconf import OmegaConf

    return list(range(int(OmegaConf.load(path).synthesize.samples)))


def _child(workspace: Workspace, fold: int, path: Path, record: SyntheticRecord, model: str, refiner: str) -> Child:
    if record.model != model:
        raise WorkspaceError(
            f"{path} is stale, of an earlier generator than {workspace.relative(workspace.finetuned(fold))}: run "
            "`diffboost3d synthesize` again"
        )
    if record.refiner and record.refiner != refiner:
        raise WorkspaceError(
            f"{path} is stale, of an earlier refiner than {workspace.relative(workspace.refiner(fold))}: run "
            "`diffboost3d train-refiner` and `synthesize` again"
        )
    label = path.parent / record.label if record.label else None
    image = path.parent / record.path
    channels = tuple(path.parent / name for name in record.channels)
    for file in (image, label, *channels):
        if file is not None and not file.is_file():
            raise WorkspaceError(f"{file} is missing: run `diffboost3d synthesize` again")
    return Child(record, image, label, channels)
