"""Which images an epoch shows, in which order: a function of seed, epoch and share alone, so that a run can resume."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, final

import numpy as np
import torch
from timm.data.distributed_sampler import RepeatAugSampler
from torch import Tensor

from rmeeto.data.spec import Share


class Order(Protocol):
    """Which images, in which order."""

    def __len__(self) -> int:
        """Images of one pass."""

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is."""

    def in_batches(self, size: int) -> Iterator[tuple[Any, Tensor]]:
        """Pairs of (b,) int64 indices, or a list of b samples, and (b,) int64 seeds, one for each augmentation."""

    def batches(self, size: int) -> int:
        """How many pairs `in_batches` gives."""


@final
class ShuffledOrder:
    """Every image once in an epoch, or with `repeats` some of them several times in an epoch of equal length.

    Images that fill no whole batch are left out (other ones in each epoch), unless there is no whole batch.

    Args:
        images: number of images.
        seed: of order and augmentation.
        share: the part of this process; all parts are of equal length.
        repeats: times that each drawn image appears (Hoffer et al., arXiv 1901.09335).
    """

    def __init__(self, images: int, seed: int, share: Share, repeats: int = 1) -> None:
        self._images = images
        self._seed = seed
        self._share = share
        self._sampler = (
            RepeatAugSampler(range(images), num_replicas=share.count, rank=share.index, num_repeats=repeats)
            if repeats > 1
            else None
        )
        self._epoch = 0

    def __len__(self) -> int:
        return len(self._sampler) if self._sampler else self._images // self._share.count

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is."""
        self._epoch = epoch

    def in_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of (b,) int64 indices and (b,) int64 seeds."""
        generator = torch.Generator().manual_seed(seed_of(self._seed, self._epoch))
        indices = self._drawn(generator)
        # One row for all shares: two processes never augment with the same seeds.
        seeds = torch.randint(2**32, (self._share.count, len(indices)), generator=generator)[self._share.index]
        for start in range(0, self.batches(size) * size, size):
            yield indices[start : start + size], seeds[start : start + size]

    def batches(self, size: int) -> int:
        """How many pairs `in_batches` gives."""
        return max(len(self) // size, 1)

    def _drawn(self, generator: torch.Generator) -> Tensor:
        if self._sampler is None:
            every = torch.randperm(self._images, generator=generator)
            return every[self._share.index :: self._share.count][: len(self)]
        self._sampler.set_epoch(seed_of(self._seed, self._epoch))
        return torch.tensor(list(self._sampler))


@final
class StraightOrder:
    """Every image once, first to last; the last batch may be smaller, and shares may differ by one image.

    Args:
        images: number of images.
        share: the part of this process.
    """

    def __init__(self, images: int, share: Share) -> None:
        self._indices = torch.arange(share.index, images, share.count)

    def __len__(self) -> int:
        return len(self._indices)

    def set_epoch(self, epoch: int) -> None:
        """Nothing depends on it."""

    def in_batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of (b,) int64 indices and (b,) int64 seeds."""
        for indices in self._indices.split(size):
            yield indices, indices

    def batches(self, size: int) -> int:
        """How many pairs `in_batches` gives."""
        return -(-len(self) // size)


def seed_of(seed: int, epoch: int) -> int:
    """One number below 2**32 for a pair (torch's generator reads no more of it than that)."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])
