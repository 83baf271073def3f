"""Training, with or without a teacher: a recipe, a loop, and checkpoints that cannot be lost."""

from rmeeto.retrain.batches import Batches, TrainingData
from rmeeto.retrain.checkpoint import Checkpoints
from rmeeto.retrain.loop import Validate, train
from rmeeto.retrain.progress import Progress, Silent, StepReport, progress_on
from rmeeto.retrain.recipe import PUBLISHED, Recipe

__all__ = [
    "PUBLISHED",
    "Batches",
    "Checkpoints",
    "Progress",
    "Recipe",
    "Silent",
    "StepReport",
    "TrainingData",
    "Validate",
    "progress_on",
    "train",
]
