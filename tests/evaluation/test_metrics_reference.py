"""Our metrics beside those of SimpleITK, MONAI and google-deepmind's surface-distance on 50 pairs of real labels."""

from __future__ import annotations

import itertools
import math

import nibabel as nib
import numpy as np
import pytest

from diffboost3d.evaluation.metrics import score_masks

pytestmark = pytest.mark.real_data

SPACINGS = ((1.0, 1.0, 1.0), (0.8, 1.25, 2.0))  # the files' own, and one that is not cubic
PAIRS, TOLERANCE_MM = 50, 1.0


@pytest.fixture(scope="module")
def pairs(real_data):
    """50 (prediction, truth, spacing) of hippocampus: shifted, eroded, dilated, noisy borders, another case's label laid over."""
    from scipy.ndimage import binary_dilation, binary_erosion

    files = sorted((real_data / "hippocampus" / "labelsTr").glob("*.nii.gz"))[:26]
    labels = [np.asarray(nib.load(path).dataobj).round().astype(int) for path in files]

    def noisy(mask, number):
        border = binary_dilation(mask) & ~binary_erosion(mask)
        return np.where(border, np.random.default_rng(number).random(mask.shape) < 0.5, mask)

    changes = (
        lambda mask, number: np.roll(mask, (1, -2, 1), (0, 1, 2)),
        lambda mask, number: binary_erosion(mask),
        lambda mask, number: binary_dilation(mask, iterations=2),
        noisy,
        lambda mask, number: fitted(labels[(number + 1) % len(labels)] == 1 + number % 2, mask.shape),
    )
    made = []
    for number in range(PAIRS):
        truth = labels[number // 2] == 1 + number % 2
        made.append((changes[number % 5](truth, number // 2), truth, SPACINGS[number % 2]))
    assert all(prediction.any() and truth.any() for prediction, truth, _ in made)
    return made


@pytest.fixture(scope="module")
def ours_of(pairs):
    """Our scores of each pair."""
    return [score_masks(prediction, truth, spacing, TOLERANCE_MM) for prediction, truth, spacing in pairs]


def fitted(mask, shape):
    """Cut or padded at the far ends."""
    out = np.zeros(shape, dtype=bool)
    window = tuple(slice(0, min(a, b)) for a, b in zip(mask.shape, shape, strict=True))
    out[window] = mask[window]
    return out


def image_of(mask, spacing):
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(np.ascontiguousarray(mask.transpose(2, 1, 0)).astype(np.uint8))
    image.SetSpacing(spacing)
    return image


def surface_distances(first, second, spacing):
    """Distances in mm from the surface voxels of each of two masks to the nearest of the other, by SimpleITK alone."""
    import SimpleITK as sitk  # noqa: N813

    images = [image_of(np.pad(mask, 1), spacing) for mask in (first, second)]
    outlines = [sitk.LabelContour(image, fullyConnected=False) for image in images]
    maps = [
        sitk.GetArrayFromImage(
            sitk.Abs(
                sitk.SignedMaurerDistanceMap(one, squaredDistance=False, useImageSpacing=True, insideIsPositive=False)
            )
        )
        for one in outlines
    ]
    inside = [sitk.GetArrayFromImage(one) > 0 for one in outlines]
    return maps[1][inside[0]], maps[0][inside[1]]


def test_dice_is_that_of_simpleitk(pairs, ours_of):
    import SimpleITK as sitk  # noqa: N813

    for (prediction, truth, spacing), ours in zip(pairs, ours_of, strict=True):
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(image_of(prediction, spacing), image_of(truth, spacing))
        assert ours["dice"] == pytest.approx(overlap.GetDiceCoefficient(), abs=1e-6)


def test_distances_are_those_of_simpleitks_distance_maps(pairs, ours_of):
    for (prediction, truth, spacing), ours in zip(pairs, ours_of, strict=True):
        there, back = surface_distances(prediction, truth, spacing)
        both = np.concatenate([there, back])
        assert ours["assd"] == pytest.approx(both.mean(), abs=1e-4)
        assert ours["hd95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), abs=1e-4)
        assert ours["nsd"] == pytest.approx((both <= TOLERANCE_MM + 1e-6).mean(), abs=1e-6)


def test_they_are_those_of_monai_on_the_whole_volume(pairs, ours_of):
    """We compute on the joint box with a margin; MONAI here on the whole."""
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

    for (prediction, truth, spacing), ours in zip(pairs, ours_of, strict=True):
        a, b = (torch.from_numpy(np.pad(mask, 1))[None, None] for mask in (prediction, truth))
        assert ours["dice"] == pytest.approx(float(compute_dice(a, b)), abs=1e-6)
        given = {"include_background": True, "spacing": list(spacing)}
        assert ours["hd95"] == pytest.approx(float(compute_hausdorff_distance(a, b, percentile=95, **given)), abs=1e-5)
        assert ours["nsd"] == pytest.approx(float(compute_surface_dice(a, b, [TOLERANCE_MM], **given)), abs=1e-6)


def test_they_are_near_those_of_surface_distance_which_weighs_by_area(pairs, ours_of):
    """That library's surface lies between voxels and is weighed by area, so distances agree to half a voxel's diagonal only."""
    reference = pytest.importorskip("surface_distance", reason="the reference surface-distance isn't installed")

    for (prediction, truth, spacing), ours in zip(pairs, ours_of, strict=True):
        found = reference.compute_surface_distances(truth, prediction, spacing)
        assert ours["dice"] == pytest.approx(reference.compute_dice_coefficient(truth, prediction), abs=1e-6)
        near = math.hypot(*spacing) / 2
        assert ours["hd95"] == pytest.approx(reference.compute_robust_hausdorff(found, 95), abs=near)
        assert ours["assd"] == pytest.approx(np.mean(reference.compute_average_surface_distance(found)), abs=near)


def test_the_order_of_pairs_by_nsd_is_that_of_surface_distance(pairs, ours_of):
    reference = pytest.importorskip("surface_distance", reason="the reference surface-distance isn't installed")
    from scipy.stats import spearmanr

    ours = [one["nsd"] for one in ours_of]
    theirs = [
        reference.compute_surface_dice_at_tolerance(reference.compute_surface_distances(t, p, s), TOLERANCE_MM)
        for p, t, s in pairs
    ]
    assert spearmanr(ours, theirs).statistic > 0.9


@pytest.mark.parametrize("spacing", SPACINGS)
def test_the_conventions_for_empty_masks_hold_on_real_labels(pairs, spacing):
    truth = pairs[0][1]
    empty = np.zeros_like(truth)
    diagonal = math.hypot(*(size * step for size, step in zip(truth.shape, spacing, strict=True)))
    assert score_masks(empty, empty, spacing, 1.0) == {"dice": 1.0, "hd95": 0.0, "assd": 0.0, "nsd": 1.0}
    for pair in itertools.permutations((truth, empty)):
        assert score_masks(*pair, spacing, 1.0) == {"dice": 0.0, "hd95": diagonal, "assd": diagonal, "nsd": 0.0}
