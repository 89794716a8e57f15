"""Losses of MONAI by name, the weights of deep supervision, and voxels that nobody labelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from diffboost3d.cases.records import IGNORED
from diffboost3d.errors import ConfigError

LOSSES = {
    "dice_ce": "DiceCELoss",
    "dice": "DiceLoss",
    "dice_focal": "DiceFocalLoss",
    "focal": "FocalLoss",
    "generalized_dice": "GeneralizedDiceLoss",
    "generalized_dice_focal": "GeneralizedDiceFocalLoss",
    "tversky": "TverskyLoss",
    "hausdorff_dt": "HausdorffDTLoss",
    "log_hausdorff_dt": "LogHausdorffDTLoss",
}
SPATIAL = ("hausdorff_dt", "log_hausdorff_dt")  # of distances on the grid, so no voxel can be left out


def make_loss(name: str, include_background: bool, arguments: Mapping[str, Any], ignores: bool = False) -> Any:
    """A loss of MONAI of logits (B, classes, ...) against a label (B, 1, ...), by its name in `LOSSES`.

    Args:
        arguments: more of the constructor's, by MONAI's names.
        ignores: whether labels have voxels to ignore.

    Raises:
        ConfigError: arguments that the constructor refuses, or a loss that can't ignore voxels.
    """
    import monai.losses

    if ignores and name in SPATIAL:
        raise ConfigError(
            f"train.loss={name} is refused with data.ignore_label; it measures distances on the whole grid"
        )
    softmax = {"use_softmax" if name == "focal" else "softmax": True}
    try:
        loss: Any = getattr(monai.losses, LOSSES[name])(
            **{"include_background": include_background, "to_onehot_y": True, **softmax, **arguments}
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"train.loss_arguments don't fit loss {name!r}: {error}") from error
    return loss


def supervision_weights(heads: int) -> list[float]:
    """Weights 1, 1/2, 1/4, ... of the outputs from fine to coarse, brought to a sum of 1 (as nnU-Net's)."""
    raw = [0.5**level for level in range(heads)]
    return [weight / sum(raw) for weight in raw]


class SupervisedLoss(torch.nn.Module):
    """The weighted sum of a loss over the outputs of deep supervision, without the ignored voxels.

    Where a batch has ignored voxels, the loss is of each sample's other voxels, and averaged over the samples that have any.

    Args:
        loss: of logits (B, classes, ...) against a label (B, 1, ...). ignores: whether labels may hold `IGNORED`.
    """

    def __init__(self, loss: Any, ignores: bool = False) -> None:
        super().__init__()
        self.loss, self.ignores = loss, ignores

    def forward(self, heads: Sequence[torch.Tensor], label: torch.Tensor) -> torch.Tensor:
        """Loss of outputs (B, classes, I, J, K), the finest first."""
        one = self._seen if self.ignores and bool((label == IGNORED).any()) else self.loss
        weights = supervision_weights(len(heads))
        total: torch.Tensor = sum(  # type: ignore[assignment]
            weight * one(logits.float(), label) for weight, logits in zip(weights, heads, strict=True)
        )
        return total

    def _seen(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        losses = [
            self.loss(one[:, known][None], target[:, known][None])
            for one, target in zip(logits.flatten(2), label.flatten(2), strict=True)
            if bool((known := target[0] != IGNORED).any())
        ]
        return torch.stack(losses).mean() if losses else logits.sum() * 0.0
