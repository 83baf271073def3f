"""The ops beside the scan, in turns: the convolution, the linear layer, the norm, what stands between the products, and
a whole block.

    python benchmarks/ops.py
    python benchmarks/ops.py --batch 1 --tokens 785

"reference" is the op's own law in plain PyTorch. The linear layer is also told for torch's own, which asks MKL. The
last case is a mixer of one direction, ours beside the slow path of transformers with the same weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from harness import Call, Report, Timing, begin, forward_only, in_turns, with_gradients
from peers import transformers_mixer
from torch import Tensor
from torch.nn import functional

from rmeeto.models import create
from rmeeto.ops import Direction, bimamba, block, causal_conv, linear, rms_norm, selective_scan
from rmeeto.ops.block import block_reference

OURS = "rmeeto"
Ops = Mapping[str, Callable[..., Tensor]]


def main() -> None:
    report = begin(
        "ops",
        __doc__,
        batch={"type": int, "default": 16},
        tokens={"type": int, "default": 197},
        width={"type": int, "default": 192, "help": "c, a multiple of 16"},
    )
    options = report.options
    if options.quick:
        options.batch, options.tokens, options.width = 2, 33, 32
    rows: list[list[str]] = []
    for name, (ops, inputs) in _cases(options.batch, options.tokens, options.width).items():
        for kind in ("forward", "forward + backward"):
            ways = {by: _way(kind, op, inputs) for by, op in ops.items()}
            timings = in_turns(ways, options)
            report.keep(f"{name}, {kind}", timings)
            rows += _rows(f"{name}, {kind}", timings)
    rows += _block(report)
    rows += _mixer(report)
    shape = f"batch {options.batch}, {options.tokens} tokens, c = {options.width}"
    report.show("ops", [f"op, {shape}", "by", "ms", "10-90 %", "rmeeto is faster by"], rows)
    report.finish()


def _way(kind: str, op: Callable[..., Tensor], inputs: list[Tensor]) -> Call:
    return forward_only(op, *inputs) if kind == "forward" else with_gradients(op, inputs)


def _rows(case: str, timings: Mapping[str, Timing]) -> list[list[str]]:
    ours = timings[OURS]
    ratios = {by: "" if by == OURS else f"{ours.times_as_fast_as(timing):.2f}x" for by, timing in timings.items()}
    return [[case, by, *timing.milliseconds(), ratios[by]] for by, timing in timings.items()]


def _by(op: Callable[..., Any]) -> Ops:
    return {
        OURS: lambda *inputs: op(*inputs, backend="native"),
        "reference": lambda *inputs: op(*inputs, backend="reference"),
    }


def _cases(b: int, n: int, c: int) -> dict[str, tuple[Ops, list[Tensor]]]:
    """Each op with inputs as a Vision Mamba has them: u is a slice of the first projection."""
    e = 2 * c
    xz, mixer = torch.randn(b, n, 2 * e), create("vim_nano", embed_dim=c, depth=1, state_size=16).layers[0].mixer
    halves = mixer.directions
    parameters = [x.detach() for half in halves for x in half]
    fields = len(halves[0])

    def between(xz: Tensor, *given: Tensor, backend: str) -> Tensor:
        pair = (Direction(*given[:fields]), Direction(*given[fields:]))
        return bimamba(xz, pair, scale=0.5, backend=backend)[0]

    return {
        "convolution": (_by(causal_conv), [xz[..., :e], torch.randn(e, 4), torch.randn(e)]),
        "norm": (_by(rms_norm), [torch.randn(b, n, c), torch.ones(c)]),
        "in_proj": ({OURS: linear, "torch": functional.linear}, [torch.randn(b * n, c), torch.randn(2 * e, c)]),
        "out_proj": ({OURS: linear, "torch": functional.linear}, [torch.randn(b * n, e), torch.randn(c, e)]),
        "between the products": (_by(between), [xz, *parameters]),
    }


def _block(report: Report) -> list[list[str]]:
    """A whole block, inference: in one go, and composed of its parts."""
    b, n, c = report.options.batch, report.options.tokens, report.options.width
    whole = create("vim_nano", embed_dim=c, depth=1, state_size=16).layers[0]
    mixer = whole.mixer
    given = (torch.randn(b, n, c), whole.norm.weight, mixer.in_proj.weight, mixer.directions, mixer.out_proj.weight)

    def by(compute: Callable[..., Any], backend: str) -> Call:
        return forward_only(lambda x: compute(x, *given[1:], scale=0.5, backend=backend)[0], given[0])

    ways = {
        OURS: by(block, "native"),
        "its parts, native": by(block_reference, "native"),
        "reference": by(block_reference, "reference"),
    }
    timings = in_turns(ways, report.options)
    report.keep("block, forward", timings)
    return _rows("block, forward", timings)


def _mixer(report: Report) -> list[list[str]]:
    """One direction of a mixer, inference."""
    b, n, c, s = report.options.batch, report.options.tokens, report.options.width, 16
    rank = c // 16
    peer = transformers_mixer(c, s, rank)
    if isinstance(peer, str):
        report.remark(peer)
        return []
    weights = dict(peer.named_parameters())

    def ours(x: Tensor) -> Tensor:
        u, z = linear(x, weights["in_proj.weight"]).chunk(2, dim=-1)
        u = causal_conv(u, weights["conv1d.weight"].squeeze(1), weights["conv1d.bias"])
        dt, B, C = linear(u, weights["x_proj.weight"]).split([rank, s, s], dim=-1)
        delta = linear(dt, weights["dt_proj.weight"])
        rates = -torch.exp(weights["A_log"])
        y = selective_scan(u, delta, rates, B, C, weights["D"], z, weights["dt_proj.bias"])
        return linear(y, weights["out_proj.weight"])

    x = torch.randn(b, n, c)
    ways = {OURS: forward_only(ours, x), "transformers, slow path": forward_only(peer, x)}
    torch.testing.assert_close(*(way() for way in ways.values()), rtol=1e-4, atol=1e-4)
    timings = in_turns(ways, report.options)
    report.keep("mixer of one direction, forward", timings)
    return _rows("mixer of one direction, forward", timings)


if __name__ == "__main__":
    main()
