"""The configuration as a whole, and the keys of studies, exports and the machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diffboost3d.schema.data import DataConfig, InspectConfig, PrepareConfig
from diffboost3d.schema.generator import DiffusionConfig, Pix2PixConfig, RefinerConfig
from diffboost3d.schema.keys import key, section
from diffboost3d.schema.segmenter import (
    ArmConfig,
    AugmentationsConfig,
    ClassicalConfig,
    EvaluateConfig,
    MergeConfig,
    NetworkConfig,
    PredictConfig,
    TrainConfig,
)
from diffboost3d.schema.synthetic import GateConfig, SynthesizeConfig


@dataclass
class CompareConfig:
    sizes: list[int] = key(
        [],
        "Labelled training cases; one part of the study each. The cases of a smaller size are among those of a larger one, and the "
        "test cases are the same; []: data.labelled alone.",
        low=1,
    )
    validation: int | None = key(
        None,
        "Validation cases of every size; null: data.validation_fraction of each. One number for all lets sizes share one pre-training.",
        low=1,
    )
    variants: dict[str, list[str]] = key(
        {},
        "Variants by name, each a list of overrides such as [merge.alpha=0.25]; the first is what the others are compared with; {}: "
        "the configuration as it is.",
    )
    references: list[str] = key(["none", "classical"], "Arms that every other arm is compared with.")
    launcher: str = key(
        "local",
        "local: processes on this machine; else an installed launcher plugin of Hydra by name, such as submitit_slurm.",
    )
    launcher_options: dict[str, Any] = key({}, "Options of that plugin, such as {partition: gpu, timeout_min: 240}.")
    processes: int = key(
        1, "local: cells that run at the same time, each in a process of its own; 0: in this one.", low=0
    )
    status: bool = key(False, "Only list the cells and what has become of each; nothing runs.")
    tables: bool = key(
        False,
        "Only write scores, tables and figures of the cells that are finished; nothing runs, a running study goes on.",
    )


@dataclass
class ExportConfig:
    format: str = key("nnunet", "What the folder is for: nnU-Net v2, or readers of MSD.", choices=("nnunet", "msd"))
    target: str | None = key(
        None, "Folder in which the data set's own folder is made, such as nnUNet_raw; null: in the workspace."
    )
    dataset_id: int = key(500, "Number of the data set: Dataset500_NAME, Task500_NAME_fold0.", low=1, high=999)
    name: str | None = key(None, "Name of the data set (letters, digits, - and _); null: that of `prepare`.")
    samples: int | None = key(
        None, "Synthetic volumes of each training case, at most; null: all accepted ones; 0: real ones only.", low=0
    )
    files: str = key(
        "copy",
        "How images come there: copied, or linked to where they lie. Labels and pictures are always written anew.",
        choices=("copy", "hardlink", "symlink"),
    )
    test_images: bool = key(True, "Put the images of test cases into imagesTs, without labels.")


@dataclass
class RuntimeConfig:
    device: str = key("auto", "auto, cpu, cuda or mps.", choices=("auto", "cpu", "cuda", "mps"))
    precision: str = key("no", "Mixed precision.", choices=("no", "bf16", "fp16"))
    workers: int | None = key(
        None,
        "Loader processes of each training; 0: samples are made in the training process; null: with CUDA on Linux its share of the "
        "cores but one, at most 8, where 1 GB of shared memory is free; else 0.",
        low=0,
    )
    threads: int = key(0, "CPU threads; 0: as torch chooses.", low=0)
    compile: bool = key(False, "Compile the denoiser for sampling (torch.compile); pays in long runs on a GPU.")


@dataclass
class Config:
    workspace: str = key("ws", "Folder that holds every result.")
    prompt: str | None = key(None, "Text of the data set, e.g. 'Hippocampus, MRI'; null: name and modality.")
    preset: str = key("standard", "The preset that was composed.")
    plan: str | None = key(
        None, "File of values that `diffboost3d plan` wrote, or one like it; it goes after the preset; null: none."
    )
    cohort: str = key("mr", "Built-in cohort of `demo`.", choices=("mr", "ct", "ultrasound"))
    seed: int = key(0, "Seed of splits, generator and synthetic volumes.", low=0)
    seeds: list[int] = key([0], "Seeds of the segmenters; one training each.", low=0)
    folds: list[int] = key([0], "Folds that run.", low=0)
    arms: list[str] = key(
        ["none", "classical", "cutmix", "cutmix_classical", "diffboost", "diffboost_classical"],
        "Arms that are trained and compared.",
    )
    data: DataConfig = section(DataConfig)
    prepare: PrepareConfig = section(PrepareConfig)
    diffusion: DiffusionConfig = section(DiffusionConfig)
    refiner: RefinerConfig = section(RefinerConfig)
    pix2pix: Pix2PixConfig = section(Pix2PixConfig)
    synthesize: SynthesizeConfig = section(SynthesizeConfig)
    merge: MergeConfig = section(MergeConfig)
    classical: ClassicalConfig = section(ClassicalConfig)
    augmentations: AugmentationsConfig = section(AugmentationsConfig)
    network: NetworkConfig = section(NetworkConfig)
    train: TrainConfig = section(TrainConfig)
    gate: GateConfig = section(GateConfig)
    evaluate: EvaluateConfig = section(EvaluateConfig)
    predict: PredictConfig = section(PredictConfig)
    compare: CompareConfig = section(CompareConfig)
    export: ExportConfig = section(ExportConfig)
    inspect: InspectConfig = section(InspectConfig)
    arm: dict[str, ArmConfig] = field(default_factory=dict, metadata={"meaning": "Definition of every arm."})
    runtime: RuntimeConfig = section(RuntimeConfig)
