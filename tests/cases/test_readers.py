"""Readers: the folders that people have, what each becomes, and what is refused because it could be meant in two ways."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from reader_folders import names, refused, touch

from diffboost3d.cases.checks import check_pair
from diffboost3d.cases.layouts import READERS, read_folder
from diffboost3d.cases.splits import patients_of
from diffboost3d.errors import DataError
from diffboost3d.schema import DataConfig


def write_facts(root: Path, **facts: Any) -> None:
    (root / "dataset.json").write_text(json.dumps(facts))


def test_every_reader_can_be_insisted_on_by_its_name() -> None:
    allowed = DataConfig.__dataclass_fields__["layout"].metadata["choices"]
    assert set(allowed) == {"auto", *READERS}


# --- nnU-Net ---------------------------------------------------------------------------------------------------------
def test_channels_are_numbered_files_and_a_missing_one_costs_its_case_alone(tmp_path: Path) -> None:
    touch(tmp_path, *(f"imagesTr/{case}_000{c}.nrrd" for case in ("p1", "p2", "p3") for c in (0, 1)))
    touch(tmp_path, *(f"labelsTr/{case}.nrrd" for case in ("p1", "p2", "p3")))
    (tmp_path / "imagesTr" / "p2_0000.nrrd").unlink()
    write_facts(
        tmp_path, channel_names={"0": "T2", "1": "ADC"}, labels={"background": 0, "zone": 1}, file_ending=".nrrd"
    )
    folder = read_folder(tmp_path)
    assert (folder.layout, folder.channel_names, folder.modality) == ("nnunet", ("T2", "ADC"), "T2")
    assert names(tmp_path) == [
        (case, [f"imagesTr/{case}_0000.nrrd", f"imagesTr/{case}_0001.nrrd"], f"labelsTr/{case}.nrrd")
        for case in ("p1", "p3")
    ]
    assert [str(one) for one in folder.findings] == ["p2: its channel p2_0000 is missing; the case is skipped"]


def test_files_of_a_channel_that_is_not_named_are_not_taken_for_the_one_that_is(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/p1_0001.nii.gz", "imagesTr/p2_0000.nii.gz", "labelsTr/p1.nii.gz", "labelsTr/p2.nii.gz")
    write_facts(tmp_path, channel_names={"0": "T2"}, labels={"background": 0, "zone": 1}, file_ending=".nii.gz")
    folder = read_folder(tmp_path)
    assert [pair.id for pair in folder.pairs] == ["p2"]
    said = "its channel p1_0000 is missing; there is p1_0001.nii.gz, a channel that dataset.json does not name"
    assert [str(one) for one in folder.findings] == [f"p1: {said}; the case is skipped"]
    (tmp_path / "imagesTr" / "p2_0000.nii.gz").unlink()
    assert said in refused(tmp_path)


@pytest.mark.parametrize("layout", ["images/{}.nii.gz", "imagesTr/{}_0000.nii.gz", "{}.nii.gz", "{}/image.nii.gz"])
def test_a_link_to_nothing_is_a_case_that_is_named(layout: str, tmp_path: Path) -> None:
    labels = {"images/{}.nii.gz": "labels/{}.nii.gz", "imagesTr/{}_0000.nii.gz": "labelsTr/{}.nii.gz"}
    for case in ("a", "b", "c"):
        touch(tmp_path, labels.get(layout, layout.replace(".nii", "_label.nii").replace("image_", "")).format(case))
        touch(tmp_path, layout.format(case))
    image = tmp_path / layout.format("b")
    image.unlink()
    image.symlink_to("elsewhere.nii.gz")
    pairs = {pair.id: pair for pair in read_folder(tmp_path).pairs}
    assert list(pairs) == ["a", "b", "c"]
    checked, finding = check_pair(pairs["b"], None)
    assert checked is None
    assert f"{image}: a link to elsewhere.nii.gz, which is not there" in str(finding)


@pytest.mark.parametrize("volumes", ["{}.nii.gz {}_label.nii.gz", "{}/image.nii.gz {}/label.nii.gz"])
def test_a_stray_picture_does_not_make_a_folder_of_volumes_one_of_pictures(volumes: str, tmp_path: Path) -> None:
    touch(tmp_path, *(name.format(case) for case in "ab" for name in volumes.split()), "x.png", "x_mask.png")
    folder = read_folder(tmp_path)
    assert [pair.id for pair in folder.pairs] == ["a", "b"]
    assert folder.notes == ("2 pictures are left aside, since the folder mostly holds volumes: x.png, x_mask.png",)


def test_a_folder_is_of_the_kind_that_most_of_its_images_are_of(tmp_path: Path) -> None:
    touch(tmp_path / "p", "a.png", "a_mask.png", "b.png", "b_mask.png", "c.nii.gz", "c_label.nii.gz")
    folder = read_folder(tmp_path / "p")
    assert (folder.layout, [pair.id for pair in folder.pairs]) == ("pictures", ["a", "b"])
    assert "2 volumes are left aside" in folder.notes[0]
    for kind, other in ((".png", ".nii.gz"), (".nii.gz", ".png")):
        root = touch(tmp_path / kind, *(f"{part}/{case}{kind}" for case in "ab" for part in ("images", "masks")))
        touch(root, f"images/c{other}", f"masks/c{other}")
        folder = read_folder(root)
        assert [pair.id for pair in folder.pairs] == ["a", "b"]
        assert [one.case for one in folder.findings] == ["c"]


def test_version_1_lists_names_without_channels(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/a.nii.gz", "labelsTr/b.nii.gz")
    training = [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}]
    write_facts(tmp_path, modality={"0": "CT"}, labels={"0": "background", "1": "liver"}, training=training)
    folder = read_folder(tmp_path)
    assert (folder.layout, folder.modality, folder.unlisted) == ("nnunet", "CT", 1)
    assert folder.labels == {"background": 0, "liver": 1}
    assert names(tmp_path) == [("a", ["imagesTr/a_0000.nii.gz"], "labelsTr/a.nii.gz")]


def test_version_2_may_list_paths(tmp_path: Path) -> None:
    touch(tmp_path, "raw/x1.nii.gz", "raw/x2.nii.gz", "drawn/x.nii.gz", "imagesTr/old_0000.nii.gz", "raw/y1.nii.gz")
    listed = {
        "x": {"images": ["raw/x1.nii.gz", "raw/x2.nii.gz"], "label": "drawn/x.nii.gz"},
        "y": {"images": ["raw/y1.nii.gz", "raw/y2.nii.gz"], "label": "drawn/y.nii.gz"},
    }
    write_facts(tmp_path, channel_names={"0": "T1", "1": "T2"}, labels={"background": 0, "a": 1}, dataset=listed)
    assert names(tmp_path) == [("x", ["raw/x1.nii.gz", "raw/x2.nii.gz"], "drawn/x.nii.gz")]
    assert [one.problem for one in read_folder(tmp_path).findings] == ["its channel y2.nii.gz is missing"]


def test_the_ignore_label_is_taken_up_and_regions_are_said_to_be_none(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    write_facts(tmp_path, labels={"background": 0, "organ": 1, "ignore": 2})
    folder = read_folder(tmp_path)
    assert (folder.labels, folder.ignore_label, folder.notes) == ({"background": 0, "organ": 1}, 2, ())
    regions = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    write_facts(tmp_path, labels=regions, regions_class_order=[1, 2])
    folder = read_folder(tmp_path)
    assert (folder.labels, folder.ignore_label) == (None, 3)
    assert "regions (whole, core)" in folder.notes[0]


def test_another_file_ending_than_told_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a_0000.nii.gz")
    write_facts(tmp_path, file_ending=".nrrd")
    assert "file_ending=.nrrd, but a_0000.nii.gz is in imagesTr" in refused(tmp_path)
    write_facts(tmp_path, file_ending=".gipl")
    assert "file_ending=.gipl can't be read; allowed: .nii.gz" in refused(tmp_path)


def test_nnunet_labels_pair_by_name_whatever_the_ending_and_the_rest_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/c0_0000.nii.gz", "labelsTr/c0.nii", "imagesTr/c1_0000.nii.gz", "labelsTr/zz.nii.gz")
    touch(tmp_path, "labelsTr/c1.nrrd", "labelsTr/c1.nii.gz")
    assert names(tmp_path) == [
        ("c0", ["imagesTr/c0_0000.nii.gz"], "labelsTr/c0.nii"),
        ("c1", ["imagesTr/c1_0000.nii.gz"], "labelsTr/c1.nii.gz"),
    ]
    assert read_folder(tmp_path).notes == ("2 labels have no image: labelsTr/c1.nrrd, labelsTr/zz.nii.gz",)


@pytest.mark.parametrize("number", ["", "_0000"])
def test_labels_of_images_that_the_list_leaves_out_are_not_lost(number: str, tmp_path: Path) -> None:
    touch(tmp_path, *(f"imagesTr/{case}{number}.nii.gz" for case in "ab"))
    touch(tmp_path, *(f"labelsTr/{case}.nii.gz" for case in "abxyzw"))
    write_facts(tmp_path, training=[{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}])
    folder = read_folder(tmp_path)
    assert (folder.layout, folder.unlisted) == ("nnunet" if number else "msd", 1)
    assert folder.notes == ("4 labels have no image: labelsTr/w.nii.gz, labelsTr/x.nii.gz, labelsTr/y.nii.gz, ...",)


# --- images/ beside labels/ ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("end", ["_seg.nii.gz", "_label.nii.gz", "_mask.nii.gz", ".seg.nrrd", ".nii"])
def test_labels_in_their_folder_may_be_marked_as_labels(end: str, tmp_path: Path) -> None:
    touch(tmp_path, "images/case 0.nii.gz", f"labels/case 0{end}", "images/b_image.nii.gz", f"labels/b{end}")
    assert [label for *_, label in names(tmp_path)] == [f"labels/b{end}", f"labels/case 0{end}"]
    assert read_folder(tmp_path).notes == ()


def test_labels_that_no_image_has_are_counted_and_three_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.nii.gz", "labels/A.nii.gz", *(f"labels/x{number}.nii.gz" for number in range(4)))
    folder = read_folder(tmp_path)
    assert [pair.missing for pair in folder.pairs] == ["labels/a.nii.gz"]
    assert folder.notes == ("5 labels have no image: labels/A.nii.gz, labels/x0.nii.gz, labels/x1.nii.gz, ...",)


def test_a_name_is_itself_before_it_is_one_and_a_word(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{part}/{name}.nii.gz" for part in ("images", "labels") for name in ("a", "a_seg")))
    assert [label for *_, label in names(tmp_path)] == ["labels/a.nii.gz", "labels/a_seg.nii.gz"]
    touch(tmp_path, "labels/a_mask.nii.gz")
    assert "a.nii.gz and a_mask.nii.gz could both be meant for a" in refused(tmp_path)


# --- a label that is missing -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("{}.nii.gz", "{}_label.nii.gz"),
        ("{}/scan.nii.gz", "{}/seg.nii.gz"),
        ("{0}/{0}_scan.nii.gz", "{0}/{0}_seg.nii.gz"),
    ],
)
def test_a_lost_label_is_named_where_most_others_are_there(image: str, label: str, tmp_path: Path) -> None:
    touch(tmp_path, *(name.format(case) for case in ("l1", "l2", "l3", "l4") for name in (image, label)))
    for count, lost in ((1, label.format("l2")), (2, None)):
        (tmp_path / label.format(f"l{count + 1}")).unlink()
        missing = {pair.id: pair.missing for pair in read_folder(tmp_path).pairs}
        assert missing == {"l1": None, "l2": lost, "l3": None, "l4": None}


def test_an_empty_cell_is_a_missing_label_where_most_have_one(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}.nii.gz" for name in "abcxyz"))
    (tmp_path / "cases.csv").write_text("image,label\na.nii.gz,x.nii.gz\nb.nii.gz,y.nii.gz\nc.nii.gz,\n")
    assert [pair.missing for pair in read_folder(tmp_path).pairs] == [None, None, "in cases.csv"]


def test_a_folder_with_a_label_alone_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "p1/image.nii.gz", "p1/label.nii.gz", "p2/label.nii.gz")
    folder = read_folder(tmp_path)
    assert [pair.id for pair in folder.pairs] == ["p1"]
    assert folder.notes == ("1 label has no image: p2/label.nii.gz",)


# --- files beside each other -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("word", ["_label", "_seg", "_mask", "-labels", ".segmentation"])
def test_labels_beside_their_images_are_told_by_their_names(word: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.nrrd", f"a{word}.nrrd", "b_image.mha", f"b{word}.nii.gz", "c.nii.gz", "notes.txt")
    assert read_folder(tmp_path).layout == "flat"
    assert names(tmp_path) == [
        ("a", ["a.nrrd"], f"a{word}.nrrd"),
        ("b", ["b_image.mha"], f"b{word}.nii.gz"),
        ("c", ["c.nii.gz"], None),
    ]


def test_upper_and_lower_case_tell_a_label_alike(tmp_path: Path) -> None:
    touch(tmp_path / "flat", "Case0_Image.nii.gz", "Case0_Label.nii.gz")
    assert names(tmp_path / "flat") == [("Case0", ["Case0_Image.nii.gz"], "Case0_Label.nii.gz")]
    for layout, end in (("plain", ".nii.gz"), ("pictures", ".png")):
        root = touch(tmp_path / layout, f"Images/a{end}", f"Masks/a{end}", f"Images/b{end}")
        assert read_folder(root).layout == layout
        assert names(root) == [("a", [f"Images/a{end}"], f"Masks/a{end}"), ("b", [f"Images/b{end}"], None)]
        assert read_folder(root).pairs[1].missing == f"Masks/b{end}"


def test_two_labels_of_an_image_are_refused_and_a_lonely_label_is_said(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "a_seg.nii.gz", "z_seg.nii.gz")
    assert [one.problem for one in read_folder(tmp_path).findings] == ["z_seg.nii.gz has no image beside it"]
    touch(tmp_path, "a_mask.nii.gz")
    assert "a_mask.nii.gz and a_seg.nii.gz could both be meant for a" in refused(tmp_path)


@pytest.mark.parametrize("wrong", ["c3_lable", "c3_gt", "c3-lesion", "c3_brainmask", "c3.gt_2"])
@pytest.mark.parametrize("image", ["c3", "c3_image"])
def test_a_file_called_as_an_image_and_a_word_is_no_image(image: str, wrong: str, tmp_path: Path) -> None:
    touch(tmp_path, "c1.nii.gz", "c1_label.nii.gz", f"{image}.nii.gz", f"{wrong}.nii.gz")
    folder = read_folder(tmp_path)
    assert [pair.id for pair in folder.pairs] == ["c1", "c3"]
    assert [one.case for one in folder.findings] == [wrong]
    assert f"{wrong}.nii.gz could be a label of c3" in folder.findings[0].problem


def test_images_of_longer_names_that_have_labels_are_images(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}{end}.nii.gz" for name in ("p1", "p1_post") for end in ("", "_label")), "p10.nii.gz")
    touch(tmp_path, "p1_2.nii.gz", "p1post.nii.gz")
    folder = read_folder(tmp_path)
    assert [pair.id for pair in folder.pairs] == ["p1", "p10", "p1_2", "p1_post", "p1post"]
    assert folder.findings == ()


def test_one_folder_a_case_with_one_image_however_it_is_called(tmp_path: Path) -> None:
    touch(tmp_path, "p1/image.nii.gz", "p1/label.nii.gz", "p2/p2_scan.nrrd", "p2/p2_seg.nrrd", "p3/image.nii.gz")
    assert read_folder(tmp_path).layout == "folder_per_case"
    assert names(tmp_path) == [
        ("p1", ["p1/image.nii.gz"], "p1/label.nii.gz"),
        ("p2", ["p2/p2_scan.nrrd"], "p2/p2_seg.nrrd"),
        ("p3", ["p3/image.nii.gz"], None),
    ]


def test_a_mask_in_all_folders_beside_the_label_is_no_channel(tmp_path: Path) -> None:
    for case in ("p1", "p2"):
        touch(tmp_path, *(f"{case}/{name}.nii.gz" for name in ("image", "brainmask", "label")))
    assert "brainmask sounds like a label" in refused(tmp_path)


def test_images_of_the_same_names_in_all_folders_are_channels(tmp_path: Path) -> None:
    for case in ("B_1", "B_2", "B_3"):
        touch(tmp_path, *(f"{case}/{case}_{name}.nii.gz" for name in ("t1", "flair", "seg")))
    (tmp_path / "B_3" / "B_3_t1.nii.gz").unlink()
    folder = read_folder(tmp_path)
    assert folder.channel_names == ("flair", "t1")
    assert names(tmp_path)[0] == ("B_1", ["B_1/B_1_flair.nii.gz", "B_1/B_1_t1.nii.gz"], "B_1/B_1_seg.nii.gz")
    assert [str(one) for one in folder.findings] == ["B_3: its channel B_3/t1 is missing; the case is skipped"]
    touch(tmp_path, "B_1/B_1_other.nii.gz")
    assert "B_1: 3 images" in refused(tmp_path)
    touch(tmp_path, "B_2/B_2_mask.nii.gz")
    assert "could both be meant for B_2" in refused(tmp_path)


def test_labels_in_the_folder_and_in_its_folders_are_two_layouts(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "a_seg.nii.gz", "p1/image.nii.gz", "p1/label.nii.gz")
    assert "choose data.layout=flat or folder_per_case" in refused(tmp_path)
    assert [case for case, *_ in names(tmp_path, "flat")] == ["a"]


# --- nothing known ---------------------------------------------------------------------------------------------------
def test_a_folder_of_no_layout_is_described(tmp_path: Path) -> None:
    touch(tmp_path, "x/readme.txt", "y/a.nii.gz", "b.nii.gz", "notes.txt")
    assert re.search(
        r"isn't recognised; found 2 folders \(x/, y/\), 1 image \(b.nii.gz\), 1 other file; expected imagesTr/",
        refused(tmp_path),
    )
    assert "is a file, but no CSV" in refused(tmp_path / "b.nii.gz")


# --- patients --------------------------------------------------------------------------------------------------------
def test_a_table_of_patients_goes_before_what_the_folder_tells(tmp_path: Path) -> None:
    told = {"a1": "A"}
    assert patients_of(["a1", "b1"], "case", told) == {"a1": "A", "b1": "b1"}
    assert patients_of(["a1", "b1"], "(.)1", told) == {"a1": "a", "b1": "b"}
    table = tmp_path / "patients.csv"
    table.write_text("id,patient,sex\na1,P\na2,P\nb1,Q\nmore,R\n")
    assert patients_of(["a1", "a2", "b1"], str(table), told) == {"a1": "P", "a2": "P", "b1": "Q"}
    wrong = {
        "id,patient\na1,P\n": "1 cases are not in it, the first 'b1'",
        "id\na1\n": "no column patient",
        "id,patient\na1,P\na1,Q\n": "a1 has two patients, P and Q",
        "id,patient\na1,\n": "a1 has no patient",
    }
    for text, said in wrong.items():
        table.write_text(text)
        with pytest.raises(DataError, match=re.escape(said)):
            patients_of(["a1", "b1"], str(table))
    with pytest.raises(DataError, match=r"data\.patients=none\.csv: no such file"):
        patients_of(["a1"], "none.csv")


@pytest.mark.parametrize("name", ["../out", "a/b", ".", ".."])
def test_a_case_can_not_be_named_as_a_folder(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"")
    (tmp_path / "cases.csv").write_text(f"id,image\n{name},a.nii.gz\n")
    with pytest.raises(DataError, match="can't be the name of a case"):
        read_folder(tmp_path / "cases.csv")


def test_two_labels_of_an_image_are_refused_with_both_names(tmp_path: Path) -> None:
    for name in ("images/a.nii.gz", "labels/a.nii.gz", "masks/a.nrrd"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.nii\.gz and a\.nrrd could both be meant for a"):
        read_folder(tmp_path)
