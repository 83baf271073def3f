from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CLASSES = ("cat", "dog", "owl")


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Build a folder of random pictures, one folder per class."""

    def make(name: str, classes: tuple[str, ...] = CLASSES, per_class: int = 4, suffix: str = ".png") -> Path:
        root = tmp_path / name
        random = np.random.default_rng(0)
        for label in classes:
            (root / label).mkdir(parents=True)
            for number in range(per_class):
                pixels = random.integers(0, 256, (10, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / label / f"{number}{suffix}")
        return root

    return make


@pytest.fixture
def folder(make_folder: Callable[..., Path]) -> Path:
    """A set with its split in the path."""
    make_folder("set/train", per_class=5)
    return make_folder("set/val", per_class=2).parent


@pytest.fixture
def tars(folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The same set as two tars, with the split inside the paths."""
    paths = tmp_path / "train.tar", tmp_path / "val.tar"
    for path in paths:
        with tarfile.open(path, "w") as tar:
            tar.add(folder / path.stem, arcname=path.stem)
    return paths
