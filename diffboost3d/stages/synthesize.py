"""`synthesize`: K synthetic volumes for every labelled training case of a fold, each from a seed of its own."""

from __future__ import annotations

import dataclasses
from typing import Any

from diffboost3d.cases.atomic import write_json
from diffboost3d.cases.records import Case, Manifest, SyntheticRecord
from diffboost3d.cases.workspace import Workspace, now
from diffboost3d.config import digest
from diffboost3d.diffusion.sampling import SamplingPlan
from diffboost3d.diffusion.weights import load_generator
from diffboost3d.imaging.files import ending_like, read, write_like
from diffboost3d.schema import Config
from diffboost3d.seeds import seed_of
from diffboost3d.stages.generator_training import require_generator
from diffboost3d.stages.inputs import accelerator_of, cases_of, control_of, prepared, slice_axis
from diffboost3d.synthesis.volumes import NoisePlan, VolumeSampler, in_source_units


def run(config: Config, workspace: Workspace) -> None:
    """Synthesize for every fold; `finetune` must have finished. Finished samples are kept."""
    manifest = workspace.read_manifest()
    accelerator = accelerator_of(config)
    for fold in config.folds:
        _run_fold(config, workspace, manifest, accelerator, fold)


def _run_fold(config: Config, workspace: Workspace, manifest: Manifest, accelerator: Any, fold: int) -> None:
    from tqdm import tqdm

    started = now()
    cases = cases_of(manifest, workspace.read_split(fold).training)
    model = require_generator(config, workspace, workspace.finetuned(fold), "finetune")
    records = [
        _record(config, manifest, case, fold, sample, model)
        for case in cases
        for sample in range(config.synthesize.samples)
    ]
    open_records = [record for record in records if not _is_done(workspace, record)]
    own = digest([record.digest for record in records])
    accelerator.wait_for_everyone()  # nobody makes what another still counts
    if workspace.is_current(workspace.synthetic(fold), own) and not open_records:
        workspace.log(f"synthesize fold {fold}: {len(records)} volumes done already")
        return
    rank, processes = accelerator.process_index, accelerator.num_processes
    sampler = _sampler(config, workspace, manifest, accelerator, fold)
    title = f"synthesize fold {fold}, {len(records)} volumes of {len(cases)} cases"
    mine = open_records[rank::processes]
    bar = tqdm(
        mine,
        desc=title,
        unit="volume",
        initial=len(records) - len(open_records),
        total=len(records) - len(open_records) + len(mine),
        disable=rank > 0,
    )
    for record in bar:
        _synthesize(config, workspace, manifest, sampler, record)
    accelerator.wait_for_everyone()
    if rank == 0:
        workspace.finish(workspace.synthetic(fold), "synthesize", own, started, volumes=len(records))
    accelerator.wait_for_everyone()


def _record(config: Config, manifest: Manifest, case: Case, fold: int, sample: int, model: str) -> SyntheticRecord:
    settings = dataclasses.asdict(config.synthesize)
    settings.pop("samples")
    seed = seed_of(config.seed, "synthesize", fold, case.id, sample)
    return SyntheticRecord(
        case=case.id,
        fold=fold,
        sample=sample,
        seed=seed,
        model=model,
        digest=digest(settings, model, case.digest, manifest.prompt, seed, config.runtime.precision),
        path=f"{sample:02d}{ending_like(case.image)}",
        prompt=manifest.prompt,
        steps=config.synthesize.steps,
        guidance_scale=config.synthesize.guidance_scale,
        strength=config.synthesize.strength,
        unit=case.intensity.unit,
    )


def _is_done(workspace: Workspace, record: SyntheticRecord) -> bool:
    path = workspace.synthetic_record(record.fold, record.case, record.sample)
    return (
        path.is_file()
        and f'"{record.digest}"' in path.read_text(encoding="utf-8")
        and (path.parent / record.path).is_file()
    )


def _sampler(config: Config, workspace: Workspace, manifest: Manifest, accelerator: Any, fold: int) -> VolumeSampler:
    denoiser, scheduler, codec = load_generator(workspace.finetuned(fold))
    settings = config.synthesize
    return VolumeSampler(
        denoiser,
        scheduler,
        codec,
        SamplingPlan(
            settings.steps, settings.guidance_scale, settings.control_strength, settings.strength, settings.eta
        ),
        NoisePlan(settings.noise, settings.rho, settings.correlation_mm),
        manifest.prompt,
        settings.batch,
        accelerator.device,
        config.runtime.precision,
    )


def _synthesize(
    config: Config, workspace: Workspace, manifest: Manifest, sampler: VolumeSampler, record: SyntheticRecord
) -> None:
    """One volume and, last, its record."""
    case = manifest.case(record.case)
    axis = slice_axis(config, manifest)
    control = control_of(config, manifest, workspace, case, with_label=True)
    spacing_mm = case.grid.spacing_mm[axis]
    volume = sampler.volume(prepared(workspace, case, "image"), control, axis, spacing_mm, record.seed)
    source = workspace.source(manifest, case.image)
    target = workspace.synthetic_volume(record.fold, case.id, record.sample, ending_like(case.image))
    write_like(target, in_source_units(volume, case, read(source).array), source, synthetic=True)
    write_json(workspace.synthetic_record(record.fold, case.id, record.sample), dataclasses.asdict(record))
