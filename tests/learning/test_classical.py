"""The classical stack: targets move together, labels stay whole, thick slices stay in their plane, seeds decide."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffboost3d.augmentation.classical import ClassicalPlan, ClassicalStack

STILL = ClassicalPlan(
    rotation_probability=0.0,
    scale_probability=0.0,
    mirror_axes=(),
    noise_probability=0.0,
    blur_probability=0.0,
    brightness_probability=0.0,
    contrast_probability=0.0,
    low_resolution_probability=0.0,
    inverted_gamma_probability=0.0,
    gamma_probability=0.0,
)
MOVING = replace(
    STILL, rotation_degrees=30.0, rotation_probability=1.0, scale_probability=1.0, elastic_probability=0.5, mirror_axes=(0, 1, 2)
)  # fmt: skip
LOOKS = replace(ClassicalPlan(), rotation_probability=0.0, scale_probability=0.0, mirror_axes=())
CUBIC, THICK = (1.0, 1.0, 1.0), (1.0, 1.0, 5.0)
VOLUMES = [
    ((24, 20, 16), CUBIC, 3),
    ((24, 20, 8), THICK, 3),
    ((24, 8, 20), (1.0, 5.0, 1.0), 3),
    ((24, 20, 1), CUBIC, 2),
]


def ball(shape, values=(0, 2, 5)):
    """A label of two nested balls off centre, and the image that has -1, 0 and 1 just there."""
    places = np.meshgrid(*(np.linspace(-1, 1, size) if size > 1 else np.zeros(1) for size in shape), indexing="ij")
    radius = np.sqrt((places[0] - 0.2) ** 2 + (places[1] + 0.1) ** 2 + places[2] ** 2)
    inside = (radius < 0.75).astype(int) + (radius < 0.4)
    label = np.asarray(values, dtype=np.uint8)[inside]
    return {"image": torch.from_numpy(inside - 1.0).float()[None], "label": torch.from_numpy(label)[None]}


def dice(first, second):
    return 2 * float((first & second).sum()) / max(1.0, float(first.sum() + second.sum()))


def stack(plan, patch, spacing=CUBIC, dims=3):
    return ClassicalStack(plan, patch, spacing, dims)


def test_the_defaults_are_nnunets():
    """Read off nnUNetTrainer.get_training_transforms."""
    plan = ClassicalPlan()
    assert (plan.rotation_probability, plan.scale_probability, plan.scale) == (0.2, 0.2, (0.7, 1.4))
    assert (plan.elastic_probability, plan.mirror_axes) == (0.0, (0, 1, 2))
    assert (plan.noise_probability, plan.blur_probability, plan.low_resolution_probability) == (0.1, 0.2, 0.25)
    assert (plan.brightness_probability, plan.contrast_probability) == (0.15, 0.15)
    assert (plan.inverted_gamma_probability, plan.gamma_probability, plan.gamma) == (0.1, 0.3, (0.7, 1.5))


@pytest.mark.parametrize(("shape", "spacing", "dims"), VOLUMES)
def test_image_and_label_move_together_and_labels_keep_their_values(shape, spacing, dims):
    augment = stack(MOVING, shape, spacing, dims)
    before, kept, moved = ball(augment.reach), ball(augment.reach), 0
    for seed in range(12):
        after = augment(before, seed)
        assert after["image"].shape == after["label"].shape == (1, *shape)
        assert set(after["label"].unique().tolist()) <= {0, 2, 5}
        assert after["label"].dtype == torch.uint8
        assert dice(after["image"] > -0.5, after["label"] > 0) > 0.9
        middle = augment_nothing(before, shape, spacing, dims)
        moved += dice(middle["label"] > 0, after["label"] > 0) < 0.97
    assert moved >= 6
    assert all(torch.equal(before[name], kept[name]) for name in before)  # what was given is as it was


def augment_nothing(before, shape, spacing, dims):
    return stack(replace(STILL), shape, spacing, dims)(before, 0)


@pytest.mark.parametrize(("shape", "spacing", "dims"), VOLUMES)
def test_all_targets_of_a_merge_at_the_prediction_move_alike(shape, spacing, dims):
    augment = stack(MOVING, shape, spacing, dims)
    before = ball(augment.reach)
    before |= {"other": before["image"].clone(), "other_label": before["label"].clone()}
    before["mask"] = (before["label"] > 0).to(torch.uint8)
    for seed in range(5):
        after = augment(before, seed)
        assert after.keys() == before.keys()
        assert torch.equal(after["image"], after["other"])
        assert torch.equal(after["label"], after["other_label"])
        # shares of two values and of three meet at slightly different borders
        assert dice(after["mask"] > 0, after["label"] > 0) > 0.97


@pytest.mark.parametrize(("shape", "spacing", "dims"), VOLUMES)
def test_the_seed_decides_all_and_global_generators_are_not_touched(shape, spacing, dims):
    augment, again = (stack(ClassicalPlan(), shape, spacing, dims) for _ in range(2))
    before = ball(augment.reach)
    torch.manual_seed(0)
    np.random.seed(0)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = augment(before, 2**62 + 5)
    torch.manual_seed(1)
    for later in (augment(before, 2**62 + 5), again(before, 2**62 + 5)):
        assert all(torch.equal(first[name], later[name]) for name in before)
    assert len({augment(before, seed)["image"].numpy().tobytes() for seed in range(12)}) > 8
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()


def test_the_stack_goes_to_loader_processes_that_do_not_begin_as_forks():
    made = stack(ClassicalPlan(), (16, 16, 16))
    arrays = {"image": torch.rand(1, *made.reach), "label": torch.zeros(1, *made.reach)}
    again = pickle.loads(pickle.dumps(made))  # our own object, as a loader process gets it
    first, second = (one({name: array.clone() for name, array in arrays.items()}, 7) for one in (made, again))
    assert torch.equal(first["image"], second["image"])


def test_generators_of_accelerators_are_not_touched(monkeypatch):
    """Else dropout on a GPU would depend on whether samples are made in the process that trains."""
    keyed = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", keyed.append)
    monkeypatch.setattr(torch.mps, "manual_seed", keyed.append)
    augment = stack(ClassicalPlan(), (12, 10, 8))
    augment(ball(augment.reach), 1)
    assert keyed == []


@pytest.mark.parametrize(("shape", "spacing", "dims"), VOLUMES)
def test_with_nothing_asked_the_middle_comes_back(shape, spacing, dims):
    wide = [size > 1 and step < 3 for size, step in zip(shape, spacing, strict=True)]  # thick slices are all kept
    before = ball(tuple(side + 4 if around else side for side, around in zip(shape, wide, strict=True)))
    after = stack(STILL, shape, spacing, dims)(before, 3)
    cut = tuple(slice(2, -2) if around else slice(None) for around in wide)
    for name in before:
        assert torch.equal(after[name], before[name][(slice(None), *cut)])


def test_intensities_change_and_labels_do_not():
    augment, before, images = stack(LOOKS, (20, 18, 8)), ball((20, 18, 8)), []
    for seed in range(40):
        after = augment(before, seed)
        assert torch.equal(after["label"], before["label"])
        assert after["image"].isfinite().all()
        images.append(after["image"])
    changed = [not torch.equal(image, before["image"]) for image in images]
    assert 18 <= sum(changed) <= 37  # 1 - 0.9 (1 - 0.2/2) 0.85 0.85 (1 - 0.25/2) 0.9 0.7 = 68 % of them
    assert max(float((image - before["image"]).abs().mean()) for image in images) > 0.05


def test_noise_and_brightness_are_measured_in_standard_deviations_of_the_image():
    """nnU-Net's images have mean 0 and deviation 1; ours may lie in a tenth of that."""
    image = 0.1 * torch.randn(1, 24, 24, 24, generator=torch.Generator().manual_seed(0)) - 0.5
    before = {"image": image, "label": torch.zeros_like(image)}
    noise = replace(STILL, noise_probability=1.0, noise_deviation=(0.1, 0.1))
    added = stack(noise, (24, 24, 24))(before, 1)["image"] - image
    assert float(added.std()) == pytest.approx(0.01, rel=0.03)
    bright = stack(replace(STILL, brightness_probability=1.0, brightness=(0.5, 0.5)), (24, 24, 24))
    after = bright(before, 1)["image"]
    factor = (after.std() / image.std()).item()  # drawn below 1, or above
    assert abs(factor - 1) > 0.01
    torch.testing.assert_close(after, image.mean() + factor * (image - image.mean()))


