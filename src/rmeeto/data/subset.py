"""Which images of a set are used: all, some drawn at random, or the same share of every class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from rmeeto.data.spec import DataSpec, Split


class Labelled(Protocol):
    """A set whose labels are known without reading images."""

    def __len__(self) -> int:
        """Number of images."""

    def targets(self) -> Sequence[int]:
        """Label of every image."""


def subset(images: Labelled, spec: DataSpec, split: Split) -> list[int] | None:
    """Places of the images to use, in their order; None for all."""
    if split == "train" and spec.train_share is not None:
        return class_share(images.targets(), spec.train_share, spec.subset_seed)
    limit, seed = (spec.train_limit, spec.subset_seed) if split == "train" else (spec.val_limit, 0)
    if limit is None or limit >= len(images):
        return None
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:limit]
    return _sorted(drawn)


def class_share(labels: Sequence[int], share: float, seed: int) -> list[int]:
    """A share of the images of every class, rounded to whole images and at least one, drawn at random.

    With one seed a larger share holds all images of a smaller one, so that runs on growing parts compare.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = torch.as_tensor(labels)[shuffled]
    chosen = []
    for label in by_class.unique():
        places = shuffled[by_class == label]
        chosen.append(places[: max(1, round(share * len(places)))])
    return _sorted(torch.cat(chosen))


def _sorted(places: Tensor) -> list[int]:
    found: list[int] = places.sort().values.tolist()
    return found
