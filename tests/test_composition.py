"""A kept composition with values put onto it is what Hydra composes at once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from diffboost3d.composition import composed
from diffboost3d.config import configs_folder

OVERRIDES = {
    "nothing": [],
    "values": ["merge.alpha=0.3", "workspace='a b'", "arms=[none,diffboost]", "train.patch=null"],
    "groups": ["network=unetr", "data=hippocampus", "preset=quick"],
    "a value before its group": ["train.steps=7", "preset=quick", "network=dynunet", "network.divisor=4"],
    "added": ["+network.arguments.dropout=0.1", "+ablation=alpha_025", "+arm@arm.mine=none", "arm.mine.classical=true"],
    "a group as a dictionary": ["network={name: unet, divisor: 4}", "+arm.other={merge: real}"],
    "taken away": ["~arm.gamma", "~network.arguments.norm"],
    "variants": ['+compare.variants={a: ["merge.alpha=0.5"]}', "++compare.variants.b=[]"],
}


def by_hydra(folder: Path, overrides: list[str]) -> object:
    with initialize_config_dir(str(folder), version_base="1.3"):
        return OmegaConf.to_container(hydra_compose("config", overrides))


@pytest.mark.parametrize("name", OVERRIDES)
def test_it_is_what_hydra_composes_at_once_and_again(name: str) -> None:
    whole = by_hydra(configs_folder(), OVERRIDES[name])
    for _ in range(2):  # what one call puts on is not there for the next
        assert OmegaConf.to_container(composed(configs_folder(), OVERRIDES[name])) == whole


@pytest.mark.parametrize(
    "override", ["merge.alfa=1", "network=resnet", "merge.alpha=0.1,0.2", "+merge.alpha=1", "~merge.x", "a b"]
)
def test_a_mistake_has_hydra_s_own_words(override: str) -> None:
    with pytest.raises(Exception) as said:  # noqa: PT011 - Hydra has many types
        by_hydra(configs_folder(), [override])
    with pytest.raises(type(said.value)) as again:
        composed(configs_folder(), [override])
    assert str(again.value) == str(said.value)


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    folder = shutil.copytree(configs_folder(), tmp_path / "configs")
    assert composed(folder, []).merge.alpha == 0.6
    file = folder / "merge" / "cuboids.yaml"
    file.write_text(file.read_text().replace("alpha: 0.6", "alpha: 0.7"))
    assert composed(folder, []).merge.alpha == 0.7
    file.write_text(file.read_text().replace("alpha: 0.7", "alpha: 0.8"))
    os.utime(file, (1e9, 1e9))  # a copy that keeps the time of an older file
    assert composed(folder, []).merge.alpha == 0.8
