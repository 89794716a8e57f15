"""Cuboid merging as a TorchIO transform: its history replays the very merge, TorchIO's own arguments, and what is refused."""

from __future__ import annotations

import doctest
import json
import math

import numpy as np
import pytest
import torch
import torchio as tio
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_subjects import OTHER, REAL, cells, equal, flat, noise, seeded, seeds, shapes, subject, with_structure

import diffboost3d
from diffboost3d.augmentation import merge
from diffboost3d.augmentation.merge import CuboidMerge, MergeCuboids


# --- history ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"feather": 1.5},
        {"feather_mm": 2.0, "cell_mm": 5.0},
        {"alpha": (0.2, 0.9), "mask_foreground": [2]},
        {"remove": True},
        {"copy": False},
    ],
)
def test_torchio_replays_the_merge_from_the_history(given):
    pipeline = tio.Compose(
        [CuboidMerge(**{"alpha": 0.5, "cell": 4, **given}), tio.RandomFlip(axes=(0, 1, 2), flip_probability=0.5)]
    )
    after = seeded(pipeline, with_structure(), 11)
    assert after.history[0].__class__.__name__ == "MergeCuboids"
    assert len(after.history) == len(after.get_applied_transforms())
    assert equal(tio.Compose(after.get_applied_transforms())(with_structure()), after)
    assert equal(after.get_composed_history()(with_structure()), after)
    again = after.get_composed_history()(with_structure())
    assert equal(again.get_composed_history()(with_structure()), after)  # a replay can be replayed


@settings(max_examples=25, deadline=None)
@given(
    shape=shapes,
    cell=cells,
    low=st.floats(0, 1),
    feather=st.sampled_from([0.0, 0.7]),
    kept=st.sampled_from([False, True, [REAL]]),
    seed=seeds,
)
def test_a_history_saved_as_json_replays_the_very_merge(shape, cell, low, feather, kept, seed):
    before = subject(shape)
    transform = CuboidMerge((low, 1.0), cell, feather=feather, mask_foreground=kept)
    after = seeded(transform, before, seed)
    [(name, arguments)] = json.loads(json.dumps(after.applied_transforms))
    assert name == "MergeCuboids"
    assert equal(MergeCuboids(**arguments)(before), after)


def test_two_merges_one_after_the_other_are_replayed_in_order():
    before = subject()
    twice = seeded(tio.Compose([CuboidMerge(0.8, 4), CuboidMerge(0.8, 3)]), before, 5)
    assert len(twice.history) == 2
    assert equal(twice.get_composed_history()(before), twice)


def test_history_replays_on_another_subject_and_refuses_a_larger_one():
    after = seeded(CuboidMerge(0.5, 4), subject())
    replayed = after.get_composed_history()(subject(labelled=False))
    assert torch.equal(replayed.image.data, after.image.data)
    assert replayed.label.data.unique().tolist() == [REAL]
    with pytest.raises(ValueError, match="smaller volume"):
        after.get_composed_history()(subject((30, 10, 6)))


def test_the_same_torch_seed_gives_the_same_draw():
    transform = CuboidMerge(0.5, 3)
    assert equal(seeded(transform, subject(), 4), seeded(transform, subject(), 4))
    assert len({tuple(seeded(transform, subject(), seed).label.data.flatten().tolist()) for seed in range(6)}) == 6


def loaded(seed, workers):
    """Eight merged subjects of a loader with these workers."""
    items = tio.SubjectsDataset([subject() for _ in range(8)], transform=CuboidMerge((0.2, 0.8), 3))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        loader = torch.utils.data.DataLoader(items, batch_size=2, num_workers=workers, collate_fn=list)
        return [one for batch in loader for one in batch]


def test_loader_workers_draw_apart_repeatably_and_hand_on_the_history():
    merged, again = loaded(1, workers=2), loaded(1, workers=2)
    assert all(equal(one, two) for one, two in zip(merged, again, strict=True))
    assert all(equal(one.get_composed_history()(subject()), one) for one in merged)
    assert len({one.label.data.numpy().tobytes() for one in merged}) == 8
    assert not equal(merged[0], loaded(2, workers=2)[0])


def test_the_transform_says_how_it_was_made_and_what_it_drew():
    assert diffboost3d.CuboidMerge is CuboidMerge
    assert diffboost3d.MergeCuboids is MergeCuboids
    assert "alpha=(0.2, 0.7), cell=(6,)" in repr(CuboidMerge((0.2, 0.7), 6))
    after = seeded(CuboidMerge(0.5, 6), subject())
    assert "MergeCuboids(cell=[6, 6, 6]" in repr(after.get_applied_transforms()[0])
    config = CuboidMerge(0.5, 6).to_hydra_config()
    assert json.loads(json.dumps(config))["alpha"] == 0.5


