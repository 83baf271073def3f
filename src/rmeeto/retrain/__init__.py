"""Training, with or without a teacher: a recipe, a loop, and checkpoints that cannot be lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmeeto._lazy import lazily

if TYPE_CHECKING:
    from rmeeto.retrain.batches import Batches, TrainingData
    from rmeeto.retrain.checkpoint import Checkpoints
    from rmeeto.retrain.loop import Validate, train
    from rmeeto.retrain.progress import Progress, Silent, StepReport, progress_on
    from rmeeto.retrain.recipe import PUBLISHED, Recipe
    from rmeeto.retrain.run_spec import RunSpec
    from rmeeto.retrain.signals import Stopped

_HOMES = {
    "Batches": "rmeeto.retrain.batches",
    "Checkpoints": "rmeeto.retrain.checkpoint",
    "PUBLISHED": "rmeeto.retrain.recipe",
    "Progress": "rmeeto.retrain.progress",
    "Recipe": "rmeeto.retrain.recipe",
    "RunSpec": "rmeeto.retrain.run_spec",
    "Silent": "rmeeto.retrain.progress",
    "StepReport": "rmeeto.retrain.progress",
    "Stopped": "rmeeto.retrain.signals",
    "TrainingData": "rmeeto.retrain.batches",
    "Validate": "rmeeto.retrain.loop",
    "progress_on": "rmeeto.retrain.progress",
    "train": "rmeeto.retrain.loop",
}

__all__ = [
    "PUBLISHED",
    "Batches",
    "Checkpoints",
    "Progress",
    "Recipe",
    "RunSpec",
    "Silent",
    "StepReport",
    "Stopped",
    "TrainingData",
    "Validate",
    "progress_on",
    "train",
]

__getattr__ = lazily(__name__, _HOMES)
