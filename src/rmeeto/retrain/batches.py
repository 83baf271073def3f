"""What is trained on: the face that data shows to the loop."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from torch import Tensor

from rmeeto.errors import DataError


class Batches(Protocol):
    """Training batches: (images (b, ...) float32, labels (b,) int64), this process's share of each."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch; data that has a method `skip(batches)` leaves out that many of the next one, undecoded."""

    def __len__(self) -> int:
        """Batches of an epoch; one that is not full is never trained on."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of epoch 0, 1, ...: a function of the epoch alone, so that a resumed run sees the same."""


@dataclass(frozen=True)
class TrainingData:
    """What is trained on.

    Attributes:
        train: the batches.
        num_classes: labels are below it; student and teacher have as many outputs.
    """

    train: Batches
    num_classes: int


def full_batches(batches: Batches, size: int) -> int:
    """Batches of an epoch that hold `size` images: a loader that keeps a short last one counts it too."""
    if (count := getattr(batches, "num_images", None)) is not None:
        return min(len(batches), count // size)
    images = getattr(batches, "dataset", None)
    if getattr(batches, "drop_last", True) or images is None:
        return len(batches)
    return min(len(batches), len(images) // size)


def begin_epoch(batches: Batches, epoch: int, skip: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of an epoch after the first `skip`; those are made and thrown away by data that cannot skip."""
    batches.set_epoch(epoch)
    skipping = getattr(batches, "skip", None)
    if skip and skipping is not None:
        skipping(skip)
        skip = 0
    return islice(iter(batches), skip, None)


def next_batch(batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The next batch, which the length of the data promises.

    Raises:
        DataError: there is none.
    """
    try:
        images, labels = next(batches)
    except StopIteration:
        raise DataError("the training data ended before its epoch; its length promises more full batches") from None
    return images, labels
