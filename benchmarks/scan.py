"""The selective scan: our kernel against all that PyTorch users have on a CPU, in turns.

    python benchmarks/scan.py            # some minutes, most of them torch.compile and the loops with gradients
    python benchmarks/scan.py --quick    # to see that it runs

Peers: the published loop's mathematics, mambapy's parallel scan, the slow path of transformers, our own reference in
PyTorch, and the reference compiled by torch.compile. Before anything is timed each must equal the reference. One state
update is one step of one state of one channel: b n e s of them in a scan. Memory is what one forward and backward pass
adds to the peak of a fresh process. How our kernel scales, and what its backward pass costs beside the forward one, is
told as the median, least and most of several processes; beside it how the machine itself does, by a matrix product in
the same rounds: where two threads share a core or a clock, nothing that computes scales by two. Both passes less the
forward one are what autograd takes, too; the backward op alone is told beside it. Last the forward pass in processes
that do not keep freed memory, as PyTorch comes: there the loop's large tensors cost page faults, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import torch
from compiling import compiled
from harness import (
    Call,
    Report,
    Timing,
    Way,
    begin,
    child,
    forward_only,
    in_processes,
    in_turns,
    tell,
    together,
    told,
    with_gradients,
)  # fmt: skip
from memory import resident
from peers import Scan, mambapy, published, scan_inputs, transformers_scan
from torch import Tensor

from rmeeto.ops import instruction_sets, selective_scan, use_instruction_set
from rmeeto.ops.selective_scan import selective_scan_reference

NATIVE, REFERENCE, COMPILED = "rmeeto", "our reference", "our reference, torch.compile"
PUBLISHED = "published loop"
LENGTHS = (197, 785, 3137)
PRODUCT = 768  # width of the matrices whose product tells how the machine scales
BATCHES = (1, 16)
PLAIN, PLAIN_BATCHES = "plain", (1, 8, 16)
KINDS = {"forward": "forward", "both": "forward + backward"}


def main() -> None:
    report = begin(
        "scan",
        __doc__,
        tokens={"type": int, "default": 197},
        channels={"type": int, "default": 384},
        state={"type": int, "default": 16},
        compile_limit={"type": float, "default": 240.0, "help": "seconds that one torch.compile may take; 0 is none"},
        processes={"type": int, "default": 5, "help": "processes that time our kernel alone, one after the other"},
        child={"type": int, "help": argparse.SUPPRESS},
        ways={"help": argparse.SUPPRESS},
    )
    options = report.options
    if options.child:
        print(_step_memory(options.child, options))
        return
    if options.quick:
        options.tokens, options.channels, options.compile_limit = 33, 64, 0
    if options.ways:
        tell(_as_it_comes(options) if options.ways == PLAIN else _on_a_set(options.ways, options))
        return
    scans = _scans(report)
    rows: list[list[str]] = []
    for batch in BATCHES:
        inputs = scan_inputs(batch, options.tokens, options.channels, options.state)
        for kind, way in (("forward", forward_only), ("forward + backward", with_gradients)):
            rows += _against_peers(report, scans, inputs, kind, way)
    columns = ["scan", "by", "ms", "10-90 %", "rounds", "10^9 updates/s", "rmeeto is faster by"]
    report.show("scan", columns, rows)
    _instruction_sets(report)
    _in_plain_processes(report)
    _memory(report)
    report.finish()


def _native(*inputs: Tensor) -> Tensor:
    return selective_scan(*inputs, backend="native")


def _scans(report: Report) -> dict[str, Scan]:
    """Ours and those peers that are here and give the reference's numbers."""
    found: dict[str, Scan] = {NATIVE: _native, REFERENCE: selective_scan_reference}
    named = {PUBLISHED: published, "mambapy": mambapy(), "transformers, slow path": transformers_scan()}
    inputs = scan_inputs(2, 19, 8, 4)
    wanted = selective_scan_reference(*inputs)
    for name, scan in named.items():
        if isinstance(scan, str):
            report.remark(f"{name}: {scan}")
            continue
        torch.testing.assert_close(scan(*inputs), wanted, rtol=1e-4, atol=1e-4)
        found[name] = scan
    return found


