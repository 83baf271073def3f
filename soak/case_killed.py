"""SIGKILL at random moments, saving included, until the run ends."""

from __future__ import annotations

import contextlib
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

from common import Try, command, finish, judged, newest, paint, start, wait_until_trains

TITLE = "SIGKILL at random moments, a checkpoint after every step"


def trial(place: Path, tries: int) -> Iterator[Try]:
    photos, whole, cut = paint(place / "photos"), place / "whole", place / "cut"
    finish(command(photos, whole, epochs=30))
    draws = random.Random(0)
    for number in range(1, tries + 1):
        before, process = newest(cut), start(command(photos, cut, epochs=30))
        wait_until_trains(process, cut)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(draws.uniform(0.0, 0.6))
        process.kill()
        process.communicate()
        yield Try(survived=newest(cut) >= before, said=f"kill {number} at {newest(cut)}")
    finish(command(photos, cut, epochs=30))
    yield judged(whole, cut)
