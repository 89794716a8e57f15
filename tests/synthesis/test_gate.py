"""What the gate lets through and what it doesn't: planted errors on noisy balls whose every number is known."""

from __future__ import annotations

import numpy as np
import pytest

from diffboost3d.evaluation.memorisation import DetailIndex, places, shared_detail
from diffboost3d.synthesis.gate import (
    COPY,
    FIDELITY,
    INTENSITY,
    SOURCE,
    Gate,
    Learned,
    Limit,
    copy_limits,
    fidelity_limits,
    intensity_limits,
    label_agreement,
    label_medians,
    parts_of,
)

SHAPE, SPACING = (30, 34, 16), (1.0, 1.0, 2.0)
LABELS = {"shell": 1, "core": 2}
WHERE = places(SHAPE, 2000, 16, 4)
TRAINING, UNSEEN = range(8), range(20, 24)


def anatomy(number):
    """Noiseless image in [-1, 1] and label of a ball with a core, whose place and size depend on the number."""
    random = np.random.default_rng(number)
    at = np.meshgrid(*(np.linspace(-1, 1, side) - random.uniform(-0.15, 0.15) for side in SHAPE), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in at)) / random.uniform(0.9, 1.1)
    label = np.where(radius < 0.35, 2, np.where(radius < 0.7, 1, 0)).astype(np.uint8)
    level = np.array([-0.6, 0.0, 0.6])[label] + random.uniform(-0.05, 0.05)
    return level.astype(np.float32), label


def texture(*key):
    return np.random.default_rng(key).normal(0, 0.1, SHAPE).astype(np.float32)


def real(number):
    return anatomy(number)[0] + texture(number)


def sample(number, draw, kept=0.6):
    """As an innocent generator would make it: the same shapes, a part of the noise and a part of its own."""
    own = np.sqrt(1 - kept**2) * texture(number, draw + 1)
    return (anatomy(number)[0] + kept * texture(number) + own).astype(np.float32)


