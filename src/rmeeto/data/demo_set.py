"""The demo set: a class-balanced part of Fashion-MNIST that comes with the package (MIT, demo/LICENSE)."""

from __future__ import annotations

from importlib.resources import as_file, files

import numpy as np
import torch
from torch import Tensor

from rmeeto.data.spec import InputSpec, Split

DEMO_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

# Mean and standard deviation of the 60,000 official training images.
DEMO_INPUT = InputSpec(size=(1, 28, 28), mean=(0.2860,), std=(0.3530,), crop_pct=1.0)


def demo_arrays(split: Split) -> tuple[Tensor, Tensor]:
    """Read one part of the demo set; the classes take turns.

    Returns:
        (12000 or 3000, 1, 28, 28) uint8 images, int64 labels.
    """
    part = "train" if split == "train" else "test"
    with (
        as_file(files("rmeeto.data") / "demo" / "fashion_mnist.npz") as path,
        np.load(path, allow_pickle=False) as arrays,
    ):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long()
