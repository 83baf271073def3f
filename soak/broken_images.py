"""A thousand broken and odd images in one set: training goes on, the broken are listed and replaced, the odd shown.

Kinds are those of tests/data/spoil.py: empty, cut, too large, texts called .jpg; and CMYK, 16 bits, palettes,
animations, 20,000 pixels wide, which are images all the same.

python soak/broken_images.py
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from rmeeto.data import Augment, DataSpec, InputSpec, open_data

BROKEN, WHOLE, CLASSES = 1000, 1000, 4
FORM = InputSpec.of((3, 32, 32))
WORKERS = 2


def main() -> int:
    """Print and give how many were lost: broken ones that are not listed, and others that are."""
    with _scratch() as root:
        broken, odd = write(root / "set")
        log = root / "bad_images.jsonl"
        data = open_data(DataSpec(str(root / "set"), batch_size=100, workers=WORKERS, max_bad_images=0.9), FORM)
        data.bad.keep_in(log)
        shown = sum(len(labels) for _, labels in data.train_batches(Augment(repeats=1), seed=0))
        listed = {json.loads(line)["path"] for line in log.read_text().splitlines()}
    if shown != BROKEN + WHOLE:
        raise SystemExit(f"{shown} images were shown of {BROKEN + WHOLE}")
    lost = len(broken ^ listed)
    print(f"{len(broken)} broken and {odd} odd images of {len(_kinds())} kinds: {len(listed)} listed, {lost} lost")
    return lost


def write(root: Path) -> tuple[set[str], int]:
    """Whole images, and in turn with them broken and odd ones; the names of the broken ones, the number of the odd."""
    kinds, random, broken, spoilt = _kinds(), np.random.default_rng(0), set(), 0
    for number in range(BROKEN + WHOLE):
        folder = root / "train" / f"class{number % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number:05d}.jpg"
        if (number // CLASSES) % 2:
            data, is_broken = kinds[spoilt % len(kinds)]
            path.write_bytes(data)
            spoilt += 1
            broken |= {f"{folder.name}/{path.name}"} if is_broken else set()
        else:
            Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
        # A folder that is called like an image is no image.
        (folder / "empty.jpg").mkdir(exist_ok=True)
    shutil.copytree(root / "train", root / "val")
    return broken, spoilt - len(broken)


@functools.cache
def _kinds() -> list[tuple[bytes, bool]]:
    """What the tests write: a file, and whether it is broken."""
    path = Path(__file__).parent.parent / "tests" / "data" / "spoil.py"
    spec = importlib.util.spec_from_file_location("spoil", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    bad, odd = [make() for make in module.BAD.values()], [make() for make, _, _ in module.ODD.values()]
    return [*((data, True) for data in bad), *((data, False) for data in odd)]


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


if __name__ == "__main__":
    raise SystemExit(1 if main() else 0)
