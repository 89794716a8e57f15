"""Made-up scores: four arms, three folds, two seeds and two labels, with a planted gain of some Dice points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diffboost3d.cases.records import Score
from diffboost3d.evaluation.summary import summarise

GAINS = {"none": 0.0, "classical": 0.015, "diffboost": 0.02, "diffboost_classical": 0.035}
UNITS = {"dice": "", "hd95": "mm", "assd": "mm", "nsd": ""}


def _made_up_case(rng: np.random.Generator, case: int) -> list[Score]:
    base = rng.beta(12, 4)
    scores = []
    for arm, gain in GAINS.items():
        for seed in (0, 1):
            for label, ease in (("left atrium", 0.05), ("pulmonary veins", -0.05)):
                dice = float(np.clip(base + ease + gain + rng.normal(0, 0.02), 0, 1))
                values = {"dice": dice, "hd95": 30 * (1 - dice), "assd": 9 * (1 - dice), "nsd": dice**0.5}
                scores += [
                    Score(arm, case % 3, seed, f"case{case:02d}", label, metric, value, UNITS[metric])
                    for metric, value in values.items()
                ]
    return scores


@pytest.fixture(scope="session")
def scores() -> list[Score]:
    rng = np.random.default_rng(0)
    return [score for case in range(24) for score in _made_up_case(rng, case)]


@pytest.fixture(scope="session")
def summary(scores: list[Score]) -> dict[str, Any]:
    return summarise(scores)
