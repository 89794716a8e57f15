"""Readers of BIDS and of tables of paths: what each becomes, and what is refused because it could be meant in two ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reader_folders import names, refused, touch

from diffboost3d.cases.layouts import BidsChoice, Choice, read_folder
from diffboost3d.cases.splits import patients_of
from diffboost3d.errors import DataError


# --- BIDS ------------------------------------------------------------------------------------------------------------
def bids(root: Path, *more: str) -> Path:
    """Two subjects, one of them with two sessions; labels of one pipeline."""
    for stem in ("sub-01/anat/sub-01", "sub-02/ses-1/anat/sub-02_ses-1", "sub-02/ses-2/anat/sub-02_ses-2"):
        touch(root, f"{stem}_T1w.nii.gz", f"{stem}_T1w.json", f"derivatives/manual/{stem}_dseg.nii.gz")
    (root / "dataset_description.json").write_text(
        json.dumps({"Name": "Heads", "License": "CC0", "BIDSVersion": "1.8.0"})
    )
    (root / "participants.tsv").write_text("participant_id\tage\nsub-01\t40\nsub-99\t41\n")
    return touch(root, *more)


def test_bids_sessions_are_cases_of_one_patient(tmp_path: Path) -> None:
    bids(tmp_path, "sub-01/func/sub-01_task-rest_bold.nii.gz")
    (tmp_path / "derivatives" / "manual" / "desc-manual_dseg.tsv").write_text("index\tname\n3\tcyst\n1\tkidney\n")
    folder = read_folder(tmp_path)
    assert (folder.layout, folder.name, folder.licence, folder.modality) == ("bids", "Heads", "CC0", "MRI")
    assert list((folder.labels or {}).items()) == [("background", 0), ("kidney", 1), ("cyst", 3)]
    assert [(pair.id, pair.patient, pair.label is not None) for pair in folder.pairs] == [
        ("sub-01", "sub-01", True),
        ("sub-02_ses-1", "sub-02", True),
        ("sub-02_ses-2", "sub-02", True),
    ]


def test_bids_with_several_kinds_asks_which_and_takes_them_as_channels(tmp_path: Path) -> None:
    stem = "sub-01/anat/sub-01"
    bids(tmp_path, f"{stem}_ce-gd_T1w.nii.gz", f"{stem}_FLAIR.nii.gz", "sub-02/ses-1/anat/sub-02_ses-1_FLAIR.nii.gz")
    assert "images of several kinds: FLAIR (2), T1w (3), ce-gd_T1w (1); choose" in refused(tmp_path)
    two = Choice(BidsChoice(("T1w", "FLAIR")))
    folder = read_folder(tmp_path, "auto", two)
    assert folder.channel_names == ("T1w", "FLAIR")
    assert [case for case, *_ in names(tmp_path, "auto", two)] == ["sub-01", "sub-02_ses-1"]
    assert [(one.case, one.problem) for one in folder.findings] == [("sub-02_ses-2", "its channel FLAIR is missing")]
    enhanced = Choice(BidsChoice(("T1w", "ce-gd_T1w")))
    assert names(tmp_path, "bids", enhanced)[0][1] == [f"{stem}_T1w.nii.gz", f"{stem}_ce-gd_T1w.nii.gz"]
    assert "no image of kind T2w (data.bids.images); there are: FLAIR" in refused(
        tmp_path, "bids", Choice(BidsChoice(("T2w",)))
    )


def test_bids_labels_of_no_subject_are_named(tmp_path: Path) -> None:
    bids(tmp_path, "derivatives/manual/sub-09/anat/sub-09_dseg.nii.gz", "sub-03/anat/sub-03_FLAIR.nii.gz")
    touch(tmp_path, "derivatives/manual/sub-03/anat/sub-03_dseg.nii.gz")
    folder = read_folder(tmp_path, "auto", Choice(BidsChoice(("T1w",))))
    assert folder.notes == ("1 label has no image: derivatives/manual/sub-09/anat/sub-09_dseg.nii.gz",)


def test_bids_labels_of_several_kinds_are_asked_for(tmp_path: Path) -> None:
    bids(tmp_path, "derivatives/auto/sub-01/anat/sub-01_T1w_label-lesion_mask.nii.gz")
    assert "labels of several kinds: auto/label-lesion_mask (1), manual/dseg (3); choose one" in refused(tmp_path)
    for label in ("label-lesion_mask", "auto/label-lesion_mask"):
        folder = read_folder(tmp_path, "bids", Choice(BidsChoice(label=label)))
        assert [pair.missing for pair in folder.pairs] == [None, *["auto/label-lesion_mask in derivatives"] * 2]
    assert "no label of kind nothing" in refused(tmp_path, "bids", Choice(BidsChoice(label="nothing")))


# --- a CSV -----------------------------------------------------------------------------------------------------------
def test_a_table_lists_files_relative_to_its_folder(tmp_path: Path) -> None:
    touch(tmp_path, "far/a.nrrd", "far/a_adc.nrrd", "far/b.nrrd", "labels of us/a.nrrd")
    (tmp_path / "set.csv").write_text(
        "\ufeffimage; image2; label; id; patient; stratum; age\n"
        "far/a.nrrd; far/a_adc.nrrd; labels of us/a.nrrd; one; P7; benign; 40\n"
        "far/b.nrrd; far/b_adc.nrrd; ; two; P8; ; \n\n",
        encoding="utf-8",
    )
    folder = read_folder(tmp_path / "set.csv")
    assert (folder.layout, folder.root) == ("csv", tmp_path)
    assert [(pair.id, pair.patient, pair.stratum) for pair in folder.pairs] == [("one", "P7", "benign")]
    assert names(tmp_path, "csv") == [("one", ["far/a.nrrd", "far/a_adc.nrrd"], "labels of us/a.nrrd")]
    assert [str(one) for one in folder.findings] == ["two: its channel far/b_adc.nrrd is missing; the case is skipped"]
    assert folder.notes[0].startswith("set.csv: unknown columns, left out: age; expected columns image")


def test_columns_of_files_are_channels_by_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "a_t2.nii.gz", "a_adc.nii.gz")
    (tmp_path / "cases.csv").write_text("T2,ADC,site\na_t2.nii.gz,a_adc.nii.gz,here\n")
    folder = read_folder(tmp_path)
    assert (folder.channel_names, [pair.id for pair in folder.pairs]) == (("T2", "ADC"), ["a_t2"])
    assert "unknown columns, left out: site" in folder.notes[0]


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        ("plain", ["images/a.nii.gz", "labels/a.nii.gz"]),
        ("pictures", ["images/a.png", "masks/a.png"]),
        ("nnunet", ["imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"]),
        ("flat", ["a.nii.gz", "a_label.nii.gz"]),
        ("folder_per_case", ["a/image.nii.gz", "a/label.nii.gz"]),
        ("bids", ["sub-a/anat/sub-a_T1w.nii.gz"]),
    ],
)
def test_a_table_beside_another_layout_is_asked_for(layout: str, files: list[str], tmp_path: Path) -> None:
    touch(tmp_path, *files)
    (tmp_path / "cases.csv").write_text(f"image,patient\n{files[0]},P7\n")
    assert f"cases.csv lies in a folder of layout {layout}; choose data.layout=csv or {layout}" in refused(tmp_path)
    assert [pair.patient for pair in read_folder(tmp_path, "csv").pairs] == ["P7"]
    assert read_folder(tmp_path, layout).layout == layout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label,id\na.nii.gz,x\n", "no column of images among label, id"),
        ("image,image\na.nii.gz,b.nii.gz\n", "two columns are called image"),
        ("image\na.nii.gz,b.nii.gz\n", "line 2 has 2 cells"),
        ("", "has no header"),
        ("image,id\n,x\n", "x: cases.csv has nothing in its column image"),
        ("image,id\na.nii.gz,x\nb.nii.gz,x\n", "two images are called x"),
    ],
)
def test_a_table_that_can_not_be_understood_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text(text)
    assert said in refused(tmp_path / "cases.csv")


@pytest.mark.parametrize("header", ["Image;Label;ID;Patient", "IMAGE;label;Id;PATIENT"])
def test_columns_are_known_however_they_are_written(header: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "a_gt.nii.gz")
    (tmp_path / "cases.csv").write_text(f"{header}\na.nii.gz;a_gt.nii.gz;one;P7\n")
    (pair,) = read_folder(tmp_path).pairs
    assert (pair.id, pair.patient, pair.channels, pair.label) == ("one", "P7", (), tmp_path / "a_gt.nii.gz")
    patients = tmp_path / "patients.csv"
    patients.write_text("ID,Patient\none,P9\n")
    assert patients_of(["one"], str(patients)) == {"one": "P9"}


@pytest.mark.parametrize("columns", ["T1,Segmentation", "image,mask_file", "T1,roi2"])
def test_a_column_that_sounds_like_labels_is_asked_for_and_never_a_channel(columns: str, tmp_path: Path) -> None:
    (tmp_path / "cases.csv").write_text(f"{columns}\na.nii.gz,b.nii.gz\n")
    assert f"the column {columns.split(',')[1]} sounds like labels; call it label" in refused(tmp_path)


def test_a_mask_beside_a_column_of_labels_is_left_out_and_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "brain.nii.gz", "drawn.nii.gz")
    (tmp_path / "cases.csv").write_text("T1,brainmask,label\na.nii.gz,brain.nii.gz,drawn.nii.gz\n")
    folder = read_folder(tmp_path)
    assert folder.channel_names == ("T1",)
    assert names(tmp_path) == [("a", ["a.nii.gz"], "drawn.nii.gz")]
    assert "unknown columns, left out: brainmask" in folder.notes[0]


def test_a_case_without_a_patient_among_others_with_one_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "b.nii.gz")
    (tmp_path / "cases.csv").write_text("image,patient\na.nii.gz,p1\nb.nii.gz,\n", encoding="utf-8")
    refused_text = refused(tmp_path)
    assert "b has no patient, but others have" in refused_text
    (tmp_path / "cases.csv").write_text("image,patient\na.nii.gz,\nb.nii.gz,\n", encoding="utf-8")
    assert [pair.patient for pair in read_folder(tmp_path).pairs] == [None, None]


def test_images_of_one_name_in_several_folders_are_told_apart_in_the_message(tmp_path: Path) -> None:
    touch(tmp_path, "s/0/img.nii.gz", "s/1/img.nii.gz")
    (tmp_path / "all.csv").write_text("image\ns/0/img.nii.gz\ns/1/img.nii.gz\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"called img \(s/0/img.nii.gz, s/1/img.nii.gz\); give a column id"):
        read_folder(tmp_path / "all.csv")
