"""What the parts of a set are called."""

from __future__ import annotations

TRAIN_FOLDERS = ("train", "training")
VAL_FOLDERS = ("validation", "val", "valid", "eval", "evaluation", "test")
