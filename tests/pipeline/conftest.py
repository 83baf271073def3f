"""Images of three colours, a model trained on them, and the same model made faster: once for all tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rmeeto import pipeline
from rmeeto.data import Augment, DataSpec
from rmeeto.pipeline import ModelSpec, ScheduleSpec, SpeedSpec
from rmeeto.pipeline.watch import Unwatched
from rmeeto.reduction import Settings
from rmeeto.retrain import Recipe, RunSpec

CLASSES = ("blue", "green", "red")
NANO = ModelSpec(model="vim_nano", img_size=8, patch_size=2, in_chans=3, embed_dim=16, depth=4, state_size=4)
RECIPE = Recipe(epochs=2, batch_size=8, lr=3e-3, mixup=0.0, cutmix=0.0, drop_path=0.0)
SCHEDULE = ScheduleSpec(r=4)
SPEED = SpeedSpec(speed_batch=2, speed_repeats=2, speed_warmup=1)
AUGMENT = Augment.light()
RESUMING = RunSpec(resume="auto")


def paint(root: Path, classes: tuple[str, ...] = CLASSES, *, train: int = 8, val: int = 4) -> Path:
    """A folder with train/ and val/, whose classes differ in their brightest colour."""
    random = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        for place, label in enumerate(classes):
            (root / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 160, (8, 8, 3), dtype=np.uint8)
                pixels[..., place % 3] += 80
                Image.fromarray(pixels).save(root / part / label / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> DataSpec:
    return DataSpec(data=str(paint(tmp_path_factory.mktemp("photos"))))


@pytest.fixture(scope="session")
def trained(photos: DataSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pre-trained model."""
    output = tmp_path_factory.mktemp("runs") / "trained"
    pipeline.pretrain(NANO, photos, RECIPE, AUGMENT, output)
    return output


@pytest.fixture(scope="session")
def faster(trained: Path, photos: DataSpec, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of the same model made faster, and what was told of it."""
    output = tmp_path_factory.mktemp("runs") / "faster"
    return output, retrain(trained, photos, output)


def retrain(model: Path, data: DataSpec, output: Path, **changes: Any) -> dict[str, Any]:
    """`pipeline.retrain` with the tests' settings, some of them replaced."""
    settings: dict[str, Any] = {
        "schedule": SCHEDULE, "settings": Settings(), "recipe": RECIPE, "augment": AUGMENT, "speed": SPEED, **changes,
    }  # fmt: skip
    return pipeline.retrain(ModelSpec(model=str(model)), data, output=output, **settings)


class InterruptedAt(Unwatched):
    """Somebody who presses Ctrl-C when the `last` evaluation begins."""

    def __init__(self, last: int) -> None:
        self.left = last

    @contextmanager
    def counting(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        self.left -= what == "evaluating"
        if self.left == 0:
            raise KeyboardInterrupt
        yield lambda _done: None


def digests(folder: Path) -> dict[str, str]:
    """Every file of a folder and what it holds: two calls agree when nothing was lost or changed."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
