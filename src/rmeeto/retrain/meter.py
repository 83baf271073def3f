"""Losses and times of one epoch's steps, read from the device as rarely as it likes."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rmeeto.errors import TrainingError


@dataclass(frozen=True)
class Reading:
    """Means over the newest steps.

    Attributes:
        step: optimiser steps of the run so far.
        loss: mean loss of the window.
        images_per_second: of all processes.
        trained: training seconds of the run so far.
    """

    step: int
    loss: float
    images_per_second: float
    trained: float


class Meter:
    """Collects each step's loss without waiting for the device, and reads them every few steps.

    Args:
        step, trained: optimiser steps and training seconds before this epoch.
        batch_size: images of one step.
        read_every: steps between two readings; each waits for the device.
        window: steps that a reading averages over.
        gather: the mean of a tensor over all processes.
        tell: is given each reading.
        rescue: what to say of checkpoints when a loss is not a number.
    """

    def __init__(
        self,
        *,
        step: int,
        trained: float,
        batch_size: int,
        read_every: int,
        window: int,
        gather: Callable[[Tensor], Tensor],
        tell: Callable[[Reading], None],
        rescue: str,
    ) -> None:
        self.first, self.step = step, step
        self.trained_before = trained
        self.batch_size, self.read_every = batch_size, read_every
        self.gather, self.tell, self.rescue = gather, tell, rescue
        self.pending: list[Tensor] = []
        self.total = 0.0
        self.begun = time.perf_counter()
        self.losses: deque[float] = deque(maxlen=window)
        self.reads: deque[tuple[int, float]] = deque([(step, self.begun)], maxlen=window // read_every + 1)

    @property
    def steps(self) -> int:
        """Steps of this epoch."""
        return self.step - self.first

    @property
    def seconds(self) -> float:
        """Since the epoch began."""
        return time.perf_counter() - self.begun

    @property
    def trained(self) -> float:
        """Training seconds of the run."""
        return self.trained_before + self.seconds

    @property
    def step_seconds(self) -> float:
        """Mean seconds of a step of the run; 0 before the first."""
        return self.trained / self.step if self.step else 0.0

    @property
    def loss(self) -> float:
        """Mean loss of the epoch's steps that were read."""
        return self.total / max(1, self.steps - len(self.pending))

    def add(self, loss: Tensor) -> None:
        """Note one optimiser step's loss, a scalar on the device."""
        self.step += 1
        self.pending.append(loss)
        if self.step % self.read_every == 0:
            self.read()

    def read(self) -> None:
        """Fetch the losses that wait on the device.

        Raises:
            TrainingError: one of them is not a number.
        """
        if not self.pending:
            return
        losses = self.gather(torch.stack(self.pending)).tolist()
        first = self.step - len(losses) + 1
        self.pending.clear()
        for step, loss in enumerate(losses, first):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss is {loss} at step {step}; {self.rescue}; lower the learning rate, or clip the gradients"
                )
        self.total += sum(losses)
        self.losses.extend(losses)
        self.reads.append((self.step, time.perf_counter()))
        (step, begun), (last, ended) = self.reads[0], self.reads[-1]
        rate = (last - step) * self.batch_size / max(ended - begun, 1e-9)
        self.tell(Reading(self.step, sum(self.losses) / len(self.losses), rate, self.trained))
