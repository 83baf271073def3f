"""What processes that decode do with signals."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


_TOLD_WHO_SENT = hasattr(signal, "sigwaitinfo")


@contextmanager
def starting_workers() -> Iterator[None]:
    """Workers that are started inside hear no signal before `leave_signals_to_parent`."""
    if not _TOLD_WHO_SENT:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_parent(_worker: int) -> None:
    """Begin a worker: only the process that it works for ends it.

    A scheduler or a terminal signals all processes of a job at once. A worker that died of it would take the
    training process down in the middle of a step, before that could save: torch raises there what ended the worker.
    Where a system does not tell who sent a signal, all stays as it is.
    """
    if _TOLD_WHO_SENT:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        threading.Thread(target=_obey_parent, args=(os.getppid(),), daemon=True).start()


def _obey_parent(parent: int) -> None:
    while True:
        told = signal.sigwaitinfo(_SIGNALS)
        if told.si_signo == signal.SIGTERM and told.si_pid == parent:
            os._exit(0)
