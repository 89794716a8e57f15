"""Time, memory and disk of the stages: sums of counts and what trials measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffboost3d.planning.trials import NUMBER, Trial

CHECKPOINT = 4  # numbers kept for each trained one: weight, two of AdamW, average


@dataclass(frozen=True)
class Cost:
    """What a stage takes.

    Attributes:
        stage: its command. seconds: in all; 0 where it is done. measured: what the seconds rest on, in words.
        memory: bytes of main memory at its peak, the process itself included. device_memory: of the GPU; None without one.
        disk: bytes that it adds.
    """

    stage: str
    seconds: float
    measured: str
    memory: int
    device_memory: int | None
    disk: int


@dataclass(frozen=True)
class TrainingNumbers:
    """How long a training is.

    Attributes:
        steps, batch, accumulation: of the configuration; a batch in samples of the trial (not whole, where theirs are of another
            size).
        validations, pictures: how often. validated, pictured: passes without gradients each time, in samples of the trial.
    """

    steps: int
    batch: float
    accumulation: int = 1
    validations: int = 0
    validated: float = 0.0
    pictures: int = 0
    pictured: float = 0.0


def training_seconds(trial: Trial, numbers: TrainingNumbers, sample_seconds: float, workers: int) -> float:
    """Seconds of a training.

    Args:
        sample_seconds: of making one sample. workers: loader processes; with any, samples are made while networks run.
    """
    network = trial.fixed + numbers.accumulation * numbers.batch * trial.seconds
    making = numbers.accumulation * numbers.batch * sample_seconds
    step = max(network, making / workers) if workers else network + making
    passes = numbers.validations * numbers.validated + numbers.pictures * numbers.pictured
    return numbers.steps * step + passes * trial.forward


def times(steps: int, every: int) -> int:
    """How often something happens that happens at every so many steps and at the last."""
    return steps // every + (steps % every > 0)


def checkpoint_bytes(trial: Trial) -> int:
    """Disk of a training's checkpoint: weights, averages and the optimiser's state, and once more the best weights."""
    return NUMBER * trial.trained * (CHECKPOINT + 1)


def weights_bytes(trial: Trial) -> int:
    """Disk of the finished weights."""
    return NUMBER * trial.parameters


def totals(costs: Sequence[Cost]) -> Cost:
    """The whole run: seconds and disk in sum, memory at its highest."""
    devices = [cost.device_memory for cost in costs if cost.device_memory is not None]
    return Cost(
        "run",
        sum(cost.seconds for cost in costs),
        "",
        max((cost.memory for cost in costs), default=0),
        max(devices) if devices else None,
        sum(cost.disk for cost in costs),
    )
