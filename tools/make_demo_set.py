"""Make the demo set: a class-balanced part of Fashion-MNIST, the same bytes on every run.

Reads the four files of Fashion-MNIST (on Debian: package dataset-fashion-mnist, which puts them in
/usr/share/datasets/fashion-mnist) and writes src/rmeeto/data/demo/fashion_mnist.npz:

    python tools/make_demo_set.py /usr/share/datasets/fashion-mnist

The training images are the first of each class among the official 60,000, the test images the first of
each class among the official 10,000. The classes take turns, so that any leading part is balanced too.
"""

from __future__ import annotations

import argparse
import gzip
import io
import sys
from pathlib import Path

import numpy as np

from rmeeto.records import write_bytes

TRAIN_PER_CLASS = 1200
TEST_PER_CLASS = 300
CLASSES = 10
TARGET = Path(__file__).parents[1] / "src/rmeeto/data/demo/fashion_mnist.npz"


def main() -> None:
    """Read the official files, write the demo set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of the four .gz files")
    parser.add_argument("--output", type=Path, default=TARGET)
    arguments = parser.parse_args()
    arrays = {}
    for split, stem, per_class in (("train", "train", TRAIN_PER_CLASS), ("test", "t10k", TEST_PER_CLASS)):
        images = read_idx(arguments.source / f"{stem}-images-idx3-ubyte.gz")
        labels = read_idx(arguments.source / f"{stem}-labels-idx1-ubyte.gz")
        chosen = balanced(labels, per_class)
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images[chosen], labels[chosen]
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_bytes(arguments.output, buffer.getvalue())
    sys.stdout.write(f"{arguments.output}: {len(buffer.getvalue()):,} bytes\n")


def read_idx(path: Path) -> np.ndarray:
    """An array of unsigned bytes in the IDX format: four bytes of magic (the last one counts the axes), sizes, data."""
    data = gzip.decompress(path.read_bytes())
    axes = data[3]
    shape = np.frombuffer(data, ">u4", axes, 4)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(tuple(int(side) for side in shape))


def balanced(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Places of the first `per_class` images of each class; the classes take turns."""
    columns = [np.flatnonzero(labels == label)[:per_class] for label in range(CLASSES)]
    return np.stack(columns, axis=1).reshape(-1)


if __name__ == "__main__":
    main()
