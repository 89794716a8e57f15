"""`train` with a planned DynUNet on whole volumes, SGD and labels that are partly unknown; and what it leaves behind."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest
import torch
from tiny_folders import ODD_CASE, TINY, write_volumes

from diffboost3d.cases.exports import label_numbers, renumbering
from diffboost3d.cases.records import IGNORED
from diffboost3d.cases.workspace import Workspace
from diffboost3d.cli import main
from diffboost3d.config import compose
from diffboost3d.errors import ConfigError
from diffboost3d.segmentation.weights import load_segmenter
from diffboost3d.stages.inputs import arm_facts, merge_of
from diffboost3d.stages.segmenters import training_patch
from diffboost3d.stages.train import _merge_facts

WORDS = (
    *(word for word in TINY if not word.startswith("network.")),
    "network=dynunet",
    "+network.arguments.filters=[4,4,4,4,4]",
    "train=nnunet",
    "train.whole=true",
    "train.loss=generalized_dice_focal",
    "arms=[none]",
    "data.ignore_label=255",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workspace after prepare, train and evaluate. Of every file a corner is unknown, and looks like foreground."""
    folder = tmp_path_factory.mktemp("trained")
    root = write_volumes(folder / "data")
    for path in sorted((root / "labels").iterdir()):
        file = nib.load(path)
        label = np.asarray(file.dataobj)
        label[:4, :4] = 255
        nib.save(nib.Nifti1Image(label, file.affine, file.header), path)
    for stage in ("prepare", "train", "evaluate"):
        assert main([stage, f"data.root={root}", f"workspace={folder / 'ws'}", *WORDS]) == 0
    return Workspace(folder / "ws")


def test_unknown_voxels_are_prepared_as_such_and_are_no_label(trained):
    manifest = trained.read_manifest()
    assert manifest.labels == {"background": 0, "shell": 2, "core": 5}
    assert manifest.values == {0: 0, 1: 2, 2: 5, IGNORED: 255}
    assert manifest.label_count == 2
    for case in manifest.cases:
        label = np.asarray(nib.load(trained.prepared(case.id, "label")).dataobj)
        assert set(np.unique(label)) == {0, 1, 2, IGNORED}
        if case.id != ODD_CASE:
            assert (label[:4, :4] == IGNORED).all()


def test_they_are_exported_as_nnunets_ignore(trained):
    manifest = trained.read_manifest()
    assert label_numbers(manifest) == {"background": 0, "shell": 1, "core": 2, "ignore": 3}
    assert renumbering(manifest) == {0: 0, 2: 1, 5: 2, 255: 3}


def test_they_are_in_no_score(trained):
    assert {score.label for score in trained.read_scores()} == {"shell", "core"}


def test_best_and_last_weights_are_kept_with_how_the_network_is_built(trained):
    folder = trained.segmenter(0, "none", 0)
    record = json.loads((folder / "record.json").read_text())
    best, patch = load_segmenter(folder / "model.safetensors", torch.device("cpu"))
    last, _ = load_segmenter(folder / "last.safetensors", torch.device("cpu"))
    assert patch == tuple(record["patch"]) == (16, 18, 8)  # whole volumes
    assert record["spacing_mm"] == pytest.approx([1.2, 1.0, 2.5])
    assert record["network"] == "dynunet"
    assert 0 <= record["data_wait_share"] <= 1
    same = all(torch.equal(a, b) for a, b in zip(best.parameters(), last.parameters(), strict=True))
    assert same == (record["best_step"] == record["steps"])


def test_settings_and_waiting_are_in_tensorboard(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    seen = EventAccumulator(str(trained.segmenter(0, "none", 0) / "tensorboard")).Reload()
    assert {"time/data_wait_share", "train/learning_rate", "validation/dice_core"} <= set(seen.Tags()["scalars"])
    content = seen.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    for word in (b"optimizer", b"sgd", b"generalized_dice_focal", b"dynunet"):
        assert word in content


def test_a_patch_covers_the_largest_side_of_all_where_volumes_are_whole():
    config = compose(["train.whole=true"])
    assert training_patch(config.train, config.network, [(5, 9, 1), (7, 3, 1)]) == (7, 9, 1)
    config = compose(["train.patch=[20,16,9]"])
    assert training_patch(config.train, config.network, [(50, 50, 50)]) == (24, 16, 16)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["network=monai", "network._target_=null"], "network.name=monai"),
        (["network._target_=monai.networks.nets.SegResNet"], "name=monai"),
        (["network=monai", "network._target_=os.system"], "nothing else is imported"),
        (["train.whole=true", "train.patch=[8,8,8]"], "train.whole=true"),
        (["train.loss=dice_c"], "dice_ce, dice, dice_focal"),
        (["train.loss_arguments.gamma=1"], "+train.loss_arguments.gamma=VALUE adds it"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(words, said):
    with pytest.raises(ConfigError) as refusal:
        compose(words)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_the_partner_is_a_fact_of_arms_that_have_one_alone():
    """Segmenters of versions without `merge.partner` stay what they were."""
    with_partner = {
        (arm, partner): "partner" in (_merge_facts(config, config.arm[arm]) or {})
        for partner in ("same", "any")
        for config in [
            compose(
                [
                    "arms=[none,synthetic_only,cutmix,diffboost,warp_only]",
                    f"merge.partner={partner}",
                    "synthesize.anatomy={same: 0.0, warped: 1.0}",
                ]
            )
        ]
        for arm in ("none", "synthetic_only", "cutmix", "diffboost", "warp_only")
    }
    assert {key for key, found in with_partner.items() if found} == {("diffboost", "any"), ("warp_only", "any")}


def test_an_arm_may_have_partners_of_its_own():
    """In one study: `diffboost` with any case, `diffboost_classical` with its own; each as if all did so."""
    arms = "arms=[diffboost,diffboost_classical]"
    mixed = compose([arms, "merge.partner=any", "arm.diffboost_classical.partner=same"])
    turned = compose([arms, "arm.diffboost.partner=any"])
    for config in (mixed, turned):
        found = {name: merge_of(config, config.arm[name]).partner for name in config.arms}
        assert found == {"diffboost": "any", "diffboost_classical": "same"}
    for name in mixed.arms:
        assert _merge_facts(mixed, mixed.arm[name]) == _merge_facts(turned, turned.arm[name])
        assert arm_facts(mixed.arm[name]) == arm_facts(turned.arm[name])
    # as it was before arms had partners, so that finished segmenters stay what they are
    before = {"merge": "synthetic", "synthetic_set": "default", "classical": False, "augmentations": []}
    assert arm_facts(mixed.arm["diffboost"]) == before


def test_partners_of_an_arm_without_synthetic_volumes_are_refused():
    with pytest.raises(ConfigError, match=r"arm\.cutmix\.partner=any is refused with arm\.cutmix\.merge=real"):
        compose(["arm.cutmix.partner=any"])
