"""The mean of a score over test cases and training seeds, and an interval that holds the luck of both.

Every case is scored by the segmenter of every seed, so the two sources of chance are crossed: other cases would have
moved the mean, and so would other seeds. An interval over cases alone, with the seeds averaged away, takes the few
trainings that were run for all there could be, and finds differences between two arms that are the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffboost3d.evaluation.statistics import Interval

Run = tuple[int, int]  # fold, seed


@dataclass(frozen=True)
class CrossedMean:
    """A mean over cases and runs.

    Attributes:
        interval: t interval of the mean; nan bounds where no spread can be estimated.
        se_cases: standard error that the choice of the cases makes (of patients, where they have several).
        se_seeds: standard error that the choice of the seeds makes; nan with one seed.
        seed_sd: standard deviation of the mean between seeds, as it is seen; nan with one seed.
        patients: how many independent cases there are.
        p_value: of the mean against 0, by the same t statistic, two-sided; 1 where no spread can be estimated.
    """

    interval: Interval
    se_cases: float
    se_seeds: float
    seed_sd: float
    patients: int
    p_value: float = 1.0


@dataclass(frozen=True)
class Part:
    """A part of the variance of the mean and the degrees of freedom that its estimate has."""

    variance: float
    freedom: float


def crossed_mean(
    values: Mapping[str, Mapping[Run, float]],
    patients: Mapping[str, str] | None = None,
    level: float = 0.95,
    luck: Sequence[Part] | None = None,
) -> CrossedMean:
    """The mean of `values`, {case: {(fold, seed): value}}, over cases, each averaged over its runs, with its interval.

    Variance of the mean by cases: that between patients, whose cases are summed (clusters), on patients - 1 degrees of
    freedom. By seeds: in each fold the variance between the means of its runs. What single cases scatter between runs is in
    both, which errs to the wide side; taken off, it would leave too little where luck is small and freedom that can't be told
    where parts nearly cancel. The interval has a t quantile at Satterthwaite's degrees of freedom (Satterthwaite
    1946; Cameron, Gelbach and Miller 2011 for errors that are clustered in two ways). With one seed it is over cases alone.

    Args:
        patients: case -> patient; None: every case is its own.
        luck: the variance by seeds, known better from elsewhere (`luck_of_seeds`); None: that of these values.

    Raises:
        ValueError: a value that isn't finite, a case without any, or a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"need a level between 0 and 1, got {level}")
    if not values:
        return CrossedMean(Interval(math.nan, math.nan, math.nan), math.nan, math.nan, math.nan, 0)
    means = {case: _mean_of(case, runs) for case, runs in values.items()}
    mean = float(np.mean(list(means.values())))
    cases, count = _between_patients(means, patients or {case: case for case in means})
    folds = [one for fold in _folds(values) if (one := _fold_parts(fold, len(means))) is not None]
    seed_sd = math.sqrt(float(np.mean([spread for _, spread in folds]))) if folds else math.nan
    if luck is None:
        luck = [part for part, _ in folds]
    seeds = sum(part.variance for part in luck)
    interval, p_value = _interval(mean, [cases, *luck], level)
    se_seeds = math.sqrt(seeds) if folds else math.nan
    return CrossedMean(interval, math.sqrt(cases.variance), se_seeds, seed_sd, count, p_value)


def luck_of_seeds(differences: Sequence[Mapping[str, Mapping[Run, float]]]) -> list[list[Part]]:
    """The variance that seeds give to each of several mean differences, one part a fold; for `crossed_mean`.

    Two or three seeds say little about one pair of arms, and pairs need not be alike. So the variance between the runs of a
    pair is drawn towards that of the other pairs of the table, the more, the more alike they are: moderated variances by
    empirical Bayes (Smyth 2004, Linear models and empirical Bayes methods, eq. 7 to 9). As a pair's own differences are looked
    at, luck that two arms share, such as equal first weights, is not taken for a difference. Pairs without any difference
    between runs, such as those of an arm that is a copy of another, tell nothing about others and keep 0.

    The others never weigh more than the pair itself: pairs of a table share arms, and lucky ones may stand among steady ones.

    Args:
        differences: of each pair {case: {(fold, seed): arm minus reference}}.
    """
    tables = [_folds(values) for values in differences]
    found: list[list[Part]] = [[] for _ in tables]
    for at in range(max((len(folds) for folds in tables), default=0)):
        parts = {
            pair: one[0]
            for pair, folds in enumerate(tables)
            if at < len(folds) and (one := _fold_parts(folds[at], sum(map(len, folds)))) is not None
        }
        for pair, part in zip(parts, _moderated(list(parts.values())), strict=True):
            found[pair].append(part)
    return found


