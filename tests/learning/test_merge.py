"""Cuboid merging in TorchIO: every voxel has one source, labels follow it, and the history replays the very merge."""

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

import diffboost3d
from diffboost3d.augmentation import merge
from diffboost3d.augmentation.merge import CuboidMerge, MergeCuboids

REAL, OTHER = 3, 7  # label values of the two sources
shapes = st.tuples(st.integers(1, 14), st.integers(1, 13), st.integers(1, 9))
cells = st.tuples(*[st.integers(1, 20)] * 3)
seeds = st.integers(0, 10**6)


def noise(shape, seed, channels=1):
    return torch.randn((channels, *shape), generator=torch.Generator().manual_seed(seed))


def flat(shape, value, affine=None):
    return tio.LabelMap(tensor=torch.full((1, *shape), value, dtype=torch.uint8), affine=affine)


def subject(shape=(12, 10, 6), spacing=(1.0, 1.0, 2.5), labelled=True, channels=1):
    affine = np.diag([*spacing, 1.0])
    images = {
        "image": tio.ScalarImage(tensor=noise(shape, 1, channels), affine=affine),
        "synthetic": tio.ScalarImage(tensor=noise(shape, 2, channels), affine=affine),
        "label": flat(shape, REAL, affine),
    }
    if labelled:
        images["synthetic_label"] = flat(shape, OTHER, affine)
    return tio.Subject(**images)


def with_structure(shape=(14, 12, 8), labelled=True):
    """A subject whose label has 1 and 2 in two corners and 0 elsewhere; that of the other is 0."""
    made = subject(shape, labelled=labelled)
    label = torch.zeros(1, *shape, dtype=torch.uint8)
    label[:, :5, :6, :3], label[:, 8:, 5:, 2:] = 1, 2
    made["label"].set_data(label)
    if labelled:
        made["synthetic_label"].set_data(torch.zeros_like(label))
    return made


