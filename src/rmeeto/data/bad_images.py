"""Images that cannot be read: counted, written down, borne up to a limit."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from rmeeto.errors import DataError, OutputError

BAD_IMAGES = "bad_images.jsonl"


@dataclass(frozen=True)
class BadImage:
    """One that could not be read.

    Attributes:
        data: the set it belongs to.
        path: where in the set.
        reason: in a few words.
    """

    data: str
    path: str
    reason: str

    def __str__(self) -> str:
        return f"image {self.path} of {self.data} cannot be read ({self.reason})"


class BadImageError(DataError):
    """An image cannot be read.

    Args:
        bad: which one, and why.
    """

    def __init__(self, bad: BadImage) -> None:
        super().__init__(f"{bad}; repair or remove it")
        self.bad = bad


class BadImages:
    """What one process found in all parts of its data, each image once.

    Args:
        share: of a part's images that may be bad; one more ends the pass.
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._found: dict[tuple[str, str], BadImage] = {}
        self._file: Path | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._found)

    def keep_in(self, file: Path) -> None:
        """Write what was found, and what will be, as JSON lines; lines that stand there stay.

        Raises:
            OutputError: the file cannot be written.
        """
        with self._lock:
            self._file = file
            for bad in self._found.values():
                self._write(bad)

    def note(self, bad: BadImage, images: int) -> None:
        """Count one.

        Args:
            bad: which one; one that is known already changes nothing.
            images: how many its part holds.

        Raises:
            DataError: they are too many by now.
            OutputError: the file cannot be written.
        """
        with self._lock:
            if (bad.data, bad.path) in self._found:
                return
            self._found[bad.data, bad.path] = bad
            if self._file is not None:
                self._write(bad)
        count = sum(found.data == bad.data for found in self._found.values())
        most = math.floor(self._share * images + 1e-9)  # 0.29 of 100 is 28.99...
        if count > most:
            where = f"; all are listed in {self._file}" if self._file is not None and count > 1 else ""
            them = "it" if count == 1 else "all of them"
            raise DataError(
                f"{bad}; repair or remove {them}, or raise --max-bad-images: {count} bad of {images} images, and "
                f"{self._share:g} lets {most} pass{where}"
            )

    def summary(self) -> str | None:
        """One line for people, None where all images could be read."""
        if not self._found:
            return None
        first = next(iter(self._found.values()))
        more = f" and {len(self._found) - 1} more" if len(self._found) > 1 else ""
        where = f"; see {self._file}" if self._file is not None else ""
        return f"bad images left out: {len(self._found)}; {first}{more}{where}"

    def _write(self, bad: BadImage) -> None:
        """Append one line unless it stands there; one write, so that the lines of several processes do not mix."""
        line = json.dumps(asdict(bad)) + "\n"
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)  # type: ignore[union-attr]
            with self._file.open("a+", encoding="utf-8") as file:  # type: ignore[union-attr]
                file.seek(0)
                if line not in file:
                    file.write(line)
        except OSError as error:
            raise OutputError(
                f"cannot write {self._file}: {error.strerror or error}; free some space, then resume"
            ) from None
