"""What the parts of a set are called, and which files are none of its images."""

from __future__ import annotations

TRAIN_FOLDERS = ("train", "training")
VAL_FOLDERS = ("validation", "val", "valid", "eval", "evaluation", "test")


def is_hidden(path: str) -> bool:
    """Whether the name of a file, or of a folder above it, begins with a dot: what systems keep beside images."""
    return any(part.startswith(".") and part not in (".", "..") for part in path.replace("\\", "/").split("/"))
