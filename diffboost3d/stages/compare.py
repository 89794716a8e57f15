"""`compare`: sizes x variants x folds x seeds x arms as one study that can be stopped at any moment and goes on."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from diffboost3d.cases.atomic import replacing, write_json, write_text
from diffboost3d.cases.study import BASE, Study, StudyScore, job_failure, settle_job
from diffboost3d.cases.workspace import Workspace
from diffboost3d.config import compose, to_yaml
from diffboost3d.errors import ConfigError, StudyError, WorkspaceError
from diffboost3d.evaluation.study import summarise_study
from diffboost3d.report.study import latex_of_study, markdown_of_study, verdict_lines
from diffboost3d.report.study_basis import basis_lines
from diffboost3d.schema import Config
from diffboost3d.stages.evaluate import case_scores
from diffboost3d.stages.launching import (
    LOG,
    Schedule,
    Task,
    refuse_torchrun,
    require_launcher,
    run_by_hydra,
    run_here,
    run_in_processes,
)
from diffboost3d.stages.segmenters import require_network_class, require_segmenter
from diffboost3d.stages.study_basis import basis_of_study
from diffboost3d.stages.study_data import is_laid_out, label_volumes, prepare_study, sizes_of
from diffboost3d.stages.study_jobs import Job, cell_names, is_done, jobs_of, run_job, write_job

KEPT = (
    "workspace",
    "seeds",
    "folds",
    "seed",
    "cohort",
    "data",
    "data.root",
    "data.labelled",
    "data.folds",
    "data.splits",
)


def start(config: Config, overrides: Sequence[str] = ()) -> None:
    """Do what is unfinished of a study, then write its scores, tables and figures.

    `compare.status` only lists it, `compare.tables` only writes those of what is finished.

    Args:
        overrides: those that `config` was composed of, to which each variant adds its own.

    Raises:
        StudyError: something failed; all else has been done. Or tables are asked for and no cell is finished.
    """
    refuse_torchrun()
    configs = variants_of(config, overrides)
    study = Study(config.workspace, tuple(configs))
    workspace = Workspace(config.workspace)
    if config.compare.status:
        workspace.main = False  # a listing leaves no trace, and disturbs no run in progress
        print(status_table(_laid_out_jobs(configs, study), study, _unprepared_cells(configs, study)))
        return
    if config.compare.tables:
        jobs = _laid_out_jobs(configs, study)
        if not jobs:
            raise WorkspaceError(f"{study.root}: nothing is prepared yet; without compare.tables=true the study begins")
        if not any(job.kind == "cell" and is_done(job, study) for job in jobs):
            raise StudyError(
                f"{study.root}: no cell is finished in this configuration, so no table is written and those that are there stay; "
                "give the words of the command that made them, or leave out compare.tables=true to do the cells"
            )
        _write_results(config, overrides, study, jobs, workspace, {}, _unprepared_cells(configs, study))
        return
    if config.compare.launcher != "local":
        require_launcher(config.compare.launcher)
    for of_variant in configs.values():
        require_network_class(of_variant)
    with workspace.opened(clear=config.compare.launcher == "local"):
        workspace.log(f"diffboost3d compare {' '.join(overrides)}")
        prepare_study(configs, study, workspace)
        workspace.write_config("compare", to_yaml(config))  # now: a refused study leaves what it was begun with
        jobs = _laid_out_jobs(configs, study)
        workspace.log(status_table(jobs, study))
        _require_segmenters(jobs, study)
        errors = _launch(config, study, jobs, workspace)
        _write_results(config, overrides, study, jobs, workspace, errors)
        workspace.log(status_table(jobs, study))
    if errors:
        first = next(iter(errors))
        raise StudyError(
            f"{len(errors)} of {len(jobs)} jobs of the study failed: {', '.join(errors)}; the first: {errors[first]} "
            f"({log if (log := study.job(first) / LOG).is_file() else workspace.log_path}); the same command tries them again"
        )


def variants_of(config: Config, overrides: Sequence[str]) -> dict[str, Config]:
    """Variant -> its configuration; without variants the one given.

    Raises:
        ConfigError: a variant that changes what all have to share.
    """
    made = {}
    for name, more in config.compare.variants.items():
        keys = [word.lstrip("+~").split("=")[0] for word in more]
        if refused := [key for key in keys if key in KEPT or key.split(".")[0] == "compare"]:
            raise ConfigError(
                f"compare.variants.{name} sets {refused[0]}, which all variants share; set it for the study"
            )
        try:
            made[name] = compose([*overrides, *more])
        except ConfigError as error:
            raise ConfigError(f"compare.variants.{name}: {error}") from error
        if changed := [key for key in KEPT if key != "data" and _value(made[name], key) != _value(config, key)]:
            raise ConfigError(
                f"compare.variants.{name} changes {changed[0]}, which all variants share; set it for the study"
            )
    return made or {BASE: config}


def _value(config: Config, key: str) -> Any:
    """Of a key with dots."""
    return attrgetter(key)(config)


def _laid_out_jobs(configs: dict[str, Config], study: Study) -> list[Job]:
    """All jobs of the workspaces that there are; the first to start come first."""
    jobs = [
        job
        for variant, config in configs.items()
        for size in sizes_of(config)
        if is_laid_out(study.workspace(variant, size))
        for job in jobs_of(config, study, variant, size)
    ]
    rank = {"pretrain": 0, "synthesize": 1, "cell": 2}
    return sorted(jobs, key=lambda job: rank[job.kind])


def _unprepared_cells(configs: dict[str, Config], study: Study) -> list[str]:
    """Names of the cells of the workspaces that there aren't yet."""
    return [
        name
        for variant, config in configs.items()
        for size in sizes_of(config)
        if not is_laid_out(study.workspace(variant, size))
        for name in cell_names(config, study, variant, size)
    ]


