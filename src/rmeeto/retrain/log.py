"""What a run leaves to read: JSON lines, other trackers, and the bar."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rmeeto.errors import OutputError
from rmeeto.records import Epoch, write_text
from rmeeto.retrain.meter import Reading
from rmeeto.retrain.progress import Progress, StepReport

Track = Callable[[dict[str, float], int], None]


class JsonLines:
    """Appends objects to a file; each has a "kind" and the "epoch" it belongs to, the first being 1."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def cut_after(self, epoch: int) -> None:
        """Drop what later epochs, or a line cut short, left behind: they are trained again.

        Raises:
            OutputError: the file cannot be written.
        """
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
            write_text(self.path, "".join(f"{line}\n" for line in lines if _belongs(line, epoch)))

    def append(self, values: Mapping[str, Any]) -> None:
        """Write one line.

        Raises:
            OutputError: the file cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise OutputError(
                f"cannot write {self.path}: {error.strerror or error}; free some space, then resume"
            ) from None


def _belongs(line: str, epoch: int) -> bool:
    try:
        return bool(json.loads(line)["epoch"] <= epoch)
    except (ValueError, KeyError, TypeError):
        return False


class Diary:
    """Tells steps and epochs to everybody who listens.

    Args:
        lines: log.jsonl; None on all processes but the main one.
        track: further trackers: (values, step).
        progress: the bar.
        every: steps between two lines.
        epochs, steps_per_epoch, time_limit: the whole run, for the time left.
    """

    def __init__(
        self,
        lines: JsonLines | None,
        track: Track,
        progress: Progress,
        *,
        every: int,
        epochs: int,
        steps_per_epoch: int,
        time_limit: float | None,
    ) -> None:
        self.lines, self.track, self.progress, self.every = lines, track, progress, every
        self.epochs, self.steps_per_epoch, self.time_limit = epochs, steps_per_epoch, time_limit

    def step(self, reading: Reading, lr: float) -> None:
        """Every reading to the bar, every `every`-th step to the logs."""
        epoch = (reading.step - 1) // self.steps_per_epoch + 1
        done, left = self._share(reading)
        self.progress.step(
            StepReport(epoch, self.epochs, reading.step, done, reading.loss, lr, reading.images_per_second, left)
        )
        if reading.step % self.every == 0:
            values = {"loss": reading.loss, "lr": lr, "images_per_second": reading.images_per_second}
            self._append({"kind": "step", "epoch": epoch, "step": reading.step, **values})
            self.track({f"train/{name}": value for name, value in values.items()}, reading.step)

    def epoch(self, record: Epoch, step: int) -> None:
        """An epoch is trained, validated and saved; `step` optimiser steps are done."""
        self._append(record.to_dict())
        values = {"loss": record.loss, "top1": record.top1, "top5": record.top5, "ema_top1": record.ema_top1}
        self.track({f"epoch/{name}": value for name, value in values.items() if value is not None}, step)
        self.progress.epoch(record)

    def _append(self, values: Mapping[str, Any]) -> None:
        if self.lines is not None:
            self.lines.append(values)

    def _share(self, reading: Reading) -> tuple[float, float]:
        """The share of the run that is done, and the training seconds that are left."""
        steps = self.epochs * self.steps_per_epoch
        done, left = reading.step / steps, reading.trained / reading.step * (steps - reading.step)
        if self.time_limit is None:
            return done, left
        return (
            min(1.0, max(done, reading.trained / self.time_limit)),
            max(0.0, min(left, self.time_limit - reading.trained)),
        )
