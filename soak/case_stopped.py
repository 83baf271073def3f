"""SIGTERM and SIGINT in turn, to the command or to its workers too: it ends well, and the run goes on from there."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from common import Try, command, finish, judged, paint, start, wait_until_trains

TITLE = "SIGTERM and SIGINT in turn, to one process or to all of the job: exit code 0 and the command that continues"


def trial(place: Path, tries: int) -> Iterator[Try]:
    photos, whole, cut = paint(place / "photos"), place / "whole", place / "cut"
    finish(command(photos, whole, epochs=20))  # without workers: they change no image
    draws = random.Random(1)
    for number in range(max(4, tries // 2)):
        process = start(command(photos, cut, "--workers", "1", epochs=20))
        wait_until_trains(process, cut)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(draws.uniform(0.0, 0.5))
        if process.poll() is None:
            send = (os.kill, os.killpg)[number // 2 % 2]  # a scheduler signals all processes of a job
            send(process.pid, (signal.SIGTERM, signal.SIGINT)[number % 2])
        said = process.communicate()[0].strip().splitlines()
        yield Try(survived=process.returncode == 0, said=said[-1][-60:] if said else "nothing")
    finish(command(photos, cut, epochs=20))
    yield judged(whole, cut)
