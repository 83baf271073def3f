"""A run that was cut and resumed ends as the undisturbed one; broken checkpoints are never used."""

from __future__ import annotations

import json
import re

import pytest
import torch

from rmeeto.errors import CheckpointError, DataError, OutputError
from rmeeto.retrain import Checkpoints

from .conftest import Data, Noting, cut_run, net, recipe, run, state


@pytest.mark.parametrize(("epoch", "steps_later"), [(1, 0), (1, 3), (2, 0), (2, 2)])
@pytest.mark.parametrize("settings", [recipe(ema_decay=0.9), recipe(accumulate=2, clip_grad=1.0, precision="bf16")])
def test_resumed_run_is_bit_identical(tmp_path, data, epoch, steps_later, settings):
    whole, record = run(tmp_path / "whole", Data(size=8 // settings.accumulate), settings=settings)
    cut_run(tmp_path / "cut", Data(size=8 // settings.accumulate), epoch, steps_later, settings=settings)
    torch.rand(7)  # another process starts with other random numbers
    resumed, again = run(
        tmp_path / "cut", Data(size=8 // settings.accumulate), student=net(9), settings=settings, resume=True
    )

    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    one, other = state(tmp_path / "whole"), state(tmp_path / "cut")
    assert (one.ema is None) == (settings.ema_decay is None)
    for name, value in (one.ema or {}).items():
        assert torch.equal(value, other.ema[name]), name
    assert [e["loss"] for e in record.epochs] == [e["loss"] for e in again.epochs]
    assert [e["ema_top1"] for e in record.epochs] == [e["ema_top1"] for e in again.epochs]
    assert (record.best_epoch, record.best_top1, record.images) == (again.best_epoch, again.best_top1, again.images)
    assert again.seconds > 0


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_an_epoch_whose_validation_fails_is_not_trained_again(tmp_path, data, failing):
    """Its checkpoint is there; resumed, it is validated, and the run ends as the undisturbed one."""
    whole, record = run(tmp_path / "whole", Data())
    left = 2 * failing - 1  # student and average are validated

    def validate(model):
        nonlocal left
        left -= 1
        if left == 0:
            raise DataError("an image cannot be read")
        return data.validate(model)

    with pytest.raises(DataError, match="cannot be read"):
        run(tmp_path / "cut", data, validate=validate)
    assert data.train.epochs == list(range(failing))
    again = Data()
    resumed, rest = run(tmp_path / "cut", again, student=net(9), resume=True)
    assert again.train.epochs == list(range(failing, 3))
    assert [epoch["top1"] for epoch in rest.epochs] == [epoch["top1"] for epoch in record.epochs]
    assert (rest.best_epoch, rest.best_top1, rest.images) == (record.best_epoch, record.best_top1, record.images)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "cut" / "log.jsonl").read_text().splitlines()]
    assert kinds.count("epoch") == 3


def test_validation_does_not_change_training(tmp_path, data):
    often, _ = run(tmp_path / "often", data)
    never, _ = run(tmp_path / "never", data, validate=None)
    for name, value in often.state_dict().items():
        assert torch.equal(value, never.state_dict()[name]), name


def test_log_has_each_epoch_once_after_resume(tmp_path, data):
    cut_run(tmp_path, data, epoch=1, steps_later=3)
    run(tmp_path, data, resume=True)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["kind"] == "epoch"] == [1, 2, 3]
    assert [line["step"] for line in lines if line["kind"] == "step"] == [2, 4, 6, 8, 10, 12, 14]


def test_finished_run_is_not_trained_again(tmp_path, data):
    whole, record = run(tmp_path, data)
    data.train.epochs.clear()
    resumed, again = run(tmp_path, data, student=net(9), resume=True)
    assert data.train.epochs == []
    assert again == record
    assert torch.equal(whole.head.weight, resumed.head.weight)


def test_resume_of_nothing_starts(tmp_path, data):
    _, record = run(tmp_path, data, resume=True)
    assert len(record.epochs) == 3


def test_a_run_is_not_overwritten(tmp_path, data):
    run(tmp_path, data)
    with pytest.raises(OutputError, match="holds a run already; resume"):
        run(tmp_path, data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": recipe(ema_decay=0.9, epochs=5)}, r"epochs \(3, 5\)"),
        ({"settings": recipe(ema_decay=0.99)}, r"ema_decay \(0.9, 0.99\)"),
        ({"about": {"data": {"source": "b"}}}, r"data.source \('a', 'b'\)"),
        ({"about": {}}, r"data.source \('a', None\)"),
        ({"student": net(classes=4, dropout=0.0)}, "another model: .*norm"),
    ],
    ids=["epochs", "ema_decay", "data", "nothing", "model"],
)
def test_another_run_is_refused_by_name(tmp_path, data, change, message):
    about = {"data": {"source": "a"}}
    cut_run(tmp_path, data, epoch=1, about=about)
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path, data, resume=True, **{"about": about, **change})


def truncate(folder):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def flip(folder):
    path = folder / "state.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def forget(folder):
    (folder / "checkpoint.json").unlink()


def cut_manifest(folder):
    path = folder / "checkpoint.json"
    path.write_text(path.read_text()[:50])


def remove(folder):
    (folder / "ema.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "weights.safetensors has .* of .* bytes"),
        (flip, "state.pt was altered"),
        (forget, "not written to its end"),
        (cut_manifest, "not written to its end"),
        (remove, "ema.safetensors cannot be read"),
    ],
)
def test_broken_checkpoint_falls_back_to_the_one_before(tmp_path, data, damage, reason):
    whole, _ = run(tmp_path / "whole", data)
    cut_run(tmp_path / "cut", data, epoch=2)
    damage(tmp_path / "cut" / "checkpoints" / "epoch-0002")
    progress = Noting()
    resumed, _ = run(tmp_path / "cut", data, student=net(9), resume=True, progress=progress)
    assert torch.equal(whole.head.weight, resumed.head.weight)
    broken, resuming = progress.notes
    assert re.search(reason, broken)
    assert broken.endswith("trying the one before it")
    assert resuming == "resuming after epoch 1 of 3"
    assert Checkpoints(tmp_path / "cut" / "checkpoints").all()[0].name == "epoch-0003"


def test_nothing_whole_is_an_error(tmp_path, data):
    cut_run(tmp_path, data, epoch=1)
    truncate(tmp_path / "checkpoints" / "epoch-0001")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is whole"):
        run(tmp_path, data, resume=True)
