"""`finetune`: the pre-trained generator learns the labelled training cases of a fold, with label boundaries as control."""

from __future__ import annotations

from diffboost3d.cases.workspace import Workspace
from diffboost3d.diffusion.weights import load_generator
from diffboost3d.schema import Config
from diffboost3d.stages.generator_training import generator_digest, require_generator, train_generator
from diffboost3d.stages.inputs import accelerator_of, cases_of


def run(config: Config, workspace: Workspace) -> None:
    """Fine-tune one generator a fold; `pretrain` must have finished."""
    manifest = workspace.read_manifest()
    accelerator = accelerator_of(config)
    for fold in config.folds:
        split = workspace.read_split(fold)
        training, validation = cases_of(manifest, split.training), cases_of(manifest, split.validation)
        section, folder = config.diffusion.finetune, workspace.finetuned(fold)
        parent = require_generator(config, workspace, workspace.pretrained(fold), "pretrain")
        own = generator_digest(config, manifest, section, training, validation, "finetune", parent)
        if workspace.is_current(folder, own):
            workspace.log(f"finetune fold {fold}: done already")
            continue
        train_generator(
            config,
            workspace,
            manifest,
            accelerator,
            load_generator(workspace.pretrained(fold)),
            section,
            training,
            validation,
            with_label=True,
            folder=folder,
            own_digest=own,
            stage="finetune",
            title=f"finetune fold {fold}, {len(training)} labelled cases",
        )
