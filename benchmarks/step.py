"""A training step of the demo: its speed, and where its time goes.

    python benchmarks/step.py

The demo's model (vim_nano, trained, merged by the demo's schedule), its un-merged self as the teacher, its
recipe (distillation, clipping, AdamW); batches lie ready, and the teacher's logits of them. Told are images a second on
the native kernels, with each block as one op and as the five that it is made of, and on the reference ops, in turns,
and the shares of one profiled run: kernels and matrix products, the merge, all else. Figures of earlier versions are in
docs/log.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import as_file, files
from itertools import cycle, islice
from typing import Any

import torch
from harness import Report, begin, in_turns
from torch import nn
from torch.profiler import ProfilerActivity, profile

from rmeeto.data import DataSpec, open_data
from rmeeto.ops import use_backend
from rmeeto.pipeline.demonstration import AUGMENT, RECIPE, SCHEDULE
from rmeeto.pipeline.evidence import merged_copy
from rmeeto.pipeline.opening import fitting, open_with_images
from rmeeto.pipeline.specs import ModelSpec
from rmeeto.reduction import Settings
from rmeeto.retrain.engine import Processes
from rmeeto.retrain.parallel import Whole
from rmeeto.retrain.steps import Stepper

# Beginnings of the names that the profiler gives, and what they are.
KINDS = {
    "kernels": ("rmeeto::",),
    "matrix products": ("mkldnn::", "aten::mm", "aten::addmm", "aten::bmm", "aten::mkldnn", "aten::_convolution",
                        "aten::convolution", "aten::thnn_conv", "aten::_slow_conv"),
    "merge: choosing and gathering": ("aten::topk", "aten::sort", "aten::argsort", "aten::gather", "aten::scatter",
                                      "aten::index", "aten::cumsum", "aten::max", "aten::argmax"),
    "optimiser": ("Optimizer", "aten::_fused_adam", "aten::_foreach", "aten::linalg_vector_norm"),
}  # fmt: skip
STEPS, BATCHES = 5, 8


def main() -> None:
    report = begin("step", __doc__)
    native, parts, reference = _trainer(), _trainer(watched=True), _trainer()
    for trainer in (native, parts):
        for _ in range(BATCHES):  # then the teacher has seen them
            trainer.step()
    steps = {
        "native kernels": native.step,
        "native kernels, blocks in parts": parts.step,
        "reference ops": lambda: _on_reference(reference),
    }
    timings = in_turns(steps, report.options)
    report.keep("step", timings)
    fast = timings["native kernels"]
    rows = [
        [name, *each.milliseconds(), f"{RECIPE.batch_size / each.median:.1f}", f"{each.times_as_fast_as(fast):.2f}x"]
        for name, each in timings.items()
    ]
    report.show("step", [f"training step, batch {RECIPE.batch_size}", "ms", "10-90 %", "images/s", "of native"], rows)
    _shares(report, native)
    report.finish()


class _Trainer:
    """A student, its teacher and batches that lie ready."""

    def __init__(self, student: nn.Module, teacher: nn.Module, batches: list[Any], classes: int) -> None:
        self.batches: Iterator[Any] = cycle(batches)
        held = Whole(student.train(), Processes())
        size = RECIPE.micro_batch()
        self.stepper = Stepper(held, teacher.eval(), RECIPE, classes, size, torch.device("cpu"))
        self.steps = 0

    def step(self) -> None:
        """One optimiser step."""
        self.stepper.take(self.batches, self.steps)
        self.steps += 1


def _trainer(*, watched: bool = False) -> _Trainer:
    """Watched: somebody listens to each mixer, so that a block calls its parts."""
    spec = fitting(DataSpec(data="demo", train_limit=BATCHES * RECIPE.batch_size, val_limit=32), RECIPE.micro_batch())
    with as_file(files("rmeeto.data") / "demo" / "vim_nano") as folder:
        opened, data = open_with_images(ModelSpec(model=str(folder)), lambda form: open_data(spec, form))
    teacher = opened.model
    student = merged_copy(teacher, SCHEDULE.build(teacher.num_tokens, teacher.config.depth), Settings())
    batches = list(islice(iter(data.train_batches(AUGMENT, RECIPE.seed)), BATCHES))
    if watched:
        for block in student.layers:
            block.mixer.register_forward_hook(lambda *_: None)
    return _Trainer(student, teacher, batches, data.num_classes)


def _on_reference(trainer: _Trainer) -> None:
    with use_backend("reference"):
        trainer.step()


def _shares(report: Report, trainer: _Trainer) -> None:
    """Self time on the processor by kind of work; a backward node and the op it runs count once."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(1 if report.options.quick else STEPS):
            trainer.step()
    found: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    others: dict[str, float] = {}
    for event in seen.key_averages():
        kind = next((kind for kind, starts in KINDS.items() if event.key.startswith(starts)), None)
        if kind is None:
            others[event.key] = others.get(event.key, 0.0) + event.self_cpu_time_total
        else:
            found[kind] += event.self_cpu_time_total
    total = sum(found.values()) + sum(others.values())
    rows = [[kind, f"{100 * spent / total:.1f} %"] for kind, spent in found.items()]
    rows.append(["all else", f"{100 * sum(others.values()) / total:.1f} %"])
    largest = sorted(others.items(), key=lambda item: -item[1])[:8]
    rows += [[f"of it {name}", f"{100 * spent / total:.1f} %"] for name, spent in largest]
    report.figures["shares"] = {kind: spent / total for kind, spent in (found | others).items()}
    busy = 100 * (found["kernels"] + found["matrix products"]) / total
    report.show("step_shares", ["part of a training step, by the profiler", "share of the time"], rows)
    report.remark(f"Kernels and matrix products take {busy:.0f} % of a training step.")


if __name__ == "__main__":
    main()
