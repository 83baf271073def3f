"""Where a run stands: plain values, and the state of every random generator."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rmeeto.errors import CheckpointError
from rmeeto.records import Epoch

WEIGHTS = "weights.safetensors"
EMA = "ema.safetensors"


@dataclass(frozen=True)
class Position:
    """How far a run has come.

    Attributes:
        epoch: epochs done, a last one cut short by the time limit included.
        step: optimiser steps done.
        epoch_steps, epoch_loss, epoch_skipped, epoch_seconds: of the epoch that is being trained: steps done, their
            losses added up, how many of them changed nothing, and their wall time; 0 between two epochs.
        skipped_in_a_row: newest steps that changed nothing.
        seconds: wall time, validation and checkpoints included.
        trained: wall time of the training steps alone, which the time limit counts.
        images: training images seen by all processes.
        epochs: one `Epoch` each.
        best_epoch, best_top1, best_weights: where validation was best, and whether the student's or the averaged
            weights were (a file name in that epoch's checkpoint); None before any validation.
        finished: nothing is left to train.
    """

    epoch: int = 0
    step: int = 0
    epoch_steps: int = 0
    epoch_loss: float = 0.0
    epoch_skipped: int = 0
    epoch_seconds: float = 0.0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    trained: float = 0.0
    images: int = 0
    epochs: tuple[Epoch, ...] = ()
    best_epoch: int | None = None
    best_top1: float | None = None
    best_weights: str | None = None
    finished: bool = False

    @property
    def judged_epochs(self) -> tuple[Epoch, ...]:
        """Epochs that nothing will be added to."""
        return self.epochs if not self.epochs or self.epochs[-1].top1 is not None else self.epochs[:-1]

    def after(self, epoch: Epoch) -> Position:
        """The position with one more epoch's record, and the best one chosen again."""
        scores = {WEIGHTS: epoch.top1, EMA: epoch.ema_top1}
        position = dataclasses.replace(self, epoch=epoch.epoch, epochs=(*self.epochs, epoch))
        for weights, top1 in scores.items():
            if top1 is not None and (position.best_top1 is None or top1 > position.best_top1):
                position = dataclasses.replace(position, best_epoch=epoch.epoch, best_top1=top1, best_weights=weights)
        return position

    def judged(self, epoch: Epoch) -> Position:
        """The position with the last epoch's record replaced by one that knows its accuracy."""
        return dataclasses.replace(self, epochs=self.epochs[:-1]).after(epoch)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "epochs": [epoch.to_dict() for epoch in self.epochs],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Position:
        """Read what `to_dict` wrote.

        Raises:
            CheckpointError: not a position.
        """
        try:
            return cls(**{**values, "epochs": tuple(Epoch.from_dict(epoch) for epoch in values["epochs"])})
        except (TypeError, KeyError) as error:
            raise CheckpointError(f"this is not the position of a run: {error}; use another checkpoint") from None


def random_state() -> dict[str, Any]:
    """The state of Python's, NumPy's and torch's generators, as values that load without pickle."""
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002  timm's mixup draws from it
    twister = numpy["state"]
    return {
        "python": random.getstate(),
        "numpy": {
            "keys": torch.from_numpy(twister["key"].astype(np.int64)),
            "place": int(twister["pos"]),
            "has_gauss": int(numpy["has_gauss"]),
            "gauss": float(numpy["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put all generators where `random_state` found them."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    numpy = state["numpy"]
    keys = numpy["keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, numpy["place"], numpy["has_gauss"], numpy["gauss"]))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@contextmanager
def numpy_seeded(*numbers: int) -> Iterator[None]:
    """Inside, NumPy's generator draws what belongs to these numbers; outside nothing is noticed."""
    before = np.random.get_state()  # noqa: NPY002  timm's mixup draws from it
    np.random.seed(np.random.SeedSequence(numbers).generate_state(4))  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


@contextmanager
def kept_random_state() -> Iterator[None]:
    """Whatever is drawn inside is not seen outside: validating does not change what is trained."""
    state = random_state()
    try:
        yield
    finally:
        set_random_state(state)
