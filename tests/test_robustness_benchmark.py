"""`benchmarks/robustness.py`: shifts that are keyed and graded; gains of known size; its command."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_folders import write_volumes

from diffboost3d.cases.atomic import write_json
from diffboost3d.cases.study import Study
from diffboost3d.cases.workspace import Workspace
from diffboost3d.cli import main
from diffboost3d.config import compose
from diffboost3d.stages.inputs import prepared

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import robustness

WHOLE = {
    "sizes": [10],
    "seeds": [0, 1],
    "arms": "classical,diffboost_classical",
    "validation": 4,
    "cases": None,
    "name": None,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """{(shift, strength): prepared image of the first case} of a tiny folder, what makes one, and the image unchanged."""
    root = tmp_path_factory.mktemp("robustness")
    words = [f"data.root={write_volumes(root / 'data', 3)}", f"workspace={root / 'ws'}"]
    assert main(["prepare", *words]) == 0
    config, workspace = compose(words), Workspace(root / "ws")
    manifest = workspace.read_manifest()
    case = manifest.cases[0]

    def one(shift, strength):
        return robustness.shifted(config, workspace, manifest, case, shift, strength)

    found = {
        (shift, strength): one(shift, strength) for shift in robustness.SHIFTS for strength in robustness.STRENGTHS
    }
    plain = one("noise", 0)
    assert np.allclose(plain, prepared(workspace, case, "image"), atol=1e-3)
    return found, one, plain


def far(first, second):
    return float(np.abs(first - second).mean())


@pytest.mark.parametrize("shift", [name for name in robustness.SHIFTS if name != "inverted_contrast"])
def test_a_stronger_shift_is_further_from_the_image_and_the_same_draw_comes_again(made, shift):
    found, one, plain = made
    distances = [far(found[shift, strength], plain) for strength in robustness.STRENGTHS]
    assert 0.001 < distances[0] < distances[1] < distances[2], distances
    assert np.array_equal(one(shift, 2), found[shift, 2])


def test_inverted_contrast_is_undone_by_scaling_at_first_and_the_same_negative_afterwards(made):
    found, _, plain = made
    first, second, third = (found["inverted_contrast", strength] for strength in robustness.STRENGTHS)
    assert far(first, plain) < 0.01
    assert far(second, third) < 0.01
    assert np.corrcoef(third.ravel(), plain.ravel())[0, 1] < -0.95


@pytest.mark.parametrize(("shift", "strength"), [("unchanged", 0), ("noise", 1)])
def test_a_segmenter_is_scored_once_under_a_shift_and_on_unchanged_images(tmp_path, monkeypatch, shift, strength):
    words = [
        f"data.root={write_volumes(tmp_path / 'data', 6)}",
        f"workspace={tmp_path / 'study' / 'n003'}",
        "data.folds=3",
    ]
    assert main(["prepare", *words]) == 0
    config, workspace = compose(words), Workspace(tmp_path / "study" / "n003")
    write_json(workspace.segmenter(0, "none", 0) / "record.json", {"digest": "trained"})
    monkeypatch.setattr(robustness, "load_segmenter", lambda *_: (None, (4, 4, 4)))

    def nothing_seen(_, image, *__):
        return np.stack([np.ones_like(image), *(np.zeros_like(image) for _ in "ab")])

    monkeypatch.setattr(robustness, "probabilities", nothing_seen)

    def scores():
        images = robustness.Shifted(config, workspace, workspace.read_manifest(), shift, strength)
        return robustness.cell_scores(config, Study(tmp_path / "study"), workspace, (0, "none", 0), images, 1)

    first = scores()
    assert [set(labels.values()) for labels in first.values()] == [{0.0}]
    monkeypatch.setattr(robustness, "load_segmenter", None)  # would fail
    assert scores() == first


def test_a_planted_gain_on_one_shift_comes_out_as_its_mean_over_shifts():
    random, table = np.random.default_rng(0), {}
    for shift, gain in (("noise", 0.04), ("gamma", 0.0)):
        for strength in robustness.STRENGTHS:
            for seed in (0, 1, 2):
                base = {f"c{case}": 0.7 + random.normal(0, 0.05) for case in range(20)}
                for arm, more in (("classical", 0.0), ("diffboost_classical", gain)):
                    table[shift, strength, arm, seed] = {
                        case: {"a": value + more, "b": value + more} for case, value in base.items()
                    }
    pairs, patients = [("diffboost_classical", "classical")], {f"c{case}": f"p{case}" for case in range(20)}
    mean, low, high = robustness.gains_of(table, pairs, ["noise", "gamma"], patients)["diffboost_classical-classical"]
    assert mean == pytest.approx(0.02)
    assert low == pytest.approx(0.02)  # the same gain in every case and seed
    assert high == pytest.approx(0.02)
    alone = robustness.gains_of(table, pairs, ["gamma"], patients)["diffboost_classical-classical"]
    assert alone[0] == pytest.approx(0.0)


def test_every_arm_is_compared_with_none_where_it_is_there():
    assert robustness.pairs_of(["classical", "diffboost_classical"]) == [("diffboost_classical", "classical")]
    assert robustness.pairs_of(["none", "mirror", "diffboost", "cutmix"]) == [
        ("diffboost", "cutmix"),
        ("mirror", "none"),
        ("diffboost", "none"),
        ("cutmix", "none"),
    ]


def test_dice_of_two_empty_masks_is_one_and_of_halves_a_half():
    empty, left = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    left[:, :2] = True
    assert robustness.dice(empty, empty) == 1
    assert robustness.dice(left, empty) == 0
    assert robustness.dice(left, np.roll(left, 1, axis=1)) == pytest.approx(0.5)


def test_the_recorded_command_is_read_by_a_shell_as_it_was_given():
    override = "+compare.variants.longer=['train.steps=2000']"
    given = argparse.Namespace(
        set="hippocampus", size=10, variant="longer", shifts=["gamma"], overrides=["a b=c", override], **WHOLE
    )
    words = shlex.split(robustness.command_of(given))
    assert words[:2] == ["python", "benchmarks/robustness.py"]
    assert words[-2:] == ["a b=c", override]
    parsed = words[words.index("--seeds") + 1 : words.index("--arms")]
    assert parsed == ["0", "1"]
