"""Who is told how a job goes. The default is told and stays silent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rmeeto.retrain.progress import Progress, Silent


class Watch(Protocol):
    """What a job tells while it goes."""

    def stage(self, text: str) -> None:
        """A new part of the job begins, or something was found: one line."""

    def counting(self, what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A part of known length; the function that comes back is called with how much is done."""

    def training(self) -> Progress:
        """Who watches a training run."""


class Unwatched:
    """Nobody is told."""

    def stage(self, text: str) -> None:
        """Nothing."""

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:  # noqa: ARG002 the face is Watch's
        """Nothing."""
        yield lambda _done: None

    def training(self) -> Progress:
        """A silent one."""
        return Silent()
