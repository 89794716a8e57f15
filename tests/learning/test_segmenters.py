"""Segmenters: sizes fit in 3D and 2D, probabilities and labels lie where they belong, and a toy is learned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffboost3d.cases.records import Case
from diffboost3d.imaging.geometry import Grid, resample
from diffboost3d.imaging.intensity import IntensityMap
from diffboost3d.schema import TrainConfig
from diffboost3d.segmentation.batches import MergePlan, PatchDataset, TrainingCase
from diffboost3d.segmentation.inference import label_in_source, probabilities
from diffboost3d.segmentation.learning import SegmentationLearner, SegmentationObjective, overlay, side_by_side
from diffboost3d.segmentation.networks import NetworkSpec, build_network
from diffboost3d.stages.inputs import training_plan
from diffboost3d.training import fit

CPU = torch.device("cpu")
UNET = {"channels": [4, 8], "strides": [2], "num_res_units": 1, "norm": "INSTANCE"}
NONE = MergePlan("none", 0.6, (4,), None, 0.0, "image")


# --- inference -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("shape", "patch", "dims"),
    [((6, 5, 3), (8, 8, 4), 3), ((19, 9, 5), (8, 8, 4), 3), ((8, 8, 4), (8, 8, 4), 3), ((21, 6, 1), (8, 8, 1), 2)],
)
def test_probabilities_sum_to_one_on_the_voxels_of_the_volume(shape, patch, dims):
    network = build_network(NetworkSpec("unet", dims, 3, patch, UNET))
    image = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    classes = probabilities(network, image, patch, 0.5, CPU)
    assert classes.shape == (3, *shape)
    assert classes.dtype == np.float32
    assert classes.min() >= 0
    np.testing.assert_allclose(classes.sum(axis=0), 1.0, atol=1e-5)
    assert not network.training
    assert np.array_equal(classes, probabilities(network, image, patch, 0.5, CPU))


class Reader(torch.nn.Module):
    """Reads the class off the image: 0 below -0.5, 1 up to 0.5, 2 above."""

    def forward(self, images):
        centres = torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 3, 1, 1, 1)
        return -50 * (images - centres).square()


@pytest.mark.parametrize("shape", [(6, 5, 3), (19, 9, 5), (30, 30, 9)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
def test_windows_are_put_back_where_they_were(shape, overlap):
    label = np.random.default_rng(0).integers(0, 3, shape)
    classes = probabilities(Reader(), (label - 1).astype(np.float32), (8, 8, 4), overlap, CPU)
    assert np.array_equal(classes.argmax(axis=0), label)


def test_around_small_volumes_the_network_sees_air():
    class Spy(Reader):
        def forward(self, images):
            self.seen = images
            return super().forward(images)

    spy = Spy()
    probabilities(spy, np.full((4, 5, 2), 0.5, np.float32), (8, 8, 4), 0.5, CPU)
    assert spy.seen.shape[2:] == (8, 8, 4)
    assert (spy.seen == 0.5).sum() == 40
    assert (spy.seen == -1.0).sum() == 256 - 40


def turned_case(spacing=None):
    """A file that counts its voxels along S, L and P, thick slices first."""
    affine = np.array([[0, -1.0, 0, 20], [0, 0, -0.8, 30], [3.0, 0, 0, -40], [0, 0, 0, 1]])
    source = Grid.of((5, 20, 18), affine)
    grid = source.canonical() if spacing is None else source.canonical().with_spacing(spacing)
    return Case("c", "c", "c.nii.gz", None, source, grid, IntensityMap("percentiles", 0.0, 1.0), "d")


def test_labels_go_back_to_their_voxels_and_values():
    case = turned_case()
    truth = np.random.default_rng(0).integers(0, 3, (5, 20, 18))
    prepared = resample(truth.astype(np.uint8), case.source_grid, case.grid, "nearest")
    classes = np.stack([prepared == index for index in range(3)]).astype(np.float32)
    label = label_in_source(classes, case, [0, 2, 5])
    assert label.dtype == np.int64
    assert np.array_equal(label, np.array([0, 2, 5])[truth])


def test_labels_on_another_spacing_keep_place_and_volume():
    case = turned_case(spacing=(1.3, 1.1, 2.0))
    truth = np.zeros((5, 20, 18), np.uint8)
    truth[1:4, 3:12, 6:16] = 1
    prepared = np.stack(
        [resample((truth == index).astype(np.float32), case.source_grid, case.grid) for index in range(2)]
    )
    label = label_in_source(prepared, case, [0, 7])
    assert label.shape == truth.shape
    assert set(np.unique(label)) == {0, 7}
    overlap = 2 * ((label == 7) & (truth == 1)).sum() / ((label == 7).sum() + truth.sum())
    assert overlap > 0.9


# --- learning --------------------------------------------------------------------------------------------------------
def toy_cases(count, shape=(16, 18, 8)):
    """A bright ball in noise."""
    made = []
    for number in range(count):
        random = np.random.default_rng(number)
        centre = random.uniform(-0.3, 0.3, 3)
        places = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij")
        inside = np.sqrt(sum((p - c) ** 2 for p, c in zip(places, centre, strict=True))) < 0.55
        image = np.clip(inside - 0.5 + random.normal(0, 0.15, shape), -1, 1).astype(np.float32)
        made.append(TrainingCase(image, inside.astype(np.uint8)))
    return made


def toy_learner(training=4, merge=NONE, network=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = network or build_network(NetworkSpec("unet", 3, 2, (16, 16, 8), UNET))
    items = PatchDataset(toy_cases(training), (16, 16, 8), (1.0, 1.0, 2.5), merge, None, 0.5, 0)
    return SegmentationLearner(network, items, toy_cases(7)[5:], ["ball"], 0.25, False)


def test_a_toy_is_learned_in_a_few_steps(tmp_path, accelerator):
    learner = toy_learner()
    batch = torch.utils.data.default_collate([learner.dataset[number] for number in range(900, 908)])
    with torch.no_grad():
        before = float(learner.module(batch)["loss"])
    section = TrainConfig(steps=40, batch=2, learning_rate=0.02, warmup_steps=2, validate_every=20)
    facts = fit(
        learner, replace(training_plan(section, 0, 0), images_every=40), tmp_path, "d", accelerator, "toy", print
    )
    with torch.no_grad():
        assert float(learner.module(batch)["loss"]) < 0.5 * before
    assert facts["best_score"] > 0.8


def test_validation_is_the_mean_dice_with_known_answers():
    class Answers(torch.nn.Module):
        def forward(self, images):
            return torch.cat([-images, images], dim=1) * 100

    learner = toy_learner(network=Answers())
    truth = np.zeros((8, 8, 4), np.uint8)
    truth[2:6, 2:6, 1:3] = 1
    half = truth.copy()
    half[2:4] = 0
    seen = [(truth, truth), (half, truth), (np.zeros_like(truth), truth), (np.zeros_like(truth), np.zeros_like(truth))]
    learner._validation = [TrainingCase((found * 2.0 - 1).astype(np.float32), label) for found, label in seen]
    scalars = learner.validate(CPU)
    assert scalars["score"] == scalars["dice_ball"] == pytest.approx((1 + 2 / 3 + 0 + 1) / 4)


def objective(include_background=False):
    torch.manual_seed(0)
    return SegmentationObjective(build_network(NetworkSpec("unet", 3, 2, (16, 16, 8), UNET)), include_background).eval()


def merged_batch(share):
    learner = toy_learner(merge=MergePlan("real", share, (4,), None, 0.0, "prediction"))
    return torch.utils.data.default_collate([learner.dataset[number] for number in range(2)])


@pytest.mark.parametrize(("share", "names"), [(1.0, ("image", "label")), (0.0, ("other", "other_label"))])
def test_merging_at_the_prediction_ends_at_either_side(share, names):
    one, batch = objective(), merged_batch(share)
    side = {"image": batch[names[0]], "label": batch[names[1]]}
    with torch.no_grad():
        torch.testing.assert_close(one(batch)["loss"], one(side)["loss"])


def test_merging_at_the_prediction_mixes_logits_and_labels_by_the_mask():
    one, batch = objective(), merged_batch(0.5)
    mask = batch["mask"].bool()
    assert mask.any()
    assert not mask.all()
    with torch.no_grad():
        logits = torch.where(mask, one.network(batch["image"]), one.network(batch["other"]))
        label = torch.where(mask, batch["label"], batch["other_label"])
        torch.testing.assert_close(one(batch)["loss"], one.loss([logits], label))


def test_merging_at_the_prediction_scores_every_voxel_of_a_kept_label_on_the_real_side():
    """With alpha 0 and the foreground kept: the real pass decides inside the real label, the other pass elsewhere."""
    plan = MergePlan("real", (0.0, 0.0), (4,), None, 0.0, "prediction", mask_foreground=True)
    learner, one = toy_learner(merge=plan), objective()
    batch = torch.utils.data.default_collate([learner.dataset[number] for number in range(2)])
    inside = batch["label"] > 0
    assert inside.any()
    assert (batch["label"] != batch["other_label"]).any()
    with torch.no_grad():
        logits = torch.where(inside, one.network(batch["image"]), one.network(batch["other"]))
        label = torch.where(inside, batch["label"], batch["other_label"])
        torch.testing.assert_close(one(batch)["loss"], one.loss([logits], label))


@pytest.mark.parametrize("include_background", [True, False])
def test_the_loss_is_dice_plus_cross_entropy(include_background):
    class Constant(torch.nn.Module):
        def forward(self, images):
            return torch.zeros(images.shape[0], 2, *images.shape[2:])  # each class 1/2 everywhere

    label = torch.zeros(1, 1, 4, 4, 4, dtype=torch.long)
    label[..., :2] = 1
    loss = SegmentationObjective(Constant(), include_background)({"image": torch.zeros(1, 1, 4, 4, 4), "label": label})[
        "loss"
    ]
    # dice of a class: 2 * 16 / (32 + 32); cross entropy: ln 2
    assert float(loss) == pytest.approx(0.5 + np.log(2), abs=1e-4)


def test_pictures_show_patches_and_predictions():
    shown = toy_learner().images(CPU)
    assert set(shown) == {"training_patches", "validation_predictions"}
    for picture in shown.values():
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3


def test_an_overlay_colours_borders_of_labels_only():
    image, label = np.zeros((6, 8, 3), np.float32), np.zeros((6, 8, 3), np.int64)
    label[2:5, 2:6, 1] = 1
    picture = overlay(image, label)
    assert picture.shape == (8, 6, 3)
    grey = (picture == picture[..., :1]).all(axis=2)
    assert not grey.all()
    assert (~grey).sum() < label.sum() + 1
    assert np.unique(picture[grey]).tolist() == [127]


def test_pictures_of_other_heights_stand_side_by_side():
    row = side_by_side([np.full((4, 3, 3), 9, np.uint8), np.full((6, 2, 3), 9, np.uint8)])
    assert row.shape == (6, 9, 3)
