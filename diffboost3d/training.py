"""The one training loop: averaged weights, accumulation, validation, checkpoints, exact resume, TensorBoard.

Everything random in a step is keyed by the number of the sample or step, never by a running generator, so a run that was
killed and resumed takes the same steps as one that was not. Several processes (Accelerate) share each batch by sample.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.utils.data import DataLoader, Dataset

from diffboost3d.cases.atomic import replacing
from diffboost3d.errors import ConfigError, TrainingError
from diffboost3d.seeds import seed_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHECKED_EVERY = 10  # steps; reading a loss waits for the device

Tensors = dict[str, torch.Tensor]
STATE, BEST = "state.safetensors", "best.safetensors"


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


@dataclass(frozen=True)
class TrainingPlan:
    """The numbers of a training; see the sections `diffusion.pretrain` and `train` of the configuration."""

    steps: int
    batch: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float
    accumulation: int
    ema_decay: float
    validate_every: int
    checkpoint_every: int
    images_every: int
    seed: int
    workers: int = 0
    patience: int = 0
    betas: tuple[float, float] = (0.9, 0.999)

    def rate_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then half a cosine to zero."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        share = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))


def make_accelerator(device: str, precision: str, threads: int = 0) -> Any:
    """The Accelerate object of this process.

    Raises:
        ConfigError: the device asked for is not there.
    """
    from accelerate import Accelerator

    if threads:
        torch.set_num_threads(threads)
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device != "auto" and not present[device]:
        there = ", ".join(name for name, here in present.items() if here)
        raise ConfigError(f"runtime.device={device} is not on this machine; there is: {there}")
    return Accelerator(cpu=device == "cpu", mixed_precision=precision)


def fit(
    learner: Learner,
    plan: TrainingPlan,
    folder: Path,
    digest: str,
    accelerator: Any,
    title: str,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """Train, or go on with a training that was cut off; `learner.module` ends with the weights to keep.

    These are the best ones by validation score where there is one, else the averaged ones of the last step.

    Args:
        folder: gets checkpoint/ and tensorboard/.
        digest: of everything that shapes the training; a checkpoint of another digest is not resumed.
        title: shown at the progress bar.

    Returns:
        Facts for the record: steps, best_step, best_score.

    Raises:
        ConfigError: the batch can't be shared evenly by the processes.
    """
    if plan.batch % accelerator.num_processes:
        raise ConfigError(
            f"batch={plan.batch} can't be shared by {accelerator.num_processes} processes; use a multiple"
        )
    run = _Run(learner, plan, folder, digest, accelerator)
    start = run.resume()
    if start:
        log(f"{title}: goes on from step {start} of {plan.steps}")
    run.train(start, title)
    run.adopt_kept_weights()
    return {"steps": run.done, "best_step": run.best_step, "best_score": run.best_score}


class _Run:
    """One training in progress."""

    def __init__(self, learner: Learner, plan: TrainingPlan, folder: Path, digest: str, accelerator: Any) -> None:
        self.learner, self.plan, self.digest, self.accelerator = learner, plan, digest, accelerator
        self.checkpoint = folder / "checkpoint"
        self.tensorboard = folder / "tensorboard"
        trained = [parameter for parameter in learner.module.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=plan.learning_rate, betas=plan.betas, weight_decay=plan.weight_decay)
        self.module, self.optimizer = accelerator.prepare(learner.module, optimizer)
        self.average = AveragedWeights(learner.module, plan.ema_decay)
        self.best_step, self.best_score = 0, -math.inf
        self.done, self.poor_validations = 0, 0

    # --- the loop ----------------------------------------------------------------------------------------------------
    def train(self, start: int, title: str) -> None:
        """From step `start` to the end."""
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm

        plan, main = self.plan, self.accelerator.is_main_process
        self.done = start
        if start >= plan.steps or self._is_exhausted():
            return
        writer = SummaryWriter(str(self.tensorboard), purge_step=start + 1) if main else None
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
            scalars = self._step(step, batches)
            self.done = done = step + 1
            if done % CHECKED_EVERY == 0 or done % plan.checkpoint_every == 0 or done == plan.steps:
                self._require_finite(scalars, title)
            if writer and (done % CHECKED_EVERY == 0 or done == plan.steps):
                numbers = {name: float(value) for name, value in scalars.items()}
                bar.set_postfix(
                    {name: f"{value:.4g}" for name, value in numbers.items() if "loss" in name}, refresh=False
                )
                _write_scalars(writer, {**numbers, "learning_rate": plan.rate_at(step)}, "train", done)
            self._look(done, writer)
            if done % plan.checkpoint_every == 0 or done == plan.steps or self._is_exhausted():
                self._save(done)
            if self._is_exhausted():
                break
        if writer:
            writer.close()

    def _require_finite(self, scalars: Tensors, title: str) -> None:
        """Stop before weights that are no numbers reach a checkpoint."""
        bad = [name for name, value in scalars.items() if not math.isfinite(float(value))]
        if not bad and not all(bool(torch.isfinite(one).all()) for one in self.learner.module.parameters()):
            bad = ["weights"]  # the loss is of the step before
        if bad:
            raise TrainingError(
                f"{title}: the {bad[0]} isn't finite at step {self.done}; the last checkpoint is kept. Lower the learning_rate "
                "or clip_norm of this training, or set runtime.precision=fp32"
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
            batch = {
                name: tensor.to(self.accelerator.device, non_blocking=True) for name, tensor in next(batches).items()
            }
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
        return DataLoader(
            self.learner.dataset,
            batch_sampler=numbers,
            num_workers=plan.workers,
            pin_memory=self.accelerator.device.type == "cuda",
            persistent_workers=False,
        )

    def _look(self, done: int, writer: Any) -> None:
        """Validation and pictures, with the averaged weights. Every process does the same, one writes."""
        plan, device = self.plan, self.accelerator.device
        validate = done % plan.validate_every == 0 or done == plan.steps
        picture = writer is not None and (done % plan.images_every == 0 or done == plan.steps)
        if not (validate or picture):
            return
        self.learner.module.eval()
        with self.average.in_place_of(self.learner.module), torch.no_grad():
            if validate:
                scalars = self._agreed(self.learner.validate(device))
                if writer:
                    _write_scalars(writer, scalars, "validation", done)
                better = scalars.get("score", -math.inf) > self.best_score
                if "score" in scalars:
                    self.poor_validations = 0 if better else self.poor_validations + 1
                if better:
                    self.best_step, self.best_score = done, scalars["score"]
                    if self.accelerator.is_main_process:
                        save_tensors(self.checkpoint / BEST, self._learned(), {"step": done})
            if picture:
                for name, image in self.learner.images(device).items():
                    writer.add_image(name, image, done, dataformats="HWC")

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
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()}
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
        part = _parts(tensors)
        self.learner.module.load_state_dict(part["module"], strict=False)
        self.average.tensors = {
            name: tensor.to(self.average.tensors[name].device) for name, tensor in part.get("average", {}).items()
        }
        states: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in part.get("optimizer", {}).items():
            index, _, key = name.partition(".")
            states.setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict({"state": states, "param_groups": self.optimizer.state_dict()["param_groups"]})
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


class AveragedWeights:
    """Exponential moving average of the trained weights; decay 0 keeps none and stands for the weights themselves.

    The decay rises to `decay` as (1 + step) / (10 + step), so that the first random weights are soon forgotten.
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors: Tensors = (
            {name: value.detach().clone() for name, value in module.named_parameters() if value.requires_grad}
            if decay
            else {}
        )

    @torch.no_grad()
    def update(self, module: torch.nn.Module, step: int) -> None:
        """Take in the weights after `step`."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in module.named_parameters():
            if name in self.tensors:
                self.tensors[name].lerp_(value.detach(), 1.0 - decay)

    @torch.no_grad()
    def copy_to(self, module: torch.nn.Module) -> None:
        """Write the averaged weights into the module."""
        for name, value in module.named_parameters():
            if name in self.tensors:
                value.copy_(self.tensors[name])

    @contextmanager
    def in_place_of(self, module: torch.nn.Module) -> Iterator[None]:
        """The module holds the averaged weights inside the block."""
        kept = {name: value.detach().clone() for name, value in module.named_parameters() if name in self.tensors}
        self.copy_to(module)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in module.named_parameters():
                    if name in kept:
                        value.copy_(kept[name])


@contextmanager
def _synchronised(accelerator: Any, module: torch.nn.Module, last: bool) -> Iterator[None]:
    if last:
        yield
    else:
        with accelerator.no_sync(module):
            yield


def save_tensors(path: Path, tensors: Tensors, facts: dict[str, Any]) -> None:
    """Write tensors and JSON facts as one safetensors file; atomic."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(plain, str(temporary), {"diffboost3d": json.dumps(facts)})


def load_tensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Inverse of `save_tensors`, on the CPU."""
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        facts = json.loads(file.metadata()["diffboost3d"])
        return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118


def _parts(tensors: Tensors) -> dict[str, Tensors]:
    parts: dict[str, Tensors] = {}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts.setdefault(part, {})[rest] = tensor
    return parts


def _write_scalars(writer: Any, scalars: dict[str, float], group: str, step: int) -> None:
    for name, value in scalars.items():
        writer.add_scalar(f"{group}/{name}", value, step)
