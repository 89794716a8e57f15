"""`prepare`: what stands in a workspace after it, that only what changed is made again, and that bytes repeat."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from diffboost3d.cases.records import Manifest
from diffboost3d.cases.workspace import Workspace
from diffboost3d.cli import main
from diffboost3d.config import compose
from diffboost3d.errors import ConfigError, DataError
from diffboost3d.stages import prepare as stage

FIRST = "scan_00"


composed = lru_cache(lambda *words: compose(words))  # composing takes longer than preparing these folders


def prepare(root: Path, workspace: Path, *words: str) -> Manifest:
    """Run the stage in an opened workspace and read its manifest."""
    config = composed(*words)
    place = Workspace(workspace)
    with place.opened():
        stage.run(replace(config, data=replace(config.data, root=str(root))), place)
    return place.read_manifest()


def prepared(workspace: Path, case: str, kind: str) -> np.ndarray:
    return np.asarray(nib.load(Workspace(workspace).prepared(case, kind)).dataobj)


def results(workspace: Path) -> dict[str, bytes]:
    """Every file but the log, the lock and the configuration (which holds the workspace's own name)."""
    skipped = ("log.txt", ".lock", "config")
    return {
        path.relative_to(workspace).as_posix(): path.read_bytes()
        for path in sorted(workspace.rglob("*"))
        if path.is_file() and path.relative_to(workspace).parts[0] not in skipped
    }


def times(workspace: Path) -> dict[str, int]:
    folder = workspace / "prepared"
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*.nii.gz")}


@pytest.fixture(scope="module")
def ready(msd_original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of `msd_original` as it is prepared by default, for looking only."""
    workspace = tmp_path_factory.mktemp("prepared") / "ws"
    prepare(msd_original, workspace)
    return workspace


# --- what is there afterwards ----------------------------------------------------------------------------------------
def test_cases_are_turned_to_ras_in_range_and_on_one_grid(ready: Path) -> None:
    manifest = Workspace(ready).read_manifest()
    assert len(manifest.cases) == 12
    for case in manifest.cases:
        image, label, edge = (prepared(ready, case.id, kind) for kind in ("image", "label", "edge"))
        assert image.shape == label.shape == edge.shape == case.grid.shape == (12, 10, 14)
        assert nib.aff2axcodes(case.grid.matrix) == ("R", "A", "S")
        assert case.grid.spacing_mm == pytest.approx((1.0, 2.0, 1.2))
        assert (image.min(), image.max()) == (-1, 1)
        assert edge.min() >= 0
        assert edge.max() <= 1


def test_labels_keep_their_place_in_the_world_and_their_values_come_back(ready: Path, msd_original: Path) -> None:
    manifest = Workspace(ready).read_manifest()
    assert manifest.labels == {"background": 0, "shell": 3, "core": 7}
    assert manifest.foreground == {"shell": 1, "core": 2}
    case = manifest.case(FIRST)
    source = nib.load(msd_original / case.label)
    moved = prepared(ready, FIRST, "label")
    for name, index in manifest.foreground.items():
        before = nib.affines.apply_affine(
            source.affine, np.argwhere(np.asarray(source.dataobj) == manifest.labels[name])
        )
        after = nib.affines.apply_affine(case.grid.matrix, np.argwhere(moved == index))
        assert np.allclose(sorted(map(tuple, before.round(3))), sorted(map(tuple, after.round(3))), atol=2e-3)


def test_a_target_spacing_is_kept_for_all_and_the_anatomy_stays_in_place(msd_folder: Path, tmp_path: Path) -> None:
    manifest = prepare(msd_folder, tmp_path / "ws", "prepare.spacing_mm=[1.5,1.5,1.5]")
    for case in manifest.cases:
        assert case.grid.spacing_mm == pytest.approx((1.5, 1.5, 1.5))
        label = nib.load(msd_folder / case.label)
        mass = nib.affines.apply_affine(label.affine, np.argwhere(np.asarray(label.dataobj) > 0)).mean(axis=0)
        moved = np.argwhere(prepared(tmp_path / "ws", case.id, "label") > 0)
        assert np.abs(nib.affines.apply_affine(case.grid.matrix, moved).mean(axis=0) - mass).max() < 0.3


def test_the_median_spacing_is_taken_where_none_is_given(msd_folder: Path, tmp_path: Path) -> None:
    for folder in ("imagesTr", "labelsTr"):  # five of twelve are coarser: the median is that of the others
        for number in range(5):
            path = msd_folder / folder / f"scan_{number:02d}.nii.gz"
            image = nib.load(path)
            affine = image.affine @ np.diag([1, 1, 1.5, 1])
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)
    manifest = prepare(msd_folder, tmp_path / "ws")
    assert {tuple(np.round(case.grid.spacing_mm, 3)) for case in manifest.cases} == {(1.0, 2.0, 1.2)}
    assert manifest.case("scan_00").grid.shape == (12, 15, 14)


def test_name_modality_and_prompt_are_those_of_the_folder_unless_given(
    ready: Path, msd_original: Path, tmp_path: Path
) -> None:
    manifest = Workspace(ready).read_manifest()
    assert (manifest.name, manifest.modality, manifest.prompt) == ("Nested balls", "MRI", "Nested balls, MRI")
    assert (manifest.spatial_dims, manifest.physical, manifest.label_count) == (3, True, 2)
    given = prepare(msd_original, tmp_path / "ws", "data.name=Balls", "prompt=Two balls, one inside the other")
    assert (given.name, given.prompt) == ("Balls", "Two balls, one inside the other")


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("data.modality=ct",), "ct_window"),
        (("data.modality=CT", "prepare.intensity.kind=percentiles"), "percentiles"),
    ],
)
def test_ct_is_windowed_and_the_rest_is_scaled_by_percentiles(
    words: tuple[str, ...], kind: str, msd_folder: Path, tmp_path: Path
) -> None:
    manifest = prepare(msd_folder, tmp_path / "ws", *words)
    assert {case.intensity.kind for case in manifest.cases} == {kind}
    if kind == "ct_window":
        assert {(case.intensity.low, case.intensity.high, case.intensity.unit) for case in manifest.cases} == {
            (-160.0, 240.0, "HU")
        }


def test_the_intensity_map_brings_back_the_units_of_the_file(msd_folder: Path, tmp_path: Path) -> None:
    case = prepare(msd_folder, tmp_path / "ws", "prepare.intensity.percentiles=[0,100]").case(FIRST)
    source = nib.load(msd_folder / case.image)
    turned = np.asarray(nib.as_closest_canonical(source).dataobj)
    assert np.allclose(case.intensity.inverse(prepared(tmp_path / "ws", FIRST, "image")), turned, atol=1e-4)


def test_records_hold_no_absolute_path(ready: Path, msd_original: Path) -> None:
    manifest = Workspace(ready).read_manifest()
    assert (ready / manifest.source).resolve() == msd_original.resolve()
    assert not Path(manifest.source).is_absolute()
    assert manifest.case(FIRST).image == "imagesTr/scan_00.nii.gz"
    records = list(ready.rglob("*.json"))
    assert len(records) == 12 + len(("manifest", "splits", "findings"))
    for path in records:
        assert str(msd_original.parents[1]) not in path.read_text(), path


def test_the_manifest_is_read_as_it_was_written(ready: Path) -> None:
    manifest = Workspace(ready).read_manifest()
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest
    assert manifest.case("scan_05").id == "scan_05"


# --- pictures --------------------------------------------------------------------------------------------------------
@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Nine JPEG pictures of 20 x 16 pixels whose PNG masks are 0 and 255."""
    root = tmp_path / "pictures"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(9):
        mask = np.zeros((16, 20), np.uint8)
        mask[4 : 8 + number % 3, 5:12] = 255
        grey = (mask * 0.4 + np.random.default_rng(number).integers(0, 60, mask.shape)).astype(np.uint8)
        Image.fromarray(grey).save(root / "images" / f"us_{number}.jpg")
        Image.fromarray(mask).save(root / "masks" / f"us_{number}.png")
    return root


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        ((), {"background": 0, "label_255": 255}),
        (("data.labels={background: 0, lesion: 255}",), {"background": 0, "lesion": 255}),
    ],
)
def test_pictures_with_masks_of_0_and_255_are_2d_in_pixels(
    words: tuple[str, ...], labels: dict[str, int], pictures: Path, tmp_path: Path
) -> None:
    manifest = prepare(pictures, tmp_path / "ws", *words)
    assert (manifest.spatial_dims, manifest.physical, manifest.labels) == (2, False, labels)
    label = prepared(tmp_path / "ws", "us_2", "label")
    assert label.shape == (20, 16, 1)
    assert np.array_equal(label[:, :, 0].T == 1, np.asarray(Image.open(pictures / "masks" / "us_2.png")) == 255)


