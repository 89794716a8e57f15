"""Trained segmenters at work, for `evaluate` and `predict`: loading, settings, and what validation cases say of components."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.atomic import write_json
from diffboost3d.cases.records import IGNORED, Case, Manifest
from diffboost3d.cases.workspace import SEGMENTER, Workspace
from diffboost3d.config import digest
from diffboost3d.schema import InferenceConfig
from diffboost3d.segmentation.inference import Member, WindowPlan, classes_in_source, mean_probabilities
from diffboost3d.segmentation.postprocessing import choose, keep_largest
from diffboost3d.segmentation.weights import load_segmenter
from diffboost3d.stages.inputs import prepared, source_label


def window_plan(section: InferenceConfig, overlap: float) -> WindowPlan:
    """How volumes are gone through; `overlap` is that of training."""
    return WindowPlan(
        overlap if section.overlap is None else section.overlap,
        tuple(sorted(section.mirror_axes)),
        section.window_batch,
        section.precision,
    )


def window_facts(plan: WindowPlan) -> dict[str, Any]:
    """What of it shapes a prediction, for records; how many windows go at once does not."""
    return {"overlap": plan.overlap, "mirror_axes": list(plan.mirror_axes), "precision": plan.precision}


def options(plan: WindowPlan, decision: str | None) -> list[dict[str, Any]]:
    """What a digest takes in besides the overlap: [] where nothing is asked for, as before there was anything to ask for."""
    chosen = {"mirror_axes": list(plan.mirror_axes), "precision": plan.precision, "decision": decision}
    return [] if chosen == {"mirror_axes": [], "precision": "no", "decision": None} else [chosen]


def load_member(workspace: Workspace, fold: int, arm: str, seed: int, device: Any) -> Member:
    """A trained segmenter on `device`."""
    return Member(*load_segmenter(workspace.segmenter(fold, arm, seed) / SEGMENTER, device))


def decision_digest(model: str, cases: Collection[Case], plan: WindowPlan, connectivity: str, labels: Any) -> str:
    """Digest of all that a decision about components depends on; `cases` are the validation cases."""
    return digest(model, [case.digest for case in cases], window_facts(plan), connectivity, labels)


def decide(
    workspace: Workspace,
    manifest: Manifest,
    cases: Collection[Case],
    member: Member,
    plan: WindowPlan,
    connectivity: str,
    path: Path,
    model: str,
    device: Any,
) -> None:
    """Write for which labels the largest component is to be kept, by the validation cases alone, with the numbers behind it.

    Dice is taken on the cases' own grid and label files, where labels are cleaned too. A finished decision is kept.

    Args:
        model: digest of the segmenter's training.
    """
    own = decision_digest(model, cases, plan, connectivity, manifest.labels)
    if path.is_file() and json.loads(path.read_text(encoding="utf-8"))["digest"] == own:
        return
    every = [*manifest.foreground.values()]
    before, after = {}, {}
    for case in cases:
        classes = mean_probabilities([member], prepared(workspace, case, "image"), plan, device)
        found = classes_in_source(classes, case.grid, case.source_grid)
        truth = _truth(workspace, manifest, case)
        before[case.id] = _dice(found, truth, manifest)
        after[case.id] = _dice(keep_largest(found, every, connectivity), truth, manifest)
    facts = {"digest": own, "model": model, "connectivity": connectivity, "settings": window_facts(plan)}
    labels = choose(before, after, list(manifest.foreground))
    write_json(path, {**facts, "validation_cases": len(cases), "labels": labels})


def _truth(workspace: Workspace, manifest: Manifest, case: Case) -> NDArray[np.uint8]:
    """The label of a case on its own grid, as 0, 1, 2, ... in the manifest's order, and `IGNORED`."""
    values = source_label(workspace, manifest, case)
    indexed = np.searchsorted(np.asarray([*manifest.labels.values()]), values).astype(np.uint8)
    return indexed if manifest.ignore_label is None else np.where(values == manifest.ignore_label, IGNORED, indexed)


def _dice(found: NDArray[np.uint8], truth: NDArray[np.uint8], manifest: Manifest) -> dict[str, float]:
    """Dice of each label over the voxels that are not ignored; 1 where it is in neither, as in `evaluation.metrics`."""
    scores = {}
    found = np.where(truth == IGNORED, 0, found)
    for label, value in manifest.foreground.items():
        one, other = found == value, truth == value
        both = int(one.sum()) + int(other.sum())
        scores[label] = 2 * int((one & other).sum()) / both if both else 1.0
    return scores


def read_decision(path: Path) -> dict[str, Any]:
    """What `decide` wrote."""
    decision: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return decision


def kept_labels(decision: dict[str, Any]) -> tuple[str, ...]:
    """Labels whose largest component a segmenter's decision keeps."""
    return tuple(label for label, told in decision["labels"].items() if told["keep_largest"])


def in_values(classes: NDArray[np.uint8], manifest: Manifest) -> NDArray[Any]:
    """Classes 0, 1, 2, ... as the user's label values."""
    values = np.asarray([*manifest.labels.values()])
    small = values.astype(np.min_scalar_type(int(values.max()))) if values.min() >= 0 else values
    return np.asarray(small[classes])
