"""A second judge of realism: figures of fine texture, and a linear rule on them.

A small convolutional network that is trained on few slices does not see all: turned and cropped at random, it can't see a grid of
two voxels that a sampler or codec leaves. Energies of detail on each of the four grids of 2 x 2 voxels show it at once. Real
images have no grid: their energies on all four are alike.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Figures = NDArray[np.float64]

SMALLEST_SIDE = 12
RINGS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.71)  # cycles a voxel
RIDGE = 0.01  # of the number of slices
_TINY = 1e-6


def texture_auc(
    real: Array, synthetic: Array, real_groups: Sequence[int], synthetic_groups: Sequence[int], folds: int = 5
) -> float:
    """How well a linear rule on `texture_figures` tells synthetic slices from real ones: mean AUC of slices it wasn't fitted on.

    0.5: not at all. Ridge regression on standardised figures (Hoerl & Kennard 1970); both halves of a group are in one fold.

    Args:
        real, synthetic: slices (N, A, B) in [-1, 1] of one grid. real_groups, synthetic_groups: the patient, or case, of each.

    Raises:
        ValueError: fewer groups than folds, or slices smaller than 12 x 12.
    """
    figures = np.concatenate([texture_figures(real), texture_figures(synthetic)])
    figures = (figures - figures.mean(axis=0)) / (figures.std(axis=0) + _TINY)
    truth = np.repeat([-1.0, 1.0], [len(real), len(synthetic)])
    group = np.concatenate([np.asarray(real_groups), np.asarray(synthetic_groups)])
    names = np.unique(group)
    if len(names) < folds:
        raise ValueError(f"{len(names)} groups can't make {folds} folds")
    found = []
    for fold in range(folds):
        out = np.isin(group, names[fold::folds])
        known, wanted = figures[~out], truth[~out]
        ridge = RIDGE * len(known) * np.eye(known.shape[1])
        weights = np.linalg.solve(known.T @ known + ridge, known.T @ wanted)
        found.append(_auc(figures[out] @ weights, truth[out] > 0))
    return float(np.mean(found))


def _auc(scores: Figures, is_synthetic: NDArray[np.bool_]) -> float:
    """Share of pairs in which the synthetic slice has the higher score; a tie counts a half (Mann & Whitney 1947)."""
    from scipy.stats import rankdata

    count = int(is_synthetic.sum())
    above = rankdata(scores)[is_synthetic].sum() - count * (count + 1) / 2
    return float(above / (count * (len(scores) - count)))


def texture_figures(slices: Array) -> Figures:
    """(N, 30) of slices (N, A, B): details on four grids, energy by frequency, shape of the distribution, range.

    Raises:
        ValueError: slices smaller than 12 x 12.
    """
    if min(slices.shape[1:]) < SMALLEST_SIDE:
        raise ValueError(f"slices of {slices.shape[1:]}; the least is {SMALLEST_SIDE} x {SMALLEST_SIDE}")
    whole = slices.astype(np.float64)
    return np.concatenate([_grids(whole), _rings(whole), _distribution(whole)], axis=1)


def grid_excess(slices: Array) -> Figures:
    """How much stronger diagonal detail is on the grid of 2 x 2 voxels from the corner than on that one voxel further, (N,).

    Of slices (N, A, B), as the natural logarithm of the ratio of energies: 0 without a grid.
    """
    grids = _grids(slices.astype(np.float64))
    return grids[:, 2] - grids[:, 11]


def _grids(slices: Figures) -> Figures:
    """(N, 12): log energy of the three Haar details on each of the four grids of 2 x 2 voxels."""
    found = []
    for first, second in itertools.product((0, 1), repeat=2):
        cut = slices[:, first:, second:]
        cut = cut[:, : cut.shape[1] // 2 * 2, : cut.shape[2] // 2 * 2]
        a, b, c, d = cut[:, ::2, ::2], cut[:, ::2, 1::2], cut[:, 1::2, ::2], cut[:, 1::2, 1::2]
        details = ((a - b + c - d) / 2, (a + b - c - d) / 2, (a - b - c + d) / 2)
        found += [np.log((detail**2).mean(axis=(1, 2)) + _TINY) for detail in details]
    return np.stack(found, axis=1)


def _rings(slices: Figures) -> Figures:
    """(N, 8): log power in rings of spatial frequency."""
    power = np.abs(np.fft.fft2(slices - slices.mean(axis=(1, 2), keepdims=True))) ** 2
    along, across = (np.fft.fftfreq(size) for size in slices.shape[1:])
    frequency = np.hypot(along[:, None], across[None])
    rings = [(frequency >= low) & (frequency < high) for low, high in itertools.pairwise(RINGS)]
    return np.stack([np.log(power[:, ring].mean(axis=1) + _TINY) for ring in rings], axis=1)


def _distribution(slices: Figures) -> Figures:
    """(N, 10): skewness and kurtosis of the fine detail, kurtosis of the Laplacian; mean, spread, quantiles, what is cut off."""
    from scipy.ndimage import gaussian_filter, laplace
    from scipy.stats import kurtosis, skew

    found = []
    for image in slices:
        fine, edges = (image - gaussian_filter(image, 1.0)).ravel(), laplace(image).ravel()
        low, high = np.quantile(image, (0.05, 0.95))
        found.append(
            [
                skew(fine),
                kurtosis(fine),
                np.log(edges.std() + _TINY),
                kurtosis(edges),
                image.mean(),
                image.std(),
                low,
                high,
                (image >= 1.0).mean(),
                (image <= -1.0).mean(),
            ]
        )
    return np.nan_to_num(np.asarray(found, dtype=np.float64))
