"""What this machine can do at most, and which share of it the ops and the models reach.

    python benchmarks/limits.py

Measured limits, by the fastest round: matrix products (torch's own linear layer, which asks MKL, and
rmeeto.ops.linear, which asks oneDNN) at the models' shapes and at a large square; the kernels' vectorised exp,
sigmoid and softplus alone, on numbers in the cache, one thread's rate times the threads; memory bandwidth, read and
copy, of arrays in the last cache and far beyond.

The roofline time of an op is the longer of two: its arithmetic, multiply-adds at the rate of the best matrix product
plus exponentials at the rate of exp alone, or of its instructions as multiply-adds where that is faster (in models, new
ones with short steps, of the fewer ones that they take); and its traffic, each input read once and each output written
once, at the bandwidth of its working set. A model's is the sum over its ops. Share = roofline time / measured time,
the median.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from harness import Report, Way, begin, forward_only, in_turns
from peers import scan_inputs
from torch import Tensor
from torch.nn import functional

from rmeeto.models import VimConfig, create
from rmeeto.models.configs import CONFIGS
from rmeeto.ops import causal_conv, linear, selective_scan
from rmeeto.ops._library import library

FUNCTIONS = {"exp": 0, "softplus": 2, "sigmoid": 3}  # numbers of rmeeto_map; the scan takes powers of two
CACHED, LARGE = 1 << 19, 1 << 26  # floats: 2 MiB, 256 MiB
# Arithmetic instructions of one state update beside the exponential: step A, drive B, decay h + ..., C h + ...
UPDATE = 4
# Vector instructions of the scan's exponential; the processor can overlap those of several, which one array's cannot.
# Of a short step, as most are in models, they are a polynomial of degree 6.
EXP, SHORT_EXP = 11, 6


@dataclass(frozen=True)
class Work:
    """What an op has to do at least: multiply-adds, exponentials, sigmoids, softpluses, bytes read or written."""

    fma: float = 0.0
    exp: float = 0.0
    short_exp: float = 0.0
    sigmoid: float = 0.0
    softplus: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True)
class Rates:
    """Measured limits, each per second."""

    fma: float
    exp: float
    sigmoid: float
    softplus: float
    cached: float
    memory: float

    def seconds(self, work: Work) -> float:
        """The roofline time."""
        functions = work.sigmoid / self.sigmoid + work.softplus / self.softplus
        functions += work.exp / self.exp + work.short_exp * SHORT_EXP / self.fma
        bandwidth = self.cached if work.bytes < 16 << 20 else self.memory
        return max(work.fma / self.fma + functions, work.bytes / bandwidth)


def main() -> None:
    report = begin("limits", __doc__)
    products = _products(report)
    rates = Rates(fma=products / 2, **_functions(report, products / 2), **_bandwidths(report))
    report.figures["rates"] = vars(rates)
    _ops(report, rates)
    _models(report, rates)
    report.finish()


def _products(report: Report) -> float:
    """Operations a second of the best matrix product."""
    rows, best = [], 0.0
    shapes = {"large square": (1024, 1024, 1024)}
    for size in ("vim_tiny",) if report.options.quick else ("vim_tiny", "vim_small", "vim_base"):
        config = CONFIGS[size]
        c, e, wide = config.embed_dim, config.inner_dim, config.time_rank + 2 * config.state_size
        for batch in (1, 16):
            tokens = batch * (config.num_patches + 1)
            places = {"in_proj": (c, 2 * e), "x_proj": (e, wide), "out_proj": (e, c)}
            shapes |= {f"{size} {name}, batch {batch}": (tokens, *sizes) for name, sizes in places.items()}
    for name, (m, k, n) in shapes.items():
        x, weight = torch.randn(m, k), torch.randn(n, k)
        ways = {"MKL": forward_only(functional.linear, x, weight), "oneDNN": forward_only(linear, x, weight)}
        timings = in_turns(ways, report.options)
        report.keep(f"product, {name}", timings)
        rate = {way: 2 * m * k * n / timing.fastest for way, timing in timings.items()}
        best = max(best, *rate.values())
        rows.append([name, f"{m} x {k} x {n}", *(f"{rate[way] / 1e9:.1f}" for way in ways)])
    report.show("products", ["matrix product", "m x k x n", "MKL, GFLOP/s", "oneDNN, GFLOP/s"], rows)
    return best


def _functions(report: Report, fma: float) -> dict[str, float]:
    """Values a second, all threads: each would work alone on numbers of its own.

    The kernel that maps an array takes one vector after the other, the scan several in step: where the exponential's
    instructions at the rate of multiply-adds would be faster than the mapped array, that is the limit.
    """
    count = 1 << 15  # 128 KiB in, 128 KiB out: in the cache, and long enough for the call not to count
    x, y = torch.randn(count), torch.empty(count)

    def apply(number: int) -> Callable[[], None]:
        return lambda: library().rmeeto_map(number, count, x.data_ptr(), y.data_ptr())

    ways = {name: Way(apply(number), threads=1) for name, number in FUNCTIONS.items()}
    timings = in_turns(ways, report.options)
    report.keep("functions", timings)
    rates = {name: report.options.threads * count / timing.fastest for name, timing in timings.items()}
    rows = [[name, f"{rate / 1e9:.2f}"] for name, rate in rates.items()]
    rows.append([f"exp, {EXP} instructions at the rate of multiply-adds", f"{fma / EXP / 1e9:.2f}"])
    report.show("functions", ["function", "10^9 values/s"], rows)
    rates["exp"] = max(rates["exp"], fma / EXP)
    return rates


def _bandwidths(report: Report) -> dict[str, float]:
    rows, best = [], {}
    for name, count in (("cached", CACHED), ("memory", CACHED * 4 if report.options.quick else LARGE)):
        x, y = torch.ones(count), torch.empty(count)
        timings = in_turns({"read": forward_only(x.sum), "copy": forward_only(y.copy_, x)}, report.options)
        report.keep(f"bandwidth, {name}", timings)
        read, copied = (4 * count * n / timings[way].fastest for way, n in (("read", 1), ("copy", 2)))
        best[name] = max(read, copied)
        rows.append([f"{4 * count >> 20} MiB", f"{read / 1e9:.1f}", f"{copied / 1e9:.1f}"])
    report.show("bandwidth", ["array of", "read, GB/s", "copy (both ways counted), GB/s"], rows)
    return best


def scan_work(b: int, n: int, e: int, s: int) -> Work:
    """A scan with softplus, skip and gate: u, delta, z in, y out, B and C, the rates."""
    elements = b * n * e
    traffic = 4 * (4 * elements + 2 * b * n * s + e * s)
    fma = UPDATE * elements * s + 4 * elements
    return Work(fma, exp=elements * s, sigmoid=elements, softplus=elements, bytes=traffic)


def conv_work(b: int, n: int, e: int, taps: int) -> Work:
    """The causal convolution with its SiLU."""
    elements = b * n * e
    return Work(fma=(taps + 1) * elements, sigmoid=elements, bytes=8 * elements)


def product_work(m: int, k: int, n: int) -> Work:
    """A matrix product."""
    return Work(fma=m * k * n, bytes=4 * (m * k + k * n + m * n))


def model_work(config: VimConfig, batch: int) -> list[tuple[str, Work]]:
    """All ops of an un-merged forward pass; between the two large products only xz comes in and y goes out."""
    n, c, e, s = config.num_patches + 1, config.embed_dim, config.inner_dim, config.state_size
    tokens, rank, elements = batch * n, config.time_rank, batch * n * e
    patch = config.in_chans * config.patch_size**2
    one = scan_work(batch, n, e, s)
    scan = Work(
        fma=2 * (one.fma + rank * elements),
        short_exp=2 * one.exp,  # published initial steps are short, nearly all of them
        sigmoid=elements,
        softplus=2 * one.softplus,
        bytes=12 * elements,
    )
    block = [
        ("products", product_work(tokens, c, 2 * e)),
        ("products", product_work(tokens, e, c)),
        *2 * [("products", product_work(tokens, e, rank + 2 * s))],
        ("scan", scan),
        ("convolution", Work(2 * (config.conv_width + 1) * elements, sigmoid=2 * elements)),
        ("norm and residual", Work(fma=4 * tokens * c, bytes=16 * tokens * c)),
    ]
    ends = [
        ("products", product_work(batch * config.num_patches, patch, c)),
        ("products", product_work(batch, c, config.num_classes)),
    ]
    return config.depth * block + ends


def _ops(report: Report, rates: Rates) -> None:
    rows = []
    n, e, s, c = 197, 384, 16, 192
    for batch in (1, 16):
        inputs = scan_inputs(batch, n, e, s)
        x, weight = torch.randn(batch * n, c), torch.randn(2 * e, c)
        taps, bias = torch.randn(e, 4), torch.randn(e)
        calls: dict[str, tuple[Callable[..., Tensor], Sequence[Any], Work]] = {
            "scan": (selective_scan, inputs, scan_work(batch, n, e, s)),
            "convolution": (causal_conv, (inputs[0], taps, bias), conv_work(batch, n, e, 4)),
            "in_proj": (linear, (x, weight), product_work(batch * n, c, 2 * e)),
        }
        timings = in_turns({name: forward_only(op, *given) for name, (op, given, _) in calls.items()}, report.options)
        report.keep(f"ops, batch {batch}", timings)
        for name, (_, _, work) in calls.items():
            rows.append(_share(f"{name}, batch {batch}", rates.seconds(work), timings[name].median))
    report.show("ops_share", ["op, vim_tiny's sizes, forward", "roofline, ms", "measured, ms", "share"], rows)


def _models(report: Report, rates: Rates) -> None:
    rows, parts = [], []
    for name in ("vim_tiny",) if report.options.quick else ("vim_tiny", "vim_small", "vim_base"):
        model = create(name).eval()
        batches = (1,) if report.options.quick else (1, 16)
        images = {batch: torch.randn(batch, *model.config.input_shape) for batch in batches}
        timings = in_turns({f"batch {b}": forward_only(model, x) for b, x in images.items()}, report.options)
        report.keep(name, timings)
        for batch in batches:
            work: dict[str, float] = {}
            for part, each in model_work(model.config, batch):
                work[part] = work.get(part, 0.0) + rates.seconds(each)
            case = f"{name}, batch {batch}"
            rows.append(_share(case, sum(work.values()), timings[f"batch {batch}"].median))
            parts.append([case, *(f"{1e3 * seconds:.2f}" for seconds in work.values())])
            report.figures[f"roofline, {case}"] = work
    report.show("models_share", ["model, forward", "roofline, ms", "measured, ms", "share"], rows)
    report.show("models_parts", ["roofline, ms", *work], parts)


def _share(name: str, limit: float, measured: float) -> list[str]:
    return [name, f"{1e3 * limit:.3f}", f"{1e3 * measured:.3f}", f"{100 * limit / measured:.0f} %"]


if __name__ == "__main__":
    main()
