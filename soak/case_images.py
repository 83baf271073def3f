"""A thousand broken images of every kind in one set: soak/broken_images.py."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import broken_images
from common import Try

TITLE = "a thousand broken images of ten kinds among a thousand whole ones"


def trial(place: Path, tries: int) -> Iterator[Try]:  # noqa: ARG001  the face of all scenarios
    with contextlib.redirect_stdout(sys.stderr):
        _, tried, survived, lost = broken_images.main()
    yield Try(survived=lost == 0, said=f"{survived} of {tried} listed and replaced")
