"""The door of this room: a DataSpec and an InputSpec in, batches out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from rmeeto.data.array_batches import ArrayBatches, fits
from rmeeto.data.augment import eval_transform, train_transform
from rmeeto.data.bad_images import BadImages
from rmeeto.data.decoded_batches import DecodedBatches, Reading
from rmeeto.data.images import ArrayImages, ImageSet
from rmeeto.data.opening import open_split
from rmeeto.data.order import Order, ShuffledOrder, StraightOrder
from rmeeto.data.spec import Augment, DataSpec, InputSpec, Share
from rmeeto.data.streams import StreamImages, StreamOrder
from rmeeto.errors import DataError

_WHOLE = Share()


@runtime_checkable
class Batches(Protocol):
    """What a training or evaluation loop walks over.

    Attributes:
        num_images: images of one pass, in this process, those of an unfilled last batch included.
    """

    num_images: int

    def __len__(self) -> int:
        """Batches of one pass."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of (b, c, h, w) float32 normalised images and (b,) int64 labels."""

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is: its images are a function of the seed and this number."""

    def skip(self, batches: int) -> None:
        """Leave out this many batches of the next pass, without reading their images."""


@dataclass(frozen=True)
class Data:
    """An opened pair of training and validation images.

    Attributes:
        spec: what was asked for.
        form: the images that the model takes.
        train: the training images.
        val: the validation images.
        bad: the images that could not be read so far.
    """

    spec: DataSpec
    form: InputSpec
    train: ImageSet
    val: ImageSet
    bad: BadImages = field(default_factory=lambda: BadImages(0.0))

    @property
    def class_names(self) -> tuple[str, ...]:
        """One per label; the same for training and validation."""
        return self.train.class_names

    @property
    def num_classes(self) -> int:
        """Number of classes, which the model's head must have."""
        return len(self.class_names)

    def train_batches(self, augment: Augment, seed: int, share: Share = _WHOLE) -> Batches:
        """Shuffled, augmented batches, all of `spec.batch_size` images.

        Args:
            augment: how the images vary.
            seed: of order and augmentation.
            share: the part of this process; `batch_size` is per process.

        Raises:
            DataError: while iterating, when too many images cannot be read.
        """
        order = _train_order(self.train, seed, share, augment.repeats)
        if isinstance(self.train, ArrayImages) and fits(self.train, self.form, augment):
            return ArrayBatches(self.train, self.form, order, self.spec.batch_size, augment)
        transform = train_transform(self.form, augment)
        reading = _reading(self.spec, self.bad, replaces=True)
        return DecodedBatches(self.train, transform, order, self.spec.batch_size, reading)

    def eval_batches(self, share: Share = _WHOLE) -> Batches:
        """The validation images, first to last, each once.

        Raises:
            DataError: while iterating, when too many images cannot be read.
        """
        return _eval_batches(self.val, self.spec, self.form, share, self.bad)


def open_data(spec: DataSpec, form: InputSpec) -> Data:
    """Open training and validation images.

    Raises:
        DataError: either is missing, empty, of one class only, or their classes differ.
    """
    train, val = open_split(spec, "train"), open_split(spec, "val")
    if train.class_names != val.class_names:
        raise DataError(_difference(train, val))
    return Data(spec, form, train, val, BadImages(spec.max_bad_images))


@dataclass(frozen=True)
class Validation:
    """Validation images alone.

    Attributes:
        images: the set.
        batches: all of it, first to last.
        bad: the images that could not be read so far.
    """

    images: ImageSet
    batches: Batches
    bad: BadImages

    @property
    def class_names(self) -> tuple[str, ...]:
        """One per label."""
        return self.images.class_names


def open_validation(spec: DataSpec, form: InputSpec, share: Share = _WHOLE) -> Validation:
    """Open the validation images alone.

    Raises:
        DataError: they are missing, empty or of one class only.
    """
    images, bad = open_split(spec, "val"), BadImages(spec.max_bad_images)
    return Validation(images, _eval_batches(images, spec, form, share, bad), bad)


def _train_order(images: ImageSet, seed: int, share: Share, repeats: int) -> Order:
    if isinstance(images, StreamImages):
        return StreamOrder(images, share, seed, repeats)
    return ShuffledOrder(len(images), seed, share, repeats)


def _reading(spec: DataSpec, bad: BadImages, *, replaces: bool) -> Reading:
    return Reading(spec.workers, spec.prefetch, bad, replaces)


def _eval_batches(images: ImageSet, spec: DataSpec, form: InputSpec, share: Share, bad: BadImages) -> Batches:
    order: Order = StraightOrder(len(images), share)
    if isinstance(images, StreamImages):
        order = StreamOrder(images, share)
    size = spec.val_batch_size or spec.batch_size
    if isinstance(images, ArrayImages) and fits(images, form, None):
        return ArrayBatches(images, form, order, size, Augment.none())
    return DecodedBatches(images, eval_transform(form), order, size, _reading(spec, bad, replaces=False))


def _difference(train: ImageSet, val: ImageSet) -> str:
    odd = sorted(set(train.class_names) ^ set(val.class_names))
    shown = ", ".join(odd[:3]) + (", ..." if len(odd) > 3 else "") if odd else "their order"
    return (
        f"{val.name.removesuffix(' (validation)')} (validation) has {len(val.class_names)} classes and "
        f"{train.name} (training) has "
        f"{len(train.class_names)}; they differ in {shown}; give both the same class folders"
    )
