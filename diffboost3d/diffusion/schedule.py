"""The noise schedule, as a `diffusers` DDIM scheduler: one object for training and for sampling."""

from __future__ import annotations

from typing import Any


def make_scheduler(timesteps: int, betas: str, prediction: str, zero_terminal_snr: bool) -> Any:
    """A DDIM scheduler (arXiv 2010.02502).

    With `zero_terminal_snr` the last timestep is pure noise and sampling starts there ("trailing" spacing), as in
    arXiv 2305.08891; otherwise the spacing is that of the published recipe ("leading").

    Raises:
        ValueError: zero terminal SNR with epsilon prediction, which is undefined at the last timestep.
    """
    from diffusers import DDIMScheduler

    if zero_terminal_snr and prediction == "epsilon":
        raise ValueError("diffusion.schedule.zero_terminal_snr=true needs prediction=v_prediction")
    published = betas == "scaled_linear"
    return DDIMScheduler(
        num_train_timesteps=timesteps,
        beta_schedule=betas,
        beta_start=0.00085 if published else 0.0001,
        beta_end=0.012 if published else 0.02,
        prediction_type=prediction,
        rescale_betas_zero_snr=zero_terminal_snr,
        timestep_spacing="trailing" if zero_terminal_snr else "leading",
        steps_offset=0 if zero_terminal_snr else 1,
        clip_sample=False,
        set_alpha_to_one=zero_terminal_snr,
    )
