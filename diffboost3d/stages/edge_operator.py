"""The edge operator that `prepare.edges` asks for, for the stages that draw edges."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from diffboost3d.imaging.edge_operators import edge_map
from diffboost3d.imaging.edges import Float
from diffboost3d.schema import Config, EdgeConfig


def edge_operator(edges: EdgeConfig, device: str = "cpu") -> partial[Float]:
    """`edge_map` with everything set but image, spacing_mm and slice_axis; the network of hed is read and on `device`.

    Raises:
        ConfigError: the weights of hed can't be used.
    """
    hed = None
    if edges.operator == "hed" and edges.hed_weights is not None:
        from diffboost3d.imaging.hed import load_hed

        hed = load_hed(Path(edges.hed_weights)).to(device)
    return partial(
        edge_map,
        operator=edges.operator,
        sigmas_mm=edges.sigmas_mm,
        quantile=edges.quantile,
        thin=edges.thin,
        canny_sigma_mm=edges.canny_sigma_mm,
        canny_thresholds=edges.canny_thresholds,
        hed=hed,
        hed_size=edges.hed_size,
        channels=edges.channels,
    )


def edge_facts(edges: EdgeConfig) -> dict[str, Any]:
    """What decides the edges of an image of one channel; of weights, where they lie."""
    facts = asdict(edges)
    del facts["channels"]
    return facts


def device_of_prepare(config: Config) -> str:
    """Where hed works in `prepare`: on the GPU if `runtime` allows it. Nothing else there needs one."""
    if config.prepare.edges.operator != "hed":
        return "cpu"
    import torch

    if config.runtime.threads:
        torch.set_num_threads(config.runtime.threads)
    return "cuda" if config.runtime.device in ("auto", "cuda") and torch.cuda.is_available() else "cpu"