@pytest.mark.parametrize("thick", [0, 1, 2])
def test_thick_slices_are_never_turned_out_of_their_plane_and_all_alike(thick):
    """An image that varies across the thick slices only isn't changed; one that is alike in all slices stays so."""
    spacing = tuple(4.0 if axis == thick else 1.0 for axis in range(3))
    across = torch.arange(16.0).reshape([-1 if axis == thick else 1 for axis in range(3)]).expand(16, 16, 16)
    inside = torch.randn(16, 16, generator=torch.Generator().manual_seed(0)).unsqueeze(thick).expand(16, 16, 16)
    plan = replace(MOVING, rotation_degrees=None, scale=(0.7, 0.7), mirror_axes=(), elastic_probability=1.0)
    augment = stack(plan, (8, 8, 8) if thick == 3 else tuple(16 if axis == thick else 6 for axis in range(3)), spacing)
    for seed in range(4):
        after = augment({"image": torch.stack([across, inside]), "label": torch.zeros(1, 16, 16, 16)}, seed)["image"]
        steps = after[0].movedim(thick, 0).flatten(1)
        torch.testing.assert_close(steps, torch.arange(16.0)[:, None].expand_as(steps), rtol=0, atol=1e-3)
        planes = after[1].movedim(thick, 0)
        torch.testing.assert_close(planes, planes[:1].expand_as(planes), rtol=0, atol=1e-5)


