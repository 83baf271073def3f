"""Opened sets of images: what a name or a path turns into, one image at a time or all of them as a tensor."""

from __future__ import annotations

import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import torch
from PIL import Image
from torch import Tensor

from rmeeto.data.bad_images import BadImage, BadImageError
from rmeeto.data.decoding import UNREADABLE, decode, plain_picture, reason_of
from rmeeto.data.demo_set import DEMO_CLASSES, demo_arrays
from rmeeto.data.imagenet import is_flat, open_flat
from rmeeto.data.locate import Source, locate, open_source
from rmeeto.data.names import TRAIN_FOLDERS, VAL_FOLDERS
from rmeeto.data.readers import numbers_of, targets_of
from rmeeto.data.shards import ShardReader, find_shards
from rmeeto.data.spec import DataSpec, Split
from rmeeto.data.subset import subset
from rmeeto.data.visible import visible
from rmeeto.errors import DataError


class ImageSet(ABC):
    """Numbered images with labels: an interface.

    Attributes:
        name: what the user called it.
        class_names: one per label, in the order of the labels.
    """

    name: str
    class_names: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def read(self, index: int) -> tuple[Image.Image, int]:
        """Decode one image, grey or in colours, in its own size; its label.

        Raises:
            BadImageError: the image cannot be read; the message names the file.
        """

    @abstractmethod
    def targets(self) -> list[int]:
        """Label of every image; no image is read."""

    @abstractmethod
    def part(self, indices: Sequence[int]) -> ImageSet:
        """The images at these places, as a set."""


@final
class ArrayImages(ImageSet):
    """Images that are all held in memory.

    Args:
        name: what the user called it.
        class_names: one per label.
        images: (n, 1 or 3, h, w) uint8.
        labels: (n,) int64.
    """

    def __init__(self, name: str, class_names: Sequence[str], images: Tensor, labels: Tensor) -> None:
        self.name = name
        self.class_names = tuple(class_names)
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Make a picture of one image; its label."""
        pixels = self.images[index]
        pixels = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
        return Image.fromarray(pixels.numpy()), int(self.labels[index])

    def targets(self) -> list[int]:
        """Label of every image."""
        return list(map(int, self.labels.tolist()))

    def part(self, indices: Sequence[int]) -> ArrayImages:
        """The images at these places, as a set."""
        chosen = torch.as_tensor(indices)
        return ArrayImages(self.name, self.class_names, self.images[chosen], self.labels[chosen])


@final
class FileImages(ImageSet):
    """Images that one of timm's readers finds in a folder, a tar or a cache of a hub.

    timm's own data set replaces an unreadable image by its neighbour; here it is an error that names the file.

    Args:
        name: where it is: its folder or tar, or what the user called it.
        reader: a timm reader: numbered pairs of an open file and a label.
        indices: places to use; None means all.
    """

    def __init__(self, name: str, reader: Any, indices: Sequence[int] | None = None) -> None:
        self.name = name
        self.class_names = _class_names(reader)
        self._reader = reader
        self._indices = range(len(reader)) if indices is None else indices
        self._process = os.getpid()
        weakref.finalize(self, _close_tar, reader)

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Decode one image; its label."""
        self._reopen_after_fork()
        try:
            file, label = self._reader[self._indices[index]]
            with file:
                return decode(file), int(label)
        except UNREADABLE as error:
            raise BadImageError(BadImage(self.name, self.filename(index), reason_of(error))) from None

    def targets(self) -> list[int]:
        """Label of every image."""
        every = targets_of(self._reader)
        return [every[place] for place in self._indices]

    def part(self, indices: Sequence[int]) -> FileImages:
        """The images at these places, as a set."""
        return FileImages(self.name, self._reader, [self._indices[i] for i in indices])

    def filename(self, index: int) -> str:
        """Path of one image inside its set; its number where it has none, as in a table."""
        place = self._indices[index]
        try:
            return str(self._reader.filename(place) or place)
        except UNREADABLE:
            return str(place)

    def __getstate__(self) -> dict[str, Any]:
        # An open tar cannot be sent to a worker; it is opened again at the next read.
        _close_tar(self._reader)
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        weakref.finalize(self, _close_tar, self._reader)

    def _reopen_after_fork(self) -> None:
        # A tar that was open when workers were forked has one file offset for all of them.
        if self._process != os.getpid():
            self._process = os.getpid()
            _close_tar(self._reader)


