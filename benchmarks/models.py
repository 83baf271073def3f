"""Whole models: Vision Mamba, un-merged and merged, against DeiT of the same width, in turns; and compiled ones.

    python benchmarks/models.py
    python benchmarks/models.py --sizes small --no-compile

Per size and batch one run of turns with vim un-merged and merged (r tokens before every second block), timm's deit,
and deit with tokens merged by `rmeeto.adopt` (13 in every block, the keys compared: the usual setting); the two deits
and vim un-merged compiled, too, each as one graph; vim also without torch's questions to every module in every call
(torch.compiler.skip_guard_on_all_nn_modules_unsafe). Ratios are to the un-merged eager deit of the same size. Speed
does not depend on the weights, which are random; the accuracies beside it are the literature's (ImageNet-1K top-1, 224
pixels): Vim and merged Vim of arXiv 2412.12496, DeiT of arXiv 2012.12877, merged DeiT not stated here. Last vim_tiny on
the reference ops, once more with the published loop as its scan; all give the same logits.
"""

from __future__ import annotations

import argparse
import copy
from importlib import import_module
from typing import Any
from unittest.mock import patch

import timm
import torch
from compiling import UNASKED, compiled
from harness import Call, Report, begin, forward_only, in_turns
from peers import as_op, published
from torch import Tensor, nn

from rmeeto import Schedule, Settings, adopt, attach, create
from rmeeto.ops import use_backend

DEIT = {size: f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")}
# (size, r): tiny was re-trained at r = 5, small and base at 11; vim small at 5, 11, 20 for three epochs.
PUBLISHED = {
    ("tiny", "deit"): 72.2, ("small", "deit"): 79.9, ("base", "deit"): 81.8,
    ("tiny", "vim"): 76.1, ("small", "vim"): 80.5, ("base", "vim"): 81.9,
    ("tiny", "vim, r = 5"): 75.3, ("small", "vim, r = 5"): 79.9, ("small", "vim, r = 11"): 79.9,
    ("base", "vim, r = 11"): 81.3, ("small", "vim, r = 20"): 76.5,
}  # fmt: skip
REMOVALS, DEIT_REMOVALS = (5, 11, 20), 13
MERGED_DEIT = f"deit, merged, r = {DEIT_REMOVALS}"
COMPILED: dict[str, tuple[str, dict[str, Any] | None]] = {
    "deit, compiled": ("deit", None),
    f"{MERGED_DEIT}, compiled": (MERGED_DEIT, None),
    "vim, compiled": ("vim", None),
    "vim, compiled, modules not asked": ("vim", UNASKED),
}


def main() -> None:
    report = begin(
        "models",
        __doc__,
        sizes={"nargs": "+", "choices": tuple(DEIT), "default": list(DEIT)},
        batches={"nargs": "+", "type": int, "default": [1, 16]},
        compile={"action": argparse.BooleanOptionalAction, "default": True},
        compile_limit={"type": float, "default": 240.0, "help": "seconds that one torch.compile may take"},
    )
    options = report.options
    if options.quick:
        options.sizes, options.batches, options.compile = ["tiny"], [1], False
    rows: list[list[str]] = []
    for size in options.sizes:
        models = _models(size)
        for batch in options.batches:
            rows += _measured(report, size, models, batch)
    headers = ["224 pixels", "ms", "10-90 %", "images/s", "of deit", "of vim", "published top-1 %"]
    report.show("models", headers, rows)
    _native_over_reference(report)
    report.finish()


def _models(size: str) -> dict[str, nn.Module]:
    deit, vim = timm.create_model(DEIT[size]).eval(), create(f"vim_{size}").eval()
    merged = attach(
        adopt(copy.deepcopy(deit)),
        Schedule.of([DEIT_REMOVALS] * len(deit.blocks)),
        Settings(split="sequence", feature="k"),
    )
    found = {"deit": deit, MERGED_DEIT: merged, "vim": vim}
    for r in REMOVALS:
        found[f"vim, r = {r}"] = attach(copy.deepcopy(vim), Schedule.constant(r, vim.config.depth))
    return found


def _measured(report: Report, size: str, models: dict[str, nn.Module], batch: int) -> list[list[str]]:
    images, options = torch.randn(batch, 3, 224, 224), report.options
    calls: dict[str, Call] = {name: forward_only(model, images) for name, model in models.items()}
    for label, (name, how) in COMPILED.items() if options.compile else ():
        torch._dynamo.reset()
        made = compiled(models[name], images, seconds=options.compile_limit, gradients=False, options=how)
        if isinstance(made, str):
            report.remark(f"{label}_{size}, batch {batch}: {made}")
        else:
            calls[label] = forward_only(made, images)
    timings = in_turns(calls, options)
    case = f"{size}, batch {batch}"
    report.keep(case, timings)
    rows = []
    for name, timing in timings.items():
        of_deit, of_vim = (f"{timing.times_as_fast_as(timings[peer]):.2f}x" for peer in ("deit", "vim"))
        speed = f"{batch / timing.median:.1f}"
        model = COMPILED[name][0] if name in COMPILED else name
        accuracy = PUBLISHED.get((size, model), "")
        rows.append([f"{case}: {name}", *timing.milliseconds(), speed, of_deit, of_vim, str(accuracy)])
    return rows


def _native_over_reference(report: Report) -> None:
    model, images = create("vim_tiny").eval(), torch.randn(1 if report.options.quick else 16, 3, 224, 224)

    def with_op(name: str) -> Call:
        def run(batch: Tensor) -> Tensor:
            with use_backend(name):
                return model(batch)

        return forward_only(run, images)

    def with_loop() -> object:
        with patch.object(import_module("rmeeto.ops.bimamba.reference"), "selective_scan", as_op(published)):
            return reference()

    native, reference = with_op("native"), with_op("reference")
    torch.testing.assert_close(with_loop(), native(), rtol=1e-3, atol=1e-3)
    calls = {
        "native kernels": native,
        "reference ops": reference,
        "reference ops, scan by the published loop": with_loop,
    }
    timings = in_turns(calls, report.options)
    report.keep("native over reference", timings)
    fastest = timings["native kernels"]
    rows = [[name, *t.milliseconds(), f"{fastest.times_as_fast_as(t):.2f}x"] for name, t in timings.items()]
    headers = [f"vim_tiny, un-merged, batch {len(images)}", "ms", "10-90 %", "native is faster by"]
    report.show("native", headers, rows)


if __name__ == "__main__":
    main()
