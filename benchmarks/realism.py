"""Are samples told from real slices? The two-sample AUC of small classifiers on test cases (0.5: they can't tell).

    python benchmarks/realism.py --data PATH/hippocampus --workspace WORKSPACE [--pixel-workspace WORKSPACE-PIXEL]

Compares the default sampler with the released recipe (DDIM 20, guidance 9) and with 50 steps of DDIM on the same generator,
each from its own start and from that of the default (the partly noised real volume), with the default without its parts, and
with a generator trained alike on the pixel codec. Two judges: as `two_sample_auc` trains them, and four times as long; several
seeds of each for the default. The figures are of the judge that was trained longer, means over its seeds. A third one reads
figures of fine texture (`texture_auc`); it sees what the small networks miss. Writes `results/realism.json`.

    python benchmarks/realism.py --judges 0 --rows 1 3 6 7 --result trial ...   # the judge of texture alone
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from held_out import RECIPE, Float, HeldOut, code_digest, parser, slices_of, smallest_size, write

from diffboost3d.diffusion.sampling import SamplingPlan
from diffboost3d.evaluation.texture import grid_excess, texture_auc
from diffboost3d.evaluation.two_sample import draw_patches, two_sample_auc

JUDGES = {"auc": 10, "auc_long": 40}  # epochs
PATCH, PATCHES = (16, 16, 16), 12


def asked() -> argparse.Namespace:
    """What the command line asks for."""
    arguments = parser(__doc__)
    arguments.add_argument("--pixel-workspace", type=Path, help="where a generator on the pixel codec is trained too")
    arguments.add_argument(
        "--judges", type=int, default=3, help="seeds of the judges of the default; of the other rows: one"
    )
    arguments.add_argument("--rows", nargs="+", help="numbers of the rows to judge, from 0; default: all")
    arguments.add_argument("--result", default="realism", help="name of the result file")
    return arguments.parse_args()


def main() -> None:
    given = asked()
    held_out = HeldOut(given.data, given.workspace, given.overrides, given.cases, given.seed, given.part)
    start, default = held_out.default.strength, held_out.default
    recipe_from_start = dataclasses.replace(RECIPE, strength=start)
    # (plan, how far the spectrum is matched, from what length in mm on waves are the real volume's); None: as configured
    rows: dict[str, tuple[SamplingPlan, float | None, float | None]] = {
        "default": (default, None, None),
        "released recipe": (RECIPE, 0.0, 0.0),
        "released recipe, from the default's start": (recipe_from_start, 0.0, 0.0),
        "default, spectrum not matched": (default, 0.0, None),
        "default, even steps": (dataclasses.replace(default, step_power=1.0), None, None),
        "default, from pure noise": (dataclasses.replace(default, strength=1.0), None, None),
        "ddim 50 steps, from the default's start": (SamplingPlan(steps=50, strength=start), 0.0, 0.0),
        "released recipe, from the default's start, spectrum matched": (recipe_from_start, None, 0.0),
        "default, slow waves not kept": (default, None, 0.0),
    }
    chosen = {
        name: row for at, (name, row) in enumerate(rows.items()) if at == 0 or not given.rows or str(at) in given.rows
    }
    real = [held_out.real(case) for case in held_out.cases]
    table: dict[str, dict[str, Any]] = {}
    for name, (plan, match, slow_mm) in chosen.items():
        seeds = given.judges if name == "default" else min(1, given.judges)
        samples = held_out.samples(plan, match_spectrum=match, slow_mm=slow_mm)
        table[name] = judged(held_out, real, samples, seeds)
        print(name, table[name], flush=True)
    table["real against real, halved by patient"] = yardstick(held_out, real, min(1, given.judges))
    if given.pixel_workspace:
        overrides = [*given.overrides, "diffusion.codec.name=pixel"]
        pixel = HeldOut(given.data, given.pixel_workspace, overrides, given.cases, given.seed, given.part)
        seeds = min(1, given.judges)
        table["pixel codec, default"] = judged(held_out, real, pixel.samples(default), seeds)
        table["pixel codec, default, spectrum not matched"] = judged(
            held_out, real, pixel.samples(default, match_spectrum=0.0, slow_mm=0.0), seeds
        )
    write(
        given.result,
        given,
        held_out.overrides,
        len(held_out.cases),
        "--pixel-workspace WORKSPACE-PIXEL" if given.pixel_workspace else "",
        auc_default=table["default"].get("auc_long"),
        auc_released_recipe=table.get("released recipe", {}).get("auc_long"),
        auc_texture=table["default"]["auc_texture"],
        grid_excess_of_real=grid(real, axis=held_out.axis),
        auc_3d_patches=patches(held_out, real, held_out.samples(default), given.seed) if given.judges else None,
        judges={name: {"epochs": epochs, "seeds": given.judges} for name, epochs in JUDGES.items()},
        plan=dataclasses.asdict(default),
        of={"model": held_out.model, "code": code_digest()},
        match_spectrum=held_out.config.synthesize.match_spectrum,
        slow_mm=held_out.slow_mm,
        table=table,
    )


def judged(held_out: HeldOut, real: list[Float], synthetic: list[Float], seeds: int) -> dict[str, Any]:
    """What both judges find, and how near the samples are to the volumes they were made from (correlation)."""
    found: dict[str, Any] = {
        "auc_texture": texture(held_out, real, synthetic),
        "grid_excess": grid(synthetic, held_out.axis),
    }
    for name, epochs in JUDGES.items() if seeds else ():
        every = [auc_of(held_out, real, synthetic, seed, epochs)["auc"] for seed in range(seeds)]
        found |= {name: round(float(np.mean(every)), 4), f"{name}_by_seed": every}
    alike = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(real, synthetic, strict=True)]
    return {**found, "correlation_with_source": round(float(np.mean(alike)), 4)}


def texture(held_out: HeldOut, real: list[Float], synthetic: list[Float]) -> float:
    """What the judge of texture finds, on every second slice."""
    size = smallest_size(real, held_out.axis)
    (of_real, groups), (of_synthetic, _) = (
        slices_of(volumes, held_out.axis, size, step=2, patients=held_out.patients) for volumes in (real, synthetic)
    )
    return round(texture_auc(of_real, of_synthetic, groups, groups), 4)


def grid(volumes: list[Float], axis: int) -> float:
    """Mean over cases of `grid_excess`: 0 where the codec's grid does not show."""
    found = [grid_excess(np.moveaxis(volume, axis, 0)).mean() for volume in volumes]
    return round(float(np.mean(found)), 4)


