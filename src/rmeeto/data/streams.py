"""Streams: images that come one after another and cannot be asked for by number.

The main process reads the undecoded bytes in the stream's order and deals them out; workers decode. So the order does
not depend on the number of workers, and the images of an epoch are a function of seed, epoch and share: of the same
stream read by the same libraries, that is, for its shards and their order are theirs. Shuffling is what a stream
allows: the order of the shards, and a buffer of neighbours.
"""

from __future__ import annotations

import io
import random
import tarfile
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import islice
from typing import Any, final

import torch
from PIL import Image
from torch import Tensor

from rmeeto.data.bad_images import BadImage, BadImageError
from rmeeto.data.decoding import UNREADABLE, decode, reason_of
from rmeeto.data.images import ImageSet
from rmeeto.data.names import is_hidden
from rmeeto.data.order import seed_of
from rmeeto.data.shards import IMAGE_SUFFIXES, LABEL_SUFFIX, label_of
from rmeeto.data.spec import Share
from rmeeto.errors import DataError

BUFFER = 2048


@dataclass(frozen=True)
class Sample:
    """One image as it came.

    Attributes:
        data: the file's bytes.
        label: its class.
        name: what the stream calls it.
    """

    data: bytes
    label: int
    name: str


class Stream(ABC):
    """Where samples come from: an interface."""

    @abstractmethod
    def samples(self, order: tuple[int, int] | None, share: Share) -> Iterator[Sample]:
        """One pass over the part of one process.

        Args:
            order: seed and epoch that shuffle; None keeps the stream's own order.
            share: of this process.
        """


@final
class HubStream(Stream):
    """A set of Hugging Face's `datasets`, read without being fetched first.

    Args:
        table: their IterableDataset, images undecoded.
        keys: columns of image and label.
    """

    def __init__(self, table: Any, keys: tuple[str, str]) -> None:
        self._table, self._keys = table, keys

    def samples(self, order: tuple[int, int] | None, share: Share) -> Iterator[Sample]:
        """One pass over the part of one process."""
        from datasets.distributed import split_dataset_by_node

        rows: Iterable[Any]
        if order is None:
            rows = _every(iter(self._table), share)
        else:
            rows = _shuffled_table(self._table, seed_of(*order))
            if share.count > 1:
                rows = split_dataset_by_node(rows, rank=share.index, world_size=share.count)
        for place, row in enumerate(rows):
            image = row[self._keys[0]]
            yield Sample(_bytes_of(image), int(row[self._keys[1]]), str(image["path"] or f"row {place}"))


@final
class ShardStream(Stream):
    """Shards of WebDataset behind an address: fetched as they are read.

    Args:
        urls: the shards: https://..., pipe:..., what the library opens.
    """

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = list(urls)

    def samples(self, order: tuple[int, int] | None, share: Share) -> Iterator[Sample]:
        """One pass over the part of one process: its turns, or, shuffled, its shards where there are enough of them."""
        generator = None if order is None else random.Random(seed_of(*order))
        urls = list(self._urls)
        if generator is None:
            return _every(self._read(urls), share)
        generator.shuffle(urls)
        # Shards of one size are needed for equal work; with fewer than processes each takes every count-th sample.
        whole = len(urls) >= share.count
        found = self._read(urls[share.index :: share.count]) if whole else _every(self._read(urls), share)
        return shuffled(found, generator)

    def _read(self, urls: Iterable[str]) -> Iterator[Sample]:
        for url in urls:
            yield from _read_shard(url)


@final
class StreamImages(ImageSet):
    """A stream of known length.

    Args:
        name: what the user called it.
        class_names: one per label.
        stream: where samples come from.
        size: images of one epoch.
    """

    def __init__(self, name: str, class_names: Sequence[str], stream: Stream, size: int) -> None:
        self.name = name
        self.class_names = tuple(class_names)
        self.stream = stream
        self._size = size

    def __len__(self) -> int:
        return self._size

    def read(self, index: Any) -> tuple[Image.Image, int]:
        """Decode one sample; a number is read from the beginning of the stream on."""
        sample = index
        if not isinstance(sample, Sample):
            sample = next(islice(self.stream.samples(None, Share()), index, None))
        try:
            return decode(io.BytesIO(sample.data)), sample.label
        except UNREADABLE as error:
            raise BadImageError(BadImage(self.name, sample.name, reason_of(error))) from None

    def targets(self) -> list[int]:
        """Unknown before the stream is read.

        Raises:
            DataError: always.
        """
        raise DataError(f"{self.name} is a stream: a part of it cannot be chosen; --train-size and --val-size cut it")

    def part(self, indices: Sequence[int]) -> StreamImages:  # noqa: ARG002  the face is ImageSet's
        """A stream has no part.

        Raises:
            DataError: always.
        """
        self.targets()
        raise AssertionError

    def __getstate__(self) -> dict[str, Any]:
        # A worker decodes what it is given and reads no stream.
        return {**self.__dict__, "stream": None}


