"""What the parts of a set are called, and which files are none of its images."""

from __future__ import annotations

DEFAULT_TRAIN = "train"
TRAIN_FOLDERS = (DEFAULT_TRAIN, "training")
VAL_FOLDERS = ("validation", "val", "valid", "eval", "evaluation", "test")
PART_FOLDERS = (*TRAIN_FOLDERS, *VAL_FOLDERS)


def names_of(split: str, asked: str | None) -> tuple[str, ...]:
    """What a part may be called: what somebody asked for and nothing else, or all usual names.

    Args:
        split: "train" or "val".
        asked: the user's own name of it; None, and of training the default, are no wish.
    """
    usual = TRAIN_FOLDERS if split == "train" else VAL_FOLDERS
    return usual if not asked or (asked == DEFAULT_TRAIN and split == "train") else (asked,)


def is_hidden(path: str) -> bool:
    """Whether the name of a file, or of a folder above it, begins with a dot: what systems keep beside images."""
    return any(part.startswith(".") and part not in (".", "..") for part in path.replace("\\", "/").split("/"))
