"""Which images an epoch shows, in which order: a function of seed and epoch alone, so that a run can resume.

The order is cut into training steps first, and each step's images are dealt to its batches and processes: a step
has the same images, augmented alike and in the same pairs, on any number of processes.
"""

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

    def in_batches(self, size: int, first: int = 0) -> Iterator[tuple[Any, Tensor]]:
        """Pairs of (b,) int64 indices, or a list of b samples, and (b,) int64 seeds, one for each augmentation.

        Args:
            size: images of one pair.
            first: pairs before this one are left out.
        """

    def batches(self, size: int) -> int:
        """How many pairs `in_batches` gives."""


@final
class ShuffledOrder:
    """Every image once in an epoch, or with `repeats` some of them several times in an epoch of equal length.

    Images that fill no whole batch are left out (other ones in each epoch), unless there is no whole batch.

    Args:
        images: number of images.
        seed: of order and augmentation.
        share: the part of this process; all parts are of equal length. Two images that stand equally far from the
            two ends of a step stay together and keep that place, so a batch that is mixed with its own reverse mixes
            the pairs that the whole step would.
        repeats: times that each drawn image appears (Hoffer et al., arXiv 1901.09335).
    """

    def __init__(self, images: int, seed: int, share: Share, repeats: int = 1) -> None:
        self._images = images
        self._seed = seed
        self._share = share
        self._sampler = (
            RepeatAugSampler(range(images), num_replicas=1, rank=0, num_repeats=repeats, selected_round=0)
            if repeats > 1
            else None
        )
        self._epoch = 0

    def __len__(self) -> int:
        return self._total // self._share.count

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is."""
        self._epoch = epoch

    def in_batches(self, size: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of (b,) int64 indices and (b,) int64 seeds."""
        generator = torch.Generator().manual_seed(seed_of(self._seed, self._epoch))
        indices = self._drawn(generator)
        seeds = torch.randint(2**32, (len(indices),), generator=generator)
        for number in range(first, self.batches(size)):
            places = self._places(number, size)
            yield indices[places], seeds[places]

    def batches(self, size: int) -> int:
        """How many pairs `in_batches` gives."""
        return max(self._total // self._step(size) * self._share.accumulate, 1)

    @property
    def _total(self) -> int:
        """Images of an epoch, those of all processes."""
        return len(self._sampler) if self._sampler else self._images

    def _step(self, size: int) -> int:
        """Images of one training step."""
        return size * self._share.count * self._share.accumulate

    def _places(self, number: int, size: int) -> Tensor:
        """Where in the epoch the images of this process's `number`-th batch stand."""
        share, step = self._share, self._step(size)
        if self._total < step:
            return torch.arange(share.index, self._total, share.count)[:size]
        before, micro = divmod(number, share.accumulate)
        return before * step + places_in_step(share, micro, size)

    def _drawn(self, generator: torch.Generator) -> Tensor:
        if self._sampler is None:
            return torch.randperm(self._images, generator=generator)
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

    def in_batches(self, size: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of (b,) int64 indices and (b,) int64 seeds."""
        for indices in self._indices[first * size :].split(size):
            if len(indices):
                yield indices, indices

    def batches(self, size: int) -> int:
        """How many pairs `in_batches` gives."""
        return -(-len(self) // size)


def places_in_step(share: Share, micro: int, size: int) -> Tensor:
    """(b,) int64: where in a training step the images of one process's `micro`-th batch of `size` images stand."""
    step = size * share.count * share.accumulate
    part = micro * share.count + share.index
    from_both_ends = torch.stack((torch.arange(step), torch.arange(step).flip(0)), dim=1).flatten()
    return from_both_ends[part * size : (part + 1) * size].sort().values


def seed_of(seed: int, epoch: int) -> int:
    """One number below 2**32 for a pair (torch's generator reads no more of it than that)."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])
