"""The GPU: the Triton kernels against the reference ops, and whole models beside DeiT of the same width.

    python benchmarks/gpu.py --limit 2
    python benchmarks/gpu.py --quick

Every call ends when the GPU has finished. Weights are random, which speed does not depend on. Float32 is torch's
default: no TF32 in matrix products. bf16 is autocast; the scan computes in float32 inside, as always. "As a graph" is
the forward pass replayed as one CUDA graph (`rmeeto.evaluate.Replay`). The scan has the size of a direction of vim_tiny
(197 tokens, 384 channels, 16 states); its share of the bandwidth counts every input read once and every output written
once, at the rate of a copy of a large tensor measured in the same run.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import timm
import torch
from harness import Call, Report, Timing, begin, forward_only, in_turns, with_gradients
from peers import published, scan_inputs
from torch import Tensor, nn

from models import DEIT, PUBLISHED, REMOVALS
from rmeeto import Schedule, attach, create
from rmeeto.evaluate import Replay
from rmeeto.ops import selective_scan, use_backend
from rmeeto.ops.selective_scan import selective_scan_reference

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TRITON = "rmeeto, Triton"
AS_GRAPH = ", as a graph"
REFERENCE_BATCH = 16  # of a training step on the reference ops: more does not fit


def main() -> None:
    report = begin(
        "gpu",
        __doc__,
        sizes={"nargs": "+", "choices": tuple(DEIT), "default": list(DEIT)},
        batch={"type": int, "default": 128},
    )
    options = report.options
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a GPU, and torch finds none")
    if options.quick:
        options.sizes, options.batch = ["tiny"], 8
    report.remark(f"Measured on one {torch.cuda.get_device_name()}, batch {options.batch} where nothing else is said.")
    for part in (_scan, _models, _steps):
        part(report)
        report.finish()  # after each: a lent GPU may be gone before the next


def finished(call: Call) -> Call:
    """The same, until the GPU has finished."""

    def run() -> None:
        call()
        torch.cuda.synchronize()

    return run


def warm_turns(calls: dict[str, Call], options: argparse.Namespace) -> dict[str, Timing]:
    """`in_turns`, once everything is compiled and memory is there: else a first call tells how long that takes."""
    for call in calls.values():
        call()
        call()
    return in_turns(calls, options)


def _scan(report: Report) -> None:
    options, rows = report.options, []
    scans = {TRITON: _triton, "our reference": selective_scan_reference, "published loop": published}
    bandwidth = _bandwidth(report)
    for name, dtype in TYPES.items():
        with torch.device("cuda"):
            inputs = [x if x.dim() < 3 else x.to(dtype) for x in scan_inputs(options.batch, 197, 384, 16)]
        size = inputs[0].numel() * dtype.itemsize
        for kind, passes in (("forward", 4), ("forward + backward", 11)):
            calls = {
                by: finished(forward_only(scan, *inputs) if passes == 4 else with_gradients(scan, inputs))
                for by, scan in scans.items()
                if scan is not published or dtype is torch.float32  # it mixes no types
            }
            timings = warm_turns(calls, options)
            report.keep(f"scan, {kind}, {name}", timings)
            for by, timing in timings.items():
                share = f"{100 * passes * size / bandwidth / timing.median:.0f} %" if by == TRITON else ""
                ratio = "" if by == TRITON else f"{timings[TRITON].times_as_fast_as(timing):.1f}x"
                rows.append([f"{kind}, {name}", by, *timing.milliseconds(), share, ratio])
    headers = ["scan", "by", "ms", "10-90 %", "of the bandwidth", "rmeeto is faster by"]
    report.show("gpu_scan", headers, rows)


def _triton(*inputs: Tensor) -> Tensor:
    return selective_scan(*inputs, backend="triton")


def _bandwidth(report: Report) -> float:
    """Bytes a second of a copy, read and written."""
    source = torch.randn(1 << (24 if report.options.quick else 28), device="cuda")
    target = torch.empty_like(source)
    timing = warm_turns({"copy": finished(lambda: target.copy_(source))}, report.options)["copy"]
    rate = 2 * source.nbytes / timing.median
    report.remark(f"A copy of {source.nbytes / 2**30:.2g} GiB moves {rate / 1e12:.2f} TB/s, read and written.")
    return rate


def _models(report: Report) -> None:
    options, rows = report.options, []
    images = torch.randn(options.batch, 3, 224, 224, device="cuda")
    for size in options.sizes:
        deit, vim = timm.create_model(DEIT[size]).eval(), create(f"vim_{size}").eval()
        models: dict[str, nn.Module] = {"deit": deit, "vim": vim}
        for r in REMOVALS:
            models[f"vim, r = {r}"] = attach(copy.deepcopy(vim), Schedule.constant(r, vim.config.depth))
        for name, dtype in TYPES.items():
            calls = {by: _cast(model.cuda(), dtype) for by, model in models.items()}
            calls |= {f"{by}{AS_GRAPH}": Replay(call, images) for by, call in calls.items()}
            timings = warm_turns({by: finished(forward_only(call, images)) for by, call in calls.items()}, options)
            report.keep(f"{size}, {name}", timings)
            rows += [
                _row(f"{size}, {name}: {by}", by, size, timing, timings, options.batch)
                for by, timing in timings.items()
            ]
    headers = ["224 pixels", "ms", "10-90 %", "images/s", "of deit", "of vim", "published top-1 %"]
    report.show("gpu_models", headers, rows)


def _row(case: str, by: str, size: str, timing: Timing, timings: dict[str, Timing], batch: int) -> list[str]:
    plain, way, _ = by.partition(AS_GRAPH)
    ratios = (f"{timing.times_as_fast_as(timings[f'{peer}{way}']):.2f}x" for peer in ("deit", "vim"))
    speed, published = f"{batch / timing.median:.0f}", str(PUBLISHED.get((size, plain), ""))
    return [case, *timing.milliseconds(), speed, *ratios, published]


def _cast(model: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    def run(images: Tensor) -> Tensor:
        with torch.autocast("cuda", dtype=dtype, enabled=dtype is not torch.float32):
            return model(images)

    return run


def _steps(report: Report) -> None:
    """Forward, loss, backward and the optimiser's step; memory is the most that torch's allocator held."""
    options, rows = report.options, []
    for size in options.sizes:
        for name, dtype in TYPES.items():
            vim = lambda: create(f"vim_{size}", drop_path_rate=0.0)  # noqa: B023, E731  (called before size changes)
            made = {
                "deit": (lambda: timm.create_model(DEIT[size]), options.batch, "auto"),  # noqa: B023
                "vim": (vim, options.batch, "auto"),
                f"vim, batch {REFERENCE_BATCH}": (vim, REFERENCE_BATCH, "auto"),
                f"vim on the reference ops, batch {REFERENCE_BATCH}": (vim, REFERENCE_BATCH, "reference"),
            }
            if size == "base":  # on the reference ops it does not fit
                made = dict(list(made.items())[:2])
            for by, (build, batch, backend) in made.items():
                with _trainer(build(), batch, dtype, backend) as step:
                    torch.cuda.reset_peak_memory_stats()
                    timing = warm_turns({by: step}, options)[by]
                    memory = torch.cuda.max_memory_allocated() / 2**30
                report.keep(f"step, {size}, {name}, {by}", {by: timing})
                speed = f"{batch / timing.median:.0f}"
                rows.append([f"{size}, {name}: {by}", *timing.milliseconds(), speed, f"{memory:.1f}"])
    report.show("gpu_steps", ["training step", "ms", "10-90 %", "images/s", "GiB"], rows)


@contextmanager
def _trainer(model: nn.Module, batch: int, dtype: torch.dtype, backend: str) -> Iterator[Call]:
    model = model.cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    images, labels = torch.randn(batch, 3, 224, 224, device="cuda"), torch.arange(batch, device="cuda") % 1000
    call = _cast(model, dtype)

    def step() -> None:
        with use_backend(backend):
            loss = nn.functional.cross_entropy(call(images).float(), labels)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    try:
        yield finished(step)
    finally:
        del model, optimizer, images, call
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
