"""What each synthetic volume is made from: the image to start from, the edges to follow, and the label that it will have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.records import Case, Manifest, SyntheticRecord
from diffboost3d.cases.workspace import Workspace
from diffboost3d.imaging.edges import ControlSlices
from diffboost3d.imaging.scratch import IN_MEMORY, Scratch
from diffboost3d.schema import Config
from diffboost3d.stages.inputs import prepared, slice_axis


@dataclass(frozen=True)
class Blueprint:
    """All on the prepared grid (I, J, K) of the case.

    Attributes:
        image: in [-1, 1], where sampling starts if strength < 1, and whose spectrum is taken.
        edges: in [0, 1]. label: 0, 1, 2, ..., steers as boundaries, and is the label of what is made.
        anatomy: where the shapes come from; "same": they are those of the case.
    """

    image: NDArray[np.float32]
    edges: NDArray[np.float32]
    label: NDArray[np.uint8]
    anatomy: str = "same"

    @property
    def has_own_label(self) -> bool:
        """Whether the label differs from that of the case."""
        return self.anatomy != "same"


def blueprint_of(workspace: Workspace, case: Case, record: SyntheticRecord, scratch: Scratch = IN_MEMORY) -> Blueprint:
    """The blueprint of a sample of a labelled training case."""
    image, edges, label = (prepared(workspace, case, kind, scratch) for kind in ("image", "edge", "label"))
    return Blueprint(image, edges, label, record.anatomy)


def control_of_blueprint(config: Config, manifest: Manifest, blueprint: Blueprint) -> ControlSlices:
    """The control images in [0, 1] that a sample follows, slice by slice."""
    denoiser = config.diffusion.denoiser
    return ControlSlices(
        blueprint.edges,
        blueprint.label,
        list(manifest.foreground.values()),
        slice_axis(config, manifest),
        denoiser.neighbours,
        denoiser.control,
    )
