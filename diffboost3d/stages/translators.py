"""The trained translator of a fold, for the sets of synthetic volumes that are made by it."""

from __future__ import annotations

import dataclasses
from typing import Any

from diffboost3d.cases.records import SyntheticRecord
from diffboost3d.cases.workspace import Workspace
from diffboost3d.errors import ConfigError
from diffboost3d.imaging.scratch import Scratch
from diffboost3d.schema import Config
from diffboost3d.synthesis.translated import TranslatedVolumes
from diffboost3d.translation.weights import load_translator


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
