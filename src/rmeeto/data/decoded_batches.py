"""Batches of pictures that are decoded and transformed one by one, here or in worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from rmeeto.data.augment import Transform, kept_generators, seed_generators
from rmeeto.data.bad_images import BadImage, BadImageError, BadImages
from rmeeto.data.images import ImageSet
from rmeeto.data.order import Order
from rmeeto.errors import DataError, RmeetoError

_Key = tuple[int, int]
_Sample = tuple[Tensor, int]
# Images and labels, None where none could be read, and what could not.
_Batch = tuple[Tensor | None, Tensor | None, tuple[BadImage, ...]]


@dataclass(frozen=True)
class Reading:
    """How images are read.

    Attributes:
        workers: processes that decode; 0 decodes here.
        prefetch: batches that each of them prepares ahead.
        bad: is told which images cannot be read, and says when they are too many.
        replaces: whether others of their batch take their place, as in training; else the batch is smaller.
    """

    workers: int = 0
    prefetch: int = 2
    bad: BadImages = field(default_factory=lambda: BadImages(0.0))
    replaces: bool = False


@final
class DecodedBatches:
    """Batches of (b, c, h, w) float32 normalised images and (b,) int64 labels.

    An image depends on its place, the seed and the epoch, not on the number of workers.

    An image that cannot be read is noted. Training puts the next readable one of the same batch in its place, varied
    by the place's own seed: batches stay full, and a function of seed and epoch. Evaluation leaves it out.

    Args:
        images: the set.
        transform: picture -> (c, h, w) float32.
        order: which images, in which order.
        batch_size: images per batch.
        reading: how they are read.
    """

    def __init__(self, images: ImageSet, transform: Transform, order: Order, batch_size: int, reading: Reading) -> None:
        self.num_images = len(order)
        self._order = order
        self._batches = _Batches(order, batch_size)
        self._reading = reading
        self._pictures = _Pictures(images, transform, replaces=reading.replaces)
        self._of = len(images)
        self._loader = self._new_loader()

    def __len__(self) -> int:
        return len(self._batches)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is: order and augmentation depend on it and on the seed alone."""
        self._order.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels, bad in self._loader:
            fault = self._fault(images, bad)
            if fault is not None:
                break
            if images is not None and labels is not None:
                yield images, labels
        else:
            return
        # Workers stop at once when their loader is let go here; inside a traceback they would be waited for.
        self._loader = self._new_loader()
        raise fault

    def _fault(self, images: Tensor | None, bad: tuple[BadImage, ...]) -> RmeetoError | None:
        """Why the pass must end after this batch, if it must."""
        try:
            for found in bad:
                self._reading.bad.note(found, self._of)
        except RmeetoError as error:
            return error
        if images is None and self._reading.replaces:
            return DataError(f"{bad[0]}, nor any other of its batch of {len(bad)}; repair or remove them")
        return None

    def _new_loader(self) -> DataLoader[_Batch]:
        workers = self._reading.workers
        return DataLoader(
            self._pictures,  # type: ignore[arg-type]
            batch_sampler=self._batches,
            num_workers=workers,
            prefetch_factor=self._reading.prefetch if workers else None,
            pin_memory=torch.cuda.is_available(),
            collate_fn=_collate,
            persistent_workers=workers > 0,
            # Every image brings its own seed; this generator only keeps the loader from drawing from the global one.
            generator=torch.Generator().manual_seed(0),
        )


@final
class _Batches(Sampler[list[_Key]]):
    def __init__(self, order: Order, size: int) -> None:
        self._order = order
        self._size = size

    def __len__(self) -> int:
        return self._order.batches(self._size)

    def __iter__(self) -> Iterator[list[_Key]]:
        for indices, seeds in self._order.in_batches(self._size):
            yield list(zip(indices.tolist(), seeds.tolist(), strict=True))


@final
class _Pictures(Dataset[tuple[_Sample | None, BadImage | None]]):
    def __init__(self, images: ImageSet, transform: Transform, *, replaces: bool) -> None:
        self._images = images
        self._transform = transform
        self._replaces = replaces

    def __getitem__(self, key: _Key) -> tuple[_Sample | None, BadImage | None]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[_Key]) -> list[tuple[_Sample | None, BadImage | None]]:
        """A whole batch, which is how torch asks where it can."""
        with kept_generators():
            read = [self._read(*key) for key in keys]
            if not self._replaces:
                return read
            return [found if found[0] else self._replaced(place, keys, read) for place, found in enumerate(read)]

    def _read(self, index: int, seed: int) -> tuple[_Sample | None, BadImage | None]:
        """An error is a value on its way out of a worker: raised there, torch would wrap it in a page of traceback."""
        try:
            image, label = self._images.read(index)
        except BadImageError as error:
            return None, error.bad
        seed_generators(seed)
        return (self._transform(image), label), None

    def _replaced(
        self, place: int, keys: list[_Key], read: list[tuple[_Sample | None, BadImage | None]]
    ) -> tuple[_Sample | None, BadImage | None]:
        """The next readable image of the batch, the first one following the last."""
        following = (*range(place + 1, len(keys)), *range(place))
        other = next((other for other in following if read[other][0] is not None), None)
        sample = None if other is None else self._read(keys[other][0], keys[place][1])[0]
        return sample, read[place][1]


def _collate(read: list[tuple[_Sample | None, BadImage | None]]) -> _Batch:
    samples, bad = [sample for sample, _ in read if sample], tuple(found for _, found in read if found)
    if not samples:
        return None, None, bad
    images, labels = default_collate(samples)
    return images, labels, bad
