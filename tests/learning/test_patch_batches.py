"""Training patches: the same windows for every arm, merged and cut as asked, and decided by seed and number alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffboost3d.augmentation.classical import ClassicalPlan, ClassicalStack
from diffboost3d.cases.records import IGNORED
from diffboost3d.segmentation.batches import MergePlan, PatchDataset, TrainingCase, cut, patch_size

SPACING = (1.2, 1.0, 2.5)
NONE = MergePlan("none", 0.6, (4,), None, 0.0, "image")
SYNTHETIC = MergePlan("synthetic", 0.5, (4,), None, 0.0, "image")
REAL = MergePlan("real", 0.5, (4,), None, 0.0, "image")
CLASSICAL = ClassicalStack(ClassicalPlan(rotation_probability=0.5), (8, 8, 4), SPACING, 3)


def case(number, shape=(16, 18, 8), synthetic=2):
    """The image counts the voxels (plus 10000 a case), so a value says where it is from; synthetic ones are negative."""
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 10000 * (number + 1)
    label = np.zeros(shape, np.uint8)
    label[tuple(size // 2 for size in shape)] = number + 1
    label[0, 0, -1] = number + 1
    copies = tuple(-image - 100000 * sample for sample in range(synthetic))
    return TrainingCase(image, label, copies)


def patches(merge=NONE, classical=None, foreground=0.5, seed=0, patch=(8, 8, 4), cases=None):
    cases = cases or [case(0), case(1), case(2)]
    return PatchDataset(cases, patch, SPACING, merge, [classical] if classical else [], foreground, seed)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@settings(max_examples=30, deadline=None)
@given(number=st.integers(0, 10**9), seed=st.integers(0, 50))
def test_seed_and_number_decide_a_sample(number, seed):
    for merge in (NONE, SYNTHETIC, REAL):
        torch.manual_seed(number % 5)
        assert same(patches(merge, seed=seed)[number], patches(merge, seed=seed)[number])


def test_other_seeds_and_numbers_give_other_samples():
    items = patches(foreground=0.0)
    assert len({items[number]["image"].numpy().tobytes() for number in range(20)}) > 15
    assert any(not same(items[number], patches(foreground=0.0, seed=1)[number]) for number in range(5))


def test_the_classical_stack_is_keyed_by_the_number_too():
    first, again = patches(SYNTHETIC, CLASSICAL), patches(SYNTHETIC, CLASSICAL)
    for number in (3, 1, 3):
        assert same(first[number], again[number])


def test_augmentation_reads_what_really_lies_around_the_patch():
    """Nothing moves, so the patch is the one without augmentation, whatever is read around it."""
    still = replace(ClassicalPlan(), rotation_degrees=0.0, scale=(1.0, 1.0), rotation_probability=1.0, mirror_axes=())
    names = ("noise", "blur", "brightness", "contrast", "low_resolution", "inverted_gamma", "gamma")
    still = replace(still, **{f"{name}_probability": 0.0 for name in names})
    stack = ClassicalStack(still, (8, 8, 4), SPACING, 3)
    assert stack.reach != (8, 8, 4)
    for number in range(10):
        moved, alone = patches(SYNTHETIC, stack)[number], patches(NONE)[number]
        assert torch.equal(moved["label"], alone["label"])  # synthetic ones have it too
        torch.testing.assert_close(patches(NONE, stack)[number]["image"], alone["image"], rtol=1e-4, atol=0)


def test_the_share_of_merged_patches_may_fall_through_the_training():
    plan = replace(SYNTHETIC, alpha=0.0, probability=1.0, last_probability=0.0, patches=200)
    assert [plan.probability_at(number) for number in (0, 199, 500)] == [1.0, 0.0, 0.0]
    items = patches(plan)
    merged = [bool((items[number]["image"] < -1.5).any()) for number in range(200)]
    assert sum(merged[:50]) > 35
    assert sum(merged[150:]) < 15


def test_a_sample_leaves_torchs_generator_as_it_was():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    patches(SYNTHETIC)[0]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("merge", [SYNTHETIC, REAL])
def test_all_arms_see_the_same_case_and_window(merge):
    alone = patches()
    whole = patches(MergePlan(merge.source, 1.0, (4,), None, 0.0, "image"))  # all real
    half = patches(merge)
    for number in range(30):
        assert same(alone[number], whole[number])
        kept = half[number]["image"] == alone[number]["image"]
        assert 0 <= kept.float().mean() <= 1
        assert torch.equal(half[number]["label"][kept], alone[number]["label"][kept])
    assert any((half[number]["image"] != alone[number]["image"]).any() for number in range(30))


def test_synthetic_merging_takes_the_same_voxels_of_a_synthetic_copy_and_keeps_the_label():
    alone, merged, seen = patches(), patches(SYNTHETIC), set()
    for number in range(40):
        real, both = alone[number], merged[number]
        other = both["image"] != real["image"]
        copies = ((-both["image"] - real["image"]) / 100000).round()
        seen |= set(copies[other].unique().tolist())
        assert len(copies[other].unique()) <= 1  # one copy a patch
        assert torch.equal(both["image"][other], -real["image"][other] - 100000 * copies[other])
        assert torch.equal(both["label"], real["label"])
    assert seen == {0.0, 1.0}


def test_synthetic_merging_may_take_samples_of_all_cases_each_with_its_own_label():
    cases = [
        TrainingCase(
            np.full((16, 18, 8), n, np.float32),
            np.full((16, 18, 8), n, np.uint8),
            (np.full((16, 18, 8), -n, np.float32),) if n < 3 else (),
        )
        for n in (1, 2, 3)
    ]
    alone, merged, partners = patches(cases=cases), patches(replace(SYNTHETIC, partner="any"), cases=cases), set()
    for number in range(60):
        own, both = alone[number]["image"].unique(), merged[number]
        assert torch.equal(both["image"].abs().long(), both["label"])
        partners |= {(int(own), -int(other)) for other in both["image"].unique() if other < 0}
    assert partners == {(a, b) for a in (1, 2, 3) for b in (1, 2)}  # the third has no sample


def test_without_any_synthetic_sample_nothing_is_merged_whoever_the_partner():
    cases = [case(number, synthetic=0) for number in range(3)]
    for partner in ("same", "any"):
        merged = patches(replace(SYNTHETIC, partner=partner), cases=cases)
        assert all(same(merged[number], patches(cases=cases)[number]) for number in range(20))


def test_real_merging_takes_another_case_with_its_own_label():
    cases = [TrainingCase(np.full((16, 18, 8), n, np.float32), np.full((16, 18, 8), n, np.uint8)) for n in (1, 2, 3)]
    alone, merged, partners = patches(cases=cases), patches(REAL, cases=cases), set()
    for number in range(60):
        own = alone[number]["image"].unique()
        both = merged[number]
        assert torch.equal(both["image"].long(), both["label"])
        others = set(both["image"].unique().tolist()) - set(own.tolist())
        assert len(others) <= 1
        partners |= {(int(own), int(other)) for other in others}
    assert partners == {(a, b) for a in (1, 2, 3) for b in (1, 2, 3) if a != b}


def test_a_single_case_is_merged_with_itself():
    merged = patches(REAL, cases=[case(0)])
    assert merged[0]["image"].shape == (1, 8, 8, 4)


@pytest.mark.parametrize("source", ["synthetic", "real"])
def test_merging_at_the_prediction_gives_both_sides_and_the_mask(source):
    at_prediction = patches(MergePlan(source, 0.5, (4,), None, 0.0, "prediction"))
    alone, masks = patches(), []
    for number in range(20):
        sample = at_prediction[number]
        assert set(sample) == {"image", "label", "other", "other_label", "mask"}
        assert same({name: sample[name] for name in ("image", "label")}, alone[number])
        assert sample["other"].shape == sample["other_label"].shape == sample["mask"].shape == (1, 8, 8, 4)
        assert set(sample["mask"].unique().tolist()) <= {0, 1}
        assert (sample["other"] < 0).all() == (source == "synthetic")
        masks.append(sample["mask"].float().mean())
    assert 0.3 < float(torch.stack(masks).mean()) < 0.7


def test_cuboids_of_a_patch_are_as_wide_in_mm_as_asked():
    plan = MergePlan("synthetic", 0.5, (1,), 5.0, 0.0, "prediction")
    changes = torch.zeros(3)
    for number in range(200):
        mask = patches(plan, patch=(16, 16, 8))[number]["mask"][0]
        for axis in range(3):
            changes[axis] += (mask.diff(dim=axis) != 0).float().mean()
    # 4, 5 and 2 voxels an edge: a border every so many voxels, with the chance 1/2 of a change
    assert (changes / 200).tolist() == pytest.approx([1 / 8, 1 / 10, 1 / 4], rel=0.15)


@pytest.mark.parametrize("source", ["synthetic", "real"])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"alpha": (0.1, 0.9)},
        {"mask_foreground": True},
        {"mask_foreground": (2, 3), "probability": 0.5},
        {"cell_mm": 6.0},
    ],
)
def test_both_forms_of_merging_take_every_voxel_and_label_from_the_same_source(source, given):
    """`at` says what is mixed, not from where: image, mask and labels of a sample agree between the two forms."""
    at_image, at_prediction = (
        patches(replace(MergePlan(source, 0.5, (4,), None, 0.0, at), **given)) for at in ("image", "prediction")
    )
    for number in range(12):
        merged, sides = at_image[number], at_prediction[number]
        real = sides["mask"].bool()
        assert torch.equal(merged["image"], torch.where(real, sides["image"], sides["other"]))
        assert torch.equal(merged["label"], torch.where(real, sides["label"], sides["other_label"]))


@pytest.mark.parametrize("at", ["image", "prediction"])
def test_voxels_of_the_labels_kept_are_real(at):
    alone = patches()
    for kept, values in ((True, [1, 2, 3]), ((2,), [2])):
        plan = MergePlan("real", 0.0, (4,), None, 0.0, at, mask_foreground=kept)
        for number in range(30):
            real, merged = alone[number], patches(plan)[number]
            inside = torch.isin(real["label"], torch.tensor(values))
            if at == "prediction":
                assert torch.equal(merged["mask"].bool(), inside)
            else:
                assert torch.equal(merged["image"] == real["image"], inside)
                assert torch.equal(merged["label"][inside], real["label"][inside])


def test_ignored_voxels_are_no_label_that_is_kept():
    label = torch.zeros(1, 6, 5, 4, dtype=torch.long)
    label[0, :2], label[0, 4:] = 1, IGNORED
    hard, _ = MergePlan("real", 0.0, (4,), None, 0.0, "image", mask_foreground=True).masks(label, (1, 1, 1), 0)
    assert torch.equal(hard, label[0] == 1)


def test_alpha_is_drawn_anew_for_every_patch():
    plan = MergePlan("synthetic", (0.2, 0.8), (1,), None, 0.0, "prediction")
    shares = torch.tensor([patches(plan)[number]["mask"].double().mean() for number in range(300)])
    noise = 5 * 0.5 / math.sqrt(256)
    assert shares.min() > 0.2 - noise
    assert shares.max() < 0.8 + noise
    assert shares.std() > 0.12  # of a fixed alpha: 0.03; of the range alone: 0.173
    assert abs(float(shares.mean()) - 0.5) < 0.06


@pytest.mark.parametrize("at", ["image", "prediction"])
def test_the_other_patches_are_left_real_and_the_merged_ones_are_as_before(at):
    always, sometimes = (
        patches(MergePlan("synthetic", 0.0, (4,), None, 0.0, at, probability=share)) for share in (1.0, 0.4)
    )
    alone, merged = patches(), 0
    for number in range(200):
        sample = sometimes[number]
        if same(sample, always[number]):
            merged += 1
        else:
            assert torch.equal(sample["image"], alone[number]["image"])
            assert "mask" not in sample or sample["mask"].all()
    assert abs(merged / 200 - 0.4) < 5 * math.sqrt(0.24 / 200)


def test_feathered_images_are_blended_and_their_labels_are_not():
    hard, soft = (patches(MergePlan("real", 0.5, (4,), None, feather, "image")) for feather in (0.0, 1.0))
    for number in range(10):
        assert torch.equal(hard[number]["label"], soft[number]["label"])
    assert any(not torch.equal(hard[number]["image"], soft[number]["image"]) for number in range(10))


def test_types_are_those_of_the_loss():
    for merge in (NONE, SYNTHETIC, MergePlan("real", 0.5, (4,), None, 1.0, "prediction")):
        for classical in (None, CLASSICAL):
            sample = patches(merge, classical)[1]
            assert sample["image"].dtype == torch.float32
            assert sample["label"].dtype == torch.int64


def test_two_dimensional_cases_stay_flat():
    flat = [case(number, (16, 18, 1)) for number in range(3)]
    stack = ClassicalStack(ClassicalPlan(elastic_probability=0.5), (8, 8, 1), (1.0, 1.0, 1.0), 2)
    for merge in (NONE, SYNTHETIC, REAL):
        sample = patches(merge, stack, cases=flat, patch=(8, 8, 1))[0]
        assert sample["image"].shape == sample["label"].shape == (1, 8, 8, 1)


# --- windows ---------------------------------------------------------------------------------------------------------
def test_a_window_covers_foreground_whenever_that_is_asked():
    items = patches(foreground=1.0)
    assert all((items[number]["label"] > 0).any() for number in range(80))


def test_without_that_wish_windows_fall_anywhere():
    items = patches(foreground=0.0)
    covered = sum(bool((items[number]["label"] > 0).any()) for number in range(200))
    assert 20 < covered < 180
    starts = {
        tuple(np.unravel_index(int(items[number]["image"].flatten()[0]) % 10000, (16, 18, 8))) for number in range(400)
    }
    for axis, last in enumerate((8, 10, 4)):
        assert {start[axis] for start in starts} == set(range(last + 1))


def test_cases_without_foreground_are_cut_too():
    empty = TrainingCase(np.zeros((16, 18, 8), np.float32), np.zeros((16, 18, 8), np.uint8))
    assert patches(foreground=1.0, cases=[empty])[0]["image"].shape == (1, 8, 8, 4)


def test_all_cases_are_drawn_alike():
    items = patches()
    drawn = [int(items[number]["image"].flatten()[0]) // 10000 for number in range(300)]
    assert np.bincount(drawn)[1:].min() > 70


@pytest.mark.parametrize("shape", [(4, 5, 3), (8, 8, 4), (4, 18, 3)])
def test_smaller_cases_are_padded_evenly_with_air_and_background(shape):
    patch = (8, 8, 4)
    small = TrainingCase(np.full(shape, 0.5, np.float32), np.ones(shape, np.uint8))
    for number in range(6):
        sample = patches(cases=[small], patch=patch)[number]
        inside = sample["label"][0] > 0
        assert torch.equal(inside, sample["image"][0] == 0.5)
        assert torch.equal(~inside, sample["image"][0] == -1.0)
        for axis in range(3):
            line = inside.movedim(axis, 0).flatten(1).any(dim=1).long().tolist()
            size = min(shape[axis], patch[axis])
            before = (patch[axis] - size) // 2
            assert line == [0] * before + [1] * size + [0] * (patch[axis] - size - before)


def test_cut_takes_the_window_and_fills_what_is_beyond():
    array = np.arange(12).reshape(3, 4, 1)
    assert cut(array, (1, 1, 0), (2, 2, 1), -5)[:, :, 0].tolist() == [[5, 6], [9, 10]]
    assert cut(array, (-1, 2, 0), (3, 3, 1), -5)[:, :, 0].tolist() == [[-5, -5, -5], [2, 3, -5], [6, 7, -5]]
    assert cut(array, (0, 0, -1), (1, 1, 3), -5)[0, 0].tolist() == [-5, 0, -5]
    assert cut(array.astype(np.uint8), (0, 0, 0), (1, 1, 1), 0).dtype == np.uint8


@pytest.mark.parametrize(
    ("shapes", "divisor", "largest", "share", "wanted", "expected"),
    [
        ([(35, 51, 35), (40, 30, 20)], 8, 96, 1.0, None, (40, 48, 32)),  # of 40 x 51 x 35, the nearest multiples
        ([(35, 51, 35), (40, 30, 20)], 8, 96, 0.75, None, (32, 40, 24)),
        ([(300, 40, 9)], 8, 100, 1.0, None, (96, 40, 8)),
        ([(300, 40, 1)], 8, 96, 1.0, None, (96, 40, 1)),
        ([(300, 40, 3)], 8, 96, 1.0, None, (96, 40, 8)),
        ([(300, 40, 90)], 8, 96, 0.5, (60, 20, 1), (64, 24, 8)),
        ([(300, 40, 90)], 8, 96, 0.5, (200, 16, 16), (200, 16, 16)),
        ([(300, 40, 1)], 8, 96, 0.5, (60, 20, 8), (64, 24, 1)),
        ([(20, 20, 20)], 16, 8, 1.0, None, (16, 16, 16)),
    ],
)
def test_the_patch_is_as_wanted_or_a_share_of_the_largest_volume(shapes, divisor, largest, share, wanted, expected):
    assert patch_size(shapes, divisor, largest, share, wanted) == expected
