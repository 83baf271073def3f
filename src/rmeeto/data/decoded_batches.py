"""Batches of pictures that are decoded and transformed one by one, here or in worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from rmeeto.data.augment import Transform, kept_generators, seed_generators
from rmeeto.data.images import ImageSet
from rmeeto.data.order import Order
from rmeeto.errors import DataError

_Key = tuple[int, int]


@final
class DecodedBatches:
    """Batches of (b, c, h, w) float32 normalised images and (b,) int64 labels.

    An image depends on its place, the seed and the epoch, not on the number of workers.

    Args:
        images: the set.
        transform: picture -> (c, h, w) float32.
        order: which images, in which order.
        batch_size: images per batch.
        workers: processes that decode; 0 decodes here.
    """

    def __init__(self, images: ImageSet, transform: Transform, order: Order, batch_size: int, workers: int) -> None:
        self.num_images = len(order)
        self._order = order
        self._batches = _Batches(order, batch_size)
        self._pictures = _Pictures(images, transform)
        self._workers = workers
        self._loader = self._new_loader()

    def __len__(self) -> int:
        return len(self._batches)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is: order and augmentation depend on it and on the seed alone."""
        self._order.set_epoch(epoch)

    def skip(self, batches: int) -> None:
        """Leave out this many batches of the next pass; their images are not decoded."""
        self._batches.first = batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self._loader:
            if isinstance(batch, _Unreadable):
                break
            yield batch
        else:
            return
        # Workers stop at once when their loader is let go here; inside a traceback they would be waited for.
        self._loader = self._new_loader()
        raise DataError(batch.message)

    def _new_loader(self) -> DataLoader[tuple[Tensor, int] | _Unreadable]:
        return DataLoader(
            self._pictures,
            batch_sampler=self._batches,
            num_workers=self._workers,
            collate_fn=_collate,
            persistent_workers=self._workers > 0,
            # Every image brings its own seed; this generator only keeps the loader from drawing from the global one.
            generator=torch.Generator().manual_seed(0),
        )


@dataclass(frozen=True)
class _Unreadable:
    """An error on its way out of a worker: raised there, torch would wrap it in a page of traceback."""

    message: str


@final
class _Batches(Sampler[list[_Key]]):
    def __init__(self, order: Order, size: int) -> None:
        self._order = order
        self._size = size
        self.first = 0

    def __len__(self) -> int:
        return self._order.batches(self._size)

    def __iter__(self) -> Iterator[list[_Key]]:
        first, self.first = self.first, 0
        for indices, seeds in self._order.in_batches(self._size, first):
            yield list(zip(indices.tolist(), seeds.tolist(), strict=True))


@final
class _Pictures(Dataset[tuple[Tensor, int] | _Unreadable]):
    def __init__(self, images: ImageSet, transform: Transform) -> None:
        self._images = images
        self._transform = transform

    def __getitem__(self, key: _Key) -> tuple[Tensor, int] | _Unreadable:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[_Key]) -> list[tuple[Tensor, int] | _Unreadable]:
        """A whole batch, which is how torch asks where it can."""
        with kept_generators():
            return [self._sample(*key) for key in keys]

    def _sample(self, index: int, seed: int) -> tuple[Tensor, int] | _Unreadable:
        try:
            image, label = self._images.read(index)
        except DataError as error:
            return _Unreadable(str(error))
        seed_generators(seed)
        return self._transform(image), label


def _collate(samples: list[tuple[Tensor, int] | _Unreadable]) -> tuple[Tensor, Tensor] | _Unreadable:
    for sample in samples:
        if isinstance(sample, _Unreadable):
            return sample
    images, labels = default_collate(samples)
    return images, labels
