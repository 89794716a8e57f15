"""Training the segmenter: objective, validation by sliding window, and pictures with contours, for `training.fit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffboost3d.cases.records import IGNORED
from diffboost3d.imaging.channels import first_channel
from diffboost3d.segmentation.batches import PatchDataset, TrainingCase
from diffboost3d.segmentation.inference import probabilities
from diffboost3d.segmentation.losses import SupervisedLoss, make_loss

COLOURS = np.array([[230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [204, 121, 167]], dtype=np.uint8)


class SegmentationObjective(torch.nn.Module):
    """Batch -> {"loss"}: by default Dice + cross entropy of softmax probabilities (MONAI's DiceCELoss).

    Outputs of deep supervision weigh 1, 1/2, 1/4, ... from fine to coarse. A batch with `other`, `other_label` and `mask` is
    merged at the prediction: logits of two passes and both labels are mixed by the mask, as the released code of the paper does.

    Args:
        loss: of logits against labels; see `losses.make_loss`. None: the default.
        ignores: whether labels hold voxels to ignore (`IGNORED`).
    """

    def __init__(
        self, network: torch.nn.Module, include_background: bool, loss: Any = None, ignores: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = SupervisedLoss(loss or make_loss("dice_ce", include_background, {}), ignores)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Loss of image (B, C, I, J, K) against label (B, 1, I, J, K)."""
        heads, label = self._heads(batch["image"]), batch["label"]
        if "mask" in batch:
            mask = batch["mask"].bool()
            others = self._heads(batch["other"])
            heads = [torch.where(mask, one, other) for one, other in zip(heads, others, strict=True)]
            label = torch.where(mask, label, batch["other_label"])
        return {"loss": self.loss(heads, label)}

    def _heads(self, images: torch.Tensor) -> list[torch.Tensor]:
        """All outputs of a `VolumeNetwork`; the only one of another."""
        heads = getattr(self.network, "heads", None)
        return [self.network(images)] if heads is None else heads(images)


class SegmentationLearner:
    """Trains a segmentation network on patches; see `training.Learner`.

    Args:
        validation: whole prepared cases; their mean Dice is the score that chooses the checkpoint. None given: the averaged
            weights of the last step are kept.
        labels: names of the foreground labels, for the scalars.
        loss, ignores: see `SegmentationObjective`.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        dataset: PatchDataset,
        validation: Sequence[TrainingCase],
        labels: Sequence[str],
        overlap: float,
        include_background: bool,
        loss: Any = None,
        ignores: bool = False,
    ) -> None:
        self.module: torch.nn.Module = SegmentationObjective(network, include_background, loss, ignores)
        self.network = network
        self.dataset = dataset
        self._validation, self._labels, self._overlap = validation, labels, overlap

    def validate(self, device: torch.device) -> dict[str, float]:
        """Dice of each label and their mean, over the validation cases; "score" is the mean. Empty without any."""
        if not self._validation:
            return {}
        table = np.array([self._dice(self._predict(case, device), case.label) for case in self._validation])
        means = np.nanmean(table, axis=0)
        named = {f"dice_{name}": float(value) for name, value in zip(self._labels, means, strict=True)}
        return {**named, "score": float(np.nanmean(table))}

    def _predict(self, case: TrainingCase, device: torch.device) -> NDArray[np.int64]:
        classes = probabilities(self.network, case.image, self.dataset.patch, self._overlap, device)
        return np.asarray(classes.argmax(axis=0))

    def _dice(self, prediction: NDArray[Any], truth: NDArray[Any]) -> list[float]:
        """Dice of each label over the voxels that are not ignored; 1 where it is in neither."""
        from monai.metrics import compute_dice
        from monai.networks.utils import one_hot

        known = truth != IGNORED
        shown = [
            torch.from_numpy(np.where(known, array, 0).astype(np.int64))[None, None] for array in (prediction, truth)
        ]
        both = [one_hot(array, len(self._labels) + 1) for array in shown]
        scores = compute_dice(*both, include_background=False, ignore_empty=False)
        return [float(value) for value in scores[0]]

    def images(self, device: torch.device) -> dict[str, NDArray[np.uint8]]:
        """Pictures: training patches with their labels, and validation cases, if any, with the predicted labels."""
        patches = [self.dataset[number] for number in range(4)]
        training = [overlay(patch["image"][0].numpy(), patch["label"][0].numpy()) for patch in patches]
        pictures = {"training_patches": side_by_side(training)}
        if predicted := [overlay(case.image, self._predict(case, device)) for case in self._validation[:4]]:
            pictures["validation_predictions"] = side_by_side(predicted)
        return pictures


def overlay(image: NDArray[Any], label: NDArray[Any]) -> NDArray[np.uint8]:
    """The slice with most label of a volume in [-1, 1], as a picture (J, I, 3) with coloured label borders.

    Of an image of several channels (C, I, J, K) the first one is shown.
    """
    k = int((label > 0).sum(axis=(0, 1)).argmax())
    grey = np.clip((first_channel(image)[:, :, k] + 1) * 127.5, 0, 255).astype(np.uint8)
    picture = np.repeat(grey[..., None], 3, axis=2)
    flat = label[:, :, k]
    border = np.zeros(flat.shape, bool)
    for axis in (0, 1):
        border |= flat != np.roll(flat, 1, axis)
    border &= flat > 0
    picture[border] = COLOURS[(flat[border] - 1) % len(COLOURS)]
    return np.ascontiguousarray(picture.transpose(1, 0, 2)[::-1])


def side_by_side(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Pictures in a row, the lower ones filled with black."""
    height = max(picture.shape[0] for picture in pictures)
    filled = [np.pad(picture, ((0, height - picture.shape[0]), (0, 2), (0, 0))) for picture in pictures]
    return np.concatenate(filled, axis=1)
