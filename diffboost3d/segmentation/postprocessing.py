"""Keeping a label's largest component, where validation cases say that it helps.

Labels are judged one by one: what is taken from one becomes background and leaves every other as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = {"faces": 1, "corners": 3}  # 6 or 26 neighbours in 3D; 4 or 8 in 2D, which is a volume of one slice


def keep_largest(classes: NDArray[np.uint8], kept: Collection[int], neighbours: str = "corners") -> NDArray[np.uint8]:
    """A label map (I, J, K) in which each label of `kept` has its largest component alone; the rest of it becomes 0.

    Of components of one size the one that comes first in the order of the array (k fastest) is kept. A label that is absent, and
    every label not in `kept`, is left as it is.

    Args:
        neighbours: faces (6 neighbours in 3D, 4 in 2D) or corners (26 and 8).
    """
    from scipy import ndimage

    structure = ndimage.generate_binary_structure(3, NEIGHBOURS[neighbours])
    cleaned = classes.copy()
    boxes = ndimage.find_objects(classes)
    for label in kept:
        box = boxes[label - 1] if label <= len(boxes) else None
        if box is None:
            continue
        components, count = ndimage.label(classes[box] == label, structure)
        if count > 1:
            sizes = np.bincount(components.ravel())
            largest = 1 + int(sizes[1:].argmax())
            cleaned[box][(components != largest) & (components > 0)] = 0
    return cleaned


Dice = Mapping[str, Mapping[str, float]]  # case -> label -> Dice


def choose(before: Dice, after: Dice, labels: Collection[str]) -> dict[str, dict[str, Any]]:
    """For each label whether its largest component is to be kept, and the numbers behind it.

    It is kept if that raises the label's mean Dice over the cases. Without a case nothing is.

    Args:
        before, after: Dice of validation cases as predicted, and with the largest component of every label kept.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for label in labels:
        cases = {case: [float(before[case][label]), float(after[case][label])] for case in before}
        means = np.mean([*cases.values()], axis=0).tolist() if cases else [None, None]
        keeps = sum(kept - plain for plain, kept in cases.values()) > 0
        chosen[label] = {"keep_largest": keeps, "dice": means[0], "dice_kept": means[1], "cases": cases}
    return chosen


def choose_together(decisions: Collection[Mapping[str, Mapping[str, Any]]]) -> tuple[str, ...]:
    """Labels whose largest component an ensemble keeps: those whose mean Dice over all members' validation cases rises."""
    gains: dict[str, list[float]] = {}
    for decision in decisions:
        for label, told in decision.items():
            gains.setdefault(label, []).extend(after - before for before, after in told["cases"].values())
    return tuple(label for label, found in gains.items() if found and sum(found) > 0)