def test_masks_of_one_bit_are_read(pictures: Path, tmp_path: Path) -> None:
    for path in (pictures / "masks").iterdir():
        Image.open(path).convert("1").save(path)
    assert prepare(pictures, tmp_path / "ws").labels == {"background": 0, "label_1": 1}


def test_a_picture_among_volumes_is_named_and_the_volumes_are_kept(
    msd_folder: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(msd_folder / "imagesTr", mixed / "images")
    shutil.copytree(msd_folder / "labelsTr", mixed / "labels")
    shutil.copy(pictures / "images" / "us_0.jpg", mixed / "images")
    assert main(["prepare", f"data.root={mixed}", f"workspace={tmp_path / 'ws'}"]) == 0
    said = capsys.readouterr().out
    assert "us_0.jpg: a picture among volumes; put it into a folder of its own; the case is skipped" in said
    assert "12 cases ready, 1 skipped" in said


def test_a_single_slice_among_volumes_is_refused(
    msd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = np.random.default_rng(0).normal(size=(20, 16, 1)).astype(np.float32)
    shutil.copytree(msd_folder / "imagesTr", tmp_path / "mixed" / "images")
    shutil.copytree(msd_folder / "labelsTr", tmp_path / "mixed" / "labels")
    nib.save(nib.Nifti1Image(flat, np.eye(4)), tmp_path / "mixed" / "images" / "thin.nii.gz")
    nib.save(nib.Nifti1Image((flat > 0).astype(np.uint8), np.eye(4)), tmp_path / "mixed" / "labels" / "thin.nii.gz")
    assert main(["prepare", f"data.root={tmp_path / 'mixed'}", f"workspace={tmp_path / 'ws'}"]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("diffboost3d:")]
    assert said == ["diffboost3d: thin is a single slice among volumes; keep 2D and 3D cases in folders of their own"]


def test_images_in_the_place_of_labels_are_refused(pictures: Path, tmp_path: Path) -> None:
    for path in (pictures / "masks").iterdir():
        many = np.arange(20 * 16, dtype=np.uint16).reshape(16, 20)
        Image.fromarray(many).save(path)
    with pytest.raises(DataError, match="320 grey levels"):
        prepare(pictures, tmp_path / "ws")


# --- once more -------------------------------------------------------------------------------------------------------
def test_unchanged_cases_are_kept_and_a_changed_one_is_made_again(msd_folder: Path, tmp_path: Path) -> None:
    prepare(msd_folder, tmp_path / "ws")
    before = times(tmp_path / "ws")
    prepare(msd_folder, tmp_path / "ws")
    assert times(tmp_path / "ws") == before
    path = msd_folder / "imagesTr" / "scan_04.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[::-1].copy(), image.affine), path)
    prepare(msd_folder, tmp_path / "ws")
    after = times(tmp_path / "ws")
    assert {name for name in after if after[name] != before[name]} == {
        f"scan_04/{kind}.nii.gz" for kind in ("image", "edge", "label")
    }


def test_another_setting_makes_every_case_again(msd_folder: Path, tmp_path: Path) -> None:
    prepare(msd_folder, tmp_path / "ws")
    before = results(tmp_path / "ws")
    prepare(msd_folder, tmp_path / "ws", "prepare.edges.sigmas_mm=[3.0]")
    after = results(tmp_path / "ws")
    for case in Workspace(tmp_path / "ws").read_manifest().cases:
        assert after[f"prepared/{case.id}/edge.nii.gz"] != before[f"prepared/{case.id}/edge.nii.gz"]
        assert after[f"prepared/{case.id}/image.nii.gz"] == before[f"prepared/{case.id}/image.nii.gz"]


def test_another_edge_operator_makes_the_edges_again_and_nothing_else_differs(
    msd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = prepare(msd_folder, tmp_path / "ws")
    soft = results(tmp_path / "ws")
    for _ in range(2):
        capsys.readouterr()
        before = times(tmp_path / "ws")
        prepare(msd_folder, tmp_path / "ws", "prepare.edges.operator=canny")
    assert times(tmp_path / "ws") == before  # the second run found it done
    canny = results(tmp_path / "ws")
    for case in manifest.cases:
        edge = prepared(tmp_path / "ws", case.id, "edge")
        assert edge.shape == case.grid.shape
        assert set(np.unique(edge)) == {0, 1}
        assert canny[f"prepared/{case.id}/edge.nii.gz"] != soft[f"prepared/{case.id}/edge.nii.gz"]
        assert canny[f"prepared/{case.id}/image.nii.gz"] == soft[f"prepared/{case.id}/image.nii.gz"]
    prepare(msd_folder, tmp_path / "ws")
    assert results(tmp_path / "ws") == soft


def test_hed_edges_are_made_again_for_other_weights_and_not_for_another_path(msd_folder: Path, tmp_path: Path) -> None:
    import torch

    from diffboost3d.imaging.hed import HedNetwork

    words = ("prepare.edges.operator=hed", "prepare.edges.hed_size=16")
    weights = {name: torch.zeros_like(tensor) for name, tensor in HedNetwork().state_dict().items()}
    for name, bias in (("one", 1.0), ("two", 2.0)):
        torch.save({**weights, "block5.projection.bias": torch.full((1,), 5 * bias)}, tmp_path / f"{name}.pth")
    prepare(msd_folder, tmp_path / "ws", *words, f"prepare.edges.hed_weights={tmp_path / 'one.pth'}")
    assert np.allclose(prepared(tmp_path / "ws", FIRST, "edge"), 1 / (1 + np.exp(-1.0)))  # the mean of 0, 0, 0, 0, 5
    before = times(tmp_path / "ws")
    (tmp_path / "one.pth").rename(tmp_path / "moved.pth")
    prepare(msd_folder, tmp_path / "ws", *words, f"prepare.edges.hed_weights={tmp_path / 'moved.pth'}")
    assert times(tmp_path / "ws") == before
    prepare(msd_folder, tmp_path / "ws", *words, f"prepare.edges.hed_weights={tmp_path / 'two.pth'}")
    assert np.allclose(prepared(tmp_path / "ws", FIRST, "edge"), 1 / (1 + np.exp(-2.0)))


def test_missing_hed_weights_are_said_before_anything_is_read(msd_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file of HED weights .*absent\.pth"):
        prepare(msd_folder, tmp_path / "ws", "prepare.edges.operator=hed", "prepare.edges.hed_weights=absent.pth")
    assert not (tmp_path / "ws" / "prepared").exists()


def test_bytes_are_the_same_with_other_workers_and_after_deletion(msd_folder: Path, tmp_path: Path) -> None:
    prepare(msd_folder, tmp_path / "ws", "prepare.workers=1", "prepare.spacing_mm=[1.3,1.3,1.3]")
    first = results(tmp_path / "ws")
    shutil.rmtree(tmp_path / "ws")
    prepare(msd_folder, tmp_path / "ws", "prepare.workers=3", "prepare.spacing_mm=[1.3,1.3,1.3]")
    assert results(tmp_path / "ws") == first


def test_a_run_that_died_between_image_and_record_leaves_nothing_that_counts_as_finished(
    msd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made, then half made of another file, then asked for with the first file again: the first result must be back."""
    prepare(msd_folder, tmp_path / "ws")
    right = results(tmp_path / "ws")
    path = msd_folder / "imagesTr" / f"{FIRST}.nii.gz"
    original = path.read_bytes()
    shutil.copy(msd_folder / "imagesTr" / "scan_01.nii.gz", path)
    shutil.copy(msd_folder / "labelsTr" / f"{FIRST}.nii.gz", tmp_path / "label.nii.gz")
    image = nib.load(path)  # the other image on the grid of the label
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), nib.load(tmp_path / "label.nii.gz").affine), path)
    write = stage.write_prepared

    def dies_at_the_edges(target: Path, *arguments: Any) -> None:
        if target.name.startswith("edge"):
            raise KeyboardInterrupt
        write(target, *arguments)

    monkeypatch.setattr(stage, "write_prepared", dies_at_the_edges)
    with pytest.raises(KeyboardInterrupt):
        prepare(msd_folder, tmp_path / "ws", "prepare.workers=1")
    monkeypatch.undo()
    path.write_bytes(original)
    prepare(msd_folder, tmp_path / "ws")
    assert results(tmp_path / "ws") == right


def test_a_label_that_was_taken_away_leaves_no_prepared_label(msd_folder: Path, tmp_path: Path) -> None:
    prepare(msd_folder, tmp_path / "ws")
    (msd_folder / "labelsTr" / f"{FIRST}.nii.gz").unlink()
    case = prepare(msd_folder, tmp_path / "ws").case(FIRST)
    assert case.label is None
    assert not Workspace(tmp_path / "ws").prepared(FIRST, "label").exists()


# --- splits and findings ---------------------------------------------------------------------------------------------
def test_patients_by_pattern_stay_together(msd_folder: Path, tmp_path: Path) -> None:
    manifest = prepare(msd_folder, tmp_path / "ws", r"data.patients=scan_\d(\d)")  # scan_00 and scan_10 are one
    assert manifest.case("scan_00").patient == manifest.case("scan_10").patient == "0"
    for split in Workspace(tmp_path / "ws").read_splits():
        sides = [
            {manifest.case(case).patient for case in part}
            for part in (split.training + split.unlabelled, split.validation, split.test)
        ]
        assert sum(map(len, sides)) == len(set().union(*sides))


def test_pinned_splits_are_taken_as_they_are_and_what_is_not_usable_is_said(
    msd_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (msd_folder / "labelsTr" / "scan_03.nii.gz").unlink()
    pinned = [
        {
            "training": ["scan_02", "scan_00", "scan_03"],
            "unlabelled": ["scan_05"],
            "validation": ["scan_06"],
            "test": ["scan_09", "scan_99"],
        }
    ]
    (tmp_path / "splits.json").write_text(json.dumps(pinned))
    prepare(msd_folder, tmp_path / "ws", f"data.splits={tmp_path / 'splits.json'}")
    (split,) = Workspace(tmp_path / "ws").read_splits()
    assert split.training == ("scan_02", "scan_00")
    assert (split.unlabelled, split.validation, split.test) == (("scan_05",), ("scan_06",), ("scan_09",))
    said = capsys.readouterr().out
    assert "! splits.json: fold 0, training: case 'scan_03' has no label; it is left out" in said
    assert "! splits.json: fold 0, test: no usable case 'scan_99'; it is left out" in said


def test_a_fold_that_the_pinned_splits_lack_is_refused(msd_folder: Path, tmp_path: Path) -> None:
    pinned = [{"training": ["scan_00"], "validation": ["scan_01"], "test": ["scan_02"]}]
    (tmp_path / "splits.json").write_text(json.dumps(pinned))
    with pytest.raises(ConfigError, match="there is no fold 1"):
        prepare(msd_folder, tmp_path / "ws", f"data.splits={tmp_path / 'splits.json'}", "folds=[1]")


def test_findings_are_of_the_last_run(msd_folder: Path, tmp_path: Path) -> None:
    path = msd_folder / "imagesTr" / f"{FIRST}.nii.gz"
    original = path.read_bytes()
    path.write_bytes(original[:700])
    assert len(prepare(msd_folder, tmp_path / "ws").cases) == 11
    findings = tmp_path / "ws" / "findings.json"
    assert [one["case"] for one in json.loads(findings.read_text())] == [FIRST]
    path.write_bytes(original)
    assert len(prepare(msd_folder, tmp_path / "ws").cases) == 12
    assert json.loads(findings.read_text()) == []


def test_the_files_of_the_user_are_never_written(msd_folder: Path, tmp_path: Path) -> None:
    def state() -> dict[Path, tuple[int, bytes]]:
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in msd_folder.rglob("*") if path.is_file()}

    before = state()
    prepare(msd_folder, tmp_path / "ws")
    assert state() == before


# --- real data -------------------------------------------------------------------------------------------------------
@pytest.mark.real_data
def test_hippocampus_cases_are_prepared(real_data: Path, tmp_path: Path) -> None:
    root = tmp_path / "hippocampus"
    facts = json.loads((real_data / "hippocampus" / "dataset.json").read_text())
    facts["training"] = facts["training"][::20][:6]  # far apart, so that each is a patient of its own
    for pair in facts["training"]:
        for name in pair.values():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(real_data / "hippocampus" / name, root / name)
    (root / "dataset.json").write_text(json.dumps(facts))
    manifest = prepare(root, tmp_path / "ws", "data=hippocampus")
    assert len(manifest.cases) == len({case.patient for case in manifest.cases}) == 6
    assert list(manifest.labels.values()) == [0, 1, 2]
    for case in manifest.cases:
        assert set(np.unique(prepared(tmp_path / "ws", case.id, "label"))) == {0, 1, 2}
        assert case.grid.spacing_mm == pytest.approx((1, 1, 1))
        source = np.asarray(nib.load(root / case.image).dataobj, dtype=float)
        back = case.intensity.inverse(prepared(tmp_path / "ws", case.id, "image"))
        inside = (source >= case.intensity.low) & (source <= case.intensity.high)
        assert inside.mean() > 0.98
        assert np.abs(back - source)[inside].max() < 1e-5 * (case.intensity.high - case.intensity.low)


@pytest.mark.real_data
def test_ct_is_windowed_in_hounsfield_units_and_stays_ras(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = real_data / "ct_example"
    pinned = [{"training": ["ct_001"], "validation": ["ct_001"], "test": ["ct_001"]}]
    (tmp_path / "splits.json").write_text(json.dumps(pinned))
    words = [f"data.root={root}", f"workspace={tmp_path / 'ws'}", f"data.splits={tmp_path / 'splits.json'}"]
    assert main(["prepare", *words]) == 1  # one case can't be on three sides, which is said after it is prepared
    assert "a patient may be on one side only" in capsys.readouterr().err
    (case,) = Workspace(tmp_path / "ws").read_manifest().cases
    assert (case.intensity.kind, case.intensity.low, case.intensity.high) == ("ct_window", -160, 240)
    assert nib.aff2axcodes(case.grid.matrix) == ("R", "A", "S")
    source = np.asarray(nib.load(root / case.image).dataobj, dtype=float)
    expected = np.clip((source + 160) / 200 - 1, -1, 1)
    assert np.abs(prepared(tmp_path / "ws", case.id, "image") - expected).max() < 1e-5


def test_a_label_to_be_kept_in_merging_that_the_data_lack_is_refused_before_hours_of_work(
    msd_original: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"'rim' is no label of .*; allowed: shell, core"):
        prepare(msd_original, tmp_path / "ws", "merge.mask_foreground=true", "merge.mask_foreground_labels=[rim]")
