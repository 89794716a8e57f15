"""Metrics: answers worked out by hand on anisotropic spacing, and an independent brute-force reference."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from diffboost3d.evaluation.metrics import METRICS, crop_to_joint_box, metrics_in, score_labels, score_masks

SPACING = (1.0, 2.0, 3.0)


def score(prediction, truth, spacing=SPACING, tolerance=1.0):
    return score_labels(prediction, truth, {"background": 0, "organ": 1}, spacing, tolerance)["organ"]


def volume(*voxels, shape=(8, 7, 6)):
    array = np.zeros(shape, dtype=np.uint8)
    for voxel in voxels:
        array[voxel] = 1
    return array


def brute_force(prediction, truth, spacing, tolerance):
    """The definitions in the docstring of `score_masks`, by loops over all pairs of surface voxels."""

    def surface(mask):
        inside = set(map(tuple, np.argwhere(mask)))
        steps = [tuple(sign * (a == axis) for a in range(mask.ndim)) for axis in range(mask.ndim) for sign in (-1, 1)]
        return [v for v in inside if any(tuple(np.add(v, step)) not in inside for step in steps)]

    def gap(a, b):
        return math.sqrt(sum(((x - y) * s) ** 2 for x, y, s in zip(a, b, spacing, strict=True)))

    def percentile_95(values):
        ordered = sorted(values)
        place = 0.95 * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    p, t = surface(prediction), surface(truth)
    p_to_t = [min(gap(a, b) for b in t) for a in p]
    t_to_p = [min(gap(a, b) for a in p) for b in t]
    pooled = p_to_t + t_to_p
    both = int((prediction & truth).sum())
    return {
        "dice": 2 * both / (int(prediction.sum()) + int(truth.sum())),
        "hd95": max(percentile_95(p_to_t), percentile_95(t_to_p)),
        "assd": sum(pooled) / len(pooled),
        "nsd": sum(d <= tolerance for d in pooled) / len(pooled),
    }


def blobs(rng, shape, chance):
    """Random clumps, with holes, islands and voxels on the image's border."""
    mask = rng.random(shape) < chance
    for axis in range(len(shape)):
        mask |= np.roll(mask, 1, axis)
    return mask


@pytest.mark.parametrize(
    ("other", "distance"),
    [((4, 3, 3), 2.0), ((2, 4, 3), 2.0), ((2, 3, 4), 3.0), ((3, 4, 4), math.sqrt(1 + 4 + 9))],
)
def test_two_single_voxels_are_as_far_apart_as_the_spacing_says(other, distance):
    result = score(volume((2, 3, 3)), volume(other))
    assert result == pytest.approx({"dice": 0.0, "hd95": distance, "assd": distance, "nsd": 0.0})


def test_one_voxel_found_exactly_is_perfect():
    result = score(volume((2, 3, 3)), volume((2, 3, 3)), tolerance=0.0)
    assert result == {"dice": 1.0, "hd95": 0.0, "assd": 0.0, "nsd": 1.0}


def test_a_distance_equal_to_the_tolerance_counts_as_within():
    a, b = volume((2, 3, 3)), volume((2, 4, 3))
    assert score(a, b, spacing=(1, 1.4, 3), tolerance=1.4)["nsd"] == 1.0
    assert score(a, b, spacing=(1, 1.4, 3), tolerance=1.39)["nsd"] == 0.0


def test_a_cube_shifted_by_one_voxel_along_k():
    # 3 x 3 x 3 voxels each, all surface but the centre; shifted by 3 mm along k, they share 2 of 3 layers.
    a, b = volume(shape=(9, 9, 9)), volume(shape=(9, 9, 9))
    a[3:6, 3:6, 3:6] = 1
    b[3:6, 3:6, 4:7] = 1
    result = score(a, b, tolerance=1.0)
    assert result["dice"] == pytest.approx(2 * 18 / 54)
    # a's layers k = 3, 4, 5. At k = 3 the rim of 8 is 3 mm off b's layer 4, which is b's solid end. Its centre too: 9
    # voxels at 3 mm. At k = 4 the rim lies in b's end layer: 0. At k = 5 the rim is b's rim: 0; a's centre there meets
    # b's hidden centre, and the nearest surface voxel is 1 mm along i. So 9 x 3 mm, 1 x 1 mm, 16 x 0, both ways alike.
    assert result["assd"] == pytest.approx((9 * 3 + 1) / 26)
    assert result["hd95"] == pytest.approx(3.0)
    assert result["nsd"] == pytest.approx(17 / 26)


