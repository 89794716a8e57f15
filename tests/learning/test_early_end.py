"""Training that stops early, and training of which a part is locked: both resume exactly."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from plane_learner import PLAN, CutOffError, Plane, PlaneLearner, Points, checkpoint, run, same
from small_networks import CONTROLS, small_denoiser

from diffboost3d.diffusion.batches import SliceDataset, SlicePlan, SliceSource
from diffboost3d.diffusion.learning import DiffusionLearner
from diffboost3d.errors import TrainingError
from diffboost3d.training import fit, load_tensors, save_tensors

PATIENT = replace(PLAN, steps=30, patience=2)  # validates every second step


class ScoredLearner(PlaneLearner):
    """Validation says what stands in `by_step`, and 0 at other steps."""

    def __init__(self, by_step, **more):
        super().__init__(**more)
        self.by_step = by_step

    def validate(self, device):
        super().validate(device)
        return {"score": self.by_step.get((max(self.dataset.read) + 1) // PLAN.batch, 0.0)}


# --- patience --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("by_step", "end", "best"),
    [
        ({2: 1.0}, 6, 2),
        ({2: 1.0, 6: 2.0}, 10, 6),
        ({2: 1.0, 4: 1.0, 6: 1.0}, 6, 2),  # as good is not better
        ({step: float(step) for step in range(2, 31, 2)}, 30, 30),
        ({step: float(step % 4) for step in range(2, 31, 2)}, 6, 2),
        ({2: math.nan, 4: 1.0}, 8, 4),
    ],
)
def test_training_ends_when_nothing_better_has_come_for_that_many_validations(
    tmp_path, accelerator, by_step, end, best
):
    learner, facts = run(tmp_path, accelerator, ScoredLearner(by_step), PATIENT)
    assert (facts["steps"], facts["best_step"], facts["best_score"]) == (end, best, by_step[best])
    assert len(learner.validated) == end // 2
    assert same(learner.module.state_dict(), learner.validated[best // 2 - 1])
    assert checkpoint(tmp_path)[1]["step"] == end


def test_without_patience_training_goes_to_its_last_step(tmp_path, accelerator):
    _, facts = run(tmp_path, accelerator, ScoredLearner({2: 1.0}), replace(PATIENT, patience=0))
    assert (facts["steps"], facts["best_step"]) == (30, 2)


@pytest.mark.parametrize("cut", [0, 3, 4, 7, 8, 9])
def test_a_patient_run_cut_off_and_resumed_ends_at_the_same_step_with_the_same_weights(tmp_path, accelerator, cut):
    by_step = {2: 1.0, 6: 2.0}
    undisturbed, facts = run(tmp_path / "whole", accelerator, ScoredLearner(by_step), PATIENT)
    assert facts["steps"] == 10
    with pytest.raises(CutOffError):
        run(tmp_path / "cut", accelerator, ScoredLearner(by_step, cut_at=cut * PLAN.batch), PATIENT)
    resumed, resumed_facts = run(tmp_path / "cut", accelerator, ScoredLearner(by_step), PATIENT)
    assert resumed_facts == facts
    assert same(undisturbed.module.state_dict(), resumed.module.state_dict())
    (tensors, whole), (again, resumed_whole) = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "cut")
    assert same(tensors, again)
    assert resumed_whole == whole


def test_a_training_that_ended_early_is_finished(tmp_path, accelerator):
    first, facts = run(tmp_path, accelerator, ScoredLearner({2: 1.0}), PATIENT)
    again, again_facts = run(tmp_path, accelerator, ScoredLearner({2: 1.0}), PATIENT)
    assert again.dataset.read == []
    assert again_facts == facts
    assert same(first.module.state_dict(), again.module.state_dict())


def test_a_checkpoint_of_an_earlier_version_goes_on(tmp_path, accelerator):
    with pytest.raises(CutOffError):
        run(tmp_path, accelerator, PlaneLearner(cut_at=4 * PLAN.batch))
    tensors, facts = checkpoint(tmp_path)
    facts.pop("poor_validations")
    save_tensors(tmp_path / "checkpoint" / "state.safetensors", tensors, facts)
    resumed, _ = run(tmp_path, accelerator)
    assert resumed.dataset.read[0] == 3 * PLAN.batch


# --- locked weights --------------------------------------------------------------------------------------------------
def locked_learner(**more):
    learner = PlaneLearner(**more)
    learner.module.layers[0].requires_grad_(False)
    return learner


def test_locked_weights_are_in_no_checkpoint(tmp_path, accelerator):
    run(tmp_path, accelerator, locked_learner())
    tensors, _ = checkpoint(tmp_path)
    kept = {name.removeprefix("module.") for name in tensors if name.startswith("module.")}
    everything = set(Plane().state_dict())
    assert everything - kept == {"layers.0.weight", "layers.0.bias"}
    assert set(load_tensors(tmp_path / "checkpoint" / "best.safetensors")[0]) == kept
    assert "layers.1.running_mean" in kept  # buffers are learned too


@pytest.mark.parametrize("cut", [2, 4, 6])
def test_a_partly_locked_run_cut_off_and_resumed_ends_bit_identical(tmp_path, accelerator, cut):
    undisturbed, facts = run(tmp_path / "whole", accelerator, locked_learner())
    with pytest.raises(CutOffError):
        run(tmp_path / "cut", accelerator, locked_learner(cut_at=cut * PLAN.batch))
    resumed, resumed_facts = run(tmp_path / "cut", accelerator, locked_learner())
    assert resumed_facts == facts
    assert same(undisturbed.module.state_dict(), resumed.module.state_dict())


# --- the generator ---------------------------------------------------------------------------------------------------
SLICES = SlicePlan((16, 16), 2, 10.0, (0.9, 1.1), 0.2, 0.2, 1000, 0, "test")


class Cut(SliceDataset):
    """Raises from a sample on."""

    cut_at = math.inf

    def __getitem__(self, number):
        if number >= self.cut_at:
            raise CutOffError(number)
        return super().__getitem__(number)


def generator_learner(codec, scheduler, cut_at=math.inf, **more):
    denoiser, random = small_denoiser(codec), np.random.default_rng(0)
    image, control = random.uniform(-1, 1, (16, 16, 4)), random.uniform(0, 1, (CONTROLS, 16, 16, 4))
    source = SliceSource(image.astype(np.float32), control.astype(np.float32))
    training, still = (Cut([source], "MRI", denoiser.tokenizer, codec, plan) for plan in (SLICES, SLICES.still()))
    training.cut_at = cut_at
    return DiffusionLearner(denoiser, scheduler, codec, training, still, True, "MRI", **more)


def test_with_the_base_locked_checkpoints_hold_the_control_branch_alone(tmp_path, accelerator, codec, scheduler):
    plan = replace(PLAN, steps=4, checkpoint_every=2)

    def train(folder, cut_at=math.inf):
        learner = generator_learner(codec, scheduler, cut_at, trained="control")
        fit(learner, plan, folder, "d", accelerator, "toy", lambda line: None)
        return learner.module.state_dict()

    whole = train(tmp_path / "whole")
    with pytest.raises(CutOffError):
        train(tmp_path / "cut", cut_at=3 * plan.batch)
    assert same(whole, train(tmp_path / "cut"))
    names = {name.split(".")[2] for name in checkpoint(tmp_path / "whole")[0] if name.startswith("module.")}
    assert names == {"controlnet"}
    untrained = small_denoiser(codec).state_dict()
    for name, tensor in untrained.items():
        if not name.startswith("controlnet"):
            assert torch.equal(whole[f"denoiser.{name}"], tensor)


@pytest.mark.parametrize("keeps_best", [False, True])
def test_the_best_validation_is_kept_where_that_is_asked_for(codec, scheduler, keeps_best):
    learner = generator_learner(codec, scheduler, keeps_best=keeps_best)
    with torch.no_grad():
        scalars = learner.validate(torch.device("cpu"))
    assert scalars.get("score") == (-scalars["loss"] if keeps_best else None)


class Unscored(PlaneLearner):
    """Has nothing to validate on."""

    def validate(self, device):
        return {}


def test_without_a_score_patience_never_ends_a_training(tmp_path, accelerator):
    _, facts = run(tmp_path, accelerator, Unscored(), replace(PATIENT, patience=1))
    assert facts["steps"] == PATIENT.steps


# --- losses that are no numbers --------------------------------------------------------------------------------------
class Divergent(PlaneLearner):
    """The targets become infinite from a sample number on."""

    def __init__(self, bad_from):
        super().__init__()
        self.dataset = Overflowing(bad_from)


class Overflowing(Points):
    def __init__(self, bad_from):
        super().__init__()
        self.bad_from = bad_from

    def __getitem__(self, number):
        item = super().__getitem__(number)
        return item if number < self.bad_from else {**item, "y": item["y"] * math.inf}


def test_a_loss_that_is_no_number_ends_the_training_in_words_and_never_reaches_a_checkpoint(tmp_path, accelerator):
    with pytest.raises(TrainingError, match=r"toy: the loss isn't finite at step 6; .* clip_norm of this training$"):
        run(tmp_path, accelerator, Divergent(bad_from=8))  # checkpoints at steps 3, 6, 7; steps of two samples
    assert all(
        bool(torch.isfinite(value).all()) for value in checkpoint(tmp_path)[0].values() if value.is_floating_point()
    )
