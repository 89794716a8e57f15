"""The gate of a fold: segmenters cross-fitted on its training cases, and limits from real cases; test cases have no part."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffboost3d.cases.atomic import write_json
from diffboost3d.cases.records import Case, Manifest, Split, SyntheticRecord, channel_endings
from diffboost3d.cases.workspace import SEGMENTER, Workspace, now
from diffboost3d.config import digest
from diffboost3d.evaluation.memorisation import DetailIndex, Places, places, shared_detail
from diffboost3d.imaging.files import ending_like
from diffboost3d.schema import Config
from diffboost3d.seeds import generator, seed_of
from diffboost3d.stages.inputs import cases_of, prepared, sampling_settings, training_plan, without_intervals
from diffboost3d.synthesis.gate import (
    Gate,
    Learned,
    Limit,
    copy_limits,
    fidelity_limits,
    intensity_limits,
    label_agreement,
    label_medians,
    parts_of,
)

Float = NDArray[np.float32]
Sampled = Callable[[Case, int], Sequence[Float]]  # (case, how many) -> volumes made as synthetic ones are
LIMITS = "limits.json"
WEAK_DICE = 0.5  # below this on real cases, a segmenter says little about synthetic ones


def gate_digest(config: Config, manifest: Manifest, split: Split, model: str, refiner: str = "") -> str:
    """Digest of all that verdicts depend on; empty where the gate is off.

    Args:
        model, refiner: digests of the generator, and of what goes over its volumes; "": nothing does.
    """
    if not config.gate.enabled:
        return ""
    settings = dataclasses.asdict(config.gate) | {"training": without_intervals(config.gate.training)}
    sampling = sampling_settings(config.synthesize) | {"samples": None, "memory_gb": None}
    cases = {part: [case.digest for case in cases_of(manifest, getattr(split, part))] for part in LEARNING_PARTS}
    patients = [case.patient for case in cases_of(manifest, split.training)]
    return digest(
        settings,
        sampling,
        config.network,
        model,
        manifest.prompt,
        cases,
        patients,
        config.seed,
        config.runtime.precision,
        *filter(None, [refiner]),
    )


LEARNING_PARTS = ("training", "unlabelled", "validation")


def open_gate(
    config: Config, workspace: Workspace, manifest: Manifest, accelerator: Any, fold: int, own: str, sampled: Sampled
) -> Gate | None:
    """The gate of a fold, made where it isn't yet; None where it is off. All processes take part.

    Args:
        own: its `gate_digest`. sampled: makes volumes of validation cases, which the generator has never seen.
    """
    if not config.gate.enabled:
        return None
    split = workspace.read_split(fold)
    making = _Making(config, workspace, manifest, split, fold)
    started = now()
    for part in range(making.count):  # also where the limits are there: a study lends these without the segmenters
        making.train(part, accelerator)
    if not workspace.is_current(workspace.gate(fold), own):
        making.sample_unseen(own, accelerator, sampled)
        if accelerator.is_main_process:
            limits, facts = making.limits(accelerator.device)
            write_json(workspace.gate(fold) / LIMITS, [dataclasses.asdict(limit) for limit in limits])
            workspace.finish(workspace.gate(fold), "synthesize", own, started, fold=fold, **facts)
        accelerator.wait_for_everyone()
    return Gate(
        manifest.foreground,
        making.spacing_mm,
        making.where,
        making.learned,
        read_limits(workspace, fold),
        making.segmenters(accelerator.device),
        manifest.channels,
    )


def read_limits(workspace: Workspace, fold: int) -> list[Limit]:
    """The limits of a fold's gate; none where there was no gate."""
    path = workspace.gate(fold) / LIMITS
    return [Limit(**limit) for limit in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []


def places_of(config: Config, cases: Sequence[Case]) -> Places:
    """Where details of a fold's volumes are compared; laid out on the middle shape of its training images."""
    shape = np.median([case.grid.shape for case in cases], axis=0).astype(int).tolist()
    return places(shape, config.gate.block_voxels, config.gate.blocks, config.gate.search)


class _Making:
    """What a gate is made of."""

    def __init__(self, config: Config, workspace: Workspace, manifest: Manifest, split: Split, fold: int) -> None:
        self._config, self._workspace, self._manifest, self._fold = config, workspace, manifest, fold
        self.training, self.validation = cases_of(manifest, split.training), cases_of(manifest, split.validation)
        self.spacing_mm = self.training[0].grid.spacing_mm
        unlabelled = cases_of(manifest, split.unlabelled)
        generator(config.seed, "gate", "images", fold).shuffle(unlabelled)  # type: ignore[arg-type]
        self.seen = [*self.training, *unlabelled][: max(config.gate.images, len(self.training))]
        self.where = places_of(config, self.training)
        random = generator(config.seed, "gate", "parts", fold)
        patients = [case.patient for case in self.training]
        self.part_of = parts_of(patients, config.gate.parts, config.gate.leave_one_out, random)
        parts = len(set(self.part_of.values()))
        self.count = parts if parts > 1 else 0
        images = (self._image(case) for case in self.seen)
        ids, owners = tuple(case.id for case in self.seen), tuple(case.patient for case in self.seen)
        self.learned = Learned(ids, owners, DetailIndex(images, self.spacing_mm, self.where))

    def _image(self, case: Case) -> Float:
        return np.asarray(prepared(self._workspace, case, "image"), np.float32)

    # --- segmenters --------------------------------------------------------------------------------------------------
    def train(self, part: int, accelerator: Any) -> None:
        """The segmenter of a part, on the training cases of all others."""
        from diffboost3d.segmentation.batches import MergePlan, PatchDataset, TrainingCase
        from diffboost3d.segmentation.learning import SegmentationLearner
        from diffboost3d.segmentation.weights import save_segmenter
        from diffboost3d.stages.segmenters import network_spec, new_network, segmenter_loss, training_patch
        from diffboost3d.training import fit

        config, manifest, wanted = self._config, self._manifest, self._config.gate.training
        folder, started = self._workspace.gate_part(self._fold, part), now()
        cases = [case for case in self.training if self.part_of[case.patient] != part]
        seed = seed_of(config.seed, "gate", self._fold, part)
        own = digest(
            without_intervals(wanted), config.network, seed, config.runtime.precision, [case.digest for case in cases]
        )
        if self._workspace.is_current(folder, own):
            return
        loaded = [TrainingCase(self._image(case), prepared(self._workspace, case, "label")) for case in cases]
        patch = training_patch(wanted, config.network, [case.label.shape for case in loaded])
        alone = MergePlan("none", 1.0, (1,), None, 0.0, "image")
        dataset = PatchDataset(loaded, patch, self.spacing_mm, alone, (), wanted.foreground_probability, seed)
        spec = network_spec(config, manifest, patch)
        network, labels = new_network(spec, seed), list(manifest.foreground)
        learner = SegmentationLearner(network, dataset, [], labels, wanted.overlap, **segmenter_loss(wanted, manifest))
        title = f"gate fold {self._fold}, segmenter {part + 1} of {self.count}"
        plan = training_plan(wanted, seed, config.runtime.workers)
        facts = fit(learner, plan, folder, own, accelerator, title, self._workspace.log)
        if accelerator.is_main_process:
            save_segmenter(folder / SEGMENTER, network.state_dict(), spec)
            self._workspace.finish(folder, "synthesize", own, started, steps=facts["steps"], **spec.facts())
        accelerator.wait_for_everyone()

    def segmenters(self, device: Any) -> Callable[[Float, str], NDArray[Any]] | None:
        """(volume, patient) -> label, by the segmenter that hasn't seen the patient; others are shared out evenly."""
        from diffboost3d.segmentation.inference import most_probable
        from diffboost3d.segmentation.weights import load_segmenter

        if not self.count:
            return None
        networks = [
            load_segmenter(self._workspace.gate_part(self._fold, part) / SEGMENTER, device)
            for part in range(self.count)
        ]
        turns = {case.patient: turn % self.count for turn, case in enumerate(self.validation)}
        judges, overlap = {**turns, **self.part_of}, self._config.gate.training.overlap

        def segment(volume: Float, patient: str) -> NDArray[Any]:
            network, patch = networks[judges[patient]]
            return most_probable(network, volume, patch, overlap, device)

        return segment

    # --- limits ------------------------------------------------------------------------------------------------------
    def sample_unseen(self, own: str, accelerator: Any, sampled: Sampled) -> None:
        """How much detail samples of validation cases share with what they started from; shared out among processes."""
        from tqdm import tqdm

        todo = self._unseen()[accelerator.process_index :: accelerator.num_processes]
        title = f"gate fold {self._fold}, samples of validation cases"
        for case in tqdm(todo, desc=title, unit="case", disable=not accelerator.is_main_process):
            path = self._workspace.gate_reference(self._fold, case.id)
            if _reference(path, own) is None:
                start = self._image(case)
                made = sampled(case, self._config.gate.reference_samples)
                found = [shared_detail(volume, start, self.spacing_mm, self.where) for volume in made]
                write_json(path, {"digest": own, "detail": found})
        accelerator.wait_for_everyone()

    def _unseen(self) -> list[Case]:
        return self.validation[: self._config.gate.reference_cases]

    def limits(self, device: Any) -> tuple[list[Limit], dict[str, Any]]:
        """The limits, and facts for the record."""
        gate, labels = self._config.gate, self._manifest.foreground
        segment = self.segmenters(device)
        dices, medians = [], []
        for case in [*self.training, *self.validation]:
            image, label = self._image(case), prepared(self._workspace, case, "label")
            medians.append(label_medians(image, label, labels, self._manifest.channels))
            if segment is not None:
                dices.append(label_agreement(segment(image, case.patient), label, labels))
        between, closest = self._between()
        paths = [self._workspace.gate_reference(self._fold, case.id) for case in self._unseen()]
        source = [max(json.loads(path.read_text(encoding="utf-8"))["detail"]) for path in paths]
        limits = [
            *fidelity_limits([dice for dice in dices if dice], gate.percentile),
            *intensity_limits(medians, gate.range_margin, gate.range_least),
            *copy_limits(between, source, gate.false_alarms, gate.copy_similarity),
        ]
        self._warn(limits, closest)
        return limits, {"closest_real": closest, "parts": self.part_of, "images": len(self.seen)}

    def _between(self) -> tuple[list[float], dict[str, Any]]:
        """Largest similarity of real images with those of other patients, and the closest pair of all."""
        values: list[float] = []
        closest: dict[str, Any] = {}
        unlabelled = self.seen[len(self.training) :]
        for case in [*self.validation, *self.training, *unlabelled][: self._config.gate.references]:
            found = self.learned.detail.nearest(self._image(case), self.learned.others(case.patient))
            if found.similarity > max([-1.0, *values]):
                pair = [case.id, self.learned.ids[found.image]]
                closest = {"cases": pair, "similarity": round(found.similarity, 4)}
            if found.similarity > -1:
                values.append(found.similarity)
        return values, closest

    def _warn(self, limits: list[Limit], closest: dict[str, Any]) -> None:
        """Say what the gate can't see."""
        log, by_check = self._workspace.log, {limit.check: limit for limit in limits}
        title = f"gate fold {self._fold}"
        dice, start = by_check.get("dice"), by_check["detail of its start"]
        if dice is None:
            log(f"{title}: with one training patient nobody can judge label fidelity; it is not checked")
        elif dice.typical is not None and dice.typical < WEAK_DICE:
            log(
                f"{title}: its segmenters reach a Dice of {dice.typical:.2f} on real held-out cases, so label fidelity is hardly "
                "checked; more gate.training.steps may help"
            )
        if start.references < 2:
            log(
                f"{title}: {start.references} sampled validation cases are too few to say how close to its source a sample may "
                f"be; only copies (above {start.high:g}) are refused"
            )
        if closest and closest["similarity"] > self._config.gate.copy_similarity:
            first, second = closest["cases"]
            log(
                f"{title}: the images {first} and {second} are nearly the same ({closest['similarity']:.2f}), but of different "
                "patients; see data.patients"
            )


def _reference(path: Path, own: str) -> list[float] | None:
    """Figures of a validation case, if they are of this gate."""
    if not path.is_file():
        return None
    kept = json.loads(path.read_text(encoding="utf-8"))
    return list(kept["detail"]) if kept["digest"] == own else None


# --- verdicts --------------------------------------------------------------------------------------------------------
def judged(
    gate: Gate | None, record: SyntheticRecord, volume: Float, label: NDArray[Any], start: Float, patient: str
) -> SyntheticRecord:
    """The record with what the gate says of its volume; see `Gate.judge`. Without a gate it is left as it is."""
    if gate is None:
        return record
    verdict = gate.judge(volume, np.asarray(label, np.uint8), np.asarray(start, np.float32), patient)
    return dataclasses.replace(
        record,
        accepted=verdict.accepted,
        reasons=verdict.reasons,
        checks=dict(verdict.checks),
        nearest=verdict.nearest,
    )


def give_up(workspace: Workspace, case: Case, record: SyntheticRecord) -> None:
    """Settle a sample whose every draw was refused: its record is the last one's, and its volume stays with the rejected."""
    ending, key = ending_like(case.image), (record.fold, case.id, record.sample)
    refused, path = workspace.rejected_record(*key, record.attempt), workspace.synthetic_record(*key)
    volumes = [workspace.synthetic_volume(*key, one) for one in channel_endings(case)]
    for older in (*volumes, workspace.synthetic_label(*key, ending)):
        older.unlink(missing_ok=True)
    last = json.loads(refused.read_text(encoding="utf-8"))
    moved = {name: f"{refused.parent.name}/{last[name]}" for name in ("path", "label") if last[name]}
    channels = [f"{refused.parent.name}/{name}" for name in last.get("channels", ())]
    write_json(path, last | moved | {"channels": channels})


def clear_rejected(workspace: Workspace, records: Sequence[SyntheticRecord]) -> None:
    """Remove earlier refused draws of samples that are about to be made."""
    for record in records:
        folder = workspace.rejected_record(record.fold, record.case, record.sample, 0).parent
        for path in folder.glob(f"{record.sample:02d}-*"):
            path.unlink()
