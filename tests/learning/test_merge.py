"""Cuboid merging in TorchIO: every voxel has one source, labels follow it, sizes are as asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torchio as tio
from hypothesis import given, settings
from hypothesis import strategies as st
from merge_subjects import OTHER, REAL, cells, equal, flat, noise, seeded, seeds, shapes, subject, with_structure

from diffboost3d.augmentation.merge import CuboidMerge


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
