"""Volumes that a refiner goes over: trained where it is asked for, named in records, made again where it changes, not in 2D."""

from __future__ import annotations

import dataclasses
import json
import shutil

import nibabel as nib
import numpy as np
import pytest
from tiny_folders import TINY, write_pictures, write_volumes

from diffboost3d.cases.accepted import read_fold
from diffboost3d.cases.workspace import Workspace
from diffboost3d.cli import main
from diffboost3d.config import compose
from diffboost3d.errors import WorkspaceError
from diffboost3d.stages.inputs import sampling_settings
from diffboost3d.stages.refine_rule import with_refine
from diffboost3d.stages.run import needed_stages
from diffboost3d.synthetic_sets import of_set

REFINED = (
    "synthesize.refine=0.3",
    "synthesize.refine_steps=2",
    "refiner.channels=[4,8]",
    "refiner.blocks=1",
    "refiner.patch=8",
    "refiner.training.steps=3",
    "refiner.training.batch=1",
)
STAGES = ("prepare", "pretrain", "train-refiner", "finetune", "synthesize")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refined")
    words = [f"data.root={write_volumes(folder / 'data', 6)}", f"workspace={folder / 'ws'}", *TINY, *REFINED]
    for stage in STAGES:
        assert main([stage, *words]) == 0
    return Workspace(folder / "ws"), words


def copied(made, folder):
    """Data and workspace, with the words that lead there."""
    workspace, words = made
    root = shutil.copytree(workspace.root.parent, folder / "copy")
    return Workspace(root / "ws"), [f"data.root={root / 'data'}", f"workspace={root / 'ws'}", *words[2:]]


def volumes(workspace):
    return {path.parent.name: path for path in sorted(workspace.synthetic(0).glob("*/00.nii.gz"))}


def arrays(workspace):
    return {case: np.asarray(nib.load(path).dataobj) for case, path in volumes(workspace).items()}


def records(workspace):
    return [json.loads(path.read_text()) for path in sorted(workspace.synthetic(0).glob("*/00.json"))]


def test_run_trains_a_refiner_only_where_volumes_are_gone_over_by_one():
    assert "train-refiner" not in needed_stages(compose(["synthesize.refine=0"]))
    stages = needed_stages(compose(["synthesize.refine=0.2"]))
    assert stages.index("train-refiner") < stages.index("synthesize")
    assert "train-refiner" not in needed_stages(compose(["synthesize.refine=0.2", "arms=[none,classical]"]))
    assert "train-refiner" not in needed_stages(compose(["synthesize.refine=0.2", "arms=[pix2pix]"]))


def test_the_refiner_learns_from_the_training_side_alone(made):
    workspace, _ = made
    split, record = workspace.read_split(0), workspace.require(workspace.refiner(0), "train-refiner")
    assert set(record["training"]) == {*split.training, *split.unlabelled}
    assert record["steps"] == 3


def test_records_name_the_refiner_and_its_noise(made):
    workspace, _ = made
    digest = workspace.require(workspace.refiner(0), "train-refiner")["digest"]
    for record in records(workspace):
        assert (record["refiner"], record["refine"]) == (digest, 0.3)


def test_without_it_volumes_are_others_and_made_anew(made, tmp_path):
    before = arrays(made[0])
    copy, words = copied(made, tmp_path)
    assert main(["synthesize", *words, "synthesize.refine=0"]) == 0
    plain = arrays(copy)
    assert all(not np.allclose(before[case], plain[case]) for case in before)
    assert {(record["refiner"], record["refine"]) for record in records(copy)} == {("", 0.0)}
    assert main(["synthesize", *words]) == 0
    assert {case: one.tobytes() for case, one in arrays(copy).items()} == {
        case: one.tobytes() for case, one in before.items()
    }


def test_a_deleted_volume_comes_back_with_the_same_bytes(made):
    workspace, words = made
    path = next(iter(volumes(workspace).values()))
    before = path.read_bytes()
    path.unlink()
    assert main(["synthesize", *words]) == 0
    assert path.read_bytes() == before


def test_another_refiner_than_was_trained_is_refused_and_a_missing_one_named(made, tmp_path, capsys):
    _, words = made
    assert main(["synthesize", *words, "refiner.blocks=2"]) == 2
    assert "was trained with refiner.blocks=1, not 2" in capsys.readouterr().err
    copy, own = copied(made, tmp_path)
    shutil.rmtree(copy.refiner(0))
    assert main(["synthesize", *own]) == 1
    assert "run `diffboost3d train-refiner`" in capsys.readouterr().err


