"""Do the image channels of a synthetic volume agree as those of a real one? By the information that they have in common."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Mask = NDArray[np.bool_]

BINS = 32
BACKGROUND = -0.95


def mutual_information(first: Array, second: Array, mask: Mask | None = None, bins: int = BINS) -> float:
    """Mutual information of the intensities of two images in [-1, 1] at the same voxels, in nats.

    I = sum over a, b of p(a, b) log(p(a, b) / (p(a) p(b))), with p of the joint histogram of `bins` x `bins` equal bins over
    [-1, 1] (Shannon 1948; for images: Wells et al., Medical Image Analysis 1:35-51, 1996), less (n - na - nb + 1) / 2N, which
    N voxels in n filled cells (na rows, nb columns) show on average by chance (Miller 1955; Roulston, Physica D 125:285-294,
    1999). 0 for images that have nothing to do with one another (a little below or above, by chance); the entropy of one that
    is compared with itself.

    Args:
        first, second: of one shape. mask: voxels that count; None: all.

    Raises:
        ValueError: differing shapes, or no voxel.
    """
    if first.shape != second.shape:
        raise ValueError(f"shapes differ: {first.shape} and {second.shape}")
    a, b = (image.ravel() if mask is None else image[mask] for image in (first, second))
    if not a.size:
        raise ValueError("there is no voxel to compare")
    counts, _, _ = np.histogram2d(np.clip(a, -1, 1), np.clip(b, -1, 1), bins, [[-1, 1], [-1, 1]])
    joint = counts / counts.sum()
    rows, columns = joint.sum(axis=1), joint.sum(axis=0)
    filled = joint > 0
    information = float((joint[filled] * np.log(joint[filled] / np.outer(rows, columns)[filled])).sum())
    chance = (filled.sum() - (rows > 0).sum() - (columns > 0).sum() + 1) / (2 * a.size)
    return information - float(chance)


def channel_information(image: Array, mask: Mask | None = None, bins: int = BINS) -> float:
    """Mean of `mutual_information` over all pairs of channels of an image (C, I, J, K) in [-1, 1].

    Raises:
        ValueError: fewer than two channels.
    """
    if image.ndim != 4 or len(image) < 2:
        raise ValueError(f"an image of several channels (C, I, J, K) is needed, not {image.shape}")
    return float(np.mean([mutual_information(one, two, mask, bins) for one, two in combinations(image, 2)]))


def information_ratio(real: Array, synthetic: Array, bins: int = BINS) -> float:
    """`channel_information` of a synthetic image by that of the real one, where a channel of that shows more than background.

    1 is best; below, the channels contradict each other; above, they are too alike.
    """
    inside = np.asarray((real > BACKGROUND).any(axis=0))
    mask = inside if inside.any() else None
    return channel_information(synthetic, mask, bins) / max(channel_information(real, mask, bins), 1e-6)
