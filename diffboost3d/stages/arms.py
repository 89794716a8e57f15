"""What an arm is made of: its augmentations, and the sets of synthetic volumes that the arms of a study need."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from diffboost3d.augmentation.classical import ClassicalPlan, ClassicalStack
from diffboost3d.augmentation.single import SingleAugmentations, SinglePlan
from diffboost3d.schema import ArmConfig, Config
from diffboost3d.segmentation.batches import Augmentation


def augmentations_of(
    config: Config, arm: ArmConfig, patch: Sequence[int], spacing_mm: Sequence[float], spatial_dims: int
) -> list[Augmentation]:
    """What the patches of an arm go through, in this order."""
    found: list[Augmentation] = []
    if arm.classical:
        found.append(ClassicalStack(ClassicalPlan(**_plain(config.classical)), patch, spacing_mm, spatial_dims))
    if arm.augmentations:
        plan = SinglePlan(**_plain(config.augmentations))
        found.append(SingleAugmentations(arm.augmentations, plan, patch, spacing_mm, spatial_dims))
    return found


def _plain(section: Any) -> dict[str, Any]:
    """A section as keyword arguments, lists as tuples."""
    values = dataclasses.asdict(section)
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
