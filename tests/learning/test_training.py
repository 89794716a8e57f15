"""The training loop: a cut-off run ends as an undisturbed one, known averages and rates, and no pickle anywhere."""

from __future__ import annotations

import builtins
import math
import pickle
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from plane_learner import PLAN, CutOffError, Plane, PlaneLearner, checkpoint, run, same

from diffboost3d.errors import ConfigError
from diffboost3d.training import (
    AveragedWeights,
    fit,
    last_weights,
    load_tensors,
    make_accelerator,
    make_optimizer,
    save_tensors,
    scalars,
)


@pytest.mark.parametrize("cut", range(PLAN.steps))
def test_a_run_cut_off_at_any_step_and_resumed_ends_bit_identical(tmp_path, accelerator, cut):
    undisturbed, facts = run(tmp_path / "whole", accelerator)
    with pytest.raises(CutOffError):
        run(tmp_path / "cut", accelerator, PlaneLearner(cut_at=cut * PLAN.batch))
    said = []
    resumed, resumed_facts = run(tmp_path / "cut", accelerator, log=said.append)
    assert same(undisturbed.module.state_dict(), resumed.module.state_dict())
    assert resumed_facts == facts
    (tensors, whole_facts), (again, again_facts) = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "cut")
    assert same(tensors, again)  # weights, averages, moments
    assert again_facts == whole_facts
    start = cut // PLAN.checkpoint_every * PLAN.checkpoint_every
    assert resumed.dataset.read == list(range(start * PLAN.batch, PLAN.steps * PLAN.batch))
    assert said == ([f"toy: goes on from step {start} of {PLAN.steps}"] if start else [])


def test_a_run_cut_off_many_times_ends_bit_identical(tmp_path, accelerator):
    plan = replace(PLAN, accumulation=2, checkpoint_every=1)
    undisturbed, _ = run(tmp_path / "whole", accelerator, plan=plan)
    for cut in (3, 6, 9, 17, 25):
        with pytest.raises(CutOffError):
            run(tmp_path / "cut", accelerator, PlaneLearner(cut_at=cut), plan)
    resumed, _ = run(tmp_path / "cut", accelerator, plan=plan)
    assert same(undisturbed.module.state_dict(), resumed.module.state_dict())


def test_a_cut_inside_validation_changes_nothing(tmp_path, accelerator):
    class Cut(PlaneLearner):
        def validate(self, device):
            if len(self.validated) == 2:
                raise CutOffError
            return super().validate(device)

    undisturbed, facts = run(tmp_path / "whole", accelerator)
    with pytest.raises(CutOffError):
        run(tmp_path / "cut", accelerator, Cut())
    resumed, resumed_facts = run(tmp_path / "cut", accelerator)
    assert same(undisturbed.module.state_dict(), resumed.module.state_dict())
    assert resumed_facts == facts


class WorseAndWorseLearner(PlaneLearner):
    """Its first validation stays the best."""

    def validate(self, device):
        return {"score": -super().validate(device)["score"]}


@pytest.mark.parametrize("cut", [1, 4, 6])
def test_a_resumed_run_remembers_the_best_validation_before_the_cut(tmp_path, accelerator, cut):
    plan = replace(PLAN, learning_rate=0.2)
    undisturbed, facts = run(tmp_path / "whole", accelerator, WorseAndWorseLearner(), plan)
    with pytest.raises(CutOffError):
        run(tmp_path / "cut", accelerator, WorseAndWorseLearner(cut_at=cut * plan.batch), plan)
    resumed, resumed_facts = run(tmp_path / "cut", accelerator, WorseAndWorseLearner(), plan)
    assert facts["best_step"] == 2
    assert resumed_facts == facts
    assert same(undisturbed.module.state_dict(), resumed.module.state_dict())


def test_a_finished_training_reads_nothing_again_and_gives_the_same_weights(tmp_path, accelerator):
    first, _ = run(tmp_path, accelerator)
    again, _ = run(tmp_path, accelerator)
    assert again.dataset.read == []
    assert same(first.module.state_dict(), again.module.state_dict())


def test_a_checkpoint_of_another_digest_is_not_resumed(tmp_path, accelerator):
    run(tmp_path, accelerator, plan=replace(PLAN, seed=99), digest="another")
    said = []
    learner, facts = run(tmp_path, accelerator, log=said.append)
    fresh, fresh_facts = run(tmp_path.parent / "fresh", accelerator)
    assert said == []
    assert learner.dataset.read[0] == 0
    assert same(learner.module.state_dict(), fresh.module.state_dict())
    assert facts == fresh_facts


