"""Speed and memory of the ops: native kernels against their peers, interleaved in one run.

Peers: "reference", the op's own law in plain PyTorch, and for the scan "published", the loop that the field uses as its
reference: channels before tokens, decay and drive of all tokens made first, as (b, e, n, s) tensors.

    python benchmarks/ops.py                      # the table, some ten seconds
    python benchmarks/ops.py --batch 1 --tokens 785 --json ops.json
    python benchmarks/ops.py --memory             # also the peak memory of forward + backward over the length
    python benchmarks/ops.py --cpu-time           # one thread by its processor time, for a machine that others use too

A speed-up is the ratio of medians of the same run; the spread is the fastest and the slowest repeat. One state update
is one step of one state of one channel: b n e s of them in a scan.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from memory import resident
from torch import Tensor
from torch.nn import functional

from rmeeto.ops import causal_conv, native_info, selective_scan

LENGTHS = (197, 785, 3137)


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one way of running one op."""

    case: str
    backend: str
    median: float
    fastest: float
    slowest: float
    repeats: int


def scan_inputs(b: int, n: int, e: int, s: int) -> list[Tensor]:
    """u, delta, A, B, C, D, z, delta_bias as a Vision Mamba has them, u and z slices of one projection."""
    projection, selection = torch.randn(b, n, 2 * e), torch.randn(b, n, 2 * s)
    rates = -torch.arange(1, s + 1, dtype=torch.float32).repeat(e, 1)
    bias = torch.empty(e).uniform_(-7, -2)
    u, z = projection[..., :e], projection[..., e:]
    return [u, torch.randn(b, n, e), rates, selection[..., :s], selection[..., s:], torch.ones(e), z, bias]


def conv_inputs(b: int, n: int, e: int) -> list[Tensor]:
    """x as a slice of the projection, four taps, a bias."""
    return [torch.randn(b, n, 2 * e)[..., :e], torch.randn(e, 4), torch.randn(e)]


def published_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor
) -> Tensor:
    """The published loop's mathematics, from (b, n, e) and back."""
    u, delta, z = u.transpose(1, 2), delta.transpose(1, 2), z.transpose(1, 2)
    step = functional.softplus(delta + bias.unsqueeze(1))
    decay = torch.exp(torch.einsum("ben,es->bens", step, A))
    drive = torch.einsum("ben,bns,ben->bens", step, B, u)
    state, outputs = torch.zeros_like(decay[:, :, 0]), []
    for token in range(u.shape[2]):
        state = decay[:, :, token] * state + drive[:, :, token]
        outputs.append(torch.einsum("bes,bs->be", state, C[:, token]))
    y = torch.stack(outputs, dim=2) + u * D.unsqueeze(1)
    return (y * functional.silu(z)).transpose(1, 2)


def run(op: Callable[..., Tensor], inputs: list[Tensor], backend: str) -> Tensor:
    return published_scan(*inputs) if backend == "published" else op(*inputs, backend=backend)


def forward(op: Callable[..., Tensor], inputs: list[Tensor], backend: str) -> Callable[[], object]:
    """Inference: nothing is kept for a backward pass."""

    def call() -> Tensor:
        with torch.inference_mode():
            return run(op, inputs, backend)

    return call


