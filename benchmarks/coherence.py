"""Do synthetic slices hold together? Every lever alone on test cases, and the default, measured against the real volumes.

    python benchmarks/coherence.py --data PATH/hippocampus --workspace WORKSPACE --cases 20
    python benchmarks/coherence.py --set acdc --data PATH/acdc --workspace WORKSPACE2 --cases 20 --result coherence_acdc
    python benchmarks/coherence.py --set ct --data FOLDER --workspace WORKSPACE3 --cases 20 --result coherence_ct

"no lever" is what a slice-wise generator does by itself: independent noise, pure noise to start from, no edges of the
neighbouring slices (the slice's own in their place), nothing of the real volume's spectrum or slow waves. Each row adds one
lever to it. With `--stack-workspace` a generator with layers along the slice axis, trained on from the first, is measured too,
with `--second-workspace` one that has learned a second plane, with `--refine SIGMA ...` volumes that a refiner has gone over.
Trials of other noise are made where `--only` names them (`--part choose --only "default, noise independent" ...`), and each
is judged.
Means over cases of the measures of `diffboost3d.evaluation.coherence`; of some rows the two-sample AUC in plane and on
re-slices, with as many planes of each, by judges of 40 epochs. Writes `results/coherence.json`.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from held_out import Float, HeldOut, parser, slices_of, smallest_size, write

from diffboost3d.diffusion.sampling import SamplingPlan
from diffboost3d.evaluation.coherence import Coherence, body, coherence, reslices
from diffboost3d.evaluation.two_sample import SMALLEST_SIDE, two_sample_auc
from diffboost3d.synthesis.volumes import NoisePlan, SlabPlan

INDEPENDENT = NoisePlan("independent", 0.0, 1.0)
BY_SPECTRUM = NoisePlan("spectrum", 0.0, 1.0)
EPOCHS = 40
JUDGED = (
    "no lever",
    "default, start at strength 0.3",
    "default, from pure noise",
    "default, slow waves not kept",
    "default, not refined",
    "default",
)  # rows that are judged too, beside those of layers, of a second plane, and trials
TRIALS = {
    "default, noise independent": INDEPENDENT,
    "default, noise ar1, 1.5 mm": NoisePlan("ar1", 0.0, 1.5),
    "default, noise smoothed, 1.5 mm": NoisePlan("smoothed", 0.0, 1.5),
    "default, noise by the real spectrum": BY_SPECTRUM,
}
ALWAYS = ("no lever", "default")  # measured whatever `--only` names
SECOND_EVERY = (3, 1)
SLABS = {
    "slabs of 16 blended at the end": SlabPlan(16, 8, blend="end"),
    "slabs of 16 averaged at every step": SlabPlan(16, 8, blend="step"),
}


@dataclass(frozen=True)
class Row:
    """Settings of one row of the table."""

    plan: SamplingPlan
    noise: NoisePlan = INDEPENDENT
    match_spectrum: float = 0.0
    neighbours: bool = False
    stacked: bool = False
    slow_mm: float = 0.0
    second_every: int = 0
    refine: float = 0.0
    slabs: SlabPlan | None = None


def rows(held_out: HeldOut, stacked: bool, second: bool = False, refine: Sequence[float] = ()) -> dict[str, Row]:
    """Every lever alone, levers together, trials, and the default."""
    return levers(held_out, stacked, second, refine) | together(held_out, stacked, second, refine)


def levers(held_out: HeldOut, stacked: bool, second: bool, refine: Sequence[float]) -> dict[str, Row]:
    """Each on top of nothing, and some of them in pairs."""
    settings, default = held_out.config.synthesize, held_out.default
    pure = dataclasses.replace(default, strength=1.0)
    made = {
        "no lever": Row(pure),
        "edges of neighbours": Row(pure, neighbours=True),
        "noise shared, rho 0.6": Row(pure, NoisePlan("shared", 0.6, 1.0)),
        "noise shared, rho 0.9": Row(pure, NoisePlan("shared", 0.9, 1.0)),
        "noise ar1, 4 mm": Row(pure, NoisePlan("ar1", 0.0, 4.0)),
        "noise smoothed, 1.5 mm": Row(pure, NoisePlan("smoothed", 0.0, 1.5)),
        "noise smoothed, 3 mm": Row(pure, NoisePlan("smoothed", 0.0, 3.0)),
        "noise by the real spectrum": Row(pure, BY_SPECTRUM),
        "start at strength 0.7": Row(dataclasses.replace(default, strength=0.7)),
        "start at strength 0.5": Row(dataclasses.replace(default, strength=0.5)),
        "spectrum matched": Row(pure, match_spectrum=1.0),
        "slow waves kept": Row(pure, slow_mm=held_out.slow_mm),
        "edges of neighbours, independent noise, start at strength 0.5": Row(
            dataclasses.replace(default, strength=0.5), neighbours=True
        ),
    }
    for sigma in dict.fromkeys([*([settings.refine] if settings.refine else []), *refine]):
        made[f"refined at {sigma:g}"] = Row(pure, refine=sigma)
    if stacked:
        made["layers along the slices"] = Row(pure, stacked=True)
        for name, slabs in SLABS.items():
            made[f"layers along the slices, {name}"] = Row(pure, stacked=True, slabs=slabs)
        made["layers along the slices, edges of neighbours, start at strength 0.5"] = Row(
            dataclasses.replace(default, strength=0.5), neighbours=True, stacked=True
        )
    if second:
        made["second plane at every step"] = Row(pure, second_every=1)
    return made


def together(held_out: HeldOut, stacked: bool, second: bool, refine: Sequence[float]) -> dict[str, Row]:
    """The default, last, and what differs from it in one lever."""
    settings, default = held_out.config.synthesize, held_out.default
    pure = dataclasses.replace(default, strength=1.0)
    noise = NoisePlan(settings.noise, settings.rho or 0.0, settings.correlation_mm)
    chosen = Row(
        default,
        noise,
        settings.match_spectrum,
        neighbours=True,
        slow_mm=held_out.slow_mm,
        refine=settings.refine or 0.0,
    )
    made = {
        "default, start at strength 0.3": dataclasses.replace(chosen, plan=dataclasses.replace(default, strength=0.3))
    }
    made["default, noise ar1, 4 mm"] = dataclasses.replace(chosen, noise=NoisePlan("ar1", 0.0, 4.0))
    made["default, from pure noise"] = dataclasses.replace(chosen, plan=pure)
    made["default, slow waves not kept"] = dataclasses.replace(chosen, slow_mm=0.0)
    made |= {name: dataclasses.replace(chosen, noise=noise) for name, noise in TRIALS.items()}
    others = [sigma for sigma in refine if sigma != chosen.refine]
    made |= {f"default, refined at {sigma:g}": dataclasses.replace(chosen, refine=sigma) for sigma in others}
    for every in SECOND_EVERY if second else ():
        made[f"default, second plane at steps of {every}"] = dataclasses.replace(chosen, second_every=every)
    if stacked:
        made["default, layers along the slices"] = dataclasses.replace(chosen, stacked=True)
        made["default, layers along the slices, noise independent"] = dataclasses.replace(
            chosen, stacked=True, noise=INDEPENDENT
        )
    if chosen.refine:
        made["default, not refined"] = dataclasses.replace(chosen, refine=0.0)
    made["default"] = chosen
    return made


def asked() -> argparse.Namespace:
    """What the command line asks for."""
    arguments = parser(__doc__)
    arguments.add_argument(
        "--stack-workspace", type=Path, help="where a generator with layers along the slices is trained"
    )
    arguments.add_argument("--second-workspace", type=Path, help="where a generator of two planes is trained")
    arguments.add_argument("--second-axis", type=int, default=0)
    arguments.add_argument(
        "--second-steps", type=int, default=700, help="of its pre-training and of its fine-tuning, on from the first"
    )
    arguments.add_argument(
        "--refine", type=float, nargs="+", default=[], help="noise of a refiner, which is trained; rows of their own"
    )
    arguments.add_argument("--stack", type=int, default=8, help="slices of its training stacks")
    arguments.add_argument(
        "--stack-steps",
        type=int,
        nargs=2,
        default=[600, 600],
        help="of its pre-training and fine-tuning, on from the first",
    )
    arguments.add_argument(
        "--judges",
        type=int,
        default=3,
        help="seeds of the judges of the default; of other rows: one; 0: nothing is judged",
    )
    arguments.add_argument(
        "--only",
        nargs="+",
        help="names of the rows to measure, beside no lever, which isn't judged then, and the default; default: all",
    )
    arguments.add_argument("--result", default="coherence", help="name of the result file")
    return arguments.parse_args()


def main() -> None:
    given = asked()
    common = (given.cases, given.seed, given.part, given.set)
    held_out = HeldOut(given.data, given.workspace, given.overrides, *common, given.start_workspace)
    stacked = with_layers(given, held_out) if given.stack_workspace else None
    crossed = with_second_plane(given, held_out) if given.second_workspace else None
    real = [held_out.real(case) for case in held_out.cases]
    table: dict[str, dict[str, Any]] = {}
    for name, row in rows(held_out, stacked is not None, crossed is not None, given.refine).items():
        named = name in (given.only or ())
        if not named and (name in TRIALS or (given.only and name not in ALWAYS)):
            continue
        of = stacked if row.stacked else crossed if row.second_every else held_out
        assert of is not None
        made = of.samples(
            row.plan,
            row.noise,
            row.match_spectrum,
            row.neighbours,
            row.slow_mm,
            row.second_every,
            row.refine,
            row.slabs,
        )
        table[name] = measured(real, made, held_out.axis)
        if given.judges and is_judged(name, row, held_out) and not (given.only and name == "no lever"):
            table[name] |= aucs(real, made, held_out, given.judges if name == "default" else 1)
        print(name, table[name], flush=True)
    write(
        given.result,
        given,
        held_out.overrides,
        len(real),
        " ".join(
            (["--stack-workspace WORKSPACE-STACK"] if stacked else [])
            + (["--second-workspace WORKSPACE-SECOND"] if crossed else [])
        ),
        z_ratio_default=table["default"]["difference_ratio"],
        z_ratio_independent=table["no lever"]["difference_ratio"],
        ssim_gap_default=table["default"]["ssim_gap"],
        auc_in_plane=table["default"].get("auc_in_plane"),
        auc_reslice=table["default"].get("auc_reslice"),
        real_against_real=yardstick(real, held_out) if given.judges else None,
        default=dataclasses.asdict(rows(held_out, False)["default"]),
        levers=table,
    )


def is_judged(name: str, row: Row, held_out: HeldOut) -> bool:
    """Of the levers' own rows only those that need more training than the default does."""
    refines_otherwise = row.refine not in (0.0, held_out.config.synthesize.refine)
    own_training = row.stacked or row.second_every or refines_otherwise
    return bool(name in JUDGED or name in TRIALS or own_training)