def test_assd_pools_the_voxels_of_both_surfaces_instead_of_averaging_two_means():
    # one voxel against three in a row along i at 0, 1 and 2 mm: distances 0 | 0, 1, 2
    result = score(volume((2, 3, 3)), volume((2, 3, 3), (3, 3, 3), (4, 3, 3)))
    assert result["assd"] == pytest.approx((0 + 0 + 1 + 2) / 4)  # two means would give (0 + 1) / 2
    assert result["nsd"] == pytest.approx(3 / 4)


def test_hd95_is_the_larger_of_the_two_directed_percentiles():
    # distances 0 | 0, 1, 2: the percentiles are 0 and 1.9; of the pooled 0, 0, 1, 2 it would be 1.85
    assert score(volume((2, 3, 3)), volume((2, 3, 3), (3, 3, 3), (4, 3, 3)))["hd95"] == pytest.approx(1.9)


def test_masks_filling_the_image_have_its_border_as_surface():
    full = np.ones((5, 5, 5), dtype=np.uint8)
    hollow = full.copy()
    hollow[2, 2, 2] = 0
    result = score(full, hollow, tolerance=0.0)
    # The 98 of the border are in both. Around the hole are 6 more: those along i lie 1 mm below the border, those along
    # j 2 mm; those along k lie 3 mm below their end of the border, but 2 voxels of 1 mm from it along i.
    assert result["assd"] == pytest.approx((2 * 1 + 2 * 2 + 2 * 2) / (98 + 104))
    assert result["nsd"] == pytest.approx(2 * 98 / (98 + 104))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 1.3, 5.0)])
@pytest.mark.parametrize("seed", range(4))
def test_random_volumes_agree_with_brute_force(seed, spacing):
    rng = np.random.default_rng(seed)
    prediction, truth = blobs(rng, (7, 6, 5), 0.08), blobs(rng, (7, 6, 5), 0.08)
    assert score(prediction, truth, spacing, 1.3) == pytest.approx(
        brute_force(prediction, truth, spacing, 1.3), abs=1e-5
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_single_slice_agrees_with_brute_force_in_two_dimensions(seed):
    rng = np.random.default_rng(seed)
    prediction, truth = blobs(rng, (12, 9, 1), 0.05), blobs(rng, (12, 9, 1), 0.05)
    expected = brute_force(prediction[:, :, 0], truth[:, :, 0], (0.5, 2.0), 1.0)
    assert score(prediction, truth, (0.5, 2.0, 99.0), 1.0) == pytest.approx(expected, abs=1e-5)
    assert score(prediction, truth, (0.5, 2.0), 1.0) == pytest.approx(expected, abs=1e-5)


def test_a_single_slice_has_an_outline_not_only_surface():
    # a disc within a disc in 2D: in 3D every voxel of a single slice would be surface and the assd smaller
    small, large = volume(shape=(9, 9, 1)), volume(shape=(9, 9, 1))
    small[3:6, 3:6] = 1
    large[2:7, 2:7] = 1
    result = score(small, large, (1.0, 1.0, 5.0), tolerance=1.0)
    # 8 outline pixels 1 mm inside; of the 16 outside 12 at 1 mm and 4 corners at sqrt 2
    assert result["assd"] == pytest.approx((8 + 12 + 4 * math.sqrt(2)) / 24)


def test_cropping_changes_no_result():
    rng = np.random.default_rng(5)
    a, b = np.zeros((20, 18, 16), dtype=bool), np.zeros((20, 18, 16), dtype=bool)
    a[0:6, 4:9, 3:8] = blobs(rng, (6, 5, 5), 0.1)
    b[2:8, 4:9, 1:6] = blobs(rng, (6, 5, 5), 0.1)
    tight = score_masks(a, b, SPACING, 1.5)
    assert tight == pytest.approx(brute_force(a, b, SPACING, 1.5), abs=1e-5)
    for padding in ([(3, 0)] * 3, [(0, 7)] * 3, [(2, 5), (0, 0), (9, 1)]):
        assert score_masks(np.pad(a, padding), np.pad(b, padding), SPACING, 1.5) == tight


def test_the_joint_box_holds_both_masks_with_a_background_margin():
    a, b = np.zeros((9, 9, 9), dtype=bool), np.zeros((9, 9, 9), dtype=bool)
    a[0, 1, 2] = b[3, 1, 4] = True
    cropped_a, cropped_b = crop_to_joint_box(a, b)
    assert cropped_a.shape == cropped_b.shape == (6, 3, 5)
    assert cropped_a[1, 1, 1]
    assert cropped_b[4, 1, 3]
    assert cropped_a.sum() == cropped_b.sum() == 1
    empty = np.zeros((2, 2, 2), dtype=bool)
    assert crop_to_joint_box(empty, empty)[0].shape == (2, 2, 2)


def test_two_empty_masks_agree_perfectly():
    assert score(volume(), volume()) == {"dice": 1.0, "hd95": 0.0, "assd": 0.0, "nsd": 1.0}


@pytest.mark.parametrize("swap", [False, True])
def test_one_empty_mask_is_as_wrong_as_the_image_is_long(swap):
    pair = [volume((2, 3, 3)), volume()]
    diagonal = math.sqrt(8**2 + 14**2 + 18**2)
    assert score(*(reversed(pair) if swap else pair)) == {"dice": 0.0, "hd95": diagonal, "assd": diagonal, "nsd": 0.0}


def test_one_empty_slice_is_as_wrong_as_the_slice_is_long():
    result = score(volume((1, 1, 0), shape=(3, 4, 1)), volume(shape=(3, 4, 1)), spacing=(1.0, 1.0, 50.0))
    assert result["hd95"] == 5.0


def test_no_distance_exceeds_the_one_for_an_empty_mask():
    corner, opposite = volume((0, 0, 0)), volume((7, 6, 5))
    assert score(corner, opposite)["hd95"] < score(corner, volume())["hd95"]


def test_every_label_is_scored_alone_and_background_is_not():
    truth = volume(shape=(4, 4, 4))
    truth[0], truth[3] = 1, 7
    prediction = np.where(truth == 7, 0, truth)
    results = score_labels(prediction, truth, {"background": 0, "near": 1, "far": 7}, SPACING, 1.0)
    assert list(results) == ["near", "far"]
    assert (results["near"]["dice"], results["far"]["dice"]) == (1.0, 0.0)
    assert list(results["near"]) == [metric.name for metric in METRICS]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64])
