"""What the stages of a planned `run` take on this machine: counts of splits and configuration times what trials measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from diffboost3d.cases.records import Case, SyntheticRecord
from diffboost3d.cases.workspace import Workspace
from diffboost3d.diffusion.codec_learning import VALIDATION_SLICES as CODEC_SLICES
from diffboost3d.diffusion.learning import PICTURED_SLICES, VALIDATION_SLICES
from diffboost3d.imaging.edges import control_channels
from diffboost3d.planning import rules
from diffboost3d.planning.costs import (
    Cost,
    TrainingNumbers,
    checkpoint_bytes,
    times,
    training_seconds,
    weights_bytes,
)
from diffboost3d.planning.trials import Trial
from diffboost3d.refinement.learning import SHOWN as REFINED_SHOWN
from diffboost3d.refinement.learning import VALIDATED as REFINED
from diffboost3d.schema import (
    ArmConfig,
    Config,
    DiffusionTrainingConfig,
    TrainConfig,
)
from diffboost3d.stages.inputs import AnyTrainingConfig, cases_of, slice_axis
from diffboost3d.stages.plan_choices import Plan, segmenter_patch
from diffboost3d.stages.plan_preparing import TIMED_CASES
from diffboost3d.stages.plan_trials import SetTrial, StepTrial
from diffboost3d.stages.synthesis_work import disk_needed
from diffboost3d.synthetic_sets import of_set, refines, synthetic_sets
from diffboost3d.translation.learning import SHOWN, VALIDATED

PICTURED_STEPS = 10  # of the samples that a training of the generator pictures
VOLUME_BYTES = 50  # of main memory for each voxel of a volume that is synthesised (benchmarks: synthesis_memory)
FLOAT, LABEL = 4, 1  # bytes of a voxel


@dataclass(frozen=True)
class Trials:
    """All that was measured, in seconds and bytes; None where the plan doesn't run it.

    Attributes:
        patches: of the plan that a sample of the segmenter's trial stands for.
        arms: seconds that making a patch takes. scoring: of one case's metrics.
        sets: of making the synthetic volumes, by set. search: seconds and bytes of an image that is searched for copies.
        process: bytes that the process had before any trial.
    """

    segmenter: Trial
    patches: float
    arms: dict[str, float]
    scoring: float
    process: int
    generator: StepTrial | None = None
    codec: StepTrial | None = None
    translator: StepTrial | None = None
    refiner: StepTrial | None = None
    sets: dict[str, SetTrial] = field(default_factory=dict)
    search: tuple[float, int] = (0.0, 0)


@dataclass(frozen=True)
class Fold:
    """The cases of a fold."""

    training: list[Case]
    unlabelled: list[Case]
    validation: list[Case]
    test: list[Case]


def folds_of(plan: Plan, workspace: Workspace) -> list[Fold]:
    """Of all folds that the configuration runs."""
    splits = [workspace.read_split(fold) for fold in plan.config.folds]
    return [
        Fold(*(cases_of(plan.manifest, part) for part in (one.training, one.unlabelled, one.validation, one.test)))
        for one in splits
    ]


class Reckoning:
    """The cost of each stage.

    Args:
        stages: that the run has, by name, in order.
        preparing: seconds that `prepare` takes a case, as of `prepare_seconds`; None: it has not to run anew.
    """

    def __init__(
        self, plan: Plan, workspace: Workspace, trials: Trials, stages: Sequence[str], preparing: float | None
    ) -> None:
        self._plan, self._workspace, self._trials = plan, workspace, trials
        self._stages, self._preparing = stages, preparing
        self._config = plan.config
        self._folds = folds_of(plan, workspace)
        self._workers = plan.loader_workers
        self._on_device = plan.machine.device_memory is not None

    def costs(self) -> list[Cost]:
        """Of all stages, in order."""
        made = {
            "prepare": self._prepare,
            "train-codec": self._codec,
            "pretrain": self._pretrain,
            "train-refiner": self._refiner,
            "finetune": self._finetune,
            "train-pix2pix": self._translator,
            "synthesize": self._synthesize,
            "train": self._train,
            "evaluate": self._evaluate,
        }
        return [made[stage]() for stage in self._stages if stage in made]

    def _cost(self, stage: str, seconds: float, measured: str, data: int, networks: int, disk: int) -> Cost:
        """Networks take their memory on the device, where it has its own."""
        process = self._trials.process + data
        if self._on_device:
            return Cost(stage, seconds, measured, process, networks, disk)
        return Cost(stage, seconds, measured, process + networks, None, disk)

    # --- prepare -----------------------------------------------------------------------------------------------------
    def _prepare(self) -> Cost:
        cases = self._plan.manifest.cases
        workers = self._config.prepare.workers or self._plan.machine.cores
        source = max(math.prod(case.source_grid.shape) for case in cases)
        voxels = [math.prod(case.grid.shape) for case in cases]
        data = workers * (20 * source + 12 * FLOAT * max(voxels)) * self._plan.manifest.channel_count
        if self._preparing is None:
            folder = self._workspace.prepared_folder
            there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            return self._cost("prepare", 0.0, f"done, {there / 1e6:.0f} MB are there", data, 0, 0)
        seconds = self._preparing * len(cases) / min(workers, self._plan.machine.cores)
        return self._cost("prepare", seconds, f"{TIMED_CASES} cases", data, 0, 5 * sum(voxels) // 2)

    # --- generator ---------------------------------------------------------------------------------------------------
    def _codec(self) -> Cost:
        trial, section = _there(self._trials.codec), self._config.diffusion.codec.training
        numbers = _numbers(section, section.batch, CODEC_SLICES, 0)
        seconds = training_seconds(trial.network, numbers, trial.sample_seconds, self._workers)
        data = max(FLOAT * _voxels(one.training, one.unlabelled, one.validation) for one in self._folds)
        count = 1 if self._config.diffusion.pool.root is not None else len(self._folds)
        disk = count * (checkpoint_bytes(trial.network) + weights_bytes(trial.network))
        return self._cost("train-codec", count * seconds, "steps", data, trial.network.peak(section.batch), disk)

    def _pretrain(self) -> Cost:
        diffusion = self._config.diffusion
        cost = self._generator("pretrain", diffusion.pretrain, len(self._folds))
        if diffusion.pool.root is None:
            return cost
        trial = _there(self._trials.generator)
        samples = pool_samples(self._config, trial, diffusion.pool.training)
        pool = self._generator("pretrain", diffusion.pool.training, 1, samples)
        return Cost(
            "pretrain",
            cost.seconds + pool.seconds,
            f"{cost.measured}; the pool by these too",
            cost.memory,
            cost.device_memory,
            cost.disk + pool.disk,
        )

    def _finetune(self) -> Cost:
        return self._generator("finetune", self._config.diffusion.finetune, len(self._folds))

    def _generator(
        self, stage: str, section: DiffusionTrainingConfig, count: int, samples: float | None = None
    ) -> Cost:
        trial, denoiser = _there(self._trials.generator), self._config.diffusion.denoiser
        batch = section.batch // denoiser.stack if samples is None else samples
        pictured = PICTURED_SLICES * PICTURED_STEPS
        numbers = _numbers(section, batch, VALIDATION_SLICES, pictured)
        seconds = training_seconds(trial.network, numbers, trial.sample_seconds, self._workers)
        channels = 1 + control_channels(self._plan.manifest.label_count, denoiser.neighbours, denoiser.control)
        data = max(channels * FLOAT * _voxels(one.training, one.unlabelled, one.validation) for one in self._folds)
        disk = count * (checkpoint_bytes(trial.network) + weights_bytes(trial.network))
        return self._cost(stage, count * seconds, "steps of the network", data, trial.network.peak(max(batch, 1)), disk)

    def _translator(self) -> Cost:
        """Of Pix2Pix: both its networks."""
        trial, section, denoiser = (
            _there(self._trials.translator),
            self._config.pix2pix.training,
            self._config.diffusion.denoiser,
        )
        numbers = _numbers(section, section.batch, VALIDATED, SHOWN)
        seconds = training_seconds(trial.network, numbers, trial.sample_seconds, self._workers)
        channels = 1 + control_channels(self._plan.manifest.label_count, denoiser.neighbours, denoiser.control)
        data = max(channels * FLOAT * _voxels(one.training, one.validation) for one in self._folds)
        disk = len(self._folds) * (checkpoint_bytes(trial.network) + weights_bytes(trial.network))
        peak = trial.network.peak(section.batch)
        return self._cost("train-pix2pix", len(self._folds) * seconds, "steps of both networks", data, peak, disk)

    def _refiner(self) -> Cost:
        trial, section = _there(self._trials.refiner), self._config.refiner.training
        numbers = _numbers(section, section.batch, REFINED, REFINED_SHOWN)
        seconds = training_seconds(trial.network, numbers, trial.sample_seconds, self._workers)
        data = max(FLOAT * _voxels(one.training, one.unlabelled, one.validation) for one in self._folds)
        disk = len(self._folds) * (checkpoint_bytes(trial.network) + weights_bytes(trial.network))
        peak = trial.network.peak(section.batch)
        return self._cost("train-refiner", len(self._folds) * seconds, "steps of the network", data, peak, disk)

    # --- synthesis ---------------------------------------------------------------------------------------------------
    def _synthesize(self) -> Cost:
        """Of all sets; their gates share the segmenters."""
        config, gate, trials = self._config, self._config.gate, self._trials
        seconds, disk, networks = 0.0, 0, [0]
        for name in synthetic_sets(config):
            own = of_set(config, name)
            networks.append(self._sampling_bytes(own))
            for number, fold in zip(config.folds, self._folds, strict=True):
                seconds += self._set(own, trials.sets[name], fold)
                records = [
                    _record(case, number, sample) for case in fold.training for sample in range(own.synthesize.samples)
                ]
                disk += disk_needed(self._workspace, self._plan.manifest, records)
        index = 0
        if gate.enabled:
            parts = sum(_parts(config, fold) for fold in self._folds)
            seconds += parts * self._gate_training()
            disk += parts * (checkpoint_bytes(trials.segmenter) + weights_bytes(trials.segmenter))
            networks.append(trials.segmenter.peak(gate.training.batch * self._patches(gate.training)))
            index = max(_images(config, fold) for fold in self._folds) * trials.search[1]
        measured = "one pass of the network" + (", the gate's steps; no draw refused" if gate.enabled else "")
        channels = self._plan.manifest.channel_count
        data = channels * (VOLUME_BYTES * max(math.prod(shape) for shape in self._plan.shapes) + index)
        return self._cost("synthesize", seconds, measured, data, max(networks), disk)

    def _sampling_bytes(self, config: Config) -> int:
        """Memory of making the volumes of a set."""
        if config.synthesize.generator == "pix2pix":
            axis, trials = slice_axis(config, self._plan.manifest), [_there(self._trials.translator)]
            voxels = max(math.prod(shape) // shape[axis] for shape in self._plan.shapes)  # a slice at a time
        else:
            voxels, trials = config.synthesize.batch_voxels, [_there(self._trials.generator)]
            trials += [_there(self._trials.refiner)] if refines(config.synthesize) else []
        needed = [4 * one.network.parameters + round(voxels / one.voxels * one.network.inference) for one in trials]
        return max(needed)

    def _set(self, config: Config, trial: SetTrial, fold: Fold) -> float:
        """Seconds of one set in one fold: its volumes, and what its gate looks at."""
        samples, axis = config.synthesize.samples, slice_axis(config, self._plan.manifest)
        seconds = samples * _making(trial, fold.training, axis)
        if not config.gate.enabled:
            return seconds
        gate, judged = config.gate, [case for case in fold.training for _ in range(samples)]
        seconds += gate.reference_samples * _making(trial, fold.validation[: gate.reference_cases], axis)
        images = _images(config, fold)
        references = min(gate.references, images + len(fold.validation))
        seconds += self._trials.search[0] * (images * (len(judged) + references) + images)
        return seconds + self._segmenting([*judged, *fold.training, *fold.validation], gate.training)

    def _gate_training(self) -> float:
        """Seconds of one segmenter of the gate."""
        section, trials = self._config.gate.training, self._trials
        numbers = _numbers(section, section.batch * self._patches(section), 0, 0)
        plain = trials.arms.get("none", min(trials.arms.values(), default=0.0))
        return training_seconds(trials.segmenter, numbers, plain / trials.patches, self._workers)

    # --- segmenters --------------------------------------------------------------------------------------------------
    def _patches(self, section: TrainConfig) -> float:
        """A patch of the training in samples of the segmenter's trial."""
        own, tried = segmenter_patch(self._plan, section), segmenter_patch(self._plan)
        return self._trials.patches * math.prod(own) / math.prod(tried)

    def _windows(self, cases: Sequence[Case], section: TrainConfig, overlap: float | None = None) -> float:
        """Windows of the sliding window over prepared cases, in samples of the segmenter's trial."""
        patch, share = segmenter_patch(self._plan, section), section.overlap if overlap is None else overlap
        return self._patches(section) * sum(rules.windows(case.grid.shape, patch, share) for case in cases)

    def _segmenting(self, cases: Sequence[Case], section: TrainConfig, overlap: float | None = None) -> float:
        """Seconds of that."""
        return self._windows(cases, section, overlap) * self._trials.segmenter.forward

    def _train(self) -> Cost:
        config, trials = self._config, self._trials
        section, seconds = config.train, 0.0
        for fold in self._folds:
            windows, pictures = (self._windows(cases, section) for cases in (fold.validation, fold.validation[:4]))
            for name in config.arms:
                passes = 2 if _merges(config.arm[name]) and config.merge.at == "prediction" else 1
                numbers = _numbers(section, section.batch * trials.patches * passes, windows, pictures)
                making = trials.arms[name] / (trials.patches * passes)
                seconds += training_seconds(trials.segmenter, numbers, making, self._workers)
        cells = len(self._folds) * len(config.arms) * len(config.seeds)
        arms = [config.arm[name] for name in config.arms]
        sets = [of_set(config, arm.synthetic_set) for arm in arms if arm.merge in ("synthetic", "warped", "instead")]
        samples = max((one.synthesize.samples for one in sets), default=0)
        data = max(
            (FLOAT * (1 + samples) + LABEL) * _voxels(one.training) + (FLOAT + LABEL) * _voxels(one.validation)
            for one in self._folds
        )
        peak = trials.segmenter.peak(section.batch * trials.patches * (2 if config.merge.at == "prediction" else 1))
        disk = cells * (checkpoint_bytes(trials.segmenter) + weights_bytes(trials.segmenter))
        return self._cost(
            "train", len(config.seeds) * seconds, f"steps of the network; {cells} trainings", data, peak, disk
        )

    def _evaluate(self) -> Cost:
        config, trials = self._config, self._trials
        mirrors = 2 ** len(config.evaluate.mirror_axes)
        seconds = 0.0
        for fold in self._folds:
            decided = fold.validation if config.evaluate.postprocessing == "validated" else []
            windows = self._segmenting([*fold.test, *decided], config.train, config.evaluate.overlap)
            seconds += mirrors * windows + len(fold.test) * trials.scoring
        cells = len(config.arms) * len(config.seeds)
        largest = max(math.prod(case.grid.shape) for fold in self._folds for case in fold.test)
        classes = self._plan.manifest.label_count + 1
        data = 3 * FLOAT * classes * largest
        source = [math.prod(case.source_grid.shape) for fold in self._folds for case in fold.test]
        networks = round(config.evaluate.window_batch * trials.patches * trials.segmenter.inference)
        disk = cells * sum(source) // 20  # label maps compress well
        measured = f"windows and one case's metrics; {cells * len(self._folds)} segmenters"
        return self._cost("evaluate", cells * seconds, measured, data + 20 * max(source), networks, disk)


