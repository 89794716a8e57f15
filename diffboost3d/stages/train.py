"""`train`: one segmenter for every fold, arm and seed, on real training cases and what its arm merges them with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffboost3d.cases.records import Case, Manifest, Split
from diffboost3d.cases.workspace import LAST_SEGMENTER, SEGMENTER, Workspace, now
from diffboost3d.config import digest, to_plain
from diffboost3d.errors import ConfigError, DataError
from diffboost3d.schema import ArmConfig, Config
from diffboost3d.segmentation.batches import PatchDataset, TrainingCase
from diffboost3d.segmentation.learning import SegmentationLearner
from diffboost3d.segmentation.networks import NetworkSpec
from diffboost3d.segmentation.weights import save_segmenter
from diffboost3d.stages.anatomies import Anatomies, in_anatomy
from diffboost3d.stages.arms import augmentations_of
from diffboost3d.stages.inputs import (
    accelerator_of,
    accepted_records,
    arm_facts,
    cases_of,
    label_again,
    merge_of,
    merge_plan,
    prepared,
    prepared_again,
    training_plan,
    without_intervals,
)
from diffboost3d.stages.segmenters import network_spec, new_network, segmenter_loss, training_patch
from diffboost3d.synthetic_sets import of_set
from diffboost3d.training import fit, last_weights


def run(config: Config, workspace: Workspace) -> None:
    """Train every cell of folds x arms x seeds that isn't finished. Arms that merge synthetic volumes need `synthesize`."""
    manifest = workspace.read_manifest()
    accelerator = accelerator_of(config)
    for fold in config.folds:
        split = workspace.read_split(fold)
        for name in config.arms:
            for seed in config.seeds:
                _run_cell(config, workspace, manifest, accelerator, split, fold, name, seed)


def _run_cell(
    config: Config,
    workspace: Workspace,
    manifest: Manifest,
    accelerator: Any,
    split: Split,
    fold: int,
    name: str,
    seed: int,
) -> None:
    started = now()
    arm = config.arm[name]
    folder = workspace.segmenter(fold, name, seed)
    workspace, config = workspace.of_set(arm.synthetic_set), of_set(config, arm.synthetic_set)
    synthetic = _synthetic_records(config, workspace, split, fold) if arm.merge in ("synthetic", "instead") else {}
    without = [case for case, records in synthetic.items() if not records]
    anatomies = Anatomies(config, workspace, manifest, split, fold) if arm.merge == "warped" else None
    own = _digest(config, manifest, split, arm, seed, workspace, fold, synthetic, anatomies)
    title = f"train fold {fold}, {name}, seed {seed}"
    if workspace.is_current(folder, own):
        workspace.log(f"{title}: done already")
        return
    if without:
        instead = _instead(config, arm, len(without) == len(synthetic))
        workspace.log(f"{title}: no accepted synthetic volume of {', '.join(without)}; {instead}")
    training = [
        _warped(config, workspace, case, anatomies)
        if anatomies
        else _load(workspace, manifest, case, [*synthetic.get(case.id, {}).values()])
        for case in cases_of(manifest, split.training)
    ]
    if arm.merge == "instead":
        training = _without_real(training, title)
    validation = [_load(workspace, manifest, case, []) for case in cases_of(manifest, split.validation)]
    # of all cases, those without accepted volumes too, so that every arm has the same patch
    shapes = [case.grid.shape for case in cases_of(manifest, split.training)]
    patch = training_patch(config.train, config.network, shapes)
    spec = network_spec(config, manifest, patch)
    learner = _learner(config, manifest, arm, training, validation, spec, seed)
    plan = training_plan(config.train, seed, config.runtime.workers)
    hparams = {"network": spec.name, "loss": config.train.loss, "arm": name, "fold": fold, "patch": str(patch)}
    facts = fit(learner, plan, folder, own, accelerator, title, workspace.log, hparams)
    if accelerator.is_main_process:
        save_segmenter(folder / SEGMENTER, learner.network.state_dict(), spec)
        last = {name.removeprefix("network."): one for name, one in last_weights(folder).items()}
        save_segmenter(folder / LAST_SEGMENTER, {**learner.network.state_dict(), **last}, spec)
        told = None if manifest.preparation is None else manifest.preparation.facts()
        facts |= {"preparation": digest(told), **spec.facts()}
        workspace.finish(folder, "train", own, started, arm=name, fold=fold, seed=seed, **facts)
    accelerator.wait_for_everyone()


def _instead(config: Config, arm: ArmConfig, all_lack: bool) -> str:
    """What becomes of cases without accepted volumes."""
    if arm.merge == "instead":
        return "left out"
    borrows = merge_of(config, arm).partner == "any" and not all_lack
    return "merged with volumes of other cases only" if borrows else "merged with nothing"


