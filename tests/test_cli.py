"""The command line and the schema behind it: what loads, what is said, what free text survives, what has a meaning."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from diffboost3d import cli, schema
from diffboost3d.cli import main
from diffboost3d.config import compose, configs_folder, to_plain
from diffboost3d.errors import ConfigError

PACKAGE = Path(cli.__file__).parent
HEAVY = {"torch", "monai", "torchio", "diffusers", "transformers", "SimpleITK", "scipy", "matplotlib"}
ARMS = sorted(path.stem for path in (configs_folder() / "arm").glob("*.yaml"))


def flat(value: object, prefix: str = "") -> dict[str, object]:
    """Dotted name -> value; the dictionaries of free keys stay whole."""
    if not isinstance(value, dict) or prefix in ("synthesize.sets.", "arm.") or prefix.endswith("arguments."):
        return {prefix[:-1]: value}
    return {name: leaf for key, inner in value.items() for name, leaf in flat(inner, f"{prefix}{key}.").items()}


@lru_cache
def written() -> dict[str, object]:
    """What the files of configs/ compose to by themselves, without the schema."""
    from omegaconf import OmegaConf

    with initialize_config_dir(str(configs_folder()), version_base="1.3"):
        return flat(OmegaConf.to_container(hydra_compose("config")))


# --- light ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "code",
    [
        "import diffboost3d",
        "from diffboost3d.cli import main; main(['--version'])",
        "from diffboost3d.cli import main; main(['run', '--cfg', 'job'])",
        "from diffboost3d.cli import main; main(['run', 'data.rot=x'])",
    ],
    ids=["import", "--version", "--cfg job", "typo"],
)
def test_what_only_answers_loads_no_heavy_library(code: str) -> None:
    code += f"; import sys; sys.exit(' '.join({HEAVY!r} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_foundation_names_no_heavy_library_even_inside_its_functions() -> None:
    import ast

    for path in [*PACKAGE.glob("*.py"), *(PACKAGE / "schema").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {module.split(".")[0] for module in modules} & HEAVY, path


def test_the_module_is_the_command(tmp_path: Path) -> None:
    call = [sys.executable, "-m", "diffboost3d", "prepare", f"data.root={tmp_path / 'no'}", "workspace=ws"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 1
    assert done.stderr == f"diffboost3d: data.root={tmp_path / 'no'}: no such folder\n"


# --- help ----------------------------------------------------------------------------------------------------------
def test_no_word_at_all_shows_the_help_and_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: diffboost3d COMMAND" in capsys.readouterr().out


def test_help_tells_every_command_and_the_tables_agree(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert set(cli.COMMANDS) == set(cli.READS) == set(cli.KEYS)
    for command in cli.COMMANDS:
        assert f"\n  {command} " in said
        assert (PACKAGE / "stages" / f"{command.replace('-', '_')}.py").is_file()


def test_help_names_only_keys_that_exist() -> None:
    known = set(written())
    sections = {name.rpartition(".")[0] for name in known}
    for keys in cli.KEYS.values():
        for name in keys.split():
            section = name.removesuffix(".*")
            assert name in known or any(one == section or one.startswith(f"{section}.") for one in sections), name


# --- schema and configs/ -------------------------------------------------------------------------------------------
def test_every_key_of_the_schema_is_written_in_configs_and_the_other_way_round() -> None:
    assert set(written()) == set(flat(to_plain(schema.Config())))


def test_defaults_of_the_schema_are_those_of_configs() -> None:
    """But for the network's own arguments, which change with the network, sets and arms, which are dictionaries."""
    defaults = flat(to_plain(schema.Config()))
    apart = {name for name, value in written().items() if value != defaults[name]}
    assert apart == {"network.arguments", "synthesize.sets", "arm"}


def test_every_key_has_a_meaning_that_is_a_sentence() -> None:
    sections = [kind for kind in vars(schema).values() if dataclasses.is_dataclass(kind) and isinstance(kind, type)]
    assert len(sections) > 15
    for kind in sections:
        for one in dataclasses.fields(kind):
            if dataclasses.is_dataclass(getattr(kind(), one.name)):
                continue
            meaning = one.metadata["meaning"]
            assert len(meaning) > 10, f"{kind.__name__}.{one.name}"
            assert meaning.endswith("."), f"{kind.__name__}.{one.name}"


def test_defaults_lie_within_their_own_bounds() -> None:
    from diffboost3d.validation import validate

    config = schema.Config()
    config.arm = {name: schema.ArmConfig() for name in config.arms}
    validate(config)


# --- arms ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_of_configs_can_be_added_under_another_name(arm: str) -> None:
    shapes = ["synthesize.anatomy.same=0.5", "synthesize.anatomy.warped=0.5"]  # an arm of warps alone needs some
    config = compose([f"+arm@arm.mine={arm}", "arms=[none,mine]", *shapes])
    assert config.arm["mine"] == config.arm[arm]


def test_an_arm_can_be_made_on_the_command_line() -> None:
    config = compose(["+arm.mine={merge: real, classical: true}", "arms=[mine]", "evaluate.reference=mine"])
    assert config.arm["mine"] == schema.ArmConfig("real", True)


