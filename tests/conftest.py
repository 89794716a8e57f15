"""Fixtures that several rooms share: a small MSD folder of turned, oblique volumes, and the real sample data."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

CASES, SHAPE = 12, (12, 14, 10)
LABELS = {"0": "background", "3": "shell", "7": "core"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first (those of this folder and of stages/), short ones last, so that no process waits for another."""
    items.sort(key=lambda item: item.path.as_posix(), reverse=True)  # within a file they stay in order


@pytest.fixture
def msd_folder(msd_original: Path, tmp_path: Path) -> Path:
    """A copy of `msd_original` that a test may spoil."""
    return shutil.copytree(msd_original, tmp_path / "data")


@pytest.fixture(scope="session")
def msd_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve int16 volumes (voxels of 1.0 x 1.2 x 2.0 mm, axes towards L, S and A, slightly oblique) and uint8 labels."""
    root = tmp_path_factory.mktemp("msd") / "data"
    for name in ("imagesTr", "labelsTr"):
        (root / name).mkdir(parents=True)
    tilt = np.deg2rad(7)
    rotation = np.array([[np.cos(tilt), -np.sin(tilt), 0], [np.sin(tilt), np.cos(tilt), 0], [0, 0, 1]])
    towards = np.array([[-1.0, 0, 0], [0, 0, 1.0], [0, 1.0, 0]])  # i to L, j to S, k to A
    affine = np.eye(4)
    affine[:3, :3] = rotation @ towards @ np.diag([1.0, 1.2, 2.0])
    training = []
    for number in range(CASES):
        random = np.random.default_rng(number)
        centre = np.array([5, 7, 4]) + random.integers(-1, 2, 3)
        distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(np.indices(SHAPE), centre, strict=True)))
        label = np.where(distance < 2, 7, np.where(distance < 4, 3, 0)).astype(np.uint8)
        image = (40.0 * label + random.normal(0, 10, SHAPE)).astype(np.int16)
        affine[:3, 3] = (30.0 + number, -12.5, 4.0)
        name = f"scan_{number:02d}.nii.gz"
        nib.save(nib.Nifti1Image(image, affine), root / "imagesTr" / name)
        nib.save(nib.Nifti1Image(label, affine), root / "labelsTr" / name)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    facts = {"name": "Nested balls", "modality": {"0": "MRI"}, "labels": LABELS, "training": training}
    (root / "dataset.json").write_text(json.dumps(facts), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real sample data; skips where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("DIFFBOOST3D_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"the real sample data is not at {folder}; set DIFFBOOST3D_DATA to its folder")
    return folder
