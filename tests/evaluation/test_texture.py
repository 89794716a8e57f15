"""The judge of texture: blind where there is nothing to see, and awake to what a small network misses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from diffboost3d.evaluation.texture import grid_excess, texture_auc, texture_figures

GROUPS = np.repeat(np.arange(10), 12)


def slices(seed, deviation=0.3):
    noise = np.random.default_rng(seed).standard_normal((120, 24, 21))
    smooth = gaussian_filter(noise, (0, 0.6, 0.6))
    return np.clip(deviation * smooth / smooth.std(), -1, 1).astype(np.float32)


def with_grid(images, strength=0.08):
    """A fainter diagonal detail on the grid of 2 x 2 voxels that begins at the corner, and on no other."""
    made = images.copy()
    cut = made[:, :24, :20]
    diagonal = (cut[:, ::2, ::2] - cut[:, ::2, 1::2] - cut[:, 1::2, ::2] + cut[:, 1::2, 1::2]) / 4
    for first in (0, 1):
        for second in (0, 1):
            cut[:, first::2, second::2] -= (1 if first == second else -1) * strength * 4 * diagonal
    return made


def judged(first, second):
    return texture_auc(first, second, GROUPS, GROUPS)


def test_draws_of_one_kind_are_not_told_apart():
    assert judged(slices(0), slices(1)) == pytest.approx(0.5, abs=0.1)


def test_a_grid_is_seen_that_changes_no_spectrum_much():
    assert judged(slices(0), with_grid(slices(1))) > 0.9


def test_a_grid_is_measured_by_its_excess():
    assert grid_excess(slices(0)).mean() == pytest.approx(0, abs=0.05)  # three standard errors
    assert grid_excess(with_grid(slices(0))).mean() < -0.1  # the detail on it is fainter


def test_a_little_blur_and_what_is_cut_off_are_seen():
    assert judged(slices(0), gaussian_filter(slices(1), (0, 0.35, 0.35))) > 0.9
    assert judged(slices(0, 0.6), np.clip(slices(1, 0.6), -0.9, 0.9)) > 0.9


def test_figures_are_numbers_for_flat_and_black_slices():
    assert np.isfinite(texture_figures(np.full((2, 16, 16), -1, np.float32))).all()
    assert texture_figures(slices(0)).shape == (120, 30)


def test_too_little_is_refused():
    with pytest.raises(ValueError, match="folds"):
        texture_auc(slices(0)[:4], slices(1)[:4], [0, 0, 1, 1], [0, 0, 1, 1])
    with pytest.raises(ValueError, match="12 x 12"):
        texture_figures(np.zeros((1, 8, 20), np.float32))
