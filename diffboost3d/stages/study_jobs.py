"""The pieces of a study that run by themselves: a fold's generator, its synthetic volumes, and one segmenter each."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import traceback
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from diffboost3d.cases.atomic import write_json, write_text
from diffboost3d.cases.records import Manifest, Split
from diffboost3d.cases.study import SETTINGS, Study, job_is_done, job_lock, settle_job
from diffboost3d.cases.workspace import CONFIG, RECORD, Workspace
from diffboost3d.config import digest, from_yaml, to_plain, to_yaml
from diffboost3d.errors import DiffBoostError
from diffboost3d.schema import Config
from diffboost3d.stages.inputs import arm_facts, merge_of
from diffboost3d.stages.refine_rule import with_refine
from diffboost3d.stages.run import needed_stages
from diffboost3d.synthetic_sets import of_set, refines, synthetic_sets

PRETRAINING = ("train-codec", "pretrain", "train-refiner")
CELL = ("train", "evaluate")
NOT_OF_A_JOB = (
    "workspace",
    "preset",
    "plan",
    "cohort",
    "compare",
    "export",
    "predict",
    "inspect",
    "runtime",
    "folds",
    "seeds",
    "arms",
    "arm",
)


@dataclass(frozen=True)
class Job:
    """Stages of one workspace, in one configuration.

    Attributes:
        name: such as n005-f0-none-s1; with named variants their name before it.
        kind: pretrain, synthesize or cell.
        needs: names of the jobs that go before.
        digest: of all that shapes the result; own: of what is known to shape it, so that jobs with the same `own` are
            probably one piece of work, of which the first is done and the others are linked.
    """

    name: str
    kind: str
    variant: str
    size: int | None
    fold: int
    arm: str
    seed: int
    stages: tuple[str, ...]
    needs: tuple[str, ...]
    config: Config
    digest: str
    own: str

    def results(self) -> list[Path]:
        """The records that the job's last stage leaves."""
        workspace = Workspace(self.config.workspace)
        if self.kind == "cell":
            return [workspace.segmenter(self.fold, self.arm, self.seed) / "predictions" / RECORD]
        if self.kind == "pretrain":
            folders = {"pretrain": workspace.pretrained(self.fold), "train-refiner": workspace.refiner(self.fold)}
            return [folder / RECORD for stage, folder in folders.items() if stage in self.stages]
        return [workspace.of_set(name).synthetic(self.fold) / RECORD for name in synthetic_sets(self.config)]


def jobs_of(config: Config, study: Study, variant: str, size: int | None) -> list[Job]:
    """The jobs of one workspace, each before those that need it. Prepared data and the split have to be there.

    Args:
        config: of the variant.
    """
    root = study.workspace(variant, size)
    workspace = Workspace(root)
    manifest = workspace.read_manifest()
    config = dataclasses.replace(
        with_refine(config, manifest),
        workspace=str(root),
        data=dataclasses.replace(config.data, labelled=size, splits=None),
    )
    jobs: list[Job] = []
    for fold in config.folds:
        split = workspace.read_split(fold)
        jobs += _jobs_of_fold(dataclasses.replace(config, folds=[fold]), study, manifest, split, variant, size)
    return jobs


def _jobs_of_fold(
    config: Config, study: Study, manifest: Manifest, split: Split, variant: str, size: int | None
) -> list[Job]:
    fold = config.folds[0]
    prefix = study.prefix(variant, size, fold)
    read = _read(manifest, split)
    made: list[Job] = []

    def add(name: str, kind: str, arms: list[str], seed: int, stages: tuple[str, ...], needs: tuple[str, ...]) -> None:
        of_job = dataclasses.replace(config, arms=arms, seeds=[seed])
        cell = [arms[0], seed] if kind == "cell" else []
        made.append(
            Job(
                name=f"{prefix}-{name}",
                kind=kind,
                variant=variant,
                size=size,
                fold=fold,
                arm=arms[0] if kind == "cell" else "",
                seed=seed,
                stages=stages,
                needs=needs,
                config=of_job,
                digest=digest(kind, fold, cell, _shaping(of_job, arms if cell else []), read),
                own=digest(kind, fold, cell, _known(of_job, kind), read[kind]),
            )
        )

    before = [stage for stage in needed_stages(config) if stage not in ("prepare", *CELL, "report")]
    generated = [arm for arm in config.arms if _before(config, arm)]
    needs: tuple[str, ...] = ()
    if generated:
        pretraining = tuple(stage for stage in before if stage in PRETRAINING)
        if pretraining:
            add("pretrain", "pretrain", generated, config.seeds[0], pretraining, ())
            needs = (made[-1].name,)
        rest = tuple(stage for stage in before if stage not in PRETRAINING)
        add("synthesize", "synthesize", generated, config.seeds[0], rest, needs)
        needs = (made[-1].name,)
    for seed in config.seeds:
        for arm in config.arms:
            add(f"{arm}-s{seed}", "cell", [arm], seed, CELL, needs if arm in generated else ())
    return made