@final
class TorchImages(ImageSet):
    """Images of a torchvision set that are files on disk.

    Args:
        name: what the user called it.
        pairs: a torchvision data set: numbered pairs of a picture and a label.
        indices: places to use; None means all.
    """

    def __init__(self, name: str, pairs: Any, indices: Sequence[int] | None = None) -> None:
        self.name = name
        self.class_names = tuple(str(c[0] if isinstance(c, tuple) else c) for c in pairs.classes)
        self._pairs = pairs
        if hasattr(pairs, "loader"):
            pairs.loader = plain_picture
        self._indices = range(len(pairs)) if indices is None else indices

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int) -> tuple[Image.Image, int]:
        """Decode one image; its label."""
        try:
            image, label = self._pairs[self._indices[index]]
        except UNREADABLE as error:
            raise BadImageError(BadImage(self.name, self.filename(index), reason_of(error))) from None
        return image, int(label)

    def targets(self) -> list[int]:
        """Label of every image."""
        every = getattr(self._pairs, "targets", None)
        return [int(self._pairs[i][1] if every is None else every[i]) for i in self._indices]

    def filename(self, index: int) -> str:
        """Path of one image, or its number in a set that has none."""
        place = self._indices[index]
        samples = getattr(self._pairs, "samples", None) or getattr(self._pairs, "imgs", None)
        return str(place if samples is None else os.path.relpath(samples[place][0], self._pairs.root))

    def part(self, indices: Sequence[int]) -> TorchImages:
        """The images at these places, as a set."""
        return TorchImages(self.name, self._pairs, [self._indices[i] for i in indices])


def open_numbered(source: Source, spec: DataSpec, split: Split) -> ImageSet:
    """Open a set whose images can be asked for by number, or the part of it that is wanted.

    Raises:
        DataError: it is missing, empty, or of a kind that cannot be opened here.
    """
    images = _open(source, spec, split)
    if "" in images.class_names:
        raise DataError(f"{images.name} has images beside its class folders; put each image in the folder of a class")
    return images if (part := subset(images, spec, split)) is None else images.part(part)


def _open(source: Source, spec: DataSpec, split: Split) -> ImageSet:
    if source.reader == "demo":
        return ArrayImages("demo", DEMO_CLASSES, *demo_arrays("train" if source.split == "train" else "val"))
    if source.reader == "wds":
        return FileImages(source.name, ShardReader(find_shards(Path(source.root or ""), source.split, split)))
    if not source.reader and split == "val" and is_flat(Path(source.root or "")):
        return FileImages(str(source.root), open_flat(Path(source.root or ""), _train_folder(spec)))
    opened = open_source(source, spec)
    if hasattr(opened, "reader"):
        images = FileImages(source.name, opened.reader if source.reader else visible(opened.reader))
        if not source.reader:
            _require_one_part(images)
        return images
    if hasattr(opened, "data") and hasattr(opened, "targets"):
        return _held_in_memory(source.name, opened)
    return TorchImages(source.name, opened)


def _train_folder(spec: DataSpec) -> Path | None:
    """Where the training images are; None where only others are asked for."""
    try:
        return Path(locate(spec, "train").root or "")
    except DataError:
        return None


def _require_one_part(images: FileImages) -> None:
    """A tar of a whole folder would mix training and validation images without a word."""
    above = {parts[-3] for index in range(len(images)) if len(parts := images.filename(index).split("/")) > 2}
    mixed = [name for names in (TRAIN_FOLDERS, VAL_FOLDERS) for name in names if name in above]
    if len(mixed) > 1:
        raise DataError(f"{images.name} holds several parts ({', '.join(mixed)}); give each a folder or tar of its own")


def _held_in_memory(name: str, opened: Any) -> ArrayImages:
    """torchvision keeps small sets as (n, h, w) or (n, h, w, 3) bytes."""
    images = torch.as_tensor(opened.data)
    images = images.unsqueeze(1) if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()
    labels = torch.as_tensor(opened.targets).long()
    return ArrayImages(name, opened.classes, images, labels if labels.ndim == 1 else labels[:, 0])  # QMNIST's classes


def _close_tar(reader: Any) -> None:
    """Close the tars that timm's reader keeps open, inner ones first; it opens them again when it needs them."""
    state = getattr(reader, "tar_state", None)
    if state is None or state.tf is None:
        return
    for each in (*state.children.values(), state):
        if each.tf is not None:
            each.tf.close()
            each.reset()


def _class_names(reader: Any) -> tuple[str, ...]:
    """A table of a hub may know no names."""
    if numbers := numbers_of(reader):
        return tuple(sorted(numbers, key=numbers.__getitem__))
    labels = set(targets_of(reader))
    if not all(isinstance(label, int) for label in labels):
        raise DataError(f"labels such as {next(iter(labels))!r} are no class numbers; name a set of integer labels")
    return tuple(str(label) for label in range(max(labels) + 1))
