"""The one training loop that all learners use: `fit`, its plan, averaged weights, checkpoints and scalars."""

from diffboost3d.training.averaging import AveragedWeights
from diffboost3d.training.checkpoints import BEST, STATE, Tensors, last_weights, load_tensors, save_tensors
from diffboost3d.training.loop import Learner, fit
from diffboost3d.training.plan import TrainingPlan, make_accelerator, make_optimizer

__all__ = [
    "BEST",
    "STATE",
    "AveragedWeights",
    "Learner",
    "Tensors",
    "TrainingPlan",
    "fit",
    "last_weights",
    "load_tensors",
    "make_accelerator",
    "make_optimizer",
    "save_tensors",
]