def cell_names(config: Config, study: Study, variant: str, size: int | None) -> list[str]:
    """The names that the cells of a workspace have or will have; nothing has to be prepared.

    Args:
        config: of the variant.
    """
    return [
        f"{study.prefix(variant, size, fold)}-{arm}-s{seed}"
        for fold in config.folds
        for seed in config.seeds
        for arm in config.arms
    ]


def _before(config: Config, arm: str) -> bool:
    """Whether an arm needs stages between preparing and training."""
    return bool({*needed_stages(dataclasses.replace(config, arms=[arm]))} - {"prepare", *CELL, "report"})


def _shaping(config: Config, arms: list[str]) -> dict[str, Any]:
    """Of the configuration what may shape a result: nearly all, but of other arms than these."""
    plain = to_plain(config)
    # a partner that isn't chosen is left out, as it was before there was one: finished cells stay finished
    plain["arm"] = {name: {key: one for key, one in plain["arm"][name].items() if one is not None} for name in arms}
    plain["data"] = {}  # what it has shaped is in the manifest and the split
    plain["evaluate"] = {key: value for key, value in plain["evaluate"].items() if key != "reference"}
    dropped = set(NOT_OF_A_JOB) - {"arm"}
    return {
        **{key: value for key, value in plain.items() if key not in dropped},
        "precision": config.runtime.precision,
    }


def _known(config: Config, kind: str) -> list[Any]:
    """Of the configuration what is known to shape a result, to guess which jobs are the same work."""
    generator = [to_plain(config.diffusion), to_plain(config.pix2pix), config.prompt, config.seed]
    if kind == "pretrain":
        return generator
    if any(refines(of_set(config, name).synthesize) for name in synthetic_sets(config)):
        generator.append(to_plain(config.refiner))
    generator += [to_plain(section) for section in (config.synthesize, config.gate, config.network)]
    if kind == "synthesize":
        return generator
    arm = config.arm[config.arms[0]]
    return [
        arm_facts(arm),
        to_plain(config.train),
        to_plain(config.network),
        to_plain(merge_of(config, arm)) if arm.merge != "none" else None,
        to_plain(config.classical) if arm.classical else None,
        generator if arm.merge not in ("none", "real") else None,
    ]


def _read(manifest: Manifest, split: Split) -> dict[str, Any]:
    """Digests of the cases that each kind of job reads."""
    digests = {case.id: case.digest for case in manifest.cases}
    training, unlabelled, validation, test = (
        [digests[case] for case in getattr(split, part)] for part in ("training", "unlabelled", "validation", "test")
    )
    labels = [manifest.labels, manifest.prompt]
    return {
        "pretrain": [sorted(training + unlabelled), validation, labels],
        "synthesize": [training, unlabelled, validation, labels],
        "cell": [training, validation, test, labels],
    }


# --- running ---------------------------------------------------------------------------------------------------------
def write_job(job: Job, study: Study, lenders: list[Path]) -> Path:
    """Write down all that a process elsewhere needs to run a job; returns the job's folder."""
    folder = study.job(job.name)
    write_text(folder / CONFIG, to_yaml(job.config))
    settings: dict[str, Any] = {"digest": job.digest, "stages": list(job.stages)}
    settings["lenders"] = [os.path.relpath(lender, folder) for lender in lenders]
    settings["results"] = [os.path.relpath(record, folder) for record in job.results()]
    write_json(folder / SETTINGS, settings)
    return folder


def run_job(folder: Path) -> None:
    """Run a job that was written down, unless it is done; whatever goes wrong is written down too, and not raised."""
    settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    with job_lock(folder):
        config = from_yaml((folder / CONFIG).read_text(encoding="utf-8"))
        try:
            _run_stages(config, settings["stages"], [folder / lender for lender in settings["lenders"]])
        except DiffBoostError as error:
            settle_job(folder, settings["digest"], str(error))
        except Exception as error:
            traceback.print_exc()
            settle_job(folder, settings["digest"], f"{type(error).__name__}: {error}".splitlines()[0])
        else:
            settle_job(folder, settings["digest"], results=[folder / record for record in settings["results"]])
        sys.stdout.flush()
        sys.stderr.flush()


def _run_stages(config: Config, stages: list[str], lenders: list[Path]) -> None:
    workspace = Workspace(config.workspace, lenders=[Path(os.path.normpath(lender)) for lender in lenders])
    workspace.write_config(None, to_yaml(config))
    for stage in stages:
        module = import_module(f"diffboost3d.stages.{stage.replace('-', '_')}")
        if stage == "evaluate":
            from diffboost3d.stages.inputs import accelerator_of

            module.predict_and_score(config, workspace, accelerator_of(config))
        else:
            module.run(config, workspace)


def is_done(job: Job, study: Study) -> bool:
    """Whether a job has been done and what it made is still there."""
    return job_is_done(study.job(job.name), job.digest, job.results())