def pool_samples(config: Config, trial: StepTrial, section: DiffusionTrainingConfig) -> float:
    """A batch of the pool's pictures in samples of the trial."""
    return section.batch * math.prod(config.diffusion.pool.size) / trial.voxels


def _parts(config: Config, fold: Fold) -> int:
    """Segmenters of a fold's gate."""
    patients = len({case.patient for case in fold.training})
    parts = patients if patients <= config.gate.leave_one_out else min(config.gate.parts, patients)
    return parts if parts > 1 else 0


def _images(config: Config, fold: Fold) -> int:
    """Images of a fold that its gate searches for copies."""
    count = len(fold.training)
    return min(max(config.gate.images, count), count + len(fold.unlabelled))


def _making(trial: SetTrial, cases: Sequence[Case], axis: int) -> float:
    """Seconds of one volume for each case."""
    return sum(case.grid.shape[axis] for case in cases) * trial.slice_seconds + len(cases) * trial.finishing


def _merges(arm: ArmConfig) -> bool:
    return arm.merge not in ("none", "instead")


def _numbers(
    section: AnyTrainingConfig,
    batch: float,
    validated: float,
    pictured: float,
) -> TrainingNumbers:
    return TrainingNumbers(
        section.steps,
        batch,
        section.accumulation,
        times(section.steps, section.validate_every),
        validated,
        times(section.steps, section.images_every),
        pictured,
    )


def _voxels(*parts: Sequence[Case]) -> int:
    """Voxels of the cases' images, with all their channels."""
    return sum(len(case.maps) * math.prod(case.grid.shape) for part in parts for case in part)


def _record(case: Case, fold: int, sample: int) -> SyntheticRecord:
    """Just enough of one for its disk."""
    return SyntheticRecord(case.id, fold, sample, 0, "", "", "", "", "", "", 0, 0.0, 0.0, "")


def _there(trial: StepTrial | None) -> StepTrial:
    assert trial is not None  # every stage that is reckoned was tried
    return trial
