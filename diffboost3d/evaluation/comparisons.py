"""Which arms are compared with which, on which scores, and what is said about it in one plain sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffboost3d.evaluation.statistics import Interval, PairedComparison, smallest_holm_p

SIGNIFICANCE = 0.05
ONCE = " in this one training"  # with one seed
_ALSO_AGAINST = {
    "diffboost": ("cutmix", "warp_only"),
    "diffboost_classical": ("cutmix_classical", "warp_only_classical"),
    "diffboost_anatomy": ("diffboost", "cutmix", "warp_only"),
    "diffboost_anatomy_classical": ("diffboost_classical", "cutmix_classical", "warp_only_classical"),
}

# (fold, seed, label) -> value: what one arm scored on one case
Grid = Mapping[tuple[int, int, str], float]


@dataclass(frozen=True)
class PairedCases:
    """Differences, arm minus reference, by case; and the cases scored in one arm only or on other seeds or labels."""

    differences: Mapping[str, float]
    left_out: tuple[str, ...]


def arm_pairs(arms: Sequence[str], reference: str) -> list[tuple[str, str]]:
    """Return the (arm, reference) pairs worth testing among the `arms` present, each once.

    Every other arm meets `reference`. Arms built on classical augmentation also meet "classical", and diffboost meets
    the plain cut-and-paste of the same kind and the warps alone (those of new anatomy also diffboost without it), so that a
    gain is not credited to the wrong ingredient.
    """
    pairs: dict[tuple[str, str], None] = {}
    for arm in arms:
        against = [reference]
        if arm.endswith("_classical"):
            against.append("classical")
        against.extend(_ALSO_AGAINST.get(arm, ()))
        pairs |= dict.fromkeys((arm, other) for other in against if other in arms and other != arm)
    return [pair for pair in pairs if pair[0] != reference]


def case_mean(grid: Grid) -> float:
    """Average one case's scores: over the labels of a run (fold and seed), then over runs. Raises for an empty grid."""
    runs: dict[tuple[int, int], list[float]] = {}
    for (fold, seed, _), value in grid.items():
        runs.setdefault((fold, seed), []).append(value)
    return sum(sum(values) / len(values) for values in runs.values()) / len(runs)


def by_run(first: Grid, second: Grid | None = None, label: str | None = None) -> dict[tuple[int, int], float]:
    """{(fold, seed): mean over labels} of one case, or of its difference from another; `label`: of that one only."""
    found: dict[tuple[int, int], list[float]] = {}
    for (fold, seed, one), value in first.items():
        if label is None or one == label:
            found.setdefault((fold, seed), []).append(value - (second[fold, seed, one] if second else 0.0))
    return {run: sum(values) / len(values) for run, values in found.items()}


def pair_cases(arm: Mapping[str, Grid], reference: Mapping[str, Grid]) -> PairedCases:
    """Pair two arms' scores by case; only cases with the same folds, seeds and labels in both arms enter."""
    differences, left_out = {}, []
    for case in sorted(arm.keys() | reference.keys()):
        if case in arm and case in reference and arm[case].keys() == reference[case].keys():
            differences[case] = case_mean(arm[case]) - case_mean(reference[case])
        else:
            left_out.append(case)
    return PairedCases(differences, tuple(left_out))


def patient_means(differences: Mapping[str, float], patients: Mapping[str, str]) -> dict[str, float]:
    """One difference a patient: the mean over the cases of each."""
    found: dict[str, list[float]] = {}
    for case, value in differences.items():
        found.setdefault(patients[case], []).append(value)
    return {patient: sum(values) / len(values) for patient, values in found.items()}


def verdict(comparison: PairedComparison, seeds: int, comparisons: int) -> str:
    """Say in one sentence whether an arm helps, judged on Dice, for instance

    "diffboost helps: +2.1 Dice points over none (95 % interval 1.0 to 3.2, n = 50 cases, 2 seeds)".

    With one seed the interval is over cases alone and the claim is of one training, and the sentence says so. `comparisons` is
    the size of the family that Holm's adjustment was over. A gain or a loss is claimed only when the adjusted p-values, over
    cases and over cases and seeds, are below 0.05. With too few cases for any p-value to get there the sentence says so, since
    "no gain" would claim more than was measured.
    """
    who, reference, interval = comparison.arm, comparison.reference, comparison.difference
    if comparison.cases == 0:
        return f"{who} can't be compared with {reference}: no case is scored in both on the same seeds and labels"
    independent = comparison.independent
    of_patients = "" if independent == comparison.cases else f" of {_count(independent, 'patient')}"
    alone = "" if seeds > 1 else "over cases, not over the luck of training, "
    measured = (
        f"{points(interval.mean, sign=True)} Dice points over {reference} "
        f"(95 % interval {alone}{points(interval.low)} to {points(interval.high)}, "
        f"n = {_count(comparison.cases, 'case')}{of_patients}, {_count(seeds, 'seed')})"
    )
    if independent == 1:
        cases = f"n = {_count(comparison.cases, 'case')}{of_patients}"
        measured = f"{points(interval.mean, sign=True)} Dice points over {reference} ({cases})"
    if max(comparison.p_holm, comparison.p_crossed_holm) < SIGNIFICANCE:
        return f"{who} {'helps' if interval.mean > 0 else 'hurts'}{'' if seeds > 1 else ONCE}: {measured}"
    if smallest_holm_p(independent, comparisons) >= SIGNIFICANCE:
        return f"{who}: too few cases to tell: {measured}"
    return f"{who} brings no detectable gain{in_spite_of(interval, comparison.p_value, comparisons)}: {measured}"


def in_spite_of(interval: Interval, p_value: float, comparisons: int) -> str:
    """Why nothing is claimed where the interval leaves out 0: by Wilcoxon's test, or by the adjustment; else nothing."""
    if not interval.low * interval.high > 0:
        return ""
    return f" among {comparisons} comparisons" if p_value < SIGNIFICANCE else " by Wilcoxon's test"


def points(fraction: float, sign: bool = False) -> str:
    """Write a fraction as percent points with one decimal, without a negative zero."""
    number = round(100 * fraction, 1) + 0.0
    return f"{number:+.1f}" if sign else f"{number:.1f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
