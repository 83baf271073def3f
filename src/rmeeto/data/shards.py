"""Shards of WebDataset on a disk: tars of image and label side by side, indexed once and then read at any place.

A tar on a disk needs no streaming. Its index costs one pass over the headers and makes order, subsets, shares and
resuming those of a folder. (timm's own reader of shards skips what it cannot decode without a word.)
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from rmeeto.data.names import is_hidden, names_of
from rmeeto.data.spec import Split
from rmeeto.errors import DataError, RmeetoError
from rmeeto.records import read_json

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "ppm", "bmp", "gif", "tif", "tiff")
LABEL_SUFFIX = "cls"
_INFO = ("_info.json", "info.json")


@dataclass(frozen=True)
class _Place:
    """Where one image lies."""

    shard: int
    key: str
    offset: int
    size: int
    label: int


@final
class ShardReader:
    """Numbered pairs of an open file and a label, as timm's readers are.

    Args:
        shards: tars, in order.

    Raises:
        DataError: one is missing, broken or compressed, or an image has no label.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self.shards = [Path(shard) for shard in shards]
        self._places = [place for number, shard in enumerate(self.shards) for place in _indexed(number, shard)]
        self.targets = [place.label for place in self._places]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[io.BytesIO, int]:
        place = self._places[index]
        with self.shards[place.shard].open("rb") as file:
            file.seek(place.offset)
            return io.BytesIO(file.read(place.size)), place.label

    def filename(self, index: int) -> str:
        """Shard and name in it."""
        place = self._places[index]
        return f"{self.shards[place.shard].name}/{place.key}"


def find_shards(root: Path, asked: str | None, split: Split) -> list[Path]:
    """The shards of one part.

    Args:
        root: their folder.
        asked: what the user calls the part: a name, or shards such as train-{0000..0031}.tar.
        split: which part it is.

    Raises:
        DataError: there are none.
    """
    if asked and (".tar" in asked or ".." in asked):
        shards = [root / name for name in braces(asked.partition("|")[0])]
        if missing := [shard for shard in shards if not shard.is_file()]:
            raise DataError(f"shard {missing[0]} does not exist; name those that do, such as train-{{0000..0007}}.tar")
        return shards
    names = names_of(split, asked)
    for name in names:
        if shards := _listed(root, name) or _named(root, name):
            return shards
    raise DataError(
        f"folder {root} has no shards of {names[0]!r}, neither {names[0]}/*.tar nor *{names[0]}*.tar; name them, such "
        f"as --{split}-split '{names[0]}-{{0000..0007}}.tar'"
    )


def braces(pattern: str) -> list[str]:
    """part-{08..10}.tar -> part-08.tar, part-09.tar, part-10.tar; {a,b} lists; several multiply."""
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*))\}", pattern)
    if found is None:
        return [pattern]
    if found[1] is not None:
        middles = [str(number).zfill(len(found[1])) for number in range(int(found[1]), int(found[2]) + 1)]
    else:
        middles = found[3].split(",")
    return [found.string[: found.start()] + mid + rest for mid in middles for rest in braces(pattern[found.end() :])]


def _listed(root: Path, name: str) -> list[Path]:
    """What timm's and webdataset's info files say."""
    for info in _INFO:
        if (root / info).is_file():
            try:
                return [root / shard for shard in read_json(root / info)["splits"][name]["filenames"]]
            except (RmeetoError, KeyError, TypeError):
                continue
    return []


def _named(root: Path, name: str) -> list[Path]:
    """Those in a folder of this name, else those that have it as a word in theirs."""
    inside = sorted((root / name).glob("[!.]*.tar"))
    word = re.compile(rf"(^|[-_.]){re.escape(name)}([-_.]|$)")
    return inside or sorted(shard for shard in root.glob("[!.]*.tar") if word.search(shard.name))


def _indexed(number: int, shard: Path) -> Iterator[_Place]:
    try:
        with tarfile.open(shard, "r:") as tar:
            yield from _paired(number, shard, tar)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DataError(
            f"shard {shard} cannot be read ({error}); it must be a whole uncompressed tar: fetch or write it again"
        ) from None


def _paired(number: int, shard: Path, tar: tarfile.TarFile) -> Iterator[_Place]:
    """Members that share their name up to its first dot are one sample; they stand side by side."""
    stem, image, label = "", None, None
    for member in tar:
        if not member.isfile() or is_hidden(member.name):
            continue
        folder, _, base = member.name.rpartition("/")
        key, _, suffix = base.partition(".")
        here = f"{folder}/{key}"
        if here != stem:
            if image is not None:
                yield _place(number, shard, image, label)
            stem, image, label = here, None, None
        if suffix.lower().rpartition(".")[2] in IMAGE_SUFFIXES:
            image = image or member  # the first is the photograph, what follows are masks and the like
        elif suffix.lower() == LABEL_SUFFIX:
            file = tar.extractfile(member)
            label = None if file is None else file.read()
    if image is not None:
        yield _place(number, shard, image, label)


def _place(number: int, shard: Path, image: tarfile.TarInfo, label: bytes | None) -> _Place:
    return _Place(number, image.name, image.offset_data, image.size, label_of(label, f"{shard}: {image.name}"))


def label_of(text: bytes | None, name: str) -> int:
    """The class number that a .cls file holds.

    Raises:
        DataError: it holds none, or there is none.
    """
    try:
        label = int(text or b"")
    except ValueError:
        label = -1
    if label < 0:
        raise DataError(f"{name} has no class number in a .{LABEL_SUFFIX} file beside it; write the shards with one")
    return label
