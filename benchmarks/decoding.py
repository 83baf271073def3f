"""Images per second that one core decodes and transforms, for training and for evaluation.

    python benchmarks/decoding.py photos/                 # any images, in folders of classes or not
    python benchmarks/decoding.py photos/ --json out.json

How many cores a GPU needs is its images per second of training over the figure of "training".
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from rmeeto.data import Augment, InputSpec
from rmeeto.data.augment import eval_transform, seed_generators, train_transform
from rmeeto.data.decoding import decode
from rmeeto.evaluate import environment
from rmeeto.records import write_json
from rmeeto.report import Table

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FORM = InputSpec.of((3, 224, 224))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="images, found in it and in folders below")
    parser.add_argument("--passes", type=int, default=5, help="timed passes over all images")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    paths = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    files = [path.read_bytes() for path in paths]
    if not files:
        parser.error(f"{options.folder} holds no image")
    rows = {name: _measured(work, files, options.passes) for name, work in _works().items()}
    print(_described(files))
    headers = ("one core does", "images/s", "slowest pass", "fastest pass", "ms an image")
    cells = [(name, *(f"{row[key]:.1f}" for key in ("median", "low", "high", "ms"))) for name, row in rows.items()]
    print(Table.of(headers, cells).to_text())
    if options.json is not None:
        write_json(options.json, {"images": len(files), "images_per_second": rows, "environment": environment()})


def _works() -> dict[str, Callable[[bytes], Any]]:
    """What is done to one file, by name."""
    train, evaluate = train_transform(FORM, Augment()), eval_transform(FORM)
    plain = train_transform(FORM, Augment(auto_augment="none", erasing=0.0))
    return {
        "decoding alone": lambda data: decode(io.BytesIO(data)),
        "evaluation": lambda data: evaluate(decode(io.BytesIO(data))),
        "training, crop and mirror": lambda data: plain(decode(io.BytesIO(data))),
        "training, as published": lambda data: train(decode(io.BytesIO(data))),
    }


def _measured(work: Callable[[bytes], Any], files: list[bytes], passes: int) -> dict[str, float]:
    """Images per second of processor time: other programs on the machine do not count."""
    rates = []
    for number in range(passes + 1):
        seed_generators(number)
        begun = time.process_time()
        for data in files:
            work(data)
        rates.append(len(files) / (time.process_time() - begun))
    rates = rates[1:]  # the first one warms caches
    median = statistics.median(rates)
    return {"median": median, "low": min(rates), "high": max(rates), "ms": 1000 / median}


def _described(files: list[bytes]) -> str:
    sizes = []
    for data in files:
        with Image.open(io.BytesIO(data)) as image:
            sizes.append(image.width * image.height)
    pixels, size = statistics.median(sizes) / 1e6, statistics.median(map(len, files)) / 1024
    return f"{len(files)} images, in the middle {pixels:.2f} M pixels and {size:.0f} KiB; to {FORM.size[1]} px"


if __name__ == "__main__":
    main()
