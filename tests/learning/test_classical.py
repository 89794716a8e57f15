"""The classical stack: targets move together, labels stay whole, thick slices stay in their plane, seeds decide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffboost3d.augmentation import classical
from diffboost3d.augmentation.classical import ClassicalPlan, ClassicalStack

STILL = ClassicalPlan(
    rotation_degrees=0.0,
    scale=(1.0, 1.0),
    spatial_probability=0.0,
    elastic_probability=0.0,
    elastic_magnitude=(0.0, 0.0),
    mirror_axes=(),
)
MOVING = ClassicalPlan(
    rotation_degrees=30.0,
    scale=(0.7, 1.4),
    spatial_probability=1.0,
    elastic_probability=1.0,
    elastic_magnitude=(1.0, 3.0),
    mirror_axes=(0, 1, 2),
)
CUBIC, THICK = (1.0, 1.0, 1.0), (1.0, 1.0, 5.0)
VOLUMES = [((24, 20, 16), CUBIC, 3), ((24, 20, 8), THICK, 3), ((24, 20, 1), CUBIC, 2)]


@pytest.fixture
def no_intensity(monkeypatch):
    """Spatial changes only."""
    monkeypatch.setattr(classical, "_intensity", lambda dims: [])


def ball(shape, values=(0, 2, 5)):
    """A label of two nested balls off centre, and the image that has -1, 0 and 1 just there."""
    places = np.meshgrid(*(np.linspace(-1, 1, size) if size > 1 else np.zeros(1) for size in shape), indexing="ij")
    radius = np.sqrt((places[0] - 0.2) ** 2 + (places[1] + 0.1) ** 2 + places[2] ** 2)
    inside = (radius < 0.75).astype(int) + (radius < 0.4)
    label = np.asarray(values, dtype=np.uint8)[inside]
    return {
        "image": torch.from_numpy(inside - 1.0).float()[None],
        "label": torch.from_numpy(label)[None],
    }


def dice(first, second):
    return 2 * float((first & second).sum()) / max(1.0, float(first.sum() + second.sum()))


def stack(plan, spacing=CUBIC, dims=3):
    return ClassicalStack(plan, spacing, dims)


@pytest.mark.parametrize("moves", ["affine", "elastic", "both"])
@pytest.mark.parametrize(("shape", "spacing", "dims"), VOLUMES)
def test_the_label_is_that_of_the_voxel_nearest_to_where_the_image_was_read(no_intensity, moves, shape, spacing, dims):
    """Image and label hold the voxel indices, so what they hold afterwards says where each was read."""
    index = torch.stack(torch.meshgrid(*[torch.arange(size) for size in shape], indexing="ij"))
    plan = replace(
        MOVING,
        spatial_probability=float(moves != "elastic"),
        elastic_probability=float(moves != "affine"),
        mirror_axes=(0,),
    )
    for seed in range(4):
        after = stack(plan, spacing, dims)({"image": index.float(), "label": index.to(torch.uint8)}, seed)
        apart = after["label"].double() - after["image"].double()
        assert not torch.equal(after["label"].long(), index)
        assert apart.abs().max() < (2.0 if moves == "both" else 0.501)  # "both" reads twice


@pytest.mark.parametrize(("shape", "spacing", "dims"), VOLUMES)
def test_image_and_label_move_together(no_intensity, shape, spacing, dims):
    augment, before = stack(MOVING, spacing, dims), ball(shape)
    moved = 0
    for seed in range(8):
        after = augment(before, seed)
        assert after["image"].shape == after["label"].shape == before["label"].shape
        if (after["label"] > 0).sum() > 30:
            assert dice(after["image"] > -0.5, after["label"] > 0) > 0.8
            moved += dice(before["label"] > 0, after["label"] > 0) < 0.95
    assert moved >= 4


@pytest.mark.parametrize(("shape", "dims"), [((20, 18, 8), 3), ((20, 18, 1), 2)])
def test_labels_keep_their_values_and_shape(shape, dims):
    augment, before = stack(MOVING, CUBIC, dims), ball(shape)
    for seed in range(12):
        label = augment(before, seed)["label"]
        assert label.shape == before["label"].shape
        assert set(label.unique().tolist()) <= {0, 2, 5}


def test_all_targets_of_a_merge_at_the_prediction_move_alike(no_intensity):
    before = ball((20, 18, 16))
    before |= {"other": before["image"].clone(), "other_label": before["label"].clone()}
    before["mask"] = (before["label"] > 0).float()
    for seed in range(6):
        after = stack(MOVING)(before, seed)
        assert after.keys() == before.keys()
        assert torch.equal(after["image"], after["other"])
        assert torch.equal(after["label"], after["other_label"])
        assert torch.equal(after["mask"] > 0, after["label"] > 0)


@pytest.mark.parametrize(("shape", "dims"), [((20, 18, 8), 3), ((20, 18, 1), 2)])
def test_the_seed_decides_all(shape, dims):
    augment, again, before = stack(MOVING, CUBIC, dims), stack(MOVING, CUBIC, dims), ball(shape)
    first = augment(before, 2**62 + 5)
    augment(before, 6)
    for later in (augment(before, 2**62 + 5), again(before, 2**62 + 5)):
        assert torch.equal(first["image"], later["image"])
        assert torch.equal(first["label"], later["label"])
    assert len({augment(before, seed)["image"].numpy().tobytes() for seed in range(8)}) == 8


def test_global_generators_are_not_touched():
    torch.manual_seed(0)
    np.random.seed(0)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    for seed in range(4):
        stack(MOVING)(ball((16, 16, 8)), seed)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()


def test_the_arrays_given_are_not_changed():
    before = ball((16, 16, 8))
    kept = {name: array.clone() for name, array in before.items()}
    for seed in range(10):
        stack(MOVING)(before, seed)
    assert all(torch.equal(before[name], kept[name]) for name in before)


@pytest.mark.parametrize(("shape", "dims"), [((20, 18, 8), 3), ((20, 18, 1), 2)])
def test_with_nothing_asked_nothing_moves(no_intensity, shape, dims):
    before = ball(shape)
    after = stack(STILL, CUBIC, dims)(before, 3)
    assert torch.equal(after["image"], before["image"])
    assert torch.equal(after["label"], before["label"])
    assert type(after["image"]) is torch.Tensor  # no MONAI type goes further


def test_intensities_change_and_labels_do_not():
    augment, before = stack(STILL), ball((20, 18, 8))
    images = []
    for seed in range(24):
        after = augment(before, seed)
        assert torch.equal(after["label"], before["label"])
        assert after["image"].isfinite().all()
        images.append(after["image"])
    changed = [not torch.equal(image, before["image"]) for image in images]
    assert 14 <= sum(changed) <= 24  # 1 - 0.9 0.8 0.85 0.85 0.75 0.9 0.7 = 75 % of them
    assert max(float((image - before["image"]).abs().mean()) for image in images) > 0.05


def test_the_stack_takes_the_probabilities_of_its_plan(no_intensity):
    before = ball((16, 16, 8))
    plan = replace(STILL, rotation_degrees=30.0, spatial_probability=0.3)
    moved = [not torch.equal(stack(plan)(before, seed)["image"], before["image"]) for seed in range(100)]
    assert 15 <= sum(moved) <= 47
    plan = replace(STILL, elastic_probability=0.2, elastic_magnitude=(2.0, 3.0))
    moved = [not torch.equal(stack(plan)(before, seed)["image"], before["image"]) for seed in range(60)]
    assert 2 <= sum(moved) <= 24


@pytest.mark.parametrize(("spacing", "thick"), [((1.0, 1.0, 5.0), 2), ((4.0, 1.0, 1.2), 0), ((0.7, 2.5, 0.7), 1)])
def test_anisotropic_volumes_are_never_turned_out_of_their_plane(no_intensity, spacing, thick):
    """An image that varies across the thick slices only is not changed by turning in the plane."""
    ramp = torch.arange(16.0)
    image = ramp.reshape([-1 if axis == thick else 1 for axis in range(3)]).expand(16, 16, 16)[None].clone()
    across = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    augment = stack(replace(MOVING, scale=(1.0, 1.0), elastic_probability=0.0, mirror_axes=()), spacing)
    for seed in range(8):
        after = augment({"image": torch.cat([image, across]), "label": torch.zeros_like(image)}, seed)["image"]
        torch.testing.assert_close(after[:1], image, rtol=0, atol=1e-3)
        assert not torch.allclose(after[1:], across, atol=0.1)


def test_isotropic_volumes_are_turned_about_every_axis(no_intensity):
    places = torch.stack(torch.meshgrid(*[torch.arange(17.0) - 8] * 3, indexing="ij"))
    augment = stack(replace(MOVING, scale=(1.0, 1.0), elastic_probability=0.0, mirror_axes=()), (1.0, 1.0, 2.0))
    largest = torch.zeros(3, 3)
    for seed in range(40):
        after = augment({"image": places, "label": places[:1]}, seed)["image"]
        core = after[:, 6:11, 6:11, 6:11]
        # central differences at the middle are the columns of the turn
        steps = (
            core[:, 3, 2, 2] - core[:, 1, 2, 2],
            core[:, 2, 3, 2] - core[:, 2, 1, 2],
            core[:, 2, 2, 3] - core[:, 2, 2, 1],
        )
        turn = torch.stack(steps, dim=1) / 2
        torch.testing.assert_close(turn @ turn.T, torch.eye(3), rtol=0, atol=1e-3)
        assert torch.linalg.det(turn) > 0
        largest = torch.maximum(largest, turn.abs())
    assert (largest[~torch.eye(3, dtype=torch.bool)] > 0.3).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_scale_factors_are_those_of_the_object(no_intensity, dims):
    shape = (33, 33, 33)[:dims] + (1,) * (3 - dims)
    places = torch.stack(torch.meshgrid(*[torch.arange(float(size)) - size // 2 for size in shape], indexing="ij"))
    plan = replace(STILL, scale=(0.5, 1.25), spatial_probability=1.0)
    factors = []
    for seed in range(60):
        image = stack(plan, CUBIC, dims)({"image": places, "label": places[:1]}, seed)["image"]
        middle = (slice(None), *(size // 2 for size in shape))
        next_one = (slice(None), shape[0] // 2 + 1, *(size // 2 for size in shape[1:]))
        factors.append(1 / float(image[next_one][0] - image[middle][0]))
    assert 0.49 < min(factors) < 0.6
    assert 1.1 < max(factors) < 1.26


@pytest.mark.parametrize(("shape", "dims"), [((48, 48, 48), 3), ((64, 64, 1), 2)])
@pytest.mark.parametrize("magnitude", [1.0, 3.0])
def test_elastic_displacement_is_about_the_configured_number_of_voxels(no_intensity, shape, dims, magnitude):
    places = torch.stack(torch.meshgrid(*[torch.arange(float(size)) for size in shape], indexing="ij"))[:dims]
    plan = replace(STILL, elastic_probability=1.0, elastic_magnitude=(magnitude, magnitude))
    squares, largest = [], []
    for seed in range(6):
        moved = stack(plan, CUBIC, dims)({"image": places, "label": places[:1]}, seed)["image"] - places
        inner = moved[:, 12:-12, 12:-12, 12:-12] if dims == 3 else moved[:, 12:-12, 12:-12]
        squares.append(float(inner.square().mean()))
        largest.append(float(inner.abs().max()))
    assert 0.3 * magnitude < np.sqrt(np.mean(squares)) < 1.2 * magnitude
    assert max(largest) < 4.5 * magnitude


def test_elastic_deformation_does_not_fold(no_intensity):
    places = torch.stack(torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij"))
    plan = replace(STILL, elastic_probability=1.0, elastic_magnitude=(3.0, 3.0))
    for seed in range(3):
        moved = stack(plan)({"image": places, "label": places[:1]}, seed)["image"][:, 4:-4, 4:-4, 4:-4]
        slopes = torch.stack(torch.gradient(moved, dim=(1, 2, 3)), dim=1).permute(2, 3, 4, 0, 1)
        assert torch.linalg.det(slopes).min() > 0


@pytest.mark.parametrize(("axes", "dims"), [((0,), 3), ((1, 2), 3), ((0, 1, 2), 3), ((0, 1, 2), 2)])
def test_only_the_named_axes_are_mirrored(no_intensity, axes, dims):
    shape = (5, 4, 3) if dims == 3 else (5, 4, 1)
    image = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0))
    label = (image > 0).to(torch.uint8)
    seen = set()
    for seed in range(60):
        after = stack(replace(STILL, mirror_axes=axes), CUBIC, dims)({"image": image, "label": label}, seed)
        assert torch.equal(after["label"], (after["image"] > 0).to(torch.uint8))
        seen.add(after["image"].numpy().tobytes())
    within = [axis for axis in axes if axis < dims]
    flips = [[axis + 1 for bit, axis in enumerate(within) if number >> bit & 1] for number in range(2 ** len(within))]
    assert seen == {image.flip(flip).numpy().tobytes() for flip in flips}
