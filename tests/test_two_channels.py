"""The whole way with two image channels: a 4D file or a file a channel in, the same form out, and the same bytes on resume."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torchio as tio
from tiny_folders import GATE, LABELS, TINY
from two_channels import NAMES, contrasts, write_msd, write_nnunet

from diffboost3d.augmentation.subjects import synthetic_subjects
from diffboost3d.cases.workspace import Workspace
from diffboost3d.cli import main

FEW = ("data.folds=3", "train.steps=2", "synthesize.keep_background=false", "prepare.workers=1")


def words(folder, workspace, *more):
    return [f"data.root={folder}", f"workspace={workspace}", *TINY, *FEW, *more]


def values(path):
    return np.asarray(nib.load(path).dataobj)


@pytest.fixture(scope="module")
def in_one_file(tmp_path_factory):
    """A run with a gate, the classical stack and volumes of new anatomy on 4D files."""
    folder = tmp_path_factory.mktemp("4d")
    write_msd(folder / "data")
    more = (*GATE, "gate.range_margin=100", "gate.percentile=0", "arms=[none,diffboost_classical]")
    assert main(["run", *words(folder / "data", folder / "ws", *more)]) == 0
    return folder


@pytest.fixture(scope="module")
def in_two_files(tmp_path_factory):
    """The stages up to synthesis on a file a channel, with shading corrected."""
    folder = tmp_path_factory.mktemp("files")
    write_nnunet(folder / "data")
    given = words(folder / "data", folder / "ws", "prepare.bias_field=n4", "prepare.n4.iterations=[4,4]")
    for stage in ("prepare", "pretrain", "finetune", "synthesize"):
        assert main([stage, *given]) == 0
    return folder, given


def made(folder):
    return sorted(path for path in (folder / "ws" / "synthetic").rglob("case_*/[0-9]*.nii.gz"))


def test_prepared_images_hold_both_channels_each_on_its_own_scale(in_one_file):
    manifest = Workspace(in_one_file / "ws").read_manifest()
    assert manifest.channels == NAMES
    case = manifest.case("case_00")
    image = values(in_one_file / "ws" / "prepared" / "case_00" / "image.nii.gz")
    assert image.shape == (*case.grid.shape, 2)
    assert values(in_one_file / "ws" / "prepared" / "case_00" / "edge.nii.gz").shape == case.grid.shape
    for channel, (array, scale) in enumerate(zip(contrasts(0)[:2], case.maps, strict=True)):
        assert (scale.low, scale.high) == tuple(np.percentile(array, (0.5, 99.5)))
        assert np.allclose(image[..., channel], scale.forward(array), atol=1e-5)


def test_both_forms_of_the_same_images_prepare_alike(in_one_file, tmp_path):
    write_nnunet(tmp_path / "data")
    assert main(["prepare", *words(tmp_path / "data", tmp_path / "ws")]) == 0
    for kind in ("image", "edge", "label"):
        first, second = (
            folder / "ws" / "prepared" / "case_03" / f"{kind}.nii.gz" for folder in (in_one_file, tmp_path)
        )
        assert first.read_bytes() == second.read_bytes()


def test_synthetic_volumes_have_the_form_of_their_sources(in_one_file, in_two_files):
    for path in made(in_one_file):
        source = nib.load(in_one_file / "data" / "imagesTr" / f"{path.parent.name}.nii.gz")
        assert nib.load(path).shape == source.shape == (*contrasts(0)[2].shape, 2)
        assert np.array_equal(nib.load(path).affine, source.affine)
    folder, _ = in_two_files
    names = {path.name for path in made(folder)}
    assert names == {"00_0000.nii.gz", "00_0001.nii.gz"}
    for path in made(folder):
        source = nib.load(folder / "data" / "imagesTr" / path.name.replace("00_", f"{path.parent.name}_", 1))
        assert nib.load(path).get_data_dtype() == source.get_data_dtype()
        assert values(path).min() >= values(source.get_filename()).min()
        assert values(path).max() <= values(source.get_filename()).max()


def test_shading_that_was_corrected_comes_back_and_the_file_stays(in_two_files):
    folder, _ = in_two_files
    field = values(folder / "ws" / "prepared" / "case_00" / "bias.nii.gz")
    assert field.shape == (*contrasts(0)[2].shape, 2)
    assert field.min() > 0
    assert np.array_equal(values(folder / "data" / "imagesTr" / "case_00_0000.nii.gz"), contrasts(0)[0])


def test_volumes_that_were_deleted_come_back_with_the_same_bytes(in_two_files):
    folder, given = in_two_files
    before = {path: path.read_bytes() for path in made(folder)}
    second = next(path for path in before if path.name == "00_0001.nii.gz")
    second.unlink()
    assert main(["synthesize", *given]) == 0
    assert {path: path.read_bytes() for path in made(folder)} == before


def test_segmenters_read_both_channels_and_predict_4d_files_and_numbered_ones_alike(in_one_file, tmp_path):
    record = json.loads((in_one_file / "ws/segmentation/fold0/none/seed0/record.json").read_text())
    assert record["in_channels"] == 2
    numbered, whole = tmp_path / "numbered", tmp_path / "whole"
    for name, source in (("imagesTr", write_nnunet(tmp_path / "n", 2)), ("imagesTr", write_msd(tmp_path / "m", 2))):
        shutil.copytree(source / name, numbered if source.name == "n" else whole)
    for folder in (numbered, whole):
        arguments = [f"predict.input={folder}", f"predict.output={folder}_labels", "predict.arm=none", *TINY]
        assert main(["predict", f"workspace={in_one_file / 'ws'}", *arguments]) == 0
    labels = [values(tmp_path / f"{name}_labels" / "case_01.nii.gz") for name in ("numbered", "whole")]
    assert labels[0].shape == contrasts(1)[2].shape
    assert np.array_equal(*labels)
    assert set(np.unique(labels[0])) <= set(LABELS.values())


def test_a_case_without_its_second_channel_is_refused_by_name(in_one_file, tmp_path, capsys):
    source = write_nnunet(tmp_path / "n", 1)
    (source / "imagesTr" / "case_00_0001.nii.gz").unlink()
    arguments = [
        f"predict.input={source / 'imagesTr'}",
        f"predict.output={tmp_path / 'out'}",
        "predict.arm=none",
        *TINY,
    ]
    assert main(["predict", f"workspace={in_one_file / 'ws'}", *arguments]) == 1
    assert "1 volume of shape" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["nnunet", "msd"])
def test_exports_have_the_channels_of_their_form(form, in_one_file, in_two_files):
    for folder in (in_one_file, in_two_files[0]):
        target = folder / f"export_{form}"
        arguments = words(folder / "data", folder / "ws", f"export.format={form}", f"export.target={target}")
        assert main(["export", *arguments]) == 0
        (described,) = target.glob("*/dataset.json")
        facts = json.loads(described.read_text())
        assert facts["channel_names" if form == "nnunet" else "modality"] == {"0": "T2", "1": "ADC"}
        images = sorted(described.parent.glob("imagesTr/case_*synthetic*"))
        real = sorted(described.parent.glob("imagesTr/case_*"))
        assert images
        shapes = {nib.load(path).shape for path in real}
        assert shapes == {contrasts(0)[2].shape if form == "nnunet" else (*contrasts(0)[2].shape, 2)}
        case = real[0].name[:7]
        read = [values(path) for path in real if path.name.startswith(case) and "synthetic" not in path.name]
        channels = read if form == "nnunet" else [read[0][..., 0], read[0][..., 1]]
        for one, own in zip(channels, contrasts(int(case[5:7])), strict=False):
            assert np.array_equal(one, own)


def test_subjects_for_torchio_have_both_channels(in_one_file, in_two_files):
    for folder in (in_one_file, in_two_files[0]):
        subject = synthetic_subjects(folder / "ws")[0]
        assert isinstance(subject, tio.Subject)
        assert subject.image.data.shape[0] == subject.synthetic.data.shape[0] == 2


def test_the_report_tells_how_channels_agree(in_one_file):
    assert "channel information ratio" in (in_one_file / "ws" / "report" / "index.html").read_text(encoding="utf-8")
