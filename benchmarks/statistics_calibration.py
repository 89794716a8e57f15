"""Do the verdicts of `diffboost3d compare` find a planted effect, and none where two arms are the same?

    python benchmarks/statistics_calibration.py

Simulates studies of five arms with scores like the committed ones of `results/hippocampus_quick.csv`: that file's case means
and their scatter between cases, seeds and arms (as estimated from it, in the result), 50 test cases, 3 seeds. In each study

- `null` is `none` trained again: the same arm by construction, with training luck of its own (seeds, and cases x seeds);
- `planted` is `none` with 2 Dice points more in truth; `classical` and `cutmix` differ from `none` as in the file.

The right verdict on null against none is "no detectable gain", on planted against none "helps". Writes
`results/statistics_calibration.json`: the share of right verdicts over all studies, by the present rule and by an interval
and test over cases alone (bootstrap and Wilcoxon with Holm's adjustment, seeds averaged away), the share of studies of five equal
arms whose whole table claims nothing, and the largest half-width of an interval, for training luck as in the file, none, twice
as much; unequal (the two arms that are the same have 1.2 Dice points, the others 0.15: what few labelled cases do); shared
(nine tenths of what seeds do, they do to all arms alike); and several cases a patient (60 cases of 22 patients, as in the
hippocampus test; two fifths of the variance of what an arm does to a case are its patient's). `interval_holds_truth` is the
share of studies whose interval of the difference to `none` holds the true one.
About ten minutes on one core.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.evaluation.comparisons import SIGNIFICANCE
from diffboost3d.evaluation.study import RULE, Comparison, claim, compare, study_pairs
from diffboost3d.seeds import generator

RESULTS = Path(__file__).resolve().parent / "results"
ARMS = ("none", "classical", "cutmix", "null", "planted")
CASES, SEEDS, EFFECT = 50, 3, 0.02
CASES_OF_PATIENTS = (
    (1,) * 4 + (2,) * 9 + (3,) * 3 + (4,) * 3 + (5, 5, 7)
)  # of fold 0 in results/hippocampus_low_data.csv
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Luck:
    """Of training, in a simulation.

    Attributes:
        times: the standard deviation of an arm's mean between seeds, as a multiple of that in the file.
        sd: that standard deviation of single arms, in Dice, in its place.
        shared: share of the variance between seeds that is the same in all arms, of means and of single cases.
        cases_of_patients: how many cases each patient has.
        of_patients: share of the variance of what an arm does to a case that is the same in all cases of a patient.
    """

    times: float = 1.0
    sd: tuple[tuple[str, float], ...] = ()
    shared: float = 0.0
    cases_of_patients: tuple[int, ...] = (1,) * CASES
    of_patients: float = 0.0

    def patients(self) -> NDArray[np.int64]:
        """The patient of each case."""
        return np.repeat(np.arange(len(self.cases_of_patients)), self.cases_of_patients)


LUCK = {
    "as measured": Luck(),
    "none": Luck(0.0),
    "twice": Luck(2.0),
    "unequal": Luck(sd=tuple((arm, 0.012 if arm in ("none", "null") else 0.0015) for arm in ARMS)),
    "shared": Luck(shared=0.9),
    "several cases a patient": Luck(cases_of_patients=CASES_OF_PATIENTS, of_patients=0.4),
}


@dataclass(frozen=True)
class Structure:
    """What the committed scores are made of: mean Dice of both labels by arm, case and seed.

    Attributes:
        cases: Dice of every case in the arm none, over seeds; means: of the arms, as differences from none.
        arm_sd: how cases differ in what an arm does to them; seed_sd: of an arm's mean between seeds; rest_sd: of a case
            between seeds beside that.
    """

    cases: Float
    means: dict[str, float]
    arm_sd: float
    seed_sd: float
    rest_sd: float


def structure(path: Path) -> Structure:
    """Estimate it by analysis of variance from (arms, seeds, cases)."""
    values: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["metric"] == "dice":
                values[row["arm"], int(row["seed"]), row["case"]].append(float(row["value"]))
    arms, seeds, cases = (list(dict.fromkeys(key[at] for key in values)) for at in range(3))
    table = np.array([[[np.mean(values[a, s, c]) for c in cases] for s in seeds] for a in arms])
    of_runs = table.mean(axis=2)
    rest = table - table.mean(axis=1, keepdims=True) - of_runs[:, :, None] + table.mean(axis=(1, 2), keepdims=True)
    rest_var = float((rest**2).sum()) / (len(arms) * (len(seeds) - 1) * (len(cases) - 1))
    seed_var = float(of_runs.var(axis=1, ddof=1).mean()) - rest_var / len(cases)
    by_case = table.mean(axis=1)
    difference = by_case[1:] - by_case[0]
    arm_var = float(difference.var(axis=1, ddof=1).mean()) - 2 * rest_var / len(seeds)
    means = {arm: float(one.mean()) for arm, one in zip(arms[1:], difference, strict=True)}
    return Structure(by_case[0], means, max(arm_var, 0) ** 0.5, max(seed_var, 0) ** 0.5, rest_var**0.5)


def simulate(
    given: Structure, number: int, luck: Luck, equal: bool = False
) -> dict[str, dict[str, dict[tuple[int, int, str], float]]]:
    """Scores {arm: {case: {(fold, seed, label): Dice}}} of one study; equal: all arms are the same but for their luck."""
    random = generator(number, "calibration")
    of_patient = luck.patients()
    cases = len(of_patient)
    base = random.choice(given.cases, cases)  # as hard as those of the file
    gains = {"none": 0.0, "null": 0.0, "planted": EFFECT, **{arm: given.means[arm] for arm in ("classical", "cutmix")}}
    same, own = luck.shared**0.5, (1 - luck.shared) ** 0.5
    runs_of_all, rest_of_all = random.normal(size=SEEDS), random.normal(size=(cases, SEEDS))
    scores = {}
    for arm in ARMS:
        change: Float | float = 0.0
        if not equal and arm not in ("none", "null"):
            change = given.arm_sd * (1 - luck.of_patients) ** 0.5 * random.normal(size=cases)
            if luck.of_patients:
                change = (
                    change + given.arm_sd * luck.of_patients**0.5 * random.normal(size=of_patient.max() + 1)[of_patient]
                )
        seed_sd = dict(luck.sd).get(arm, luck.times * given.seed_sd)
        runs = seed_sd * (same * runs_of_all + own * random.normal(size=SEEDS))
        rest = given.rest_sd * (same * rest_of_all + own * random.normal(size=(cases, SEEDS)))
        gain = 0.0 if equal else gains[arm]
        table = np.clip((base + gain + change)[:, None] + runs + rest, 0, 1)
        scores[arm] = {f"case{c:02d}": {(0, s, "both"): float(table[c, s]) for s in range(SEEDS)} for c in range(cases)}
    return scores


@dataclass(frozen=True)
class Found:
    """Of one pair in one study: the verdicts of both rules, half the interval's width, whether it holds the truth."""

    verdict: str
    over_cases: str
    half_width: float
    holds_truth: bool