def seeded(transform, subject, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transform(subject)


def equal(first, second, names=("image", "label")):
    return all(torch.equal(first[name].data, second[name].data) for name in names)


def drawn(after):
    """The cuboids of a merged subject."""
    return after.get_applied_transforms()[-1].cuboids


# --- sources ---------------------------------------------------------------------------------------------------------
@settings(max_examples=50, deadline=None)
@given(shape=shapes, cell=cells, alpha=st.floats(0, 1), channels=st.integers(1, 3), seed=seeds)
def test_every_voxel_comes_from_one_source_and_its_label_with_it(shape, cell, alpha, channels, seed):
    before = subject(shape, channels=channels)
    after = seeded(CuboidMerge(alpha, cell), before, seed)
    real = after.image.data == before.image.data
    other = after.image.data == before.synthetic.data
    assert (real ^ other).all()
    assert torch.equal(real, (after.label.data == REAL).expand_as(real))
    assert torch.equal(other, (after.label.data == OTHER).expand_as(other))


@pytest.mark.parametrize("feather", [0.0, 1.0])
@pytest.mark.parametrize(("alpha", "source"), [(1.0, "image"), (0.0, "synthetic")])
def test_alpha_one_is_all_real_and_alpha_zero_all_synthetic(alpha, source, feather):
    before = subject()
    for seed in range(5):
        after = seeded(CuboidMerge(alpha, 3, feather=feather), before, seed)
        assert torch.equal(after.image.data, before[source].data)
        assert after.label.data.unique().tolist() == [REAL if alpha else OTHER]


def test_labels_stay_where_the_synthetic_volume_shares_them():
    for before, words in (
        (subject(labelled=False), {}),
        (subject(), {"synthetic_label": None}),
        (subject(), {"label": None}),
    ):
        after = seeded(CuboidMerge(0.5, 3, **words), before)
        assert after.label.data.unique().tolist() == [REAL]
        assert not torch.equal(after.image.data, before.image.data)


def test_all_images_and_labels_of_a_subject_get_the_same_cuboids():
    before = subject()
    others = {"t2": 4, "t2_fake": 5}
    for name, seed in others.items():
        before.add_image(tio.ScalarImage(tensor=noise((12, 10, 6), seed, 2), affine=before.image.affine), name)
    before.add_image(flat((12, 10, 6), 1, before.image.affine), "lesions")
    before.add_image(flat((12, 10, 6), 0, before.image.affine), "lesions_fake")
    transform = CuboidMerge(
        0.5,
        4,
        image=("image", "t2"),
        synthetic=("synthetic", "t2_fake"),
        label=["label", "lesions"],
        synthetic_label=["synthetic_label", "lesions_fake"],
    )
    after = seeded(transform, before)
    real = after.label.data == REAL
    assert 0 < real.double().mean() < 1
    assert torch.equal(after.lesions.data == 1, real)
    assert torch.equal(after.image.data, torch.where(real, before.image.data, before.synthetic.data))
    assert torch.equal(after.t2.data, torch.where(real, before.t2.data, before.t2_fake.data))
    replayed = after.get_composed_history()(before)
    assert equal(replayed, after, ("image", "t2", "label", "lesions"))


def test_two_real_cases_are_merged_wherever_they_lie_in_space():
    before = subject()
    away = before.image.affine.copy()
    away[:3, 3] = (30, -20, 55)
    partner = tio.Subject(ct=before.image, other=tio.ScalarImage(tensor=noise((12, 10, 6), 8), affine=away))
    after = seeded(CuboidMerge(0.5, 4, image="ct", synthetic="other", label=None), partner)
    real = after.ct.data == partner.ct.data
    assert torch.equal(after.ct.data[~real], partner.other.data[~real])
    assert (after.ct.affine == before.image.affine).all()


def test_the_other_images_stay_unless_they_are_to_be_removed():
    before = subject()
    after = seeded(CuboidMerge(0.5, 3), before)
    assert equal(after, before, ("synthetic", "synthetic_label"))
    bare = seeded(CuboidMerge(0.5, 3, remove=True), before)
    assert bare.get_images_names() == ["image", "label"]
    assert equal(bare, after)
    assert equal(bare.get_composed_history()(before), bare)


def test_geometry_types_and_the_subject_given_are_kept():
    before, kept = subject(), subject()
    after = seeded(CuboidMerge(0.5, 3), before)
    for name in ("image", "label"):
        assert after[name].data.dtype == before[name].data.dtype
        assert (after[name].affine == before[name].affine).all()
    assert not torch.equal(after.image.data, before.image.data)
    assert equal(before, kept, ("image", "label", "synthetic", "synthetic_label"))
    assert before.history == []


def test_hounsfield_units_stay_whole_numbers():
    shape = (6, 6, 4)
    volumes = {"image": -1000, "synthetic": 400}
    made = tio.Subject(
        {name: tio.ScalarImage(tensor=torch.full((1, *shape), hu, dtype=torch.int16)) for name, hu in volumes.items()}
    )
    after = seeded(CuboidMerge(0.5, 2), made)
    assert after.image.data.dtype == torch.int16
    assert after.image.data.unique().tolist() == [-1000, 400]


# --- sizes -----------------------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(
    edge=st.floats(0.5, 40),
    space=st.floats(0.4, 6),
    others=st.tuples(st.floats(0.4, 6), st.floats(0.4, 6)),
    axis=st.integers(0, 2),
    turn=st.floats(0, 0.5),
    seed=seeds,
)
def test_runs_of_the_mask_are_as_long_in_mm_as_asked(edge, space, others, axis, turn, seed):
    spacing = [*others]
    spacing.insert(axis, space)
    voxels = max(1, round(edge / space))
    shape = [1, 1, 1]
    shape[axis] = 40 * voxels
    rotation = np.array([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(spacing)
    line = tio.Subject(
        image=tio.ScalarImage(tensor=torch.ones(1, *shape), affine=affine),
        synthetic=tio.ScalarImage(tensor=torch.zeros(1, *shape), affine=affine),
    )
    changes = torch.nonzero(seeded(CuboidMerge(0.5, cell_mm=edge), line, seed).image.data.flatten().diff()).flatten()
    measured = math.gcd(*changes.diff().tolist())  # every run between two borders is a whole number of cuboids
    assert abs(measured * space - edge) <= space / 2 + 1e-6 or (measured == 1 and edge < space)


@pytest.mark.parametrize(("spacing", "edge"), [((1.0, 1.0, 4.0), (8, 8, 2)), ((0.5, 2.0, 1.6), (16, 4, 5))])
def test_the_transform_takes_the_spacing_from_the_image(spacing, edge):
    after = seeded(CuboidMerge(0.5, cell_mm=8.0, feather_mm=2.0), subject((20, 20, 10), spacing))
    assert drawn(after).cell == edge
    assert drawn(after).sigma == tuple(2.0 / space for space in spacing)
    per_axis = seeded(CuboidMerge(0.5, cell_mm=[8.0, 2.0, 4.0]), subject((20, 20, 10), (1.0, 1.0, 4.0)))
    assert drawn(per_axis).cell == (8, 2, 1)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    seed=seeds,
    feather=st.sampled_from([0.0, 1.0]),
    mask_foreground=st.booleans(),
)
def test_two_dimensional_images_are_merged_by_rectangles(shape, seed, feather, mask_foreground):
    before = subject((*shape, 1))
    after = seeded(CuboidMerge(0.5, 4, feather=feather, mask_foreground=mask_foreground), before, seed)
    assert after.image.data.shape == (1, *shape, 1)
    if not feather:
        assert ((after.image.data == before.image.data) | (after.image.data == before.synthetic.data)).all()
    assert set(after.label.data.unique().tolist()) <= ({REAL} if mask_foreground else {REAL, OTHER})


def test_feathered_borders_blend_the_image_and_leave_labels_hard():
    shape = (24, 24, 12)
    before = subject(shape)
    before.image.set_data(torch.ones(1, *shape))
    before.synthetic.set_data(torch.zeros(1, *shape))
    hard = seeded(CuboidMerge(0.5, 8), before, 3)
    soft = seeded(CuboidMerge(0.5, 8, feather=1.0), before, 3)
    assert torch.equal(soft.label.data, hard.label.data)
    assert soft.image.data.min() >= 0
    assert soft.image.data.max() <= 1
    between = (soft.image.data > 0.01) & (soft.image.data < 0.99)
    assert between.any()
    assert ((soft.image.data > 0.5) == (hard.image.data > 0.5)).double().mean() > 0.95


# --- the foreground kept ---------------------------------------------------------------------------------------------
@settings(max_examples=30, deadline=None)
@given(
    cell=cells,
    alpha=st.floats(0, 1),
    seed=seeds,
    kept=st.sampled_from([True, 1, [2], (1, 2)]),
    feather=st.sampled_from([0.0, 1.5]),
)
def test_inside_the_labels_kept_image_and_label_stay_real(cell, alpha, seed, kept, feather):
    before = with_structure()
    after = seeded(CuboidMerge(alpha, cell, feather=feather, mask_foreground=kept), before, seed)
    free = seeded(CuboidMerge(alpha, cell, feather=feather), before, seed)
    values = [1, 2] if kept is True else [kept] if isinstance(kept, int) else kept
    inside = torch.isin(before.label.data, torch.tensor(values, dtype=torch.uint8))
    assert torch.equal(after.image.data[inside], before.image.data[inside])
    assert torch.equal(after.label.data[inside], before.label.data[inside])
    assert torch.equal(after.label.data[~inside], free.label.data[~inside])
    if not feather:
        assert torch.equal(after.image.data[~inside], free.image.data[~inside])
    assert equal(after.get_composed_history()(before), after)


def test_with_alpha_zero_and_foreground_kept_only_the_structures_are_real():
    before = with_structure(labelled=False)
    after = seeded(CuboidMerge(0.0, mask_foreground=True), before)
    assert torch.equal(after.image.data == before.image.data, before.label.data > 0)
    assert torch.equal(after.label.data, before.label.data)


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
