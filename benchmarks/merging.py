"""What a merge costs, and how much of the work that it removes becomes speed.

    python benchmarks/merging.py
    python benchmarks/merging.py --cpu-time --no-models

1. One merge with the default settings (`Reducer`, all of it) and its three ops, native kernels and reference in turns;
   the merge's share is of the Vision Mamba block in front of it, un-merged, the ops' of the merge.
2. The peak memory that one merge adds at 12,545 tokens, its input not counted.
3. vim_tiny and vim_small, r tokens before every second block: measured over predicted speed-up. The prediction takes
   the un-merged model's own time per token of a block, (time of 24 blocks - time of 1) / 23 / 197, for every token that
   a block still has, and nothing for the merges. Ratios are the median, least and most of several processes.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from harness import Call, Report, Timing, begin, child, forward_only, in_processes, in_turns, tell, together
from memory import resident

from rmeeto import Schedule, Settings, attach, create
from rmeeto.ops import token_match, token_merge, token_plan, use_backend
from rmeeto.reduction import Reducer
from rmeeto.tokens import Features, TokenMap, Tokens

SHAPES = ((16, 197, 192), (16, 197, 384), (8, 1569, 192), (1, 12545, 192))
MODELS = {192: "vim_tiny", 384: "vim_small"}
REMOVALS = (5, 11, 20)
DEPTH, TOKENS = 24, 197  # of both models at 224 pixels
BACKENDS = ("native", "reference")


def main() -> None:
    report = begin(
        "merging",
        __doc__,
        models={"action": argparse.BooleanOptionalAction, "default": True, "help": "whole models, too"},
        processes={"type": int, "default": 5, "help": "processes that time whole models, one after the other"},
        child={"choices": BACKENDS, "help": argparse.SUPPRESS},
        ways={"choices": tuple(MODELS.values()), "help": argparse.SUPPRESS},
    )
    options = report.options
    shapes = SHAPES[:1] if options.quick else SHAPES
    if options.child:
        print(_memory(options.child, shapes[-1]))
        return
    if options.ways:
        tell(in_turns(_models(options.ways), options))
        return
    rows = [row for shape in shapes for row in _merge(report, *shape)]
    headers = ["images, tokens, width", "native, ms", "10-90 %", "native is faster by", "share"]
    report.show("merging", headers, rows)
    quick = ("--quick",) if options.quick else ()
    line = ("--threads", str(options.threads), *quick)
    mib = {backend: float(child("--child", backend, *line)) for backend in BACKENDS}
    report.figures["memory, MiB"] = mib
    title = f"one merge of {shapes[-1]}"
    report.show("merging_memory", [title, "MiB"], [[name, f"{size:.1f}"] for name, size in mib.items()])
    if options.models:
        rows = [
            row for name in (("vim_tiny",) if options.quick else MODELS.values()) for row in _speed_up(report, name)
        ]
        headers = ["batch 16", "ms", "10-90 %", "measured", "predicted", "measured of predicted"]
        report.show("merging_models", headers, rows)
    report.finish()


def _load(batch: int, tokens: int, width: int) -> Tokens:
    """Tokens as a block leaves them, the class token in the middle."""
    x, hidden = torch.randn(batch, tokens, width), torch.randn(batch, tokens, width)
    return Tokens(x, torch.full((batch, 1), tokens // 2), torch.ones(batch, tokens), features=Features(hidden))


def _on(backend: str, work: Callable[[], object]) -> Call:
    def run() -> None:
        with use_backend(backend):
            work()

    return forward_only(run)


def _merge(report: Report, batch: int, n: int, width: int) -> list[list[str]]:
    load, r = _load(batch, n, width), 5 if n == 197 else n // 18
    reducer, block = Reducer(r, Settings()), create(MODELS[width], depth=1).eval().layers[0]
    works: dict[str, Callable[[], object]] = {"merge": lambda: reducer(load), **_steps(load, r)}
    calls = {f"{name}, {backend}": _on(backend, work) for name, work in works.items() for backend in BACKENDS}
    timings = in_turns({**calls, "block": _on("native", lambda: block(load))}, report.options)
    case = f"{batch}, {n}, {width}"
    report.keep(case, timings)
    block_time, merge_time = timings["block"], timings["merge, native"]
    rows = []
    for name in works:
        native, reference = (timings[f"{name}, {backend}"] for backend in BACKENDS)
        share = block_time.times_as_fast_as(native) if name == "merge" else merge_time.times_as_fast_as(native)
        label = f"{case}: merge, r = {r}" if name == "merge" else f"{case}: {name}"
        of = "of the block" if name == "merge" else "of the merge"
        faster = f"{native.times_as_fast_as(reference):.1f}x"
        rows.append([label, *native.milliseconds(), faster, f"{100 * share:.1f} % {of}"])
    return rows


def _steps(load: Tokens, r: int) -> dict[str, Callable[[], object]]:
    assert load.features is not None
    hidden, n = load.features.hidden, load.x.shape[1]
    match = token_match(hidden, load.places, r)
    plan = (match.leaving, match.joined, match.staying, load.places)
    mapping = TokenMap(token_plan(*plan, n)[0], n - r)
    return {
        "token_match": lambda: token_match(hidden, load.places, r),
        "token_plan": lambda: token_plan(*plan, n),
        "token_merge": lambda: token_merge(load.x, load.size, mapping, load.places),
    }


def _memory(backend: str, shape: tuple[int, int, int]) -> float:
    """MiB that one merge adds to the peak of a fresh process."""
    load, small = _load(*shape), _load(1, 19, shape[2])
    reducer = Reducer(shape[1] // 18, Settings())
    _on(backend, lambda: reducer(small))()
    before = resident(peak=False)
    _on(backend, lambda: reducer(load))()
    return resident(peak=True) - before


def _models(name: str) -> dict[str, Call]:
    """The un-merged model, its first block and the merged ones, on 16 images."""
    whole, images = create(name).eval(), torch.randn(16, 3, 224, 224)
    models = {"un-merged": whole, "one block": create(name, depth=1).eval()}
    for r in REMOVALS:
        models[f"r = {r}"] = attach(create(name).eval(), Schedule.constant(r, DEPTH))
    return {label: forward_only(model, images) for label, model in models.items()}


def _speed_up(report: Report, name: str) -> list[list[str]]:
    found = in_processes(name, report.options)
    pooled = together(found)
    report.keep(name, pooled)
    rows = [[f"{name}: un-merged", *pooled["un-merged"].milliseconds(), "", "", ""]]
    figures: dict[str, Any] = {}
    for r in REMOVALS:
        label = f"r = {r}"
        measured, predicted = zip(*[_ratios(r, timings) for timings in found], strict=True)
        shares = [100 * m / p for m, p in zip(measured, predicted, strict=True)]
        figures[label] = {"measured": list(measured), "predicted": list(predicted)}
        of = f"{statistics.median(shares):.1f} % ({min(shares):.1f}-{max(shares):.1f})"
        ratios = (f"{statistics.median(measured):.3f}x", f"{statistics.median(predicted):.3f}x")
        rows.append([f"{name}: {label}", *pooled[label].milliseconds(), *ratios, of])
    report.figures[f"{name}, speed-up"] = figures
    return rows


def _ratios(r: int, timings: Mapping[str, Timing]) -> tuple[float, float]:
    """Measured and predicted speed-up by one process."""
    depth, n = DEPTH, TOKENS
    unmerged, one = timings["un-merged"], timings["one block"]
    per_block = (unmerged.median - one.median) / (depth - 1)
    left = sum(Schedule.constant(r, depth).lengths(n)) / n  # blocks' worth of tokens
    predicted = unmerged.median / (one.median - per_block + per_block * left)
    return timings[f"r = {r}"].times_as_fast_as(unmerged), predicted


if __name__ == "__main__":
    main()
