"""A small denoiser and its company, shared by the tests of learning."""

from __future__ import annotations

import pytest
from small_networks import small_denoiser

from diffboost3d.diffusion.codecs import PackingCodec
from diffboost3d.diffusion.networks import ConditionalDenoiser
from diffboost3d.diffusion.schedule import make_scheduler
from diffboost3d.training import make_accelerator


@pytest.fixture
def codec() -> PackingCodec:
    return PackingCodec("haar", 2)


@pytest.fixture
def denoiser(codec: PackingCodec) -> ConditionalDenoiser:
    return small_denoiser(codec)


@pytest.fixture
def scheduler():
    return make_scheduler(1000, "squaredcos_cap_v2", "v_prediction", True)


@pytest.fixture
def accelerator():
    return make_accelerator("cpu", "no")
