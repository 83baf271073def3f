"""Lay all of Fashion-MNIST out as torchvision reads it.

    python tools/unpack_fashion_mnist.py /usr/share/datasets/fashion-mnist sets/
    rmeeto pretrain --data torch/fashion_mnist:sets/

The first folder holds the four .gz files, as Debian's package dataset-fashion-mnist does.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

from rmeeto.records import write_bytes

PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def main() -> None:
    """Unpack the four files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of the four .gz files")
    parser.add_argument("target", type=Path, help="folder for torchvision's layout")
    arguments = parser.parse_args()
    for part in PARTS:
        data = gzip.decompress((arguments.source / f"{part}-ubyte.gz").read_bytes())
        write_bytes(arguments.target / "FashionMNIST" / "raw" / f"{part}-ubyte", data)


if __name__ == "__main__":
    main()
