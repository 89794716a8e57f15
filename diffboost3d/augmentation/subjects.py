"""The volumes of a fold as TorchIO subjects, each real training case beside one of its synthetic children."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torchio as tio
from numpy.typing import NDArray

from diffboost3d.cases.accepted import Child, read_fold
from diffboost3d.cases.masks import read_masks
from diffboost3d.cases.records import Case, Manifest
from diffboost3d.cases.workspace import Workspace
from diffboost3d.imaging.files import PICTURE_ENDINGS, ending_of


def synthetic_subjects(
    workspace: Workspace | Path | str, fold: int = 0, samples: int | None = None, transform: Any = None
) -> tio.SubjectsDataset:
    """One subject for each accepted synthetic volume of a fold's training cases, ready for `CuboidMerge`.

    A subject has the real `image` and its `label`, the `synthetic` image and its `synthetic_label`, all on the grid, in the
    units and with the label values of the user's own files, read when needed; and `case`, `patient` and `sample`. A training
    case without an accepted volume comes once, beside itself (`sample` -1), so that merging leaves it as it is and all
    subjects have the same keys. Validation and test cases are not among them.

    Args:
        samples: synthetic volumes a case, at most; None: all accepted ones.
        transform: TorchIO transform of every subject, such as `tio.Compose([CuboidMerge(), ...])`.

    Raises:
        WorkspaceError: as `cases.accepted.read_fold`.
    """
    opened = workspace if isinstance(workspace, Workspace) else Workspace(workspace)
    manifest = opened.read_manifest()
    volumes = read_fold(opened, manifest, fold, samples)
    children: dict[str, list[Child | None]] = {case: [] for case in volumes.split.training}
    for child in volumes.children:
        children[child.record.case].append(child)
    subjects = [
        _subject(opened, manifest, manifest.case(case), child)
        for case, found in children.items()
        for child in found or [None]
    ]
    return tio.SubjectsDataset(subjects, transform=transform)


def _label(masks: Sequence[Path], known: Collection[int]) -> tio.LabelMap:
    """A label of one or several files, read when needed; of several, and of pictures, as `prepare` reads and joins them."""
    if len(masks) == 1 and ending_of(masks[0]) not in PICTURE_ENDINGS:
        return tio.LabelMap(masks[0])
    return tio.LabelMap(masks[0], reader=functools.partial(_joined, masks=tuple(masks), known=frozenset(known)))


def _joined(first: Path, masks: Sequence[Path], known: Collection[int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Label values (1, I, J, K) and the affine that TorchIO gives to the first file. Raises DataError as `read_masks`."""
    label, _, _ = read_masks(masks, known)
    dtype = np.uint8 if label.max(initial=0) <= np.iinfo(np.uint8).max else np.int32
    return label.astype(dtype)[None], tio.LabelMap(first).affine


def _subject(workspace: Workspace, manifest: Manifest, case: Case, child: Child | None) -> tio.Subject:
    assert case.label is not None  # training cases have one
    images = [workspace.source(manifest, path) for path in case.images]
    masks = [workspace.source(manifest, path) for path in (case.label, *case.masks)]
    made = [child.image, *child.channels] if child else images
    known = {*manifest.values.values(), *manifest.merged}
    return tio.Subject(
        image=tio.ScalarImage(images if len(images) > 1 else images[0]),
        label=_label(masks, known),
        synthetic=tio.ScalarImage(made if len(made) > 1 else made[0]),
        synthetic_label=_label([child.label] if child and child.label else masks, known),
        case=case.id,
        patient=case.patient,
        sample=child.record.sample if child else -1,
    )
