"""`compare` with a generator, killed at chosen files and at random moments: it ends in the same scores."""

from __future__ import annotations

import os
import random

import pytest
from killing import STUDY, exit_codes, whole_and_killed
from tiny_folders import write_volumes

from diffboost3d.cases.study import Study, read_study_scores

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes, which this system doesn't have"),
]
GENERATED = (*STUDY, "arms=[none,diffboost]", "compare.sizes=[2]")
KILLS = [
    (r"pretrained/fold0/checkpoint/state\.safetensors$", 2),
    (r"diffusion/fold0/checkpoint/state\.safetensors$", 1),
    (r"synthetic/fold0/[^/]+/00\.json$", 2),
    (r"segmentation/fold0/diffboost/seed0/checkpoint/state\.safetensors$", 1),
    (r"study\.json$", 1),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_volumes(tmp_path_factory.mktemp("killed") / "data", 9)


def test_a_study_with_a_generator_killed_five_times_ends_in_the_same_scores(data, tmp_path):
    whole, killed = whole_and_killed(data, tmp_path, GENERATED, KILLS)
    assert (whole / "scores.csv").read_bytes() == (killed / "scores.csv").read_bytes()
    assert {one.arm for one in read_study_scores(Study(whole).scores_path)} == {"none", "diffboost"}
    made = [sorted((one / "n002" / "synthetic").rglob("*.nii.gz")) for one in (whole, killed)]
    assert [path.read_bytes() for path in made[0]] == [path.read_bytes() for path in made[1]] != []


def test_a_study_killed_at_random_moments_ends_in_the_same_scores(data, tmp_path):
    shares = [random.Random(number).uniform(0.02, 0.16) for number in range(5)]  # the clock makes other moments of them

    def words(name):
        return ["compare", f"data.root={data}", f"workspace={tmp_path / name}", *GENERATED]

    steps = [{"arguments": words("whole")}, *({"arguments": words("killed"), "share": share} for share in shares)]
    codes = exit_codes([*steps, {"arguments": words("killed")}])
    assert codes[0] == codes[-1] == 0
    assert codes[1:-1] == [-9] * 5
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert (whole / "scores.csv").read_bytes() == (killed / "scores.csv").read_bytes()
