"""Whatever ends a run, at whatever moment: it goes on from there, and ends as the undisturbed one."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import signal
import time

import numpy as np
import pytest
import torch

from rmeeto.records import to_json
from rmeeto.retrain import Checkpoints, Silent, Stopped, loop
from rmeeto.retrain.checkpoint import sealed

from .conftest import Batches, Cut, Data, Noting, cut_run, net, recipe, run, state


@pytest.mark.parametrize("step", [1, 5, 13])
@pytest.mark.parametrize("settings", [recipe(ema_decay=0.9), recipe(accumulate=2, clip_grad=1.0, precision="fp16")])
def test_a_run_goes_on_in_the_middle_of_an_epoch(tmp_path, step, settings):
    size = 8 // settings.accumulate
    whole, record = run(tmp_path / "whole", Data(size=size), settings=settings, checkpoint_every=1)
    with pytest.raises(Cut):
        run(tmp_path / "cut", Data(size=size), settings=settings, checkpoint_every=1, progress=CuttingAtStep(step + 1))
    progress = Noting()
    resumed, again = run(
        tmp_path / "cut", Data(size=size), student=net(9), settings=settings, resume=True, progress=progress,
        checkpoint_every=1,
    )  # fmt: skip
    where = "after epoch 1 of 3" if step == 5 else f"after step {step}, in epoch {step // 5 + 1} of 3"
    assert progress.notes[0] == f"resuming {where}"
    same_weights(whole, resumed)
    assert [e["loss"] for e in record.epochs] == [e["loss"] for e in again.epochs]
    assert steps_in(tmp_path / "cut") == steps_in(tmp_path / "whole")


class CuttingAtStep(Silent):
    def __init__(self, step):
        self.at = step

    def step(self, report):
        if report.step == self.at:
            raise Cut


def same_weights(one, other):
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def steps_in(output):
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [(line["kind"], line["epoch"], line.get("step")) for line in lines]


class Skipping(Batches):
    """Leaves out batches without making them."""

    def __init__(self, count, size):
        super().__init__(count, size)
        self.left_out, self.made = 0, 0

    def skip(self, batches):
        self.left_out = batches

    def __iter__(self):
        left_out, self.left_out = self.left_out, 0
        for batch in itertools.islice(super().__iter__(), left_out, None):
            self.made += 1
            yield batch


def test_data_that_can_skip_makes_no_batch_twice(tmp_path):
    whole, _ = run(tmp_path / "whole", Data())
    with pytest.raises(Cut):
        run(tmp_path / "cut", Data(), checkpoint_every=1, progress=CuttingAtStep(4))
    data = Data()
    object.__setattr__(data, "train", skipping := Skipping(40, 8))
    resumed, _ = run(tmp_path / "cut", data, student=net(9), resume=True)
    same_weights(whole, resumed)
    assert skipping.made == 2 + 5 + 5


class Sending(Silent):
    """A signal arrives in the middle of a step."""

    def __init__(self, number, step):
        self.number, self.at = number, step

    def step(self, report):
        if report.step == self.at:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [2, 5, 15])
def test_a_signal_ends_the_run_after_its_step_with_a_checkpoint(tmp_path, data, number, step):
    whole, record = run(tmp_path / "whole", data)
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped:
        run(tmp_path / "cut", Data(), progress=Sending(number, step))
    assert signal.getsignal(number) is before
    assert (stopped.value.signal, stopped.value.step) == (signal.Signals(number).name, step)
    assert stopped.value.checkpoint == Checkpoints(tmp_path / "cut" / "checkpoints").all()[0]
    assert state(tmp_path / "cut").position.step == step
    resumed, again = run(tmp_path / "cut", Data(), student=net(9), resume=True)
    same_weights(whole, resumed)
    assert [e["top1"] for e in record.epochs] == [e["top1"] for e in again.epochs]


@pytest.mark.parametrize("validate_every", [None, 3])
def test_a_signal_does_not_wait_for_a_validation(tmp_path, data, validate_every):
    whole, _ = run(tmp_path / "whole", data)

    def validate(model):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it went on")

    with pytest.raises(Stopped) as stopped:
        run(tmp_path / "cut", Data(), validate=validate, validate_every=validate_every)
    assert stopped.value.step == (validate_every or 5)
    resumed, _ = run(tmp_path / "cut", Data(), student=net(9), resume=True)
    same_weights(whole, resumed)


def test_a_second_sigint_interrupts_at_once(tmp_path, data):
    class Impatient(Sending):
        def step(self, report):
            super().step(report)
            super().step(report)

    with pytest.raises(KeyboardInterrupt) as interrupted:
        run(tmp_path, data, progress=Impatient(signal.SIGINT, 2))
    assert not isinstance(interrupted.value, Stopped)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_sigkill_at_random_moments_loses_nothing(tmp_path):
    """Also while a checkpoint is written: there is one after every step."""
    settings = recipe(ema_decay=0.9, epochs=8)
    started = time.monotonic()
    whole, record = run(tmp_path / "whole", Data(), settings=settings, checkpoint_every=1)
    longest = 0.2 * (time.monotonic() - started)  # no child comes near the end in one go, however fast the machine
    random, killed = np.random.default_rng(0), 0
    for _ in range(60):
        child = os.fork()
        if child == 0:
            run(tmp_path / "cut", Data(), settings=settings, checkpoint_every=1, resume=True)
            os._exit(0)
        time.sleep(random.uniform(0.05, 1.0) * longest)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed += os.WIFSIGNALED(status)
        if os.WIFEXITED(status):
            break
    resumed, again = run(tmp_path / "cut", Data(), student=net(9), settings=settings, checkpoint_every=1, resume=True)
    assert killed > 2
    same_weights(whole, resumed)
    assert [e["loss"] for e in record.epochs] == [e["loss"] for e in again.epochs]
    assert steps_in(tmp_path / "cut") == steps_in(tmp_path / "whole")


def test_every_bit_of_a_checkpoint_is_watched(tmp_path, data):
    """One flipped bit anywhere, in the manifest too, and the one before it is taken."""
    run(tmp_path, data)
    folder = tmp_path / "checkpoints" / "epoch-0003"
    random = np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for place in random.integers(0, len(whole), 25):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << random.integers(8))]) + whole[place + 1 :])
            notes = []
            found = Checkpoints(tmp_path / "checkpoints").newest(notes.append)
            assert (found.position.epoch, len(notes)) == (2, 1), (path, place)
        path.write_bytes(whole)
    assert Checkpoints(tmp_path / "checkpoints").newest(pytest.fail).position.epoch == 3


def test_another_cut_of_the_batch_is_the_same_run(tmp_path):
    """`accumulate` says how a batch is cut; so does the number of processes."""
    settings = recipe(mixup=0.0, cutmix=0.0)
    whole, _ = run(tmp_path / "whole", Data(), student=net(dropout=0.0), settings=settings)
    with pytest.raises(Cut):
        run(
            tmp_path / "cut", Data(), student=net(dropout=0.0), settings=settings, checkpoint_every=1,
            progress=CuttingAtStep(8),
        )  # fmt: skip
    halves = dataclasses.replace(settings, accumulate=2)
    resumed, _ = run(tmp_path / "cut", Data(size=4), student=net(9, dropout=0.0), settings=halves, resume=True)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(value, resumed.state_dict()[name], atol=1e-5, rtol=0)


def test_other_versions_are_told(tmp_path, data):
    cut_run(tmp_path, data, epoch=1)
    folder = tmp_path / "checkpoints" / "epoch-0001"
    manifest = json.loads((folder / "checkpoint.json").read_text())
    manifest["versions"]["torch"] = "1.13"
    (folder / "checkpoint.json").write_text(to_json(sealed(manifest)))
    progress = Noting()
    run(tmp_path, data, resume=True, progress=progress)
    assert re.search(r"made with torch 1.13, here 2.*: the last bits may differ", progress.notes[-1])


def test_a_signal_in_the_last_step_is_not_forgotten(tmp_path, data):
    """Nothing is left to train, but whoever called has more to do, which the signal ends as well."""
    whole, _ = run(tmp_path / "whole", data)
    with pytest.raises(Stopped) as stopped:
        run(tmp_path / "cut", Data(), progress=Sending(signal.SIGTERM, 15), validate=None)
    assert stopped.value.step == 15
    resumed, _ = run(tmp_path / "cut", Data(), student=net(9), resume=True, validate=None)
    same_weights(whole, resumed)


def test_where_losses_are_read_late_a_signal_is_heard_before_a_validation(tmp_path, data, monkeypatch):
    """As on an accelerator, which reads the losses of several steps at once."""
    made = loop.Meter

    def late(*arguments, **options):
        return made(*arguments, **{**options, "read_every": 4})

    monkeypatch.setattr(loop, "Meter", late)
    signals = []

    class Batch(Batches):
        def __iter__(self):
            for number, batch in enumerate(super().__iter__(), 1):
                if number == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                    signals.append(number)
                yield batch

    object.__setattr__(data, "train", Batch(40, 8))
    with pytest.raises(Stopped) as stopped:
        run(tmp_path, data, validate=lambda _model: pytest.fail("it validated"), validate_every=3)
    assert (stopped.value.step, signals) == (3, [3])
