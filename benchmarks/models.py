"""Measured speed of whole models, as ratios to a named peer, and memory of a training step over the sequence length.

    python benchmarks/models.py                 # all claims
    python benchmarks/models.py --json out.json

1. vim_tiny un-merged, forward, batch 16: native kernels over the reference op.
2. merged over un-merged, by r: vim_tiny and vim_small, forward, batch 16.
3. peak memory of a training step of vim_tiny at 197, 785 and 3137 tokens: it should grow linearly.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from memory import resident
from torch import Tensor

from rmeeto.evaluate import environment, measure_speed
from rmeeto.models import create
from rmeeto.ops import use_backend
from rmeeto.pipeline.evidence import merged_copy
from rmeeto.records import Speed, write_json
from rmeeto.reduction import Settings
from rmeeto.report import Table
from rmeeto.schedule import Schedule

SIDES = {197: 224, 785: 448, 3137: 896}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--repeats", type=int, default=9, help="timed passes of each model")
    parser.add_argument("--step", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step is not None:
        print(_step_memory(options.step))
        return
    found = {
        "environment": environment(),
        "native_over_reference": _native_over_reference(),
        "merged_over_unmerged": {
            name: _merged_over_unmerged(name, options.repeats) for name in ("vim_tiny", "vim_small")
        },
        "training_step_mib": _memory_by_length(),
    }
    if options.json is not None:
        write_json(options.json, found)


def _native_over_reference() -> dict[str, Any]:
    """Three passes are enough: the ratio is far from 1 and a pass on the reference takes seconds."""
    model, images = create("vim_tiny").eval(), torch.randn(16, 3, 224, 224)

    def with_op(name: str) -> Callable[[Tensor], Tensor]:
        def run(batch: Tensor) -> Tensor:
            with use_backend(name), torch.inference_mode():
                return model(batch)

        return run

    speeds = measure_speed(
        {"reference op": with_op("reference"), "native kernels": with_op("native")}, images, warmup=1, repeats=3
    )
    return _shown("vim_tiny, un-merged", speeds)


def _merged_over_unmerged(name: str, repeats: int) -> dict[str, Any]:
    model, images = create(name).eval(), torch.randn(16, 3, 224, 224)
    models = {"un-merged": model}
    for r in (5, 11, 20):
        schedule = Schedule.constant(r, model.config.depth)
        models[f"r = {r} ({100 * schedule.reduction(197):.0f} % fewer)"] = merged_copy(model, schedule, Settings())
    return _shown(name, measure_speed(models, images, warmup=2, repeats=repeats))


def _shown(title: str, speeds: dict[str, Speed]) -> dict[str, Any]:
    rows = [
        (
            name,
            f"{speed.images_per_second:.2f}",
            "1.00" if speed.ratio is None else f"{speed.ratio:.2f}",
            "" if speed.ratio is None else f"{speed.ratio_low:.2f}-{speed.ratio_high:.2f}",
        )
        for name, speed in speeds.items()
    ]
    any_speed = next(iter(speeds.values()))
    headers = (f"{title}, batch {any_speed.batch}, {any_speed.threads} threads", "images/s", "ratio", "10-90 %")
    print(Table.of(headers, rows).to_text(), end="\n\n", flush=True)
    return {name: speed.to_dict() for name, speed in speeds.items()}


def _memory_by_length() -> dict[str, float]:
    """Each length in a process of its own: a peak never goes down."""
    found = {}
    for tokens, side in SIDES.items():
        done = subprocess.run(
            [sys.executable, __file__, "--step", str(side)], check=True, capture_output=True, text=True
        )
        found[str(tokens)] = float(done.stdout)
    rows = [(n, f"{mib:.0f}", f"{1024 * mib / int(n):.1f}") for n, mib in found.items()]
    print(Table.of(("tokens (vim_tiny, training step, batch 1)", "MiB", "KiB per token"), rows).to_text())
    return found


def _step_memory(side: int) -> float:
    """MiB that one forward and backward pass adds to the process's peak."""
    model = create("vim_tiny", img_size=side)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    warm = create("vim_tiny", img_size=32)
    warm(torch.randn(1, 3, 32, 32)).sum().backward()
    before = resident(peak=False)
    model(torch.randn(1, 3, side, side)).sum().backward()
    return resident(peak=True) - before


if __name__ == "__main__":
    main()