def status_table(jobs: Sequence[Job], study: Study, unprepared: Sequence[str] = ()) -> str:
    """How many jobs are done, and the names of those that aren't, with what the last try failed with.

    Args:
        unprepared: names of the cells that there are no jobs of yet.
    """
    lines, kinds = [], {"pretrain": "generators", "synthesize": "synthetic sets", "cell": "cells"}
    for kind, words in kinds.items():
        of_kind = [job for job in jobs if job.kind == kind]
        left = [job for job in of_kind if not is_done(job, study)]
        later = unprepared if kind == "cell" else ()
        if of_kind or later:
            lines.append(f"{words}: {len(of_kind) - len(left)} of {len(of_kind) + len(later)} done")
        for job in left:
            error = job_failure(study.job(job.name), job.digest)
            lines.append(f"  {job.name}: {'failed: ' + error if error else 'to do'}")
        lines += [f"  {name}: to do (not prepared yet)" for name in later]
    return f"study {study.root}\n" + "\n".join(lines)


# --- running ---------------------------------------------------------------------------------------------------------
def _require_segmenters(jobs: Sequence[Job], study: Study) -> None:
    """Refuse now a network or loss that would stop every cell of a variant after its generator was trained."""
    first = {job.variant: job for job in reversed(jobs) if job.kind == "cell" and not is_done(job, study)}
    for job in first.values():
        require_segmenter(job.config, Workspace(job.config.workspace))


def _launch(config: Config, study: Study, jobs: list[Job], workspace: Workspace) -> dict[str, str]:
    """Run what isn't done; {name of a job: what it failed with}."""
    by_name = {job.name: job for job in jobs}
    undone = {job.name: job for job in jobs if not is_done(job, study)}
    wanted = _needed(undone, by_name)
    roots = list(dict.fromkeys(Path(job.config.workspace) for job in jobs))
    leaders: dict[str, str] = {}
    tasks = []
    for job in wanted:
        lenders = [root for root in roots if root != Path(job.config.workspace)]
        folder = write_job(_sharing_cores(job, config), study, lenders)
        leader = leaders.setdefault(job.own, job.name)
        tasks.append(Task(job.name, folder, job.needs, () if leader == job.name else (leader,)))
    over: Counter[str] = Counter()

    def settled(task: Task) -> str | None:
        job = by_name[task.name]
        return None if is_done(job, study) else job_failure(task.folder, job.digest) or "it left no result"

    def report(event: str, task: Task, error: str | None) -> None:
        over[event] += event != "starts"
        count = f"{over['done'] + over['failed']} of {len(tasks)}"
        if event == "failed" and job_failure(task.folder, by_name[task.name].digest) is None:
            settle_job(task.folder, by_name[task.name].digest, error)
        workspace.log(
            f"{task.name} {event}" + (f": {error}" if error else "") + (f" ({count})" if event != "starts" else "")
        )

    schedule = Schedule(tasks, settled, report)
    _run(config, schedule, study)
    lost = {task.name: "it was not settled; see the log" for task in tasks if task.name not in schedule.errors}
    return {name: error for name, error in schedule.errors.items() if error} | lost


