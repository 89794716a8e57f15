"""Label groups: several labels of the user's files that count as one, in training and in every score alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.errors import ConfigError


def grouped(labels: Mapping[str, int], groups: Mapping[str, Sequence[str]]) -> tuple[dict[str, int], dict[int, int]]:
    """(labels with groups in the place of their members, value in the files -> value that it counts as).

    A group has the smallest value of its members, and predictions are written with it.

    Raises:
        ConfigError: an unknown label, one in two groups, an empty group, or a group called as a label that stays.
    """
    owner: dict[str, str] = {}
    for group, members in groups.items():
        if not members:
            raise ConfigError(f"data.label_groups.{group} is empty; give the names of its labels")
        for name in members:
            if name not in labels:
                raise ConfigError(f"data.label_groups.{group}: {name!r} is no label; allowed: {', '.join(labels)}")
            if name in owner:
                raise ConfigError(f"data.label_groups: {name!r} is in {owner[name]} and in {group}; allowed: one group")
            owner[name] = group
    kept = {name: value for name, value in labels.items() if name not in owner}
    if twins := sorted(set(kept) & set(groups)):
        raise ConfigError(f"data.label_groups.{twins[0]} is called as a label that is not in it; choose another name")
    chosen = {group: min(labels[name] for name in members) for group, members in groups.items()}
    merged = {labels[name]: chosen[group] for name, group in owner.items() if labels[name] != chosen[group]}
    if len(kept) + len(chosen) < 2:
        raise ConfigError("data.label_groups leaves nothing but one label; keep the background apart")
    return dict(sorted({**kept, **chosen}.items(), key=lambda pair: pair[1])), merged


def with_groups(label: NDArray[np.int64], merged: Mapping[int, int]) -> NDArray[np.int64]:
    """A label of the user's values with those that count as others replaced; without groups the same array."""
    for value, counts_as in merged.items():
        label = np.where(label == value, counts_as, label)
    return label


def whole(label: NDArray[Any]) -> NDArray[np.int64]:
    """Label values as whole numbers."""
    rounded: NDArray[np.int64] = np.round(label).astype(np.int64)
    return rounded
