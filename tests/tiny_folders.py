"""Data folders and settings so small that every stage takes seconds; for the tests of the whole way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

SHAPE, SPACING = (16, 18, 8), (1.2, 1.0, 2.5)
LABELS = {"background": 0, "shell": 2, "core": 5}
ODD_CASE = "case_02"  # int16, axes turned and flipped, as from a scanner that counts from elsewhere

NETWORK = "network.arguments={channels: [4, 8], strides: [2], num_res_units: 0, norm: INSTANCE}"
TINY = (
    "preset=demo",
    "arms=[none,diffboost]",
    "data.folds=3",
    "prepare.workers=2",
    "diffusion.denoiser.channels=[16,16]",
    "diffusion.denoiser.head_channels=8",
    "diffusion.denoiser.text_width=16",
    "diffusion.denoiser.text_length=40",
    *(
        f"diffusion.{stage}.{setting}"
        for stage in ("pretrain", "finetune")
        for setting in ("steps=4", "batch=2", "checkpoint_every=2", "validate_every=2", "images_every=4")
    ),
    "gate.enabled=false",  # so weak a generator and segmenters refuse at random; GATE turns it on
    "synthesize.samples=1",
    "synthesize.steps=2",
    NETWORK,
    "network.divisor=4",
    "train.steps=4",
    "train.validate_every=2",
    "train.checkpoint_every=2",
    "train.images_every=4",
    "merge.cell=[4]",
    "runtime.device=cpu",
    "runtime.threads=1",
)

# a gate that takes seconds and refuses some of what it sees: volumes that are almost real, held against the middle of these
GATE = (
    "gate.enabled=true",
    "gate.percentile=50",
    "gate.copy_similarity=1",
    "synthesize.strength=0.1",
    "gate.leave_one_out=2",
    "gate.attempts=2",
    *(f"gate.training.{setting}" for setting in ("steps=60", "checkpoint_every=20", "images_every=60")),
)


def anatomy(number: int, shape: Sequence[int] = SHAPE) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """A noisy ball with a core, somewhere near the middle: image of about 0 to 900, label of 0, 2 and 5."""
    random = np.random.default_rng(number)
    shift = random.uniform(-0.15, 0.15, size=len(shape))
    places = np.meshgrid(
        *(np.linspace(-1, 1, size) - move for size, move in zip(shape, shift, strict=True)), indexing="ij"
    )
    radius = np.sqrt(sum(place**2 for place in places))
    label = np.where(radius < 0.35, LABELS["core"], np.where(radius < 0.7, LABELS["shell"], 0)).astype(np.uint8)
    image = 100.0 + 300.0 * (radius < 0.7) + 300.0 * (radius < 0.35) + random.normal(0, 30, label.shape)
    return image, label


def write_volumes(root: Path, count: int = 9) -> Path:
    """A plain folder of volumes with dataset.json; all on one canonical grid but for `ODD_CASE`'s turned axes."""
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    for number in range(count):
        case = f"case_{number:02d}"
        image, label = anatomy(number)
        affine = np.diag([*SPACING, 1.0])
        affine[:3, 3] = (-10.5, 4.25 + number, 33.0)
        pictured, labelled = nib.Nifti1Image(image.astype(np.float32), affine), nib.Nifti1Image(label, affine)
        if case == ODD_CASE:
            turn = nib.orientations.axcodes2ornt("LSA")
            pictured = nib.Nifti1Image((image - 1024).round().astype(np.int16), affine).as_reoriented(turn)
            labelled = labelled.as_reoriented(turn)
            pictured.set_data_dtype(np.int16)
        for one in (pictured, labelled):
            one.set_sform(one.affine, code=1 + number % 2)
            one.set_qform(one.affine, code=1)
            one.header.set_xyzt_units("mm")
        nib.save(pictured, root / "images" / f"{case}.nii.gz")
        nib.save(labelled, root / "labels" / f"{case}.nii.gz")
    _write_json(root / "dataset.json", {"name": "Balls", "modality": {"0": "MRI"}, "labels": LABELS})
    return root


def write_pictures(root: Path, count: int = 9) -> Path:
    """A plain folder of grey PNG pictures of 24 x 20 pixels, without dataset.json."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(count):
        image, label = anatomy(number, (24, 20))
        grey = np.clip(image / 4, 0, 255).astype(np.uint8)
        Image.fromarray(np.ascontiguousarray(grey.T)).save(root / "images" / f"p{number}.png")
        Image.fromarray(np.ascontiguousarray(label.T)).save(root / "masks" / f"p{number}.png")
    return root


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
