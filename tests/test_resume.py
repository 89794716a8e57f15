"""`kill -9` in the middle of every stage: the same command goes on, and ends byte for byte where an undisturbed one does."""

from __future__ import annotations

import os

import pytest
from killing import exit_codes
from tiny_folders import GATE, TINY, write_volumes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes, which this system doesn't have"),
]

MORE = (
    *GATE,
    "diffusion.pretrain.checkpoint_every=1",
    "diffusion.finetune.checkpoint_every=1",
    "train.checkpoint_every=1",
    "train.ema_decay=0.9",
    "synthesize.samples=2",
    "synthesize.sampler=ddim",
    "synthesize.step_power=1",
    "synthesize.steps=10",  # even steps: a tenth of the noise range is one of ten
    "synthesize.eta=0.5",
    "gate.range_margin=3",  # so that some are accepted and some refused
    "prepare.workers=1",
    "synthesize.refine=0.1",
    "synthesize.refine_steps=2",
    "refiner.channels=[4,8]",
    "refiner.patch=8",
    "refiner.training.steps=4",
    "refiner.training.batch=2",
    "refiner.training.checkpoint_every=1",
)
# what the process is about to put in its place as it dies, and the how-manieth of these
KILLS = [
    (r"prepared/[^/]+/record\.json$", 3),
    (r"prepared/[^/]+/edge\.nii\.gz$", 2),
    (r"pretrained/fold0/checkpoint/state\.safetensors$", 3),
    (r"pretrained/fold0/model$", 1),
    (r"refiner/fold0/checkpoint/state\.safetensors$", 2),
    (r"refiner/fold0/refiner\.safetensors$", 1),
    (r"diffusion/fold0/checkpoint/state\.safetensors$", 2),
    (r"gate/fold0/part1/checkpoint/state\.safetensors$", 2),
    (r"gate/fold0/references/[^/]+\.json$", 1),
    (r"gate/fold0/limits\.json$", 1),
    (r"synthetic/fold0/[^/]+/\d+\.nii\.gz$", 2),
    (r"synthetic/fold0/[^/]+/\d+\.json$", 3),
    (r"synthetic/fold0/[^/]+/rejected/\d+-\d+\.json$", 2),
    (r"segmentation/fold0/diffboost/seed0/checkpoint/best\.safetensors$", 1),
    (r"segmentation/fold0/diffboost/seed0/checkpoint/state\.safetensors$", 2),
    (r"predictions/[^/]+\.json$", 2),
]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """An undisturbed workspace, one that was killed all along, and what the processes printed."""
    folder = tmp_path_factory.mktemp("resume")
    write_volumes(folder / "data")

    def words(name):
        return ["run", f"data.root={folder / 'data'}", f"workspace={folder / name}", *TINY, *MORE]

    steps = [{"arguments": words("killed"), "kill": pattern, "count": count} for pattern, count in KILLS]
    steps += [{"arguments": words(name), "kill": None, "count": 0} for name in ("killed", "whole")]
    assert exit_codes(steps) == [-9] * len(KILLS) + [0, 0]
    return folder / "whole", folder / "killed"


def contents(folder, pattern):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob(pattern) if path.is_file()}


@pytest.mark.parametrize(
    ("pattern", "least"),
    [
        ("prepared/**/*", 36),
        ("diffusion/**/*.safetensors", 8),
        ("gate/**/*.safetensors", 4),
        ("gate/fold0/limits.json", 1),
        ("gate/fold0/references/*.json", 1),
        ("synthetic/fold0/*/rejected/*", 4),
        ("synthetic/**/*.nii.gz", 10),
        ("synthetic/fold0/*/*.json", 10),
        ("segmentation/**/*.safetensors", 6),
        ("predictions/*.nii.gz", 6),
        ("splits.json", 1),
        ("manifest.json", 1),
        ("scores.csv", 1),
        ("summary.json", 1),
    ],
)
def test_what_is_left_is_byte_for_byte_that_of_an_undisturbed_run(both, pattern, least):
    whole, killed = (contents(folder, pattern) for folder in both)
    assert len(whole) >= least
    assert whole.keys() == killed.keys()
    assert [name for name in whole if whole[name] != killed[name]] == []


def test_the_killed_runs_went_on_where_they_were(both):
    said = (both[1] / "log.txt").read_text(encoding="utf-8")
    assert "pretrain fold 0, 5 images: goes on from step 2 of 4" in said
    assert "train-refiner fold 0, 5 images: goes on from step 1 of 4" in said
    assert "finetune fold 0, 5 labelled cases: goes on from step 1 of 4" in said
    assert "train fold 0, diffboost, seed 0: goes on from step 1 of 4" in said
    assert "pretrain fold 0: done already" in said
    assert "made anew" not in said
    assert "goes on" not in (both[0] / "log.txt").read_text(encoding="utf-8")


def test_the_killed_runs_leave_nothing_half_written(both):
    for folder in both:
        assert not [path for path in folder.rglob("*") if ".partial" in path.name]
    shown = [
        {path.relative_to(folder).as_posix() for path in folder.rglob("*") if "events." not in path.name}
        for folder in both
    ]
    assert shown[0] == shown[1]


def curves(folder):
    """{(training, scalar): {step: value}} of every TensorBoard folder; of a step that was gone through twice, the last value."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for tensorboard in sorted(folder.rglob("tensorboard")):
        events = EventAccumulator(str(tensorboard)).Reload()
        for name in events.Tags()["scalars"]:
            if name.startswith("time/"):
                continue  # the clock on the wall is of a run, not of a training
            values = {event.step: event.value for event in events.Scalars(name)}
            found[tensorboard.parent.relative_to(folder).as_posix(), name] = values
    return found


def test_the_killed_trainings_go_on_along_the_same_loss_curve(both):
    whole, killed = curves(both[0]), curves(both[1])
    assert ("diffusion/pretrained/fold0", "train/loss") in whole
    assert ("diffusion/fold0", "validation/loss") in whole
    assert ("segmentation/fold0/diffboost/seed0", "train/loss") in whole
    assert whole.keys() == killed.keys()
    for curve, values in whole.items():
        assert killed[curve] == pytest.approx(values, rel=0, abs=1e-6), curve
