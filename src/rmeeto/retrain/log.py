"""What a run leaves to read: JSON lines, other trackers, and the bar."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmeeto.errors import OutputError
from rmeeto.records import Accuracy, Epoch, write_text
from rmeeto.retrain.meter import Reading
from rmeeto.retrain.progress import Progress, StepReport
from rmeeto.retrain.state import Position

Track = Callable[[dict[str, float], int], None]


class JsonLines:
    """Appends objects to a file; each has a "kind" and the "epoch" it belongs to, the first being 1."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def cut_after(self, position: Position, epochs: Sequence[Epoch]) -> None:
        """Drop what later steps, or a line cut short, left behind: they are trained again.

        Args:
            position: where the run stands.
            epochs: those that nothing will be added to; one that was saved and is not in the file yet is added.

        Raises:
            OutputError: the file cannot be written.
        """
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        kept = [(line, values) for line in lines if (values := _values(line)) and _belongs(values, position, epochs)]
        told = {values["epoch"] for _, values in kept if values.get("kind") == Epoch.kind}
        untold = [json.dumps(epoch.to_dict()) for epoch in epochs if epoch.epoch not in told]
        write_text(self.path, "".join(f"{line}\n" for line in [*(line for line, _ in kept), *untold]))

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


def _values(line: str) -> dict[str, Any]:
    """What a line says; nothing where it was cut short."""
    try:
        values = json.loads(line)
        return values if isinstance(values["epoch"], int) else {}
    except (ValueError, KeyError, TypeError):
        return {}


def _belongs(values: Mapping[str, Any], position: Position, epochs: Sequence[Epoch]) -> bool:
    """Whether it tells of what the position includes."""
    if values.get("kind") == Epoch.kind:
        return values["epoch"] in {epoch.epoch for epoch in epochs}
    return bool(values["epoch"] <= position.epoch or values.get("step", position.step + 1) <= position.step)


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
            values = {
                "loss": reading.loss,
                "lr": lr,
                "gradient_norm": reading.gradient_norm,
                "images_per_second": reading.images_per_second,
                "data_wait": reading.data_wait,
            }
            self._append({"kind": "step", "epoch": epoch, "step": reading.step, **values})
            self.track({f"train/{name}": value for name, value in values.items()}, reading.step)

    def epoch(self, record: Epoch, step: int) -> None:
        """An epoch is trained, validated and saved; `step` optimiser steps are done."""
        self._append(record.to_dict())
        values = {"loss": record.loss, "top1": record.top1, "top5": record.top5, "ema_top1": record.ema_top1}
        self.track({f"epoch/{name}": value for name, value in values.items() if value is not None}, step)
        self.progress.epoch(record)

    def validation(self, accuracy: Accuracy, step: int) -> None:
        """A validation between two steps of an epoch."""
        epoch = (step - 1) // self.steps_per_epoch + 1
        values = {"top1": accuracy.top1, "top5": accuracy.top5}
        self._append({"kind": "validation", "epoch": epoch, "step": step, **values})
        self.track({f"validation/{name}": value for name, value in values.items()}, step)
        self.progress.note(f"step {step}  top-1 {accuracy.top1:.2f}")

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
