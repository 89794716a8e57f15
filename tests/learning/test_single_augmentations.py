"""Single augmentations really do something: the change survives the normalisation, and labels move with spatial ones."""

from __future__ import annotations

import pytest
import torch

from diffboost3d.augmentation.single import INTENSITY, SPATIAL, SingleAugmentations, SinglePlan

SPACING = (1.0, 1.2, 2.5)
VOLUMES = [((30, 26, 12), SPACING, 3), ((30, 26, 1), SPACING, 2), ((30, 8, 26), (1.0, 6.0, 1.0), 3)]
ALWAYS = SinglePlan(probability=1.0)


def prepared(shape):
    """An image in [-1, 1], bright on one side, and the label of its upper half of values."""
    image = torch.rand((1, *shape), generator=torch.Generator().manual_seed(0)) * 0.6 - 0.3
    image += torch.linspace(-0.7, 0.7, shape[0])[None, :, None, None]
    return {"image": image.clamp(-1, 1), "label": (image > 0).to(torch.uint8)}


def augmented(name, shape, spacing, dims, seed=1):
    return SingleAugmentations([name], ALWAYS, shape, spacing, dims)(prepared(shape), seed)


@pytest.mark.parametrize(("shape", "spacing", "dims"), VOLUMES)
@pytest.mark.parametrize("name", [*SPATIAL, *INTENSITY])
def test_the_network_sees_another_image(name, shape, spacing, dims):
    before = prepared(shape)
    changes = [
        float((augmented(name, shape, spacing, dims, seed)["image"] - before["image"]).abs().mean())
        for seed in range(6)
    ]
    assert sorted(changes)[2] > 0.005
    assert max(changes) > 0.02
    assert all(augmented(name, shape, spacing, dims, seed)["image"].abs().max() <= 1 for seed in range(6))


@pytest.mark.parametrize("slices", range(2, 8))
@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0, 1.3, 1.5, 3.0])
def test_few_slices_are_blurred_as_far_as_the_kernel_fits(sigma, slices):
    plan = SinglePlan(probability=1.0, blur_sigma=(sigma, sigma))
    given = prepared((24, 24, slices))
    after = SingleAugmentations(["blur"], plan, (24, 24, slices), (1, 1, 1), 3)(given, 0)["image"]
    assert not torch.equal(after, given["image"])


@pytest.mark.parametrize("name", INTENSITY)
def test_the_change_survives_a_normalisation_to_the_range(name):
    """Shifted and scaled back to the range that images have, another image stays; contrast below 1 is but a scale."""
    shape, spacing, dims = VOLUMES[0]
    before, differences = prepared(shape)["image"], []

    def scaled(image):
        return 2 * (image - image.min()) / (image.max() - image.min()) - 1

    for seed in range(12):
        after = augmented(name, shape, spacing, dims, seed)["image"]
        differences.append(float((scaled(after) - scaled(before)).abs().mean()))
    assert sum(one > 0.01 for one in differences) >= 4


@pytest.mark.parametrize(("shape", "spacing", "dims"), VOLUMES)
@pytest.mark.parametrize("name", [*SPATIAL, *INTENSITY])
def test_labels_move_with_spatial_augmentations_only(name, shape, spacing, dims):
    before, moved = prepared(shape)["label"], 0
    for seed in range(6):
        after = augmented(name, shape, spacing, dims, seed)["label"]
        assert set(after.unique().tolist()) <= {0, 1}
        moved += not torch.equal(after, before)
    assert moved >= 2 if name in SPATIAL else moved == 0  # a scale near 1 moves no label of so few voxels


def test_brightness_and_contrast_cut_off_what_leaves_the_range():
    before = prepared((18, 16, 12))["image"]
    image = SingleAugmentations(["brightness"], SinglePlan(1.0, brightness=3.0), (18, 16, 12), SPACING, 3)
    after = image(prepared((18, 16, 12)), 0)["image"]
    assert (after.abs() == 1).float().mean() > 0.2 > (before.abs() == 1).float().mean()


def test_each_acts_in_its_share_of_the_patches():
    augment = SingleAugmentations(["gamma"], SinglePlan(probability=0.3), (8, 8, 4), SPACING, 3)
    before = prepared((8, 8, 4))
    changed = sum(not torch.equal(augment(before, seed)["image"], before["image"]) for seed in range(200))
    assert 35 <= changed <= 88


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="sharpen"):
        SingleAugmentations(["sharpen"], ALWAYS, (8, 8, 4), SPACING, 3)
