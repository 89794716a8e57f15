"""`plan`: settings for the prepared data on this machine, with reasons, and what every stage will take."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffboost3d.cases.atomic import write_json, write_text
from diffboost3d.cases.workspace import Workspace, now, versions
from diffboost3d.planning.costs import Cost, totals
from diffboost3d.planning.machine import read_machine
from diffboost3d.schema import Config
from diffboost3d.stages.inputs import accelerator_of, cases_of, prepared
from diffboost3d.stages.plan_choices import (
    Choice,
    Plan,
    choose_generator,
    choose_grid,
    choose_segmenter,
    segmenter_patch,
)
from diffboost3d.stages.plan_costs import Reckoning, Trials
from diffboost3d.stages.plan_preparing import prepare_seconds
from diffboost3d.stages.plan_trials import (
    new_generator,
    patch_seconds,
    process_bytes,
    scoring_seconds,
    search_seconds,
    try_codec,
    try_refiner,
    try_set,
    try_translator,
)
from diffboost3d.stages.refine_rule import with_refine
from diffboost3d.stages.run import needed_stages
from diffboost3d.stages.synthesis_work import duration, size_in_words
from diffboost3d.synthetic_sets import of_set, synthetic_sets

LOOKED_AT = 20  # cases whose labels are read, at most
WIDTH = 40  # characters of a value before its reason


def run(config: Config, workspace: Workspace) -> None:
    """Write plan.yaml and plan.json, and print choices and costs; `prepare` must have run.

    Raises:
        WorkspaceError: it has not. ConfigError: choices that don't go with the rest of the configuration.
    """
    if not workspace.main:
        return
    manifest = workspace.read_manifest()
    config, device = with_refine(config, manifest), accelerator_of(config).device
    plan = Plan(config, manifest, read_machine(workspace.root, device.type))
    facts = data_facts(plan, workspace)
    for line in data_lines(facts, plan):
        workspace.log(line)
    trials = _tried(plan, workspace, device)
    preparing = prepare_seconds(plan, workspace) if plan.manifest is not manifest else None
    costs = Reckoning(plan, workspace, trials, needed_stages(plan.config), preparing).costs()
    _check_room(plan, costs)
    if plan.machine.load > 2 * plan.machine.cores:
        plan.notes.append(
            f"other work keeps this machine busy ({plan.machine.load:.0f} processes want its {plan.machine.cores} cores): the "
            "times are those of a machine at rest"
        )
    write_text(workspace.plan_path, plan_yaml(plan.choices, plan.config))
    write_json(workspace.plan_path.with_suffix(".json"), _record(plan, facts, trials, costs))
    for line in [*choice_lines(plan.choices), "", *cost_lines(costs), "", *plan.notes]:
        workspace.log(line)
    workspace.log(
        f"plan: {workspace.plan_path}; pass it on: diffboost3d run plan={workspace.plan_path} and your own words"
    )


def _tried(plan: Plan, workspace: Workspace, device: Any) -> Trials:
    """Make all choices, and every trial that they and the costs need."""
    from tqdm import tqdm

    process = process_bytes()
    stages = needed_stages(plan.config)
    generator = None
    bar = tqdm(total=4, desc="plan", unit="trial", bar_format="{desc}: {n}/{total} {postfix} [{elapsed}]", delay=5)
    with bar:
        bar.set_postfix_str("generator")
        choose_grid(plan)
        if "pretrain" in stages:
            generator = choose_generator(plan, workspace, device)
        bar.update()
        bar.set_postfix_str("segmenter")
        segmenter, patches = choose_segmenter(plan, device)
        arms = patch_seconds(plan.config, plan.manifest, segmenter_patch(plan))
        bar.update()
        bar.set_postfix_str("synthesis")
        config, shape, spacing_mm = plan.config, plan.middle_shape, plan.spacing_mm
        translator, network = (
            try_translator(config, plan.manifest, device) if "train-pix2pix" in stages else (None, None)
        )
        refiner, refining = try_refiner(config, plan.manifest, device) if "train-refiner" in stages else (None, None)
        made = new_generator(config, workspace, plan.manifest) if "pretrain" in stages else None
        sets = {
            name: try_set(of_set(config, name), plan.manifest, (made, network, refining), shape, device)
            for name in synthetic_sets(config)
        }
        search = search_seconds(config, shape, spacing_mm) if sets and config.gate.enabled else (0.0, 0)
        codec = try_codec(config, plan.manifest, device) if "train-codec" in stages else None
        bar.update()
        bar.set_postfix_str("metrics")
        scoring = scoring_seconds(config, plan.manifest, shape, spacing_mm)
        bar.update()
    return Trials(segmenter, patches, arms, scoring, process, generator, codec, translator, refiner, sets, search)


# --- the data --------------------------------------------------------------------------------------------------------
def data_facts(plan: Plan, workspace: Workspace) -> dict[str, Any]:
    """What the plan rests on: shapes and spacings of the files, intensity maps, sizes of labels in voxels as prepared."""
    cases = plan.manifest.cases
    grids = [case.source_grid.canonical() for case in cases]
    facts: dict[str, Any] = {"cases": len(cases), "labelled": sum(case.label is not None for case in cases)}
    for name, values in (("shape", [one.shape for one in grids]), ("spacing_mm", [one.spacing_mm for one in grids])):
        low, middle, high = (np.percentile(values, at, axis=0).round(3).tolist() for at in (0, 50, 100))
        facts[name] = {"least": low, "median": middle, "most": high}
    first = cases[0].intensity
    facts["intensity"] = {"kind": first.kind, "unit": first.unit}
    for name in ("low", "high"):
        facts["intensity"][f"median_{name}"] = float(np.median([getattr(case.intensity, name) for case in cases]))
    facts["label_voxels"] = _label_voxels(plan, workspace)
    return facts


def _label_voxels(plan: Plan, workspace: Workspace) -> dict[str, dict[str, float]]:
    """Of training and validation cases; test cases are left alone."""
    split = workspace.read_split(plan.config.folds[0])
    labelled = cases_of(plan.manifest, [*split.training, *split.validation])[:LOOKED_AT]
    counts = [
        np.bincount(prepared(workspace, case, "label").ravel(), minlength=plan.manifest.label_count + 1)
        for case in labelled
    ]
    found = {}
    for name, value in plan.manifest.foreground.items():
        own = [int(count[value]) for count in counts]
        shares = [int(count[value]) / int(count.sum()) for count in counts]
        found[name] = {
            "median": float(np.median(own)),
            "share": round(float(np.median(shares)), 5),
            "absent": sum(size == 0 for size in own),
        }
    return found


def data_lines(facts: dict[str, Any], plan: Plan) -> list[str]:
    """The data and the machine, in words."""
    shape, spacing, machine = facts["shape"], facts["spacing_mm"], plan.machine
    labels = ", ".join(f"{name} {one['share']:.2%}" for name, one in facts["label_voxels"].items())
    gpu = "no GPU" if machine.device == "cpu" else machine.device
    if machine.device_memory is not None:
        gpu = f"{machine.device} with {size_in_words(machine.device_memory)}"
    return [
        f"data: {facts['cases']} cases, {facts['labelled']} labelled, median {_by(shape['median'])} voxels "
        f"({_by(shape['least'])} to {_by(shape['most'])}) of {_by(spacing['median'])} mm; labels: {labels} of the voxels",
        f"machine: {machine.cores} cores, {size_in_words(machine.free_memory)} of {size_in_words(machine.memory)} memory free, "
        f"{gpu}, {size_in_words(machine.free_disk)} of disk free",
    ]


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def _check_room(plan: Plan, costs: Sequence[Cost]) -> None:
    """Say what will not fit."""
    machine = plan.machine
    for cost in costs:
        if cost.memory > machine.memory:
            plan.notes.append(
                f"{cost.stage} needs about {size_in_words(cost.memory)} of main memory; there are {size_in_words(machine.memory)}"
            )
        if cost.device_memory is not None and machine.device_memory and cost.device_memory > machine.device_memory:
            plan.notes.append(f"{cost.stage} needs about {size_in_words(cost.device_memory)} on the device")
    whole = totals(costs)
    if whole.disk > machine.free_disk:
        plan.notes.append(
            f"the run needs about {size_in_words(whole.disk)} of disk; {size_in_words(machine.free_disk)} are free"
        )


# --- what is written -------------------------------------------------------------------------------------------------
def plan_yaml(choices: Sequence[Choice], config: Config) -> str:
    """The choices as nested YAML with the reason behind every value; a later choice of a key stands for earlier ones."""
    tree: dict[str, Any] = {}
    for choice in choices:
        *sections, name = choice.key.split(".")
        inside = tree
        for section in sections:
            inside = inside.setdefault(section, {})
        inside[name] = choice
    head = [
        f"# Written by `diffboost3d plan`, preset={config.preset}. Pass it on as plan=FILE to any command: it goes after the",
        "# preset, and what else is on the command line goes before it. Values may be changed here; they are checked as all are.",
    ]
    return "\n".join([*head, *_yaml_lines(tree, "")]) + "\n"


def _yaml_lines(tree: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for name, value in tree.items():
        if isinstance(value, Choice):
            written = f"{indent}{name}: {json.dumps(value.value)}"  # JSON is YAML
            lines.append(f"{written:<{WIDTH}}  # {value.reason}")
        else:
            lines += [f"{indent}{name}:", *_yaml_lines(value, f"{indent}  ")]
    return lines


def choice_lines(choices: Sequence[Choice]) -> list[str]:
    """The choices, one a line."""
    last = {choice.key: choice for choice in choices}
    width = max(len(key) for key in last)
    return [f"  {key:<{width}}  {json.dumps(one.value)}  ({one.reason})" for key, one in last.items()]


def cost_lines(costs: Sequence[Cost]) -> list[str]:
    """The table of costs; without a GPU it has no column for one."""
    whole = totals(costs)
    has_device = whole.device_memory is not None
    head = ["stage", "time", "memory", *(["GPU memory"] if has_device else []), "disk", "estimated from"]
    rows = [head]
    for cost in [*costs, whole]:
        time = "-" if not cost.seconds else f"about {duration(cost.seconds)}"
        device = [size_in_words(cost.device_memory)] if cost.device_memory is not None else []
        disk = size_in_words(cost.disk) if cost.disk else "-"
        rows.append([cost.stage, time, size_in_words(cost.memory), *device, disk, cost.measured])
    rows[-1][-1] = "all of the above; without `report`"
    widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _record(plan: Plan, facts: dict[str, Any], trials: Trials, costs: Sequence[Cost]) -> dict[str, Any]:
    last = {choice.key: choice for choice in plan.choices}
    return {
        "made": now(),
        "preset": plan.config.preset,
        "machine": dataclasses.asdict(plan.machine),
        "data": facts,
        "choices": [dataclasses.asdict(choice) for choice in last.values()],
        "trials": dataclasses.asdict(trials),
        "costs": [dataclasses.asdict(cost) for cost in [*costs, totals(costs)]],
        "runs": {"folds": plan.config.folds, "arms": plan.config.arms, "seeds": plan.config.seeds},
        "notes": plan.notes,
        "versions": versions(),
    }
