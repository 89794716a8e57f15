"""A training of milliseconds: a plane through noisy points, with what makes resuming hard (buffers, dropout, averages)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.utils.data import Dataset

from diffboost3d.seeds import generator
from diffboost3d.training import TrainingPlan, fit, load_tensors

PLAN = TrainingPlan(
    steps=7,
    batch=2,
    learning_rate=0.05,
    warmup_steps=2,
    weight_decay=0.01,
    clip_norm=1.0,
    accumulation=1,
    ema_decay=0.9,
    validate_every=2,
    checkpoint_every=3,
    images_every=4,
    seed=5,
)


class CutOffError(Exception):
    """Stands for a power cut."""


class Points(Dataset):
    """Points of a plane with noise; `read` keeps the numbers asked for, `cut_at` raises from that number on."""

    def __init__(self, cut_at=math.inf):
        self.cut_at, self.read = cut_at, []

    def __getitem__(self, number):
        if number >= self.cut_at:
            raise CutOffError(number)
        self.read.append(number)
        random = generator("points", number)
        x = torch.from_numpy(random.normal(size=3))
        return {"x": x, "y": (x * torch.tensor([1.0, -2.0, 0.5])).sum() + 0.1 * random.normal()}


class Plane(torch.nn.Module):
    """A linear layer, a batch norm (buffers) and dropout (randomness inside the step), in double precision."""

    def __init__(self, dropout=0.2):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.layers = torch.nn.Sequential(
                torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(dropout), torch.nn.Linear(4, 1)
            ).double()
        if not dropout:
            self.layers[1] = torch.nn.Identity()

    def forward(self, batch):
        return {"loss": (self.layers(batch["x"])[:, 0] - batch["y"]).square().mean()}


class PlaneLearner:
    """`scores`: what validation says, one after the other; None: minus the true distance from the plane."""

    def __init__(self, cut_at=math.inf, scores=None, dropout=0.2):
        self.module, self.dataset = Plane(dropout), Points(cut_at)
        self.scores, self.validated = scores, []

    def validate(self, device):
        self.validated.append({name: value.clone() for name, value in self.module.state_dict().items()})
        if self.scores is not None:
            return self.scores[len(self.validated) - 1]
        batch = torch.utils.data.default_collate([Points()[number] for number in range(9000, 9008)])
        return {"score": -float(self.module(batch)["loss"])}

    def images(self, device):
        return {"grey": np.full((4, 6, 3), 128, dtype=np.uint8)}


def run(folder, accelerator, learner=None, plan=PLAN, digest="d", log=lambda line: None):
    learner = learner or PlaneLearner()
    facts = fit(learner, plan, folder, digest, accelerator, "toy", log)
    facts.pop("data_wait_share")  # the clock on the wall is of this very run
    return learner, facts


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def checkpoint(folder):
    return load_tensors(folder / "checkpoint" / "state.safetensors")
