"""A fold's volumes as TorchIO subjects: whose they are, and that `CuboidMerge` takes them as they come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchio as tio
from PIL import Image
from pretended_synthesis import give_label, pretend_to_synthesize, record
from tiny_folders import anatomy, write_volumes

import diffboost3d
from diffboost3d.cli import main


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> diffboost3d.Workspace:
    folder = tmp_path_factory.mktemp("subjects")
    write_volumes(folder / "data")
    assert main(["prepare", f"data.root={folder / 'data'}", f"workspace={folder / 'ws'}", "prepare.workers=1"]) == 0
    opened = diffboost3d.Workspace(folder / "ws")
    pretend_to_synthesize(opened, 1)
    first, second, *_ = opened.read_split(1).training
    give_label(opened, 1, first, 0)
    for sample in (0, 1):
        record(opened, 1, second, sample, accepted=False)
    return opened


def test_each_accepted_volume_stands_beside_its_own_training_case(workspace: diffboost3d.Workspace) -> None:
    subjects = diffboost3d.synthetic_subjects(workspace, fold=1).dry_iter()
    training = workspace.read_split(1).training
    pairs = [(subject.case, subject.sample) for subject in subjects]
    others = [case for case in training if case != training[1]]
    assert sorted(pairs) == sorted([(case, s) for case in others for s in (0, 1)] + [(training[1], -1)])


def test_image_and_children_lie_on_one_grid_with_labels_of_their_own(workspace: diffboost3d.Workspace) -> None:
    first = workspace.read_split(1).training[0]
    for subject in diffboost3d.synthetic_subjects(workspace.root, 1):
        assert np.array_equal(subject.image.affine, subject.synthetic.affine)
        assert subject.image.shape == subject.synthetic.shape == subject.label.shape == subject.synthetic_label.shape
        same = torch.equal(subject.label.data, subject.synthetic_label.data)
        assert same == ((subject.case, subject.sample) != (first, 0))
        assert torch.equal(subject.image.data, subject.synthetic.data) == (subject.sample == -1)


def test_cuboid_merge_and_a_loader_take_them(workspace: diffboost3d.Workspace) -> None:
    transform = tio.Compose(
        [
            tio.ToCanonical(),
            tio.CropOrPad((8, 8, 8)),
            diffboost3d.CuboidMerge(alpha=0.0, cell=4),
            tio.RescaleIntensity(),
        ]
    )
    subjects = diffboost3d.synthetic_subjects(workspace, 1, samples=1, transform=transform)
    batch = next(iter(tio.SubjectsLoader(subjects, batch_size=len(subjects))))
    assert batch["image"][tio.DATA].shape == (len(subjects), 1, 8, 8, 8)
    merged = tio.Compose([diffboost3d.CuboidMerge(alpha=0.0, cell=4)])
    for subject in diffboost3d.synthetic_subjects(workspace, 1, transform=merged):
        assert torch.equal(subject.image.data, subject.synthetic.data)
        assert torch.equal(subject.label.data, subject.synthetic_label.data)


def test_several_masks_of_a_picture_are_one_label(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(4):
        image, _ = anatomy(number, (24, 20))
        Image.fromarray(np.clip(image.T / 4, 0, 255).astype(np.uint8)).save(folder / f"p{number}.png")
        for name, corner in (("mask", 3), ("mask_1", 12)):
            mask = np.zeros((20, 24), np.uint8)
            mask[corner : corner + 4, corner : corner + 6] = 255
            Image.fromarray(mask).save(folder / f"p{number}_{name}.png")
    words = [f"data.root={folder}", f"workspace={tmp_path / 'ws'}", "prepare.workers=1", "data.folds=2"]
    assert main(["prepare", *words, "data.near_duplicates=none"]) == 0
    workspace = diffboost3d.Workspace(tmp_path / "ws")
    pretend_to_synthesize(workspace, 0, samples=1)
    for subject in diffboost3d.synthetic_subjects(workspace, 0):
        found = subject.label.data[0, :, :, 0].numpy().T
        assert found.dtype == np.uint8
        assert (found[3:7, 3:9] == 255).all()
        assert (found[12:16, 12:18] == 255).all()
        assert (found > 0).sum() == 2 * 4 * 6
        assert torch.equal(subject.label.data, subject.synthetic_label.data)
        assert np.array_equal(subject.label.affine, subject.image.affine)
        assert subject.label.shape == subject.image.shape == subject.synthetic.shape