def yardstick(held_out: HeldOut, real: list[Float], seeds: int) -> dict[str, Any]:
    """The AUC of real slices of one half of the patients against those of the other: what chance looks like here."""
    size = smallest_size(real, held_out.axis)
    slices, groups = slices_of(real, held_out.axis, size, every=1, patients=held_out.patients)
    number = np.array(groups)
    first = number % 2 == 0
    found: dict[str, Any] = {}
    for name, epochs in JUDGES.items() if seeds else ():
        sides = (slices[first], slices[~first], number[first], number[~first])
        every = [round(two_sample_auc(*sides, seed=seed, epochs=epochs).auc, 4) for seed in range(seeds)]
        found |= {name: round(float(np.mean(every)), 4), f"{name}_by_seed": every}
    return found


def patches(held_out: HeldOut, real: list[Float], synthetic: list[Float], seed: int) -> float:
    """Two-sample AUC on 3D patches, cut at the same places of both."""
    groups = np.repeat(held_out.patients, PATCHES)
    of_real, of_synthetic = (
        np.concatenate([draw_patches(volume, PATCH, PATCHES, seed, at) for at, volume in enumerate(volumes)])
        for volumes in (real, synthetic)
    )
    return round(two_sample_auc(of_real, of_synthetic, groups, groups, seed=seed).auc, 4)


def auc_of(
    held_out: HeldOut, real: list[Float], synthetic: list[Float], seed: int, epochs: int = JUDGES["auc"]
) -> dict[str, float]:
    """Two-sample AUC on every second slice; a patient's real and synthetic slices are judged by the same fold."""
    size = smallest_size(real, held_out.axis)
    (of_real, groups), (of_synthetic, _) = (
        slices_of(volumes, held_out.axis, size, patients=held_out.patients) for volumes in (real, synthetic)
    )
    result = two_sample_auc(of_real, of_synthetic, np.array(groups), np.array(groups), seed=seed, epochs=epochs)
    return {"auc": round(result.auc, 4), "low": round(result.low, 4), "high": round(result.high, 4)}


if __name__ == "__main__":
    main()
