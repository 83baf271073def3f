"""From what the user wrote to one place that timm can open: paths, splits, names of readers."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from tarfile import TarError
from typing import Any

from timm.data import create_dataset
from timm.data.readers.img_extensions import IMG_EXTENSIONS

from rmeeto.data.names import PART_FOLDERS, TRAIN_FOLDERS, is_hidden, names_of
from rmeeto.data.spec import DataSpec, Split
from rmeeto.data.visible import VisibleFolder
from rmeeto.errors import DataError

# timm's prefixes, each with the library that is imported for it.
_READERS = {"torch": "torchvision", "hfds": "datasets", "hfids": "datasets", "wds": None}
# torchvision's folder of class folders, and its sets of two halves, of which timm takes the second for any other word.
_TORCH_FOLDERS = ("torch/folder", "torch/image_folder")
_TORCH_HALVES = tuple(f"torch/{name}" for name in ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist"))
# Where ImageNet's own archive and Kaggle's copy keep train/ and val/.
_IMAGENET = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")


@dataclass(frozen=True)
class Source:
    """One part of a set, in timm's terms.

    Attributes:
        spelling: what the user wrote.
        reader: "demo", a name of timm's readers, "wds" for shards, or "" for a folder or a tar.
        root: folder or file; None where the reader needs none.
        split: name of the part, for named readers.
    """

    spelling: str
    reader: str
    root: str | None
    split: str

    @property
    def name(self) -> str:
        """What messages call it: the folder, or what the user wrote and the part."""
        if not self.reader or self.reader == "demo":
            return self.root or self.spelling
        return f"{self.spelling} {self.split}".rstrip() if self.split else f"{self.spelling} (validation)"

    @property
    def streams(self) -> bool:
        """Whether its images can only be read one after another."""
        return self.reader.startswith("hfids/") or (self.reader == "wds" and _is_address(self.root or ""))


def locate(spec: DataSpec, split: Split) -> Source:
    """Find where the training or validation images are.

    Raises:
        DataError: the path is missing, or holds no such part, or the reader is unknown or needs a library.
    """
    separate = split == "val" and spec.val_data is not None
    spelling = spec.val_data if separate and spec.val_data else spec.data
    asked = spec.train_split if split == "train" else spec.val_split
    if spelling == "demo":
        return Source(spelling, "demo", None, _half(spelling, split, asked))
    prefix = spelling.partition("/")[0].lower()
    if prefix == "tfds" and not Path(spelling).exists():
        raise DataError(f"data {spelling!r} needs TensorFlow, which is not read here; most such sets are in hfds/ too")
    if prefix == "wds" and not Path(spelling).exists():
        return _shards(spelling, asked or "")
    if prefix in _READERS and not Path(spelling).exists():
        return _named(spelling, prefix, split, asked, separate=separate)
    path = _existing(spelling)
    if path.is_dir():
        path = _part_of_folder(path, split, asked, separate=separate)
    elif split == "val" and not separate:
        raise DataError(f"{spelling} is one tar of training images; name the validation images with --val-data")
    return Source(spelling, "", str(path), split)


def open_source(source: Source, spec: DataSpec) -> Any:
    """Make timm's data set.

    Raises:
        DataError: timm's reader refuses: nothing there, no image, an unknown name, a broken tar.
    """
    keys = {"input_key": spec.input_key, "target_key": spec.target_key} if source.reader.startswith("hfds/") else {}
    try:
        if source.reader in _TORCH_FOLDERS:
            return VisibleFolder(source.root or "")
        opened = create_dataset(
            source.reader, root=source.root, split=source.split, search_split=False, download=False, **keys
        )
    except (OSError, RuntimeError, AssertionError, ValueError, TarError, ImportError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise DataError(f"data {source.spelling} cannot be opened ({reason}); {_cure(source)}") from None
    if keys:
        _require_columns(opened.reader.dataset, source, spec)
    return opened


def _require_columns(table: Any, source: Source, spec: DataSpec) -> None:
    """The reader finds out late that a column is missing: it makes one of images itself, all of them None."""
    image, label = spec.input_key or "image", spec.target_key or "label"
    first = table[0] if len(table) else {}
    others = ", ".join(name for name in table.column_names if first.get(name) is not None)
    for column, option in ((image, "--input-key"), (label.split("/")[0], "--target-key")):
        if len(table) and first.get(column) is None:
            raise DataError(f"data {source.spelling} has no column {column!r} among {others}; name one with {option}")


def _cure(source: Source) -> str:
    if not source.reader:
        return "it must hold images, those of a class in one folder"
    if source.reader.startswith("torch/"):
        return "write torch/NAME:FOLDER with the folder that torchvision keeps the set in; nothing is downloaded"
    return f"check the name, and that it has a part {source.split!r} (--train-split, --val-split)"


def _named(spelling: str, prefix: str, split: Split, asked: str | None, *, separate: bool) -> Source:
    name, _, root = spelling.partition(":")
    _require(_READERS[prefix], spelling)
    if prefix == "torch" and not root:
        raise DataError(f"data {spelling!r} names no folder; write {name}:FOLDER with the one torchvision keeps it in")
    part = asked or "validation"
    if name.lower() in _TORCH_FOLDERS:
        place = _part_of_folder(_existing(root), split, asked, separate=separate)
        return Source(spelling, name.lower(), str(place), part)
    if name.lower() in _TORCH_HALVES:
        _half(spelling, split, asked)
    return Source(spelling, name, root or None, part)


def _half(spelling: str, split: Split, asked: str | None) -> Split:
    """Which part of a set that has two: what is not called training would be the other one, whatever was meant."""
    if not asked:
        return split
    if asked not in PART_FOLDERS:
        raise DataError(f"data {spelling} has no part {asked!r}; it has train and test: leave --{split}-split out")
    return "train" if asked in TRAIN_FOLDERS else "val"


def _shards(spelling: str, split: str) -> Source:
    """wds/FOLDER, wds/:FOLDER or the same with an address."""
    root = spelling.partition("/")[2].removeprefix(":")
    if _is_address(root):
        _require("webdataset", spelling)
    elif not Path(root).is_dir():
        raise DataError(f"data {spelling!r} names no folder of shards; write wds/FOLDER, or wds/ and an address")
    return Source(spelling, "wds", root, split)


def _is_address(root: str) -> bool:
    return "://" in root or root.startswith("pipe:")


def _require(library: str | None, spelling: str) -> None:
    if library is not None and importlib.util.find_spec(library) is None:
        raise DataError(f"data {spelling!r} needs the library {library!r}; install it with pip, or as rmeeto[datasets]")


def _existing(spelling: str) -> Path:
    path = Path(spelling)
    if not path.exists():
        known = ", ".join(f"{prefix}/" for prefix in _READERS)
        raise DataError(
            f"data {spelling!r} does not exist; give a folder, a .tar, 'demo', or a name that starts with {known}"
        )
    if path.is_file() and path.suffix != ".tar":
        raise DataError(f"data {spelling!r} is a file, but no .tar; give a folder or an uncompressed .tar")
    return path


def _part_of_folder(root: Path, split: Split, asked: str | None, *, separate: bool) -> Path:
    """The folder of one part: root/train and the like where it exists, else the root itself where that is meant."""
    names = names_of(split, asked)
    for place in _IMAGENET:
        for name in names:
            if (root / place / name).is_dir() and not _is_class(root / place / name):
                return root / place / name
    if asked in (None, *names_of(split, None)) and (handed_out := root / f"ILSVRC2012_img_{split}.tar").is_file():
        return handed_out
    if names == (asked,):
        raise DataError(f"folder {root} has no part {asked}/; name another with --{split}-split, or leave it out")
    parts = (root / name for name in PART_FOLDERS)
    others = [part.name for part in parts if part.is_dir() and not _is_class(part)]
    if split == "val" and not separate:
        raise DataError(
            f"folder {root} has no validation images in val/ or test/; name their folder or tar with --val-data"
        )
    if others:
        raise DataError(f"folder {root} holds {others[0]}/ but no {names[0]}/; name the folder of the classes itself")
    return root


def _is_class(folder: Path) -> bool:
    """Whether a folder named as a part is a class like those beside it: it holds no folder, and they hold images."""
    if any(path.is_dir() for path in folder.iterdir()):
        return False
    beside = (path for path in folder.parent.iterdir() if path.is_dir() and not is_hidden(path.name))
    classes = (path for path in beside if path.name not in PART_FOLDERS)
    return any(path.suffix.lower() in IMG_EXTENSIONS for each in classes for path in each.iterdir())
