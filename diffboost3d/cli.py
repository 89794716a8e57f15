"""The command line: a command word and Hydra overrides become a configuration and a stage; mistakes become one line."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from diffboost3d import __version__
from diffboost3d.errors import ConfigError, DiffBoostError, WorkspaceError

if TYPE_CHECKING:
    from diffboost3d.cases.workspace import Workspace

COMMANDS = {
    "run": "prepare to report in order, on a folder of your own: data.root=FOLDER",
    "demo": "everything on a built-in cohort: cohort=mr|ct|ultrasound",
    "inspect": "what a data folder holds and what is wrong with it: inspect FOLDER [--json FILE]; writes nothing else",
    "prepare": "check, align, resample and normalise the cases; edges; splits",
    "plan": "settings for the prepared data and this machine, and what every stage will take",
    "train-codec": "train an autoencoder whose maps are diffused (diffusion.codec.name=vae)",
    "pretrain": "train the generator on all training-side images, without labels",
    "train-refiner": "train the 3D network that goes over synthetic volumes, without labels (synthesize.refine)",
    "finetune": "train it further on the labelled training cases",
    "train-pix2pix": "train the GAN of the pix2pix arms on the labelled training cases",
    "synthesize": "make synthetic volumes of the labelled training cases, and judge them",
    "train": "train a segmenter for every arm, fold and seed",
    "evaluate": "predict and score the test cases",
    "predict": "label maps of new images: predict.input=FOLDER predict.output=FOLDER",
    "report": "table, figures and one page",
    "compare": "a study: arms x folds x seeds x training sizes x variants, with statistics",
    "export": "real and accepted synthetic volumes as a data set for nnU-Net v2, or in MSD form",
}

READS = {
    "run": "data.root",
    "demo": "nothing",
    "inspect": "data.root",
    "prepare": "data.root",
    "plan": "prepare",
    "train-codec": "prepare, or a pool",
    "pretrain": "prepare, and train-codec for diffusion.codec.name=vae",
    "train-refiner": "prepare",
    "finetune": "prepare, pretrain",
    "train-pix2pix": "prepare",
    "synthesize": "prepare, finetune, train-refiner for synthesize.refine, train-pix2pix for the pix2pix arms",
    "train": "prepare, and synthesize for the diffboost arms",
    "evaluate": "prepare, train",
    "predict": "manifest.json and train's segmenters; no prepared image, no data folder",
    "report": "evaluate",
    "compare": "data.root",
    "export": "prepare, and synthesize for synthetic volumes",
}

KEYS = {
    "run": "data.root workspace prompt preset arms folds seeds data.labelled data.splits data.patients network",
    "demo": "cohort workspace seed arms",
    "inspect": "data.root data.layout data.labels data.patients data.modality inspect.*",
    "prepare": "data.* prepare.* prompt seed",
    "plan": "preset arms folds seeds network prepare.spacing_mm diffusion.codec.name train.patch train.max_patch runtime.*",
    "train-codec": "diffusion.codec.* diffusion.pool.* seed folds runtime.*",
    "pretrain": "diffusion.* prompt seed folds runtime.*",
    "train-refiner": "refiner.* synthesize.refine arms seed folds runtime.*",
    "finetune": "diffusion.finetune.* seed folds runtime.*",
    "train-pix2pix": "pix2pix.* seed folds runtime.*",
    "synthesize": "synthesize.* arms seed folds runtime.*",
    "train": "arms seeds folds merge.* classical.* augmentations.* network train.* runtime.*",
    "evaluate": "arms seeds folds evaluate.*",
    "predict": "predict.* runtime.device runtime.threads",
    "report": "arms seeds folds",
    "compare": "data.root workspace preset arms folds seeds compare.* data.folds data.patients network",
    "export": "export.* folds",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status: 0, 1 for data and workspaces, 2 for a refused call or configuration."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _main(words)
    except DiffBoostError as error:
        print(f"diffboost3d: {error}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("diffboost3d: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def _main(words: list[str]) -> int:
    if "--version" in words:
        print(f"diffboost3d {__version__}")
        return 0
    command = words[0] if words and not words[0].startswith("-") else None
    if command is not None and command not in COMMANDS:
        raise ConfigError(f"unknown command {command!r}; allowed: {', '.join(COMMANDS)}")
    if command is None or "--help" in words or "-h" in words:
        print(_command_help(command) if command else _help())
        return 0 if words else 2
    given = inspect_words(words[1:]) if command == "inspect" else words[1:]
    overrides, shows_config = _options(given)
    return _show(command, overrides) if shows_config else _run(command, overrides)


def inspect_words(words: list[str]) -> list[str]:
    """`inspect FOLDER --json FILE` as overrides: data.root=FOLDER inspect.json=FILE."""
    words = list(words)
    if "--json" in words:
        at = words.index("--json")
        if at + 1 == len(words):
            raise ConfigError("--json takes a file, e.g. inspect FOLDER --json found.json")
        words[at : at + 2] = [f"inspect.json={words[at + 1]}"]
    if words and "=" not in words[0] and not words[0].startswith(("-", "~")):
        words[0] = f"data.root={words[0]}"
    return words


def _options(words: list[str]) -> tuple[list[str], bool]:
    """Overrides, and whether `--cfg job` asks for the configuration only."""
    shows = "--cfg" in words
    if shows:
        at = words.index("--cfg")
        if words[at + 1 : at + 2] != ["job"]:
            raise ConfigError("--cfg takes the word job: it prints the resolved configuration")
        words = words[:at] + words[at + 2 :]
    for word in words:
        if word.startswith("-"):
            raise ConfigError(f"unknown option {word!r}; allowed: --help, --cfg job, and overrides key=value")
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(f"{word!r} is no override; write key=value, e.g. workspace=ws")
    return words, shows


def _defaults(command: str, overrides: list[str]) -> list[str]:
    """What the demo sets before the user's overrides."""
    if command != "demo":
        return overrides
    given = {word.lstrip("+").split("=")[0] for word in overrides}
    cohort = next((word.split("=", 1)[1] for word in overrides if word.startswith("cohort=")), "mr")
    own = {"preset": "demo", "workspace": f"diffboost3d-demo/{cohort}"}
    return [f"{key}={value}" for key, value in own.items() if key not in given] + overrides


