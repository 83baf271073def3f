"""A clock that jumps by hours, forwards and backwards, all the time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from common import Try, command, finish, judged, paint

TITLE = "a wall clock that jumps by hours at every look"

# Python looks for sitecustomize when it starts.
JUMPING = """
import random, time
_draws, _time, _time_ns = random.Random(5), time.time, time.time_ns
time.time = lambda: _time() + _draws.uniform(-1e5, 1e5)
time.time_ns = lambda: _time_ns() + int(_draws.uniform(-1e14, 1e14))
"""


def trial(place: Path, tries: int) -> Iterator[Try]:
    photos, whole = paint(place / "photos"), place / "whole"
    finish(command(photos, whole))
    (place / "jumping").mkdir()
    (place / "jumping" / "sitecustomize.py").write_text(JUMPING)
    for number in range(max(1, tries // 10)):
        finish(command(photos, place / f"cut-{number}"), PYTHONPATH=_first(place / "jumping"))
        yield judged(whole, place / f"cut-{number}")


def _first(folder: Path) -> str:
    import os

    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
