"""From the scores of a study to the numbers and sentences that say which arm is better, at which size and in which variant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffboost3d.cases.study import StudyScore
from diffboost3d.evaluation.comparisons import (
    ONCE,
    SIGNIFICANCE,
    Grid,
    arm_pairs,
    by_run,
    in_spite_of,
    pair_cases,
    patient_means,
    points,
)
from diffboost3d.evaluation.crossed import CrossedMean, Run, crossed_mean, luck_of_seeds
from diffboost3d.evaluation.metrics import METRICS
from diffboost3d.evaluation.statistics import Interval, bootstrap_mean, holm, signed_rank_p, smallest_holm_p
from diffboost3d.evaluation.summary import score_grids

TERCILES = ("small", "middle", "large")
RULE = (
    "helps or hurts: two adjusted p-values are below 0.05, that of Wilcoxon's test over cases and that of the mean over cases "
    "and, where there are several, seeds; no detectable gain: otherwise"
)
Grids = Mapping[str, Grid]  # case -> {(fold, seed, label): value}


@dataclass(frozen=True)
class Comparison:
    """An arm against another on the same cases: mean of arm minus reference with its interval over cases and seeds, and p.

    Attributes:
        p_value, p_holm: Wilcoxon's over cases, and adjusted. p_crossed_holm: that of the mean over cases and seeds, adjusted.
    """

    arm: str
    reference: str
    difference: CrossedMean
    over_cases: Interval
    p_value: float
    p_holm: float
    p_crossed_holm: float
    cases: int
    seeds: int
    left_out: int


def study_pairs(arms: Sequence[str], references: Sequence[str]) -> list[tuple[str, str]]:
    """The (arm, reference) pairs of a part of a study, each once and never both ways round.

    Every arm meets every reference, references only those before them; `arm_pairs` adds the twins that tell what a gain
    is due to.
    """
    present = [one for one in references if one in arms]
    pairs: dict[tuple[str, str], None] = {}
    for arm in arms:
        before = present[: present.index(arm)] if arm in present else present
        pairs |= dict.fromkeys((arm, reference) for reference in before)
        if arm not in present:
            pairs |= dict.fromkeys(pair for pair in arm_pairs(arms, "") if pair[0] == arm)
    return list(pairs)


def compare(
    pairs: Mapping[tuple[str, str], tuple[Grids, Grids]], patients: Mapping[str, str], seed: int = 0
) -> list[Comparison]:
    """Compare arms; all pairs are one family, to which Holm's adjustment is made.

    The interval of the difference is that of `crossed_mean`, over patients and seeds, with the luck of seeds moderated by the
    other pairs (`luck_of_seeds`), and there is a p-value of the same mean; `over_cases` is the bootstrap of that mean over
    patients alone.
    The other p-value is Wilcoxon's, on one difference a patient: the mean over cases, labels and seeds.

    Args:
        pairs: (arm, reference) -> the scores of both.
        seed: of the bootstrap.
    """
    paired_cases = {names: pair_cases(first, second) for names, (first, second) in pairs.items()}
    differences = {
        names: {case: by_run(first[case], second[case]) for case in paired_cases[names].differences}
        for names, (first, second) in pairs.items()
    }
    lucks = luck_of_seeds(list(differences.values()))
    rows = []
    for ((arm, reference), runs), luck in zip(differences.items(), lucks, strict=True):
        paired = paired_cases[arm, reference]
        of_patients = patient_means(paired.differences, patients)
        over_cases = _over_cases(paired.differences, patients, seed)
        p_value = signed_rank_p(list(of_patients.values()))
        seeds = len({one for of_case in runs.values() for _, one in of_case})
        crossed = crossed_mean(runs, patients, luck=luck)
        rows.append((arm, reference, crossed, over_cases, p_value, len(runs), seeds, len(paired.left_out)))
    adjusted = holm([row[4] for row in rows])
    crossed_adjusted = holm([row[2].p_value for row in rows])
    return [
        Comparison(*row[:5], p_holm, p_crossed, *row[5:])
        for row, p_holm, p_crossed in zip(rows, adjusted, crossed_adjusted, strict=True)
    ]


def _over_cases(values: Mapping[str, float], patients: Mapping[str, str], seed: int) -> Interval:
    """Of the mean of one value a case; patients are what is drawn."""
    numbers = {patient: number for number, patient in enumerate(dict.fromkeys(patients[case] for case in values))}
    return bootstrap_mean(list(values.values()), seed=seed, clusters=[numbers[patients[case]] for case in values])


def claim(comparison: Comparison, comparisons: int) -> str:
    """helps, hurts, no detectable gain, or too few cases: see `RULE`. `comparisons` is the size of the family."""
    if max(comparison.p_holm, comparison.p_crossed_holm) < SIGNIFICANCE:
        return "helps" if comparison.difference.interval.mean > 0 else "hurts"
    if smallest_holm_p(comparison.difference.patients, comparisons) >= SIGNIFICANCE:
        return "too few cases"
    return "no detectable gain"


def sentence(comparison: Comparison, comparisons: int) -> str:
    """The claim in words, such as

    "diffboost helps: +2.1 Dice points over none (95 % interval over cases and seeds 1.0 to 3.2, n = 50 cases, 3 seeds)".
    """
    who, reference, interval = comparison.arm, comparison.reference, comparison.difference.interval
    if not comparison.cases:
        return f"{who} can't be compared with {reference}: no case is scored in both on the same seeds and labels"
    once = "" if comparison.seeds > 1 else ONCE
    words = {
        "helps": f"helps{once}",
        "hurts": f"hurts{once}",
        "no detectable gain": "brings no detectable gain",
        "too few cases": "can't be judged, too few cases",
    }[found := claim(comparison, comparisons)]
    if found == "no detectable gain":
        words += in_spite_of(interval, comparison.p_value, comparisons)
    patients = comparison.difference.patients
    of_patients = "" if patients == comparison.cases else f" of {patients} patients"
    over = "cases and seeds" if comparison.seeds > 1 else "cases, not over the luck of training,"
    bounds = f"95 % interval over {over} {points(interval.low)} to {points(interval.high)}, " if patients > 1 else ""
    seeds = f"{comparison.seeds} seed{'s' if comparison.seeds > 1 else ''}"
    return (
        f"{who} {words}: {points(interval.mean, sign=True)} Dice points over {reference} "
        f"({bounds}n = {comparison.cases} cases{of_patients}, {seeds})"
    )


def summarise_study(
    scores: Sequence[StudyScore],
    references: Sequence[str],
    seed: int = 0,
) -> dict[str, Any]:
    """Summarise a study as a JSON-able dictionary; scores that aren't finite are left out and counted.

    Keys: `rule` of the verdicts; `references`, `metrics` [{name, unit, higher_is_better}], `variants`, `sizes`, `labels`;
    `parts`, one a variant and size: {variant, size, arms, comparisons}; `between_variants`: each arm in a variant against
    itself in the first, size by size; `left_out`: how many scores.

    Of an arm, by metric: mean, low and high (95 % bootstrap over patients), cases, patients, `seed_sd` (standard deviation
    of the mean between seeds), `seeds` {seed: mean}, `labels` {label: mean}. Of a comparison: see `compare`; Dice has
    `claim`, `verdict`, `labels` {label: {mean, low, high}} and `terciles` {label: {small, middle, large}}, thirds of the
    test cases that have the label, by its volume in their files. Families of Holm's adjustment: the comparisons of a metric
    in a part, or between variants at a size.
    """
    finite = [score for score in scores if math.isfinite(score.value)]
    order = {metric.name: metric for metric in METRICS}
    units = {score.metric: score.unit for score in finite}
    metrics = [name for name in order if name in units] + [name for name in units if name not in order]
    parts: dict[tuple[str, int | None], list[StudyScore]] = {}
    for score in finite:
        parts.setdefault((score.variant, score.size), []).append(score)
    return {
        "rule": RULE,
        "references": list(references),
        "metrics": [
            {
                "name": name,
                "unit": units[name],
                "higher_is_better": order[name].higher_is_better if name in order else True,
            }
            for name in metrics
        ],
        "variants": list(dict.fromkeys(score.variant for score in finite)),
        "sizes": list(dict.fromkeys(score.size for score in finite)),
        "labels": list(dict.fromkeys(score.label for score in finite)),
        "parts": [
            {"variant": variant, "size": size, **_part(of_part, metrics, references, seed)}
            for (variant, size), of_part in parts.items()
        ],
        "between_variants": _between_variants(parts, metrics, seed),
        "left_out": len(scores) - len(finite),
    }


def _part(scores: Sequence[StudyScore], metrics: Sequence[str], references: Sequence[str], seed: int) -> dict[str, Any]:
    patients = {score.case: score.patient for score in scores}
    arms = list(dict.fromkeys(score.arm for score in scores))
    arms = [arm for arm in references if arm in arms] + [arm for arm in arms if arm not in references]
    grids = {metric: score_grids((score.score() for score in scores), metric) for metric in metrics}
    thirds = _terciles(scores)
    comparisons = []
    for metric in metrics:
        of_metric = grids[metric]
        pairs = study_pairs([arm for arm in arms if arm in of_metric], references)
        compared = {pair: (of_metric[pair[0]], of_metric[pair[1]]) for pair in pairs}
        comparisons += _rows(metric, compared, patients, thirds, seed)
    return {
        "arms": {
            arm: {metric: _arm(grids[metric][arm], patients, seed) for metric in metrics if arm in grids[metric]}
            for arm in arms
        },
        "comparisons": comparisons,
    }


def _between_variants(
    parts: Mapping[tuple[str, int | None], Sequence[StudyScore]], metrics: Sequence[str], seed: int
) -> list[dict[str, Any]]:
    """Each arm in a variant against itself in the first; the names are variant/arm."""
    if not parts:
        return []
    first = next(iter(parts))[0]
    found = []
    for size in dict.fromkeys(size for _, size in parts):
        variants = [variant for variant, other in parts if other == size]
        if first not in variants:
            continue
        for metric in metrics:
            grids = {
                variant: score_grids((score.score() for score in parts[variant, size]), metric) for variant in variants
            }
            pairs = {
                (f"{variant}/{arm}", f"{first}/{arm}"): (grids[variant][arm], grids[first][arm])
                for variant in variants
                if variant != first
                for arm in grids[variant]
                if arm in grids[first] and grids[variant][arm] != grids[first][arm]  # linked: nothing to compare
            }
            patients = {score.case: score.patient for variant in variants for score in parts[variant, size]}
            found += [{"size": size, **row} for row in _rows(metric, pairs, patients, {}, seed)]
    return found


def _rows(
    metric: str,
    pairs: Mapping[tuple[str, str], tuple[Grids, Grids]],
    patients: Mapping[str, str],
    thirds: Mapping[str, Mapping[str, str]],
    seed: int,
) -> list[dict[str, Any]]:
    rows = []
    for one in compare(pairs, patients, seed):
        crossed = one.difference
        row: dict[str, Any] = {
            "metric": metric,
            "arm": one.arm,
            "reference": one.reference,
            "difference": _interval(crossed.interval),
            "over_cases": _interval(one.over_cases),
            "se_cases": _or_none(crossed.se_cases),
            "se_seeds": _or_none(crossed.se_seeds),
            "seed_sd": _or_none(crossed.seed_sd),
            "p_value": one.p_value,
            "p_holm": one.p_holm,
            "p_crossed": crossed.p_value,
            "p_crossed_holm": one.p_crossed_holm,
            "cases": one.cases,
            "patients": crossed.patients,
            "seeds": one.seeds,
            "left_out": one.left_out,
        }
        if metric == "dice":
            row["claim"], row["verdict"] = claim(one, len(pairs)), sentence(one, len(pairs))
            row |= _effects(*pairs[one.arm, one.reference], patients, thirds)
        rows.append(row)
    return rows


def _effects(
    first: Grids, second: Grids, patients: Mapping[str, str], thirds: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """The difference by label, and by label and third of its volume; described, not tested."""
    cases = list(pair_cases(first, second).differences)
    labels = list(dict.fromkeys(label for case in cases for _, _, label in first[case]))

    def effect(label: str, of: Sequence[str]) -> dict[str, Any]:
        runs = {case: by_run(first[case], second[case], label) for case in of}
        kept = {case: one for case, one in runs.items() if one}
        return {**_interval(crossed_mean(kept, patients).interval), "cases": len(kept)}

    return {
        "labels": {label: effect(label, cases) for label in labels},
        "terciles": {
            label: {
                third: effect(label, [case for case in cases if thirds[label].get(case) == third]) for third in TERCILES
            }
            for label in labels
            if label in thirds
        },
    }


def _terciles(scores: Sequence[StudyScore]) -> dict[str, dict[str, str]]:
    """{label: {case: small, middle or large}} by the label's volume among the test cases that have it; equal ones by name."""
    volumes: dict[str, dict[str, float]] = {}
    for score in scores:
        if score.volume > 0:
            volumes.setdefault(score.label, {})[score.case] = score.volume
    return {
        label: {
            case: TERCILES[3 * rank // len(of_label)]
            for rank, case in enumerate(sorted(of_label, key=lambda case: (of_label[case], case)))
        }
        for label, of_label in volumes.items()
    }


def _arm(cases: Grids, patients: Mapping[str, str], seed: int) -> dict[str, Any]:
    runs = {case: by_run(grid) for case, grid in cases.items()}
    crossed = crossed_mean(runs, patients)
    bootstrap = _over_cases({case: float(np.mean([*of.values()])) for case, of in runs.items()}, patients, seed)
    labels = dict.fromkeys(label for grid in cases.values() for _, _, label in grid)
    seeds = sorted({one for of_case in runs.values() for _, one in of_case})
    return {
        **_interval(bootstrap),
        "cases": len(runs),
        "patients": crossed.patients,
        "seed_sd": _or_none(crossed.seed_sd),
        "seeds": {str(one): _mean_of_seed(runs, one) for one in seeds},
        "labels": {
            label: float(
                np.mean([np.mean([*kept.values()]) for g in cases.values() if (kept := by_run(g, None, label))])
            )
            for label in labels
        },
    }


def _mean_of_seed(runs: Mapping[str, Mapping[Run, float]], seed: int) -> float:
    return float(np.mean([value for of_case in runs.values() for (_, one), value in of_case.items() if one == seed]))


def _interval(interval: Interval) -> dict[str, float | None]:
    return {name: _or_none(getattr(interval, name)) for name in ("mean", "low", "high")}


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
