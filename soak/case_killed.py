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
    photos, whole = paint(place / "photos"), place / "whole"
    finish(command(photos, whole, epochs=30))
    draws, kills, runs = random.Random(0), 0, 1
    while kills < tries:
        cut = place / f"cut-{runs}"
        before, process = newest(cut), start(command(photos, cut, epochs=30))
        wait_until_trains(process, cut)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(draws.uniform(0.0, 0.6))
        if process.poll() is None:
            process.kill()
            process.communicate()
            kills += 1
            yield Try(survived=newest(cut) >= before, said=f"kill {kills} at {newest(cut)}")
        else:  # it was quicker: another run takes the other kills
            process.communicate()
            yield judged(whole, cut)
            runs += 1
    finish(command(photos, place / f"cut-{runs}", epochs=30))
    yield judged(whole, place / f"cut-{runs}")
