"""Sliding windows mirrored, ensembles averaged, the way back slab by slab, and components kept where they help."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffboost3d.imaging.geometry import Grid, resample
from diffboost3d.segmentation import inference
from diffboost3d.segmentation.inference import (
    Member,
    WindowPlan,
    classes_in_source,
    mean_probabilities,
    mirrored,
    probabilities,
    slabs_in_source,
)
from diffboost3d.segmentation.postprocessing import choose, choose_together, keep_largest

CPU = torch.device("cpu")
PATCH = (8, 6, 4)


class Local(torch.nn.Module):
    """Two classes from each voxel alone, which commutes with every mirroring."""

    def forward(self, images):
        return torch.cat([images.sin() * 3.1, images.square() - 0.3], dim=1)


class Lopsided(torch.nn.Module):
    """Looks at the voxel before along i and k, so that mirroring changes what it says."""

    def forward(self, images):
        before = torch.roll(images, (1, 1), (2, 4))
        return torch.cat([images * 1.7 - before, before.square() + 0.1 * images], dim=1)


class Constant(torch.nn.Module):
    """The same logits everywhere."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = torch.tensor(logits).reshape(1, -1, 1, 1, 1)

    def forward(self, images):
        return self.logits.expand(len(images), -1, *images.shape[2:]).clone()


def volume(shape=(11, 7, 5)):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


# --- mirroring -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("axes", [(0,), (2,), (0, 1), (0, 1, 2)])
def test_mirroring_changes_nothing_of_a_network_that_commutes_with_it(axes):
    plain = mean_probabilities([Member(Local(), PATCH)], volume(), WindowPlan(0.5), CPU)
    both = mean_probabilities([Member(Local(), PATCH)], volume(), WindowPlan(0.5, axes), CPU)
    assert np.array_equal(plain, both)


def test_mirrored_logits_are_the_mean_over_all_eight_mirrorings():
    windows = torch.from_numpy(volume(PATCH))[None, None]
    network, every = Lopsided(), [[2], [3], [4], [2, 3], [2, 4], [3, 4], [2, 3, 4], []]
    wanted = torch.stack([network(windows.flip(axes)).flip(axes) for axes in every]).mean(dim=0)
    torch.testing.assert_close(mirrored(network, windows, [2, 3, 4]), wanted)


@pytest.mark.parametrize("axes", [(2,), (2, 4)])
def test_a_mirrored_window_gets_just_the_mirrored_logits(axes):
    windows = torch.from_numpy(volume(PATCH))[None, None]
    assert not torch.equal(Lopsided()(windows.flip(axes)), Lopsided()(windows).flip(axes))
    there = mirrored(Lopsided(), windows.flip(axes), axes)
    assert torch.equal(there, mirrored(Lopsided(), windows, axes).flip(axes))


def test_a_picture_is_not_passed_twice_for_an_axis_that_it_lacks():
    class Counting(Local):
        passes = 0

        def forward(self, images):
            Counting.passes += 1
            return super().forward(images)

    member = Member(Counting(), (8, 8, 1))
    mean_probabilities([member], volume((8, 8, 1)), WindowPlan(0.5, (0, 2)), CPU)
    assert Counting.passes == 2


# --- ensembles -------------------------------------------------------------------------------------------------------
def test_an_ensemble_is_the_mean_of_its_members_probabilities():
    members = [Member(Local(), PATCH), Member(Lopsided(), (6, 6, 4)), Member(Constant(0.0, 1.0), PATCH)]
    alone = [probabilities(one.network, volume(), one.patch, 0.5, CPU) for one in members]
    together = mean_probabilities(members, volume(), WindowPlan(0.5), CPU)
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-6)
    np.testing.assert_allclose(together.sum(axis=0), 1, atol=1e-5)


def test_probabilities_and_not_logits_are_averaged():
    """Softmax of (9, 0) and (0, 1): about 0.9999 and 0.2689, whose mean is 0.6344; the mean logits would say 0.982."""
    members = [Member(Constant(9.0, 0.0), PATCH), Member(Constant(0.0, 1.0), PATCH)]
    classes = mean_probabilities(members, volume(), WindowPlan(0.5), CPU)
    np.testing.assert_allclose(classes[0], 0.6344, atol=1e-4)


def test_half_precision_is_summed_in_full_and_stays_near():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        member = Member(torch.nn.Conv3d(1, 3, 3, padding=1), PATCH)
    full = mean_probabilities([member], volume(), WindowPlan(0.5), CPU)
    half = mean_probabilities([member], volume(), WindowPlan(0.5, precision="bf16"), CPU)
    assert half.dtype == np.float32
    assert 0 < np.abs(full - half).max() < 0.02


