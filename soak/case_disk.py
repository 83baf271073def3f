"""Disks that refuse: full, and read-only. What was saved stays whole, the user is told in a line, and it goes on."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from common import Try, command, finish, judged, paint

TITLE = "a full disk (tmpfs of 2 MB) in the middle of a run, and a read-only one"


@contextlib.contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    place.mkdir()
    ended = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(place)], capture_output=True, check=False)
    if ended.returncode:
        raise PermissionError("mounting needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


def trial(place: Path, tries: int) -> Iterator[Try]:  # noqa: ARG001  the face of all scenarios
    photos, whole = paint(place / "photos"), place / "whole"
    finish(command(photos, whole))
    with mounted(place / "small", "-o", "size=2m") as small:
        for kilobytes in (1500, 1700, 1850):
            run = small / f"run-{kilobytes}"
            (small / "ballast").write_bytes(bytes(kilobytes * 1024))
            code, said = finish(command(photos, run))
            yield Try(survived=code == 2 and said.startswith("rmeeto: "), said=said[:90])
            (small / "ballast").unlink()
            finish(command(photos, run))
            yield judged(whole, run)
            subprocess.run(["rm", "-r", str(run)], check=True)
    with mounted(place / "fixed", "-o", "ro") as fixed:
        code, said = finish(command(photos, fixed / "run"))
        yield Try(survived=code == 2 and said.startswith("rmeeto: "), said=said[:90])
