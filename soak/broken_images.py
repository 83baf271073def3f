"""A thousand broken images of every kind in one set: training goes on, all are listed, none is shown.

python soak/broken_images.py
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from rmeeto.data import Augment, DataSpec, InputSpec, open_data

BROKEN, WHOLE, CLASSES = 1000, 1000, 4
FORM = InputSpec.of((3, 32, 32))
WORKERS = 2


def main() -> tuple[str, int, int, int]:
    """Print and give one row: the scenario, images tried, survived (listed and replaced) and lost (all others)."""
    with _scratch() as root:
        names = _write(root)
        log = root / "bad_images.jsonl"
        data = open_data(DataSpec(str(root / "set"), batch_size=100, workers=WORKERS, max_bad_images=0.9), FORM)
        data.bad.keep_in(log)
        shown = sum(len(labels) for _, labels in data.train_batches(Augment(repeats=1), seed=0))
        listed = {json.loads(line)["path"] for line in log.read_text().splitlines()}
    full = shown == BROKEN + WHOLE
    survived = len(listed & names) if full else 0
    row = ("broken images", len(names), survived, len(names) - survived + len(listed - names))
    print(f"{row[0]}: tried {row[1]}, survived {row[2]}, lost {row[3]}")
    return row


def _write(root: Path) -> set[str]:
    """Broken and whole images in turn; the names of the broken ones."""
    kinds = {kind: make() for kind, make in _kinds().BAD.items()}
    random, broken = np.random.default_rng(0), set()
    for number in range(BROKEN + WHOLE):
        folder = root / "set" / "train" / f"class{number % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{number:05d}.jpg"
        if (number // CLASSES) % 2:
            path.write_bytes(list(kinds.values())[len(broken) % len(kinds)])
            broken.add(f"{folder.name}/{path.name}")
        else:
            Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
        # A folder that is called like an image is no image.
        (folder / "empty.jpg").mkdir(exist_ok=True)
    shutil.copytree(root / "set" / "train", root / "set" / "val")
    return broken


def _kinds() -> ModuleType:
    """The writers of the tests."""
    path = Path(__file__).parent.parent / "tests" / "data" / "spoil.py"
    spec = importlib.util.spec_from_file_location("spoil", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


if __name__ == "__main__":
    raise SystemExit(1 if main()[3] else 0)
