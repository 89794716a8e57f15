"""What several tests of stages read."""

from __future__ import annotations

from pathlib import Path

import pytest
from inspected import CASES, SHAPE

from diffboost3d.cohort import write_cohort


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cohorts")
    write_cohort("mr", root / "mr", CASES, 0, SHAPE)
    write_cohort("ct", root / "ct", CASES, 0, (40, 36, 20))
    write_cohort("ultrasound", root / "us", CASES, 0, (48, 40))
    return root
