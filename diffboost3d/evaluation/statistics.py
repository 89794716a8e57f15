"""Intervals and paired tests over cases: percentile bootstrap, Wilcoxon's signed-rank test and Holm's adjustment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_DRAWS_AT_ONCE = 2_000_000  # bounds the bootstrap's memory to some 16 MB
_NOISE_DECIMALS = 10  # differences below this are the rounding of averages, not a sign to be ranked


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; `low` and `high` are nan where no spread can be estimated."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedComparison:
    """How an arm differs from a reference on the same cases: mean of arm minus reference, and whether by chance.

    Attributes:
        p_value, p_holm: of the cases, and adjusted. p_crossed_holm: of the mean over cases and seeds, adjusted; 0: there is none.
        patients: of whom the cases are; None: each is of another.
    """

    arm: str
    reference: str
    difference: Interval
    p_value: float
    p_holm: float
    cases: int
    patients: int | None = None
    p_crossed_holm: float = 0.0

    @property
    def independent(self) -> int:
        """How many of the cases are independent of each other."""
        return self.cases if self.patients is None else self.patients


def bootstrap_mean(
    values: Sequence[float],
    seed: int = 0,
    resamples: int = 10_000,
    level: float = 0.95,
    clusters: Sequence[int] | None = None,
) -> Interval:
    """Return the mean of `values`, one for each case, and its percentile bootstrap interval (Efron 1979).

    Cases are resampled, so the interval says how the mean would move with other cases, not with other training seeds.
    It is a little narrow for few cases: 95 % is some 91 % at ten. No values give nan for all three numbers;
    one value gives nan for `low` and `high`. The same values and seed give the same interval.

    With `clusters`, a number for each value, all values of a cluster are drawn together, such as the cases of a patient.

    Raises ValueError for a value that isn't finite, a `level` outside (0, 1) or fewer than one resample.
    """
    if not 0 < level < 1 or resamples < 1:
        raise ValueError(f"need a level between 0 and 1 and at least one resample, got {level} and {resamples}")
    array = _finite(values)
    if array.size < 2:
        return Interval(float(array[0]) if array.size else math.nan, math.nan, math.nan)
    sums: NDArray[np.float64] = array
    counts = np.ones(array.size)
    if clusters is not None:
        _, place = np.unique(np.asarray(clusters), return_inverse=True)
        sums = np.asarray(np.bincount(place, weights=array), dtype=np.float64)
        counts = np.bincount(place).astype(float)
        if sums.size < 2:
            return Interval(float(array.mean()), math.nan, math.nan)
    rng = np.random.default_rng(seed)
    rows = max(1, _DRAWS_AT_ONCE // sums.size)
    means = np.empty(resamples)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        drawn = rng.integers(0, sums.size, size=(stop - start, sums.size))
        means[start:stop] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(array.mean()), float(low), float(high))


def compare_paired(
    differences: Mapping[tuple[str, str], Sequence[float]], seed: int = 0, level: float = 0.95
) -> tuple[PairedComparison, ...]:
    """Test each (arm, reference) on its differences, arm minus reference, one for each case scored in both.

    Returns one comparison for each key, in order. All keys are one family: `p_holm` adjusts for how many there are. A
    pair without cases has a nan difference and p = 1. Raises ValueError for a difference that isn't finite.
    """
    p_values = [signed_rank_p(values) for values in differences.values()]
    return tuple(
        PairedComparison(arm, reference, bootstrap_mean(values, seed=seed, level=level), p_value, p_holm, len(values))
        for ((arm, reference), values), p_value, p_holm in zip(
            differences.items(), p_values, holm(p_values), strict=True
        )
    )


def signed_rank_p(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test that `differences` lie symmetrically around 0.

    Zeros are ranked and then left out (Pratt 1959). No differences, or only zeros, give 1. Fewer than six cases can't
    reach 0.05 however large the gain. Raises ValueError for a difference that isn't finite.
    """
    from scipy.stats import wilcoxon

    array = np.round(_finite(differences), _NOISE_DECIMALS)
    if np.count_nonzero(array) < 2:  # no differences, or a single one, whose two signs are equally likely
        return 1.0
    return float(wilcoxon(array, zero_method="pratt").pvalue)


def smallest_holm_p(cases: int, comparisons: int) -> float:
    """Return the smallest Holm-adjusted p-value that `cases` pairs can reach among `comparisons` tests: m 2^(1 - n)."""
    return min(1.0, comparisons * 2.0 ** (1 - cases))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple testing, step down (Holm 1979), in the given order; none give an empty list.

    The i-th smallest of m is multiplied by m - i + 1, made no smaller than the ones before it, and capped at 1.
    """
    adjusted = [1.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def _finite(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"need one value for each case, got an array of shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{int((~np.isfinite(array)).sum())} of {array.size} values aren't finite")
    return array
