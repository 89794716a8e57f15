"""New anatomy on its way through the stages: own labels, the control arm, the same bytes every time, and no unseen case."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tiny_folders import LABELS, TINY, write_pictures, write_volumes

from diffboost3d import Workspace
from diffboost3d.augmentation.warping import warp_image, warp_label
from diffboost3d.cli import main
from diffboost3d.config import compose
from diffboost3d.errors import ConfigError
from diffboost3d.segmentation.batches import MergePlan, PatchDataset, TrainingCase
from diffboost3d.stages.anatomies import Anatomies, in_anatomy
from diffboost3d.stages.blueprints import blueprint_of
from diffboost3d.stages.inputs import label_again, prepared

FAST = ("synthesize.anatomy.registration_iterations=[2,1,1]", "synthesize.anatomy.rigid_iterations=3")


def shares(**given):
    chosen = {"same": 0, "warped": 0, "registered": 0, "between": 0} | given
    return [f"synthesize.anatomy.{name}={share}" for name, share in chosen.items()]


def place(folder, *words, write=write_volumes):
    """A prepared workspace: its configuration, itself, its manifest."""
    if not (folder / "data").exists():
        write(folder / "data")
    given = [*TINY, f"data.root={folder / 'data'}", f"workspace={folder / 'ws'}", *FAST, *words]
    assert main(["prepare", *given]) == 0
    workspace = Workspace(folder / "ws")
    return compose(given), workspace, workspace.read_manifest(), given


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Prepared once, with validation and test cases out of reach; tests choose their shares."""
    made = tmp_path_factory.mktemp("anatomies")
    _, workspace, manifest, _ = place(made, "data.labelled=3")
    split = workspace.read_split(0)
    assert split.validation
    assert split.test
    for unseen in (*split.validation, *split.test):
        case = manifest.case(unseen)
        shutil.rmtree(workspace.prepared_folder / unseen)
        for path in (case.image, case.label):
            workspace.source(manifest, path).write_bytes(b"unreadable")
    return made


def anatomies_of(folder, *words):
    given = [*TINY, f"data.root={folder / 'data'}", f"workspace={folder / 'ws'}", *FAST, "data.labelled=3", *words]
    config, workspace = compose(given), Workspace(folder / "ws")
    manifest, split = workspace.read_manifest(), workspace.read_split(0)
    return Anatomies(config, workspace, manifest, split, 0), manifest, split, workspace, config


def test_each_source_names_where_its_shapes_come_from_and_takes_training_cases_only(folder):
    patterns = {
        "warped": "warped",
        "registered": r"registered to (\w+), share",
        "between": r"between \w+ and (\w+), share",
    }
    loose = ["synthesize.anatomy.jacobian_floor=0", "synthesize.anatomy.volume_factors=[0.01,100]"]
    for source, pattern in patterns.items():
        made, manifest, split, *_ = anatomies_of(folder, *shares(**{source: 1}), *loose)
        assert split.unlabelled
        allowed = {"registered": split.unlabelled, "between": split.training}.get(source, ())
        for identifier in split.training:
            drawn = made.of(manifest.case(identifier), 0)
            found = re.match(pattern, drawn.text)
            assert found or drawn.text.startswith("same: ")
            if found and source != "warped":
                assert found.group(1) in set(allowed) - {identifier}


def test_the_same_seed_gives_the_same_bytes_and_another_sample_others(folder):
    made, manifest, split, workspace, _ = anatomies_of(folder, *shares(warped=0.5, between=0.5))
    case = manifest.case(split.training[0])
    path = workspace.anatomy(0, case.id, 1)
    first, other = made.of(case, 1), made.of(case, 2)
    before = path.read_bytes()
    path.unlink()
    again = made.of(case, 1)
    assert path.read_bytes() == before
    assert again.text == first.text
    if first.warp is not None and other.warp is not None:
        assert first.warp.displacement.shape != other.warp.displacement.shape or np.any(
            first.warp.displacement != other.warp.displacement
        )


def test_what_decides_an_anatomy_is_in_its_digest(folder):
    made, manifest, split, *_ = anatomies_of(folder, *shares(warped=1))
    turned, *_ = anatomies_of(folder, *shares(warped=1), "synthesize.anatomy.rotation_degrees=3")
    case = manifest.case(split.training[0])
    assert made.digest(case, 0) == made.digest(case, 0)
    assert len({made.digest(case, 0), made.digest(case, 1), turned.digest(case, 0)}) == 3
    assert anatomies_of(folder, *shares(same=1))[0].digest(case, 0) == "same"


def test_anatomy_that_keeps_no_limit_falls_back_and_says_so(folder, capsys):
    words = [*shares(warped=1), "synthesize.anatomy.volume_factors=[2.9,3.0]", "synthesize.anatomy.redraws=1"]
    made, manifest, split, *_ = anatomies_of(folder, *words)
    drawn = made.of(manifest.case(split.training[0]), 0)
    assert drawn.warp is None
    assert re.match(r"same: 2 draws of warped were refused, the last as label 1 would have .* its volume", drawn.text)
    assert "keeps its anatomy" in capsys.readouterr().out


