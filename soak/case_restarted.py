"""One of two processes dies; torchrun starts both again, and the run ends as an undisturbed one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from common import Try, command, finish, judged, paint, start, torchrun, wait_until_trains

TITLE = "one of two processes killed, restarted by torchrun --max-restarts"


def trial(place: Path, tries: int) -> Iterator[Try]:
    photos, whole = paint(place / "photos"), place / "whole"
    finish([*torchrun(2), *command(photos, whole, epochs=30)])
    for number in range(max(2, tries // 10)):
        cut = place / f"cut-{number}"
        process = start([*torchrun(2, "--max-restarts", "3"), *command(photos, cut, epochs=30)])
        wait_until_trains(process, cut)
        time.sleep(0.3)
        workers = _children(process.pid)
        if process.poll() is None and workers:
            os.kill(workers[number % len(workers)], signal.SIGKILL)
        process.communicate()
        yield judged(whole, cut)


def _children(parent: int) -> list[int]:
    """Processes that a process started."""
    words = (Path("/proc") / str(parent) / "task" / str(parent) / "children").read_text().split()
    return [int(word) for word in words]