def test_volumes_of_a_refiner_that_is_no_more_do_not_leave(made, tmp_path):
    workspace, _ = made
    manifest = workspace.read_manifest()
    assert len(read_fold(workspace, manifest, 0).children) == len(records(workspace))
    copy, _ = copied(made, tmp_path)
    path = copy.refiner(0) / "record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "digest": "another"}))
    with pytest.raises(WorkspaceError, match="is stale"):
        read_fold(copy, manifest, 0)
    path.write_text(json.dumps({**record, "training": [*record["training"], copy.read_split(0).test[0]]}))
    with pytest.raises(WorkspaceError, match="now held out"):
        read_fold(copy, manifest, 0)


def test_a_plan_says_what_it_takes(made):
    workspace, words = made
    assert main(["plan", *words]) == 0
    stages = [cost["stage"] for cost in json.loads((workspace.root / "plan.json").read_text())["costs"]]
    assert "train-refiner" in stages


def test_more_noise_than_it_learns_and_uneven_patches_are_refused(capsys):
    for words, said in (
        (["synthesize.refine=0.8"], "synthesize.refine=0.8 is refused"),
        (["refiner.patch=10"], "refiner.patch=10 is refused"),
        (["refiner.sigma=[0.5,0.1]"], "refiner.sigma"),
    ):
        assert main(["synthesize", "data.root=nowhere", *words]) == 2
        assert said in capsys.readouterr().err


def test_pictures_have_no_third_axis(tmp_path, capsys):
    words = [f"data.root={write_pictures(tmp_path / 'data')}", f"workspace={tmp_path / 'ws'}", *TINY]
    assert main(["prepare", *words]) == 0
    capsys.readouterr()
    assert main(["train-refiner", *words, "synthesize.refine=0.3"]) == 2
    assert "synthesize.refine=0.3 is refused" in capsys.readouterr().err
    assert main(["train-refiner", *words, "synthesize.refine=null"]) == 0
    assert "none is needed" in capsys.readouterr().out
    assert not Workspace(tmp_path / "ws").refiner(0).exists()


@pytest.mark.parametrize(
    ("spacing", "asked", "refined"), [(1.0, None, 0.2), (3.0, None, 0.2), (5.0, None, 0.0), (5.0, 0.1, 0.1)]
)
def test_thick_slices_share_no_texture_and_are_refined_only_where_that_is_asked_for(made, spacing, asked, refined):
    manifest = made[0].read_manifest()
    case = manifest.cases[0]
    grid = dataclasses.replace(case.grid, affine=np.diag([1.0, 1.0, spacing, 1.0]).tolist())
    manifest = dataclasses.replace(manifest, cases=(dataclasses.replace(case, grid=grid),))
    config = compose([f"synthesize.refine={'null' if asked is None else asked}"])
    assert with_refine(config, manifest).synthesize.refine == refined


def test_every_set_has_a_number_and_the_gan_none(made):
    manifest = made[0].read_manifest()
    config = compose(
        [
            "+synthesize.sets.plain={refine: 0}",
            "+synthesize.sets.usual={refine: null}",
            "+synthesize.sets.gan={generator: pix2pix}",
        ]
    )
    known = with_refine(config, manifest)
    found = {name: of_set(known, name).synthesize.refine for name in ("default", "plain", "usual", "gan")}
    assert found == {"default": 0.2, "plain": 0.0, "usual": 0.2, "gan": 0.0}
    weak = with_refine(compose(["refiner.sigma=[0.01,0.15]"]), manifest)
    assert weak.synthesize.refine == 0.15  # as much as the refiner learns


def test_without_a_refiner_settings_are_those_of_volumes_made_before_there_were_any(made):
    manifest = made[0].read_manifest()
    keys = {"refine", "refine_steps"}
    assert not keys & set(sampling_settings(compose(["synthesize.refine=0"]).synthesize))
    gan = with_refine(compose(["synthesize.generator=pix2pix"]), manifest)
    assert not keys & set(sampling_settings(gan.synthesize))
    assert keys <= set(sampling_settings(compose(["synthesize.refine=0.1"]).synthesize))
