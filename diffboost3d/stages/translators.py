"""The translator of a fold: its sizes, and the trained one for the sets of synthetic volumes that are made by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from diffboost3d.cases.records import Manifest, SyntheticRecord
from diffboost3d.cases.workspace import Workspace
from diffboost3d.errors import ConfigError
from diffboost3d.imaging.edges import control_channels
from diffboost3d.imaging.scratch import Scratch
from diffboost3d.schema import Config
from diffboost3d.stages.inputs import slice_axis
from diffboost3d.synthesis.translated import TranslatedVolumes
from diffboost3d.translation.batches import Size, multiples, window_size
from diffboost3d.translation.networks import TranslatorPlan, fitting_depth, fitting_levels
from diffboost3d.translation.weights import load_translator

LEAST_SIDE = 8  # of training slices


def translator_sizes(
    config: Config, manifest: Manifest, shapes: Sequence[tuple[int, ...]]
) -> tuple[Size, TranslatorPlan]:
    """Of the slices that a translator trains on, from volumes of these shapes, and of networks that fit them."""
    a, b = window_size(shapes, slice_axis(config, manifest), config.diffusion.max_size)
    least = (max(a, LEAST_SIDE), max(b, LEAST_SIDE))
    depth = fitting_depth(least, config.pix2pix.depth)
    size = multiples(least, 2**depth)
    denoiser = config.diffusion.denoiser
    channels = control_channels(manifest.label_count, denoiser.neighbours, denoiser.control)
    levels = fitting_levels(size, config.pix2pix.discriminator_levels)
    pix2pix = config.pix2pix
    return size, TranslatorPlan(
        channels, pix2pix.channels, depth, pix2pix.dropout, levels, image_channels=manifest.channel_count
    )


def shape_of_translator(config: Config) -> dict[str, Any]:
    """What a translator reads: synthesis must ask for the same."""
    denoiser = config.diffusion.denoiser
    return {
        "denoiser.control": denoiser.control,
        "denoiser.neighbours": denoiser.neighbours,
        "slice_axis": config.diffusion.slice_axis,
    }


def require_translator(config: Config, workspace: Workspace, fold: int) -> str:
    """The digest of the fold's translator.

    Raises:
        WorkspaceError: not trained yet. ConfigError: trained to read other controls than this command was given.
    """
    record = workspace.require(workspace.pix2pix(fold), "train-pix2pix")
    for key, asked in shape_of_translator(config).items():
        if record["shape"][key] != asked:
            raise ConfigError(
                f"the translator in {workspace.relative(workspace.pix2pix(fold))} was trained with diffusion.{key}="
                f"{record['shape'][key]}, not {asked}; give both commands the same overrides"
            )
    return str(record["digest"])


def translated_volumes(
    config: Config, workspace: Workspace, accelerator: Any, fold: int, scratch: Scratch
) -> TranslatedVolumes:
    """What makes the volumes."""
    translator = load_translator(workspace.pix2pix(fold))
    return TranslatedVolumes(translator, accelerator.device, config.runtime.precision, scratch)


def as_translated(record: SyntheticRecord) -> SyntheticRecord:
    """A record that says what made the volume, without what only a diffusion model has."""
    return dataclasses.replace(record, sampler="pix2pix", steps=1, guidance_scale=1.0, strength=1.0, noise="dropout")
