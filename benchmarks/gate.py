"""Does the gate let good volumes through and stop planted errors? The default samples of the training cases of a generator.

    python benchmarks/gate.py --data PATH/hippocampus --workspace WORKSPACE --cases 20

`fidelity_ratio`: mean Dice of accepted volumes by that of real held-out cases, each by a segmenter that has seen neither source
nor volume. Planted, on the first draw of every training case: its label moved by 4 voxels along each axis; a copy of another
patient's training image, whole and in one half, with its label; a copy of the source; brightness, contrast and sign of the
intensities changed. One counts as caught if it is refused for its own kind of fault. `false_alarms_unseen`: samples of test
cases, which the generator has never seen, that a limit of similarity refuses. Writes `results/gate.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from held_out import Float, HeldOut, parser, write

from diffboost3d.cases.records import Case
from diffboost3d.stages.gating import gate_digest, open_gate, read_limits
from diffboost3d.stages.generator_training import require_generator
from diffboost3d.stages.inputs import accelerator_of, cases_of, prepared, prepared_again
from diffboost3d.stages.refiners import require_refiner
from diffboost3d.synthesis.gate import COPY, FIDELITY, INTENSITY, SOURCE, Gate

STEP = 4  # voxels
Planted = tuple[str, str, Float, Any]  # what, its kind of fault, volume, label


def main() -> None:
    given = parser(__doc__).parse_args()
    held_out = HeldOut(given.data, given.workspace, given.overrides, given.cases, given.seed, given.part, given.set)
    held_out.synthesize()
    gate = opened(held_out)
    caught: dict[str, list[bool]] = {}
    training = cases_of(held_out.manifest, held_out.workspace.read_split(0).training)
    for number, case in enumerate(training):
        other = next(one for one in [*training[number:], *training] if one.patient != case.patient)
        for what, kind, volume, label in planted(held_out, case, other):
            verdict = gate.judge(volume, label, held_out.real(case), case.patient)
            caught.setdefault(what, []).append(any(reason.startswith(f"{kind}:") for reason in verdict.reasons))
    figures = {
        **fidelity(held_out),
        "planted_caught": sum(sum(found) for found in caught.values()),
        "planted_total": sum(len(found) for found in caught.values()),
        "planted": {what: f"{sum(found)} of {len(found)}" for what, found in caught.items()},
        "false_alarms_unseen": false_alarms(held_out, gate),
    }
    write("gate", given, held_out.overrides, len(training), **figures)


def opened(held_out: HeldOut) -> Gate:
    """The gate that `synthesize` made."""
    config, workspace, manifest = held_out.config, held_out.workspace, held_out.manifest
    model = require_generator(config, workspace, workspace.finetuned(0), "finetune")
    own = gate_digest(config, manifest, workspace.read_split(0), model, require_refiner(config, workspace, 0))

    def made_already(case: Case, count: int) -> list[Float]:
        raise AssertionError("the gate is of another configuration")

    accelerator = accelerator_of(config)
    gate = open_gate(config, workspace, manifest, accelerator, 0, own, made_already)
    assert gate is not None
    return gate


def planted(held_out: HeldOut, case: Case, other: Case) -> Iterator[Planted]:
    """Faulty volumes and labels of a case."""
    volume, label = first_draw(held_out, case), prepared(held_out.workspace, case, "label")
    for axis in range(3):
        yield f"label moved along axis {axis}", FIDELITY, volume, np.roll(label, STEP, axis=axis)
    copied = onto(held_out.real(other), case.grid.shape, -1.0)
    yield (
        "copy of another patient's image",
        COPY,
        copied,
        onto(prepared(held_out.workspace, other, "label"), copied.shape),
    )
    half = volume.copy()
    half[: len(half) // 2] = copied[: len(half) // 2]
    yield "half copied from another patient's image", COPY, half, label
    yield "copy of the source", SOURCE, held_out.real(case), label
    for what, changed in (("brighter", volume + 0.5), ("inverted", -volume), ("flat", 0.2 * volume)):
        yield what, INTENSITY, np.clip(changed, -1, 1).astype(np.float32), label


def first_draw(held_out: HeldOut, case: Case) -> Float:
    """The volume of the first draw of a case's first sample, accepted or not."""
    path = held_out.workspace.rejected_record(0, case.id, 0, 0)
    if not path.is_file():
        path = held_out.workspace.synthetic_record(0, case.id, 0)
    return prepared_again(held_out.workspace, path.parent, json.loads(path.read_text()), case)


def onto(array: Any, shape: tuple[int, ...], fill: float = 0) -> Any:
    """An array laid centre on centre onto another grid."""
    made = np.full(shape, fill, array.dtype)
    pairs = [(min(own, wanted), own, wanted) for own, wanted in zip(array.shape, shape, strict=True)]
    inner = tuple(slice((wanted - side) // 2, (wanted - side) // 2 + side) for side, _, wanted in pairs)
    made[inner] = array[tuple(slice((own - side) // 2, (own - side) // 2 + side) for side, own, _ in pairs)]
    return made


def fidelity(held_out: HeldOut) -> dict[str, Any]:
    """Of accepted volumes against real held-out cases, and how many were accepted."""
    folder = held_out.workspace.synthetic(0)
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*/*.json"))]
    dice = [record["checks"]["dice"] for record in records if record["accepted"]]
    limits = {limit.check: limit for limit in read_limits(held_out.workspace, 0)}
    real = limits["dice"]
    facts = json.loads((folder / "record.json").read_text())
    return {
        "fidelity_ratio": round(float(np.mean(dice)) / float(real.typical or 1), 4),
        "dice_accepted": round(float(np.mean(dice)), 4),
        "dice_real_held_out": round(float(real.typical or 0), 4),
        "real_held_out": real.references,
        "samples": len(records),
        "accepted": len(dice),
        "refused_draws": facts["refused_draws"],
        "refused_for": facts["refused_for"],
    }


def false_alarms(held_out: HeldOut, gate: Gate) -> dict[str, Any]:
    """Of the limits of similarity, on one sample of every test case."""
    checks = {limit.check: limit for limit in gate.limits if limit.kind in (COPY, SOURCE)}
    blind = Gate(
        held_out.manifest.foreground, held_out.cases[0].grid.spacing_mm, gate.where, gate.learned, gate.limits, None
    )
    flagged = []
    for case, volume in zip(held_out.cases, held_out.samples(held_out.default), strict=True):
        label = prepared(held_out.workspace, case, "label")
        figures = blind.judge(volume, label, held_out.real(case), case.patient).checks
        flagged.append(any(limit.refusal(figures[check]) for check, limit in checks.items() if check in figures))
    return {"flagged": int(np.sum(flagged)), "samples": len(flagged)}


if __name__ == "__main__":
    main()
