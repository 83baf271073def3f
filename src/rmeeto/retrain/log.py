"""The run's diary: one JSON object a line, each line on disk before the next step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmeeto.errors import OutputError
from rmeeto.records import write_text


class JsonLines:
    """Appends objects to a file; each has a "kind" and the "epoch" it belongs to, the first being 1."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def cut_after(self, epoch: int) -> None:
        """Drop what later epochs, or a line cut short, left behind: they are trained again.

        Raises:
            OutputError: the file cannot be written.
        """
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            write_text(self.path, "".join(f"{line}\n" for line in lines if _belongs(line, epoch)))

    def append(self, values: Mapping[str, Any]) -> None:
        """Write one line.

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path}: {error.strerror or error}; free some space, then resume"
            ) from None


def _belongs(line: str, epoch: int) -> bool:
    try:
        return bool(json.loads(line)["epoch"] <= epoch)
    except (ValueError, KeyError, TypeError):
        return False
