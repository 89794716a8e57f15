"""Segmentation networks of MONAI behind one call: (B, C, I, J, K) of any size in, logits of that size out, in 3D and 2D."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import interpolate, pad

from diffboost3d.errors import ConfigError
from diffboost3d.segmentation.topology import Axes, plan_topology, side_products

AIR = -1.0  # what is around a prepared image
MONAI_NETWORKS = "monai.networks.nets."
NAMED = {
    "unet": "UNet",
    "residual_unet": "UNet",
    "attention_unet": "AttentionUnet",
    "dynunet": "DynUNet",
    "unetr": "UNETR",
    "swin_unetr": "SwinUNETR",
}
UNETR_CELL = 16  # side of a token of MONAI's UNETR, fixed there
SWIN_STAGES = 5  # times that SwinUNETR shrinks a side by its patch_size
DECODER_LEVELS_UNSUPERVISED = 2  # the bottleneck, and the lowest level of the decoder, whose weight nnU-Net sets to 0


@dataclass(frozen=True)
class NetworkSpec:
    """Everything that decides how a network is built; plain values, so that it is kept with the weights.

    Attributes:
        name: one of `NAMED`, or monai: the class named by `target`.
        classes: background included.
        patch: (I, J, K) that it trains on.
        spacing_mm: of its voxels; DynUNet is planned from it.
        arguments: of the MONAI constructor, by MONAI's names.
        in_channels: of the images.
        target: `monai.networks.nets.<Class>`, where the name is monai.
        divisor: where the name is monai, what the sides of its inputs must be multiples of.
    """

    name: str
    spatial_dims: int
    classes: int
    patch: tuple[int, int, int]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    in_channels: int = 1
    target: str | None = None
    divisor: int = 8

    def facts(self) -> dict[str, Any]:
        """For a record or the metadata of a file of weights; see `from_facts`."""
        return {
            "network": self.name,
            "spatial_dims": self.spatial_dims,
            "classes": self.classes,
            "patch": list(self.patch),
            "arguments": dict(self.arguments),
            "spacing_mm": list(self.spacing_mm),
            "in_channels": self.in_channels,
            "target": self.target,
            "divisor": self.divisor,
        }

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> NetworkSpec:
        """Inverse of `facts`; what earlier versions did not write has its default."""
        known = {key: facts[key] for key in ("in_channels", "target", "divisor") if key in facts}
        i, j, k = facts["patch"]
        x, y, z = facts.get("spacing_mm", (1.0, 1.0, 1.0))
        return cls(
            facts["network"],
            facts["spatial_dims"],
            facts["classes"],
            (i, j, k),
            facts["arguments"],
            (x, y, z),
            **known,
        )


class VolumeNetwork(torch.nn.Module):
    """A network of two or three spatial dimensions that takes volumes of any size; a 2D one takes those of K == 1.

    Inputs are padded evenly with air to what the network can take, and its output is cut back.

    Args:
        divisor: what each side must be a multiple of.
        fixed: the only size that the network can take (UNETR's), a multiple of `divisor`; None: any.
    """

    def __init__(
        self, network: torch.nn.Module, spatial_dims: int, divisor: Sequence[int] = (1, 1, 1), fixed: Axes | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.spatial_dims = spatial_dims
        self.divisor, self.fixed = tuple(divisor[:spatial_dims]), fixed

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes, I, J, K) of images (B, C, I, J, K)."""
        return self.heads(images)[0]

    def heads(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Logits (B, classes, I, J, K) of every output, the finest first: several under deep supervision while training.

        Coarser outputs are brought to the size of the image by repeating voxels.

        Raises:
            ValueError: an image larger than the only size that the network can take.
        """
        flat = images.squeeze(-1) if self.spatial_dims == 2 else images
        sides = flat.shape[2:]
        before = [(wanted - side) // 2 for wanted, side in zip(self._size(sides), sides, strict=True)]
        margins = [
            (low, wanted - side - low) for low, wanted, side in zip(before, self._size(sides), sides, strict=True)
        ]
        if any(any(margin) for margin in margins):
            flat = pad(flat, [one for margin in reversed(margins) for one in margin], value=AIR)
        window = tuple(slice(low, low + side) for low, side in zip(before, sides, strict=True))
        found = [
            _sized(one, flat.shape[2:])[(slice(None), slice(None), *window)] for one in _outputs(self.network(flat))
        ]
        return [one.unsqueeze(-1) if self.spatial_dims == 2 else one for one in found]

    def _size(self, sides: Sequence[int]) -> list[int]:
        """The size that an image is padded to."""
        if self.fixed is not None:
            if any(side > whole for side, whole in zip(sides, self.fixed, strict=True)):
                raise ValueError(f"the network takes images of at most {self.fixed} voxels, got {tuple(sides)}")
            return list(self.fixed)
        cells = [-(-side // factor) for side, factor in zip(sides, self.divisor, strict=True)]
        if max(cells) == 1:
            cells[0] = 2  # one voxel at the bottom has no variance to normalise by
        return [count * factor for count, factor in zip(cells, self.divisor, strict=True)]


def _outputs(found: Any) -> list[torch.Tensor]:
    """The outputs of a MONAI network: a tensor, a list of tensors, or DynUNet's stack (B, heads, classes, ...)."""
    if isinstance(found, torch.Tensor):
        return [found]
    return list(found)


def _sized(logits: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return logits if logits.shape[2:] == tuple(size) else interpolate(logits, tuple(size), mode="nearest")


class _Unstacked(torch.nn.Module):
    """DynUNet, whose outputs of deep supervision come as one stack, as a network that returns a list."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        found = self.network(images)
        return list(found.unbind(dim=1)) if found.ndim == images.ndim + 1 else [found]


def build_network(spec: NetworkSpec) -> VolumeNetwork:
    """The network of a specification, with new random weights.

    Raises:
        ConfigError: arguments that the constructor refuses, or a class that is none of MONAI's or can't segment.
    """
    dims, patch = spec.spatial_dims, spec.patch[: spec.spatial_dims]
    key = (
        "network.arguments" if spec.name in NAMED else f"network._target_={spec.target}: network.arguments and divisor"
    )
    builder: Callable[[Any], VolumeNetwork] = _BUILDERS.get(spec.name, _monai)
    made = network_class(spec.name, spec.target)
    unknown = [name for name in spec.arguments if name not in inspect.signature(made).parameters]
    if unknown and not _takes_any(made):
        near = difflib.get_close_matches(unknown[0], list(inspect.signature(made).parameters), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(f"{key} don't fit network {spec.name!r}: {made.__name__} takes no {unknown[0]}{hint}")
    try:
        common = {"spatial_dims": dims, "in_channels": spec.in_channels, "out_channels": spec.classes}
        return builder(_Parts(made, common, dict(spec.arguments), dims, patch, spec.spacing_mm[:dims], spec))
    except (TypeError, ValueError, AssertionError, KeyError, IndexError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"{key} don't fit network {spec.name!r}: {first}") from error


def _takes_any(made: Any) -> bool:
    kinds = [one.kind for one in inspect.signature(made).parameters.values()]
    return inspect.Parameter.VAR_KEYWORD in kinds


def network_class(name: str, target: str | None) -> Any:
    """The class of MONAI of a network's name, or of `target` where the name is monai; nothing else is ever imported.

    Raises:
        ConfigError: it is no network class of MONAI, or one that can't segment.
    """
    import monai.networks.nets as nets

    name = NAMED.get(name) or str(target).removeprefix(MONAI_NETWORKS)
    made = getattr(nets, name, None) if name.isidentifier() else None
    if not (inspect.isclass(made) and issubclass(made, torch.nn.Module)):
        classes = [one for one, kind in vars(nets).items() if inspect.isclass(kind)]
        near = difflib.get_close_matches(name, classes, n=1)
        hint = f"; did you mean {MONAI_NETWORKS}{near[0]}?" if near else ""
        raise ConfigError(f"network._target_={target} is no network class of MONAI{hint}")
    lacking = [
        one
        for one in ("spatial_dims", "in_channels", "out_channels")
        if one not in inspect.signature(made).parameters and not _takes_any(made)
    ]
    if lacking:
        raise ConfigError(
            f"network._target_={target} is refused: its constructor takes no {lacking[0]}; allowed: networks that take "
            "spatial_dims, in_channels and out_channels"
        )
    return made


@dataclass(frozen=True)
class _Parts:
    """What a builder builds from."""

    made: Any
    common: dict[str, Any]
    arguments: dict[str, Any]
    dims: int
    patch: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    spec: NetworkSpec

    def build(self, **more: Any) -> torch.nn.Module:
        network: torch.nn.Module = self.made(**self.common, **{**more, **self.arguments})
        return network


def _unet(parts: _Parts) -> VolumeNetwork:
    network = parts.build()
    return VolumeNetwork(network, parts.dims, side_products(parts.arguments["strides"], parts.dims))


def _dynunet(parts: _Parts) -> VolumeNetwork:
    """Kernels and strides as planned where `arguments` have no strides; deep supervision down to all but the lowest levels."""
    given = parts.arguments
    planned = plan_topology(parts.spacing_mm, parts.patch)
    strides: Any = given.get("strides", planned.strides)
    kernels = [3] * len(strides) if "strides" in given else planned.kernels
    supervised = max(1, len(strides) - 1 - DECODER_LEVELS_UNSUPERVISED)
    network = parts.build(
        strides=strides, kernel_size=kernels, upsample_kernel_size=strides[1:], deep_supr_num=supervised
    )
    return VolumeNetwork(_Unstacked(network), parts.dims, side_products(strides, parts.dims))


def _unetr(parts: _Parts) -> VolumeNetwork:
    cells = [-(-side // UNETR_CELL) for side in parts.patch]
    if max(cells) == 1:
        cells[0] = 2  # see VolumeNetwork
    fixed = tuple(count * UNETR_CELL for count in cells)
    network = parts.build(img_size=fixed)
    for name, weight in network.named_parameters():
        if (
            "norm_cross_attn" in name
        ):  # MONAI makes these without using them, and several processes wait for their gradients
            weight.requires_grad_(False)
    return VolumeNetwork(network, parts.dims, (UNETR_CELL,) * parts.dims, fixed)


def _swin_unetr(parts: _Parts) -> VolumeNetwork:
    side = int(parts.arguments.get("patch_size", 2)) ** SWIN_STAGES
    return VolumeNetwork(parts.build(), parts.dims, (side,) * parts.dims)


def _trial(network: VolumeNetwork, channels: int) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        found: torch.Tensor = network.eval()(torch.zeros(1, channels, *(1,) * 3))
    network.train()
    return found


def _monai(parts: _Parts) -> VolumeNetwork:
    """Any class of MONAI, tried once on a small image: what it returns must be logits of the image's size."""
    network = VolumeNetwork(parts.build(), parts.dims, (parts.spec.divisor,) * parts.dims)
    try:
        found = _trial(network, parts.spec.in_channels)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"an image of {parts.spec.divisor} voxels a side, as divisor has it, is not segmented ({str(error).strip()}); "
            "a larger network.divisor may help, unless the network classifies whole images"
        ) from error
    if found.shape[:2] != (1, parts.spec.classes):
        raise ValueError(f"it returns {tuple(found.shape)} for {parts.spec.classes} classes, no logits")
    return network


_BUILDERS: dict[str, Callable[[_Parts], VolumeNetwork]] = {
    "unet": _unet,
    "residual_unet": _unet,
    "attention_unet": _unet,
    "dynunet": _dynunet,
    "unetr": _unetr,
    "swin_unetr": _swin_unetr,
}
