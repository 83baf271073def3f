"""A thousand broken and odd images in one set (soak/broken_images.py), trained on by the command."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import broken_images
from common import Try, command, finish

TITLE = "a thousand broken and odd images of 23 kinds among a thousand whole ones; and more of them than are allowed"


def trial(place: Path, tries: int) -> Iterator[Try]:  # noqa: ARG001  the face of all scenarios
    photos = place / "photos"
    broken, odd = broken_images.write(photos)
    few = ("--checkpoint-every", "100", "--batch-size", "40", "--repeats", "1")
    code, said = finish(command(photos, place / "few", *few, epochs=1))
    yield Try(survived=code == 2 and "--max-bad-images" in said, said=said[:90])
    code, said = finish(command(photos, place / "run", *few, "--max-bad-images", "0.5", epochs=1))
    lines = map(json.loads, (place / "run" / "bad_images.jsonl").read_text().splitlines())
    listed = {line["path"] for line in lines if line["data"].endswith("train")}
    words = f"{len(broken & listed)} of {len(broken)} broken listed and replaced, {odd} odd shown"
    yield Try(survived=code == 0 and listed == broken, said=words)
