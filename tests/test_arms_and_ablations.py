"""Arms and ablations are configuration: each composes, is valid, and changes just what its name says."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from diffboost3d.config import compose, configs_folder, to_plain
from diffboost3d.errors import ConfigError
from diffboost3d.stages.run import _unused
from diffboost3d.synthetic_sets import of_set, synthetic_sets

FOLDER = configs_folder() / "ablation"
ABLATIONS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yaml"))}
ARMS = sorted(path.stem for path in (configs_folder() / "arm").glob("*.yaml"))


def leaves(value, prefix=""):
    """Key -> value of nested dictionaries."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {path: leaf for key, inner in value.items() for path, leaf in leaves(inner, f"{prefix}.{key}").items()}


def together():
    """Lists of ablations that set different keys, so that a few compositions try them all."""
    groups = []
    for name, content in ABLATIONS.items():
        keys = {"network"} if "defaults" in content else set(leaves(content))
        fitting = next((group for group in groups if not keys & group[1]), None)
        if fitting is None:
            groups.append(fitting := ([], set()))
        fitting[0].append(name)
        fitting[1].update(keys)
    return [names for names, _ in groups]


@pytest.mark.parametrize("names", together(), ids=lambda names: names[0])
def test_ablations_compose_and_set_what_they_say(names):
    made = leaves(to_plain(compose([f"+ablation=[{','.join(names)}]"])))
    for name in names:
        wanted = {} if "defaults" in ABLATIONS[name] else leaves(ABLATIONS[name])
        assert all(made[path] == value for path, value in wanted.items()), name


def test_an_ablation_changes_one_section():
    assert all(len(content) == 1 for content in ABLATIONS.values())


def test_ablations_go_together_and_the_command_line_goes_before_them():
    made = compose(["+ablation=[alpha_025,cell_32,network_unetr]", "preset=quick", "merge.alpha=0.3"])
    assert (made.merge.alpha, made.merge.cell, made.network.name, made.train.steps) == (0.3, [32], "unetr", 800)


@pytest.mark.parametrize(
    "start",
    [
        "samples",
        "alpha",
        "cell",
        "merge_at",
        "edges_without_label",
        "strength",
        "noise",
        "gate_off",
        "network",
        "cases",
    ],
)
def test_every_ablation_of_the_paper_is_there(start):
    assert any(name.startswith(start) for name in ABLATIONS)


def test_every_arm_file_is_an_arm_that_a_study_may_choose():
    anatomy = [
        "synthesize.anatomy.same=0",
        "synthesize.anatomy.warped=1",
    ]  # without it warp_only has nothing to merge with
    assert set(ARMS) <= set(compose([f"arms=[{','.join(ARMS)}]", *anatomy]).arm)


# --- sets of synthetic volumes ---------------------------------------------------------------------------------------
def test_a_set_differs_from_the_section_in_what_it_names_only():
    made = compose(["synthesize.samples=7", "synthesize.strength=0.8"])
    anatomy, plain = of_set(made, "anatomy").synthesize, of_set(made, "default").synthesize
    assert (anatomy.samples, anatomy.strength, anatomy.anatomy.same, plain.anatomy.same) == (7, 0.8, 0.0, 1.0)
    assert dataclasses.replace(anatomy, anatomy=plain.anatomy, sets=plain.sets) == plain
    assert of_set(made, "pix2pix").synthesize.generator == "pix2pix"


def test_arms_say_which_sets_are_made():
    assert synthetic_sets(compose(["arms=[none,classical,cutmix]"])) == []
    arms = "arms=[none,diffboost,diffboost_anatomy,pix2pix_classical,synthetic_only]"
    assert synthetic_sets(compose([arms])) == ["default", "anatomy", "pix2pix"]


def test_stages_that_nothing_reads_are_left_out():
    diffusion = {"pretrain", "train-refiner", "finetune"}
    assert {*diffusion, "train-pix2pix", "synthesize"} <= _unused(compose(["arms=[none,cutmix]"]))
    assert _unused(compose(["arms=[none,pix2pix]"])) == {*diffusion, "train-codec"}
    assert _unused(compose(["arms=[diffboost]"])) == {"train-pix2pix", "train-codec"}
    assert _unused(compose(["arms=[synthetic_only,pix2pix]"])) == {"train-codec"}
    assert _unused(compose(["arms=[diffboost]", "synthesize.refine=0"])) == {
        "train-pix2pix",
        "train-codec",
        "train-refiner",
    }


def test_a_set_of_ones_own():
    made = compose(
        [
            "+synthesize.sets.strong={strength: 0.9}",
            "+arm.mine={merge: synthetic, synthetic_set: strong}",
            "arms=[mine]",
        ]
    )
    assert of_set(made, "strong").synthesize.strength == 0.9


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["+synthesize.sets.mine={strenght: 0.9}"], ["synthesize.sets.mine", "strenght"]),
        (["+synthesize.sets.mine={strength: 1.5}"], ["synthesize.sets.mine", "strength=1.5", "from 0.01 to 1"]),
        (["+synthesize.sets.mine={strength: much}"], ["synthesize.sets.mine", "much"]),
        (["+synthesize.sets.default={strength: 0.9}"], ["'default' is refused"]),
        (["+synthesize.sets.fold0={strength: 0.9}"], ["'fold0' is refused"]),
        (["arm.diffboost.synthetic_set=other"], ["synthetic_set=other", "default, anatomy, pix2pix"]),
        (["arm.contrast.augmentations=[sharpen]"], ["arm.contrast.augmentations=sharpen", "contrast, gamma"]),
        (["classical.gamma=[1.5,0.7]"], ["classical.gamma", "the first must be below the second"]),
        (["augmentations.scale=[1.1,0.9]"], ["augmentations.scale", "the first must be below the second"]),
    ],
)
def test_what_cant_be_is_refused_in_a_line(overrides, words):
    with pytest.raises(ConfigError) as refused:
        compose(overrides)
    assert "\n" not in str(refused.value)
    assert all(word in str(refused.value) for word in words), str(refused.value)
