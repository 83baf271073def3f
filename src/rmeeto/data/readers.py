"""What timm's readers keep, each in its own way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def numbers_of(reader: Any) -> Mapping[str, int] | None:
    """Class name -> label; None of a reader that knows no names."""
    return getattr(reader, "class_to_idx", None) or getattr(reader, "class_name_to_idx", None)


def targets_of(reader: Any) -> Sequence[int]:
    """Label of every image, in order."""
    if hasattr(reader, "iter_targets"):
        return list(reader.iter_targets())
    return reader.targets if hasattr(reader, "targets") else [label for _, label in reader.samples]
