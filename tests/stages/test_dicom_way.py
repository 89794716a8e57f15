"""DICOM in, DICOM out: series and DICOM-SEG labels go through prepare, train and predict, and come back as DICOM-SEG."""

from __future__ import annotations

import json
import re
import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from tiny_dicom import write_series
from tiny_folders import NETWORK, anatomy

from diffboost3d.cases.layouts import Choice, read_folder
from diffboost3d.cases.workspace import Workspace
from diffboost3d.cli import main
from diffboost3d.config import compose
from diffboost3d.errors import DataError
from diffboost3d.imaging.colours import label_colours
from diffboost3d.imaging.dicom_segments import Algorithm, read_segments, write_segments
from diffboost3d.imaging.files import read, read_grid
from diffboost3d.stages.images_asked import cases_of_images, images_of
from diffboost3d.stages.inspect import inspect_folder
from diffboost3d.stages.survey import survey

SHAPE = (16, 14, 8)
LABELS = {"background": 0, "Shell": 1, "Core": 2}
WORDS = [
    "preset=demo", "arms=[none]", "prepare.workers=1", NETWORK, "network.divisor=4", "train.steps=2", "train.validate_every=2",
    "train.checkpoint_every=2", "train.images_every=4", "runtime.device=cpu", "runtime.threads=1",
]  # fmt: skip
ALGORITHM = Algorithm("a person", "1", "0")


def volume(number):
    image, label = anatomy(number, SHAPE)
    return image.round().astype(np.int16), np.select([label == 2, label == 5], [1, 2]).astype(np.uint8)


