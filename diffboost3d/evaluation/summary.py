"""From one score for each arm, fold, seed, case, label and metric to the numbers that answer "which arm is better"."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffboost3d.cases.records import Score
from diffboost3d.evaluation.comparisons import (
    PairedCases,
    arm_pairs,
    by_run,
    case_mean,
    pair_cases,
    patient_means,
    verdict,
)
from diffboost3d.evaluation.crossed import crossed_mean, luck_of_seeds
from diffboost3d.evaluation.metrics import METRICS
from diffboost3d.evaluation.statistics import Interval, PairedComparison, bootstrap_mean, compare_paired, holm

# {arm: {case: {(fold, seed, label): value}}} of one metric
Grids = dict[str, dict[str, dict[tuple[int, int, str], float]]]


def summarise(
    scores: Sequence[Score], reference: str = "none", seed: int = 0, patients: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Summarise scores as a JSON-able dictionary; `seed` is the bootstrap's, `patients` case -> patient; None: each its own.

    Each case gives one value an arm and metric: the mean over labels, then over seeds. The keys are

    - `reference`, `cases`, `folds`, `seeds`, `labels`, and `metrics` as `[{name, unit, higher_is_better}]`;
    - `arms`: `{arm: {metric: {mean, low, high, cases, labels: {label: {mean, low, high, cases}}, seeds: {...}}}}` with
      the reference first; low and high are the 95 % bootstrap interval over patients, and `seeds` is `{seed: mean}`, so
      that the spread between training seeds is visible;
    - `comparisons`: `[{metric, arm, reference, difference: {mean, low, high}, p_value, p_holm, p_crossed_holm, cases,
      patients, left_out, verdict}]`, arm minus reference over cases scored in both on the same folds, seeds and labels; low
      and high are the 95 % interval over patients and, with several, seeds (`crossed_mean`), p_crossed_holm of the same mean;
      p_value is of one difference a patient; Holm's adjustment is within a metric; `left_out` counts the other cases and
      `verdict` is a sentence for Dice and None for the rest;
    - `notes`: sentences on what is missing or was left out.

    Numbers that don't exist (the interval of one case) are None. Scores that aren't finite are left out and counted in
    `notes`. No scores give empty lists. Raises ValueError when a score occurs twice.
    """
    finite = [score for score in scores if math.isfinite(score.value)]
    arms = _in_order((score.arm for score in finite), reference)
    metrics = _in_order((score.metric for score in finite), *(metric.name for metric in METRICS))
    grids = {metric: score_grids(finite, metric) for metric in metrics}
    paired = {metric: _pair_arms(grids[metric], arms, reference) for metric in metrics}
    seeds = sorted({score.seed for score in finite})
    known = patients or {}
    of_patient = {score.case: known.get(score.case, score.case) for score in finite}
    return {
        "reference": reference,
        "cases": len({score.case for score in finite}),
        "folds": sorted({score.fold for score in finite}),
        "seeds": seeds,
        "labels": _in_order(score.label for score in finite),
        "metrics": [_describe_metric(metric, finite) for metric in metrics],
        "arms": {
            arm: {
                metric: _summarise_arm(grids[metric][arm], seed, of_patient)
                for metric in metrics
                if arm in grids[metric]
            }
            for arm in arms
        },
        "comparisons": [
            row for metric in metrics for row in _compare(metric, paired[metric], grids[metric], seed, of_patient)
        ],
        "notes": _notes(len(scores) - len(finite), arms, reference, paired),
    }


def score_grids(scores: Iterable[Score], metric: str) -> Grids:
    """Arrange one metric's scores as `{arm: {case: {(fold, seed, label): value}}}`, arms as they occur, cases sorted.

    Raises ValueError for a score that occurs twice.
    """
    grids: Grids = {}
    for score in scores:
        if score.metric != metric:
            continue
        grid = grids.setdefault(score.arm, {}).setdefault(score.case, {})
        key = (score.fold, score.seed, score.label)
        if key in grid:
            raise ValueError(
                f"{score.metric} of case {score.case}, label {score.label} is scored twice in arm {score.arm}, "
                f"fold {score.fold}, seed {score.seed}"
            )
        grid[key] = score.value
    return {arm: dict(sorted(cases.items())) for arm, cases in grids.items()}


def case_values(scores: Iterable[Score], metric: str) -> dict[str, dict[str, float]]:
    """Return `{arm: {case: value}}` of a metric, each value a mean over labels and then seeds; nan scores left out."""
    grids = score_grids((score for score in scores if math.isfinite(score.value)), metric)
    return {arm: {case: case_mean(grid) for case, grid in cases.items()} for arm, cases in grids.items()}


def _summarise_arm(
    cases: Mapping[str, Mapping[tuple[int, int, str], float]], seed: int, patients: Mapping[str, str]
) -> dict[str, Any]:
    labels = _in_order(label for grid in cases.values() for (_, _, label) in grid)
    seeds = sorted({run_seed for grid in cases.values() for (_, run_seed, _) in grid})
    return {
        **_describe(_means_where(cases), seed, patients),
        "labels": {label: _describe(_means_where(cases, label=label), seed, patients) for label in labels},
        "seeds": {str(run_seed): _mean([*_means_where(cases, seed=run_seed).values()]) for run_seed in seeds},
    }