def both(op: Callable[..., Tensor], inputs: list[Tensor], backend: str) -> Callable[[], object]:
    """A training step of the op: forward, then every gradient."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    dy = torch.randn(inputs[0].shape)

    def call() -> object:
        return torch.autograd.grad(run(op, leaves, backend), leaves, dy)

    return call


def interleave(ways: dict[str, tuple[Callable[[], object], int]], clock: Callable[[], float]) -> dict[str, list[float]]:
    """Milliseconds of every way, taken in turns; a way with fewer repeats sits out the last rounds."""
    for call, repeats in ways.values():
        for _ in range(2 if repeats > 2 else 0):  # the reference runs for seconds: it is warm before it is done
            call()
    times: dict[str, list[float]] = {name: [] for name in ways}
    gc.disable()
    for turn in range(max(repeats for _, repeats in ways.values())):
        for name, (call, repeats) in ways.items():
            if turn < repeats:
                start = clock()
                call()
                times[name].append((clock() - start) * 1e3)
    gc.enable()
    return times


def measure(case: str, ways: dict[str, tuple[Callable[[], object], int]], clock: Callable[[], float]) -> list[Timing]:
    return [
        Timing(case, name, statistics.median(taken), min(taken), max(taken), len(taken))
        for name, taken in interleave(ways, clock).items()
    ]


def measure_all(options: argparse.Namespace) -> list[Timing]:
    b, n, e, s = options.batch, options.tokens, options.channels, options.state
    slow, few, many = options.reference_repeats, 2 * options.reference_repeats, options.repeats
    cases = [
        ("scan forward", selective_scan, forward, scan_inputs(b, n, e, s), few),
        ("scan forward + backward", selective_scan, both, scan_inputs(b, n, e, s), slow),
        ("conv forward", causal_conv, forward, conv_inputs(b, n, e), many),
        ("conv forward + backward", causal_conv, both, conv_inputs(b, n, e), many),
    ]
    timings = []
    for case, op, way, inputs, repeats in cases:
        ways = {"native": (way(op, inputs, "native"), many), "reference": (way(op, inputs, "reference"), repeats)}
        if op is selective_scan:
            ways["published"] = (way(op, inputs, "published"), slow)
        timings += measure(case, ways, time.process_time if options.cpu_time else time.perf_counter)
    return timings


def peak_memory(n: int, options: argparse.Namespace) -> float:
    """MiB that forward + backward of the native scan add to a fresh process, inputs included."""
    command = [sys.executable, __file__, "--child", str(n)]
    for name in ("batch", "channels", "state"):
        command += [f"--{name}", str(getattr(options, name))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def child(n: int, options: argparse.Namespace) -> None:
    both(selective_scan, scan_inputs(1, 2, 16, options.state), "native")()
    before = resident(peak=False)
    both(selective_scan, scan_inputs(options.batch, n, options.channels, options.state), "native")()
    print(resident(peak=True) - before)


def show(timings: list[Timing], options: argparse.Namespace) -> None:
    updates = options.batch * options.tokens * options.channels * options.state
    print(f"{'case':24} {'way':10} {'median ms':>10} {'fastest':>9} {'slowest':>9} {'repeats':>8} {'native is':>10}")
    native = {row.case: row.median for row in timings if row.backend == "native"}
    for row in timings:
        ratio = "" if row.backend == "native" else f"{row.median / native[row.case]:.1f}x"
        print(
            f"{row.case:24} {row.backend:10} {row.median:10.3f} {row.fastest:9.3f} {row.slowest:9.3f}"
            f" {row.repeats:8} {ratio:>10}"
        )
    scan, step = (
        next(row for row in timings if row.case == case) for case in ("scan forward", "scan forward + backward")
    )
    print(f"scan forward: {updates / scan.median / 1e6:.2f} billion state updates/s", end=", ")
    print(f"fastest repeat {updates / scan.fastest / 1e6:.2f}; backward / forward {step.median / scan.median - 1:.2f}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=197)
    parser.add_argument("--channels", type=int, default=384)
    parser.add_argument("--state", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=30, help="of the native kernels")
    parser.add_argument("--reference-repeats", type=int, default=1, help="of the reference's forward + backward")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, by its processor time")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory over the length")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    options.threads = 1 if options.cpu_time else options.threads
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.child:
        child(options.child, options)
        return
    info = native_info()
    if info is None:
        sys.exit("no native kernels here; see `rmeeto doctor`")
    shape = f"batch {options.batch}, tokens {options.tokens}, channels {options.channels}, state {options.state}"
    clock = "processor time" if options.cpu_time else "wall clock"
    build = f"{info.instruction_set}, {info.compiler}, torch {torch.__version__}"
    print(f"{shape}, float32, {options.threads} threads, {build}, {clock}")
    timings = measure_all(options)
    show(timings, options)
    memory = {n: peak_memory(n, options) for n in LENGTHS} if options.memory else {}
    for n, size in memory.items():
        print(f"peak memory of scan forward + backward at {n} tokens: {size:.1f} MiB")
    if options.json:
        setting = {k: v for k, v in vars(options).items() if isinstance(v, int)}
        figures = {"machine": platform.processor(), "native": asdict(info), "setting": setting, "memory_mib": memory}
        options.json.write_text(json.dumps({**figures, "timings": [asdict(t) for t in timings]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
