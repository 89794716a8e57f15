"""The training loop: averaged weights, accumulation, validation, checkpoints, exact resume, TensorBoard.

Everything random in a step is keyed by the number of the sample or step, never by a running generator, so a run that was
killed and resumed takes the same steps as one that was not. Several processes (Accelerate) share each batch by sample.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from diffboost3d.errors import ConfigError, TrainingError
from diffboost3d.seeds import seed_of
from diffboost3d.training.averaging import AveragedWeights
from diffboost3d.training.checkpoints import (
    BEST,
    STATE,
    Tensors,
    load_tensors,
    optimizer_tensors,
    parts_of,
    restore_optimizer,
    save_tensors,
)
from diffboost3d.training.loading import available_cores, loader_workers, start_method
from diffboost3d.training.memory import freed_memory_kept
from diffboost3d.training.plan import TrainingPlan, make_optimizer
from diffboost3d.training.scalars import Board, Waiting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHECKED_EVERY = 10  # steps; reading a loss waits for the device


class Learner(Protocol):
    """What `fit` trains.

    Attributes:
        module: called with a batch (dictionary of tensors, first axis the sample), returns {"loss": scalar, other scalars}.
        dataset: sample number -> dictionary of tensors; a function of the number alone.
    """

    module: torch.nn.Module

    @property
    def dataset(self) -> Dataset[Tensors]:
        """Training samples by number."""

    def validate(self, device: torch.device) -> dict[str, float]:
        """Scalars of the current weights; "score" (higher is better) chooses the checkpoint that is kept. May be empty."""

    def images(self, device: torch.device) -> dict[str, NDArray[np.uint8]]:
        """Pictures (height, width, 3) of the current weights for TensorBoard."""


def fit(
    learner: Learner,
    plan: TrainingPlan,
    folder: Path,
    digest: str,
    accelerator: Any,
    title: str,
    log: Callable[[str], None],
    hparams: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Train, or go on with a training that was cut off; `learner.module` ends with the weights to keep.

    These are the best ones by validation score where there is one, else the averaged ones of the last step.

    Args:
        folder: gets checkpoint/ and tensorboard/.
        digest: of everything that shapes the training; a checkpoint of another digest is not resumed.
        title: shown at the progress bar.
        hparams: more settings for TensorBoard, beside those of the plan.

    Returns:
        Facts for the record: steps, best_step, best_score, and data_wait_share: of the time of the steps that this call took,
        what was spent waiting for data (None: it took none).

    Raises:
        ConfigError: the batch can't be shared evenly by the processes.
    """
    if plan.batch % accelerator.num_processes:
        raise ConfigError(
            f"batch={plan.batch} can't be shared by {accelerator.num_processes} processes; use a multiple"
        )
    run = _Run(learner, plan, folder, digest, accelerator, hparams)
    start = run.resume()
    if start:
        log(f"{title}: goes on from step {start} of {plan.steps}")
    with freed_memory_kept() if accelerator.device.type == "cpu" else nullcontext():
        run.train(start, title)
    run.adopt_kept_weights()
    waited = run.waiting.share
    return {
        "steps": run.done,
        "best_step": run.best_step,
        "best_score": run.best_score,
        "data_wait_share": None if waited is None else round(waited, 4),
    }


