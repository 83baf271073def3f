"""What the loop does at each step, and what it says when it cannot go on."""

from __future__ import annotations

import itertools
import json
import math
import resource
import signal
import time
from itertools import islice

import pytest
import torch
from torch import nn

from rmeeto.errors import DataError, OutputError, SettingsError, ShapeError, TrainingError
from rmeeto.records import Run
from rmeeto.retrain import Checkpoints, Recipe, Silent, TrainingData
from rmeeto.retrain.checkpoint import read

from .conftest import CLASSES, Batches, Data, Noting, Rates, net, recipe, train


class Watched(nn.Module):
    """Notes how it was called."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: list[torch.Tensor] = []
        self.modes: list[bool] = []
        self.grads: list[bool] = []

    def forward(self, images):
        self.seen.append(images.clone())
        self.modes.append(self.training)
        self.grads.append(torch.is_grad_enabled())
        return self.inner(images)


def plain(**settings) -> Recipe:
    return recipe(**{"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0, **settings})


def test_teacher_is_in_eval_mode_without_gradient_on_the_same_mixed_images(tmp_path, data):
    student, teacher = Watched(net()), Watched(net(1)).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    train(student, teacher, data, recipe(epochs=1, cutmix=0.0), tmp_path, validate=data.validate, trackers=())
    steps = len(teacher.seen)
    assert steps == 5
    assert teacher.modes == [False] * steps
    assert teacher.grads == [False] * steps
    assert student.modes == [True] * steps + [False]
    assert all(torch.equal(a, b) for a, b in zip(teacher.seen, student.seen, strict=False))
    assert not any(torch.isin(images, data.train.images).all() for images in teacher.seen)  # mixed
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in before.items())
    assert not student.training


def test_loss_is_the_distillation_of_the_first_batch(tmp_path, data):
    student, teacher, progress = net(dropout=0.0), net(1).eval(), Rates()
    data.train.set_epoch(0)
    images, labels = next(iter(data.train))
    with torch.no_grad():
        ours, theirs = student(images).log_softmax(-1), teacher(images).log_softmax(-1)
    cross = -ours[range(8), labels].mean()
    divergence = (theirs.exp() * (theirs - ours)).sum(-1).mean()
    settings = plain(epochs=1, distill_weight=0.25)
    train(student, teacher, data, settings, tmp_path, progress=progress, trackers=(), log_every=1)
    assert progress.reports[0].loss == pytest.approx((cross + 0.25 * divergence).item(), rel=1e-5)


def test_learning_rate_has_no_lag_and_epochs_differ(tmp_path, data):
    progress = Rates()
    settings = recipe(epochs=2, warmup_epochs=1.0, lr=6e-2, min_lr=1e-4)
    train(net(), None, data, settings, tmp_path, progress=progress, trackers=(), log_every=1)
    assert [report.lr for report in progress.reports[:6]] == pytest.approx([1e-2, 2e-2, 3e-2, 4e-2, 5e-2, 6e-2])
    assert progress.reports[-1].lr == 1e-4
    assert [report.step for report in progress.reports] == list(range(1, 11))
    assert [report.epoch for report in progress.reports] == [1] * 5 + [2] * 5
    assert progress.reports[-1].done == 1.0
    assert progress.reports[-1].seconds_left == 0.0
    assert data.train.epochs == [0, 1]
    assert progress.closed == 1


@pytest.mark.parametrize("accumulate", [2, 4])
@pytest.mark.parametrize("clip_grad", [None, 0.05])
def test_accumulation_equals_the_large_batch(tmp_path, accumulate, clip_grad):
    results = []
    for parts in (1, accumulate):
        progress, student = Rates(), net(dropout=0.0)
        settings = plain(accumulate=parts, clip_grad=clip_grad, ema_decay=0.9)
        data = Data(count=40, size=8 // parts)
        train(student, net(1), data, settings, tmp_path / str(parts), progress=progress, trackers=(), log_every=1)
        ema = read(tmp_path / str(parts) / "checkpoints" / "epoch-0003").ema
        results.append(([report.loss for report in progress.reports], student.state_dict(), ema))
    (losses, weights, ema), (other_losses, other_weights, other_ema) = results
    assert len(losses) == 15
    assert other_losses == pytest.approx(losses, abs=1e-6)
    torch.testing.assert_close(dict(other_weights), dict(weights), atol=1e-6, rtol=0)
    torch.testing.assert_close(other_ema, ema, atol=1e-6, rtol=0)


def test_steps_that_do_not_fill_a_batch_are_left_out(tmp_path):
    record = train(net(), None, Data(count=44, size=4), recipe(accumulate=2), tmp_path, trackers=())
    assert [epoch["steps"] for epoch in record.epochs] == [5, 5, 5]
    assert record.images == 15 * 8


@pytest.mark.parametrize(("warmup", "expected"), [(False, "lerp"), (True, "copy")])
def test_average_starts_from_the_first_weights_or_warms_up(tmp_path, warmup, expected):
    student = net(dropout=0.0)
    first = student.head.weight.detach().clone()
    settings = plain(epochs=1, ema_decay=0.75, ema_warmup=warmup)
    train(student, None, Data(count=8, size=8), settings, tmp_path, trackers=())
    ema = read(tmp_path / "checkpoints" / "epoch-0001").ema["head.weight"]
    last = student.head.weight.detach()
    torch.testing.assert_close(ema, 0.75 * first + 0.25 * last if expected == "lerp" else last)
    assert not torch.equal(first, last)


def test_without_teacher_it_learns(tmp_path, data):
    student = net(dropout=0.0)
    record = train(student, None, data, plain(epochs=20, lr=3e-2), tmp_path, validate=data.validate, trackers=())
    assert record.verb == "pretrain"
    assert record.epochs[-1]["loss"] < 0.5 * record.epochs[0]["loss"]
    assert record.best_top1 > 80
    assert record.best_top1 == max(epoch["top1"] for epoch in record.epochs)


def test_record_log_and_checkpoints_agree(tmp_path, data):
    environment = {"device": "here"}
    settings = recipe(ema_decay=0.5, epochs=4)
    record = train(
        net(), net(1), data, settings, tmp_path, validate=data.validate, log_every=3, environment=environment,
        validate_every=4, trackers=(),
    )  # fmt: skip
    assert (record.verb, record.environment, record.images) == ("retrain", environment, 4 * 40)
    assert record.recipe == settings.to_dict()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "step"] == [3, 6, 9, 12, 15, 18]
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [4, 8, 12, 16]
    assert [{**line, "kind": None} for line in lines if line["kind"] == "epoch"] == [
        {**epoch, "kind": None} for epoch in record.epochs
    ]
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert [folder.name for folder in checkpoints.all()][:2] == ["epoch-0004", "epoch-0003"]
    assert checkpoints.last().parent.name == "epoch-0004"
    best = record.epochs[record.best_epoch - 1]
    assert record.best_top1 == max(best["top1"], best["ema_top1"])
    averaged = best["ema_top1"] > best["top1"]
    assert checkpoints.best().name == ("ema.safetensors" if averaged else "weights.safetensors")
    assert Run.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_seconds_are_told_without_a_validation(tmp_path, data):
    record = train(net(), None, data, recipe(), tmp_path)
    assert 0 < sum(epoch["seconds"] for epoch in record.epochs) <= record.seconds
    assert record.seconds == read(Checkpoints(tmp_path / "checkpoints").all()[0]).position.seconds
    assert train(net(), None, data, recipe(), tmp_path, resume=True).seconds == pytest.approx(record.seconds, abs=1.0)


def test_best_is_kept_beside_the_last_two(tmp_path, data):
    scores = iter([10.0, 30.0, 20.0, 20.0, 15.0, 30.0])

    def validate(model):
        accuracy = data.validate(model)
        return type(accuracy)(next(scores), 100.0, 0.0, 1, 0.0)

    record = train(net(), None, data, recipe(epochs=6), tmp_path, validate=validate, trackers=())
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert (record.best_epoch, record.best_top1) == (2, 30.0)
    assert [folder.name for folder in checkpoints.all()] == ["epoch-0006", "epoch-0005", "epoch-0002"]
    assert checkpoints.best().parent.name == "epoch-0002"


def test_tensorboard_is_written_without_a_warning(tmp_path, data):
    train(net(), None, data, recipe(epochs=1), tmp_path, validate=data.validate, log_every=2)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()
    assert b"epoch/top1" in events.read_bytes()


@pytest.mark.parametrize("seconds", [0.3, 0.6])
def test_time_limit_ends_the_whole_schedule(tmp_path, seconds):
    class Slow(Batches):
        def __iter__(self):
            for batch in super().__iter__():
                time.sleep(0.02)
                yield batch

    def validate(model):
        time.sleep(0.2)
        return data.validate(model)

    data, progress = Data(), Rates()
    settings = recipe(epochs=1000, time_limit=seconds, warmup_epochs=100)
    record = train(
        net(), None, TrainingData(Slow(40, 8), CLASSES), settings, tmp_path, validate=validate, progress=progress,
        trackers=(), log_every=1,
    )  # fmt: skip
    trained = sum(epoch["seconds"] for epoch in record.epochs)
    assert 0.5 * seconds < trained < seconds + 0.5
    assert record.seconds > trained + 0.2 * len(record.epochs) - 1e-3
    rates = [report.lr for report in progress.reports]
    assert rates[-1] == settings.min_lr
    assert rates.index(max(rates)) in range(1, len(rates) // 2)
    assert len(rates) < 5000
    again = train(net(), None, data, settings, tmp_path, resume=True, trackers=())
    assert again.epochs == record.epochs


def test_epochs_end_before_the_time(tmp_path, data):
    record = train(net(), None, data, recipe(epochs=2, time_limit=500), tmp_path, trackers=())
    assert [epoch["steps"] for epoch in record.epochs] == [5, 5]
    assert record.epochs[-1]["lr"] == 1e-4


class Breaking(nn.Module):
    """Gives what is not a number from its `after`-th call on."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.inner, self.calls, self.after = net(), 0, after

    def forward(self, images):
        self.calls += 1
        return self.inner(images) * (1.0 if self.calls < self.after else float("nan"))


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (1, "the loss is nan at step 8, the last of 8 in a row that changed nothing; no checkpoint was written before"),
        (8, "at step 15, .*; the last good checkpoint is .*epoch-0001-step-00000007, whose weights.*; lower the lear"),
    ],
)
def test_losses_that_are_no_numbers_stop_the_run(tmp_path, data, after, words):
    with pytest.raises(TrainingError, match=words):
        train(Breaking(after), None, data, recipe(), tmp_path, trackers=(), checkpoint_every=1)