def with_layers(given: argparse.Namespace, held_out: HeldOut) -> HeldOut:
    """A generator with layers along the slices, trained on from the one without."""
    own = [
        f"diffusion.{stage}.steps={steps}"
        for stage, steps in zip(("pretrain", "finetune"), given.stack_steps, strict=True)
    ]
    own += [f"diffusion.denoiser.stack={given.stack}"]
    common = (given.cases, given.seed, given.part, given.set)
    return HeldOut(given.data, given.stack_workspace, [*given.overrides, *own], *common, held_out.workspace.root)


def with_second_plane(given: argparse.Namespace, held_out: HeldOut) -> HeldOut:
    """A generator of slices across a second axis too, trained on from the first."""
    own = [f"diffusion.{stage}.steps={given.second_steps}" for stage in ("pretrain", "finetune")]
    own += [f"diffusion.second_axis={given.second_axis}", "synthesize.slab_blend=step"]
    common = (given.cases, given.seed, given.part, given.set)
    return HeldOut(given.data, given.second_workspace, [*given.overrides, *own], *common, held_out.workspace.root)


def measured(real: list[Float], synthetic: list[Float], axis: int) -> dict[str, float]:
    """Means over cases."""
    found = [coherence(one, other, body(one), axis) for one, other in zip(real, synthetic, strict=True)]
    names = [field.name for field in dataclasses.fields(Coherence)]
    return {name: round(float(np.mean([getattr(figures, name) for figures in found])), 4) for name in names}