def _means_where(
    cases: Mapping[str, Mapping[tuple[int, int, str], float]], label: str | None = None, seed: int | None = None
) -> dict[str, float]:
    """Average each case over its scores, or those of one label or one seed; cases without any are left out."""
    parts = {
        case: {key: value for key, value in grid.items() if label in (None, key[2]) and seed in (None, key[1])}
        for case, grid in cases.items()
    }
    return {case: case_mean(part) for case, part in parts.items() if part}


def _pair_arms(grids: Grids, arms: Sequence[str], reference: str) -> dict[tuple[str, str], PairedCases]:
    present = [arm for arm in arms if arm in grids]
    return {(arm, other): pair_cases(grids[arm], grids[other]) for arm, other in arm_pairs(present, reference)}


def _compare(
    metric: str,
    paired: Mapping[tuple[str, str], PairedCases],
    grids: Grids,
    seed: int,
    patients: Mapping[str, str],
) -> list[dict[str, Any]]:
    of_patients = {pair: [*patient_means(cases.differences, patients).values()] for pair, cases in paired.items()}
    runs = {
        (arm, other): {case: by_run(grids[arm][case], grids[other][case]) for case in cases.differences}
        for (arm, other), cases in paired.items()
    }
    luck = dict(zip(runs, luck_of_seeds(list(runs.values())), strict=True))
    crossed = {pair: crossed_mean(of_pair, patients, luck=luck[pair]) for pair, of_pair in runs.items()}
    adjusted = dict(zip(crossed, holm([one.p_value for one in crossed.values()]), strict=True))
    rows = []
    for tested in compare_paired(of_patients, seed=seed):
        pair = (tested.arm, tested.reference)
        comparison = dataclasses.replace(
            tested,
            difference=crossed[pair].interval,
            cases=len(runs[pair]),
            patients=len(of_patients[pair]),
            p_crossed_holm=adjusted[pair],
        )
        seeds = {run_seed for case in runs[pair] for _, run_seed in runs[pair][case]}
        rows.append(_row(metric, comparison, len(paired[pair].left_out), len(seeds), len(of_patients)))
    return rows


def _row(metric: str, comparison: PairedComparison, left_out: int, seeds: int, comparisons: int) -> dict[str, Any]:
    return {
        "metric": metric,
        "arm": comparison.arm,
        "reference": comparison.reference,
        "difference": _interval(comparison.difference),
        "p_value": comparison.p_value,
        "p_holm": comparison.p_holm,
        "p_crossed_holm": comparison.p_crossed_holm,
        "cases": comparison.cases,
        "patients": comparison.independent,
        "left_out": left_out,
        "verdict": verdict(comparison, seeds, comparisons) if metric == "dice" else None,
    }


def _notes(
    unusable: int, arms: Sequence[str], reference: str, paired: Mapping[str, Mapping[tuple[str, str], PairedCases]]
) -> list[str]:
    notes = []
    if unusable:
        notes.append(f"{unusable} scores aren't finite numbers and were left out")
    if arms and reference not in arms:
        notes.append(f"the reference arm {reference} has no scores, so no arm is compared with it")
    missing: dict[tuple[str, str], set[str]] = {}
    for pairs in paired.values():
        for pair, cases in pairs.items():
            missing.setdefault(pair, set()).update(cases.left_out)
    notes += [
        f"{arm} against {other}: left out {len(cases)} cases not scored in both on the same folds, seeds and labels"
        for (arm, other), cases in missing.items()
        if cases
    ]
    return notes


def _describe_metric(name: str, scores: Sequence[Score]) -> dict[str, Any]:
    units = {score.unit for score in scores if score.metric == name}
    if len(units) > 1:
        raise ValueError(f"{name} is given in several units: {', '.join(sorted(units))}")
    known = {metric.name: metric.higher_is_better for metric in METRICS}
    return {"name": name, "unit": units.pop(), "higher_is_better": known.get(name, True)}


def _describe(values: Mapping[str, float], seed: int, patients: Mapping[str, str]) -> dict[str, Any]:
    numbers = {patient: number for number, patient in enumerate(dict.fromkeys(patients[case] for case in values))}
    clusters = [numbers[patients[case]] for case in values]
    return {**_interval(bootstrap_mean([*values.values()], seed=seed, clusters=clusters)), "cases": len(values)}


def _interval(interval: Interval) -> dict[str, float | None]:
    return {name: _or_none(getattr(interval, name)) for name in ("mean", "low", "high")}


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _in_order(names: Iterable[str], *first: str) -> list[str]:
    """Return the distinct names as they first occur, those in `first` ahead of the rest."""
    distinct = dict.fromkeys(names)
    return [name for name in first if name in distinct] + [name for name in distinct if name not in first]