def test_loader_processes_change_nothing(tmp_path, accelerator):
    alone, _ = run(tmp_path / "0", accelerator)
    helped, _ = run(tmp_path / "1", accelerator, plan=replace(PLAN, workers=1))
    assert same(alone.module.state_dict(), helped.module.state_dict())


def test_accumulated_small_batches_are_one_large_batch(tmp_path, accelerator):
    losses = {}
    for name, batch, parts in (("one", 6, 1), ("parts", 2, 3)):
        plan = replace(PLAN, batch=batch, accumulation=parts)
        learner, _ = run(tmp_path / name, accelerator, PlaneLearner(dropout=0.0), plan)
        losses[name] = [weights["layers.0.weight"] for weights in learner.validated]
    for one, parts in zip(losses["one"], losses["parts"], strict=True):
        torch.testing.assert_close(one, parts, rtol=1e-9, atol=1e-12)


def test_clipping_bounds_the_gradient_of_all_parts_together(tmp_path, accelerator, monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def watched(self, *arguments, **keywords):
        gradients = [p.grad.norm() for group in self.param_groups for p in group["params"]]
        norms.append(float(torch.stack(gradients).norm()))
        return step(self, *arguments, **keywords)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    run(tmp_path, accelerator, plan=replace(PLAN, clip_norm=0.01, accumulation=2))
    assert norms == pytest.approx([0.01] * PLAN.steps, rel=1e-3)


def test_the_learning_rate_rises_linearly_and_falls_by_half_a_cosine():
    plan = replace(PLAN, steps=12, warmup_steps=4, learning_rate=0.8)
    assert [plan.rate_at(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert plan.rate_at(6) == pytest.approx(0.4 * (1 + math.sqrt(0.5)))
    assert plan.rate_at(8) == pytest.approx(0.4)
    assert plan.rate_at(12) == pytest.approx(0.0, abs=1e-12)
    assert replace(plan, warmup_steps=0).rate_at(0) == pytest.approx(0.8)
    assert replace(plan, warmup_steps=100).rate_at(11) == pytest.approx(0.8 * 0.12)


def test_the_average_of_a_scalar_has_the_known_values():
    module = torch.nn.Module()
    module.w = torch.nn.Parameter(torch.tensor(0.0))
    average = AveragedWeights(module, decay=0.5)
    seen = []
    for step, value in enumerate((10.0, 20.0, 30.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 8.0)):
        module.w.data.fill_(value)
        average.update(module, step)
        seen.append(float(average.tensors["w"]))
    # decays 1/10, 2/11, 3/12 while young
    assert seen[0] == pytest.approx(9.0)
    assert seen[1] == pytest.approx(9 * 2 / 11 + 20 * 9 / 11)
    assert seen[2] == pytest.approx(seen[1] / 4 + 30 * 3 / 4)
    assert seen[9] == pytest.approx(seen[8] * 0.5 + 8.0 * 0.5)  # 10/19 is above the asked 0.5
    with average.in_place_of(module):
        assert module.w.item() == pytest.approx(seen[9])
    assert module.w.item() == 8.0


def test_weights_come_back_also_when_validation_breaks():
    module = torch.nn.Linear(1, 1)
    average = AveragedWeights(module, decay=0.9)
    module.weight.data.fill_(3.0)
    with pytest.raises(CutOffError), average.in_place_of(module):
        raise CutOffError
    assert float(module.weight.detach()) == 3.0


def test_without_averaging_the_weights_themselves_are_kept():
    module = torch.nn.Linear(1, 1)
    average = AveragedWeights(module, decay=0.0)
    module.weight.data.fill_(3.0)
    average.update(module, 0)
    average.copy_to(module)
    assert average.tensors == {}
    assert float(module.weight.detach()) == 3.0


def test_the_module_ends_with_the_weights_of_the_best_validation(tmp_path, accelerator):
    scores = [{"score": 0.2}, {"score": 0.9}, {"score": 0.9}, {"score": 0.1}]  # after steps 2, 4, 6 and 7
    learner, facts = run(tmp_path, accelerator, PlaneLearner(scores=scores))
    assert facts == {"steps": 7, "best_step": 4, "best_score": 0.9}
    assert same(learner.module.state_dict(), learner.validated[1])
    assert not learner.module.training


def test_without_a_score_the_module_ends_with_the_averaged_weights(tmp_path, accelerator):
    learner, facts = run(tmp_path, accelerator, PlaneLearner(scores=[{"loss": 1.0}] * 4))
    assert facts["best_step"] == PLAN.steps
    assert same(learner.module.state_dict(), learner.validated[-1])
    last = {name[7:]: value for name, value in checkpoint(tmp_path)[0].items() if name.startswith("module.")}
    assert not same(learner.module.state_dict(), last)


def test_a_score_that_is_no_number_is_never_the_best(tmp_path, accelerator):
    scores = [{"score": math.nan}, {"score": 0.3}, {"score": math.nan}, {"score": math.nan}]
    _, facts = run(tmp_path, accelerator, PlaneLearner(scores=scores))
    assert facts["best_step"] == 4


def test_training_leaves_alone_what_needs_no_gradient(tmp_path, accelerator):
    learner = PlaneLearner()
    learner.module.layers[0].requires_grad_(False)
    before = learner.module.layers[0].weight.clone()
    free = learner.module.layers[3].weight.clone()
    run(tmp_path, accelerator, learner)
    assert torch.equal(learner.module.layers[0].weight, before)
    assert not torch.equal(learner.module.layers[3].weight, free)


def test_no_pickle_is_written_or_read(tmp_path, accelerator, monkeypatch):
    def refused(*arguments, **keywords):
        raise AssertionError("pickle was used")

    for name in ("load", "save"):
        monkeypatch.setattr(torch, name, refused)
    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, refused)
    with pytest.raises(CutOffError):
        run(tmp_path, accelerator, PlaneLearner(cut_at=10))
    run(tmp_path, accelerator)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
    assert files[:2] == ["checkpoint/best.safetensors", "checkpoint/state.safetensors"]
    assert all(name.startswith("tensorboard/events.out.tfevents") for name in files[2:])


def test_tensors_and_facts_survive_their_file(tmp_path):
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3).T,  # not contiguous
        "b": torch.tensor(2**40),
        "c": torch.tensor([1.5], dtype=torch.bfloat16),
        "d": torch.zeros(0, 3),
    }
    facts = {"step": 3, "best_score": -math.inf, "name": "ä", "nested": {"list": [1, None]}}
    save_tensors(tmp_path / "deep" / "x.safetensors", tensors, facts)
    back, back_facts = load_tensors(tmp_path / "deep" / "x.safetensors")
    assert same(tensors, back)
    assert back_facts == facts
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["x.safetensors"]


