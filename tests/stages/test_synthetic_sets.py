"""Sets of synthetic volumes beside the default one: kept apart, and trained on by the arms that name them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_folders import TINY, write_volumes

from diffboost3d.cases.workspace import Workspace
from diffboost3d.cli import main
from diffboost3d.config import compose
from diffboost3d.errors import DataError
from diffboost3d.segmentation.batches import TrainingCase
from diffboost3d.stages import train

SETS = (
    "arms=[pix2pix,only,warped_too]",
    "+arm.only={merge: instead, synthetic_set: pix2pix, classical: true}",
    "+arm.warped_too={merge: instead, synthetic_set: warped}",
    "+synthesize.sets.warped={generator: pix2pix, anatomy: {same: 0, warped: 1}}",
    "train.steps=2",
    "train.batch=1",
    "pix2pix.channels=4",
    "pix2pix.training.steps=2",
    "pix2pix.training.batch=1",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    words = [
        f"data.root={write_volumes(folder / 'data', 4)}",
        f"workspace={folder / 'ws'}",
        *TINY,
        *SETS,
        "data.folds=2",
    ]
    for stage in ("prepare", "train-pix2pix", "synthesize", "train"):
        assert main([stage, *words]) == 0
    return Workspace(folder / "ws"), words


def records(workspace):
    return [json.loads(path.read_text()) for path in sorted(workspace.synthetic(0).glob("*/[0-9][0-9].json"))]


@pytest.mark.slow
def test_each_set_has_a_folder_of_its_own_and_says_what_made_it(made):
    workspace, _ = made
    assert records(workspace) == []  # no arm uses the default set
    same, warped = (records(workspace.of_set(name)) for name in ("pix2pix", "warped"))
    assert len(same) == len(warped) == len(workspace.read_split(0).training)
    for record in [*same, *warped]:
        assert (record["sampler"], record["noise"], record["look"]) == ("pix2pix", "dropout", "")
        assert record["model"] == workspace.require(workspace.pix2pix(0), "train-pix2pix")["digest"]
    assert not any(record["label"] for record in same)
    assert any(record["label"] for record in warped)
    assert {record["seed"] for record in same} == {record["seed"] for record in warped}


@pytest.mark.slow
def test_the_arms_train_on_the_sets_that_they_name(made):
    workspace, words = made
    for arm in ("pix2pix", "only", "warped_too"):
        assert workspace.require(workspace.segmenter(0, arm, 0), "train")["steps"] == 2
    log = (workspace.root / "log.txt").read_text()
    for stage in ("train-pix2pix", "synthesize", "train"):
        assert main([stage, *words]) == 0
    again = (workspace.root / "log.txt").read_text()[len(log) :]
    assert again.count("done already") == 1 + 2 + 3
    assert "made anew" not in again


@pytest.mark.slow
def test_the_generator_of_a_set_is_asked_for_the_edges_that_it_learned(made, capsys):
    _, words = made
    assert main(["synthesize", *words, "diffusion.denoiser.neighbours=0", "synthesize.strength=0.3"]) == 2
    assert "denoiser.neighbours=1, not 0" in capsys.readouterr().err


def test_without_real_ones_cases_are_the_synthetic_ones_with_their_labels():
    image, label = np.zeros((2, 2, 2), np.float32), np.ones((2, 2, 2), np.uint8)
    cases = [
        TrainingCase(image, label, (image + 1, image + 2), (None, label + 1)),
        TrainingCase(image - 1, label, (), ()),
    ]
    alone = train._without_real(cases, "title")
    assert [float(case.image.max()) for case in alone] == [1.0, 2.0]
    assert [int(case.label.max()) for case in alone] == [1, 2]
    assert all(case.synthetic == () for case in alone)
    with pytest.raises(DataError, match="accepted no synthetic volume"):
        train._without_real(cases[1:], "title")


def test_settings_of_other_sets_change_no_volume_of_the_default_set():
    from diffboost3d.stages.inputs import sampling_settings

    plain = compose([]).synthesize
    more = compose(["+synthesize.sets.mine={strength: 0.9}", "synthesize.samples=9"]).synthesize
    assert sampling_settings(plain) == sampling_settings(more)
    assert "generator" not in sampling_settings(plain)  # so that volumes of earlier versions stay current
