"""`synthesize`: K synthetic volumes for every labelled training case of a fold, each from a seed of its own."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.atomic import write_json
from diffboost3d.cases.records import Case, Manifest, SyntheticRecord, channel_endings
from diffboost3d.cases.workspace import Workspace, now
from diffboost3d.config import digest
from diffboost3d.diffusion.looks import LOOKS
from diffboost3d.diffusion.text import fill_templates, require_fitting
from diffboost3d.diffusion.weights import load_generator
from diffboost3d.imaging.channels import channels_of, write_channels_like
from diffboost3d.imaging.files import ending_like, synthetic_note, write_label_like
from diffboost3d.imaging.scratch import Scratch
from diffboost3d.schema import Config
from diffboost3d.seeds import generator, seed_of
from diffboost3d.stages.anatomies import Anatomies
from diffboost3d.stages.blueprints import Blueprint, blueprint_of, blueprint_of_case, control_of_blueprint
from diffboost3d.stages.gating import clear_rejected, gate_digest, give_up, judged, open_gate
from diffboost3d.stages.generator_training import require_generator
from diffboost3d.stages.inputs import (
    accelerator_of,
    bias_of,
    cases_of,
    sampling_settings,
    second_axis,
    slice_axis,
    source_image,
)
from diffboost3d.stages.noise import with_measured_noise
from diffboost3d.stages.refine_rule import with_refine
from diffboost3d.stages.refiners import refining_of, require_refiner
from diffboost3d.stages.synthesis_work import (
    Group,
    disk_needed,
    files_in_use,
    forecast,
    groups_of,
    require_disk,
    sampling_plan,
    shares,
)
from diffboost3d.stages.synthetic_draws import tally
from diffboost3d.stages.translators import as_translated, require_translator, translated_volumes
from diffboost3d.synthesis.gate import Gate
from diffboost3d.synthesis.translated import TranslatedVolumes
from diffboost3d.synthesis.units import KeepPlan, RealVolume, in_source_units, real_of_anatomy, real_of_file
from diffboost3d.synthesis.volumes import NoisePlan, SampleRequest, SecondPlanePlan, SlabPlan, VolumeSampler
from diffboost3d.synthetic_sets import DEFAULT_SET, of_set, synthetic_sets


def run(config: Config, workspace: Workspace) -> None:
    """Synthesize for every fold the sets that the arms use, the default one if none; finished samples are kept.

    `finetune` must have finished, and `train-pix2pix` for a set that it makes.
    """
    manifest = workspace.read_manifest()
    config = with_refine(config, manifest)
    accelerator = accelerator_of(config)
    for name in synthetic_sets(config) or [DEFAULT_SET]:
        for fold in config.folds:
            _run_fold(of_set(config, name), workspace.of_set(name), manifest, accelerator, fold)


def _run_fold(config: Config, workspace: Workspace, manifest: Manifest, accelerator: Any, fold: int) -> None:
    from tqdm import tqdm

    started = now()
    split = workspace.read_split(fold)
    cases = cases_of(manifest, split.training)
    anatomies = Anatomies(config, workspace, manifest, split, fold)
    title = f"synthesize {workspace.synthetic_set} fold {fold}".replace("  ", " ")
    if _translates(config):
        model = require_translator(config, workspace, fold)
    else:
        config = with_measured_noise(config, workspace, manifest, cases)
        model = require_generator(config, workspace, workspace.finetuned(fold), "finetune", manifest.channel_count)
    refiner = require_refiner(config, workspace, fold)
    judged_by = gate_digest(config, manifest, workspace.read_split(fold), model, refiner)
    records = [
        _record(config, manifest, case, fold, sample, (model, refiner), anatomies.digest(case, sample), judged_by)
        for case in cases
        for sample in range(config.synthesize.samples)
    ]
    own = digest([record.digest for record in records])
    current = workspace.is_current(workspace.synthetic(fold), own)
    open_records = [record for record in records if not _is_done(workspace, record)]
    accelerator.wait_for_everyone()  # nobody makes what another still counts
    if current and not open_records:
        workspace.log(f"{title}: {len(records)} volumes done already")
        return
    needed = disk_needed(workspace, manifest, open_records)
    rank, processes = accelerator.process_index, accelerator.num_processes
    temporary = files_in_use(_scratch(config, workspace), manifest, open_records, processes)
    free = require_disk(workspace, needed, temporary)
    sampler = _sampler(config, workspace, manifest, accelerator, fold)
    axis = slice_axis(config, manifest)
    parts = shares(groups_of(records, open_records, manifest, axis, sampler), processes)
    done = len(records) - len(open_records)
    if rank == 0:
        said = forecast(parts, _seconds_a_voxel(sampler, parts[0], axis), needed, free, done)
        workspace.log(f"{title}: {said}")
    sampled = partial(_sampled, config, workspace, manifest, sampler, fold, (model, refiner))
    gate = open_gate(config, workspace, manifest, accelerator, fold, judged_by, sampled)
    bar = tqdm(
        desc=f"{title}, {len(records)} volumes of {len(cases)} cases",
        unit="volume",
        initial=done,
        total=done + sum(len(group.missing) for group in parts[rank]),
        disable=rank > 0,
    )
    with bar:
        for group in parts[rank]:
            _synthesize(config, workspace, manifest, sampler, anatomies, gate, group)
            bar.update(len(group.missing))
    accelerator.wait_for_everyone()
    if rank == 0:
        facts = {"volumes": len(records), "rho": config.synthesize.rho} | (
            tally(config, workspace, fold) if gate else {}
        )
        workspace.finish(workspace.synthetic(fold), "synthesize", own, started, **facts)
    accelerator.wait_for_everyone()


def _seconds_a_voxel(sampler: VolumeSampler | TranslatedVolumes, groups: list[Group], axis: int) -> float:
    """Of denoising, by a short trial of the first group."""
    if not groups:
        return 0.0
    shape = groups[0].case.grid.shape
    return sampler.seconds_a_slice(shape, axis) * shape[axis] / math.prod(shape)


def _record(
    config: Config,
    manifest: Manifest,
    case: Case,
    fold: int,
    sample: int,
    makers: tuple[str, str],
    anatomy: str,
    judged_by: str = "",
) -> SyntheticRecord:
    """What is known before a volume is made.

    Args:
        makers: digests of the generator and of the refiner, "" where there is none.
        anatomy: digest of what decides its shapes. judged_by: digest of the gate; "": there is none.
    """
    settings = sampling_settings(config.synthesize) | {"anatomy": anatomy}
    seed, endings = seed_of(config.seed, "synthesize", fold, case.id, sample), channel_endings(case)
    model, refiner = makers
    made_of = [settings, model, case.digest, manifest.prompt, seed, config.runtime.precision, *filter(None, [refiner])]
    record = SyntheticRecord(
        case=case.id,
        fold=fold,
        sample=sample,
        seed=seed,
        model=model,
        digest=digest(*made_of, *([judged_by] if judged_by else [])),
        path=f"{sample:02d}{endings[0]}",
        channels=tuple(f"{sample:02d}{ending}" for ending in endings[1:]),
        prompt=manifest.prompt,
        look=_look(config, seed),
        sampler=config.synthesize.sampler,
        steps=config.synthesize.steps,
        guidance_scale=config.synthesize.guidance_scale,
        strength=config.synthesize.strength,
        unit=case.intensity.unit,
        noise=config.synthesize.noise,
        refiner=refiner,
        refine=config.synthesize.refine or 0.0,
        refine_steps=config.synthesize.refine_steps if config.synthesize.refine else 0,
    )
    return as_translated(record) if _translates(config) else record


def _translates(config: Config) -> bool:
    """Whether it is the GAN that makes the volumes."""
    return config.synthesize.generator == "pix2pix"


def _look(config: Config, seed: int) -> str:
    """The appearance word of a sample, or ""."""
    if _translates(config):
        return ""  # the GAN reads no text
    random = generator(seed, "look")
    return str(random.choice(list(LOOKS))) if random.random() < config.synthesize.looks else ""


def _is_done(workspace: Workspace, record: SyntheticRecord) -> bool:
    """Whether a sample is settled: accepted, or refused as often as it may be drawn."""
    path = workspace.synthetic_record(record.fold, record.case, record.sample)
    if not path.is_file():
        return False
    found = json.loads(path.read_text(encoding="utf-8"))
    files = [found["path"], *found.get("channels", ()), *([found["label"]] if found["label"] else [])]
    return found["digest"] == record.digest and all((path.parent / name).is_file() for name in files)


def _sampler(
    config: Config, workspace: Workspace, manifest: Manifest, accelerator: Any, fold: int
) -> VolumeSampler | TranslatedVolumes:
    if _translates(config):
        return translated_volumes(config, workspace, accelerator, fold, _scratch(config, workspace))
    denoiser, scheduler, codec = load_generator(workspace.finetuned(fold))
    denoiser.spare_memory(config.diffusion.attention_slicing, gradient_checkpointing=False)
    settings = config.synthesize
    mixture = dict(zip(settings.text, settings.text_weights, strict=True))
    for look in LOOKS if settings.looks else ("",):
        for prompt in (*fill_templates(mixture, manifest.prompt, look), settings.negative_prompt):
            require_fitting(denoiser.tokenizer, prompt)
    return VolumeSampler(
        denoiser,
        scheduler,
        codec,
        sampling_plan(settings),
        NoisePlan(settings.noise, settings.rho or 0.0, settings.correlation_mm),
        settings.negative_prompt,
        settings.batch,
        accelerator.device,
        config.runtime.precision,
        config.runtime.compile,
        settings.match_spectrum,
        0.0
        if settings.keep_slow_mm is None and settings.looks
        else settings.keep_slow_mm,  # else looks would be undone
        SlabPlan(settings.slab, settings.slab_overlap, settings.batch_voxels, settings.slab_blend),
        _scratch(config, workspace),
        _second_plane(config, manifest),
        refining_of(config, workspace, accelerator.device, fold),
    )


def _second_plane(config: Config, manifest: Manifest) -> SecondPlanePlan | None:
    """The second plane, where it has a say."""
    axis, every = second_axis(config, manifest), config.synthesize.second_plane_every
    if axis is None or not every:
        return None
    return SecondPlanePlan(axis, every, manifest.cases[0].grid.spacing_mm[axis])


def _scratch(config: Config, workspace: Workspace) -> Scratch:
    return Scratch(config.synthesize.memory_gb * 1e9, workspace.root)


def _synthesize(
    config: Config,
    workspace: Workspace,
    manifest: Manifest,
    sampler: VolumeSampler | TranslatedVolumes,
    anatomies: Anatomies,
    gate: Gate | None,
    group: Group,
) -> None:
    """The volumes of a group and, each time last, their records; what the gate refuses is kept aside and drawn again."""
    case, axis = group.case, slice_axis(config, manifest)
    missing = {record.sample for record in group.missing}
    clear_rejected(workspace, group.missing)
    in_units = _ToSource(config, case, source_image(workspace, manifest, case), bias_of(workspace, case))
    scratch = _scratch(config, workspace)

    def judged_draw(records: list[SyntheticRecord]) -> list[SyntheticRecord]:
        """Records with their verdicts. Its arrays end with it: those of the next draw are as large."""
        blueprints = [blueprint_of(config, workspace, manifest, anatomies, record, scratch) for record in records]
        requests = [
            _request(config, manifest, record, blueprint) for record, blueprint in zip(records, blueprints, strict=True)
        ]
        volumes = sampler.volumes(axis, case.grid.spacing_mm, requests)
        verdicts = []
        for record, blueprint, volume in zip(records, blueprints, volumes, strict=True):
            own = judged(gate, record, volume, blueprint.label, blueprint.image, case.patient)
            if record.sample in missing:
                _keep(workspace, manifest, case, own, blueprint, in_units(volume, blueprint))
            verdicts.append(own)
        return verdicts

    records = group.records
    for attempt in range(config.gate.attempts if gate else 1):
        verdicts = judged_draw([_drawn_again(config, record, attempt) for record in records])
        records = [record for record in verdicts if not record.accepted]  # together again, for the same bytes on resume
        if not missing & {record.sample for record in records}:
            return
    for record in records:
        if record.sample in missing:
            give_up(workspace, case, record)


class _ToSource:
    """Brings volumes of a case to its own file's grid and units, with what of it stays real."""

    def __init__(
        self, config: Config, case: Case, source: NDArray[Any], bias: NDArray[np.float32] | None = None
    ) -> None:
        self._cases = [case.of_channel(number) for number in range(len(case.maps))]
        self._sources = channels_of(source)
        self._biases = [None] * len(self._cases) if bias is None else list(channels_of(bias))
        settings = config.synthesize
        self._keep = KeepPlan(settings.keep_background, settings.air_hu, settings.table_mm)
        self._of_file: list[RealVolume] = []

    def __call__(self, volume: NDArray[np.float32], blueprint: Blueprint) -> list[Iterator[NDArray[np.float64]]]:
        """The slabs of each channel."""
        parts = list(zip(self._cases, self._sources, self._biases, strict=True))
        if blueprint.has_own_label:
            images = channels_of(blueprint.image)
            reals = [
                real_of_anatomy(case, source, image, self._keep, bias)
                for (case, source, bias), image in zip(parts, images, strict=True)
            ]
        else:
            self._of_file = self._of_file or [
                real_of_file(case, source, self._keep, bias) for case, source, bias in parts
            ]
            reals = self._of_file
        made = zip(channels_of(volume), self._cases, reals, strict=True)
        return [in_source_units(one, case, real) for one, case, real in made]


