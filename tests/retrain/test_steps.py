"""Precision: matrix products in half, weights, optimiser, A and the scan's state in float32."""

from __future__ import annotations

import pytest
import torch

from rmeeto.models import create
from rmeeto.ops.block import reference
from rmeeto.retrain import TrainingData
from rmeeto.retrain.checkpoint import read

from .conftest import CLASSES, Batches, Noting, recipe, train


class Reports(Noting):
    def __init__(self):
        super().__init__()
        self.losses = []

    def step(self, report):
        self.losses.append(report.loss)


def tiny(seed):
    torch.manual_seed(seed)
    return create("vim_nano", img_size=4, patch_size=2, in_chans=3, embed_dim=16, depth=2, num_classes=CLASSES)


def losses_of(precision, output):
    batches, progress, student = Batches(40, 8), Reports(), tiny(0)
    batches.images = torch.nn.functional.interpolate(batches.images, size=(4, 4))
    settings = recipe(epochs=1, precision=precision, drop_path=0.0, ema_decay=0.9)
    train(
        student, tiny(1), TrainingData(batches, CLASSES), settings, output, progress=progress, trackers=(), log_every=1
    )
    assert {value.dtype for value in student.state_dict().values()} == {torch.float32}
    assert progress.notes == []
    return progress.losses


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision_stays_close_to_single(tmp_path, precision, dtype, monkeypatch):
    single, seen, scan = losses_of("fp32", tmp_path / "single"), [], reference.bimamba

    def spied(xz, directions, *rest, **options):
        seen.extend((xz.dtype, direction.A_log.dtype) for direction in directions)
        return scan(xz, directions, *rest, **options)

    monkeypatch.setattr(reference, "bimamba", spied)
    half = losses_of(precision, tmp_path / "half")
    assert half == pytest.approx(single, abs=0.02)
    assert half != single
    assert set(seen) == {(dtype, torch.float32)}
    found = read(tmp_path / "half" / "checkpoints" / "epoch-0001")
    moments = [value for each in found.state["optimizer"]["state"].values() for value in each.values()]
    assert {value.dtype for value in moments} == {torch.float32}
    assert bool(found.state["scaler"]) == (precision == "fp16")