def aucs(real: list[Float], synthetic: list[Float], held_out: HeldOut, seeds: int) -> dict[str, Any]:
    """Two-sample AUC of slices, and of as many planes along the slice axis; means over seeds of the judges."""
    found: dict[str, Any] = {}
    for name, (of_real, of_synthetic, groups) in planes(real, synthetic, held_out).items():
        every = [
            round(two_sample_auc(of_real, of_synthetic, groups, groups, seed=seed, epochs=EPOCHS).auc, 4)
            for seed in range(seeds)
        ]
        found |= {name: round(float(np.mean(every)), 4), f"{name}_by_seed": every}
    return found


def yardstick(real: list[Float], held_out: HeldOut) -> dict[str, float]:
    """The same of real planes of one half of the patients against those of the other: what chance looks like here."""
    found = {}
    for name, (of_real, _, groups) in planes(real, real, held_out).items():
        first = groups % 2 == 0
        sides = (of_real[first], of_real[~first], groups[first], groups[~first])
        found[name] = round(two_sample_auc(*sides, epochs=EPOCHS).auc, 4)
    return found


def planes(real: list[Float], synthetic: list[Float], held_out: HeldOut) -> dict[str, tuple[Float, Float, np.ndarray]]:
    """(real, synthetic, number of the patient) of slices, and of planes along the slice axis; as many of each kind.

    Cases of too few slices to be judged as planes are left out of both.
    """
    axis = held_out.axis
    tall = [at for at, volume in enumerate(real) if volume.shape[axis] >= SMALLEST_SIDE]
    chosen = [[volumes[at] for at in tall] for volumes in (real, synthetic)]
    size = smallest_size(chosen[0], axis)
    in_plane = [slices_of(volumes, axis, size, every=1) for volumes in chosen]
    least = np.min([volume.shape for volume in chosen[0]], axis=0)
    side = (int(np.delete(least, axis).min()), int(least[axis]))
    along = [reslices(volumes, axis, side, every=1) for volumes in chosen]
    count = min(len(in_plane[0][0]), len(along[0][0]))
    patients = np.array(held_out.patients)[tall]
    found = {}
    for name, pair in (("auc_in_plane", in_plane), ("auc_reslice", along)):
        kept = np.linspace(0, len(pair[0][0]) - 1, count).round().astype(int)
        found[name] = (pair[0][0][kept], pair[1][0][kept], patients[pair[0][1]][kept])
    return found


if __name__ == "__main__":
    main()
