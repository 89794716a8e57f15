"""Are samples told from real slices? The two-sample AUC of a small classifier on test cases (0.5: it can't tell).

    python benchmarks/realism.py --data PATH/hippocampus --workspace WORKSPACE [--pixel-workspace WORKSPACE-PIXEL]

Compares the default sampler with 50 steps of DDIM and with the settings of the released recipe (DDIM 20, guidance 9) on the same
generator, and with a generator trained alike on the pixel codec. Writes `results/realism.json`.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
from held_out import RECIPE, Float, HeldOut, parser, slices_of, smallest_size, write

from diffboost3d.diffusion.sampling import SamplingPlan
from diffboost3d.evaluation.two_sample import two_sample_auc


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--pixel-workspace", type=Path, help="where a generator on the pixel codec is trained too")
    given = arguments.parse_args()
    held_out = HeldOut(given.data, given.workspace, given.overrides, given.cases, given.seed)
    plans = {
        "default": held_out.default,
        "ddim 50 steps": SamplingPlan(steps=50),
        "released recipe": RECIPE,
    }
    table = {name: judge(held_out, plan) for name, plan in plans.items()}
    if given.pixel_workspace:
        overrides = [*given.overrides, "diffusion.codec.name=pixel"]
        pixel = HeldOut(given.data, given.pixel_workspace, overrides, given.cases, given.seed)
        table["pixel codec, default"] = judge(pixel, pixel.default)
    figures: dict[str, Any] = {
        "auc_default": table["default"]["auc"],
        "auc_released_recipe": table["released recipe"]["auc"],
    }
    write(
        "realism",
        given,
        held_out.overrides,
        len(held_out.cases),
        **figures,
        plan=dataclasses.asdict(held_out.default),
        table=table,
    )


def judge(held_out: HeldOut, plan: SamplingPlan) -> dict[str, Any]:
    """AUC with its interval over cases, and the seconds that sampling took."""
    started = time.perf_counter()
    samples = held_out.samples(plan)
    seconds = time.perf_counter() - started
    auc = auc_of([held_out.real(case) for case in held_out.cases], samples, held_out.axis, held_out.seed)
    print(plan, auc, f"{seconds:.1f} s")
    return {**auc, "sampling_seconds": round(seconds, 2)}


def auc_of(real: list[Float], synthetic: list[Float], axis: int, seed: int) -> dict[str, float]:
    """Two-sample AUC on every second slice; a case's real and synthetic slices are judged by the same fold."""
    size = smallest_size(real, axis)
    (of_real, groups), (of_synthetic, _) = (slices_of(volumes, axis, size) for volumes in (real, synthetic))
    result = two_sample_auc(of_real, of_synthetic, np.array(groups), np.array(groups), seed=seed)
    return {"auc": round(result.auc, 4), "low": round(result.low, 4), "high": round(result.high, 4)}


if __name__ == "__main__":
    main()