def _against_peers(report: Report, scans: Mapping[str, Scan], inputs: list[Tensor], kind: str, way) -> list[list[str]]:
    options, batch = report.options, len(inputs[0])
    gradients = kind != "forward"
    calls: dict[str, Call] = {}
    for name, scan in scans.items():
        calls[name] = way(scan, inputs) if gradients else way(scan, *inputs)
    # With gradients once: the graph of a loop over all tokens takes minutes to compile, or does not end.
    if options.compile_limit and not (gradients and batch > 1):
        leaves = [x.detach().requires_grad_(gradients) for x in inputs]
        made = compiled(selective_scan_reference, *leaves, seconds=options.compile_limit, gradients=gradients)
        if isinstance(made, str):
            report.remark(f"our reference, {kind}, batch {batch}: {made}")
        else:
            calls[COMPILED] = way(made, inputs) if gradients else way(made, *inputs)
    timings = in_turns(calls, options)
    report.keep(f"{kind}, batch {batch}", timings)
    updates = inputs[0].numel() * options.state
    return [_row(f"{kind}, batch {batch}", name, timing, timings[NATIVE], updates) for name, timing in timings.items()]


def _row(case: str, name: str, timing: Timing, native: Timing, updates: int) -> list[str]:
    ratio = "" if timing is native else f"{native.times_as_fast_as(timing):.1f}x"
    speed = f"{updates / timing.median / 1e9:.3f}"
    return [case, name, *timing.milliseconds(), str(len(timing.seconds)), speed, ratio]


def _on_a_set(name: str, options: argparse.Namespace) -> dict[str, Timing]:
    """Our kernel by one instruction set, both batches and passes, on one thread and on all."""
    ways: dict[str, Way] = {}
    counts = sorted({1, options.threads})
    for batch in BATCHES:
        inputs = scan_inputs(batch, options.tokens, options.channels, options.state)
        forward, both = forward_only(_native, *inputs), with_gradients(_native, inputs)
        calls = {"forward": forward, "both": both, "op": _backward_op(inputs)}
        for threads in counts:
            ways |= {_case(kind, batch, threads): Way(call, threads) for kind, call in calls.items()}
    square = torch.randn(PRODUCT, PRODUCT)
    ways |= {_product(threads): Way(lambda: square @ square, threads) for threads in counts}
    with use_instruction_set(name):
        return in_turns(ways, options)


def _backward_op(inputs: Sequence[Tensor]) -> Call:
    """All gradients of a scan, without autograd around it."""
    given = [*inputs, None]  # no times
    y, states = torch.ops.rmeeto.selective_scan(*given, True, False, True)
    dy, needs = torch.randn_like(y), [x is not None for x in given]
    return forward_only(torch.ops.rmeeto.selective_scan_backward, dy, states, *given, True, False, needs)


def _case(kind: str, batch: int, threads: int) -> str:
    return f"{kind}, batch {batch}, {threads} threads"


def _product(threads: int) -> str:
    return f"matrix product, {threads} threads"


def _instruction_sets(report: Report) -> None:
    """One thread and all of them, and the backward pass beside the forward one, by every set of this processor."""
    options, scaling, sets = report.options, [], []
    sizes = _sizes(options)
    known = instruction_sets()
    for name in known:
        found = in_processes(name, options, *sizes)
        pooled = together(found)
        report.keep(name, pooled)
        report.figures[f"{name}, medians of processes"] = [{way: t.median for way, t in each.items()} for each in found]
        for batch in BATCHES:
            updates = batch * options.tokens * options.channels * options.state
            if name != known[-1] or len(known) == 1:  # the last is for any processor
                for kind, words in KINDS.items():
                    cases = [_case(kind, batch, t) for t in (1, options.threads)]
                    speed = _speed(updates, pooled[cases[1]])
                    scaling.append([f"{name}: {words}, batch {batch}", *_scaled(cases, found, pooled), speed])
            forward, both = (pooled[_case(kind, batch, options.threads)] for kind in KINDS)
            passes = zip(*(_over_forward(each, batch, options.threads) for each in found), strict=True)
            times = (forward.milliseconds()[0], both.milliseconds()[0])
            sets.append([f"{name}, batch {batch}", *times, _speed(updates, forward), *map(told, passes)])
        if name == known[0]:
            cases = [_product(t) for t in (1, options.threads)]
            scaling.insert(0, [f"torch: {PRODUCT} x {PRODUCT} x {PRODUCT}", *_scaled(cases, found, pooled), ""])
    all_of_them = f"all threads ({options.threads}), ms"
    report.show("scaling", ["by", "1 thread, ms", all_of_them, "scales by", "10^9 updates/s"], scaling)
    columns = ["instruction set", "forward, ms", "both passes, ms", "forward, 10^9 updates/s"]
    columns += ["backward / forward", "backward op / forward"]
    report.show("scan_sets", columns, sets)


