"""The two-sample test: it sees what is there, finds nothing where nothing is, and keeps a group in one fold."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import mannwhitneyu

from diffboost3d.evaluation.two_sample import _balanced_folds, _pairs_by_group, draw_patches, two_sample_auc


def texture(count: int, shape: tuple[int, ...] = (16, 16), seed: int = 0) -> np.ndarray:
    """Smooth noise, (N, *shape), about [-1, 1]."""
    random = np.random.default_rng(seed)
    raw = random.normal(size=(count, *shape))
    return (0.8 * gaussian_filter(raw, (0, *[1.0] * len(shape)))).astype(np.float32)


GROUPS = [f"case_{number // 2}" for number in range(60)]


def test_blurred_images_are_told_from_sharp_ones_of_the_same_cases():
    real = texture(60)
    result = two_sample_auc(real, gaussian_filter(real, (0, 0.6, 0.6)), GROUPS, GROUPS, folds=2, epochs=8)
    assert result.auc > 0.95
    assert result.low <= result.auc <= result.high <= 1
    assert len(result.folds) == 2


@pytest.mark.parametrize("shape", [(16, 16), (8, 9, 10)])
def test_copies_are_a_tie(shape):
    real = texture(20, shape)
    result = two_sample_auc(real, real, GROUPS[:20], GROUPS[:20], folds=2, epochs=1)
    assert result.auc == pytest.approx(0.5)
    assert result.folds == pytest.approx((0.5, 0.5))


def test_noisy_patches_of_volumes_are_told_apart():
    real = texture(40, (8, 10, 9))
    noisy = real + np.random.default_rng(1).normal(0, 0.1, real.shape).astype(np.float32)
    assert two_sample_auc(real, noisy, GROUPS[:40], GROUPS[:40], folds=2, epochs=8).auc > 0.95


def test_the_same_seed_gives_the_same_result_and_the_global_generator_is_left_alone():
    real, other = texture(24), texture(30, seed=1)
    before = torch.get_rng_state()
    first = two_sample_auc(real, other, GROUPS[:24], GROUPS[:30], folds=2, epochs=2, seed=3)
    assert first == two_sample_auc(real, other, GROUPS[:24], GROUPS[:30], folds=2, epochs=2, seed=3)
    assert first != two_sample_auc(real, other, GROUPS[:24], GROUPS[:30], folds=2, epochs=2, seed=4)
    assert (torch.get_rng_state() == before).all()


def test_repeats_average_networks():
    real, other = texture(24), texture(24, seed=1)
    once, twice = (
        two_sample_auc(real, other, GROUPS[:24], GROUPS[:24], folds=2, epochs=1, repeats=repeats) for repeats in (1, 2)
    )
    assert once != twice


def test_a_group_is_in_one_fold_and_the_folds_are_alike():
    # twelve groups: four have real images only, four synthetic ones only, four both, of uneven numbers
    group = np.repeat(np.arange(12), [6, 5, 4, 3, 6, 5, 4, 3, 8, 8, 6, 6])
    is_synthetic = ((group >= 4) & (group < 8)) | ((group >= 8) & (np.arange(len(group)) % 2 == 0))
    fold = _balanced_folds(group, is_synthetic, 4, seed=0)[group]
    shares = [np.bincount(fold[is_synthetic == kind], minlength=4) / (is_synthetic == kind).sum() for kind in (0, 1)]
    assert np.abs(np.array(shares) - 0.25).max() < 0.12


def test_the_area_is_the_rank_statistic_within_a_fold_and_ties_are_half_a_win():
    random = np.random.default_rng(0)
    scores, kind = random.integers(0, 6, 50).astype(float), random.random(50) < 0.4
    group = random.integers(0, 7, 50)
    wins, pairs = _pairs_by_group(scores, kind, group, np.zeros(50, int))
    expected = mannwhitneyu(scores[kind], scores[~kind]).statistic
    assert wins.sum() == pytest.approx(expected)
    assert pairs.sum() == kind.sum() * (~kind).sum()


def test_pairs_across_folds_do_not_count():
    scores, kind = np.array([0.0, 1.0, 100.0, 101.0]), np.array([False, True, False, True])
    wins, pairs = _pairs_by_group(scores, kind, np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]))
    assert (wins.sum(), pairs.sum()) == (2, 2)


def test_patches_of_a_case_are_cut_at_the_same_places():
    volume = np.arange(9 * 8 * 7, dtype=np.float32).reshape(9, 8, 7)
    patches = draw_patches(volume, (4, 5, 7), 6, 0, "case_003")
    assert patches.shape == (6, 4, 5, 7)
    assert (draw_patches(volume + 1, (4, 5, 7), 6, 0, "case_003") == patches + 1).all()
    assert (draw_patches(volume, (4, 5, 7), 6, 0, "case_004") != patches).any()
    assert all((volume[i : i + 4, j : j + 5] == patch).all() for patch in patches for i, j in [places(patch)])
    with pytest.raises(ValueError, match="doesn't fit"):
        draw_patches(volume, (4, 5, 8), 1, 0)


def places(patch: np.ndarray) -> tuple[int, int]:
    """The corner of a patch of a volume (9, 8, 7) that counts its voxels."""
    i, rest = divmod(int(patch[0, 0, 0]), 8 * 7)
    return i, rest // 7


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"real": texture(10)[:, :6]}, "sides of 8"),
        ({"real": texture(10, (16, 17))}, "differ in shape"),
        ({"real": np.full((10, 16, 16), np.nan, np.float32)}, "2560 values"),
        ({"real_groups": GROUPS[:9]}, "10 images, 9 groups"),
        ({"real_groups": ["one"] * 10, "synthetic_groups": ["one"] * 10}, "1 groups can't be put into 2 folds"),
        ({"folds": 1}, "1 folds"),
        ({"epochs": 0}, "one epoch"),
    ],
)
def test_what_cannot_be_tested_is_refused(changes, words):
    given = {"real": texture(10), "synthetic": texture(10), "real_groups": GROUPS[:10], "synthetic_groups": GROUPS[:10]}
    with pytest.raises(ValueError, match=words):
        two_sample_auc(**{"folds": 2, "epochs": 1, **given, **changes})


@pytest.mark.real_data
def test_slices_of_real_volumes_are_told_from_their_blur_but_not_from_each_other(real_data: Path):
    files = sorted((real_data / "hippocampus" / "imagesTr").glob("*.nii.gz"))[:64]
    slices = [middle_slice(path) for path in files]
    groups = [number // 4 for number in range(len(files))]  # consecutive numbers may be two sides of one head
    real = np.stack(slices)
    blurred = np.stack([gaussian_filter(image, 0.6) for image in slices])
    settings = {"folds": 2, "epochs": 8}
    assert two_sample_auc(real, blurred, groups, groups, **settings).auc > 0.9
    first = np.array(groups) % 2 == 0
    halves = two_sample_auc(
        real[first], real[~first], [g for g in groups if g % 2 == 0], [g for g in groups if g % 2 == 1], **settings
    )
    assert halves.low < 0.5 < halves.high


def middle_slice(path: Path) -> np.ndarray:
    """The middle 28 x 40 voxels of a volume in [-1, 1]."""
    volume = np.asarray(nib.load(path).dataobj, np.float32)
    low, high = np.percentile(volume, [0.5, 99.5])
    i, j = ((size - side) // 2 for size, side in zip(volume.shape, (28, 40), strict=False))
    return np.clip(2 * (volume[i : i + 28, j : j + 40, volume.shape[2] // 2] - low) / (high - low) - 1, -1, 1)
