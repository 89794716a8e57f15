"""Short trials of networks as they will be trained: seconds of a step, and an account of the memory that it takes.

The account: a trained number stands for five of 4 bytes (itself, gradient, two of AdamW, average), a locked one for itself.
What autograd saves for the backward pass is counted by `torch.autograd.graph.saved_tensors_hooks`, storage by storage, and grows
with the batch. Beside it live the gradient of an activation, that of its input, and what a convolution lays out anew, each about
as large as the largest saved one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]

HELD = (
    1.5  # measured: allocators hold about so many times what autograd saves, in pieces that don't fit the next request
)
BESIDE = 3  # tensors as large as the largest activation that live for a moment of the backward pass
NUMBER = 4  # bytes of a float32
TRAINED = 5  # numbers kept for each trained one: weight, gradient, two of AdamW, average
SECONDS = 2.0  # of one trial, about
MOST_STEPS = 5


@dataclass(frozen=True)
class Trial:
    """What a short trial of a training found, on samples of one size.

    Attributes:
        seconds: forward and backward of one sample. fixed: seconds of the optimiser, once a step.
        forward: seconds of one sample without gradients.
        parameters, trained: numbers in the module, and those of them that are trained.
        saved: bytes that autograd keeps of one sample. largest: of its largest tensor.
    """

    seconds: float
    fixed: float
    forward: float
    parameters: int
    trained: int
    saved: int
    largest: int

    @property
    def state(self) -> int:
        """Bytes of weights, gradients, optimiser and average."""
        return NUMBER * (self.parameters - self.trained + TRAINED * self.trained)

    @property
    def activations(self) -> float:
        """Bytes that a step takes for one sample."""
        return HELD * self.saved + BESIDE * self.largest

    @property
    def inference(self) -> int:
        """Bytes that a pass without gradients takes for one sample."""
        return BESIDE * self.largest

    def step_seconds(self, samples: float) -> float:
        """Of one optimiser step on so many samples (a sample of twice the size counts as two)."""
        return self.fixed + samples * self.seconds

    def peak(self, samples: float) -> int:
        """Bytes at the peak of a step, without what the process takes before."""
        return int(self.state + samples * self.activations)


def try_training(
    module: torch.nn.Module,
    batch_of: Callable[[int], Tensors],
    wanted: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Trial:
    """Some steps of `module` (batch -> {"loss"}) with AdamW at rate 0, so that its weights stay.

    Args:
        batch_of: a batch of so many samples. wanted: samples of a real step, which are taken where that is fast enough.
    """
    module = module.to(device).train()
    trained = [one for one in module.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0)

    def moved(count: int) -> Tensors:
        return {name: tensor.to(device) for name, tensor in batch_of(count).items()}

    def both_ways(batch: Tensors) -> None:
        with autocast():
            loss = module(batch)["loss"]
        loss.backward()

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    saved, largest = saved_bytes(lambda: both_ways(moved(1)), module)
    update()  # the first one makes the optimiser's state
    once = clocked(lambda: both_ways(moved(1)), device)
    fixed = clocked(update, device)
    count = max(1, min(wanted, int(SECONDS / 2 / max(once, 1e-6))))
    batch = moved(count)
    taken: list[float] = []
    started = time.perf_counter()
    while len(taken) < MOST_STEPS and (not taken or time.perf_counter() - started < SECONDS):
        taken.append(clocked(lambda: both_ways(batch), device) / count)
    module.eval()
    with torch.no_grad(), autocast():
        forward = clocked(lambda: module(batch), device) / count
    optimizer.zero_grad(set_to_none=True)
    parameters = sum(one.numel() for one in module.parameters())
    numbers = sum(one.numel() for one in trained)
    return Trial(min(taken), fixed, forward, parameters, numbers, saved, largest)


def saved_bytes(run: Callable[[], Any], module: torch.nn.Module) -> tuple[int, int]:
    """(bytes of all, of the largest) storages that autograd saves while `run` runs; parameters are left out."""
    owned = {one.untyped_storage().data_ptr() for one in module.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in owned:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(found.values()), max(found.values(), default=0)


def clocked(run: Callable[[], Any], device: torch.device) -> float:
    """Seconds that `run` takes, the device's work included; without the waiting for other work on the same cores.

    On the CPU the lesser of the time on the wall and the processor's time over all threads: at rest that is the wall's, and on a
    busy machine at most as many times too long as there are threads.
    """
    _wait(device)
    started, busy = time.perf_counter(), time.process_time()
    run()
    _wait(device)
    wall, busy = time.perf_counter() - started, time.process_time() - busy
    return min(wall, busy) if device.type == "cpu" and busy > 0 else wall


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds_each(run: Callable[[int], Any], most: int = 16) -> float:
    """Mean seconds of `run(1)`, `run(2)`, ..., on the CPU, until the time of a trial is over; `run(0)` is not counted."""
    run(0)
    started = time.perf_counter()
    taken: list[float] = []
    while len(taken) < most and (not taken or time.perf_counter() - started < SECONDS / 2):
        taken.append(clocked(partial(run, len(taken) + 1), torch.device("cpu")))
    return sum(taken) / len(taken)
