"""Losses and times of one epoch's steps, read from the device as rarely as it likes."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from rmeeto.errors import TrainingError
from rmeeto.retrain.state import Position

MOST_SKIPPED = 8
_Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Reading:
    """Means over the newest steps.

    Attributes:
        step: optimiser steps of the run so far.
        loss: mean loss of the window.
        gradient_norm: of the newest step, before clipping.
        images_per_second: of all processes.
        trained: training seconds of the run so far.
        data_wait: share of the window's time in which this process waited for its images.
    """

    step: int
    loss: float
    gradient_norm: float
    images_per_second: float
    trained: float
    data_wait: float = 0.0


class Meter:
    """Collects each step's loss without waiting for the device, and reads them every few steps.

    Args:
        position: where the run stands.
        batch_size: images of one step.
        read_every: steps between two readings; each waits for the device.
        window: steps that a reading averages over.
        gather: the mean of a tensor over all processes.
        tell: is given each reading.
        note: is told of steps that changed nothing.
        rescue: what to say of checkpoints when too many of them follow one another.
    """

    def __init__(
        self,
        position: Position,
        *,
        batch_size: int,
        read_every: int,
        window: int,
        gather: Callable[[Tensor], Tensor],
        tell: Callable[[Reading], None],
        note: Callable[[str], None],
        rescue: Callable[[], str],
    ) -> None:
        self.position, self.step = position, position.step
        self.batch_size, self.read_every = batch_size, read_every
        self.gather, self.tell, self.note, self.rescue = gather, tell, note, rescue
        self.pending: list[Tensor] = []
        self.total, self.skipped = position.epoch_loss, position.epoch_skipped
        self.in_a_row = position.skipped_in_a_row
        self.begun = time.perf_counter()
        self.losses: deque[float] = deque(maxlen=window)
        self.waited = 0.0
        # Step, time, and seconds of waiting for data, at each reading.
        self.reads: deque[tuple[int, float, float]] = deque(
            [(self.step, self.begun, 0.0)], maxlen=window // read_every + 1
        )

    def timed(self, batches: Iterator[_Batch]) -> Iterator[_Batch]:
        """The same batches; the time until each comes counts as waiting for data."""
        while True:
            begun = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - begun
            if batch is None:
                return
            yield batch

    @property
    def steps(self) -> int:
        """Steps of this epoch."""
        return self.step - self.position.step + self.position.epoch_steps

    @property
    def seconds(self) -> float:
        """Of this epoch's steps."""
        return self._elapsed + self.position.epoch_seconds

    @property
    def trained(self) -> float:
        """Training seconds of the run."""
        return self._elapsed + self.position.trained

    @property
    def step_seconds(self) -> float:
        """Mean seconds of a step of the run; 0 before the first."""
        return self.trained / self.step if self.step else 0.0

    @property
    def data_wait(self) -> float:
        """Share of the time of this process's steps in which it waited for images."""
        return self.waited / max(self._elapsed, 1e-9)

    @property
    def loss(self) -> float | None:
        """Mean loss of the epoch's steps that were read and taken; None where there was none."""
        taken = self.steps - len(self.pending) - self.skipped
        return self.total / taken if taken else None

    @property
    def is_read(self) -> bool:
        """Whether no step waits on the device."""
        return not self.pending

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is no training."""
        self.read()
        begun = time.perf_counter()
        try:
            yield
        finally:
            away = time.perf_counter() - begun
            self.begun += away
            self.reads = deque(((step, at + away, waited) for step, at, waited in self.reads), maxlen=self.reads.maxlen)

    def add(self, numbers: Tensor) -> None:
        """Note one optimiser step: (2,) loss and norm of the gradients, on the device."""
        self.step += 1
        self.pending.append(numbers)
        if self.step % self.read_every == 0:
            self.read()

    def read(self) -> None:
        """Fetch the losses that wait on the device.

        Raises:
            TrainingError: too many steps in a row changed nothing.
        """
        if not self.pending:
            return
        numbers = self.gather(torch.stack(self.pending)).tolist()
        first = self.step - len(numbers) + 1
        self.pending.clear()
        for step, (loss, norm) in enumerate(numbers, first):
            self._count(step, loss, norm)
        self.reads.append((self.step, time.perf_counter(), self.waited))
        (step, begun, before), (last, ended, waited) = self.reads[0], self.reads[-1]
        seconds = max(ended - begun, 1e-9)
        rate = (last - step) * self.batch_size / seconds
        mean = sum(self.losses) / len(self.losses) if self.losses else math.nan
        self.tell(Reading(self.step, mean, numbers[-1][1], rate, self.trained, (waited - before) / seconds))

    def _count(self, step: int, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            self.total += loss
            self.losses.append(loss)
            self.in_a_row = 0
            return
        self.skipped += 1
        self.in_a_row += 1
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the norm of the gradients is {norm}"
        if self.in_a_row == MOST_SKIPPED:
            raise TrainingError(
                f"{what} at step {step}, the last of {MOST_SKIPPED} in a row that changed nothing; {self.rescue()}; "
                "lower the learning rate, clip the gradients, or use precision fp32"
            )
        self.note(f"step {step} is skipped: {what}")

    @property
    def _elapsed(self) -> float:
        return time.perf_counter() - self.begun