def write_patients(root, count=4):
    """Patients with one study each, in it a series and its DICOM-SEG; the first has two studies. Segment numbers don't agree."""
    for number in range(count + 1):
        patient = f"Doe^{max(number, 1)}"
        folder = root / f"person {number}" / "T1"
        image, label = volume(number)
        write_series(folder, image, patient=patient, study=number, name=f"s{number}")
        order = ["Shell", "Core"] if number % 2 else ["Core", "Shell"]
        labels = {"background": 0, **{name: LABELS[name] for name in order}}
        write_segments(folder.parent / "seg" / "1.dcm", label, folder, labels, label_colours(labels), ALGORITHM)
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of DICOM patients, and a workspace with a segmenter trained on it."""
    folder = tmp_path_factory.mktemp("dicom")
    write_patients(folder / "data")
    words = [f"data.root={folder / 'data'}", f"workspace={folder / 'ws'}", *WORDS, "data.colours={Core: [255, 0, 0]}"]
    for stage in ("prepare", "train", "evaluate"):
        assert main([stage, *words]) == 0
    return folder


def predict(trained, source, output, *more):
    words = [f"predict.input={source}", f"predict.output={output}", "predict.arm=none", "runtime.device=cpu"]
    return main(["predict", f"workspace={trained / 'ws'}", *words, "runtime.threads=1", *more])


def test_series_with_their_segments_become_cases_on_their_own_grid(trained):
    manifest = Workspace(trained / "ws").read_manifest()
    assert [case.id for case in manifest.cases] == [f"person-{number}_T1" for number in range(5)]
    assert (manifest.modality, manifest.physical, manifest.labels) == (
        "MRI",
        True,
        {"background": 0, "Core": 1, "Shell": 2},
    )
    for number, case in enumerate(manifest.cases):
        label = read(Workspace(trained / "ws").source(manifest, case.label))
        _, drawn = volume(number)
        assert np.array_equal(label.array, np.select([drawn == 1, drawn == 2], [2, 1]))
        assert not label.grid.difference(case.source_grid)


def test_patients_are_numbered_and_never_named_in_what_is_written(trained):
    manifest = Workspace(trained / "ws").read_manifest()
    assert [case.patient for case in manifest.cases] == [f"patient_{number:03d}" for number in (1, 1, 2, 3, 4)]
    for path in (trained / "ws").rglob("*.json"):
        assert "Doe" not in path.read_text()


def test_predictions_come_as_nifti_and_as_dicom_seg_with_the_same_labels(trained, tmp_path):
    source = trained / "data" / "person 2"
    assert predict(trained, source, tmp_path / "out", "predict.dicom=both") == 0
    series = source / "T1"
    label, grid = read(tmp_path / "out" / "T1.nii.gz"), read_grid(series)
    assert not label.grid.difference(grid)
    labels = Workspace(trained / "ws").read_manifest().labels
    assert np.array_equal(read_segments([tmp_path / "out" / "T1.dcm"], grid, labels), label.array)
    record = json.loads((tmp_path / "out" / "T1.json").read_text())
    assert record["dicom_seg"]["path"] == "T1.dcm"
    assert record["voxels"] == {name: int((label.array == value).sum()) for name, value in labels.items()}


def test_one_series_may_be_given_and_what_is_finished_is_not_made_again(trained, tmp_path, monkeypatch):
    source = trained / "data" / "person 0" / "T1"
    assert predict(trained, source, tmp_path / "out", "predict.dicom=dicom_seg") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "T1.dcm", "T1.json", "diffboost3d.json", "labels.ctbl", "labels.label"
    }  # fmt: skip
    before = (tmp_path / "out" / "T1.dcm").read_bytes()
    (tmp_path / "out" / "T1.json").unlink()
    assert predict(trained, source, tmp_path / "out", "predict.dicom=dicom_seg") == 0
    assert (tmp_path / "out" / "T1.dcm").read_bytes() == before
    monkeypatch.setattr("diffboost3d.stages.predict.mean_probabilities", lambda *_: pytest.fail("made again"))
    assert predict(trained, source, tmp_path / "out", "predict.dicom=dicom_seg") == 0


def test_viewers_find_the_user_s_names_and_colours(trained, tmp_path):
    source = trained / "data" / "person 0"
    assert predict(trained, source, tmp_path / "out", "data.colours={Shell: [1, 2, 3]}") == 0
    assert (tmp_path / "out" / "labels.label").read_text().splitlines()[2:] == [
        '1 255 0 0 1 1 1 "Core"', '2 1 2 3 1 1 1 "Shell"'
    ]  # fmt: skip
    assert (tmp_path / "out" / "labels.ctbl").read_text().splitlines()[2:] == [
        "1 Core 255 0 0 255",
        "2 Shell 1 2 3 255",
    ]


def test_a_segmentation_that_someone_corrected_is_left_alone(trained, tmp_path, capsys):
    source = trained / "data" / "person 0"
    assert predict(trained, source, tmp_path / "out", "predict.dicom=both") == 0
    (tmp_path / "out" / "T1.dcm").write_bytes(b"corrected")
    assert predict(trained, source, tmp_path / "out", "predict.dicom=both", "predict.overlap=0.6") == 1
    assert (tmp_path / "out" / "T1.dcm").read_bytes() == b"corrected"
    assert "T1.dcm: was changed" in capsys.readouterr().out


def test_inspect_reads_segments_as_labels(trained):
    found = inspect_folder(compose([f"data.root={trained / 'data'}", "inspect.label_fit=false"]), trained / "data")
    assert (found["layout"], found["labelled"], found["patients"]) == ("dicom", 5, 4)
    assert not {"unreadable", "label-grid", "unusable", "two-series"} & {one["code"] for one in found["findings"]}
    assert [one["name"] for one in found["labels"]] == ["Core", "Shell"]


# --- the layout --------------------------------------------------------------------------------------------------------
def write_study(root, patient, names):
    for name in names:
        write_series(root / patient / name, volume(1)[0], patient=patient, name=name, description=f"{name} axial")


def test_patterns_choose_the_channels_of_each_study_and_name_those_that_lack_one(tmp_path):
    write_study(tmp_path, "a", ["T1", "T1post", "FLAIR"])
    write_study(tmp_path, "b", ["T1", "T1post"])
    folder = read_folder(tmp_path, "auto", Choice(series=("t1", "flair")))
    assert folder.layout == "dicom"
    (pair,) = folder.pairs
    assert (pair.id, pair.image, pair.channels) == ("a", tmp_path / "a" / "T1", (tmp_path / "a" / "FLAIR",))
    assert folder.channel_names == ("t1", "flair")
    (finding,) = folder.findings
    assert str(finding).startswith("b: no series matches data.series 'flair' ('T1 axial'")


def test_a_pattern_of_two_series_is_said_with_both(tmp_path):
    write_study(tmp_path, "a", ["T1pre", "T1post"])
    with pytest.raises(DataError, match=r"2 series match data\.series 'T1' \('T1post axial'.*'T1pre axial'"):
        read_folder(tmp_path, "dicom", Choice(series=("T1",)))


def test_several_series_in_one_folder_are_told_apart_by_a_pattern_only(tmp_path):
    for name in ("T1", "T2"):
        write_series(tmp_path / "all", volume(1)[0] + 5 * (name == "T2"), name=name, description=name)
    with pytest.raises(DataError, match=r"2 DICOM series \('T1'.*'T2'.*data\.series=\[PATTERN\]"):
        read_folder(tmp_path, "dicom")
    (pair,) = read_folder(tmp_path, "dicom", Choice(series=("T2",))).pairs
    assert np.array_equal(read(pair.image).array, volume(1)[0] + 5)


def write_bad_series(root, kind):
    """A series in root/bad that no volume can be made of."""
    folder = write_series(root / "bad", volume(9)[0], study="bad", name="bad")
    if kind == "two series":
        write_series(root / "bad", volume(8)[0], study="bad", name="other", description="T2")
    for path in sorted(folder.iterdir())[: None if kind == "no DICOM" else 1]:
        if kind == "a slice is lost":
            path.with_name("bad003.dcm").unlink()
        elif kind == "no BitsStored":
            header = pydicom.dcmread(path)
            del header.BitsStored
            header.save_as(path)
        elif kind == "no DICOM":
            path.write_bytes(b"damaged")


BAD_SERIES = {
    "two series": ("two-series", r"bad: 2 DICOM series \('T1'.*'T2'.*choose by data\.series"),
    "a slice is lost": ("unreadable", r"bad: 1 slice missing: .*; export the series again"),
    "no BitsStored": ("unreadable", r"bad: bad001\.dcm has no BitsStored in its header; export the series again"),
    "no DICOM": ("unreadable", r"bad: bad001\.dcm is damaged, .*; export the series again"),
}


@pytest.mark.parametrize("kind", BAD_SERIES)
def test_one_bad_series_among_good_ones_costs_its_case_alone_and_is_a_problem(kind, tmp_path, capsys):
    for number in range(2):
        write_series(tmp_path / f"good{number}", volume(number)[0], study=number, name=f"s{number}")
    write_bad_series(tmp_path, kind)
    code, said = BAD_SERIES[kind]
    config = compose([f"data.root={tmp_path}", "inspect.label_fit=false", "inspect.workers=1"])
    folder = read_folder(tmp_path)
    usable, findings = survey(config, folder, None, 1)
    assert [one.pair.id for one in usable] == ["good0", "good1"]
    (line,) = (str(one) for one in (*folder.findings, *findings))
    assert re.fullmatch(f"bad: .*{said.removeprefix('bad: ')}.*; the case is skipped", line)
    found = inspect_folder(config, tmp_path)
    assert [(one["code"], one["case"]) for one in found["findings"] if one["level"] == "problem"] == [(code, "bad")]


def test_a_damaged_segmentation_costs_its_case_alone(tmp_path):
    write_patients(tmp_path, 2)
    path = next((tmp_path / "person 1" / "seg").iterdir())
    header = pydicom.dcmread(path)
    del header.SegmentSequence
    header.save_as(path)
    folder = read_folder(tmp_path)
    assert [pair.id for pair in folder.pairs] == ["person-0_T1", "person-2_T1"]
    (finding,) = folder.findings
    assert (finding.case, path.name in finding.problem) == ("person-1_T1", True)


def test_copies_of_a_series_cost_nothing_and_are_a_note(tmp_path):
    for number in range(2):
        write_series(tmp_path / f"scan{number}", volume(number)[0], study=number, name=f"s{number}")
    shutil.copytree(tmp_path / "scan0", tmp_path / "backup" / "scan0")
    one = tmp_path / "scan1" / "s1003.dcm"
    shutil.copyfile(one, one.with_name("copy of.dcm"))
    (tmp_path / "a part").mkdir()
    shutil.copyfile(one, tmp_path / "a part" / one.name)
    folder = read_folder(tmp_path)
    assert not folder.findings
    assert [(pair.id, pair.image) for pair in folder.pairs] == [(f"scan{n}", tmp_path / f"scan{n}") for n in range(2)]
    (note,) = folder.notes
    assert note.startswith("10 DICOM files are copies of others, e.g. a part/s1003.dcm")
    for number, pair in enumerate(folder.pairs):
        assert np.array_equal(read(pair.image).array, volume(number)[0])


def test_two_files_of_one_slice_that_differ_cost_their_case_in_a_line_that_names_both(tmp_path):
    for number in range(2):
        write_series(tmp_path / f"scan{number}", volume(number)[0], study=number, name=f"s{number}")
    one = tmp_path / "scan1" / "s1003.dcm"
    other = one.with_name("changed.dcm")
    other.write_bytes(one.read_bytes()[:-1] + b"\7")
    with pytest.raises(
        DataError, match=r"scan1: scan1/changed\.dcm and scan1/s1003\.dcm are of one slice \(.*\) and differ"
    ):
        read(tmp_path / "scan1")
    found = inspect_folder(compose([f"data.root={tmp_path}", "inspect.label_fit=false"]), tmp_path)
    (wrong,) = (one for one in found["findings"] if one["level"] == "problem")
    assert (wrong["code"], wrong["case"]) == ("unreadable", "scan1")


def test_segments_of_no_series_and_series_without_segments_are_named(tmp_path):
    root = write_patients(tmp_path / "data", 3)
    shutil.rmtree(root / "person 1" / "T1")
    write_series(root / "person 1" / "T1", volume(1)[0], patient="Doe^1", study=1, name="numbered anew")
    header = pydicom.dcmread(root / "person 0" / "seg" / "1.dcm")
    del header.ReferencedSeriesSequence
    header.save_as(root / "person 0" / "seg" / "1.dcm")
    write_series(root / "person 4" / "T1", volume(1)[0], patient="Doe^4", study=4, name="labelled by a file")
    write_series(root / "person 5" / "T1", volume(1)[0], patient="Doe^5", study=5, name="labelled by another")
    for name in ("person-4_T1", "person-5_T1", "person-9_T1"):
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{name}.nii.gz").write_bytes(b"")
    folder = read_folder(root)
    assert {pair.id: pair.missing for pair in folder.pairs} == {
        **{f"person-{number}_T1": None for number in (2, 3, 4, 5)},
        **{f"person-{number}_T1": f"labels/person-{number}_T1.nii.gz" for number in (0, 1)},
    }
    assert folder.notes == (
        "2 DICOM-SEG files have no image: person 0/seg/1.dcm, person 1/seg/1.dcm",
        "1 label has no image: labels/person-9_T1.nii.gz",
    )
    shutil.rmtree(root / "labels")
    missing = {pair.id: pair.missing for pair in read_folder(root).pairs}
    assert list(missing.values()) == [None] * 6  # two of six have labels
    for number in (4, 5):
        shutil.rmtree(root / f"person {number}")
    shutil.rmtree(root / "person 0")
    missing = {pair.id: pair.missing for pair in read_folder(root).pairs}
    assert missing == {"person-1_T1": "DICOM-SEG of its series", "person-2_T1": None, "person-3_T1": None}


def test_a_series_spread_over_folders_of_other_series_is_not_cut(tmp_path):
    whole = write_series(tmp_path / "whole", volume(1)[0], name="T1")
    files = sorted(whole.iterdir())
    for number, part in enumerate((files[: len(files) // 2], files[len(files) // 2 :])):
        (tmp_path / "pacs" / f"DIR{number}").mkdir(parents=True)
        for path in part:
            path.rename(tmp_path / "pacs" / f"DIR{number}" / path.name)
    assert read(tmp_path / "pacs").array.shape == volume(1)[0].shape  # alone it is whole
    write_series(tmp_path / "pacs" / "DIR9", volume(2)[0], name="T2", description="T2")
    with pytest.raises(DataError, match="lies in several folders among files of other series"):
        read_folder(tmp_path / "pacs", "dicom", Choice(series=("T1",)))


def test_patients_whose_folders_are_numbered_are_not_taken_for_channels(tmp_path):
    for number in (1, 2):
        write_study(tmp_path, f"pat_{number:04d}", ["flair", "t2"])
    words = [f"predict.input={tmp_path}", "predict.output=out", "data.series=[flair,t2]"]
    images, _, _ = images_of(compose(words))
    cases, twins = cases_of_images(images, 2)
    assert twins == []
    assert [(one.id, len(one.channels)) for one in cases] == [("pat_0001", 1), ("pat_0002", 1)]
    assert all(one.image.parent == one.channels[0].parent for one in cases)


def test_channels_are_chosen_as_in_prepare_without_saying_it_again(tmp_path):
    for number in range(3):
        write_study(tmp_path / "data", f"pat{number}", ["flair", "t2"])
        grid = read_grid(tmp_path / "data" / f"pat{number}" / "flair")
        (tmp_path / "data" / "labels").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(volume(1)[1], grid.matrix), tmp_path / "data" / "labels" / f"pat{number}.nii.gz")
    words = [f"data.root={tmp_path / 'data'}", f"workspace={tmp_path / 'ws'}", "data.series=[t2,flair]"]
    assert main(["prepare", *words, *WORDS]) == 0
    manifest = Workspace(tmp_path / "ws").read_manifest()
    assert manifest.series == ("t2", "flair")
    config = compose([f"predict.input={tmp_path / 'data'}", "predict.output=out"])
    images, _, _ = images_of(config, manifest.series)
    assert [[path.name for path in (one.image, *one.channels)] for one in images] == [["t2", "flair"]] * 3
    config = compose([f"predict.input={tmp_path / 'data'}", "predict.output=out", "data.series=[flair]"])
    images, _, _ = images_of(config, manifest.series)
    assert [(one.image.name, one.channels) for one in images] == [("flair", ())] * 3


def test_a_preview_beside_series_is_left_aside_where_the_segmenter_takes_volumes(tmp_path):
    write_study(tmp_path, "a", ["T1"])
    Image.new("L", (8, 8)).save(tmp_path / "preview.png")
    config = compose([f"predict.input={tmp_path}", "predict.output=o"])
    images, lost, notes = images_of(config, volumes=True)
    assert ([pair.id for pair in images], lost, len(notes)) == (["a_T1"], [], 1)
    assert "preview.png" in notes[0]
    images, _, notes = images_of(config)  # of pictures
    assert ([pair.image.name for pair in images], notes) == (["preview.png"], [])


def test_label_files_are_found_by_the_series_name_and_turned_to_its_axes(tmp_path):
    write_patients(tmp_path / "data", 3)
    for number in range(4):
        shutil.rmtree(tmp_path / "data" / f"person {number}" / "seg")
    grid = read_grid(tmp_path / "data" / "person 1" / "T1")
    _, label = volume(1)
    labelled = nib.Nifti1Image(label, grid.matrix).as_reoriented(nib.orientations.axcodes2ornt("PRS"))
    (tmp_path / "data" / "labels").mkdir()
    for number in range(4):
        nib.save(labelled, tmp_path / "data" / "labels" / f"person-{number}_T1.nii.gz")
    assert main(["prepare", f"data.root={tmp_path / 'data'}", f"workspace={tmp_path / 'ws'}", *WORDS]) == 0
    workspace = Workspace(tmp_path / "ws")
    case = workspace.read_manifest().case("person-1_T1")
    assert np.array_equal(read(workspace.source(workspace.read_manifest(), case.label)).array, label)


# --- real --------------------------------------------------------------------------------------------------------------
@pytest.mark.real_data
def test_real_series_of_a_patient_are_one_patient(real_data):
    root = real_data / "dicom_example"
    if not root.is_dir():
        pytest.skip(f"no {root}")
    pairs = {pair.id: pair for pair in read_folder(root).pairs}
    assert len(pairs) == 7
    assert pairs["brain_t2"].patient == pairs["brain_flair"].patient == pairs["hippocampus_crop_3"].patient
    assert len({pair.patient for pair in pairs.values()}) == 3
    (study,) = read_folder(root / "brain", "dicom", Choice(series=("t1pre", "t1post", "flair", "t2"))).pairs
    assert [path.name for path in (study.image, *study.channels)] == ["t1_pre", "t1_post", "flair", "t2"]
