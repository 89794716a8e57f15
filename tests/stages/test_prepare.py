"""`prepare`: what stands in a workspace after it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from prepared_folders import FIRST, prepare, prepared

from diffboost3d.cases.records import Manifest
from diffboost3d.cases.workspace import Workspace
from diffboost3d.cli import main
from diffboost3d.errors import DataError


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
