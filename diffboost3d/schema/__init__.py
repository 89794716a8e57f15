"""The typed configuration: every key, its type, its default, its bounds and its meaning.

The defaults stand in `configs/`; those given here only serve a Python caller. Bounds and choices travel with the field,
so that the refusal of a value and the reference page are made of the same table.
"""

from __future__ import annotations

from diffboost3d.schema.data import (
    BidsConfig,
    DataConfig,
    EdgeConfig,
    InspectConfig,
    IntensityConfig,
    N4Config,
    PrepareConfig,
)
from diffboost3d.schema.generator import (
    AutoencoderConfig,
    CodecConfig,
    CodecTrainingConfig,
    DenoiserConfig,
    DiffusionConfig,
    DiffusionTrainingConfig,
    LoraConfig,
    Pix2PixConfig,
    Pix2PixTrainingConfig,
    PoolConfig,
    RefinerConfig,
    RefinerTrainingConfig,
    ScheduleConfig,
    WeightsConfig,
)
from diffboost3d.schema.segmenter import (
    ArmConfig,
    AugmentationsConfig,
    ClassicalConfig,
    EvaluateConfig,
    InferenceConfig,
    MergeConfig,
    NetworkConfig,
    PredictConfig,
    TrainConfig,
)
from diffboost3d.schema.synthetic import AnatomyConfig, GateConfig, SynthesizeConfig
from diffboost3d.schema.whole import CompareConfig, Config, ExportConfig, RuntimeConfig

__all__ = [
    "AnatomyConfig",
    "ArmConfig",
    "AugmentationsConfig",
    "AutoencoderConfig",
    "BidsConfig",
    "ClassicalConfig",
    "CodecConfig",
    "CodecTrainingConfig",
    "CompareConfig",
    "Config",
    "DataConfig",
    "DenoiserConfig",
    "DiffusionConfig",
    "DiffusionTrainingConfig",
    "EdgeConfig",
    "EvaluateConfig",
    "ExportConfig",
    "GateConfig",
    "InferenceConfig",
    "InspectConfig",
    "IntensityConfig",
    "LoraConfig",
    "MergeConfig",
    "N4Config",
    "NetworkConfig",
    "Pix2PixConfig",
    "Pix2PixTrainingConfig",
    "PoolConfig",
    "PredictConfig",
    "PrepareConfig",
    "RefinerConfig",
    "RefinerTrainingConfig",
    "RuntimeConfig",
    "ScheduleConfig",
    "SynthesizeConfig",
    "TrainConfig",
    "WeightsConfig",
]
