"""A synthetic CT whose units drifted is told from one whose units are kept."""

from __future__ import annotations

import numpy as np
import pytest

from diffboost3d.evaluation.hounsfield import check_units, organ_units

SHAPE = (10, 8, 4)
LABELS = {"liver": 1, "kidney": 2, "absent": 3}


@pytest.fixture
def scan() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(real, label, outside): 100 HU +- 10 in the liver, 150 +- 5 in the kidney, a lung at -850 with a bubble, table, padding."""
    random = np.random.default_rng(0)
    real = np.full(SHAPE, -1000.0)
    label = np.zeros(SHAPE, np.uint8)
    real[2:8, 2:6], label[2:5, 2:6], label[5:7, 2:4] = 40.0, 1, 2
    real[label == 1] = 100 + 10 * random.standard_normal((label == 1).sum())
    real[label == 2] = 150 + 5 * random.standard_normal((label == 2).sum())
    real[7, 4:6] = -850.0
    real[7, 4, 0] = -1000.0
    outside = np.ones(SHAPE, bool)
    outside[2:8, 2:6] = False
    real[:, 7], real[0] = 200.0, -3024.0
    return real, label, outside


def changed(real: np.ndarray, where: object, by: float) -> np.ndarray:
    made = real.copy()
    made[where] += by
    return made


def test_a_copy_and_small_noise_keep_the_units(scan) -> None:
    real, label, outside = scan
    noisy = np.where(outside | (real < -160), real, real + np.random.default_rng(1).normal(0, 3, SHAPE))
    for made in (real, noisy):
        found = check_units(real, made, label, LABELS, outside)
        assert found.problems == ()
        assert list(found.organs) == ["liver", "kidney"]
        assert found.air == 1.0
    assert found.organs["liver"].voxels == 3 * 4 * 4


def test_an_organ_whose_median_leaves_the_quartiles_is_named(scan) -> None:
    real, label, outside = scan
    found = check_units(real, changed(real, label == 2, 20.0), label, LABELS, outside)
    assert [line.split(":")[0] for line in found.problems] == ["kidney"]
    assert found.organs["kidney"].median == pytest.approx(found.organs["kidney"].real_median + 20)


def test_filled_air_in_the_body_a_changed_table_and_low_values_are_named(scan) -> None:
    real, label, outside = scan
    filled = check_units(real, changed(real, np.s_[7, 4, 0], 960.0), label, LABELS, outside)
    assert len(filled.problems) == 1
    assert filled.problems[0].startswith("air: ")
    table = check_units(real, changed(real, np.s_[5, 7, 1], -1.0), label, LABELS, outside)
    assert table.problems == (f"outside the body 1 of {outside.sum()} voxels have another value",)
    low = check_units(real, changed(real, np.s_[7, 5, 0], -4000.0), label, LABELS, outside)
    assert low.problems == ("lowest value -4850 HU, of the real scan -3024",)


def test_without_air_or_labels_there_is_nothing_to_say(scan) -> None:
    real, label, outside = scan
    found = check_units(real.clip(-100), real.clip(-100), 0 * label, LABELS, outside)
    assert found.organs == {}
    assert np.isnan(found.air)
    assert found.problems == ()


def test_other_shapes_are_refused(scan) -> None:
    real, label, outside = scan
    with pytest.raises(ValueError, match="shapes differ"):
        organ_units(real, real[1:], label, LABELS)
    with pytest.raises(ValueError, match="shapes differ"):
        check_units(real, real, label, LABELS, outside[1:])
