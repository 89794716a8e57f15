"""A workspace of NRRD or MetaImage files: prepared as NIfTI is, to the byte, and answered in the files' own format."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import SimpleITK as sitk  # noqa: N813
from pretended_synthesis import give_label, pretend_to_synthesize

from diffboost3d.cases.layouts import read_folder
from diffboost3d.cases.records import Manifest
from diffboost3d.cases.workspace import Workspace
from diffboost3d.config import compose
from diffboost3d.imaging.files import ending_of, read, read_grid
from diffboost3d.imaging.itk import parts_of
from diffboost3d.stages import export, prepare

composed = lru_cache(lambda *words: compose(words))
SMALL = ("preset=quick", "prepare.workers=1", "prepare.spacing_mm=[1.1,1.3,1.7]")  # so that voxels are interpolated


def converted(source: Path, target: Path, ending: str) -> Path:
    """The folder with all volumes as another program would convert them."""
    for path in sorted(source.rglob("*.nii.gz")):
        image = sitk.ReadImage(str(path))
        for key in image.GetMetaDataKeys():
            image.EraseMetaData(key)
        new = target / path.relative_to(source).parent / path.name.replace(".nii.gz", ending)
        new.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(new), useCompression=True)
    facts = (source / "dataset.json").read_text(encoding="utf-8")
    (target / "dataset.json").write_text(facts.replace(".nii.gz", ending), encoding="utf-8")
    return target


def run_prepare(root: Path, workspace: Path) -> Manifest:
    config, place = composed(*SMALL), Workspace(workspace)
    with place.opened():
        prepare.run(replace(config, data=replace(config.data, root=str(root))), place)
    return place.read_manifest()


def arrays(workspace: Path) -> dict[str, bytes]:
    folder = workspace / "prepared"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.nii.gz"))}


@pytest.mark.parametrize("ending", [".nrrd", ".mhd"])
def test_oblique_volumes_give_the_same_prepared_bytes_in_any_format(
    ending: str, msd_original: Path, tmp_path: Path
) -> None:
    other = converted(msd_original, tmp_path / "data", ending)
    before, after = run_prepare(msd_original, tmp_path / "ws"), run_prepare(other, tmp_path / "other")
    assert {ending_of(case.image) for case in after.cases} == {ending}
    assert [case.grid for case in before.cases] == [case.grid for case in after.cases]
    assert before.preparation == after.preparation
    assert arrays(tmp_path / "ws") == arrays(tmp_path / "other")


@pytest.mark.real_data
def test_real_volumes_give_the_same_prepared_bytes_in_any_format(real_data: Path, tmp_path: Path) -> None:
    source = tmp_path / "data"
    for part in ("images", "labels"):
        (source / part).mkdir(parents=True)
        for path in sorted((real_data / "hippocampus" / f"{part}Tr").glob("*.nii.gz"))[:6]:
            (source / part / path.name).write_bytes(path.read_bytes())
    (source / "dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}}))
    run_prepare(source, tmp_path / "ws")
    for ending in (".nrrd", ".mha"):
        run_prepare(converted(source, tmp_path / ending, ending), tmp_path / f"ws{ending}")
        assert arrays(tmp_path / "ws") == arrays(tmp_path / f"ws{ending}")


def test_numbered_files_of_any_format_are_the_channels_of_a_case(msd_original: Path, tmp_path: Path) -> None:
    source = converted(msd_original, tmp_path / "data", ".nrrd")
    for path in sorted((source / "imagesTr").glob("*.nrrd")):
        shutil.copy(path, path.with_name(f"{path.stem}_0001.nrrd"))
        path.rename(path.with_name(f"{path.stem}_0000.nrrd"))
    (source / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1", "1": "T2"}}))
    run_prepare(source, tmp_path / "ws")
    manifest = json.loads((tmp_path / "ws" / "manifest.json").read_text())
    assert manifest["channels"] == ["T1", "T2"]
    assert [Path(name).name for name in manifest["cases"][0]["channels"]] == ["scan_00_0001.nrrd"]


@pytest.mark.parametrize(("ending", "exported"), [(".nrrd", ".nrrd"), (".mhd", ".mha")])
def test_synthetic_volumes_and_exports_are_in_the_format_of_their_sources(
    ending: str, exported: str, msd_original: Path, tmp_path: Path
) -> None:
    data = converted(msd_original, tmp_path / "data", ending)
    manifest, workspace = run_prepare(data, tmp_path / "ws"), Workspace(tmp_path / "ws")
    pretend_to_synthesize(workspace, 0, samples=1)
    give_label(workspace, 0, workspace.read_split(0).training[0], 0)
    with workspace.opened():
        export.run(composed(*SMALL), workspace)
    (target,) = (tmp_path / "ws" / "export" / "nnunet").iterdir()
    assert json.loads((target / "dataset.json").read_text())["file_ending"] == exported
    images = sorted((target / "imagesTr").iterdir())
    assert {ending_of(path) for path in images} == {exported}
    assert any("_synthetic00_0000" in path.name for path in images)
    for path in images:
        label = target / "labelsTr" / path.name.replace("_0000.", ".")
        assert read_grid(path) == read_grid(label)
        assert set(sitk.GetArrayFromImage(sitk.ReadImage(str(label))).ravel()) <= {0, 1, 2}
    case = manifest.case(workspace.read_split(0).training[0])
    made = workspace.synthetic(0) / case.id / f"00{ending}"
    assert len(parts_of(made)) == (2 if ending == ".mhd" else 1)
    assert b"synthetic: diffboost3d" in made.read_bytes()
    assert read(made).grid == case.source_grid
    again = read_folder(target)
    assert (again.layout, len(again.pairs)) == ("nnunet", len(images))
