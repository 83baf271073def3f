"""A small run from the command line, and what it must end with."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

# Mixing, dropped paths, an average, clipping and repeated images: what could be lost.
SETTINGS = [
    *("--model", "vim_nano", "--img-size", "8", "--patch-size", "2", "--in-chans", "3", "--embed-dim", "16"),
    *("--depth", "2", "--state-size", "4", "--drop-path", "0.2", "--batch-size", "8", "--lr", "3e-3"),
    *("--warmup-epochs", "0", "--ema-decay", "0.9", "--clip-grad", "1", "--repeats", "3", "--erasing", "0.25"),
    *("--tracker", "none", "--checkpoint-every", "1"),
]


@dataclass(frozen=True)
class Try:
    """One attempt: whether nothing was lost, and a line about it."""

    survived: bool
    said: str


def paint(root: Path) -> Path:
    """A folder of 60 training and 9 validation images."""
    random = np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 3)):
        for place, label in enumerate(("blue", "green", "red")):
            (root / part / label).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 160, (8, 8, 3), dtype=np.uint8)
                pixels[..., place] += 80
                Image.fromarray(pixels).save(root / part / label / f"{number}.png")
    return root


def command(photos: Path, output: Path, *more: str, epochs: int = 3) -> list[str]:
    """Words after `python`: train, or go on."""
    words = ["-m", "rmeeto", "pretrain", *SETTINGS, "--data", str(photos), "--output", str(output)]
    return [*words, "--epochs", str(epochs), "--resume", "auto", *more]


def torchrun(processes: int, *more: str) -> list[str]:
    """Words after `python` that start a command several times."""
    return ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), *more]


def start(words: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start Python with these words, at the head of a group of its own; what it says is kept."""
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        [sys.executable, *words],
        env=settings,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(words: list[str], **environment: str) -> tuple[int, str]:
    """Run to the end: exit code and the last line that was said."""
    process = start(words, **environment)
    said = process.communicate()[0].strip().splitlines()
    return process.returncode, said[-1] if said else ""


def wait_until_trains(process: subprocess.Popen[str], run: Path) -> None:
    """Until it has written a checkpoint of its own, or has ended."""
    before = newest(run)
    while process.poll() is None and newest(run) == before:
        time.sleep(0.02)


def newest(run: Path) -> str:
    """Name of the newest checkpoint."""
    return max((folder.name for folder in (run / "checkpoints").glob("epoch-*")), default="")


def compare(one: Path, other: Path) -> float | None:
    """The largest difference between two runs' models; None where one has none."""
    try:
        weights, others = (load_file(folder / "model.safetensors") for folder in (one, other))
    except OSError:
        return None
    return max(float(np.abs(weights[name] - others[name]).max()) for name in weights)


def judged(whole: Path, other: Path, *, most: float = 0.0) -> Try:
    """Whether a run ended as the undisturbed one."""
    difference = compare(whole, other)
    if difference is None:
        return Try(survived=False, said="it did not end")
    words = "bit-identical" if difference == 0 else f"weights differ by {difference:.1e} at most"
    return Try(survived=difference <= most, said=words)
