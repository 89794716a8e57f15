"""The section `merge` becomes a plan: a range goes before one alpha, and labels are kept by their names."""

from __future__ import annotations

import pytest

from diffboost3d.augmentation.cuboids import CuboidPlan
from diffboost3d.cases.records import Manifest
from diffboost3d.errors import ConfigError
from diffboost3d.schema import MergeConfig
from diffboost3d.stages.inputs import merge_plan

LABELS = {"background": 0, "shell": 2, "core": 5}  # in files; 0, 1, 2 in prepared arrays


def plan(source="synthetic", **settings):
    manifest = Manifest("toy", "MRI", "toy, MRI", LABELS, "data", 3, True, "none", ())
    return merge_plan(MergeConfig(**settings), source, manifest)


def test_the_default_is_alpha_of_the_paper_with_hard_borders_everywhere():
    made = plan()
    assert made.cuboids == CuboidPlan(0.6, (16,))
    assert (made.source, made.at, made.mask_foreground, made.probability) == ("synthetic", "image", False, 1.0)


def test_a_range_goes_before_one_alpha():
    assert plan(alpha=0.5).cuboids.alpha == 0.5
    assert plan(alpha=0.5, alpha_range=[0.2, 0.8]).cuboids.alpha == (0.2, 0.8)


def test_sizes_in_mm_are_handed_on_and_predictions_have_hard_borders():
    made = plan(cell_mm=12, feather_mm=1.5)
    assert made.cuboids.draw((9, 9, 9), (1.0, 2.0, 3.0)).cell == (12, 6, 4)
    assert made.cuboids.sigma((1.0, 2.0, 3.0)) == (1.5, 0.75, 0.5)
    assert plan(at="prediction", feather=2.0).cuboids.sigma((1.0, 2.0, 3.0)) == (0.0, 0.0, 0.0)


def test_labels_are_kept_by_name_at_their_value_in_prepared_arrays():
    assert plan(mask_foreground=True).mask_foreground is True
    assert plan(mask_foreground=True, mask_foreground_labels=["core"]).mask_foreground == (2,)
    assert plan(mask_foreground=True, mask_foreground_labels=["core", "shell"]).mask_foreground == (2, 1)


def test_an_unknown_label_is_refused_with_those_there_are():
    with pytest.raises(
        ConfigError, match=r"merge\.mask_foreground_labels: 'rim' is no label of toy; allowed: shell, core"
    ):
        plan(mask_foreground=True, mask_foreground_labels=["rim"])