# --- the way back ----------------------------------------------------------------------------------------------------
def oblique_grids():
    """A file that counts its voxels along S, L and P, tilted by 12 degrees; and its prepared grid of other spacing."""
    tilt = np.deg2rad(12)
    turn = np.array([[0, -1.0, 0], [0, 0, -1.0], [1.0, 0, 0]])
    rotation = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ turn @ np.diag([3.0, 0.9, 0.8])
    affine[:3, 3] = (12, -5, 40)
    source = Grid.of((5, 19, 16), affine)
    return source, source.canonical().with_spacing((1.1, 1.3, 2.2))


@pytest.mark.parametrize("most", [1, 4 * 3 * 5 * 19 * 3, 2**28])
def test_slabs_of_any_thickness_give_the_same_labels(most, monkeypatch):
    source, grid = oblique_grids()
    logits = np.random.default_rng(1).normal(size=(3, *grid.shape)).astype(np.float32)
    classes = np.exp(logits) / np.exp(logits).sum(axis=0)
    whole = np.stack([resample(one, grid, source) for one in classes])
    monkeypatch.setattr(inference, "SLAB_BYTES", most)
    label = classes_in_source(classes, grid, source)
    assert label.dtype == np.uint8
    apart = np.diff(np.sort(whole, axis=0)[-2:], axis=0)[0] > 1e-5  # where two classes tie, rounding decides
    assert apart.mean() > 0.99
    assert np.array_equal(label[apart], whole.argmax(axis=0)[apart])
    moved = np.concatenate(list(slabs_in_source(classes[1], grid, source)), axis=2)
    np.testing.assert_allclose(moved, whole[1], atol=1e-6)


# --- components ------------------------------------------------------------------------------------------------------
def two_blobs():
    """Label 1: blobs of 8 and 3 voxels that share a corner; label 2: blobs of 4 and 2 voxels apart."""
    label = np.zeros((9, 8, 4), np.uint8)
    label[1:3, 1:3, 1:3] = 1
    label[3, 3, 3] = label[4, 3, 3] = label[5, 3, 3] = 1
    label[7, 1:5, 0] = 2
    label[7, 6:8, 3] = 2
    return label


def test_of_a_kept_label_the_largest_component_stays_and_others_are_untouched():
    label = two_blobs()
    cleaned = keep_largest(label, [2])
    assert np.array_equal(cleaned == 1, label == 1)
    assert (cleaned == 2).sum() == 4
    assert (cleaned[7, 1:5, 0] == 2).all()
    assert (label == 2).sum() == 6  # the input is left alone


def test_a_shared_corner_joins_or_parts():
    assert (keep_largest(two_blobs(), [1], "corners") == 1).sum() == 11
    assert (keep_largest(two_blobs(), [1], "faces") == 1).sum() == 8


def test_in_2d_a_shared_corner_joins_or_parts_too():
    picture = np.zeros((5, 5, 1), np.uint8)
    picture[0:2, 0:2, 0] = picture[2, 2, 0] = 1
    assert keep_largest(picture, [1], "corners").sum() == 5
    assert keep_largest(picture, [1], "faces").sum() == 4


@pytest.mark.parametrize("kept", [[1], [1, 3], []])
def test_an_absent_label_and_an_empty_map_are_left_as_they_are(kept):
    for label in (np.zeros((4, 4, 2), np.uint8), np.full((4, 4, 1), 2, np.uint8)):
        assert np.array_equal(keep_largest(label, kept), label)


def test_components_are_kept_only_for_labels_that_gain_on_average():
    before = {"a": {"head": 0.8, "body": 0.9}, "b": {"head": 0.6, "body": 0.9}, "c": {"head": 0.7, "body": 0.5}}
    after = {"a": {"head": 0.9, "body": 0.9}, "b": {"head": 0.55, "body": 0.9}, "c": {"head": 0.7, "body": 0.5}}
    chosen = choose(before, after, ["head", "body"])
    assert chosen["head"]["keep_largest"] is True  # +0.10, -0.05, 0
    assert chosen["body"]["keep_largest"] is False  # no difference is no gain
    assert chosen["head"]["dice"] == pytest.approx(0.7)
    assert chosen["head"]["cases"]["b"] == [0.6, 0.55]


def test_without_validation_cases_nothing_is_kept():
    chosen = choose({}, {}, ["head"])
    assert chosen["head"] == {"keep_largest": False, "dice": None, "dice_kept": None, "cases": {}}
    assert choose_together([chosen]) == ()


def test_an_ensemble_goes_by_the_validation_cases_of_all_its_members():
    one = {"head": {"cases": {"a": [0.8, 0.9]}}, "body": {"cases": {"a": [0.8, 0.9]}}}
    other = {"head": {"cases": {"b": [0.9, 0.7]}}, "body": {"cases": {"b": [0.9, 0.85]}}}
    assert choose_together([one, other]) == ("body",)