def _sizes(options: argparse.Namespace) -> list[str]:
    return [f"--{name}={getattr(options, name)}" for name in ("tokens", "channels", "state")]


def _as_it_comes(options: argparse.Namespace) -> dict[str, Timing]:
    """The forward pass of ours, of our reference and of the published loop."""
    ways: dict[str, Call] = {}
    for batch in PLAIN_BATCHES:
        inputs = scan_inputs(batch, options.tokens, options.channels, options.state)
        for name, scan in ((NATIVE, _native), (REFERENCE, selective_scan_reference), (PUBLISHED, published)):
            ways[f"{name}, batch {batch}"] = forward_only(scan, *inputs)
    return in_turns(ways, options)


def _in_plain_processes(report: Report) -> None:
    found = in_processes(PLAIN, report.options, *_sizes(report.options), "--plain")
    pooled, rows = together(found), []
    report.keep(PLAIN, pooled)
    for batch in PLAIN_BATCHES:
        native, *peers = (f"{name}, batch {batch}" for name in (NATIVE, REFERENCE, PUBLISHED))
        faster = (told([each[native].times_as_fast_as(each[peer]) for each in found]) for peer in peers)
        rows.append([f"forward, batch {batch}", *(pooled[way].milliseconds()[0] for way in (native, *peers)), *faster])
    columns = [f"{name}, ms" for name in (NATIVE, REFERENCE, PUBLISHED)]
    columns += ["faster than our reference by", "than the published loop by"]
    report.show("plain", ["scan, in a process as PyTorch comes", *columns], rows)


def _speed(updates: int, timing: Timing) -> str:
    """10^9 updates a second."""
    return f"{updates / timing.median / 1e9:.2f}"


def _scaled(
    cases: Sequence[str], found: Sequence[Mapping[str, Timing]], pooled: Mapping[str, Timing]
) -> tuple[str, str, str]:
    """Of two cases, on one thread and on all: the milliseconds of each, and by how much the second is faster."""
    one, most = cases
    ratios = [each[most].times_as_fast_as(each[one]) for each in found]
    return pooled[one].milliseconds()[0], pooled[most].milliseconds()[0], told(ratios)


def _over_forward(timings: Mapping[str, Timing], batch: int, threads: int) -> tuple[float, float]:
    """Both passes but for the forward one, and the backward op alone, over the forward pass."""
    forward, both, op = (timings[_case(kind, batch, threads)].median for kind in (*KINDS, "op"))
    return both / forward - 1, op / forward


def _memory(report: Report) -> None:
    options, rows = report.options, []
    for tokens in LENGTHS[:1] if options.quick else LENGTHS:
        sizes = ("--channels", str(options.channels), "--state", str(options.state))
        mib = float(child("--child", str(tokens), *sizes))
        rows.append([str(tokens), f"{mib:.1f}", f"{1024 * mib / tokens:.1f}"])
    report.show("scan_memory", ["tokens, batch 8, forward + backward", "MiB", "KiB per token"], rows)


def _step_memory(tokens: int, options: argparse.Namespace) -> float:
    """MiB that forward + backward add to a fresh process, inputs included."""
    with_gradients(_native, scan_inputs(1, 2, 16, options.state))()
    before = resident(peak=False)
    inputs = [x.detach().requires_grad_() for x in scan_inputs(8, tokens, options.channels, options.state)]
    _native(*inputs).sum().backward()
    return resident(peak=True) - before


if __name__ == "__main__":
    main()