def _drawn_again(config: Config, record: SyntheticRecord, attempt: int) -> SyntheticRecord:
    """The same sample from another seed, if others were drawn before."""
    if attempt == 0:
        return record
    seed = seed_of(config.seed, "synthesize", record.fold, record.case, record.sample, attempt)
    return dataclasses.replace(record, seed=seed, look=_look(config, seed), attempt=attempt)


def _sampled(
    config: Config,
    workspace: Workspace,
    manifest: Manifest,
    sampler: VolumeSampler | TranslatedVolumes,
    fold: int,
    makers: tuple[str, str],
    case: Case,
    count: int,
) -> list[NDArray[np.float32]]:
    """Volumes of any case, made as the synthetic ones are, with its own shapes."""
    axis = slice_axis(config, manifest)
    requests = []
    for sample in range(count):
        seed = seed_of(config.seed, "gate", fold, case.id, sample)
        record = _record(config, manifest, case, fold, sample, makers, "")
        record = dataclasses.replace(record, seed=seed, look=_look(config, seed))
        requests.append(_request(config, manifest, record, blueprint_of_case(config, workspace, manifest, case)))
    return list(sampler.volumes(axis, case.grid.spacing_mm, requests))


def _request(config: Config, manifest: Manifest, record: SyntheticRecord, blueprint: Blueprint) -> SampleRequest:
    """What the sampler is asked for."""
    mixture = dict(zip(config.synthesize.text, config.synthesize.text_weights, strict=True))
    prompts = fill_templates(mixture, record.prompt, record.look)
    second = _second_plane(config, manifest)
    return SampleRequest(
        record.seed,
        prompts,
        blueprint.image,
        control_of_blueprint(config, manifest, blueprint),
        None if second is None else control_of_blueprint(config, manifest, blueprint, second.axis),
    )


