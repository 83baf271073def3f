"""SIGTERM and SIGINT in turn: the command ends well each time and the run goes on from there."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from common import Try, command, finish, judged, paint, start, wait_until_trains

TITLE = "SIGTERM and SIGINT in turn: exit code 0 and the command that continues"


def trial(place: Path, tries: int) -> Iterator[Try]:
    photos, whole, cut = paint(place / "photos"), place / "whole", place / "cut"
    finish(command(photos, whole, epochs=20))
    draws = random.Random(1)
    for number in range(max(2, tries // 5)):
        process = start(command(photos, cut, epochs=20))
        wait_until_trains(process, cut)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(draws.uniform(0.0, 0.5))
        process.send_signal((signal.SIGTERM, signal.SIGINT)[number % 2])
        said = process.communicate()[0].strip().splitlines()
        yield Try(survived=process.returncode == 0, said=said[-1][-60:] if said else "nothing")
    finish(command(photos, cut, epochs=20))
    yield judged(whole, cut)
