from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from rmeeto.errors import DataError, ShapeError
from rmeeto.evaluate import accuracy


def logits_with_ranks(ranks, classes=7):
    """Logits whose true class, 2, stands at the given rank (0 is best)."""
    rows = []
    for rank in ranks:
        order = [label for label in range(classes) if label != 2]
        order.insert(rank, 2)
        row = torch.empty(classes)
        row[order] = torch.arange(classes, 0, -1).float()
        rows.append(row)
    return torch.stack(rows)


@pytest.mark.parametrize("sizes", [(6,), (4, 2), (1, 1, 1, 1, 1, 1)])
def test_top1_and_top5_and_loss_are_means_over_images_not_batches(sizes):
    logits = logits_with_ranks([0, 0, 1, 4, 5, 6])
    labels = torch.full((6,), 2)
    seen = []
    result = accuracy(
        lambda x: x, zip(logits.split(list(sizes)), labels.split(list(sizes)), strict=True), progress=seen.append
    )
    assert result.top1 == pytest.approx(100 * 2 / 6)
    assert result.top5 == pytest.approx(100 * 4 / 6)
    assert result.loss == pytest.approx(float(functional.cross_entropy(logits, labels)), rel=1e-6)
    assert result.images == 6
    assert result.seconds > 0
    assert seen == torch.tensor(sizes).cumsum(0).tolist()


@pytest.mark.parametrize("classes", [2, 3, 4, 5])
def test_top5_of_few_classes_is_everything(classes):
    logits = torch.randn(9, classes, generator=torch.Generator().manual_seed(0))
    assert accuracy(lambda x: x, [(logits, torch.arange(9) % classes)]).top5 == 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_loss_is_taken_in_single_precision(dtype):
    logits = torch.zeros(2, 300, dtype=dtype)
    assert accuracy(lambda x: x, [(logits, torch.tensor([0, 299]))]).loss == pytest.approx(math.log(300), rel=1e-6)


class Watcher(nn.Module):
    def __init__(self):
        super().__init__()
        self.frozen = nn.Dropout()
        self.head = nn.Linear(4, 3)
        self.seen = []

    def forward(self, x):
        self.seen.append((self.training, self.head.training, torch.is_inference_mode_enabled()))
        return self.head(x)


def test_a_module_is_in_eval_mode_meanwhile_and_as_before_after():
    model = Watcher().train()
    model.frozen.eval()
    accuracy(model, [(torch.zeros(2, 4), torch.tensor([0, 1]))])
    assert model.seen == [(False, False, True)]
    assert (model.training, model.frozen.training, model.head.training) == (True, False, True)
    assert not torch.is_inference_mode_enabled()


def test_modes_come_back_after_an_error():
    model = Watcher().train()
    with pytest.raises(ShapeError, match="label 7 is none of the model's 3 classes"):
        accuracy(model, [(torch.zeros(2, 4), torch.tensor([0, 7]))])
    assert model.training
    assert not torch.is_inference_mode_enabled()


def test_no_images_are_an_error():
    with pytest.raises(DataError, match="no images"):
        accuracy(lambda x: x, [])


def test_parts_of_several_processes_add_up_to_the_whole():
    """Whatever their sizes; one may have nothing at all."""
    logits, labels = logits_with_ranks([0, 0, 1, 4, 5, 6, 0]), torch.full((7,), 2)
    parts = [(logits[:4], labels[:4]), (logits[4:], labels[4:]), None]
    sums = []
    for part in parts:
        accuracy(
            lambda x: x,
            [part] if part else [],
            total=lambda values: (sums.append(list(values)), [1.0, 1.0, 1.0, 1.0])[1],
        )
    whole = accuracy(lambda x: x, [(logits, labels)])
    added = [sum(column) for column in zip(*sums, strict=True)]
    together = accuracy(lambda x: x, [], total=lambda _: added)
    assert (together.top1, together.top5, together.images) == (whole.top1, whole.top5, 7)
    assert together.loss == pytest.approx(whole.loss)
