"""What the command line shows: progress on stderr, results on stdout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rmeeto.records import to_json
from rmeeto.retrain.progress import Progress as TrainingProgress
from rmeeto.retrain.progress import progress_on


class Screen:
    """A `Watch` on standard error, so that standard output holds nothing but the result."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)

    def stage(self, text: str) -> None:
        """One line."""
        self.console.print(text, markup=False, soft_wrap=True)

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar on a terminal that goes away when done; nothing elsewhere."""
        if not self.console.is_terminal:
            yield lambda _done: None
            return
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)

    def training(self) -> TrainingProgress:
        """A bar on a terminal, one line per epoch elsewhere."""
        return progress_on(self.console)


def show(text: str, values: Any, *, as_json: bool) -> None:
    """Print a result for people, or the same as JSON for programs."""
    sys.stdout.write((to_json(values) if as_json else text).rstrip("\n") + "\n")
    sys.stdout.flush()
