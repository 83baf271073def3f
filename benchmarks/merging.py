"""What a merge costs, and how much of the removed work becomes speed.

    python benchmarks/merging.py                 # all claims
    python benchmarks/merging.py --json out.json
    python benchmarks/merging.py --cpu-time      # one thread by its processor time, for a machine that others use too

1. one merge of r tokens, all of it (`Reducer`, default settings), native over reference, in turns; and its share: its
   time over that of the Vision Mamba block in front, un-merged, native.
2. each of its three ops, native over reference, and its share of the merge.
3. peak memory that one merge adds at 12,545 tokens, inputs not counted.
4. vim_tiny and vim_small, forward: measured over predicted speed-up at r = 5, 11, 20. The prediction takes the un-merged
   model's own time per token of a block, (T(24 blocks) - T(1 block)) / 23 / 197, for every token that is left in front of
   each block, and nothing for the merges.

The spread is the fastest and the slowest repeat; of a ratio, that of the quotients turn by turn, 10 to 90 %.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from memory import resident
from ops import interleave

from rmeeto.evaluate import environment
from rmeeto.models import create
from rmeeto.ops import native_info, token_match, token_merge, token_plan, use_backend
from rmeeto.pipeline.evidence import merged_copy
from rmeeto.records import write_json
from rmeeto.reduction import Reducer, Settings
from rmeeto.report import Table
from rmeeto.schedule import Schedule
from rmeeto.tokens import Features, TokenMap, Tokens

SHAPES = ((16, 197, 192), (16, 197, 384), (8, 1569, 192), (1, 12545, 192))
REMOVALS = (5, 11, 20)
LONG = SHAPES[-1]
Clock = Callable[[], float]
Way = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--repeats", type=int, default=15, help="timed turns")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, by its processor time")
    parser.add_argument("--only", choices=("merges", "memory", "models"), help="one part of it")
    parser.add_argument("--child", choices=("native", "reference"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cpu_time:
        torch.set_num_threads(1)
    torch.manual_seed(0)
    if options.child:
        print(_merge_memory(options.child))
        return
    if native_info() is None:
        sys.exit("no native kernels here; see `rmeeto doctor`")
    clock = time.process_time if options.cpu_time else time.perf_counter
    print("processor time" if options.cpu_time else "wall clock", f"{torch.get_num_threads()} threads", sep=", ")
    parts: dict[str, Callable[[], Any]] = {
        "merges": lambda: _merges(options.repeats, clock),
        "memory": _memory,
        "models": lambda: {name: _speed_up(name, options.repeats, clock) for name in ("vim_tiny", "vim_small")},
    }
    chosen = [options.only] if options.only else list(parts)
    found = {"environment": environment(), "clock": clock.__name__, **{name: parts[name]() for name in chosen}}
    if options.json is not None:
        write_json(options.json, found)


def tokens_of(batch: int, tokens: int, width: int) -> Tokens:
    """A load as a block leaves it, the class token in the middle."""
    x, hidden = torch.randn(batch, tokens, width), torch.randn(batch, tokens, width)
    return Tokens(x, torch.full((batch, 1), tokens // 2), torch.ones(batch, tokens), features=Features(hidden))


def on(backend: str, work: Way) -> Way:
    """The work on one backend, nothing kept for gradients."""

    def run() -> None:
        with use_backend(backend), torch.inference_mode():
            work()

    return run


def _merges(repeats: int, clock: Clock) -> dict[str, Any]:
    found: dict[str, Any] = {}
    rows = []
    for batch, n, width in SHAPES:
        model = create("vim_tiny" if width == 192 else "vim_small", depth=2).eval()
        load, r = tokens_of(batch, n, width), 5 if n == 197 else n // 18
        reducer = Reducer(r, Settings())
        works: dict[str, Way] = {"merge": lambda load=load, reducer=reducer: reducer(load), **_steps(load, r)}
        turns = repeats if n < 1000 else max(3, repeats // 4)
        ways = {
            f"{step}, {backend}": (on(backend, work), turns if backend == "native" else max(3, turns // 2))
            for step, work in works.items()
            for backend in ("native", "reference")
        }
        block = model.layers[0]
        ways["block"] = (on("native", lambda load=load, block=block: block(load)), max(3, turns // 2))
        times = interleave(ways, clock)
        name = f"({batch}, {n}, {width}), r = {r}"
        found[name] = times
        whole, one_block = (statistics.median(times[key]) for key in ("merge, native", "block"))
        for step in works:
            taken, reference = times[f"{step}, native"], statistics.median(times[f"{step}, reference"])
            median = statistics.median(taken)
            spread = f"{min(taken):.3f}-{max(taken):.3f}"
            ratio, share = f"{reference / median:.1f}x", median / (one_block if step == "merge" else whole)
            rows.append((name if step == "merge" else "", step, f"{median:.3f}", spread, ratio, f"{100 * share:.1f} %"))
        rows.append(("", "block", f"{one_block:.3f}", "", "", ""))
    headers = ("shape", "step", "native ms", "spread", "reference", "of the block / merge")
    print(Table.of(headers, rows).to_text(), end="\n\n", flush=True)
    return found


def _steps(load: Tokens, r: int) -> dict[str, Way]:
    assert load.features is not None
    hidden, n = load.features.hidden, load.x.shape[1]
    match = token_match(hidden, load.places, r)
    index, _ = token_plan(match.leaving, match.joined, match.staying, load.places, n)
    mapping = TokenMap(index, n - r)
    return {
        "token_match": lambda: token_match(hidden, load.places, r),
        "token_plan": lambda: token_plan(match.leaving, match.joined, match.staying, load.places, n),
        "token_merge": lambda: token_merge(load.x, load.size, mapping, load.places),
    }


def _memory() -> dict[str, float]:
    """A process each: a peak never goes down."""
    found = {}
    for backend in ("native", "reference"):
        done = subprocess.run([sys.executable, __file__, "--child", backend], check=True, capture_output=True, text=True)
        found[backend] = float(done.stdout)
    title = f"one merge of {LONG}: peak MiB added"
    print(Table.of((title, "MiB"), [(k, f"{v:.1f}") for k, v in found.items()]).to_text(), end="\n\n", flush=True)
    return found


def _merge_memory(backend: str) -> float:
    load, reducer = tokens_of(*LONG), Reducer(LONG[1] // 18, Settings())
    on(backend, lambda: reducer(tokens_of(1, 19, LONG[2])))()
    before = resident(peak=False)
    on(backend, lambda: reducer(load))()
    return resident(peak=True) - before


def _speed_up(name: str, repeats: int, clock: Clock) -> dict[str, Any]:
    model, images = create(name).eval(), torch.randn(16, 3, 224, 224)
    depth, n = model.config.depth, model.num_tokens
    schedules = {f"r = {r}": Schedule.constant(r, depth) for r in REMOVALS}
    models = {"un-merged": model, "one block": create(name, depth=1).eval()}
    models |= {label: merged_copy(model, schedule, Settings()) for label, schedule in schedules.items()}
    ways = {label: (on("native", lambda each=each: each(images)), repeats) for label, each in models.items()}
    times = interleave(ways, clock)
    found: dict[str, Any] = {"ms": times}
    whole, one = (statistics.median(times[label]) for label in ("un-merged", "one block"))
    block = (whole - one) / (depth - 1)
    rows = [("un-merged", f"{whole:.0f}", "1.000", "", "", "")]
    for label, schedule in schedules.items():
        left = sum(schedule.lengths(n)) / n
        predicted = whole / (one - block + block * left)
        quotients = [a / b for a, b in zip(times["un-merged"], times[label], strict=True)]
        measured = whole / statistics.median(times[label])
        low, *_, high = statistics.quantiles(quotients, n=10)
        found[label] = {"measured": measured, "low": low, "high": high, "predicted": predicted}
        figures = (f"{measured:.3f}", f"{low:.3f}-{high:.3f}", f"{predicted:.3f}", f"{100 * measured / predicted:.1f} %")
        rows.append((label, f"{statistics.median(times[label]):.0f}", *figures))
    headers = (f"{name}, batch 16", "ms", "measured", "10-90 %", "predicted", "of it")
    print(Table.of(headers, rows).to_text(), end="\n\n", flush=True)
    return found


if __name__ == "__main__":
    main()
