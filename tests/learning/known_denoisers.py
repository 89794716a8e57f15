"""Stand-ins for a trained denoiser, whose predictions are known; they keep every call."""

from __future__ import annotations

import torch

TEXT, NEGATIVE = torch.full((1, 3, 4), 0.5), torch.full((1, 3, 4), -0.5)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def picture(*shape):
    return noise(*shape, seed=8).mul(0.4).clamp(-0.95, 0.95)


def map_noise(codec, count, *size, seed=0):
    """Of the maps of `count` images of this size."""
    return noise(count, codec.channels, *(side // codec.factor for side in size), seed=seed)


class Known:
    """Predicts, exactly, what leads to one clean image."""

    def __init__(self, codec, scheduler, clean):
        self.codec, self.scheduler, self.calls = codec, scheduler, []
        self.clean = codec.encode(clean)

    def predict(self, noisy, timesteps, text, control, strength, guess_mode, slices=1):
        assert len(text) == len(noisy) == len(timesteps)
        call = {"noisy": noisy.clone(), "t": timesteps.tolist(), "control": control, "strength": strength}
        self.calls.append(call)
        kept = self.scheduler.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
        if self.scheduler.config.prediction_type == "epsilon":
            return (noisy - kept.sqrt() * self.clean) / (1 - kept).sqrt()
        return (kept.sqrt() * noisy - self.clean) / (1 - kept).sqrt()


class Flat:
    """Predicts one number for each kind of call: full, base (negative text with control), none (without control).

    Calls of the control branch are told from those without by ones and zeros; None is "bare", as in guess mode.
    """

    def __init__(self, **values):
        self.values, self.calls = values, []

    def predict(self, noisy, timesteps, text, control, strength, guess_mode, slices=1):
        prompted = bool((text == TEXT).all())
        assert prompted != bool((text == NEGATIVE).all())
        seen = "bare" if control is None else "control" if bool(control.any()) else "zeros"
        names = {
            (True, "control"): "full",
            (False, "control"): "base",
            (False, "zeros"): "none",
            (False, "bare"): "bare",
        }
        self.calls.append(names[prompted, seen])
        self.guess_mode = guess_mode
        return torch.full_like(noisy, self.values[self.calls[-1]])