def compared(given: Structure, number: int, luck: Luck, equal: bool = False) -> list[Comparison]:
    """All comparisons of one simulated study."""
    scores = simulate(given, number, luck, equal)
    patients = {case: f"patient{of:02d}" for case, of in zip(scores["none"], luck.patients(), strict=True)}
    pairs = study_pairs(ARMS, ["none", "classical"])
    return compare({(arm, other): (scores[arm], scores[other]) for arm, other in pairs}, patients, seed=number)


def verdicts(given: Structure, number: int, luck: Luck) -> dict[str, Found]:
    """{arm: what was found} against none, for the null and the planted arm."""
    found, truth = compared(given, number, luck), {"null": 0.0, "planted": EFFECT}
    result = {}
    for one in found:
        if one.reference == "none" and one.arm in truth:
            interval = one.difference.interval
            holds = interval.low <= truth[one.arm] <= interval.high
            result[one.arm] = Found(claim(one, len(found)), _over_cases(one), interval.high - interval.mean, holds)
    return result


def claims_nothing(given: Structure, number: int, luck: Luck) -> bool:
    """Whether the table of a study of equal arms holds no claim."""
    found = compared(given, number, luck, equal=True)
    return all(claim(one, len(found)) == "no detectable gain" for one in found)


def _over_cases(one: Comparison) -> str:
    """The verdict of an interval and a test over cases alone."""
    if one.p_holm < SIGNIFICANCE and (one.over_cases.low > 0 or one.over_cases.high < 0):
        return "helps" if one.over_cases.low > 0 else "hurts"
    return "no detectable gain"


def shares(given: Structure, studies: int, luck: Luck) -> dict[str, Any]:
    """Share of right verdicts by both rules, and the half-widths of the present one's intervals, in Dice points."""
    right = {"null": "no detectable gain", "planted": "helps"}
    found = [verdicts(given, number, luck) for number in range(studies)]
    widths = [100 * one[arm].half_width for one in found for arm in right]
    return {
        "present_rule": {
            arm: sum(one[arm].verdict == wanted for one in found) / studies for arm, wanted in right.items()
        },
        "cases_alone": {
            arm: sum(one[arm].over_cases == wanted for one in found) / studies for arm, wanted in right.items()
        },
        "interval_holds_truth": {arm: sum(one[arm].holds_truth for one in found) / studies for arm in right},
        "table_of_equal_arms": sum(claims_nothing(given, number, luck) for number in range(studies)) / studies,
        "half_width_points": {"median": round(float(np.median(widths)), 3), "largest": round(max(widths), 3)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=200)
    given = parser.parse_args()
    found = structure(RESULTS / "hippocampus_quick.csv")
    by_luck = {name: shares(found, given.studies, luck) for name, luck in LUCK.items()}
    present = by_luck["as measured"]["present_rule"]
    result = {
        "command": "python benchmarks/statistics_calibration.py",
        "right_verdict_null": present["null"],
        "right_verdict_planted": present["planted"],
        "studies": given.studies,
        "rule": RULE,
        "effect_planted": EFFECT,
        "cases": CASES,
        "seeds": SEEDS,
        "arms": list(ARMS),
        "structure": {name: round(getattr(found, name), 5) for name in ("arm_sd", "seed_sd", "rest_sd")},
        "by_training_luck": by_luck,
    }
    (RESULTS / "statistics_calibration.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