class _Run:
    """One training in progress."""

    def __init__(
        self,
        learner: Learner,
        plan: TrainingPlan,
        folder: Path,
        digest: str,
        accelerator: Any,
        hparams: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.learner, self.plan, self.digest, self.accelerator = learner, plan, digest, accelerator
        self.checkpoint = folder / "checkpoint"
        self.tensorboard = folder / "tensorboard"
        self.hparams = {**dataclasses.asdict(plan), **hparams}
        trained = [parameter for parameter in learner.module.parameters() if parameter.requires_grad]
        self.module, self.optimizer = accelerator.prepare(learner.module, make_optimizer(plan, trained))
        self.average = AveragedWeights(learner.module, plan.ema_decay)
        self.best_step, self.best_score = 0, -math.inf
        self.done, self.poor_validations = 0, 0
        self.waiting = Waiting()

    # --- the loop ----------------------------------------------------------------------------------------------------
    def train(self, start: int, title: str) -> None:
        """From step `start` to the end."""
        from tqdm import tqdm

        plan, main = self.plan, self.accelerator.is_main_process
        self.done = start
        if start >= plan.steps or self._is_exhausted():
            return
        board = Board(self.tensorboard, start, self.hparams) if main else None
        batches = iter(self._loader(start))
        bar = tqdm(
            range(start, plan.steps),
            initial=start,
            total=plan.steps,
            desc=title,
            unit="step",
            disable=not main,
            mininterval=1.0,
        )
        for step in bar:
            with self.waiting.step():
                scalars = self._step(step, batches)
            self.done = done = step + 1
            if done % CHECKED_EVERY == 0 or done % plan.checkpoint_every == 0 or done == plan.steps:
                self._require_finite(scalars, title)
            if board and (done % CHECKED_EVERY == 0 or done == plan.steps):
                numbers = {name: float(value) for name, value in scalars.items()}
                shown = {name: f"{value:.4g}" for name, value in numbers.items() if "loss" in name}
                bar.set_postfix(shown, refresh=False)
                board.scalars({**numbers, "learning_rate": plan.rate_at(step)}, "train", done)
                board.scalars({"data_wait_share": self.waiting.share or 0.0}, "time", done)
            self._look(done, board)
            if done % plan.checkpoint_every == 0 or done == plan.steps or self._is_exhausted():
                self._save(done)
            if self._is_exhausted():
                break
        if board:
            board.close()

    def _require_finite(self, scalars: Tensors, title: str) -> None:
        """Stop before weights that are no numbers reach a checkpoint."""
        bad = [name for name, value in scalars.items() if not math.isfinite(float(value))]
        if not bad and not all(bool(torch.isfinite(one).all()) for one in self.learner.module.parameters()):
            bad = ["weights"]  # the loss is of the step before
        if bad:
            or_else = "" if self.accelerator.mixed_precision == "no" else ", or set runtime.precision=no"
            raise TrainingError(
                f"{title}: the {bad[0]} isn't finite at step {self.done}; the last checkpoint is kept. Lower the learning_rate "
                f"or clip_norm of this training{or_else}"
            )

    def _is_exhausted(self) -> bool:
        """Whether the last `patience` validations brought nothing better."""
        return 0 < self.plan.patience <= self.poor_validations

    def _step(self, step: int, batches: Iterator[Tensors]) -> Tensors:
        plan = self.plan
        torch.manual_seed(seed_of(plan.seed, "step", step, self.accelerator.process_index))
        for group in self.optimizer.param_groups:
            group["lr"] = plan.rate_at(step)
        self.module.train()
        for part in range(plan.accumulation):
            with self.waiting.data():
                drawn = next(batches)
            batch = {name: tensor.to(self.accelerator.device, non_blocking=True) for name, tensor in drawn.items()}
            # gradients are exchanged between processes with the last part only
            with _synchronised(self.accelerator, self.module, part == plan.accumulation - 1):
                with self.accelerator.autocast():
                    scalars: Tensors = self.module(batch)
                self.accelerator.backward(scalars["loss"] / plan.accumulation)
        if plan.clip_norm:
            self.accelerator.clip_grad_norm_(self.module.parameters(), plan.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(self.learner.module, step)
        return {name: value.detach() for name, value in scalars.items()}

    def _loader(self, start: int) -> DataLoader[Tensors]:
        """Batches from step `start` on; this process's share of each."""
        plan = self.plan
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        numbers: Any = [  # ranges, not lists: these are as many numbers as the training has samples
            range(first + rank, first + plan.batch, processes)
            for first in range(
                start * plan.accumulation * plan.batch, plan.steps * plan.accumulation * plan.batch, plan.batch
            )
        ]
        workers = self._workers()
        return DataLoader(
            self.learner.dataset,
            batch_sampler=numbers,
            num_workers=workers,
            multiprocessing_context=start_method() if workers else None,
            pin_memory=self.accelerator.device.type == "cuda",
            persistent_workers=False,
        )

    def _workers(self) -> int:
        """Loader processes; those that train on this machine share its cores."""
        if self.plan.workers is not None:
            return self.plan.workers
        here = int(os.environ.get("LOCAL_WORLD_SIZE", self.accelerator.num_processes))
        return loader_workers(available_cores(), self.accelerator.device.type, here)

    def _look(self, done: int, board: Board | None) -> None:
        """Validation and pictures, with the averaged weights. Every process does the same, one writes."""
        plan, device = self.plan, self.accelerator.device
        validate = done % plan.validate_every == 0 or done == plan.steps
        picture = board is not None and (done % plan.images_every == 0 or done == plan.steps)
        if not (validate or picture):
            return
        self.learner.module.eval()
        with self.average.in_place_of(self.learner.module), torch.no_grad():
            if validate:
                scalars = self._agreed(self.learner.validate(device))
                if board:
                    board.scalars(scalars, "validation", done)
                better = scalars.get("score", -math.inf) > self.best_score
                if "score" in scalars:
                    self.poor_validations = 0 if better else self.poor_validations + 1
                if better:
                    self.best_step, self.best_score = done, scalars["score"]
                    if self.accelerator.is_main_process:
                        save_tensors(self.checkpoint / BEST, self._learned(), {"step": done})
            if board and picture:
                board.images(self.learner.images(device), done)

    def _agreed(self, scalars: dict[str, float]) -> dict[str, float]:
        """The main process's figures: the last bits may differ between processes, and with them who stops when."""
        if self.accelerator.num_processes == 1:
            return scalars
        from accelerate.utils import broadcast_object_list

        agreed: dict[str, float] = broadcast_object_list([scalars])[0]
        return agreed

    # --- checkpoints -------------------------------------------------------------------------------------------------
    def _learned(self) -> Tensors:
        """The state of the module without locked weights, which are those it began with."""
        module = self.learner.module
        locked = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
        return {name: tensor for name, tensor in module.state_dict().items() if name not in locked}

    def _save(self, done: int) -> None:
        """Everything that the next step depends on, in one file."""
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        tensors = {f"module.{name}": tensor for name, tensor in self._learned().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.tensors.items()}
        tensors |= {f"optimizer.{name}": value for name, value in optimizer_tensors(self.optimizer).items()}
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else {}
        facts = {
            "digest": self.digest,
            "step": done,
            "best_step": self.best_step,
            "best_score": self.best_score,
            "poor_validations": self.poor_validations,
            "scaler": scaler,
        }
        save_tensors(self.checkpoint / STATE, tensors, facts)

    def resume(self) -> int:
        """Load the checkpoint of this very training; the step to go on from, 0 where there is none."""
        path = self.checkpoint / STATE
        if not path.is_file():
            return 0
        tensors, facts = load_tensors(path)
        if facts["digest"] != self.digest:
            return 0
        part = parts_of(tensors)
        self.learner.module.load_state_dict(part["module"], strict=False)
        self.average.tensors = {
            name: tensor.to(self.average.tensors[name].device) for name, tensor in part.get("average", {}).items()
        }
        restore_optimizer(self.optimizer, part.get("optimizer", {}))
        if self.accelerator.scaler is not None and facts["scaler"]:
            self.accelerator.scaler.load_state_dict(facts["scaler"])
        self.best_step, self.best_score = facts["best_step"], facts["best_score"]
        self.poor_validations = facts.get("poor_validations", 0)  # earlier versions counted none
        return int(facts["step"])

    def adopt_kept_weights(self) -> None:
        """Leave the weights to keep in the module: the best by validation, else the averaged."""
        self.accelerator.wait_for_everyone()
        if self.best_score > -math.inf:
            self.learner.module.load_state_dict(load_tensors(self.checkpoint / BEST)[0], strict=False)
        else:
            self.average.copy_to(self.learner.module)
            self.best_step = self.done
        self.learner.module.eval()


@contextmanager
def _synchronised(accelerator: Any, module: torch.nn.Module, last: bool) -> Iterator[None]:
    if last:
        yield
    else:
        with accelerator.no_sync(module):
            yield