def test_the_largest_turn_is_nnunets_by_the_shape():
    """What is read around a patch tells it: 15 degrees or less than a right angle reach less far than a half turn."""
    assert stack(ClassicalPlan(), (20, 20, 1), dims=2).reach == (24, 24, 1)
    assert stack(ClassicalPlan(), (20, 60, 1), dims=2).reach[0] == 42  # (20 cos 15 + 60 sin 15) / 0.85 = 41.0
    assert stack(ClassicalPlan(), (48, 48, 8), THICK).reach == (58, 58, 8)
    assert stack(ClassicalPlan(), (40, 40, 40)).reach == (66, 66, 66)
    assert stack(replace(ClassicalPlan(), rotation_probability=0, scale_probability=0), (40, 40, 40)).reach == (
        40,
        40,
        40,
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_a_factor_above_one_makes_objects_smaller(dims):
    shape = (33, 33, 33)[:dims] + (1,) * (3 - dims)
    places = torch.stack(torch.meshgrid(*[torch.arange(float(size)) - size // 2 for size in shape], indexing="ij"))
    plan = replace(STILL, scale=(1.25, 1.25), scale_probability=1.0)
    image = stack(plan, shape, CUBIC, dims)({"image": places, "label": places[:1]}, 0)["image"]
    at, after = (tuple(size // 2 + (axis == 0 and step) for axis, size in enumerate(shape)) for step in (0, 1))
    assert float(image[(0, *after)] - image[(0, *at)]) == pytest.approx(1.25, abs=1e-4)


def test_elastic_displacement_is_at_most_the_configured_number_of_voxels():
    shape = (40, 40, 40)
    places = torch.stack(torch.meshgrid(*[torch.arange(float(size)) for size in shape], indexing="ij"))
    plan = replace(STILL, elastic_probability=1.0, elastic_magnitude=(3.0, 3.0), elastic_scale=(0.15, 0.15))
    for seed in range(3):
        moved = stack(plan, shape)({"image": places, "label": places[:1]}, seed)["image"] - places
        inner = moved[:, 10:-10, 10:-10, 10:-10]
        assert 0.5 < float(inner.abs().max()) < 3.0 * 1.8  # its mean is taken away, which adds to the largest


@pytest.mark.parametrize(("axes", "dims"), [((0,), 3), ((1, 2), 3), ((0, 1, 2), 3), ((0, 1, 2), 2)])
@pytest.mark.parametrize("spacing", [CUBIC, (5.0, 1.0, 1.0)])
def test_only_the_named_axes_are_mirrored(axes, dims, spacing):
    shape = (5, 4, 3) if dims == 3 else (5, 4, 1)
    image = torch.randn((1, *shape), generator=torch.Generator().manual_seed(0))
    augment, seen = stack(replace(STILL, mirror_axes=axes), shape, spacing, dims), set()
    for seed in range(60):
        after = augment({"image": image, "label": (image > 0).to(torch.uint8)}, seed)
        assert torch.equal(after["label"], (after["image"] > 0).to(torch.uint8))
        seen.add(after["image"].numpy().tobytes())
    within = [axis for axis in axes if axis < dims]
    flips = [[axis + 1 for bit, axis in enumerate(within) if number >> bit & 1] for number in range(2 ** len(within))]
    assert seen == {image.flip(flip).numpy().tobytes() for flip in flips}


@pytest.mark.parametrize("slices", [2, 3, 4])
def test_few_slices_are_blurred_in_their_plane_only(slices):
    plan = replace(STILL, blur_probability=1.0, blur_sigma=(1.0, 1.0))
    image = torch.randn((1, 16, 16, slices), generator=torch.Generator().manual_seed(0))
    changed = [stack(plan, (16, 16, slices))({"image": image, "label": image}, seed)["image"] for seed in range(8)]
    assert any(float((one - image).abs().mean()) > 0.3 for one in changed)
