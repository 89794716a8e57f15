"""Do synthetic slices hold together? Noise and start of every kind on test cases, measured against the real volumes.

    python benchmarks/coherence.py --data PATH/hippocampus --workspace WORKSPACE --cases 20

Each lever alone: how the noise of neighbouring slices is related, from the half noised real volume and from pure noise;
"independent" in the figures is independent noise, from pure noise, without any lever. Means over cases of the measures of
`diffboost3d.evaluation.coherence`; for the default also the two-sample AUC in plane, and on coronal and sagittal re-slices.
Writes `results/coherence.json`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from held_out import Float, HeldOut, parser, slices_of, smallest_size, write

from diffboost3d.evaluation.coherence import Coherence, body, coherence, reslices
from diffboost3d.evaluation.two_sample import two_sample_auc
from diffboost3d.synthesis.volumes import NoisePlan

NOISES = {
    "independent": NoisePlan("independent", 0.0, 1.0),
    "shared, rho 0.6": NoisePlan("shared", 0.6, 1.0),
    "shared, rho 0.9": NoisePlan("shared", 0.9, 1.0),
    "ar1, 4 mm": NoisePlan("ar1", 0.0, 4.0),
    "smoothed, 1.5 mm": NoisePlan("smoothed", 0.0, 1.5),
    "smoothed, 3 mm": NoisePlan("smoothed", 0.0, 3.0),
}
STRENGTHS = (0.5, 1.0)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--levers", nargs="+", choices=list(NOISES), default=list(NOISES), help="noises to measure")
    given = arguments.parse_args()
    held_out = HeldOut(given.data, given.workspace, given.overrides, given.cases, given.seed, given.part)
    real = [held_out.real(case) for case in held_out.cases]
    levers = {}
    for strength in STRENGTHS:
        plan = dataclasses.replace(held_out.default, strength=strength)
        for name, noise in NOISES.items():
            if name not in given.levers:
                continue
            made = held_out.samples(plan, noise)
            levers[f"strength {strength:g}, {name}"] = measured(real, made, held_out.axis)
            print(strength, name, levers[f"strength {strength:g}, {name}"], flush=True)
    made = held_out.samples(held_out.default)
    default = measured(real, made, held_out.axis)
    plain = dataclasses.replace(held_out.default, strength=1.0)
    independent = measured(
        real, held_out.samples(plan=plain, noise=NOISES["independent"], match_spectrum=0.0), held_out.axis
    )
    in_plane, along = aucs(real, made, held_out.axis, given.seed)
    figures = {
        "z_ratio_default": default["difference_ratio"],
        "z_ratio_independent": independent["difference_ratio"],
        "ssim_gap_default": default["ssim_gap"],
        "auc_in_plane": in_plane,
        "auc_reslice": along,
    }
    write("coherence", given, held_out.overrides, len(real), **figures, default=default, levers=levers)


def measured(real: list[Float], synthetic: list[Float], axis: int) -> dict[str, float]:
    """Means over cases."""
    found = [coherence(one, other, body(one), axis) for one, other in zip(real, synthetic, strict=True)]
    names = [field.name for field in dataclasses.fields(Coherence)]
    return {name: round(float(np.mean([getattr(figures, name) for figures in found])), 4) for name in names}


def aucs(real: list[Float], synthetic: list[Float], axis: int, seed: int) -> tuple[float, float]:
    """Two-sample AUC (of slices, of the planes along the slice axis)."""
    size = smallest_size(real, axis)
    found = []
    in_plane = [slices_of(volumes, axis, size) for volumes in (real, synthetic)]
    least = np.min([volume.shape for volume in real], axis=0)
    side = (int(np.delete(least, axis).min()), int(least[axis]))
    along = [reslices(volumes, axis, side) for volumes in (real, synthetic)]
    for (of_real, groups), (of_synthetic, others) in (in_plane, along):
        result = two_sample_auc(of_real, of_synthetic, np.array(groups), np.array(others), seed=seed)
        found.append(round(result.auc, 4))
    return found[0], found[1]


if __name__ == "__main__":
    main()
