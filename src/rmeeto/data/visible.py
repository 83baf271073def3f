"""What a reader found, without hidden files: macOS keeps ._0.png beside 0.png, notebooks and viewers keep copies."""

from __future__ import annotations

from typing import IO, Any, final

from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from rmeeto.data.names import is_hidden
from rmeeto.data.readers import numbers_of, targets_of
from rmeeto.errors import DataError


def visible(reader: Any) -> Any:
    """One of timm's readers of files, or what it holds whose name, and whose folders' names, begin with no dot.

    Raises:
        DataError: nothing is left.
    """
    root = str(reader.root)
    names = [reader.filename(place, absolute=True).removeprefix(root) for place in range(len(reader))]
    # Nearly all names are told by their look, which a million of them need.
    places = [n for n, name in enumerate(names) if not (name[:1] == "." or "/." in name) or not is_hidden(name)]
    if not places:
        raise DataError(f"{root} holds hidden images only, such as {names[0]}; give names that begin with no dot")
    return reader if len(places) == len(names) else VisibleReader(reader, places)


@final
class VisibleReader:
    """Numbered pairs of an open file and a label, as timm's readers are; classes are those of the images that are left.

    Args:
        reader: one of timm's, of a folder or a tar.
        places: of the images that are left, one or more, in its order.
    """

    def __init__(self, reader: Any, places: list[int]) -> None:
        self._reader, self._places = reader, places
        every, before = targets_of(reader), numbers_of(reader) or {}
        labels = {int(every[place]) for place in places}
        names = sorted((name for name, label in before.items() if label in labels), key=before.__getitem__)
        self.class_to_idx = {name: label for label, name in enumerate(names)}
        new = {int(before[name]): label for name, label in self.class_to_idx.items()}
        self.targets = [new[int(every[place])] for place in places]

    @property
    def tar_state(self) -> Any:
        """The tars that the reader keeps open, where it reads one."""
        return getattr(self._reader, "tar_state", None)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[IO[bytes], int]:
        file, _ = self._reader[self._places[index]]
        return file, self.targets[index]

    def filename(self, index: int) -> str:
        """Path of one image inside its set."""
        return str(self._reader.filename(self._places[index]))


@final
class VisibleFolder(ImageFolder):
    """torchvision's folder of class folders, its classes in its own order.

    Args:
        root: the folder.
    """

    def __init__(self, root: str) -> None:
        def shown(path: str) -> bool:
            return path.lower().endswith(IMG_EXTENSIONS) and not is_hidden(path.removeprefix(root))

        super().__init__(root, is_valid_file=shown)

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """The visible folders."""
        classes, _ = super().find_classes(directory)
        shown = [name for name in classes if not is_hidden(name)]
        return shown, {name: label for label, name in enumerate(shown)}
