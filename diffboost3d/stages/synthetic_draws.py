"""What became of the draws of synthetic volumes: accepted, refused and for what, or not judged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from diffboost3d.cases.records import SyntheticRecord
from diffboost3d.cases.workspace import Workspace
from diffboost3d.schema import Config
from diffboost3d.stages.gating import read_limits
from diffboost3d.synthesis.gate import KINDS
from diffboost3d.synthetic_sets import of_set

MERGES = ("synthetic", "instead")  # of the arms that train on synthetic volumes


def draws_of(config: Config, workspace: Workspace, fold: int) -> tuple[list[SyntheticRecord], list[SyntheticRecord]]:
    """(what became of each of the first `synthesize.samples` samples, every draw of them), of a fold's training cases."""
    settled, draws = [], []
    for case in workspace.read_split(fold).training:
        for sample in range(config.synthesize.samples):
            path = workspace.synthetic_record(fold, case, sample)
            if not path.is_file():
                continue
            record = SyntheticRecord.from_json(json.loads(path.read_text(encoding="utf-8")))
            settled.append(record)
            folder = workspace.rejected_record(fold, case, sample, 0).parent
            for refused in sorted(folder.glob(f"{sample:02d}-*.json")):
                one = json.loads(refused.read_text(encoding="utf-8"))
                moved: dict[str, Any] = {"path": f"{folder.name}/{one['path']}"}
                moved |= {"channels": [f"{folder.name}/{name}" for name in one.get("channels", ())]}
                draws.append(SyntheticRecord.from_json(one | moved))
            if record.accepted:
                draws.append(record)
    return settled, draws


def draws_by_reason(draws: Sequence[SyntheticRecord]) -> dict[str, int]:
    """{kind of reason: draws that were refused for it}; a draw may have several."""
    reasons: dict[str, int] = {}
    for record in draws:
        for kind in {reason.partition(":")[0] for reason in record.reasons}:
            reasons[kind] = reasons.get(kind, 0) + 1
    return dict(sorted(reasons.items()))


def count_set(config: Config, workspace: Workspace, fold: int, name: str) -> dict[str, Any]:
    """A set of synthetic volumes in numbers: {fold, set} and those of `count_draws`."""
    return {"fold": fold, "set": name, **count_draws(of_set(config, name), workspace.of_set(name), fold)}


def count_draws(config: Config, workspace: Workspace, fold: int) -> dict[str, Any]:
    """The volumes and draws of a set in numbers: {volumes, accepted, judged, not_checked, refused_draws, refused_for}.

    `accepted` is None where records of volumes are no longer there. `not_checked`: kinds of faults that the gate could not look
    for. `refused_for`: {kind: draws}; a draw may have several.

    Args:
        config, workspace: of the set.
    """
    settled, draws = draws_of(config, workspace, fold)
    volumes = len(workspace.read_split(fold).training) * config.synthesize.samples
    judged = any(record.checks for record in draws)
    checked = {limit.kind for limit in read_limits(workspace, fold)}
    return {
        "volumes": volumes,
        "accepted": sum(record.accepted for record in settled) if len(settled) == volumes else None,
        "judged": judged,
        "not_checked": [kind for kind in KINDS if judged and kind not in checked],
        "refused_draws": sum(not record.accepted for record in draws),
        "refused_for": draws_by_reason(draws),
    }


def tally(config: Config, workspace: Workspace, fold: int) -> dict[str, Any]:
    """What the gate has come to on a set that is made: {accepted, refused_draws, refused_for} of `count_draws`; also logged."""
    counts = count_draws(config, workspace, fold)
    said = ", ".join(f"{kind} {count}" for kind, count in counts["refused_for"].items())
    accepted = "?" if counts["accepted"] is None else counts["accepted"]
    workspace.log(
        f"gate fold {fold}: {accepted} of {counts['volumes']} volumes accepted; {counts['refused_draws']} draws refused"
        + (f" ({said})" if said else "")
    )
    return {name: counts[name] for name in ("accepted", "refused_draws", "refused_for")}


def count_sets(config: Config, workspace: Workspace) -> list[dict[str, Any]]:
    """`count_set` of every fold and set that arms of this configuration train on, with their `arms`."""
    arms_of: dict[str, list[str]] = {}
    for name in config.arms:
        if config.arm[name].merge in MERGES:
            arms_of.setdefault(config.arm[name].synthetic_set, []).append(name)
    return [
        {**count_set(config, workspace, fold, name), "arms": arms}
        for fold in config.folds
        for name, arms in arms_of.items()
    ]