def by_threshold(volume, patient):
    """A segmenter that has seen nobody."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(volume, 1.0)
    return np.where(smooth > 0.3, 2, np.where(smooth > -0.3, 1, 0))


@pytest.fixture(scope="module")
def gate():
    cases = [*TRAINING, *UNSEEN]
    ids = tuple(str(number) for number in TRAINING)
    learned = Learned(ids, ids, DetailIndex([real(number) for number in TRAINING], SPACING, WHERE))
    between = [learned.detail.nearest(real(number), learned.others(str(number))).similarity for number in cases]
    source = [shared_detail(sample(number, 0), real(number), SPACING, WHERE) for number in UNSEEN]
    limits = [
        *fidelity_limits([label_agreement(by_threshold(real(n), ""), anatomy(n)[1], LABELS) for n in cases], 10.0),
        *intensity_limits([label_medians(real(n), anatomy(n)[1], LABELS) for n in cases], 0.5, 0.05),
        *copy_limits(between, source, 0.01, 0.9),
    ]
    return Gate(LABELS, SPACING, WHERE, learned, limits, by_threshold)


def kinds(verdict):
    return {reason.partition(":")[0] for reason in verdict.reasons}


# --- verdicts --------------------------------------------------------------------------------------------------------
def test_innocent_samples_pass(gate):
    verdicts = [gate.judge(sample(n, draw), anatomy(n)[1], real(n), str(n)) for n in TRAINING for draw in (3, 4)]
    assert np.mean([verdict.accepted for verdict in verdicts]) >= 0.85
    assert not [verdict for verdict in verdicts if kinds(verdict) & {COPY, SOURCE, INTENSITY}]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("step", [-4, 4])
def test_a_label_moved_by_four_voxels_is_refused(gate, axis, step):
    for number in TRAINING:
        moved = np.roll(anatomy(number)[1], step, axis=axis)
        assert FIDELITY in kinds(gate.judge(sample(number, 3), moved, real(number), str(number)))


def test_one_wrong_label_is_refused_for_itself(gate):
    number = 5
    label = anatomy(number)[1].copy()
    label[label == 2] = 1
    label[2:5, 2:5, 2:5] = 2
    reasons = gate.judge(sample(number, 3), label, real(number), str(number)).reasons
    assert any(reason.startswith("label fidelity: dice core 0.000 is below") for reason in reasons)


def test_a_copy_of_another_patients_image_is_refused_and_named(gate):
    for number in TRAINING:
        other = (number + 3) % len(TRAINING)
        verdict = gate.judge(real(other), anatomy(other)[1], real(number), str(number))
        assert COPY in kinds(verdict)
        assert verdict.nearest == str(other)


def test_a_copied_part_of_another_patients_image_is_refused(gate):
    volume = sample(1, 3)
    volume[:17] = real(6)[:17]
    assert COPY in kinds(gate.judge(volume, anatomy(1)[1], real(1), "1"))


def test_a_copy_of_the_source_is_refused(gate):
    for number in TRAINING:
        for copy in (real(number), np.clip(0.8 * real(number) + 0.02 * texture(number, 9), -1, 1)):
            assert kinds(gate.judge(copy, anatomy(number)[1], real(number), str(number))) >= {COPY, SOURCE}


def test_a_sample_that_keeps_more_of_its_source_than_unseen_cases_do_is_refused(gate):
    for number in TRAINING:
        verdict = gate.judge(sample(number, 3, kept=0.85), anatomy(number)[1], real(number), str(number))
        assert SOURCE in kinds(verdict)


def test_wrong_intensities_are_refused(gate):
    for change in (lambda v: v + 0.35, lambda v: -v, lambda v: 0.5 * v, lambda v: np.full_like(v, 0.0)):
        for number in TRAINING:
            volume = np.clip(change(sample(number, 3)), -1, 1).astype(np.float32)
            assert INTENSITY in kinds(gate.judge(volume, anatomy(number)[1], real(number), str(number)))


def test_a_verdict_is_the_same_every_time(gate):
    first, again = (gate.judge(sample(2, 3), anatomy(2)[1], real(2), "2") for _ in range(2))
    assert first == again


def test_without_a_segmenter_the_rest_is_still_checked(gate):
    blind = Gate(LABELS, SPACING, WHERE, gate.learned, gate.limits, None)
    verdict = blind.judge(sample(2, 3), np.roll(anatomy(2)[1], 4, axis=0), real(2), "2")
    assert FIDELITY not in kinds(verdict)
    assert COPY in kinds(blind.judge(real(3), anatomy(3)[1], real(2), "2"))


def test_with_one_patient_there_is_no_other_to_compare_with(gate):
    learned = Learned(("0",), ("0",), DetailIndex([real(0)], SPACING, WHERE))
    alone = Gate(LABELS, SPACING, WHERE, learned, copy_limits([], [], 0.01, 0.9), None)
    assert alone.judge(sample(0, 3), anatomy(0)[1], real(0), "0").accepted
    assert alone.judge(sample(0, 3), anatomy(0)[1], real(0), "0").nearest == ""
    assert not alone.judge(real(0), anatomy(0)[1], real(0), "0").accepted


# --- figures and limits ----------------------------------------------------------------------------------------------
def test_dice_is_of_labels_that_are_there_and_of_others_what_is_found_of_them():
    truth, predicted = np.zeros((4, 3, 2), int), np.zeros((4, 3, 2), int)
    truth[0], predicted[:2] = 1, 1
    assert label_agreement(predicted, truth, LABELS) == {
        "dice": pytest.approx(2 / 3),
        "dice shell": pytest.approx(2 / 3),
        "false core": 0.0,
    }
    truth[3, 0, 0] = 2
    assert label_agreement(predicted, truth, LABELS)["dice core"] == 0
    assert label_agreement(predicted, truth, LABELS)["dice"] == pytest.approx(1 / 3)
    assert label_agreement(predicted, truth * 0, LABELS) == {"false shell": 0.5, "false core": 0.0}


def test_cases_without_a_label_limit_what_is_found_of_it_and_not_the_dice():
    figures = [{"dice": 0.8, "dice shell": 0.8}] * 5 + [{"false shell": 0.01}, {"false shell": 0.03}]
    limits = {limit.check: limit for limit in fidelity_limits(figures, 10.0)}
    assert limits["dice"].low == pytest.approx(0.8)
    assert (limits["false shell"].low, limits["false shell"].high) == (None, 0.03)


def test_medians_are_of_each_label_that_is_there():
    label = np.array([0, 0, 0, 1, 1]).reshape(5, 1, 1)
    image = np.array([-1.0, 0.0, 0.5, 0.2, 0.4]).reshape(5, 1, 1)
    assert label_medians(image, label, LABELS) == {"median background": 0.0, "median shell": pytest.approx(0.3)}


def test_limits_of_fidelity_are_a_percentile_of_the_mean_and_the_worst_of_a_label():
    dices = [{"dice": value, "dice shell": value} for value in np.linspace(0.5, 1.0, 11)]
    limits = {limit.check: limit for limit in fidelity_limits(dices, 10.0)}
    assert limits["dice"].low == pytest.approx(0.55)
    assert limits["dice shell"].low == pytest.approx(0.5)
    assert limits["dice"].typical == pytest.approx(0.75)
    assert limits["dice"].references == 11
    assert fidelity_limits([], 10.0) == []


def test_limits_of_intensity_widen_the_range_by_a_share_of_it():
    (limit,) = intensity_limits([{"median shell": value} for value in (0.1, 0.2, 0.5)], 0.5, 0.05)
    assert (limit.low, limit.high) == (pytest.approx(-0.1), pytest.approx(0.7))
    (air,) = intensity_limits([{"median background": -1.0}] * 3, 0.5, 0.05)
    assert (air.low, air.high) == (pytest.approx(-1.025), pytest.approx(-0.975))


def test_limits_are_inclusive_and_say_which_side_was_left():
    limit = Limit("dice", FIDELITY, 0.5, 0.9, 3, 0.7, "origin")
    assert limit.refusal(0.5) is None
    assert limit.refusal(0.9) is None
    assert "below 0.500, origin" in str(limit.refusal(0.49))
    assert "above 0.900, origin" in str(limit.refusal(0.91))


def test_parts_are_of_like_size_and_patients_stay_whole():
    patients = [f"p{number % 7}" for number in range(15)]
    parts = parts_of(patients, 2, 4, np.random.default_rng(0))
    assert sorted(parts) == sorted(set(patients))
    assert sorted(np.bincount(list(parts.values()))) == [3, 4]
    assert sorted(parts_of(patients[:3], 2, 4, np.random.default_rng(0)).values()) == [0, 1, 2]
    assert set(parts_of(["a", "a"], 2, 4, np.random.default_rng(0)).values()) == {0}