def test_shared_weights_are_saved_too(tmp_path):
    shared = torch.ones(2)
    save_tensors(tmp_path / "x.safetensors", {"a": shared, "b": shared}, {})
    assert same(load_tensors(tmp_path / "x.safetensors")[0], {"a": shared, "b": shared})


def test_a_batch_that_processes_cannot_share_is_refused_in_one_line(tmp_path):
    two = SimpleNamespace(num_processes=2)
    with pytest.raises(ConfigError, match=r"batch=3 can't be shared by 2 processes") as refusal:
        fit(PlaneLearner(), replace(PLAN, batch=3), tmp_path, "d", two, "toy", builtins.print)
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("processes", "batch"), [(2, 4), (3, 6)])
def test_processes_share_every_batch_without_overlap(tmp_path, accelerator, monkeypatch, processes, batch):
    from diffboost3d.training import loop

    plan = replace(PLAN, batch=batch, accumulation=2)
    shares = []
    for rank in range(processes):
        one = loop._Run(PlaneLearner(), plan, tmp_path, "d", accelerator)
        one.accelerator = SimpleNamespace(
            process_index=rank, num_processes=processes, device=torch.device("cpu"), is_main_process=False
        )
        shares.append(list(one._loader(1).batch_sampler))
    together = [sorted(number for part in parts for number in part) for parts in zip(*shares, strict=True)]
    first = plan.accumulation * batch
    assert together == [
        list(range(first + at, first + at + batch))
        for at in range(0, (plan.steps - 1) * plan.accumulation * batch, batch)
    ]


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder / "tensorboard"))
    accumulator.Reload()
    return accumulator


def test_tensorboard_has_losses_rates_validation_and_pictures(tmp_path, accelerator):
    plan = replace(PLAN, steps=22, validate_every=5, images_every=10)
    learner, _ = run(tmp_path, accelerator, plan=plan)
    seen = events(tmp_path)
    assert {"train/loss", "train/learning_rate", "validation/score"} <= set(seen.Tags()["scalars"])
    assert [event.step for event in seen.Scalars("train/loss")] == [10, 20, 22]
    rates = [event.value for event in seen.Scalars("train/learning_rate")]
    assert rates == pytest.approx([plan.rate_at(step) for step in (9, 19, 21)])
    assert [event.step for event in seen.Scalars("validation/score")] == [5, 10, 15, 20, 22]
    assert [event.step for event in seen.Images("grey")] == [10, 20, 22]
    assert len(learner.validated) == 5


