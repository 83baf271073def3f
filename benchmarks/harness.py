"""What every benchmark shares: timing in turns, the setting it ran in, results as JSON, tables that print.

One rule for all: the ways of doing one thing are timed in turns (A B C A B C ...) in one process, so that a drift of
the machine meets all alike. A way that takes long has fewer rounds, so that all have about the same time; one that
takes less than 5 ms is called several times in its turn, for threads that sleep and caches that somebody else filled
are none of its own. Told are the median and the 10th and 90th percentile; a ratio is the median of the ratios of one
round's neighbours, of fewer than five rounds that of the medians. Where a ratio is the claim, several fresh processes
find it, and their median and range are told.

Every round calls from another depth of Python's stack. CPython keeps its frames in pieces of 16 KiB, and a loop of
calls across the end of a piece asks the system for a new one and gives it back each time: a way that happens to lie so
is a third slower (compiled models, whose frames hold all weights, often do), and a line of code elsewhere moves it.

Every process asks the C library to keep freed memory, and waiting threads to sleep soon, as the command line does
(rmeeto/cli/process.py), for all peers alike: else what is measured is page faults and the host of a virtual machine.
With `--plain` nothing is asked: as PyTorch comes, page faults and all.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rmeeto.cli.process import SPINS, keep_freed_memory, sleep_soon
from rmeeto.evaluate import environment
from rmeeto.ops import native_info
from rmeeto.records import write_json
from rmeeto.report import Table

RESULTS = Path(__file__).parent / "results"
Call = Callable[[], object]
Clock = Callable[[], float]
TURN = 5e-3  # seconds that a turn lasts at least
SHORTEST = 1e-5  # that a call is taken to last
FEWEST = 5  # rounds whose ratios are a sample: the one neighbour of a single slow round may just have been disturbed
DEPTHS = 128  # frames of `_at_depth`, together as long as a piece of CPython's stack


@dataclass(frozen=True)
class Way:
    """One way of doing something.

    Attributes:
        call: does it once.
        threads: torch's threads meanwhile; None leaves them.
    """

    call: Call
    threads: int | None = None


@dataclass(frozen=True)
class Timing:
    """Seconds of every round of one way."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Half of the rounds took longer."""
        return statistics.median(self.seconds)

    @property
    def fastest(self) -> float:
        """The least disturbed round."""
        return min(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """10th and 90th percentile."""
        low, high = np.percentile(self.seconds, (10, 90))
        return float(low), float(high)

    def times_as_fast_as(self, peer: Timing) -> float:
        """The peer's seconds over this one's, the median over the rounds that both were in; of few, of the medians."""
        ratios = [b / a for a, b in zip(self.seconds, peer.seconds, strict=False)]
        return statistics.median(ratios) if len(ratios) >= FEWEST else peer.median / self.median

    def milliseconds(self) -> tuple[str, str]:
        """Median and spread as cells of a table."""
        low, high = self.spread
        return _short(1e3 * self.median), f"{_short(1e3 * low)}-{_short(1e3 * high)}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        low, high = self.spread
        return {"median": self.median, "low": low, "high": high, "seconds": list(self.seconds)}


@dataclass
class Report:
    """What one benchmark found; `finish` writes it.

    Attributes:
        entry: its name, which its file has, too.
        options: how it was called.
        tables: name -> table, as docs/performance.md shows it.
        figures: all that was measured, as plain values.
        remarks: what a reader must know: what is absent, and why.
    """

    entry: str
    options: argparse.Namespace
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    load_before: tuple[float, ...] = field(default_factory=os.getloadavg)

    def show(self, name: str, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print a table and keep it."""
        table = Table.of(headers, rows)
        print(table.to_text(), end="\n\n", flush=True)
        self.tables[name] = {"headers": list(table.headers), "rows": [list(row) for row in table.rows]}

    def remark(self, text: str) -> None:
        """Say something once, also in the file."""
        if text not in self.remarks:
            print(text, flush=True)
            self.remarks.append(text)

    def keep(self, case: str, timings: Mapping[str, Timing]) -> None:
        """Keep the seconds of every round."""
        self.figures[case] = {name: timing.to_dict() for name, timing in timings.items()}

    def finish(self) -> None:
        """Write the JSON file."""
        native = native_info()
        surroundings = {
            **environment(),
            "torch_capability": torch.backends.cpu.get_cpu_capability(),
            "native": native and {"instruction_set": native.instruction_set, "compiler": native.compiler},
            "torch_threads": self.options.threads,
            "clock": "processor time" if self.options.cpu_time else "wall",
            "load_before": list(self.load_before),
        }
        values = {"kind": "benchmark", "entry": self.entry, "command": command(), "quick": self.options.quick}
        found = {"environment": surroundings, "tables": self.tables, "remarks": self.remarks, "figures": self.figures}
        write_json(self.options.output, {**values, **found})


def command() -> str:
    """What was typed, as somebody else would type it: the output's place is nobody else's business."""
    typed = list(sys.argv[1:])
    while "--output" in typed:
        place = typed.index("--output")
        del typed[place : place + 2]
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *typed])


def begin(entry: str, description: str | None, **extra: dict[str, Any]) -> Report:
    """Read the command line and make this process ready.

    Args:
        entry: the benchmark's name.
        description: its help.
        extra: further options, name -> arguments of `add_argument`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small and few: to see that it runs")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's threads (all)")
    parser.add_argument("--plain", action="store_true", help="as PyTorch comes: memory is not kept, threads spin")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, by its processor time: for a busy machine")
    parser.add_argument("--repeats", type=int, default=30, help="rounds of what is fast")
    parser.add_argument("--limit", type=float, default=8.0, help="seconds for all rounds of one way; one is the least")
    parser.add_argument("--output", type=Path, default=RESULTS / f"{entry}.json", help="the file of all figures")
    for name, arguments in extra.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **arguments)
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.limit = min(options.repeats, 3), min(options.limit, 0.3)
    options.threads = 1 if options.cpu_time else options.threads
    _set_up(plain=options.plain)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    return Report(entry, options)


