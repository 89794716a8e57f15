"""The configuration: everything in configs/ composes, is typed and documented, and what can't be right is refused in a line."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from diffboost3d.cli import main
from diffboost3d.config import compose, configs_folder, digest, to_plain, to_yaml
from diffboost3d.errors import ConfigError
from diffboost3d.schema import Config

GROUPS = sorted(
    path for path in configs_folder().iterdir() if path.is_dir() and path.name not in ("arm", "pool", "ablation")
)
CHOICES = {group.name: sorted(path.stem for path in group.glob("*.yaml")) for group in GROUPS}


@pytest.mark.parametrize("row", range(max(map(len, CHOICES.values()))))
def test_every_file_of_every_group_composes(row: int) -> None:
    """Each with some of the other groups: so many compositions have them all."""
    words = [f"{group}={choices[row % len(choices)]}" for group, choices in CHOICES.items()]
    assert isinstance(compose(words), Config)


@pytest.mark.parametrize("word", [f"{group}={choice}" for group in ("preset", "data") for choice in CHOICES[group]])
def test_presets_and_data_sets_compose_alone_with_the_choices_that_they_make(word: str) -> None:
    assert isinstance(compose([word]), Config)


def test_configs_and_schema_hold_the_same_keys_and_defaults() -> None:
    """So that nothing is undocumented and a Python caller gets what the command line gets."""

    def keys(value: object, prefix: str = "") -> set[str]:
        if not isinstance(value, dict) or prefix in ("synthesize.sets.", "arm.") or prefix.endswith("arguments."):
            return {prefix}
        return {name for key, inner in value.items() for name in keys(inner, f"{prefix}{key}.")}

    assert keys(to_plain(compose())) == keys(to_plain(Config()))
    written = set()
    for path in configs_folder().rglob("*.yaml"):
        text = yaml.safe_load(path.read_text()) or {}
        written |= {key for key in text if key != "defaults"}
    sections = {one.name: getattr(Config(), one.name) for one in dataclasses.fields(Config)}
    for name, section in sections.items():
        for one in dataclasses.fields(section) if dataclasses.is_dataclass(section) else ():
            assert one.name in written, f"{name}.{one.name} stands in no file of configs/"


def test_the_resolved_configuration_composes_to_itself() -> None:
    config = compose(["preset=quick", "arms=[none]", "merge.cell_mm=12"])
    assert yaml.safe_load(to_yaml(config)) == to_plain(config)
    assert digest(config) == digest(compose(["merge.cell_mm=12", "arms=[none]", "preset=quick"]))
    assert digest(config) != digest(compose(["preset=quick", "arms=[none]", "merge.cell_mm=12.5"]))


def test_the_command_line_goes_before_the_preset() -> None:
    assert compose(["train.steps=7", "preset=quick"]).train.steps == 7
    assert compose(["preset=quick", "network=unetr"]).network.name == "unetr"


@pytest.mark.parametrize(
    "text", ["Hippocampus, MRI", "it's (a) path\\", "a=b $x {y} [z]", "\\'", "x\\\\", "über ä", "[1, 2]", "1e3", "a: b"]
)
@pytest.mark.parametrize("key", ["prompt", "data.root", "workspace"])
def test_free_text_needs_no_second_quotes(key: str, text: str) -> None:
    config: object = compose([f"{key}={text}"])
    for part in key.split("."):
        config = getattr(config, part)
    assert config == text


REFUSED = {
    "merge.alpha=1.5": ["merge.alpha=1.5", "from 0 to 1"],
    "folds=[7]": ["there is no fold 7", "0 to 2"],
    "merge.alfa=1": ["merge.alfa", "did you mean merge.alpha", "cell_mm"],
    "alpha=0.5": ["did you mean merge.alpha"],
    "preset=fast": ["preset=fast", "demo, paper, quick, standard"],
    "network=resnet": ["network=resnet", "unet, unetr"],
    "train.steps=many": ["train.steps=many is refused; allowed: a whole number, at least 1"],
    "merge.alpha=abc": ["merge.alpha=abc is refused; allowed: a number, from 0 to 1"],
    "gate.enabled=maybe": ["gate.enabled=maybe is refused; allowed: true or false"],
    "train.steps=1.5": ["train.steps"],
    "train.steps=null": ["train.steps"],
    "arms=[none,magic]": ["'magic'", "diffboost_classical"],
    "arms=[]": ["one or more"],
    "seeds=[1,1]": ["each once"],
    "merge.at=logits": ["image, prediction"],
    "merge.cell=[1,2]": ["2 values", "1 or 3"],
    "merge.alpha_range=[0.8,0.2]": ["merge.alpha_range=[0.8, 0.2]", "the first must not be above the second"],
    "merge.alpha_range=0.5": ["merge.alpha_range", "[...]"],
    "merge.alpha_range=[0.2,1.5]": ["merge.alpha_range=1.5", "from 0 to 1"],
    "merge.feather_mm=-1": ["merge.feather_mm=-1.0", "at least 0"],
    "merge.mask_foreground_labels=[head]": ["merge.mask_foreground=true"],
    "merge.probability=2": ["merge.probability=2.0", "from 0 to 1"],
    "prepare.intensity.window_hu=[240,-160]": ["the first must be below the second"],
    "prepare.edges.operator=sobel": ["prepare.edges.operator=sobel", "soft, canny, hed"],
    "prepare.edges.operator=hed": ["prepare.edges.hed_weights=PATH"],
    "prepare.edges.canny_thresholds=[0.5,0.2]": ["the first must be below the second"],
    "data.patients=case_.*": ["a group"],
    "data.patients=(": ["no regular expression"],
    "arm.none.merge=half": ["none, real, synthetic"],
    "cohort=pet": ["mr, ct, ultrasound"],
    "runtime.device=tpu": ["auto, cpu, cuda, mps"],
    "train.learning_rate=.nan": ["train.learning_rate"],
    "train.learning_rate=inf": ["finite"],
    "diffusion.schedule.prediction=epsilon": ["zero_terminal_snr", "v_prediction"],
    "diffusion.denoiser.channels=[]": ["one or more levels"],
    "diffusion.denoiser.text_width=100": ["3 heads"],
    "diffusion.denoiser.stack=3": ["diffusion.pretrain.batch=16", "multiple of the stack"],
    "synthesize.steps=2000": ["at most", "diffusion.schedule.timesteps=1000"],
    "synthesize.sampler=euler": ["synthesize.sampler=euler", "allowed: ddim, dpmsolver++", "unipc"],
    "synthesize.text_weights=[0.5,0.5]": ["synthesize.text_weights has 2 values for 1 prompts", "one each"],
    "synthesize.text=[]": ["synthesize.text_weights has 1 values for 0 prompts"],
    "synthesize.guidance_range=[0.6,0.2]": [
        "synthesize.guidance_range=[0.6, 0.2]",
        "the first must be below the second",
    ],
    "synthesize.guidance_range=[0.5,0.5]": ["the first must be below the second"],
    "synthesize.guidance_range=[0.5]": ["1 values", "takes 2"],
    "synthesize.guidance_range=[0,1.5]": ["from 0 to 1"],
    "synthesize.looks=2": ["synthesize.looks=2.0", "from 0 to 1"],
    "diffusion.finetune.patience=-1": ["diffusion.finetune.patience=-1", "at least 0"],
    "diffusion.finetune.trained=text": ["all, control"],
    "workspace=": ["give the folder"],
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_can_not_be_right_is_refused_in_one_line_with_what_is_allowed(
    override: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    workspace = [] if override.startswith("workspace") else [f"workspace={tmp_path / 'ws'}"]
    assert main(["run", *workspace, override]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for words in REFUSED[override]:
        assert words in said
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fly"], "unknown command 'fly'"),
        (["run", "--fast"], "unknown option '--fast'"),
        (["run", "hippocampus"], "is no override"),
        (["run", "--cfg", "hydra"], "--cfg takes the word job"),
    ],
)
def test_a_wrong_call_is_refused_in_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_cfg_job_prints_the_configuration_and_runs_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "preset=quick", "--cfg", "job"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == to_plain(compose(["preset=quick"]))
    assert list(tmp_path.iterdir()) == []


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    from diffboost3d.cli import COMMANDS

    for command in COMMANDS:
        assert main([command, "--help"]) == 0
        assert f"diffboost3d {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["synthesize.text=['{promt}, MRI']"], "{promt} is unknown; allowed: {prompt}, {look}"),
        (["synthesize.text_weights=[0.0]"], "don't sum to 0"),
        (["synthesize.text=[a,a]", "synthesize.text_weights=[0.5,0.5]"], "each prompt once"),
        (["synthesize.guess_mode=true", "synthesize.control_guidance_scale=2"], "is refused with guess_mode=true"),
        (["synthesize.eta=0.5"], "is refused with sampler=dpmsolver++"),
        (["merge.at=prediction", "merge.feather=1"], "refused with at=prediction"),
        (["merge.at=prediction", "merge.feather_mm=1.5"], "refused with at=prediction"),
    ],
)
def test_mixtures_and_guidance_that_make_no_sense_are_refused(words, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        compose(words)