# --- refusals ------------------------------------------------------------------------------------------------------
REFUSED = {
    "arms=none,diffboost": "arms=[none,diffboost]",
    "folds=0,1": "folds=[0,1]",
    "folds=1": "folds takes a list",
    "arms=none": "arms takes a list",
    "prepare.spacing_mm=1": "prepare.spacing_mm takes a list",
    "data.labels=[1]": "data.labels",
    "data.labels={tumour: big}": "data.labels.tumour",
    "data.labels={background: 0, 肝臓: 2}": 'dataset.json in the data folder, "labels": {"background": 0, "NAME": 1}',
    "data.labels={background: 0, 'left kidney': 1}": "without quotes",
    "data.colours={肝臓: [1, 2, 3]}": "plan=FILE.yaml",
    "data.channels=[肝臓,b]": "put values of other letters in quotes",
    "network.arguments={dropout: 0.1}": "+network.arguments.dropout=VALUE adds it",
    "evaluate.reference=best": "none, classical, cutmix",
    "arm.mine.merge=real": "+arm.NAME=",
    "arm.none.merg=real": "merge, classical",
    "merge.deep.alpha=1": "allowed in merge: alpha, alpha_range, at, cell, cell_mm, feather, ",
    "merge.alpha.deep=1": "merge.alpha",
    "prepare=fast": "default",
    "data.folds=1": "at least 2",
    "classical.mirror_axes=[3]": "0, 1, 2",
    "classical.scale=[1.4,0.7]": "the first must be below the second",
    "prompt=${nowhere}": "prompt",
    "merge.alpha=[1": "merge.alpha=[1",
    "=3": "=3",
}


@pytest.mark.parametrize("override", REFUSED)
def test_a_refusal_is_one_line_that_leads_on(override: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", override]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("diffboost3d: ")
    assert said.err.count("\n") == 1
    assert REFUSED[override] in said.err


def test_names_of_any_letters_can_be_given_as_the_refusal_says(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("data: {labels: {background: 0, 肝臓: 2}, colours: {肝臓: [1, 2, 3]}}", "utf-8")
    config = compose([f"plan={tmp_path / 'own.yaml'}", "data.channels=['肝臓',b]"])
    assert (config.data.labels, config.data.colours) == ({"background": 0, "肝臓": 2}, {"肝臓": [1, 2, 3]})
    assert config.data.channels == ["肝臓", "b"]


def test_a_list_of_keys_is_said_of_the_section_that_was_meant() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown key 'diffusion\.pretrain\.step'; did you mean diffusion\.pretrain\."
    ):
        compose(["diffusion.pretrain.step=3"])
    with pytest.raises(ConfigError, match="unknown key 'nothing'; allowed: arm, arms, augmentations, classical"):
        compose(["nothing=3"])


# --- free text -----------------------------------------------------------------------------------------------------
@settings(max_examples=6, deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1), min_size=5, max_size=5))
def test_any_text_comes_through_as_it_was_typed(texts: list[str]) -> None:
    for text in texts:
        assume("${" not in text and text[0] not in "'\"" and text != "null")
    keys = ("prompt", "data.root", "workspace", "data.name", "data.splits")
    config = flat(to_plain(compose([f"{key}={text}" for key, text in zip(keys, texts, strict=True)])))
    assert [config[key] for key in keys] == texts


@pytest.mark.parametrize("plus", ["", "+", "++"])
@pytest.mark.parametrize("text", ["'Leber, CT'", "Leber, CT"])
def test_quotes_of_hydra_and_none_mean_the_same(plus: str, text: str) -> None:
    assert compose([f"{plus}prompt={text}"]).prompt == "Leber, CT"


def test_a_pattern_of_patients_needs_no_quotes() -> None:
    assert compose([r"data.patients=^(sub-\d+)_(ED|ES)$"]).data.patients == r"^(sub-\d+)_(ED|ES)$"


# --- the demo ------------------------------------------------------------------------------------------------------
def test_the_demo_has_a_preset_and_a_folder_of_its_own_unless_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "cohort=ct", "--cfg", "job"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["preset"], shown["workspace"], shown["cohort"]) == ("demo", "diffboost3d-demo/ct", "ct")
    assert main(["demo", "workspace=mine", "preset=quick", "--cfg", "job"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["preset"], shown["workspace"]) == ("quick", "mine")


def test_what_a_command_was_told_is_kept_in_the_workspace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "data.root=nowhere", f"workspace={tmp_path / 'ws'}", "seed=7"]) == 1
    kept = yaml.safe_load((tmp_path / "ws" / "config" / "prepare.yaml").read_text(encoding="utf-8"))
    assert kept["seed"] == 7
    assert "diffboost3d prepare data.root=nowhere" in (tmp_path / "ws" / "log.txt").read_text(encoding="utf-8")
    assert capsys.readouterr().err == "diffboost3d: data.root=nowhere: no such folder\n"


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{sys.executable} -m diffboost3d run --cfg job | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""