def _set_up(*, plain: bool) -> None:
    """Make this process as the command line makes its own, or leave it as PyTorch comes.

    OpenMP reads the environment when torch is loaded, which it is: where it has to change, the script starts again.
    """
    if not plain:
        keep_freed_memory()
    changed = os.environ.pop(SPINS, None) is not None if plain else sleep_soon()
    if changed:
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def in_turns(ways: Mapping[str, Way | Call], options: argparse.Namespace) -> dict[str, Timing]:
    """Time every way, one turn of each in every round."""
    known = {name: way if isinstance(way, Way) else Way(way) for name, way in ways.items()}
    clock = time.process_time if options.cpu_time else time.perf_counter
    warm = {name: _warm(way, clock, options) for name, way in known.items()}
    rounds = {name: _rounds(taken, options) for name, taken in warm.items()}
    calls = {name: max(1, int(TURN / max(taken, SHORTEST))) for name, taken in warm.items()}
    seconds: dict[str, list[float]] = {name: [] for name in known}
    gc.collect()
    gc.disable()
    try:
        for turn in range(max(rounds.values())):
            for name, way in known.items():
                if turn < rounds[name]:
                    timed = partial(_timed, way, clock, calls[name])
                    seconds[name].append(_at_depth(turn * 37 % DEPTHS, timed))
    finally:
        gc.enable()
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}


def in_processes(name: str, options: argparse.Namespace, *more: str) -> list[dict[str, Timing]]:
    """What `options.processes` fresh processes of this same script find for `--ways NAME`, one after the other.

    Where a process's memory lies, and on which cores it runs, stays as it is while it lives, and moves a ratio by more
    than its own rounds tell.
    """
    line = [*more, "--ways", name, "--threads", str(options.threads), "--repeats", str(options.repeats)]
    line += ["--limit", str(options.limit)]
    line += [f"--{flag.replace('_', '-')}" for flag in ("quick", "cpu_time", "plain") if getattr(options, flag)]
    found = [json.loads(child(*line)) for _ in range(1 if options.quick else options.processes)]
    return [{way: Timing(tuple(seconds)) for way, seconds in each.items()} for each in found]


def tell(timings: Mapping[str, Timing]) -> None:
    """Print what `in_processes` reads."""
    print(json.dumps({way: list(timing.seconds) for way, timing in timings.items()}))


def together(found: Sequence[Mapping[str, Timing]]) -> dict[str, Timing]:
    """The rounds of all processes as one."""
    return {way: Timing(tuple(s for each in found for s in each[way].seconds)) for way in found[0]}


def told(ratios: Sequence[float]) -> str:
    """A ratio that several processes found: the median, and the least and the most where they are several."""
    middle = f"{statistics.median(ratios):.2f}x"
    return middle if len(ratios) == 1 else f"{middle} ({min(ratios):.2f}-{max(ratios):.2f})"


def _at_depth(depth: int, work: Callable[[], float]) -> float:
    """What `work` gives, called below so many more frames."""
    return work() if depth == 0 else _at_depth(depth - 1, work)


def _warm(way: Way, clock: Clock, options: argparse.Namespace) -> float:
    """Call until it is warm; the seconds of the last call."""
    taken = _timed(way, clock)
    for _ in range(2):
        if taken > options.limit / 4:  # so slow that nothing of it can still be cold
            break
        taken = _timed(way, clock)
    return taken


def _rounds(taken: float, options: argparse.Namespace) -> int:
    return max(1, min(options.repeats, int(options.limit / max(taken, SHORTEST))))


def _timed(way: Way, clock: Clock, calls: int = 1) -> float:
    """Seconds of one of so many calls in a row."""
    before = torch.get_num_threads()
    if way.threads not in (None, before):
        torch.set_num_threads(way.threads)
        way.call()  # the new number of threads meets here first
    started = clock()
    for _ in range(calls):
        way.call()
    taken = (clock() - started) / calls
    if way.threads not in (None, before):
        torch.set_num_threads(before)
    return taken


def forward_only(call: Callable[..., object], *arguments: Any) -> Call:
    """Inference: nothing is kept for a backward pass."""

    def run() -> object:
        with torch.inference_mode():
            return call(*arguments)

    return run


def with_gradients(call: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> Call:
    """Forward, then the gradient of every input."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    dy = torch.randn_like(call(*leaves).detach())

    def run() -> object:
        return torch.autograd.grad(call(*leaves), leaves, dy)

    return run


def child(*arguments: str, seconds: float = 600) -> str:
    """What this same script prints when it is called with these arguments in a process of its own."""
    line = [sys.executable, sys.argv[0], *arguments]
    return subprocess.run(line, check=True, capture_output=True, text=True, timeout=seconds).stdout


def _short(value: float) -> str:
    """Three or four figures."""
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.0f}"
