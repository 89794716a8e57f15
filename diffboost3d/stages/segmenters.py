"""What every stage that trains a segmenter makes of the configuration: network, patch and loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffboost3d.cases.records import Manifest
from diffboost3d.cases.workspace import Workspace
from diffboost3d.schema import Config, NetworkConfig, TrainConfig
from diffboost3d.seeds import seed_of
from diffboost3d.segmentation.batches import Size, largest_shape, patch_size
from diffboost3d.segmentation.losses import make_loss
from diffboost3d.segmentation.networks import NetworkSpec, VolumeNetwork, build_network, network_class
from diffboost3d.stages.inputs import cases_of


def training_patch(section: TrainConfig, network: NetworkConfig, shapes: Sequence[tuple[int, ...]]) -> Size:
    """Patch (I, J, K) of a training on volumes of these shapes."""
    if section.whole:
        return largest_shape(shapes)
    return patch_size(shapes, network.divisor, section.max_patch, section.patch_share, section.patch)


def network_spec(config: Config, manifest: Manifest, patch: Size) -> NetworkSpec:
    """How the network that `network` asks for is built for the data set."""
    network = config.network
    return NetworkSpec(
        name=network.name,
        spatial_dims=manifest.spatial_dims,
        classes=manifest.label_count + 1,
        patch=patch,
        arguments=network.arguments,
        spacing_mm=manifest.cases[0].grid.spacing_mm,
        in_channels=manifest.channel_count,
        target=network._target_,
        divisor=network.divisor,
    )


def require_network_class(config: Config) -> None:
    """Refuse a class that MONAI doesn't have before anything is prepared; the built-in networks are known to be there.

    Raises:
        ConfigError: `network._target_` is no network class of MONAI.
    """
    if config.network._target_ is not None:
        network_class(config.network.name, config.network._target_)


def require_segmenter(config: Config, workspace: Workspace) -> None:
    """Build the network and the loss once, so that what `train` would refuse is refused before a generator is trained.

    Raises:
        ConfigError: either can't be built for the prepared data set.
    """
    manifest = workspace.read_manifest()
    training = cases_of(manifest, workspace.read_split(config.folds[0]).training)
    patch = training_patch(config.train, config.network, [case.grid.shape for case in training])
    new_network(network_spec(config, manifest, patch), config.seed)
    segmenter_loss(config.train, manifest)


def new_network(spec: NetworkSpec, seed: int) -> VolumeNetwork:
    """A network with the random weights of a seed."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(seed, "segmenter"))
        return build_network(spec)


def segmenter_loss(section: TrainConfig, manifest: Manifest) -> dict[str, Any]:
    """The loss, as arguments of `SegmentationLearner`."""
    ignores = manifest.ignore_label is not None
    loss = make_loss(section.loss, section.include_background, section.loss_arguments, ignores)
    return {"include_background": section.include_background, "loss": loss, "ignores": ignores}