def test_tensorboard_of_a_resumed_run_shows_every_step_once(tmp_path, accelerator):
    plan = replace(PLAN, steps=30, validate_every=5, checkpoint_every=8)
    with pytest.raises(CutOffError):
        run(tmp_path, accelerator, PlaneLearner(cut_at=23 * plan.batch), plan)
    time.sleep(1.1)  # TensorBoard orders the files of one second by a counter, in which 10 comes before 9
    run(tmp_path, accelerator, plan=plan)
    seen = events(tmp_path)
    assert [event.step for event in seen.Scalars("train/loss")] == [10, 20, 30]
    assert [event.step for event in seen.Scalars("validation/score")] == [5, 10, 15, 20, 25, 30]


def test_zero_steps_leave_the_weights_as_they_are(tmp_path, accelerator):
    learner, _ = run(tmp_path, accelerator, plan=replace(PLAN, steps=0))
    assert same(learner.module.state_dict(), Plane().state_dict())
    assert learner.dataset.read == []


def test_a_device_that_is_not_there_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"runtime\.device=cuda is not on this machine; there is: cpu"):
        make_accelerator("cuda", "no")


# --- SGD, poly, waiting ----------------------------------------------------------------------------------------------
def test_a_power_of_the_share_left_follows_the_warm_up():
    plan = replace(PLAN, steps=12, warmup_steps=2, learning_rate=0.8, schedule="poly", poly_power=0.5)
    assert [plan.rate_at(step) for step in (0, 1, 2)] == pytest.approx([0.4, 0.8, 0.8])
    assert plan.rate_at(7) == pytest.approx(0.8 * math.sqrt(0.5))
    assert plan.rate_at(12) == 0.0


def test_sgd_takes_nesterov_steps_of_known_size():
    weight = torch.nn.Parameter(torch.tensor(1.0))
    plan = replace(PLAN, optimizer="sgd", learning_rate=0.1, momentum=0.5, weight_decay=0.0)
    optimizer = make_optimizer(plan, [weight])
    for _ in range(2):
        weight.grad = torch.tensor(2.0)
        optimizer.step()
    # the first step: gradient 2, velocity 2, 2 + 0.5 * 2; the second: velocity 3, 2 + 0.5 * 3
    assert float(weight.detach()) == pytest.approx(1 - 0.1 * 3 - 0.1 * 3.5)


@pytest.mark.parametrize("cut", [1, 4, 6])
def test_a_run_by_sgd_cut_off_and_resumed_ends_bit_identical(tmp_path, accelerator, cut):
    plan = replace(PLAN, optimizer="sgd", schedule="poly", ema_decay=0.0)
    undisturbed, facts = run(tmp_path / "whole", accelerator, plan=plan)
    with pytest.raises(CutOffError):
        run(tmp_path / "cut", accelerator, PlaneLearner(cut_at=cut * plan.batch), plan)
    resumed, resumed_facts = run(tmp_path / "cut", accelerator, plan=plan)
    assert same(undisturbed.module.state_dict(), resumed.module.state_dict())
    assert resumed_facts == facts
    assert same(checkpoint(tmp_path / "whole")[0], checkpoint(tmp_path / "cut")[0])


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_last_weights_are_those_that_the_last_validation_saw(tmp_path, accelerator, decay):
    scores = [{"score": 0.9}, {"score": 0.2}, {"score": 0.2}, {"score": 0.1}]
    learner, _ = run(tmp_path, accelerator, PlaneLearner(scores=scores), replace(PLAN, ema_decay=decay))
    assert same(last_weights(tmp_path), learner.validated[-1])
    assert not same(learner.module.state_dict(), last_weights(tmp_path))


def test_the_share_of_waiting_is_that_of_the_clock(monkeypatch):
    now = iter([0.0, 1.0, 4.0, 10.0, 10.0, 10.0, 10.0, 20.0])
    monkeypatch.setattr(scalars.time, "perf_counter", lambda: next(now))
    waiting = scalars.Waiting()
    assert waiting.share is None
    for _ in range(2):  # of 10 seconds each; 3 and 0 of them waiting
        with waiting.step(), waiting.data():
            pass
    assert waiting.share == pytest.approx(3 / 20)


def test_the_record_says_how_much_was_waited(tmp_path, accelerator):
    facts = fit(PlaneLearner(), PLAN, tmp_path, "d", accelerator, "toy", print)
    assert 0 < facts["data_wait_share"] < 1
    again = fit(PlaneLearner(), PLAN, tmp_path, "d", accelerator, "toy", print)
    assert again["data_wait_share"] is None  # it was finished


def test_settings_are_in_tensorboard(tmp_path, accelerator):
    fit(PlaneLearner(), PLAN, tmp_path, "d", accelerator, "toy", print, {"network": "plane", "patch": [1, 2]})
    content = events(tmp_path).SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    for word in (b"learning_rate", b"adamw", b"plane", b"[1, 2]"):
        assert word in content