def _run(config: Config, schedule: Schedule, study: Study) -> None:
    compare = config.compare
    if not schedule.tasks:
        return
    if compare.launcher != "local":
        run_by_hydra(schedule, compare.launcher, compare.launcher_options, study.root / "launcher")
    elif compare.processes == 0:
        run_here(schedule, run_job)
    else:
        run_in_processes(schedule, run_job, min(compare.processes, len(schedule.tasks)))


def _needed(undone: dict[str, Job], by_name: dict[str, Job]) -> list[Job]:
    """The unfinished cells and, of the jobs before them, the unfinished ones; without a cell that needs them nothing."""
    kept: set[str] = set()

    def add(job: Job) -> None:
        if job.name in undone:
            kept.add(job.name)
        for name in job.needs:
            add(by_name[name])

    for job in undone.values():
        if job.kind == "cell":
            add(job)
    return [job for name, job in undone.items() if name in kept]


def _sharing_cores(job: Job, config: Config) -> Job:
    """With the cores shared by the processes that run at the same time; the number of threads is no part of a result's digest."""
    processes = config.compare.processes
    if config.compare.launcher != "local" or processes < 2 or job.config.runtime.threads:
        return job
    threads = max(1, (os.cpu_count() or 1) // processes)
    runtime = dataclasses.replace(job.config.runtime, threads=threads)
    return dataclasses.replace(job, config=dataclasses.replace(job.config, runtime=runtime))


# --- results ---------------------------------------------------------------------------------------------------------
def _write_results(
    config: Config,
    words: Sequence[str],
    study: Study,
    jobs: list[Job],
    workspace: Workspace,
    errors: dict[str, str],
    unprepared: Sequence[str] = (),
) -> None:
    """scores.csv, study.json, tables and figures, of the cells that are done."""
    cells = [job for job in jobs if job.kind == "cell"]
    done = [job for job in cells if is_done(job, study)]
    scores = [score for job in done for score in _scores_of(job, study)]
    study.write_scores(scores)
    summary = summarise_study(scores, config.compare.references, config.seed) | basis_of_study(done, words)
    unfinished = [*(job.name for job in cells if job not in done), *unprepared]
    count = len(cells) + len(unprepared)
    write_json(study.summary_path, {**summary, "cells": count, "unfinished": unfinished})
    if not scores:
        return
    notes = [f"{len(done)} of {count} cells are finished"]
    notes += [f"{name} failed: {error}" for name, error in errors.items()]
    notes += basis_lines(summary)
    title = f"Study {study.root.resolve().name}"
    write_text(study.report("md"), markdown_of_study(title, summary, notes))
    write_text(study.report("tex"), latex_of_study(title, summary))
    _write_figures(study, summary)
    arms = {job.arm for job in cells}
    if not arms & set(config.compare.references):
        named = ", ".join(config.compare.references) or "none is named"
        workspace.log(f"no arm of compare.references ({named}) is among the arms: nothing is compared")
    for line in [*basis_lines(summary), *verdict_lines(summary)]:
        workspace.log(line)
    workspace.log(f"study: {study.report('md')}, {study.scores_path}")


def _scores_of(job: Job, study: Study) -> list[StudyScore]:
    workspace = Workspace(job.config.workspace)
    manifest = workspace.read_manifest()
    tested = list(workspace.read_split(job.fold).test)
    patients = {case.id: case.patient for case in manifest.cases}
    volumes = label_volumes(study, workspace, manifest, tested)
    folder = job.results()[0].parent
    return [
        StudyScore(
            job.variant, job.size, one.arm, one.fold, one.seed, one.case, patients[one.case], one.label,
            volumes[one.case][one.label], one.metric, one.value, one.unit,
        )
        for case in tested
        for one in case_scores(folder, case)
    ]  # fmt: skip


def _write_figures(study: Study, summary: dict[str, object]) -> None:
    from diffboost3d.report.study_figures import forest_plot, learning_curve

    for name, draw in (("forest", forest_plot), ("learning_curve", learning_curve)):
        try:
            files = draw(summary)
        except ValueError:  # nothing of that kind to draw: one arm, one size
            continue
        for ending, content in files.items():
            with replacing(study.figure(name, ending)) as temporary:
                temporary.write_bytes(content)