def _show(command: str, overrides: list[str]) -> int:
    from diffboost3d.config import compose, to_yaml

    print(to_yaml(compose(_defaults(command, overrides))), end="")
    return 0


def _run(command: str, overrides: list[str]) -> int:
    from diffboost3d.config import compose, to_yaml

    warnings.filterwarnings("ignore", module=r"pydicom\b")  # of headers; what matters in them is said in our own lines
    config = compose(_defaults(command, overrides))
    if command == "compare":  # it opens many workspaces
        import_module("diffboost3d.stages.compare").start(config, overrides)
        return 0
    if command == "inspect":  # it only looks, and needs no workspace
        status: int = import_module("diffboost3d.stages.inspect").start(config)
        return status
    from diffboost3d.cases.workspace import Workspace

    workspace = Workspace(config.workspace)
    if command not in ("run", "demo", "prepare") and not (command == "train-codec" and config.diffusion.pool.root):
        _require_prepared(workspace)
    if command in ("run", "demo", "train") and config.network._target_ is not None:
        import_module("diffboost3d.stages.segmenters").require_network_class(config)
    main_process = os.environ.get("RANK", "0") == "0"  # as torchrun and accelerate set it, before torch is loaded
    with workspace.opened(main_process):
        if main_process:
            workspace.write_config(command, to_yaml(config))
            workspace.log(f"diffboost3d {command} {' '.join(overrides)}")
        import_module(f"diffboost3d.stages.{command.replace('-', '_')}").run(config, workspace)
    return 0


def _require_prepared(workspace: Workspace) -> None:
    """Refuse a folder that `prepare` has not made, before anything is written there."""
    if workspace.manifest_path.is_file():
        return
    from diffboost3d.cases.study import workspaces_in

    inside = workspaces_in(workspace.root)
    if inside is not None and not inside:
        raise WorkspaceError(
            f"{workspace.root} is the folder of a study that has no workspace yet; `compare` makes them"
        )
    if inside:
        raise WorkspaceError(
            f"{workspace.root} is the folder of a study; its workspaces are {', '.join(map(str, inside))}: take one of them, "
            f"workspace={inside[0]}"
        )
    workspace.read_manifest()


def _help() -> str:
    commands = "\n".join(f"  {name:<13} {meaning}" for name, meaning in COMMANDS.items())
    return f"""diffboost3d {__version__}: a folder of NIfTI volumes with labels in, a better segmenter out.

usage: diffboost3d COMMAND [key=value ...]

commands:
{commands}

the one command for a folder of your own:
  diffboost3d run data.root=FOLDER workspace=ws prompt="Hippocampus, MRI" preset=quick

  diffboost3d COMMAND --help     what a command reads and which keys it takes
  diffboost3d COMMAND --cfg job  the resolved configuration, without running
  preset=quick|standard|paper    how much is trained

Every command goes on where it was stopped, and keeps what is finished. Results: workspace/report/index.html."""


def _command_help(command: str) -> str:
    from diffboost3d.config import configs_folder

    return f"""diffboost3d {command}: {COMMANDS[command]}

usage: diffboost3d {command} [key=value ...] [--cfg job]

reads     {READS[command]}
keys      {KEYS[command].replace(" ", ", ")}
          any of {configs_folder()}/config.yaml can be set; `--cfg job` shows them all
workspace workspace=ws (default) holds every result; the same command again goes on from there"""
