"""Does the audit see memorising? The gate's verdicts on a generator that was made to learn by heart, and on the default one.

    python benchmarks/memorisation.py --data PATH/hippocampus --workspace WORKSPACE

The over-trained generator goes on from the default one with two cases, no jitter, no dropping of text or control, a high rate.
Both are sampled alike, with the default settings, refined by the same refiner where `synthesize.refine` asks for it, and
judged by gates made alike: limits of similarity rest on real images and on
samples of the same four validation cases, which neither has seen. Counted are first draws that a limit of similarity refuses
(to a training image of another patient, of its own, or to what they started from). Writes `results/memorisation.json`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from held_out import HeldOut, parser, write

from diffboost3d.cases.workspace import Workspace
from diffboost3d.synthesis.gate import COPY, SOURCE

CASES = 2
CHECKS = ("detail of another patient", "detail of its own patient", "detail of its start")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--steps", type=int, default=400, help="of over-training")
    arguments.add_argument("--samples", type=int, default=6, help="of each case of the over-trained generator")
    arguments.add_argument("--start", type=Path, help="what over-training begins with; none: the default generator")
    given = arguments.parse_args()
    held_out = HeldOut(given.data, given.workspace, given.overrides, given.cases, given.seed, given.part, given.set)
    common = [*held_out.overrides, f"data.root={given.data}"]
    held_out.synthesize()
    default = audited(held_out.workspace)
    overtrained = audited(overtrain(held_out.workspace, common, given))
    figures: dict[str, Any] = {
        "flagged_overtrained": overtrained["flagged"],
        "flagged_default": default["flagged"],
        "overtrained": {**overtrained, "steps": given.steps, "training_cases": CASES},
        "default": default,
    }
    folders = "--start GENERATOR" if given.start else ""
    write("memorisation", given, held_out.overrides, default["cases"] + overtrained["cases"], folders, **figures)


def overtrain(normal: Workspace, common: Sequence[str], given: Namespace) -> Workspace:
    """A workspace beside the default one's results, with a generator that learned two of its cases by heart, and samples."""
    root = normal.root / "overtrained"
    split = normal.read_split(0)
    parts = {"training": split.training[:CASES], "unlabelled": [], "validation": split.validation, "test": split.test}
    root.mkdir(exist_ok=True)
    (root / "splits-wanted.json").write_text(json.dumps([parts]))
    if not (root / "prepared").is_dir():
        shutil.copytree(normal.prepared_folder, root / "prepared")
    if normal.refiner(0).is_dir() and not (root / "diffusion" / "refiner").is_dir():
        shutil.copytree(normal.refiner(0).parent, root / "diffusion" / "refiner")  # volumes are refined alike
    start = given.start or normal.finetuned(0)
    words = [*common, f"workspace={root}", f"data.splits={root / 'splits-wanted.json'}"]
    words += [f"diffusion.start_from={start}", "diffusion.pretrain.steps=0"]
    words += [f"diffusion.finetune.{setting}" for setting in heart(given.steps)]
    words += [f"synthesize.samples={given.samples}", "gate.attempts=1", "gate.training.steps=1"]
    for stage in ("prepare", "pretrain", "finetune", "synthesize"):
        command(stage, words)
    return Workspace(root)


def heart(steps: int) -> list[str]:
    """Settings of a training that should learn by heart."""
    still = ["jitter=0", "drop_text=0", "drop_control=0", "weight_decay=0"]
    return [f"steps={steps}", "batch=8", "learning_rate=1e-3", "ema_decay=0.99", "validate_every=100000", *still]


def command(stage: str, words: Sequence[str]) -> None:
    subprocess.run([sys.executable, "-m", "diffboost3d", stage, *words], check=True)


def audited(workspace: Workspace) -> dict[str, Any]:
    """What the gate said of the first draw of every sample."""
    first = [
        json.loads((aside[0] if aside else path).read_text())
        for path in sorted(workspace.synthetic(0).glob("*/*.json"))
        for aside in [sorted((path.parent / "rejected").glob(f"{path.stem}-0.json"))]
    ]
    limits = {one["check"]: one for one in json.loads((workspace.gate(0) / "limits.json").read_text())}
    kinds = [{reason.partition(":")[0] for reason in record["reasons"]} for record in first]
    return {
        "flagged": round(float(np.mean([bool(of & {COPY, SOURCE}) for of in kinds])), 4),
        "flagged_as_copy": round(float(np.mean([COPY in of for of in kinds])), 4),
        "flagged_as_too_close_to_source": round(float(np.mean([SOURCE in of for of in kinds])), 4),
        "samples": len(first),
        "cases": len({record["case"] for record in first}),
        "checks": {
            check: {
                "mean": round(float(np.mean([record["checks"][check] for record in first])), 4),
                "range": [pick([record["checks"][check] for record in first]) for pick in (min, max)],
                "limit": round(limits[check]["high"], 4),
                "references": limits[check]["references"],
                "mean_of_references": None if limits[check]["typical"] is None else round(limits[check]["typical"], 4),
            }
            for check in CHECKS
        },
    }


if __name__ == "__main__":
    main()
