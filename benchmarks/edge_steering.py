"""Do edges steer? The share of a control's edges that a sample has within one voxel, against other cases' controls.

    python benchmarks/edge_steering.py --data PATH/hippocampus --workspace WORKSPACE

Samples of test cases, from pure noise, their edges and label boundaries; the edges of a sample are found as those of a
real volume are, in 3D, and compared slice by slice: an edge is found where the other has one at most a voxel away in the
plane ("with diagonals": or at a corner). "Shuffled" compares a sample with the control of another case, laid
centre on centre. Writes `results/edge_steering.json`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from held_out import Float, HeldOut, parser, write

from diffboost3d.evaluation.fidelity import edge_agreement
from diffboost3d.imaging.edges import soft_edges

STRENGTHS = (0.0, 0.5, 1.0)
THRESHOLD = 0.5
DIAGONAL = 1.5  # voxels: more than the root of 2, less than 2


def main() -> None:
    given = parser(__doc__).parse_args()
    held_out = HeldOut(given.data, given.workspace, given.overrides, given.cases, given.seed, given.part)
    edges = held_out.config.diffusion.denoiser.neighbours
    controls = [held_out.control(case)[edges] for case in held_out.cases]
    spacing = held_out.cases[0].grid.spacing_mm
    settings = held_out.config.prepare.edges
    other = [centred(controls[at - 1], control.shape) for at, control in enumerate(controls)]
    table = {}
    for strength in STRENGTHS:
        plan = dataclasses.replace(held_out.default, control_strength=strength, strength=1.0)
        volumes = held_out.samples(plan, match_spectrum=0.0, slow_mm=0.0)  # nothing of the real volume but the control
        found = [soft_edges(v, spacing, settings.sigmas_mm, settings.quantile, settings.thin) for v in volumes]
        table[str(strength)] = {
            "recall": recall(controls, found, held_out.axis),
            "recall_shuffled": recall(other, found, held_out.axis),
            "recall_with_diagonals": recall(controls, found, held_out.axis, DIAGONAL),
            "recall_shuffled_with_diagonals": recall(other, found, held_out.axis, DIAGONAL),
            "precision": recall(found, controls, held_out.axis),
        }
    write(
        "edge_steering",
        given,
        held_out.overrides,
        len(held_out.cases),
        **table["1.0"],
        started_from="pure noise (strength 1)",
        threshold=THRESHOLD,
        tolerance_voxels=1,
        strengths=table,
    )


def centred(volume: Float, shape: tuple[int, ...]) -> Float:
    """A volume cropped, or filled with zeros, about its centre to a shape."""
    for axis, side in enumerate(shape):
        missing = max(0, side - volume.shape[axis])
        around = [(missing // 2, missing - missing // 2) if at == axis else (0, 0) for at in range(volume.ndim)]
        volume = np.pad(volume, around)
        first = (volume.shape[axis] - side) // 2
        volume = np.take(volume, range(first, first + side), axis)
    return volume


def recall(controls: list[Float], found: list[Float], axis: int, tolerance: float = 1) -> float:
    """Mean over slices of the share of the control's edges that are found."""
    shares = []
    for control, edge in zip(controls, found, strict=True):
        pairs = zip(*(np.moveaxis(volume, axis, 0) for volume in (control, edge)), strict=True)
        shares += [
            edge_agreement(one, other, THRESHOLD, tolerance).recall for one, other in pairs if (one >= THRESHOLD).any()
        ]
    return float(np.mean(shares))


if __name__ == "__main__":
    main()
