"""`pretrain`: the generator learns the look of all training-side images of a fold from their edges, without labels."""

from __future__ import annotations

from diffboost3d.cases.workspace import Workspace
from diffboost3d.schema import Config
from diffboost3d.stages.generator_training import generator_digest, new_generator, train_generator
from diffboost3d.stages.inputs import accelerator_of, cases_of


def run(config: Config, workspace: Workspace) -> None:
    """Pre-train one generator a fold on its unlabelled and (labels unused) labelled training images."""
    manifest = workspace.read_manifest()
    accelerator = accelerator_of(config)
    for fold in config.folds:
        split = workspace.read_split(fold)
        training = cases_of(manifest, sorted(split.unlabelled + split.training))
        validation = cases_of(manifest, split.validation)
        section, folder = config.diffusion.pretrain, workspace.pretrained(fold)
        own = generator_digest(config, manifest, section, training, validation, "pretrain")
        if workspace.is_current(folder, own):
            workspace.log(f"pretrain fold {fold}: done already")
            continue
        train_generator(
            config,
            workspace,
            manifest,
            accelerator,
            new_generator(config, manifest),
            section,
            training,
            validation,
            with_label=False,
            folder=folder,
            own_digest=own,
            stage="pretrain",
            title=f"pretrain fold {fold}, {len(training)} images",
        )
