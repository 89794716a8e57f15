"""Picture folders: near-duplicates stay together, classes keep their shares, pixels have a size, masks are joined."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter
from tiny_folders import TINY

from diffboost3d.cases.workspace import Workspace
from diffboost3d.cli import main
from diffboost3d.config import compose
from diffboost3d.stages.inputs import source_label

WORDS = ("data=breast_us", "prepare.workers=1")


def write_classes(root: Path, colour: bool = False) -> Path:
    """Twelve pictures of 28 x 24 pixels in three classes; malignant (1) is benign (1) again, benign (2) has two masks."""
    for row, name in enumerate(("benign", "malignant", "normal")):
        (root / name).mkdir(parents=True)
        for number in range(1, 5):
            random = np.random.default_rng(0 if number == 1 and name != "normal" else 10 * row + number)
            grey = 60 + 25 * gaussian_filter(random.normal(size=(24, 28)), 1.2) * 4
            mask = np.zeros((24, 28), np.uint8)
            if name != "normal":
                mask[6:14, 5 + number : 15 + number] = 255
                grey = grey + 0.3 * mask
            pixels = np.clip(grey, 0, 255).astype(np.uint8)
            stem = root / name / f"{name} ({number})"
            stored = np.stack([pixels] * 3, axis=-1)
            if colour and number == 2:
                stored[:3, :3] = (220, 20, 20)
            Image.fromarray(stored).save(f"{stem}.png")
            Image.fromarray(mask).save(f"{stem}_mask.png")
            if (name, number) == ("benign", 2):
                more = np.zeros_like(mask)
                more[18:22, 3:9] = 255
                Image.fromarray(more).save(f"{stem}_mask_1.png")
    return root


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of such a folder, prepared, for looking only."""
    place = tmp_path_factory.mktemp("classes")
    write_classes(place / "data", colour=True)
    words = [*WORDS, f"data.root={place / 'data'}", f"workspace={place / 'ws'}", "data.pixel_spacing_mm=[0.2,0.1]"]
    assert main(["prepare", *words]) == 0
    return place / "ws"


def test_near_duplicates_are_one_patient_and_are_listed(ready: Path) -> None:
    manifest = Workspace(ready).read_manifest()
    patients = {case.id: case.patient for case in manifest.cases}
    assert patients["benign (1)"] == patients["malignant (1)"]
    assert len(set(patients.values())) == 11
    (group,) = json.loads((ready / "duplicates.json").read_text())["groups"]
    assert group["cases"] == ["benign (1)", "malignant (1)"]
    assert group["strata"] == {"benign": 1, "malignant": 1}


def test_every_fold_tests_every_class(ready: Path) -> None:
    strata = {case.id: case.stratum for case in Workspace(ready).read_manifest().cases}
    for split in Workspace(ready).read_splits():
        assert {strata[name] for name in split.test} == {"benign", "malignant", "normal"}


def test_pixels_have_the_size_that_is_given(ready: Path) -> None:
    manifest = Workspace(ready).read_manifest()
    assert manifest.physical
    for case in manifest.cases:
        assert case.source_grid.spacing_mm == case.grid.spacing_mm == pytest.approx((0.2, 0.1, 1.0))


def test_another_size_of_the_pixels_makes_the_edges_anew(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "data")
    for spacing, workspace in ((0.5, "once"), (1.0, "once"), (1.0, "fresh")):
        words = [f"data.root={root}", f"workspace={tmp_path / workspace}", f"data.pixel_spacing_mm=[{spacing}]"]
        assert main(["prepare", *WORDS, *words, "prepare.spacing_mm=[1,1,1]"]) == 0
    once, fresh = (tmp_path / name / "prepared" / "benign (2)" / "edge.nii.gz" for name in ("once", "fresh"))
    assert once.read_bytes() == fresh.read_bytes()


def test_pictures_are_brought_to_a_spacing_only_where_it_is_given(tmp_path: Path) -> None:
    root = write_classes(tmp_path / "data")
    where = [f"data.root={root}", f"workspace={tmp_path / 'ws'}"]
    for spacing, shape, step in (("null", (28, 24, 1), 1.0), ("[2,2,1]", (14, 12, 1), 2.0)):
        assert main(["prepare", *WORDS, *where, f"prepare.spacing_mm={spacing}"]) == 0
        workspace = Workspace(tmp_path / "ws")
        case = workspace.read_manifest().case("benign (2)")
        assert case.source_grid.shape == (28, 24, 1)
        assert case.grid.shape == shape
        assert case.grid.spacing_mm == pytest.approx((step, step, 1.0))
        for kind in ("image", "edge", "label"):
            assert nib.load(workspace.prepared(case.id, kind)).shape == shape


def test_a_label_is_its_masks_joined_and_an_empty_one_is_a_label(ready: Path) -> None:
    workspace = Workspace(ready)
    manifest = workspace.read_manifest()
    label = source_label(workspace, manifest, manifest.case("benign (2)"))
    assert np.unique(label).tolist() == [0, 255]
    assert int((label > 0).sum()) == 8 * 10 + 4 * 6
    normal = manifest.case("normal (3)")
    assert normal.label is not None
    assert not source_label(workspace, manifest, normal).any()


def test_colours_are_told_and_the_picture_is_used(ready: Path) -> None:
    findings = json.loads((ready / "findings.json").read_text())
    assert {(one["case"], one["outcome"]) for one in findings} == {
        (f"{name} (2)", "the case is used") for name in ("benign", "malignant", "normal")
    }
    assert "1.34 % of its pixels are coloured" in findings[0]["problem"]


def test_colours_are_refused_where_that_is_asked_for(tmp_path: Path) -> None:
    write_classes(tmp_path / "data", colour=True)
    words = [*WORDS, f"data.root={tmp_path / 'data'}", f"workspace={tmp_path / 'ws'}", "prepare.colour=refuse"]
    assert main(["prepare", *words, "data.near_duplicates=none"]) == 0
    assert len(Workspace(tmp_path / "ws").read_manifest().cases) == 9
    assert not (tmp_path / "ws" / "duplicates.json").exists()


def test_the_data_set_config_leaves_what_presets_and_words_set() -> None:
    assert compose(["data=breast_us", "preset=paper"]).merge.cell == [64]
    assert compose(["data=breast_us", "train.max_patch=64"]).train.max_patch == 64
    assert compose(["data=breast_us"]).data.labels == {"background": 0, "lesion": 255}


@pytest.mark.slow
def test_the_whole_way_ends_with_scores_in_mm_and_pictures(tmp_path: Path) -> None:
    write_classes(tmp_path / "data")
    words = [*WORDS, *TINY, f"data.root={tmp_path / 'data'}", f"workspace={tmp_path / 'ws'}"]
    half = ["data.pixel_spacing_mm=[0.1]", "prepare.spacing_mm=[0.2,0.2,1]"]
    assert main(["run", *words, *half, "data.labelled=4", "arms=[none,diffboost]"]) == 0
    workspace = Workspace(tmp_path / "ws")
    assert {score.unit for score in workspace.read_scores() if score.metric == "hd95"} == {"mm"}
    assert all(np.isfinite(score.value) for score in workspace.read_scores())
    made = sorted((tmp_path / "ws").rglob("synthetic/**/00.png"))
    assert len(made) == 4
    assert all(Image.open(path).size == (28, 24) for path in made)  # that of the files, not that of the networks
    assert workspace.report_path.is_file()
