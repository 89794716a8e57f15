"""Loss weights by timestep: the published formula, of mean 1, with a floor so that pure noise is learned too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_networks import CONTROLS, LENGTH

from diffboost3d.diffusion.objective import DenoisingObjective
from diffboost3d.diffusion.schedule import make_scheduler, min_snr_weights
from diffboost3d.diffusion.text import ByteTokenizer

SCHEDULES = pytest.mark.parametrize(
    ("betas", "prediction", "zero_terminal_snr"),
    [
        ("squaredcos_cap_v2", "v_prediction", True),
        ("scaled_linear", "v_prediction", False),
        ("scaled_linear", "epsilon", False),
        ("linear", "epsilon", False),
    ],
)


@SCHEDULES
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_weights_are_the_published_ones_of_mean_one(betas, prediction, zero_terminal_snr, gamma):
    scheduler = make_scheduler(1000, betas, prediction, zero_terminal_snr)
    kept = scheduler.alphas_cumprod.numpy().astype(np.float64)
    ratio = kept / (1 - kept)
    share = np.minimum(ratio, gamma) / (ratio + 1 if prediction == "v_prediction" else ratio.clip(1e-30))
    weights = min_snr_weights(scheduler, gamma, floor=0.0).double().numpy()
    if zero_terminal_snr:
        assert weights[-1] == pytest.approx(0, abs=1e-9)  # nothing of the image is left there
    inner = slice(0, 990)
    np.testing.assert_allclose(weights[inner], share[inner] / weights.mean() * (weights[0] / share[0]), rtol=1e-4)
    assert weights.mean() == pytest.approx(1.0, rel=1e-5)


@SCHEDULES
def test_no_weight_is_below_the_floor(betas, prediction, zero_terminal_snr):
    scheduler = make_scheduler(1000, betas, prediction, zero_terminal_snr)
    weights = min_snr_weights(scheduler, 5.0, floor=0.05)
    assert weights.shape == (1000,)
    assert float(weights.mean()) == pytest.approx(1.0, rel=1e-5)
    assert float(weights.min()) >= 0.05 * float(weights.max()) * (1 - 1e-5)
    if zero_terminal_snr:
        assert float(weights[-1]) == pytest.approx(0.05 * float(weights.max()), rel=1e-4)


def test_noise_of_little_snr_weighs_one_and_of_much_less():
    """Of epsilon prediction: min(SNR, 5) / SNR is 1 up to an SNR of 5, then falls."""
    scheduler = make_scheduler(1000, "scaled_linear", "epsilon", False)
    weights = min_snr_weights(scheduler, 5.0)
    kept = scheduler.alphas_cumprod
    ratio = kept / (1 - kept)
    little, much = weights[ratio < 5], weights[ratio > 5]
    assert little.unique().numel() == 1
    assert (much.diff() >= 0).all()
    assert float(much[-1]) < float(little[0])


class Zeros(torch.nn.Module):
    """Predicts zeros."""

    def forward(self, noisy, timesteps, tokens, control, slices=1):
        return torch.zeros_like(noisy)


def test_the_loss_is_weighted_by_timestep_but_losses_are_not(codec, scheduler):
    timesteps = torch.tensor([5, 500, 990])
    batch = {
        "image": torch.rand((3, 1, 16, 16), generator=torch.Generator().manual_seed(0)),
        "noise": torch.randn((3, codec.channels, 8, 8), generator=torch.Generator().manual_seed(1)),
        "timestep": timesteps,
        "tokens": ByteTokenizer(LENGTH)("x").repeat(3, 1),
        "control": torch.zeros(3, CONTROLS, 16, 16),
    }
    plain, weighted = (DenoisingObjective(Zeros(), scheduler, codec, gamma) for gamma in (None, 5.0))
    losses = plain.losses(batch)
    assert torch.equal(losses, weighted.losses(batch))
    torch.testing.assert_close(plain(batch)["loss"], losses.mean())
    expected = (losses * min_snr_weights(scheduler, 5.0)[timesteps]).mean()
    torch.testing.assert_close(weighted(batch)["loss"], expected)
