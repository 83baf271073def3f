"""ImageNet's validation images as they are handed out: one flat folder or tar, their classes in a list beside it."""

from __future__ import annotations

import csv
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, final

from timm.utils.misc import natural_key

from rmeeto.data.names import is_hidden
from rmeeto.errors import DataError

_SUFFIXES = (".jpeg", ".jpg", ".png")
_TRUTH, _MEANINGS = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_WHERE = 4  # ILSVRC/Data/CLS-LOC/val: the list may lie beside any of these


@final
class FlatReader:
    """Numbered pairs of an open file and a label, as timm's readers are.

    Args:
        root: the folder of the images, or their tar.
        places: name of an image -> where it begins in the tar, and its size; None of a folder.
        synsets: file name without suffix -> class name.
        classes: names of all classes, in the order of their labels.

    Raises:
        DataError: an image is in no list, or its class is none of the training images'.
    """

    def __init__(
        self, root: Path, places: dict[str, tuple[int, int] | None], synsets: dict[str, str], classes: list[str]
    ) -> None:
        self.class_to_idx = {name: label for label, name in enumerate(classes)}
        self._root, self._places, self._names = root, places, list(places)
        self.targets = [self._label(name, synsets) for name in places]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> tuple[IO[bytes], int]:
        name = self._names[index]
        place = self._places[name]
        if place is None:
            return (self._root / name).open("rb"), self.targets[index]
        with self._root.open("rb") as tar:
            tar.seek(place[0])
            return io.BytesIO(tar.read(place[1])), self.targets[index]

    def filename(self, index: int) -> str:
        """Name of one image."""
        return self._names[index]

    def _label(self, image: str, synsets: dict[str, str]) -> int:
        name = synsets.get(Path(image).stem)
        if name is None:
            raise DataError(f"image {self._root / image} is not in the list of validation classes; complete the list")
        if name not in self.class_to_idx:
            raise DataError(f"image {self._root / image} is of class {name}, which has no folder of training images")
        return self.class_to_idx[name]


def is_flat(root: Path) -> bool:
    """Whether a folder or tar holds images and no folders of classes."""
    if root.is_dir():
        entries = list(root.iterdir())
        folders = any(path.is_dir() and not is_hidden(path.name) for path in entries)
        return any(_is_image(path.name) for path in entries) and not folders
    first = next(_members(root), None) if root.suffix == ".tar" else None  # all others are like it
    return first is not None and _is_image(first.name) and "/" not in _name(first)


def open_flat(root: Path, train: Path | None) -> FlatReader:
    """Read a flat folder or tar of validation images.

    Args:
        root: the folder or tar.
        train: the training images' folder or tar, which says which classes there are; None where there is none.

    Raises:
        DataError: no list of classes lies beside it, or one is broken.
    """
    found: dict[str, tuple[int, int] | None]
    if root.is_dir():
        found = {path.name: None for path in root.iterdir() if path.is_file()}
    else:
        found = {_name(each): (each.offset_data, each.size) for each in _members(root)}
    places = {name: found[name] for name in sorted(found) if _is_image(name)}
    here = root.resolve()
    for place in (here, *list(here.parents)[:_WHERE]):
        for name, read in _LISTS.items():
            if (place / name).is_file():
                synsets = read(place / name, list(places))
                classes = _classes(train) or set(synsets.values())
                return FlatReader(root, places, synsets, sorted(classes, key=natural_key))
    raise DataError(
        f"{root} holds validation images without folders of classes, and none of {', '.join(_LISTS)} lies beside it; "
        "put one there, or move each image into the folder of its class"
    )


def _classes(train: Path | None) -> set[str]:
    """Names of the folders, or of the tars in a tar: one a class."""
    if train is None or not train.exists():
        return set()
    if train.is_dir():
        return {path.name for path in train.iterdir() if path.is_dir() and not is_hidden(path.name)}
    return {
        Path(each.name).stem if each.name.endswith(".tar") else Path(each.name).parent.name for each in _members(train)
    }


def _members(tar: Path) -> Iterator[tarfile.TarInfo]:
    """The files of a tar that are not hidden.

    Raises:
        DataError: it is broken or compressed.
    """
    try:
        with tarfile.open(tar, "r:") as file:
            yield from (member for member in file if member.isfile() and not is_hidden(member.name))
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DataError(f"data {tar} cannot be opened ({error}); it must be a whole, uncompressed tar") from None


def _name(member: tarfile.TarInfo) -> str:
    return member.name.removeprefix("./")


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in _SUFFIXES and not is_hidden(name)


def _solution(path: Path, _images: list[str]) -> dict[str, str]:
    """Kaggle's: ImageId,PredictionString, where the string is "class x y x y ..."."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    except (KeyError, IndexError, AttributeError):
        raise DataError(f"{path} has no columns ImageId and PredictionString of classes; fetch it again") from None


def _one_a_line(path: Path, images: list[str]) -> dict[str, str]:
    """One class a line, in the order of the images' names."""
    return _by_name(path, path.read_text(encoding="utf-8").split(), images)


def _by_name(path: Path, lines: list[str], images: list[str]) -> dict[str, str]:
    if len(lines) != len(images):
        raise DataError(f"{path} names the classes of {len(lines)} images and there are {len(images)}; complete either")
    return {Path(image).stem: line for image, line in zip(images, lines, strict=True)}


def _devkit_folder(path: Path, images: list[str]) -> dict[str, str]:
    """The development kit, unpacked: numbers of classes, one a line, and what they mean."""
    return _numbered(path, path.read_text(encoding="utf-8"), (path.parent / _MEANINGS).read_bytes, images)


def _devkit_tar(path: Path, images: list[str]) -> dict[str, str]:
    """The development kit as it is handed out."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                name = Path(member.name).name
                if name in (_TRUTH, _MEANINGS) and (file := tar.extractfile(member)) is not None:
                    found[name] = file.read()
        return _numbered(path, found[_TRUTH].decode(), lambda: found[_MEANINGS], images)
    except (OSError, tarfile.TarError, EOFError, zlib.error, KeyError) as error:
        raise _broken(path, error) from None


def _numbered(path: Path, truth: str, meanings: Callable[[], bytes], images: list[str]) -> dict[str, str]:
    """Classes by the kit's own numbers, which are not the order of the folders."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise DataError(
            f"{path} numbers its classes in MATLAB's format; install scipy (or rmeeto[datasets]) to read it"
        ) from None
    try:
        rows = loadmat(io.BytesIO(meanings()), squeeze_me=True)["synsets"]
        name_of = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}
        lines = [name_of[int(line)] for line in truth.split()]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise _broken(path, error) from None
    return _by_name(path, lines, images)


def _broken(path: Path, error: BaseException) -> DataError:
    return DataError(f"development kit {path} cannot be read ({str(error).splitlines()[0]}); fetch it again")


_LISTS: dict[str, Callable[[Path, list[str]], dict[str, str]]] = {
    "LOC_val_solution.csv": _solution,
    "imagenet_2012_validation_synset_labels.txt": _one_a_line,
    f"ILSVRC2012_devkit_t12/data/{_TRUTH}": _devkit_folder,
    f"data/{_TRUTH}": _devkit_folder,
    "ILSVRC2012_devkit_t12.tar.gz": _devkit_tar,
}