# --- TorchIO's own arguments -----------------------------------------------------------------------------------------
def test_torchios_own_arguments_hold():
    before = subject()
    assert equal(seeded(CuboidMerge(0.0, p=0), before), before)
    kept = seeded(CuboidMerge(0.0, keep={"image": "before"}), before)
    assert torch.equal(kept.before.data, before.image.data)
    assert torch.equal(kept.image.data, before.synthetic.data)
    labels_only = seeded(CuboidMerge(0.0, exclude=["image"]), before)
    assert torch.equal(labels_only.image.data, before.image.data)
    assert labels_only.label.data.unique().tolist() == [OTHER]
    mine = subject()
    assert seeded(CuboidMerge(0.0, copy=False), mine) is mine


def test_a_dictionary_of_tensors_is_merged():
    arrays = {name: image.data for name, image in subject().get_images_dict(intensity_only=False).items()}
    transform = CuboidMerge(0.5, 4, include=list(arrays), label_keys=["label", "synthetic_label"])
    after = seeded(transform, arrays)
    real = after["label"] == REAL
    assert 0 < real.double().mean() < 1
    assert torch.equal(after["image"], torch.where(real, arrays["image"], arrays["synthetic"]))


# --- what is refused -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(12, 10, 5), (10, 12, 6)])
def test_images_of_other_shapes_are_refused(shape):
    before = subject()
    before.add_image(tio.ScalarImage(tensor=noise(shape, 2)), "synthetic")
    with pytest.raises(ValueError, match=r"image .* and synthetic .* differ in shape"):
        seeded(CuboidMerge(), before)
    before = subject(labelled=False)
    before.add_image(flat(shape, 1), "synthetic_label")
    with pytest.raises(ValueError, match=r"label .* and synthetic_label .* differ in shape"):
        seeded(CuboidMerge(), before)


def test_a_label_to_be_kept_of_another_shape_is_refused():
    before = subject(labelled=False)
    before.add_image(flat((12, 10, 5), 1), "label")
    with pytest.raises(ValueError, match=r"label .* and the first image .* differ in shape"):
        seeded(CuboidMerge(mask_foreground=True), before)


@pytest.mark.parametrize(
    ("diagonal", "said"), [((1.0, 1.0, 2.0), "differ in spacing"), ((-1.0, 1.0, 2.5), "orientation: RAS and LAS")]
)
def test_images_that_lie_otherwise_are_refused(diagonal, said):
    before = subject()
    affine = np.diag([*diagonal, 1.0])
    before.add_image(tio.ScalarImage(tensor=noise((12, 10, 6), 2), affine=affine), "synthetic")
    with pytest.raises(ValueError, match=said):
        seeded(CuboidMerge(), before)


def test_an_image_made_of_a_bare_tensor_lies_as_the_real_one():
    before = subject()
    before.add_image(tio.ScalarImage(tensor=before.synthetic.data), "synthetic")
    assert equal(seeded(CuboidMerge(0.5, 3), before), seeded(CuboidMerge(0.5, 3), subject()))


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"image": "t1"}, "t1"),
        ({"synthetic": "fake"}, "fake"),
        ({"label": "organs"}, "organs"),
        ({"synthetic_label": "organs"}, "organs"),
    ],
)
def test_a_name_that_the_subject_lacks_is_refused_with_those_it_has(given, missing):
    with pytest.raises(KeyError, match=f"no image '{missing}'; it has image, synthetic, label"):
        seeded(CuboidMerge(**given), subject())


def test_a_label_of_the_other_image_without_a_real_one_is_refused():
    before = subject()
    before.remove_image("label")
    with pytest.raises(KeyError, match="no image 'label'"):
        seeded(CuboidMerge(), before)
    unlabelled = subject(labelled=False)
    unlabelled.remove_image("label")
    assert "image" in seeded(CuboidMerge(), unlabelled)
    with pytest.raises(KeyError, match="no image 'label'"):
        seeded(CuboidMerge(mask_foreground=True), unlabelled)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"alpha": -0.01}, "alpha must be from 0 to 1"),
        ({"alpha": math.nan}, "alpha must be from 0 to 1"),
        ({"alpha": (0.7, 0.2)}, "alpha must be from 0 to 1"),
        ({"alpha": (0.1, 0.2, 0.3)}, "alpha must be from 0 to 1"),
        ({"cell": 0}, "one or three numbers"),
        ({"cell": (4, 4)}, "one or three numbers"),
        ({"cell": (4, 4, 0)}, "one or three numbers"),
        ({"cell_mm": -2.0}, "cell_mm must be"),
        ({"feather": -1.0}, "feather must be at least 0"),
        ({"image": ("image", "t2")}, "image and synthetic must name as many images"),
        ({"synthetic": "image"}, "must name each image once"),
        ({"label": ("a", "b")}, "label and synthetic_label must name as many"),
        ({"label": None, "mask_foreground": True}, "mask_foreground needs the name of a label"),
    ],
)
def test_what_can_not_be_is_refused_when_the_transform_is_made(given, said):
    with pytest.raises(ValueError, match=said):
        CuboidMerge(**given)


def test_the_example_in_the_docstring_runs():
    result = doctest.testmod(merge)
    assert result.attempted > 0
    assert result.failed == 0
