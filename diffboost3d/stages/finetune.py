"""`finetune`: the pre-trained generator learns the labelled training cases of a fold, with label boundaries as control."""

from __future__ import annotations

from diffboost3d.cases.workspace import Workspace
from diffboost3d.diffusion.weights import load_generator
from diffboost3d.schema import Config
from diffboost3d.stages.generator_training import (
    Task,
    require_generator,
    slice_datasets,
    task_digest,
    train_generator,
)
from diffboost3d.stages.inputs import accelerator_of, cases_of


def run(config: Config, workspace: Workspace) -> None:
    """Fine-tune one generator a fold; `pretrain` must have finished."""
    manifest = workspace.read_manifest()
    accelerator = accelerator_of(config)
    for fold in config.folds:
        split = workspace.read_split(fold)
        training, validation = cases_of(manifest, split.training), cases_of(manifest, split.validation)
        section, folder = config.diffusion.finetune, workspace.finetuned(fold)
        parent = require_generator(config, workspace, workspace.pretrained(fold), "pretrain", manifest.channel_count)
        read = [manifest.prompt, [case.digest for case in training], [case.digest for case in validation]]
        unlabelled = cases_of(manifest, sorted(split.unlabelled)) if config.diffusion.finetune_unlabelled else []
        more = [config.diffusion.finetune_unlabelled, [case.digest for case in unlabelled]]
        own = task_digest(config, section, manifest.channel_count, "finetune", *read, *more, parent)
        if workspace.is_current(folder, own):
            workspace.log(f"finetune fold {fold}: done already")
            continue
        generator = load_generator(workspace.pretrained(fold))
        jittered, still = slice_datasets(
            config, workspace, manifest, generator, section, training, validation, True, "finetune", unlabelled
        )
        title = f"finetune fold {fold}, {len(training)} labelled cases"
        facts = {"training": [case.id for case in training], "slice_size": jittered.plan.size}
        task = Task("finetune", title, folder, own, section, jittered, still, bool(validation), manifest.prompt, facts)
        train_generator(config, workspace, accelerator, generator, task)