def _keep(
    workspace: Workspace,
    manifest: Manifest,
    case: Case,
    record: SyntheticRecord,
    blueprint: Blueprint,
    channels: Sequence[Iterable[NDArray[np.float64]]],
) -> None:
    """Write a volume, its label where it has its own, in their place or among the rejected ones, and, last, its record."""
    source, ending = workspace.source(manifest, case.image), ending_like(case.image)
    targets = [workspace.synthetic_volume(record.fold, case.id, record.sample, one) for one in channel_endings(case)]
    label = workspace.synthetic_label(record.fold, case.id, record.sample, ending)
    path = workspace.synthetic_record(record.fold, case.id, record.sample)
    path.unlink(missing_ok=True)  # an older record must never stand beside this volume
    if not record.accepted:
        key = (record.fold, case.id, record.sample, record.attempt)
        targets = [workspace.rejected_volume(*key, one) for one in channel_endings(case)]
        label = workspace.rejected_volume(record.fold, case.id, record.sample, record.attempt, f"_label{ending}")
        path = workspace.rejected_record(record.fold, case.id, record.sample, record.attempt)
        names = [target.name for target in targets]
        record = dataclasses.replace(record, path=names[0], channels=tuple(names[1:]))
    sources = [workspace.source(manifest, path) for path in case.images]
    write_channels_like(targets, channels, sources, synthetic_note(case.id, record.seed))
    label.unlink(missing_ok=True)
    if blueprint.has_own_label:
        write_label_like(label, blueprint.label_in_source(manifest, case), source)
    own = label.name if blueprint.has_own_label else ""
    write_json(path, dataclasses.asdict(dataclasses.replace(record, anatomy=blueprint.anatomy, label=own)))
