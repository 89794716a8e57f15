"""Images that have the values of a label, and labels that have those of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MANY_VALUES = 32  # distinct values from which a "label" may be an image
EVEN = (
    0.9  # share of neighbours with one value, from which few values are those of a label rather than of a coarse image
)
SAMPLE = 2_000_000  # voxels that are looked at first


def are_swapped(image: NDArray[Any], label: NDArray[Any]) -> bool:
    """Whether the image has few whole numbers and the label many values: each looks like the other."""
    if not np.isfinite(label).all() or not np.isfinite(image).all():
        return False
    many = len(np.unique(label))
    if many <= MANY_VALUES:
        return False
    values = np.unique(image)
    return bool(4 * len(values) < many and (values == np.round(values)).all())


def values_as_of_label(image: NDArray[Any]) -> int | None:
    """How many values an image (I, J, K) has, if they are as few whole numbers in as even areas as a label's; else None."""
    if len(np.unique(image.flat[:: 1 + image.size // SAMPLE])) > MANY_VALUES:
        return None
    values = np.unique(image)
    if not 1 < len(values) <= MANY_VALUES or not (values == np.round(values)).all():
        return None
    equal = np.concatenate([(np.diff(image, axis=axis) == 0).ravel() for axis in (0, 1)])
    return len(values) if equal.size and equal.mean() >= EVEN else None
