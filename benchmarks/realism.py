"""Are samples told from real slices? The two-sample AUC of a small classifier on test cases (0.5: it can't tell).

    python benchmarks/realism.py --data PATH/hippocampus --workspace WORKSPACE [--pixel-workspace WORKSPACE-PIXEL]

Compares the default sampler with 50 steps of DDIM and with the settings of the released recipe (DDIM 20, guidance 9) on the same
generator, and with a generator trained alike on the pixel codec. Writes `results/realism.json`.
"""

from __future__ import annotations

import dataclasses
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
        "default, from pure noise": dataclasses.replace(held_out.default, strength=1.0),
        "released recipe": RECIPE,
        "ddim 10 steps": SamplingPlan(steps=10),
        "ddim 50 steps": SamplingPlan(steps=50),
    }
    table = {name: judge(held_out, plan) for name, plan in plans.items()}
    table["real against real, halved by case"] = yardstick(held_out)
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
        "--pixel-workspace WORKSPACE-PIXEL" if given.pixel_workspace else "",
        **figures,
        plan=dataclasses.asdict(held_out.default),
        table=table,
    )


def judge(held_out: HeldOut, plan: SamplingPlan) -> dict[str, float]:
    """AUC with its interval over cases."""
    real = [held_out.real(case) for case in held_out.cases]
    auc = auc_of(real, held_out.samples(plan), held_out.axis, held_out.seed)
    print(plan, auc, flush=True)
    return auc


def yardstick(held_out: HeldOut) -> dict[str, float]:
    """The AUC of real slices of one half of the cases against those of the other: what chance looks like here."""
    real = [held_out.real(case) for case in held_out.cases]
    slices, groups = slices_of(real, held_out.axis, smallest_size(real, held_out.axis), every=1)
    number = np.array(groups)
    first = number % 2 == 0
    result = two_sample_auc(slices[first], slices[~first], number[first], number[~first], seed=held_out.seed)
    return {"auc": round(result.auc, 4), "low": round(result.low, 4), "high": round(result.high, 4)}


def auc_of(real: list[Float], synthetic: list[Float], axis: int, seed: int) -> dict[str, float]:
    """Two-sample AUC on every second slice; a case's real and synthetic slices are judged by the same fold."""
    size = smallest_size(real, axis)
    (of_real, groups), (of_synthetic, _) = (slices_of(volumes, axis, size) for volumes in (real, synthetic))
    result = two_sample_auc(of_real, of_synthetic, np.array(groups), np.array(groups), seed=seed)
    return {"auc": round(result.auc, 4), "low": round(result.low, 4), "high": round(result.high, 4)}


if __name__ == "__main__":
    main()
