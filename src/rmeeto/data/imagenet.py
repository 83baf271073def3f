"""ImageNet's validation images as they are handed out: one flat folder, their classes in a list beside it."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import IO, final

from timm.utils.misc import natural_key

from rmeeto.errors import DataError

_SUFFIXES = (".jpeg", ".jpg", ".png")
_WHERE = 4  # ILSVRC/Data/CLS-LOC/val: the list may lie beside any of these


@final
class FlatReader:
    """Numbered pairs of an open file and a label, as timm's readers are.

    Args:
        root: the folder of the images.
        synsets: file name without suffix -> class name.
        classes: names of all classes, in the order of their labels.

    Raises:
        DataError: an image is in no list, or its class is none of the training images'.
    """

    def __init__(self, root: Path, synsets: dict[str, str], classes: list[str]) -> None:
        self.class_to_idx = {name: label for label, name in enumerate(classes)}
        self._paths = flat_images(root)
        self.targets = [self._label(path, synsets) for path in self._paths]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[IO[bytes], int]:
        return self._paths[index].open("rb"), self.targets[index]

    def filename(self, index: int) -> str:
        """Name of one image."""
        return self._paths[index].name

    def _label(self, path: Path, synsets: dict[str, str]) -> int:
        name = synsets.get(path.stem)
        if name is None:
            raise DataError(f"image {path} is not in the list of validation classes beside it; complete the list")
        if name not in self.class_to_idx:
            raise DataError(f"image {path} is of class {name}, which has no folder of training images")
        return self.class_to_idx[name]


def flat_images(root: Path) -> list[Path]:
    """The images that lie in the folder itself, by name."""
    return sorted(path for path in root.iterdir() if path.suffix.lower() in _SUFFIXES and path.is_file())


def is_flat(root: Path) -> bool:
    """Whether a folder holds images and no folders of classes."""
    if not root.is_dir():
        return False
    entries = list(root.iterdir())
    return any(path.suffix.lower() in _SUFFIXES for path in entries) and not any(path.is_dir() for path in entries)


def open_flat(root: Path, train: Path | None) -> FlatReader:
    """Read a flat folder of validation images.

    Args:
        root: the folder.
        train: the training images' folder, whose class folders say which classes there are; None where there is none.

    Raises:
        DataError: no list of classes lies beside it, or one is broken.
    """
    folder = root.resolve()
    for place in (folder, *list(folder.parents)[:_WHERE]):
        for name, read in _LISTS.items():
            if (place / name).is_file():
                synsets = read(place / name, flat_images(root))
                return FlatReader(root, synsets, _classes(train, synsets))
    raise DataError(
        f"folder {root} holds validation images without folders of classes, and none of {', '.join(_LISTS)} lies "
        "beside it; put one there, or move each image into the folder of its class"
    )


def _classes(train: Path | None, synsets: dict[str, str]) -> list[str]:
    folders = [path.name for path in train.iterdir() if path.is_dir()] if train and train.is_dir() else []
    return sorted(folders or set(synsets.values()), key=natural_key)


def _solution(path: Path, _images: list[Path]) -> dict[str, str]:
    """Kaggle's: ImageId,PredictionString, where the string is "class x y x y ..."."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    except (KeyError, IndexError, AttributeError):
        raise DataError(f"{path} has no columns ImageId and PredictionString of classes; fetch it again") from None


def _one_a_line(path: Path, images: list[Path]) -> dict[str, str]:
    """One class a line, in the order of the images' names."""
    lines = path.read_text(encoding="utf-8").split()
    if len(lines) != len(images):
        raise DataError(f"{path} names the classes of {len(lines)} images and there are {len(images)}; complete either")
    return {image.stem: line for image, line in zip(images, lines, strict=True)}


_LISTS: dict[str, Callable[[Path, list[Path]], dict[str, str]]] = {
    "LOC_val_solution.csv": _solution,
    "imagenet_2012_validation_synset_labels.txt": _one_a_line,
}