def test_any_integer_type_and_memory_order_will_do(dtype):
    a, b = volume((2, 3, 3)).astype(dtype), np.asfortranarray(volume((2, 3, 4)).astype(dtype))
    assert score(a[::-1], b[::-1])["hd95"] == pytest.approx(3.0)


def test_swapping_prediction_and_truth_changes_nothing():
    rng = np.random.default_rng(2)
    a, b = blobs(rng, (6, 6, 6), 0.05), blobs(rng, (6, 6, 6), 0.05)
    assert score(a, b) == pytest.approx(score(b, a))


def test_differing_shapes_are_refused_by_name():
    with pytest.raises(ValueError, match=r"\(8, 7, 6\) and \(8, 7, 5\)"):
        score(volume(), volume(shape=(8, 7, 5)))


@pytest.mark.parametrize("spacing", [(1.0, 0.0, 1.0), (1.0, 1.0), (1.0, math.nan, 1.0), (1.0, -2.0, 1.0), (1.0,) * 4])
def test_impossible_spacings_are_refused(spacing):
    with pytest.raises(ValueError, match="spacing"):
        score(volume(), volume(), spacing=spacing)


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_impossible_tolerances_are_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance"):
        score(volume(), volume(), tolerance=tolerance)


def test_arrays_without_three_axes_are_refused():
    with pytest.raises(ValueError, match=r"\(I, J, K\)"):
        score(np.zeros((4, 4), dtype=int), np.zeros((4, 4), dtype=int))


def test_only_distances_take_another_unit():
    assert [(m.name, m.unit) for m in metrics_in("px")] == [("dice", ""), ("hd95", "px"), ("assd", "px"), ("nsd", "")]
    assert {m.name for m in METRICS if m.higher_is_better} == {"dice", "nsd"}


def test_scoring_prints_no_warnings(recwarn):
    for a, b in itertools.product([volume(), volume((1, 1, 1))], repeat=2):
        score(a, b)
    assert not [str(w.message) for w in recwarn]


def test_voxels_to_ignore_are_in_no_score():
    truth = np.zeros((6, 4, 3), int)
    truth[:2], truth[4:] = 1, 255
    prediction = np.where(truth == 255, 1, truth)
    labels = {"background": 0, "ball": 1}
    found = score_labels(prediction, truth, labels, (1.0, 1.0, 2.0), 1.0, ignored=255)
    assert found == {"ball": {"dice": 1.0, "hd95": 0.0, "assd": 0.0, "nsd": 1.0}}
    assert score_labels(prediction, truth, labels, (1.0, 1.0, 2.0), 1.0)["ball"]["dice"] == pytest.approx(2 / 3)
