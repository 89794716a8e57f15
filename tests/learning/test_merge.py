"""Cuboid merging: every voxel has one source, labels follow it, and TorchIO can replay it."""

from __future__ import annotations

import doctest
import math

import pytest
import torch
import torchio as tio
from hypothesis import given, settings
from hypothesis import strategies as st

import diffboost3d
from diffboost3d.augmentation import merge
from diffboost3d.augmentation.merge import CuboidMerge, MergeCuboids, cell_in_voxels, draw_cuboids, merge_images

REAL, OTHER = 3, 7  # label values of the two sources
shapes = st.tuples(st.integers(1, 14), st.integers(1, 14), st.integers(1, 9))
cells = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6))


def noise(shape, seed):
    return torch.randn((1, *shape), generator=torch.Generator().manual_seed(seed))


def subject(shape=(12, 10, 6), spacing=(1.0, 1.0, 2.5), labelled=True):
    affine = torch.diag(torch.tensor([*spacing, 1.0])).numpy()
    images = {
        "image": tio.ScalarImage(tensor=noise(shape, 1), affine=affine),
        "synthetic": tio.ScalarImage(tensor=noise(shape, 2), affine=affine),
        "label": tio.LabelMap(tensor=torch.full((1, *shape), REAL, dtype=torch.uint8), affine=affine),
    }
    if labelled:
        label = torch.full((1, *shape), OTHER, dtype=torch.uint8)
        images["synthetic_label"] = tio.LabelMap(tensor=label, affine=affine)
    return tio.Subject(**images)


def seeded(transform, subject, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transform(subject)


def equal(first, second):
    return all(torch.equal(first[name].data, second[name].data) for name in ("image", "label"))


@settings(max_examples=40, deadline=None)
@given(shape=shapes, cell=cells, alpha=st.floats(0, 1), seed=st.integers(0, 1000))
def test_every_voxel_comes_from_one_source_and_its_label_with_it(shape, cell, alpha, seed):
    before = subject(shape)
    after = seeded(CuboidMerge(alpha, cell), before, seed)
    real = after.image.data == before.image.data
    other = after.image.data == before.synthetic.data
    assert (real ^ other).all()
    assert torch.equal(after.label.data == REAL, real)
    assert torch.equal(after.label.data == OTHER, other)


@settings(max_examples=40, deadline=None)
@given(shape=shapes, cell=cells, seed=st.integers(0, 1000))
def test_a_cuboid_has_one_source_and_cuboids_fill_the_volume(shape, cell, seed):
    cuboids = draw_cuboids(shape, cell, 0.5, torch.Generator().manual_seed(seed))
    mask = cuboids.mask(shape)
    assert mask.shape == shape
    assert all(0 <= cut < edge for cut, edge in zip(cuboids.offset, cell, strict=True))
    for place in torch.cartesian_prod(*(torch.arange(size) for size in shape)).reshape(-1, 3)[::7].tolist():
        number = [(at + cut) // edge for at, cut, edge in zip(place, cuboids.offset, cell, strict=True)]
        assert mask[tuple(place)] == cuboids.real[number[0]][number[1]][number[2]]


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.6, 0.97])
def test_a_cuboid_is_real_with_probability_alpha(alpha):
    cuboids = draw_cuboids((60, 60, 60), (2, 2, 2), alpha, torch.Generator().manual_seed(0))
    real = torch.tensor(cuboids.real, dtype=torch.float64)
    assert abs(float(real.mean()) - alpha) < 5 * math.sqrt(alpha * (1 - alpha) / real.numel())
    pairs = (real[1:] * real[:-1]).mean()  # neighbours are drawn independently
    assert abs(float(pairs) - alpha**2) < 0.02


def test_borders_fall_at_every_voxel_alike():
    draws = [draw_cuboids((8, 8, 8), (4, 4, 4), 0.5, torch.Generator().manual_seed(seed)) for seed in range(400)]
    for axis in range(3):
        counts = torch.bincount(torch.tensor([draw.offset[axis] for draw in draws]), minlength=4)
        assert counts.min() > 100 - 5 * math.sqrt(75)


@pytest.mark.parametrize(("alpha", "source"), [(1.0, "image"), (0.0, "synthetic")])
def test_alpha_one_is_all_real_and_alpha_zero_all_synthetic(alpha, source):
    before = subject()
    for seed in range(5):
        after = seeded(CuboidMerge(alpha, 3), before, seed)
        assert torch.equal(after.image.data, before[source].data)
        assert after.label.data.unique().tolist() == [REAL if alpha else OTHER]


@settings(max_examples=60, deadline=None)
@given(edge=st.floats(0.2, 80), spacing=st.tuples(*[st.floats(0.2, 8)] * 3))
def test_cuboids_in_mm_have_that_edge_to_half_a_voxel_on_any_spacing(edge, spacing):
    for voxels, space in zip(cell_in_voxels((16,), edge, spacing), spacing, strict=True):
        assert voxels >= 1
        assert abs(voxels * space - edge) <= space / 2 + 1e-9 or (voxels == 1 and edge < space)


@pytest.mark.parametrize(("spacing", "edge"), [((1.0, 1.0, 4.0), (8, 8, 2)), ((0.5, 2.0, 1.6), (16, 4, 5))])
def test_the_transform_takes_the_spacing_from_the_image(spacing, edge):
    whole = subject((20, 20, 10), spacing)
    after = seeded(CuboidMerge(0.5, cell_mm=8.0), whole)
    assert after.get_applied_transforms()[0].cuboids.cell == edge