def test_many_bad_steps_without_a_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match="no checkpoint was written before them"):
        train(Breaking(1), None, Data(count=80), recipe(), tmp_path, trackers=())


class BreakingAt(nn.Module):
    """Spoils the loss, or the gradients alone, in some of its calls."""

    def __init__(self, calls, *, gradients):
        super().__init__()
        self.inner, self.calls, self.bad, self.gradients = net(dropout=0.0), 0, calls, gradients

    def forward(self, images):
        self.calls += 1
        logits = self.inner(images)
        if self.calls in self.bad:
            if self.gradients:
                logits.register_hook(lambda gradient: gradient * float("inf"))
            else:
                logits = logits * float("inf")
        return logits


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_that_is_no_number_changes_nothing(tmp_path, precision, gradients, accumulate):
    """The third of five steps; its gradients are forgotten, with those of its other micro-batches."""
    model = BreakingAt({3 * accumulate}, gradients=gradients)
    weights = []

    class Keeping(Noting):
        def step(self, report):
            weights.append([each.detach().clone() for each in model.parameters()])

    progress = Keeping()
    settings = plain(epochs=1, precision=precision, accumulate=accumulate, clip_grad=1.0)
    record = train(model, None, Data(size=8 // accumulate), settings, tmp_path, progress=progress, trackers=())
    changed = [any(not torch.equal(a, b) for a, b in zip(*two, strict=True)) for two in itertools.pairwise(weights)]
    assert changed == [True, False, True, True]
    (epoch,) = record.epochs
    assert (epoch["skipped"], epoch["steps"]) == (1, 5)
    assert math.isfinite(epoch["loss"])
    assert [note.split(":")[0] for note in progress.notes] == ["step 3 is skipped"]


def test_weights_that_are_no_numbers_are_not_saved(tmp_path, data):
    class Poisoned(Silent):
        def step(self, report):
            if report.step == 5:
                with torch.no_grad():
                    student.head.weight.fill_(float("inf"))

    student = net()
    with pytest.raises(TrainingError, match="weights are no longer numbers after step 5"):
        train(student, None, data, recipe(), tmp_path, progress=Poisoned(), trackers=())
    assert Checkpoints(tmp_path / "checkpoints").all() == []


class Ending(Batches):
    """Has one batch less than it promises."""

    def __iter__(self):
        return islice(super().__iter__(), len(self) - 1)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"data": Data(count=6, size=2)}, DataError, "gives 2 images at a time where the recipe needs 8"),
        ({"data": Data(count=4, size=8)}, DataError, "less than one step of 8 images; lower batch_size"),
        ({"data": TrainingData(Ending(40, 8), CLASSES)}, DataError, "ended before its epoch"),
        ({"student": net(classes=7)}, ShapeError, "the student has 7 classes, the data 4"),
        ({"teacher": net(classes=7)}, ShapeError, "the teacher has 7 classes, the data 4"),
        ({"validate_every": 0}, SettingsError, "validate_every 0"),
        ({"checkpoint_every": -1}, SettingsError, "checkpoint_every -1"),
        (
            {"trackers": ("paper",)},
            SettingsError,
            "tracker 'paper' is unknown; use tensorboard, wandb, trackio or none",
        ),
        ({"trackers": ("wandb",)}, SettingsError, "tracker wandb is not installed; run `pip install wandb`"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path, data, arguments, error, words):
    settings = {"student": net(), "teacher": net(1), "data": data, "recipe": recipe(), **arguments}
    with pytest.raises(error, match=words):
        train(**{"trackers": (), **settings}, output=tmp_path)


def test_a_student_is_not_its_own_teacher(tmp_path, data):
    student = net()
    with pytest.raises(SettingsError, match="the teacher is the student itself"):
        train(student, student, data, recipe(), tmp_path)


def test_output_that_cannot_be_made(tmp_path, data):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*file.*; name another"):
        train(net(), None, data, recipe(), tmp_path / "file" / "run", trackers=())


def test_full_disk_loses_nothing(tmp_path, data):
    """A limit on the size of files stands for the full disk: the second checkpoint does not fit."""

    class Filling(Silent):
        def epoch(self, record):
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(OutputError, match="cannot write"):
            train(net(), None, data, recipe(), tmp_path, progress=Filling(), trackers=())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["epoch-0001", "index.json"]
    whole = train(net(), None, data, recipe(), tmp_path / "whole", trackers=())
    resumed = train(net(), None, data, recipe(), tmp_path, resume=True, trackers=())
    assert [epoch["loss"] for epoch in resumed.epochs] == [epoch["loss"] for epoch in whole.epochs]
