"""`evaluate`: the test cases, touched here for the first time: predictions on their own grid, and scores against their files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from diffboost3d.cases.atomic import write_json
from diffboost3d.cases.records import Case, Manifest, Score
from diffboost3d.cases.workspace import Workspace, now
from diffboost3d.config import digest
from diffboost3d.evaluation.metrics import METRICS, score_labels
from diffboost3d.evaluation.summary import summarise
from diffboost3d.imaging.files import ending_like, write_label_like
from diffboost3d.schema import Config
from diffboost3d.segmentation.inference import classes_in_source, mean_probabilities
from diffboost3d.segmentation.postprocessing import keep_largest
from diffboost3d.stages.inputs import accelerator_of, cases_of, prepared, source_label
from diffboost3d.stages.segmenting import (
    decide,
    decision_digest,
    in_values,
    kept_labels,
    load_member,
    options,
    read_decision,
    window_plan,
)


def run(config: Config, workspace: Workspace) -> None:
    """Score every trained segmenter of folds x arms x seeds on the fold's test cases; write scores.csv and summary.json."""
    accelerator = accelerator_of(config)
    scores = predict_and_score(config, workspace, accelerator)
    if accelerator.is_main_process:
        workspace.write_scores(scores)
        patients = {case.id: case.patient for case in workspace.read_manifest().cases}
        summary = summarise(scores, config.evaluate.reference, config.seed, patients)
        write_json(workspace.summary_path, summary)
    accelerator.wait_for_everyone()


def predict_and_score(config: Config, workspace: Workspace, accelerator: Any) -> list[Score]:
    """Scores of every trained segmenter of folds x arms x seeds; what is scored already is read."""
    manifest = workspace.read_manifest()
    scores: list[Score] = []
    for fold in config.folds:
        cases = cases_of(manifest, workspace.read_split(fold).test)
        for arm in config.arms:
            for seed in config.seeds:
                scores += _evaluate_cell(config, workspace, manifest, accelerator, cases, fold, arm, seed)
    return scores


def _evaluate_cell(
    config: Config,
    workspace: Workspace,
    manifest: Manifest,
    accelerator: Any,
    cases: list[Case],
    fold: int,
    arm: str,
    seed: int,
) -> list[Score]:
    """Scores of one segmenter; cases that are scored already are not predicted again."""
    from tqdm import tqdm

    started = now()
    model = workspace.require(workspace.segmenter(fold, arm, seed), "train")["digest"]
    folder = workspace.segmenter(fold, arm, seed) / "predictions"
    labels: Any = manifest.labels if manifest.ignore_label is None else [manifest.labels, manifest.ignore_label]
    plan, connectivity = window_plan(config.evaluate, config.train.overlap), config.evaluate.connectivity
    validation = cases_of(manifest, workspace.read_split(fold).validation)
    decision = decision_digest(model, validation, plan, connectivity, manifest.labels)
    is_validated = config.evaluate.postprocessing == "validated"
    chosen = options(plan, decision if is_validated else None)
    digests = {
        case.id: digest(model, case.digest, config.evaluate.tolerance_mm, plan.overlap, labels, *chosen)
        for case in cases
    }
    own = digest(list(digests.values()))
    if not workspace.is_current(folder, own):
        rank, processes = accelerator.process_index, accelerator.num_processes
        todo = [case for case in cases if not _is_scored(folder, case, digests[case.id])][rank::processes]
        accelerator.wait_for_everyone()  # nobody scores what another still counts
        member = load_member(workspace, fold, arm, seed, accelerator.device)
        kept: tuple[str, ...] = ()
        if is_validated:
            path = workspace.postprocessing(fold, arm, seed)
            if accelerator.is_main_process:
                decide(workspace, manifest, validation, member, plan, connectivity, path, model, accelerator.device)
            accelerator.wait_for_everyone()
            kept = kept_labels(read_decision(path))
        title = f"evaluate fold {fold}, {arm}, seed {seed}"
        for case in tqdm(todo, desc=title, unit="case", disable=rank > 0):
            classes = mean_probabilities([member], prepared(workspace, case, "image"), plan, accelerator.device)
            found = classes_in_source(classes, case.grid, case.source_grid)
            if kept:
                found = keep_largest(found, [manifest.foreground[label] for label in kept], connectivity)
            prediction = in_values(found, manifest)
            _score_case(config, workspace, manifest, case, prediction, fold, arm, seed, digests[case.id])
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            facts = {"postprocessing": config.evaluate.postprocessing, "keep_largest": list(kept)}
            workspace.finish(folder, "evaluate", own, started, cases=len(cases), **facts)
    return [score for case in cases for score in case_scores(folder, case.id)]


def _score_case(
    config: Config,
    workspace: Workspace,
    manifest: Manifest,
    case: Case,
    prediction: Any,
    fold: int,
    arm: str,
    seed: int,
    own: str,
) -> None:
    """Write the prediction in the form of the case's image and, last, its scores against the untouched label file."""
    path = workspace.prediction(fold, arm, seed, case.id, ending_like(case.image))
    write_label_like(path, prediction, workspace.source(manifest, case.image))
    truth = source_label(workspace, manifest, case)
    spacing, tolerance = case.source_grid.spacing_mm, config.evaluate.tolerance_mm
    table = score_labels(prediction, truth, manifest.labels, spacing, tolerance, manifest.ignore_label)
    units = {metric.name: metric.unit if manifest.physical else metric.unit.replace("mm", "px") for metric in METRICS}
    scores = [
        Score(arm, fold, seed, case.id, label, metric, float(value), units[metric])
        for label, row in table.items()
        for metric, value in row.items()
    ]
    write_json(path.parent / f"{case.id}.json", {"digest": own, "scores": [dataclasses.asdict(one) for one in scores]})


def _is_scored(folder: Any, case: Case, own: str) -> bool:
    path = folder / f"{case.id}.json"
    return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8"))["digest"] == own)


def case_scores(folder: Path, case: str) -> list[Score]:
    """What was scored of a case of which `folder` holds the prediction."""
    return [Score(**row) for row in json.loads((folder / f"{case}.json").read_text(encoding="utf-8"))["scores"]]
