"""What a merge costs, and how much of the removed work becomes speed.

    python benchmarks/merging.py
    python benchmarks/merging.py --cpu-time

1. one merge of r tokens, all of it (`Reducer`, default settings), native over reference; and its share: its time over
   that of the Vision Mamba block in front, un-merged, native.
2. each of its three ops, native over reference, and its share of the merge.
3. peak memory that one merge adds at 12,545 tokens, inputs not counted.
4. vim_tiny and vim_small, forward: measured over predicted speed-up at r = 5, 11, 20. The prediction takes the
   un-merged model's own time per token of a block, (T(24 blocks) - T(1 block)) / 23 / 197, for every token that is
   left in front of each block, and nothing for the merges.
"""

from __future__ import annotations

import torch
from harness import Call, Report, begin, child, in_turns
from memory import resident

from rmeeto.models import create
from rmeeto.ops import token_match, token_merge, token_plan, use_backend
from rmeeto.pipeline.evidence import merged_copy
from rmeeto.reduction import Reducer, Settings
from rmeeto.schedule import Schedule
from rmeeto.tokens import Features, TokenMap, Tokens

SHAPES = ((16, 197, 192), (16, 197, 384), (8, 1569, 192), (1, 12545, 192))
REMOVALS = (5, 11, 20)
LONG = SHAPES[-1]
BACKENDS = ("native", "reference")


def main() -> None:
    report = begin("merging", __doc__, child={"choices": BACKENDS, "help": "one process of part 3"})
    if report.options.child:
        print(_merge_memory(report.options.child))
        return
    shapes = SHAPES[:1] if report.options.quick else SHAPES
    rows = [row for shape in shapes for row in _merge(report, *shape)]
    report.show("merges", ("shape", "step", "ms", "10-90 %", "times as fast as the reference", "share of it"), rows)
    if not report.options.quick:
        added = {backend: float(child("--child", backend)) for backend in BACKENDS}
        report.figures["memory_mib"] = added
        rows = [(backend, f"{mib:.1f}") for backend, mib in added.items()]
        report.show("memory", (f"one merge of {LONG}", "peak MiB added"), rows)
    names = ("vim_nano",) if report.options.quick else ("vim_tiny", "vim_small")
    rows = [row for name in names for row in _speed_up(report, name)]
    headers = ("model, batch 16", "r", "ms", "10-90 %", "measured", "predicted", "of the prediction")
    report.show("speed_up", headers, rows)
    report.finish()


def tokens_of(batch: int, tokens: int, width: int) -> Tokens:
    """A load as a block leaves it, the class token in the middle."""
    x, hidden = torch.randn(batch, tokens, width), torch.randn(batch, tokens, width)
    return Tokens(x, torch.full((batch, 1), tokens // 2), torch.ones(batch, tokens), features=Features(hidden))


def on(backend: str, work: Call) -> Call:
    """The work on one backend, nothing kept for gradients."""

    def run() -> None:
        with use_backend(backend), torch.inference_mode():
            work()

    return run


def _merge(report: Report, batch: int, n: int, width: int) -> list[tuple[str, ...]]:
    block = create("vim_tiny" if width == 192 else "vim_small", depth=2).eval().layers[0]
    load, r = tokens_of(batch, n, width), 5 if n == 197 else n // 18
    reducer = Reducer(r, Settings())
    works: dict[str, Call] = {"merge": lambda: reducer(load), **_steps(load, r)}
    ways = {f"{step}, {backend}": on(backend, work) for step, work in works.items() for backend in BACKENDS}
    name = f"({batch}, {n}, {width}), r = {r}"
    times = in_turns({**ways, "block": on("native", lambda: block(load))}, report.options)
    report.keep(name, times)
    rows = []
    for step in works:
        taken = times[f"{step}, native"]
        whole = times["block" if step == "merge" else "merge, native"].median
        ratio = f"{taken.times_as_fast_as(times[f'{step}, reference']):.1f}x"
        share = f"{100 * taken.median / whole:.1f} % of {'a block' if step == 'merge' else 'the merge'}"
        rows.append((name if step == "merge" else "", step, *taken.milliseconds(), ratio, share))
    return [*rows, ("", "block", *times["block"].milliseconds(), "", "")]


def _steps(load: Tokens, r: int) -> dict[str, Call]:
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


def _merge_memory(backend: str) -> float:
    """MiB, of a process of its own: a peak never goes down."""
    load, reducer = tokens_of(*LONG), Reducer(LONG[1] // 18, Settings())
    on(backend, lambda: reducer(tokens_of(1, 19, LONG[2])))()
    before = resident(peak=False)
    on(backend, lambda: reducer(load))()
    return resident(peak=True) - before


def _speed_up(report: Report, name: str) -> list[tuple[str, ...]]:
    model = create(name).eval()
    config, n = model.config, model.num_tokens
    images = torch.randn(16, config.in_chans, *config.img_size)
    schedules = {f"r = {r}": Schedule.constant(r, config.depth) for r in REMOVALS}
    models = {"un-merged": model, "one block": create(name, depth=1).eval()}
    models |= {label: merged_copy(model, schedule, Settings()) for label, schedule in schedules.items()}
    ways = {label: on("native", lambda each=each: each(images)) for label, each in models.items()}
    times = in_turns(ways, report.options)
    report.keep(name, times)
    whole, one = times["un-merged"], times["one block"].median
    block = (whole.median - one) / (config.depth - 1)
    rows = [(name, "un-merged", *whole.milliseconds(), "1.00x", "", "")]
    for label, schedule in schedules.items():
        predicted = whole.median / (one - block + block * sum(schedule.lengths(n)) / n)
        measured = times[label].times_as_fast_as(whole)
        figures = (f"{measured:.2f}x", f"{predicted:.2f}x", f"{100 * measured / predicted:.1f} %")
        rows.append(("", label, *times[label].milliseconds(), *figures))
    return rows


if __name__ == "__main__":
    main()
