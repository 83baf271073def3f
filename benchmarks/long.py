"""Long sequences: vim_tiny against deit_tiny from 224 to 1248 pixels, time and peak memory of one image.

    python benchmarks/long.py

Batch 1, inference. Times are taken in turns in one process; memory is what the first forward pass adds to the peak of a
fresh process that has run one small image, the weights not counted; of vim_tiny also what a training step adds.
"""

from __future__ import annotations

import argparse

import timm
import torch
from harness import begin, child, forward_only, in_turns
from memory import resident
from torch import nn

from rmeeto import create

SIDES = (224, 448, 896, 1248)
NAMES = ("vim_tiny", "deit_tiny")
STEP = "vim_tiny, training step"


def main() -> None:
    report = begin("long", __doc__, child={"nargs": 2, "help": argparse.SUPPRESS})
    options = report.options
    if options.child:
        name, side = options.child
        print((_step_memory if name == STEP else _memory)(name, int(side)))
        return
    rows, steps = [], []
    for side in SIDES[:1] if options.quick else SIDES:
        images = torch.randn(1, 3, side, side)
        timings = in_turns({name: forward_only(_model(name, side), images) for name in NAMES}, options)
        threads = ("--threads", str(options.threads))
        mib = {name: float(child("--child", name, str(side), *threads)) for name in (*NAMES, STEP)}
        report.keep(str(side), timings)
        report.figures[f"{side}, MiB"] = mib
        tokens = (side // 16) ** 2 + 1
        vim, deit = (timings[name] for name in NAMES)
        cells = [cell for timing in (vim, deit) for cell in timing.milliseconds()]
        memory = [f"{mib[name]:.0f}" for name in NAMES]
        steps.append([str(tokens), f"{mib[STEP]:.0f}", f"{1024 * mib[STEP] / tokens:.0f}"])
        rows.append([str(side), str(tokens), *cells, f"{vim.times_as_fast_as(deit):.2f}x", *memory])
    times = [column for name in NAMES for column in (f"{name}, ms", "10-90 %")]
    report.show("long", ["pixels", "tokens", *times, "vim of deit", *(f"{name}, MiB" for name in NAMES)], rows)
    report.show("long_training", ["tokens, vim_tiny, training step", "MiB", "KiB per token"], steps)
    report.finish()


def _model(name: str, side: int) -> nn.Module:
    if name == "vim_tiny":
        return create("vim_tiny", img_size=side).eval()
    return timm.create_model("deit_tiny_patch16_224", img_size=side).eval()


def _memory(name: str, side: int) -> float:
    """MiB that a first forward pass adds to the peak."""
    model = _model(name, side)
    forward_only(_model(name, 32), torch.randn(1, 3, 32, 32))()
    images = torch.randn(1, 3, side, side)
    before = resident(peak=False)
    forward_only(model, images)()
    return resident(peak=True) - before


def _step_memory(_name: str, side: int) -> float:
    """MiB that forward and backward of one image add to the peak, the gradients of the weights not counted."""
    model = create("vim_tiny", img_size=side)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    create("vim_tiny", img_size=32)(torch.randn(1, 3, 32, 32)).sum().backward()
    before = resident(peak=False)
    model(torch.randn(1, 3, side, side)).sum().backward()
    return resident(peak=True) - before


if __name__ == "__main__":
    main()
