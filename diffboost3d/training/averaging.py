"""Averaged weights: an exponential moving average of what is trained, and of what batch normalisation has measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

MEASURED = ("running_mean", "running_var")  # of other weights they would not fit the averaged ones


class AveragedWeights:
    """Exponential moving average of the trained weights; decay 0 keeps none and stands for the weights themselves.

    Means and variances of batch normalisation go with them. The decay rises to `decay` as (1 + step) / (10 + step), so that
    the first random weights are soon forgotten.
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors: dict[str, torch.Tensor] = (
            {name: value.detach().clone() for name, value in _averaged(module).items()} if decay else {}
        )

    @torch.no_grad()
    def update(self, module: torch.nn.Module, step: int) -> None:
        """Take in the weights after `step`."""
        if not self.tensors:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        present = _averaged(module)
        torch._foreach_lerp_(
            list(self.tensors.values()), [present[name].detach() for name in self.tensors], 1.0 - decay
        )

    @torch.no_grad()
    def copy_to(self, module: torch.nn.Module) -> None:
        """Write the averaged weights into the module."""
        for name, value in _averaged(module).items():
            if name in self.tensors:
                value.copy_(self.tensors[name])

    @contextmanager
    def in_place_of(self, module: torch.nn.Module) -> Iterator[None]:
        """The module holds the averaged weights inside the block."""
        kept = {name: value.detach().clone() for name, value in _averaged(module).items() if name in self.tensors}
        self.copy_to(module)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in _averaged(module).items():
                    if name in kept:
                        value.copy_(kept[name])


def _averaged(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What is averaged, by name."""
    trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
    measured = {name: value for name, value in module.named_buffers() if name.rpartition(".")[2] in MEASURED}
    return trained | measured
