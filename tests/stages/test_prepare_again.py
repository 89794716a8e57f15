"""`prepare` once more: only what changed is made again; splits and findings; real data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from prepared_folders import FIRST, prepare, prepared

from diffboost3d.cases.workspace import Workspace
from diffboost3d.cli import main
from diffboost3d.errors import ConfigError
from diffboost3d.stages import prepare as stage


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