@final
class StreamOrder:
    """The samples of a stream, batch by batch: an `Order` whose places bring their bytes.

    Args:
        images: the stream.
        share: the part of this process; all parts are of equal length in training.
        seed: of order and augmentation; None is evaluation: the stream's own order, each sample once.
        repeats: times that each drawn image appears, as in `ShuffledOrder`.
    """

    def __init__(self, images: StreamImages, share: Share, seed: int | None = None, repeats: int = 1) -> None:
        self._images, self._share, self._seed, self._repeats = images, share, seed, repeats
        self._epoch = 0

    def __len__(self) -> int:
        whole, rest = divmod(len(self._images), self._share.count)
        return whole + (self._seed is None and self._share.index < rest)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is."""
        self._epoch = epoch

    def batches(self, size: int) -> int:
        """How many pairs `in_batches` gives, at most in evaluation."""
        return -(-len(self) // size) if self._seed is None else max(len(self) // size, 1)

    def in_batches(self, size: int, first: int = 0) -> Iterator[tuple[list[Sample], Tensor]]:
        """Pairs of b samples and (b,) int64 seeds; what is left out is fetched, but not decoded."""
        if self._seed is None:
            samples, count = self._images.stream.samples(None, self._share), len(self)
            seeds = torch.arange(count)
        else:
            samples, count = self._endless((self._seed, self._epoch)), self.batches(size) * size
            generator = torch.Generator().manual_seed(seed_of(self._seed, self._epoch))
            seeds = torch.randint(2**32, (self._share.count, count), generator=generator)[self._share.index]
        deque(islice(samples, first * size), maxlen=0)
        for start in range(first * size, count, size):
            batch = list(islice(samples, min(size, count - start)))
            if not batch:
                return
            yield batch, seeds[start : start + len(batch)]

    def _endless(self, order: tuple[int, int]) -> Iterator[Sample]:
        """Pass after pass, where the stream is shorter than its epoch was said to be."""
        while True:
            empty = True
            for sample in self._images.stream.samples(order, self._share):
                empty = False
                yield from [sample] * self._repeats
            if empty:
                raise DataError(f"{self._images.name} gave no image to process {self._share.index}; name another part")


def _every(samples: Iterator[Any], share: Share) -> Iterator[Any]:
    """Every count-th: each process's evaluation reads all, for files of unequal length would lose images."""
    return islice(samples, share.index, None, share.count)


def shuffled(samples: Iterable[Sample], generator: random.Random) -> Iterator[Sample]:
    """Each sample changes places with one of a buffer of those that came before it."""
    buffer: list[Sample] = []
    for sample in samples:
        if len(buffer) < BUFFER:
            buffer.append(sample)
            continue
        place = generator.randrange(BUFFER)
        buffer[place], sample = sample, buffer[place]  # noqa: PLW2901
        yield sample
    generator.shuffle(buffer)
    yield from buffer


def _read_shard(url: str) -> Iterator[Sample]:
    import webdataset
    from webdataset.tariterators import group_by_keys, tar_file_iterator

    try:
        with webdataset.gopen(url) as file:
            for sample in group_by_keys(_with_address(tar_file_iterator(file), url)):
                suffix = next((key for key in sample if key.lower().rpartition(".")[2] in IMAGE_SUFFIXES), None)
                if suffix is not None:
                    name = f"{url.rpartition('/')[2]}/{sample['__key__']}"
                    yield Sample(sample[suffix], label_of(sample.get(LABEL_SUFFIX), name), f"{name}.{suffix}")
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DataError(f"shard {url} cannot be read ({error}); check the address, or fetch it first") from None


def _with_address(files: Iterable[dict[str, Any]], url: str) -> Iterator[dict[str, Any]]:
    """What webdataset's pairing expects of each file; hidden ones are left out."""
    return ({**file, "__url__": url} for file in files if not is_hidden(file["fname"]))


def _shuffled_table(table: Any, seed: int) -> Any:
    """The order of the files, and a buffer; one file at a time, for reading several takes threads that end late."""
    one = {"max_buffer_input_shards": 1} if "max_buffer_input_shards" in signature(table.shuffle).parameters else {}
    return table.shuffle(seed=seed, buffer_size=BUFFER, **one)


def _bytes_of(image: Any) -> bytes:
    """datasets gives the bytes, or where they lie."""
    if image["bytes"] is not None:
        return bytes(image["bytes"])
    with open(image["path"], "rb") as file:  # noqa: PTH123
        return file.read()