def _moderated(parts: Sequence[Part]) -> list[Part]:
    """Variances drawn towards each other; those that are 0 stay."""
    from scipy.special import digamma, polygamma

    least = 1e-12 * max((part.variance for part in parts), default=0.0)  # below, it is rounding
    known = [part for part in parts if part.variance > least]
    if len(known) < 2:
        return list(parts)
    half = np.array([part.freedom / 2 for part in known])
    logs = np.log([part.variance for part in known]) - digamma(half) + np.log(half)
    spread = float(logs.var(ddof=1) - polygamma(1, half).mean())
    weight = 2 * _inverse_trigamma(spread) if spread > 0 else math.inf
    prior = float(np.average([part.variance for part in known], weights=half))
    if spread > 0:
        prior = float(np.exp(logs.mean() + digamma(weight / 2) - math.log(weight / 2)))
    weight = min(weight, 2 * float(half.mean()))
    return [
        Part((weight * prior + one.freedom * one.variance) / (weight + one.freedom), weight + one.freedom)
        if one.variance > least
        else one
        for one in parts
    ]


def _inverse_trigamma(value: float) -> float:
    """x with trigamma(x) = value > 0, by Newton's method on 1 / trigamma, which is nearly a line (Smyth 2004, appendix)."""
    from scipy.special import polygamma

    if value > 1e7:
        return float(value**-0.5)
    if value < 1e-6:
        return 1 / value
    x = 0.5 + 1 / value
    for _ in range(50):
        step = polygamma(1, x) * (1 - polygamma(1, x) / value) / polygamma(2, x)
        x += float(step)
        if -step / x < 1e-8:
            break
    return x


def _mean_of(case: str, runs: Mapping[Run, float]) -> float:
    array = np.asarray(list(runs.values()), dtype=float)
    if not array.size or not np.isfinite(array).all():
        raise ValueError(f"case {case!r} needs one finite value or more, has {array.tolist()}")
    return float(array.mean())


def _between_patients(means: Mapping[str, float], patients: Mapping[str, str]) -> tuple[Part, int]:
    """The variance of the mean of cases that patients make, and how many there are."""
    overall = float(np.mean(list(means.values())))
    sums: dict[str, float] = {}
    for case, value in means.items():
        sums[patients[case]] = sums.get(patients[case], 0.0) + value - overall
    count = len(sums)
    if count < 2:
        return Part(math.nan, 0.0), count
    total = sum(one**2 for one in sums.values())
    return Part(count / (count - 1) * total / len(means) ** 2, count - 1.0), count


def _folds(values: Mapping[str, Mapping[Run, float]]) -> list[NDArray[np.float64]]:
    """One array (cases, seeds) a fold, of the cases that were scored on all seeds of the fold."""
    folds = sorted({fold for runs in values.values() for fold, _ in runs})
    tables = []
    for fold in folds:
        seeds = sorted({seed for runs in values.values() for one, seed in runs if one == fold})
        rows = [
            [runs[fold, seed] for seed in seeds] for runs in values.values() if all((fold, s) in runs for s in seeds)
        ]
        tables.append(np.asarray(rows, dtype=np.float64).reshape(len(rows), len(seeds)))
    return tables


def _fold_parts(table: NDArray[np.float64], cases: int) -> tuple[Part, float] | None:
    """Of the variance of the mean of all cases what the runs of a fold make, and the variance between the runs' own means.
    None with fewer than two runs or cases.
    """
    rows, runs = table.shape
    if rows < 2 or runs < 2:
        return None
    between = float(table.mean(axis=0).var(ddof=1))
    return Part((rows / cases) ** 2 / runs * between, runs - 1.0), between


def _interval(mean: float, parts: Sequence[Part], level: float) -> tuple[Interval, float]:
    """The t interval, and the p-value of the mean against 0."""
    from scipy.stats import t

    variance = sum(part.variance for part in parts)
    if math.isnan(variance):
        return Interval(mean, math.nan, math.nan), 1.0
    if variance <= 0:
        return Interval(mean, mean, mean), 0.0 if mean else 1.0
    freedom = variance**2 / sum(part.variance**2 / part.freedom for part in parts if part.variance)
    error = math.sqrt(variance)
    half = float(t.ppf((1 + level) / 2, freedom)) * error
    return Interval(mean, mean - half, mean + half), float(2 * t.sf(abs(mean) / error, freedom))
