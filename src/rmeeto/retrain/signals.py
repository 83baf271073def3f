"""SIGTERM and SIGINT end a run after its step, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """A signal ended the run; it is saved and can be resumed.

    Attributes:
        signal: its name, such as SIGTERM.
        step: optimiser steps done; None where it came before or after the training.
        checkpoint: the folder to resume from; None where nothing was trained yet, or it came then.
    """

    def __init__(self, signal: str, step: int | None = None, checkpoint: Path | None = None) -> None:
        super().__init__(f"{signal} stopped the run" + (f" after step {step}" if step is not None else ""))
        self.signal, self.step, self.checkpoint = signal, step, checkpoint


class StopRequests:
    """Notes that somebody asked for the end, while it is entered and in Python's main thread.

    A second SIGINT is Python's own: it interrupts at once.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        self._at_once = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A request, an earlier one as well, raises `Stopped` here: for what changes nothing and takes long."""
        if self.asked is not None:
            raise Stopped(self.asked)
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, _frame: FrameType | None) -> None:
        again = self.asked is not None
        self.asked = self.asked or signal.Signals(number).name
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._at_once:
            raise Stopped(self.asked)
