"""Batches of pictures that are decoded and transformed one by one, here or in worker processes."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from rmeeto.data.augment import Transform, kept_generators, seed_generators
from rmeeto.data.bad_images import BadImage, BadImageError, BadImages
from rmeeto.data.images import ImageSet
from rmeeto.data.order import Order
from rmeeto.data.workers import leave_signals_to_parent, starting_workers
from rmeeto.errors import DataError, RmeetoError

_Key = tuple[Any, int]
_Sample = tuple[Tensor, int]
_Found = tuple[_Sample | None, tuple[BadImage, ...]]
# How many images in a row may be bad before the pass ends, whatever share of all may be.
_TRIES = 64
# Images and labels, None where none could be read, and what could not.
_Batch = tuple[Tensor | None, Tensor | None, tuple[BadImage, ...]]


@dataclass(frozen=True)
class Reading:
    """How images are read.

    Attributes:
        workers: processes that decode; 0 decodes here.
        prefetch: batches that each of them prepares ahead.
        bad: is told which images cannot be read, and says when they are too many.
        replaces: whether others take their place, as in training; else the batch is smaller.
    """

    workers: int = 0
    prefetch: int = 2
    bad: BadImages = field(default_factory=lambda: BadImages(0.0))
    replaces: bool = False


@final
class DecodedBatches:
    """Batches of (b, c, h, w) float32 normalised images and (b,) int64 labels.

    An image depends on its place, the seed and the epoch, not on the number of workers.

    An image that cannot be read is noted. Training puts the next readable one of the set in its place (of a stream,
    that of the batch), varied by the place's own seed: batches stay full, and a function of seed and epoch.
    Evaluation leaves it out.

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

    def skip(self, batches: int) -> None:
        """Leave out this many batches of the next pass; their images are not decoded."""
        self._batches.first = batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        with starting_workers():
            batches = iter(self._loader)
        for images, labels, bad in batches:
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
            return DataError(
                f"{bad[0]}, nor could the {len(set(bad)) - 1} others that were tried; repair or remove them"
            )
        return None

    def _new_loader(self) -> DataLoader[_Batch]:
        workers = self._reading.workers
        return DataLoader(
            self._pictures,  # type: ignore[arg-type]
            batch_sampler=self._batches,
            num_workers=workers,
            prefetch_factor=self._reading.prefetch if workers else None,
            pin_memory=torch.cuda.is_available(),
            collate_fn=functools.partial(_collate, whole=self._reading.replaces),
            persistent_workers=workers > 0,
            worker_init_fn=leave_signals_to_parent,
            # Every image brings its own seed; this generator only keeps the loader from drawing from the global one.
            generator=torch.Generator().manual_seed(0),
        )


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
            # The places of a stream are the samples themselves.
            places = indices.tolist() if isinstance(indices, Tensor) else indices
            yield list(zip(places, seeds.tolist(), strict=True))


@final
class _Pictures(Dataset[_Found]):
    def __init__(self, images: ImageSet, transform: Transform, *, replaces: bool) -> None:
        self._images = images
        self._transform = transform
        self._replaces = replaces

    def __getitem__(self, key: _Key) -> _Found:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[_Key]) -> list[_Found]:
        """A whole batch, which is how torch asks where it can."""
        with kept_generators():
            return [self._found(number, keys) for number in range(len(keys))]

    def _found(self, number: int, keys: list[_Key]) -> _Found:
        """The sample of one place, or of the first that can be read of those that follow, and all that could not."""
        place, seed = keys[number]
        others = _following(place, len(self._images), number, keys) if self._replaces else ()
        bad: list[BadImage] = []
        for candidate in (place, *others):
            try:
                image, label = self._images.read(candidate)
            except BadImageError as error:  # a value on its way out of a worker, where torch adds a page of traceback
                bad.append(error.bad)
                continue
            seed_generators(seed)
            return (self._transform(image), label), tuple(bad)
        return None, tuple(bad)


def _following(place: Any, images: int, number: int, keys: list[_Key]) -> Iterable[Any]:
    """What may be shown in the place of an image that cannot be read.

    In a numbered set that depends on no batch, so that it is the same on any number of processes.
    """
    if isinstance(place, int):
        return ((place + step) % images for step in range(1, min(images, _TRIES)))
    return [keys[(number + step) % len(keys)][0] for step in range(1, len(keys))]


def _collate(found: list[_Found], *, whole: bool) -> _Batch:
    samples, bad = [sample for sample, _ in found if sample], tuple(b for _, several in found for b in several)
    if not samples or (whole and len(samples) < len(found)):
        return None, None, bad
    images, labels = default_collate(samples)
    return images, labels, bad
