"""Losses: names are MONAI's, outputs weigh 1, 1/2, 1/4, and ignored voxels have no part."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diffboost3d.cases.records import IGNORED
from diffboost3d.errors import ConfigError
from diffboost3d.segmentation.batches import MergePlan, PatchDataset, TrainingCase
from diffboost3d.segmentation.learning import SegmentationLearner, SegmentationObjective
from diffboost3d.segmentation.losses import LOSSES, SPATIAL, SupervisedLoss, make_loss, supervision_weights


def drawn(shape=(2, 3, 4, 5, 3)):
    random = torch.Generator().manual_seed(0)
    label = torch.randint(0, 3, (shape[0], 1, *shape[2:]), generator=random)
    return torch.randn(shape, generator=random).requires_grad_(), label


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_falls_as_the_prediction_gets_right(name):
    _, label = drawn()
    right = torch.nn.functional.one_hot(label[:, 0], 3).movedim(-1, 1).float()
    loss = make_loss(name, False, {})
    values = [float(loss(scale * right, label)) for scale in (-5.0, 0.0, 5.0, 50.0)]
    assert all(math.isfinite(value) for value in values)
    assert values == sorted(values, reverse=True)


def test_arguments_reach_the_loss():
    logits, label = drawn()
    both = make_loss("dice_ce", False, {})(logits, label)
    apart = [
        make_loss("dice_ce", False, {"lambda_dice": one, "lambda_ce": other})(logits, label)
        for one, other in ((1.0, 0.0), (0.0, 1.0))
    ]
    torch.testing.assert_close(both, sum(apart))


def test_arguments_that_do_not_fit_are_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"train\.loss_arguments don't fit loss 'tversky'") as refusal:
        make_loss("tversky", False, {"nonsense": 1})
    assert "\n" not in str(refusal.value)


def test_supervision_weights_halve_and_sum_to_one():
    assert supervision_weights(1) == [1.0]
    assert supervision_weights(3) == pytest.approx([4 / 7, 2 / 7, 1 / 7])


def test_outputs_are_weighed_from_fine_to_coarse():
    logits, label = drawn()
    loss = make_loss("dice_ce", False, {})
    found = SupervisedLoss(loss)([logits, -logits], label)
    torch.testing.assert_close(found, 2 / 3 * loss(logits, label) + 1 / 3 * loss(-logits, label))


# --- ignored voxels --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [name for name in LOSSES if name not in SPATIAL])
@pytest.mark.parametrize("include_background", [False, True])
def test_the_loss_is_that_of_the_other_voxels_alone(name, include_background):
    logits, label = drawn()
    loss = make_loss(name, include_background, {}, ignores=True)
    ignoring = label.clone()
    ignoring[:, :, 2:] = IGNORED  # the same half of both samples: what is left is a volume
    found = SupervisedLoss(loss, ignores=True)([logits], ignoring)
    torch.testing.assert_close(found, loss(logits[:, :, :2], label[:, :, :2]))
    found.backward()
    assert (logits.grad[:, :, 2:] == 0).all()
    assert (logits.grad[:, :, :2] != 0).any()


def test_without_any_known_voxel_the_loss_is_zero_and_finite():
    logits, label = drawn()
    found = SupervisedLoss(make_loss("dice_ce", False, {}), ignores=True)([logits], torch.full_like(label, IGNORED))
    found.backward()
    assert float(found.detach()) == 0
    assert (logits.grad == 0).all()


def test_a_sample_without_known_voxels_leaves_the_others_as_they_are():
    logits, label = drawn()
    loss = make_loss("dice_ce", False, {})
    label[0] = IGNORED
    found = SupervisedLoss(loss, ignores=True)([logits], label)
    torch.testing.assert_close(found, loss(logits[1:], label[1:]))


@pytest.mark.parametrize("name", SPATIAL)
def test_losses_of_distances_are_refused_with_ignored_voxels(name):
    with pytest.raises(ConfigError, match=r"data\.ignore_label"):
        make_loss(name, False, {}, ignores=True)


class Answers(torch.nn.Module):
    """Reads the class 0 or 1 off the image."""

    def forward(self, images):
        return torch.cat([-images, images], dim=1) * 100


def learner_of(cases, **more):
    plan = MergePlan("none", 1.0, (1,), None, 0.0, "image")
    dataset = PatchDataset(cases, (3, 3, 3), (1.0, 1.0, 2.0), plan, None, 1.0, 0)
    return SegmentationLearner(Answers(), dataset, cases, ["ball"], 0.0, False, **more)


def test_validation_scores_known_voxels_only():
    label = np.zeros((6, 4, 3), np.uint8)
    label[:2] = 1
    label[4:] = IGNORED
    image = np.where(label == 1, 1.0, -1.0).astype(np.float32)
    image[4:] = 1.0  # foreground where nobody knows
    assert learner_of([TrainingCase(image, label)]).validate(torch.device("cpu"))["score"] == 1.0
    image[2:4] = 1.0
    assert learner_of([TrainingCase(image, label)]).validate(torch.device("cpu"))["score"] == pytest.approx(2 / 3)


def test_patches_are_never_centred_on_ignored_voxels():
    label = np.full((9, 9, 9), IGNORED, np.uint8)
    label[4, 4, 4] = 1
    dataset = learner_of([TrainingCase(np.zeros(label.shape, np.float32), label)]).dataset
    assert all((dataset[number]["label"] == 1).any() for number in range(5))


def test_merging_at_the_prediction_works_under_deep_supervision():
    class TwoHeads(torch.nn.Module):
        def heads(self, images):
            return [torch.cat([-images, images], dim=1), torch.cat([images, -images], dim=1)]

    image = torch.tensor([1.0, -1.0]).reshape(1, 1, 2, 1, 1)
    batch = {
        "image": image,
        "label": torch.tensor([1, 0]).reshape(1, 1, 2, 1, 1),
        "other": -image,
        "other_label": torch.tensor([0, 1]).reshape(1, 1, 2, 1, 1),
        "mask": torch.tensor([1, 0], dtype=torch.uint8).reshape(1, 1, 2, 1, 1),
    }
    loss = make_loss("dice_ce", False, {})
    found = SegmentationObjective(TwoHeads(), False, loss)(batch)["loss"]
    first = torch.stack([torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0])]).reshape(1, 2, 2, 1, 1)
    label = torch.ones(1, 1, 2, 1, 1, dtype=torch.long)
    torch.testing.assert_close(found, 2 / 3 * loss(first, label) + 1 / 3 * loss(-first, label))