def test_a_blueprint_moves_image_edges_and_label_alike(folder):
    made, manifest, split, workspace, config = anatomies_of(folder, *shares(warped=1))
    case = manifest.case(split.training[0])
    record = type("Record", (), {"case": case.id, "sample": 0})
    blueprint = blueprint_of(config, workspace, manifest, made, record)
    warp = made.of(case, 0).warp
    assert blueprint.has_own_label
    assert_array_equal(blueprint.image, warp_image(prepared(workspace, case, "image"), warp))
    assert_array_equal(blueprint.label, warp_label(prepared(workspace, case, "label"), warp))
    shifted = np.corrcoef(blueprint.edges.ravel(), warp_image(prepared(workspace, case, "edge"), warp).ravel())[0, 1]
    kept = np.corrcoef(blueprint.edges.ravel(), prepared(workspace, case, "edge").ravel())[0, 1]
    assert shifted > max(0.5, kept)
    assert_allclose(blueprint.edges.max(), 1)


@pytest.mark.parametrize("source", ["registered", "between"])
def test_a_case_alone_can_not_be_registered_or_mixed(folder, source):
    _, manifest, split, workspace, config = anatomies_of(folder, *shares(**{source: 1}))
    alone = dataclasses.replace(split, training=split.training[:1], unlabelled=())
    with pytest.raises(ConfigError, match=f"synthesize.anatomy.{source}=1.0 needs another training case"):
        Anatomies(config, workspace, manifest, alone, 0)


def test_without_unlabelled_images_cases_are_registered_to_other_labelled_ones(folder):
    _, manifest, split, workspace, config = anatomies_of(folder, *shares(registered=1))
    labelled = dataclasses.replace(split, unlabelled=())
    made = Anatomies(config, workspace, manifest, labelled, 0)
    assert made.digest(manifest.case(split.training[0]), 0) != Anatomies(config, workspace, manifest, split, 0).digest(
        manifest.case(split.training[0]), 0
    )
    config.synthesize.anatomy.jacobian_floor, config.synthesize.anatomy.volume_factors = 0.0, [0.01, 100.0]
    text = Anatomies(config, workspace, manifest, labelled, 0).of(manifest.case(split.training[0]), 0).text
    assert text.startswith("same: ") or text.split()[2].rstrip(",") in split.training[1:]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (shares(same=0.5), "they must sum to 1"),
        (["synthesize.anatomy.warped=0.2"], "same 1 + warped 0.2 + registered 0 + between 0 sum to 1.2"),
        (["arms=[none,warp_only]"], "warp_only merges with warped anatomy"),
        (["synthesize.anatomy.between_share=[0.8,0.2]"], "the first must be below the second"),
    ],
)
def test_shares_that_make_no_sense_are_refused(words, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        compose(words)


def test_a_label_of_a_synthetic_volume_is_merged_with_it():
    real, other = np.ones((8, 8, 8), np.uint8), np.full((8, 8, 8), 2, np.uint8)
    image = np.zeros((8, 8, 8), np.float32)
    case = TrainingCase(image, real, (image + 0.5, image + 0.9), (other, None))
    for at in ("image", "prediction"):
        plan = MergePlan("synthetic", 0.0, (4,), None, 0.0, at)
        for number in range(12):
            patch = PatchDataset([case], (8, 8, 8), (1, 1, 1), plan, None, 0.0, 0)[number]
            image_of, label_of = ("image", "label") if at == "image" else ("other", "other_label")
            value = float(patch[image_of].max())
            assert set(patch[label_of].unique().tolist()) == ({2} if value == pytest.approx(0.5) else {1})


@pytest.mark.slow
def test_the_whole_way_with_own_labels_and_without_a_generator(tmp_path):
    words = [*shares(same=0.2, warped=0.8), "synthesize.samples=2", "arms=[warp_only,diffboost]"]
    config, workspace, manifest, given = place(tmp_path, *words)
    split = workspace.read_split(0)
    assert [main([stage, *given]) for stage in ("pretrain", "finetune", "synthesize", "train")] == [0] * 4
    made = Anatomies(config, workspace, manifest, split, 0)
    owned = 0
    for identifier in split.training:
        case = manifest.case(identifier)
        for sample in range(2):
            record = json.loads(workspace.synthetic_record(0, identifier, sample).read_text())
            drawn = made.of(case, sample)
            assert record["anatomy"] == drawn.text
            label = workspace.synthetic_label(0, identifier, sample, ".nii.gz")
            assert record["label"] == (label.name if drawn.warp is not None else "")
            assert label.is_file() == (drawn.warp is not None)
            if drawn.warp is None:
                continue
            owned += 1
            written, real = nib.load(label), nib.load(workspace.source(manifest, case.image))
            assert_array_equal(written.affine, real.affine)
            assert set(np.unique(np.asarray(written.dataobj))) == set(LABELS.values())
            again = label_again(label, case, manifest.values)
            assert_array_equal(again, in_anatomy(workspace, case, drawn)[1])
    assert owned > 3
    before = {path: path.read_bytes() for path in workspace.synthetic(0).rglob("*.nii.gz")}
    gone = next(path for path in before if path.name.endswith("_label.nii.gz"))
    gone.unlink()
    assert main(["synthesize", *given]) == 0  # it is made again, and the rest is kept
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize("source", ["warped", "between"])
def test_pictures_get_new_anatomy_too(tmp_path, source):
    config, workspace, manifest, _ = place(tmp_path, *shares(**{source: 1}), write=write_pictures)
    split = workspace.read_split(0)
    made = Anatomies(config, workspace, manifest, split, 0)
    drawn = [made.of(manifest.case(identifier), 0) for identifier in split.training]
    moved = [one.warp for one in drawn if one.warp is not None]
    assert moved
    assert all(not warp.displacement[2].any() for warp in moved)
    image, label = in_anatomy(workspace, manifest.case(split.training[0]), drawn[0])
    assert image.shape == label.shape == (24, 20, 1)