def _digest(
    config: Config,
    manifest: Manifest,
    split: Split,
    arm: ArmConfig,
    seed: int,
    workspace: Workspace,
    fold: int,
    synthetic: dict[str, dict[int, Path]],
    anatomies: Anatomies | None,
) -> str:
    """Digest of all that shapes a segmenter; what the arm doesn't use is left out."""
    cases = cases_of(manifest, [*split.training, *split.validation])
    volumes = [
        json.loads(workspace.synthetic_record(fold, case, sample).read_text(encoding="utf-8"))["digest"]
        for case, paths in synthetic.items()
        for sample in paths
    ]
    if anatomies:
        samples = range(config.synthesize.samples)
        volumes = [anatomies.digest(case, one) for case in cases_of(manifest, split.training) for one in samples]
    return digest(
        without_intervals(config.train),
        config.network,
        arm_facts(arm),
        _merge_facts(config, arm),
        config.classical if arm.classical else None,
        *([config.augmentations] if arm.augmentations else []),
        seed,
        config.runtime.precision,
        [case.digest for case in cases],
        [len(split.training), len(split.validation)],
        volumes,
    )


def _merge_facts(config: Config, arm: ArmConfig) -> dict[str, Any] | None:
    """How the arm merges. Without the partner where it decides nothing, so that digests are those of versions without it."""
    if arm.merge in ("none", "instead"):
        return None
    facts: dict[str, Any] = to_plain(merge_of(config, arm))
    if facts["partner"] == "same" or arm.merge == "real":
        del facts["partner"]
    return facts


def _synthetic_records(config: Config, workspace: Workspace, split: Split, fold: int) -> dict[str, dict[int, Path]]:
    """Case id -> the records of the accepted ones of its first `synthesize.samples` volumes, by number; maybe none."""
    workspace.require(workspace.synthetic(fold), "synthesize")
    for case in split.training:
        records = [workspace.synthetic_record(fold, case, sample) for sample in range(config.synthesize.samples)]
        if any(not record.is_file() for record in records):
            raise ConfigError(
                f"synthesize.samples={config.synthesize.samples}: {case} has fewer synthetic volumes; run "
                "`diffboost3d synthesize` with the same number first"
            )
    return {case: accepted_records(workspace, fold, case, config.synthesize.samples) for case in split.training}


def _load(workspace: Workspace, manifest: Manifest, case: Case, synthetic: list[Path]) -> TrainingCase:
    """A prepared case with its synthetic volumes (paths of their records), these on the prepared grid and in [-1, 1] again."""
    found = [(path.parent, json.loads(path.read_text(encoding="utf-8"))) for path in synthetic]
    return TrainingCase(
        prepared(workspace, case, "image"),
        prepared(workspace, case, "label"),
        tuple(prepared_again(workspace, folder, record, case) for folder, record in found),
        tuple(
            label_again(folder / record["label"], case, manifest.values) if record.get("label") else None
            for folder, record in found
        ),
    )


def _without_real(cases: list[TrainingCase], title: str) -> list[TrainingCase]:
    """The synthetic volumes as cases of their own."""
    alone = [
        TrainingCase(image, case.label if own is None else own)
        for case in cases
        for image, own in zip(case.synthetic, case.synthetic_labels, strict=True)
    ]
    if not alone:
        raise DataError(f"{title}: the gate accepted no synthetic volume, and this arm trains on nothing else")
    return alone


def _warped(config: Config, workspace: Workspace, case: Case, anatomies: Anatomies) -> TrainingCase:
    """A prepared case with itself in the anatomies that its synthetic volumes have, as if those were made without a generator."""
    drawn = [anatomies.of(case, sample) for sample in range(config.synthesize.samples)]
    warped = [in_anatomy(workspace, case, anatomy) for anatomy in drawn]
    image, label = prepared(workspace, case, "image"), prepared(workspace, case, "label")
    return TrainingCase(image, label, tuple(one for one, _ in warped), tuple(one for _, one in warped))


def _learner(
    config: Config,
    manifest: Manifest,
    arm: ArmConfig,
    training: list[TrainingCase],
    validation: list[TrainingCase],
    spec: NetworkSpec,
    seed: int,
) -> SegmentationLearner:
    spacing_mm = manifest.cases[0].grid.spacing_mm
    source = {"warped": "synthetic", "instead": "none"}.get(arm.merge, arm.merge)
    patches = config.train.steps * config.train.accumulation * config.train.batch
    plan = merge_plan(merge_of(config, arm), source, manifest, patches)
    dataset = PatchDataset(
        training,
        spec.patch,
        spacing_mm,
        plan,
        augmentations_of(config, arm, spec.patch, spacing_mm, manifest.spatial_dims),
        config.train.foreground_probability,
        seed,
    )
    network, labels = new_network(spec, seed), list(manifest.foreground)
    return SegmentationLearner(
        network, dataset, validation, labels, config.train.overlap, **segmenter_loss(config.train, manifest)
    )
