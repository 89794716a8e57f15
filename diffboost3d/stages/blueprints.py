"""What each synthetic volume is made from: the image to start from, the edges to follow, and the label that it will have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.augmentation.warping import Warp
from diffboost3d.cases.records import Case, Manifest, SyntheticRecord
from diffboost3d.cases.workspace import Workspace
from diffboost3d.imaging.edges import ControlSlices
from diffboost3d.imaging.scratch import IN_MEMORY, Scratch
from diffboost3d.schema import Config
from diffboost3d.segmentation.inference import label_in_source
from diffboost3d.stages.anatomies import SAME, Anatomies, Anatomy, anatomy_kept, in_anatomy
from diffboost3d.stages.edge_operator import device_of_prepare, edge_operator
from diffboost3d.stages.inputs import prepared, slice_axis


@dataclass(frozen=True)
class Blueprint:
    """All on the prepared grid (I, J, K) of the case.

    Attributes:
        image: in [-1, 1], where sampling starts if strength < 1, and whose spectrum is taken.
        edges: in [0, 1]. label: 0, 1, 2, ..., steers as boundaries, and is the label of what is made.
        anatomy: where the shapes come from; "same" and what follows: they are those of the case.
        warp: that made them of those of the case; None: they are those.
    """

    image: NDArray[np.float32]
    edges: NDArray[np.float32]
    label: NDArray[np.uint8]
    anatomy: str = SAME
    warp: Warp | None = None

    @property
    def has_own_label(self) -> bool:
        """Whether the label differs from that of the case."""
        return self.warp is not None

    def label_in_source(self, manifest: Manifest, case: Case) -> NDArray[np.int64]:
        """The label (I, J, K) on the grid of the case's file, in the user's values."""
        shares = np.stack([self.label == value for value in manifest.values]).astype(np.float32)
        return label_in_source(shares, case, list(manifest.values.values()))


def blueprint_of(
    config: Config,
    workspace: Workspace,
    manifest: Manifest,
    anatomies: Anatomies,
    record: SyntheticRecord,
    scratch: Scratch = IN_MEMORY,
) -> Blueprint:
    """The blueprint of a sample of a labelled training case.

    The edges of a new anatomy are drawn anew from the warped image: warped edge maps are paler and blurred, and the generator
    has only seen what the operator draws.
    """
    case = manifest.case(record.case)
    return _in(config, workspace, manifest, case, anatomies.of(case, record.sample), scratch)


def blueprint_of_case(config: Config, workspace: Workspace, manifest: Manifest, case: Case) -> Blueprint:
    """The blueprint of a volume with the shapes of a case."""
    return _in(config, workspace, manifest, case, Anatomy(SAME, None))


def blueprint_of_made(
    config: Config, workspace: Workspace, manifest: Manifest, case: Case, record: Mapping[str, Any]
) -> Blueprint:
    """The blueprint that a finished sample was made from, by its record as JSON holds it."""
    own = record.get("label")
    anatomy = anatomy_kept(workspace, record["fold"], case, record["sample"]) if own else Anatomy(SAME, None)
    return _in(config, workspace, manifest, case, anatomy)


def _in(
    config: Config,
    workspace: Workspace,
    manifest: Manifest,
    case: Case,
    anatomy: Anatomy,
    scratch: Scratch = IN_MEMORY,
) -> Blueprint:
    if anatomy.warp is None:
        image, edges, label = (prepared(workspace, case, kind, scratch) for kind in ("image", "edge", "label"))
        return Blueprint(image, edges, label, anatomy.text)
    image, label = in_anatomy(workspace, case, anatomy)
    draw = edge_operator(config.prepare.edges, device_of_prepare(config))
    edges = draw(image, case.grid.spacing_mm, slice_axis=slice_axis(config, manifest))
    return Blueprint(image, edges, label, anatomy.text, anatomy.warp)


def control_of_blueprint(
    config: Config, manifest: Manifest, blueprint: Blueprint, axis: int | None = None
) -> ControlSlices:
    """The control images in [0, 1] that a sample follows, slice by slice across an axis; None: that of slicing."""
    denoiser = config.diffusion.denoiser
    return ControlSlices(
        blueprint.edges,
        blueprint.label,
        list(manifest.foreground.values()),
        slice_axis(config, manifest) if axis is None else axis,
        denoiser.neighbours,
        denoiser.control,
    )
