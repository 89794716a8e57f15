"""Draw docs/assets/cuboid-merge.png: what the options of CuboidMerge do, on volumes of the built-in cohort.

python docs/generate_gallery.py            write the picture
python docs/generate_gallery.py FILE.png   write it elsewhere

Real voxels are grey, the others orange, so that sources can be told apart; contours are the merged labels. Instead of
synthetic volumes, which need a trained generator, the same volumes with other grey values stand in.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchio as tio
from PIL import Image

from diffboost3d import CuboidMerge
from diffboost3d.cohort.ultrasound import make_ultrasound
from diffboost3d.cohort.volumes import make_ct, make_mr

PICTURE = Path(__file__).resolve().parent / "assets" / "cuboid-merge.png"
ORANGE = np.array([1.0, 0.62, 0.25])
CONTOURS = ("#56B4E9", "#00D084")
COLUMNS, DPI = 4, 100


@dataclass(frozen=True)
class Panel:
    """A title of two lines, and a plane: grey values (A, B) in [0, 1], share that is real, label; pixel size in mm."""

    title: str
    grey: np.ndarray
    real: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float]


def main(path: Path) -> None:
    torch.manual_seed(5)
    mr, ct, picture = mr_subject(0), ct_subject(2), ultrasound_subject(4)
    partner = mr_subject(3)
    partner = tio.Subject(image=mr.image, label=mr.label, synthetic=partner.image, synthetic_label=partner.label)
    panels = [
        merged("the real volume\n(alpha=1)", mr, alpha=1.0),
        merged("the other volume\n(alpha=0)", mr, alpha=0.0),
        merged("hard borders\ncell=12", mr, cell=12),
        merged("feathered borders\ncell=12, feather_mm=3", mr, cell=12, feather_mm=3.0),
        merged("real inside the labels\nmask_foreground=True", mr, alpha=0.3, cell=12, mask_foreground=True),
        merged("the same, feathered\nfeather_mm=3", mr, alpha=0.3, cell=12, mask_foreground=True, feather_mm=3.0),
        merged("a warped label, merged alike\nsynthetic_label", warped(mr), cell=12),
        merged("real with real (CutMix)\nimage and label of another case", partner, cell=12),
        merged("voxels of 2 x 2 x 4 mm, coronal\ncell=8: 16 x 16 x 32 mm", ct, axis=1, cell=8),
        merged("the same volume\ncell_mm=24: cubes in space", ct, axis=1, cell_mm=24.0),
        merged("2D (I, J, 1)\ncell=20", picture, cell=20),
        merged("2D, feathered\ncell=20, feather=3", picture, cell=20, feather=3.0),
    ]
    draw(panels, path)


def merged(title: str, subject: tio.Subject, axis: int = 2, **options: Any) -> Panel:
    """The middle plane across `axis` of a merged subject. Its history, replayed on ones and zeros, says what is real."""
    options = {"alpha": 0.5, **options}
    result = CuboidMerge(**options)(subject)
    indicator = tio.Subject(
        image=tio.ScalarImage(tensor=torch.ones(1, *subject.spatial_shape), affine=subject.image.affine),
        synthetic=tio.ScalarImage(tensor=torch.zeros(1, *subject.spatial_shape), affine=subject.image.affine),
        label=subject.label,
    )
    real = result.get_composed_history()(indicator).image
    at = subject.spatial_shape[axis] // 2
    planes = [np.take(image.data[0].numpy(), at, axis=axis) for image in (result.image, real, result.label)]
    spacing = [space for index, space in enumerate(subject.spacing) if index != axis]
    return Panel(title, planes[0], planes[1], planes[2], (spacing[0], spacing[1]))


def mr_subject(number: int) -> tio.Subject:
    phantom = make_mr(np.random.default_rng(number), (80, 80, 32))
    return pair(phantom.image, phantom.label, np.diag([1.5, 1.5, 2.5, 1.0]), np.percentile(phantom.image, [0.5, 99.5]))


def ct_subject(number: int) -> tio.Subject:
    phantom = make_ct(np.random.default_rng(number), (96, 80, 40))
    return pair(phantom.image, phantom.label, np.diag([2.0, 2.0, 4.0, 1.0]), (-160.0, 240.0))


def ultrasound_subject(number: int) -> tio.Subject:
    picture, mask, _ = make_ultrasound(np.random.default_rng(number), (112, 96))
    turned = [array.T[:, ::-1, None].copy() for array in (picture, mask // 255)]
    return pair(turned[0], turned[1], np.eye(4), (0.0, 255.0))


def pair(image: np.ndarray, label: np.ndarray, affine: np.ndarray, window: Any) -> tio.Subject:
    """A subject in [0, 1], and the same with other grey values as its synthetic volume."""
    low, high = window
    grey = torch.from_numpy(np.clip((image.astype(np.float32) - low) / (high - low), 0, 1))[None]
    return tio.Subject(
        image=tio.ScalarImage(tensor=grey, affine=affine),
        synthetic=tio.ScalarImage(tensor=0.15 + 0.85 * grey.sqrt(), affine=affine),
        label=tio.LabelMap(tensor=torch.from_numpy(label)[None], affine=affine),
    )


def warped(subject: tio.Subject) -> tio.Subject:
    """The subject with a synthetic volume of another shape and its own label."""
    move = tio.Affine(scales=(1.25, 0.85, 1.0), degrees=(0, 0, 18), translation=(6, -4, 0))
    other = move(tio.Subject(image=subject.synthetic, label=subject.label))
    return tio.Subject(image=subject.image, label=subject.label, synthetic=other.image, synthetic_label=other.label)


def draw(panels: list[Panel], path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(panels) // COLUMNS)
    figure = Figure(figsize=(2.6 * COLUMNS, 2.85 * rows), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(rows, COLUMNS).flat, panels, strict=True):
        show(axes, panel)
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3])
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(200, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(path, optimize=True)


def show(axes: Any, panel: Panel) -> None:
    """Draw a plane with its first axis to the right and its second up."""
    share = panel.real[..., None]
    colour = panel.grey[..., None] * (share + (1 - share) * ORANGE)
    width, height = (size * space for size, space in zip(panel.grey.shape, panel.spacing, strict=True))
    box = (0.0, width, 0.0, height)
    axes.imshow(np.clip(colour, 0, 1).transpose(1, 0, 2), origin="lower", extent=box, interpolation="nearest")
    for value, line in enumerate(CONTOURS, start=1):
        inside = (panel.label == value).T
        if inside.any():
            axes.contour(inside, levels=[0.5], colors=[line], linewidths=1.2, extent=box, origin="lower")
    axes.set_aspect("equal")
    axes.set_title(panel.title, fontsize=8)
    axes.set_axis_off()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
