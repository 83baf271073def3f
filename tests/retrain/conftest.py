"""A tiny model, a tiny data set in memory, and recipes that end in milliseconds."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from rmeeto.records import Accuracy
from rmeeto.retrain import Checkpoints, Recipe, RunSpec, Silent, TrainingData
from rmeeto.retrain import train as train_as
from rmeeto.retrain.checkpoint import read

CLASSES = 4


class Net(nn.Module):
    """Two layers with dropout between (it draws random numbers, as drop-path does) and batch statistics."""

    def __init__(self, classes: int = CLASSES, dropout: float = 0.1) -> None:
        super().__init__()
        self.first = nn.Linear(12, 8)
        self.norm = nn.BatchNorm1d(8) if dropout else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(8, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.first(images.flatten(1))))))


class Batches:
    """`count` images, shuffled by (seed, epoch)."""

    def __init__(self, count: int, size: int) -> None:
        generator = torch.Generator().manual_seed(3)
        self.images = torch.randn(count, 3, 2, 2, generator=generator)
        self.labels = torch.arange(count) % CLASSES
        self.images += self.labels.view(-1, 1, 1, 1)
        self.size, self.epoch = size, -1
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.epochs.append(epoch)

    def __len__(self) -> int:
        return len(self.images) // self.size

    def __iter__(self):
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(self.epoch))
        for start in range(0, len(self) * self.size, self.size):
            rows = order[start : start + self.size]
            yield self.images[rows], self.labels[rows]


class Data(TrainingData):
    """The data and the accuracy of a model on it."""

    def __init__(self, count: int = 40, size: int = 8) -> None:
        super().__init__(Batches(count, size), CLASSES)

    def validate(self, model: nn.Module) -> Accuracy:
        torch.rand(3)  # a validation may draw: training must not notice
        with torch.no_grad():
            logits = model(self.train.images.to(next(model.parameters()).device)).cpu()
        right = 100.0 * (logits.argmax(1) == self.train.labels).float().mean().item()
        return Accuracy(top1=right, top5=100.0, loss=0.0, images=len(logits), seconds=0.0)


def net(seed: int = 0, **settings) -> Net:
    torch.manual_seed(seed)
    return Net(**settings)


def recipe(**settings) -> Recipe:
    return Recipe(**{"epochs": 3, "batch_size": 8, "lr": 1e-2, "min_lr": 1e-4, **settings})


def train(*arguments, resume=False, trackers=("tensorboard",), **options):
    """`rmeeto.retrain.train` with the fields of its RunSpec by name."""
    names = {field.name for field in dataclasses.fields(RunSpec)} & options.keys()
    fields = {name: options.pop(name) for name in names}
    spec = RunSpec(resume="auto" if resume else "no", tracker=",".join(trackers), **fields)
    return train_as(*arguments, spec=spec, **options)


class Cut(Exception):
    """Somebody pulled the plug."""


class CuttingAfter(Silent):
    """Pulls the plug when an epoch is saved, or in the middle of the next one."""

    def __init__(self, epoch: int, *, steps_later: int = 0) -> None:
        self.epochs, self.steps_later, self.countdown = epoch, steps_later, -1

    def epoch(self, record):
        if record.epoch == self.epochs:
            self.countdown = self.steps_later
            self._cut()

    def step(self, report):
        self.countdown -= 1 if self.countdown > 0 else 0
        self._cut()

    def _cut(self):
        if self.countdown == 0:
            raise Cut


class Rates(Silent):
    """Keeps each step's report."""

    def __init__(self) -> None:
        self.reports, self.records, self.closed = [], [], 0

    def step(self, report):
        self.reports.append(report)

    def epoch(self, record):
        self.records.append(record)

    def close(self):
        self.closed += 1


class Noting(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line):
        self.notes.append(line)


def run(output, data, *, student=None, settings=None, **options):
    student = student or net()
    settings = settings or recipe(ema_decay=0.9)
    options = {"validate": data.validate, "log_every": 2, "trackers": (), **options}
    return student, train(student, net(1), data, settings, output, **options)


def cut_run(output, data, epoch=2, steps_later=0, **options):
    with pytest.raises(Cut):
        run(output, data, progress=CuttingAfter(epoch, steps_later=steps_later), **options)


def state(output):
    return read(Checkpoints(output / "checkpoints").all()[0])


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """A killed process loses nothing that it wrote, only a machine does; test_checkpoint looks at what is synced."""
    monkeypatch.setattr("os.fsync", lambda _file: None)


@pytest.fixture
def data() -> Data:
    return Data()