def test_cells_in_voxels_are_one_number_or_one_an_axis():
    assert cell_in_voxels((5,), None, (1, 2, 3)) == (5, 5, 5)
    assert cell_in_voxels((5, 6, 7), None, (1, 2, 3)) == (5, 6, 7)
    cells = [
        seeded(CuboidMerge(cell=cell), subject()).get_applied_transforms()[0].cuboids.cell
        for cell in (4, (4,), [4, 5, 2])
    ]
    assert cells == [(4, 4, 4), (4, 4, 4), (4, 5, 2)]


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(st.integers(2, 20), st.integers(2, 20)),
    seed=st.integers(0, 99),
    feather=st.sampled_from([0.0, 1.0]),
)
def test_two_dimensional_images_are_merged_by_rectangles(shape, seed, feather):
    before = subject((*shape, 1))
    after = seeded(CuboidMerge(0.5, 4, feather=feather), before, seed)
    assert after.image.data.shape == (1, *shape, 1)
    if not feather:
        assert ((after.image.data == before.image.data) | (after.image.data == before.synthetic.data)).all()
    assert set(after.label.data.unique().tolist()) <= {REAL, OTHER}


@pytest.mark.parametrize("feather", [0.0, 1.5])
def test_torchio_replays_the_merge_from_the_history(feather):
    before = subject()
    pipeline = tio.Compose([CuboidMerge(0.5, 4, feather=feather), tio.RandomFlip(axes=(0, 1, 2), flip_probability=0.5)])
    after = seeded(pipeline, before, 11)
    assert after.history[0].__class__.__name__ == "MergeCuboids"
    assert equal(tio.Compose(after.get_applied_transforms())(before), after)
    assert equal(after.get_composed_history()(before), after)
    assert equal(after.get_composed_history()(before), after.get_composed_history()(before))


def test_history_replays_on_another_subject_of_the_same_shape():
    after = seeded(CuboidMerge(0.5, 4), subject())
    other = subject(labelled=False)
    replayed = after.get_composed_history()(other)
    assert torch.equal(replayed.image.data, after.image.data)
    assert replayed.label.data.unique().tolist() == [REAL]


def test_the_same_torch_seed_gives_the_same_draw():
    transform = CuboidMerge(0.5, 3)
    assert equal(seeded(transform, subject(), 4), seeded(transform, subject(), 4))
    assert len({tuple(seeded(transform, subject(), seed).label.data.flatten().tolist()) for seed in range(6)}) == 6


def test_the_subject_given_is_not_changed():
    before, kept = subject(), subject()
    after = seeded(CuboidMerge(0.5, 3), before)
    assert not torch.equal(after.image.data, before.image.data)
    assert equal(before, kept)
    assert torch.equal(before.synthetic.data, kept.synthetic.data)
    assert before.history == []


def test_the_synthetic_images_stay_in_the_subject():
    before = subject()
    after = seeded(CuboidMerge(0.5, 3), before)
    assert torch.equal(after.synthetic.data, before.synthetic.data)
    assert torch.equal(after.synthetic_label.data, before.synthetic_label.data)


def test_labels_stay_where_the_synthetic_volume_has_none_of_its_own():
    after = seeded(CuboidMerge(0.5, 3), subject(labelled=False))
    assert after.label.data.unique().tolist() == [REAL]


def test_geometry_and_types_are_kept():
    before = subject()
    after = seeded(CuboidMerge(0.5, 3), before)
    for name in ("image", "label"):
        assert after[name].data.dtype == before[name].data.dtype
        assert (after[name].affine == before[name].affine).all()


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


def test_a_feathered_plane_border_is_the_gaussian_integral():
    mask = torch.zeros(41, 5, 5)
    mask[20:] = 1.0
    blended = merge_images(mask, torch.ones(1, 41, 5, 5), torch.zeros(1, 41, 5, 5), feather=2.0)[0, :, 2, 2]
    distance = torch.arange(41, dtype=torch.float64) - 19.5
    expected = 0.5 * (1 + torch.erf(distance / (2.0 * math.sqrt(2))))
    assert (blended - expected).abs().max() < 0.01


@pytest.mark.parametrize("shape", [(12, 10, 5), (10, 12, 6)])
def test_images_of_other_shapes_are_refused(shape):
    before = subject()
    before.add_image(tio.ScalarImage(tensor=noise(shape, 2)), "synthetic")
    with pytest.raises(ValueError, match="differ in shape"):
        seeded(CuboidMerge(), before)


@pytest.mark.parametrize("alpha", [-0.01, 1.01, math.nan])
def test_alpha_outside_zero_to_one_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha must be from 0 to 1"):
        CuboidMerge(alpha=alpha)


def test_the_example_in_the_docstring_runs():
    result = doctest.testmod(merge)
    assert result.attempted > 0
    assert result.failed == 0


def test_the_transform_is_public_and_its_history_prints():
    assert diffboost3d.CuboidMerge is CuboidMerge
    after = seeded(CuboidMerge(0.5, 6), subject())
    assert "MergeCuboids" in repr(after.get_applied_transforms()[0])
    assert isinstance(after.get_applied_transforms()[0], MergeCuboids)


@pytest.mark.parametrize("cell", [0, (4, 4), (4, 4, 0)])
def test_a_cell_that_can_not_be_is_refused_when_the_transform_is_made(cell):
    with pytest.raises(ValueError, match="one or three numbers"):
        CuboidMerge(cell=cell)
