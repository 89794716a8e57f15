"""Trials of networks, the account of their memory against what a process really takes, and sums of costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from diffboost3d.planning import machine
from diffboost3d.planning.costs import Cost, TrainingNumbers, times, totals, training_seconds
from diffboost3d.planning.machine import Machine, read_machine
from diffboost3d.planning.trials import Trial, saved_bytes, try_training
from diffboost3d.training import loading

CPU = torch.device("cpu")


class Toy(torch.nn.Module):
    """A loss of one layer, of which autograd saves the input and the squared difference's input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 4)
        self.fixed = torch.nn.Parameter(torch.ones(10), requires_grad=False)

    def forward(self, batch):
        return {"loss": self.layer(batch["image"]).square().mean()}


def batch_of(count: int) -> dict[str, torch.Tensor]:
    return {"image": torch.ones(count, 8)}


def test_a_trial_leaves_the_weights_as_they_were() -> None:
    module = Toy()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    trial = try_training(module, batch_of, 4, CPU)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert (trial.parameters, trial.trained) == (46, 36)
    assert min(trial.seconds, trial.fixed, trial.forward) > 0


def test_each_saved_storage_is_counted_once_and_no_weight_is() -> None:
    module, image = Toy(), torch.ones(3, 8, requires_grad=True)
    saved, largest = saved_bytes(lambda: module({"image": image})["loss"], module)
    assert (saved, largest) == (4 * (3 * 8 + 3 * 4), 4 * 3 * 8)  # the input of the layer, and its output for the square


def test_the_account_grows_with_the_batch_by_what_is_saved() -> None:
    trial = Trial(0.1, 0.2, 0.05, 100, 80, 1000, 100)
    assert trial.state == 4 * (20 + 5 * 80)
    assert trial.peak(3) - trial.peak(1) == 2 * (1500 + 3 * 100)
    assert trial.step_seconds(4) == pytest.approx(0.6)


MEASURED = """
import json, torch
from diffboost3d.planning.trials import Trial, saved_bytes
from diffboost3d.segmentation.learning import SegmentationObjective
from diffboost3d.segmentation.networks import NetworkSpec, build_network
torch.set_num_threads(1)
def highest():  # of this process alone: ru_maxrss begins at that of the one that started it
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])
arguments = {"channels": [16, 32, 64], "strides": [2, 2], "num_res_units": 1, "norm": "INSTANCE"}
module = SegmentationObjective(build_network(NetworkSpec("unet", 3, 3, (48, 48, 48), arguments)), False)
def batch(count): return {"image": torch.rand(count, 1, 48, 48, 48), "label": torch.randint(0, 3, (count, 1, 48, 48, 48))}
def step(count):
    module(batch(count))["loss"].backward()
optimizer = torch.optim.AdamW(module.parameters())
module(({name: one[..., :8, :8, :8] for name, one in batch(1).items()}))["loss"].backward()  # what the first call loads
before = highest()
average = [one.detach().clone() for one in module.parameters()]
for _ in range(2):
    step(4)
    optimizer.step()
    optimizer.zero_grad()
taken = highest() - before
saved, largest = saved_bytes(lambda: step(1), module)
count = sum(one.numel() for one in module.parameters())
print(json.dumps([Trial(0, 0, 0, count, count, saved, largest).peak(4), taken]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/status")
def test_the_account_is_within_a_factor_of_two_of_what_a_training_takes() -> None:
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    said, taken = json.loads(done.stdout.splitlines()[-1])
    assert taken / 2 <= said <= 2 * taken


# --- costs -----------------------------------------------------------------------------------------------------------
def test_a_training_is_its_steps_its_validations_and_its_pictures() -> None:
    trial = Trial(0.1, 0.05, 0.02, 100, 100, 1000, 100)
    numbers = TrainingNumbers(100, 4, 1, validations=2, validated=48, pictures=1, pictured=10)
    assert training_seconds(trial, numbers, 0.01, 0) == pytest.approx(100 * (0.05 + 0.4 + 0.04) + 106 * 0.02)
    assert training_seconds(trial, numbers, 0.01, 2) == pytest.approx(100 * 0.45 + 106 * 0.02)  # the loaders keep up
    assert training_seconds(trial, numbers, 1.0, 2) == pytest.approx(100 * 2.0 + 106 * 0.02)  # and here they don't


def test_what_happens_every_so_often_happens_at_the_end_too() -> None:
    assert [times(100, 50), times(101, 50), times(10, 50)] == [2, 3, 1]


def test_a_run_takes_the_sum_of_times_and_the_highest_memory() -> None:
    whole = totals([Cost("a", 10, "", 5, None, 100), Cost("b", 20, "", 9, 7, 1), Cost("c", 0, "", 1, 3, 0)])
    assert (whole.seconds, whole.memory, whole.device_memory, whole.disk) == (30, 9, 7, 101)


# --- machine ---------------------------------------------------------------------------------------------------------
def test_the_limits_of_a_container_count(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(loading, "CGROUP", tmp_path)
    plain = read_machine(tmp_path, "cpu")
    assert plain.cores >= 1
    assert plain.device_memory is None
    assert 0 < plain.free_memory <= plain.memory
    (tmp_path / "memory.max").write_text("100000000\n")
    (tmp_path / "memory.current").write_text("40000000\n")
    (tmp_path / "cpu.max").write_text("100000 100000\n")
    held = read_machine(tmp_path, "cpu")
    assert (held.cores, held.memory, held.free_memory) == (1, 100_000_000, 60_000_000)
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert read_machine(tmp_path, "cpu").memory == plain.memory


def test_networks_get_most_of_their_device_and_less_of_a_shared_memory() -> None:
    assert Machine(2, 16 * 10**9, 8 * 10**9, "cpu", None, 0).network_memory == 6 * 10**9
    assert Machine(2, 16 * 10**9, 8 * 10**9, "cuda", 10 * 10**9, 0).network_memory == 9 * 10**9
