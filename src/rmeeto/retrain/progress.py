"""Seeing a run: a bar on terminals, one line per epoch elsewhere, or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rmeeto.records import Epoch

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID


@dataclass(frozen=True)
class StepReport:
    """The newest optimiser step.

    Attributes:
        epoch, epochs: the running epoch, the first being 1, and how many there are.
        step: optimiser steps done.
        done: share of the run that is done, in [0, 1]; with a time limit the larger share of steps and time.
        loss: mean since the last report.
        lr: learning rate of this step.
        images_per_second: training images of all processes, since the last report.
        seconds_left: training time left, as the steps so far suggest; validation is not in it.
    """

    epoch: int
    epochs: int
    step: int
    done: float
    loss: float
    lr: float
    images_per_second: float
    seconds_left: float


class Progress(Protocol):
    """What a run tells while it goes; on the main process only."""

    def step(self, report: StepReport) -> None:
        """Some optimiser steps are done."""

    def epoch(self, record: Epoch) -> None:
        """An epoch is trained, validated and saved."""

    def note(self, line: str) -> None:
        """Something that the user should know."""

    def close(self) -> None:
        """The run has ended, well or not."""


class Silent:
    """Tells nothing."""

    def step(self, report: StepReport) -> None:
        """Nothing."""

    def epoch(self, record: Epoch) -> None:
        """Nothing."""

    def note(self, line: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Lines:
    """One line per epoch: for log files and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def step(self, report: StepReport) -> None:
        """Nothing: steps are in log.jsonl."""

    def epoch(self, record: Epoch) -> None:
        """One line."""
        self.note(epoch_line(record))

    def note(self, line: str) -> None:
        """One line, as it is."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing is open."""


class Terminal:
    """A bar with loss, images per second and time left, and one line per epoch above it."""

    def __init__(self, console: Console) -> None:
        self.lines = Lines(console)
        self.bar: Bar | None = None
        self.task: TaskID | None = None

    def step(self, report: StepReport) -> None:
        """Move the bar."""
        if self.bar is None or self.task is None:
            self.bar, self.task = _bar(self.lines.console)
        text = (
            f"epoch {report.epoch}/{report.epochs}  loss {report.loss:.3f}  lr {report.lr:.1e}  "
            f"{report.images_per_second:.0f} images/s  {clock(report.seconds_left)} left"
        )
        self.bar.update(self.task, completed=report.done, text=text)

    def epoch(self, record: Epoch) -> None:
        """One line above the bar."""
        self.lines.epoch(record)

    def note(self, line: str) -> None:
        """One line above the bar."""
        self.lines.note(line)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = self.task = None


def progress_on(console: Console) -> Progress:
    """A bar where the console is a terminal, lines where it is not."""
    return Terminal(console) if console.is_terminal else Lines(console)


def epoch_line(record: Epoch) -> str:
    """An epoch in words."""
    parts = [f"epoch {record.epoch}", "no loss" if record.loss is None else f"loss {record.loss:.4f}"]
    if record.top1 is not None:
        parts.append(f"top-1 {record.top1:.2f}")
    if record.ema_top1 is not None:
        parts.append(f"averaged weights {record.ema_top1:.2f}")
    parts += [f"lr {record.lr:.2e}", f"{record.images_per_second:.1f} images/s", clock(record.seconds)]
    if record.data_wait is not None:
        parts[-1] += f", {100 * record.data_wait:.0f} % of it waiting for images"
    return "  ".join(parts)


def clock(seconds: float) -> str:
    """65 -> 1:05, 3725 -> 1:02:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _bar(console: Console) -> tuple[Bar, TaskID]:
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    bar = Bar(BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[text]}"), console=console)
    bar.start()
    return bar, bar.add_task("", total=1.0, text="")
