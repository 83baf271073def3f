"""Which parameters decay, and the learning rate of every step."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rmeeto.retrain import Recipe
from rmeeto.retrain.optimise import LearningRate, adamw


class Marked(nn.Module):
    """A model that exempts some of its weights: by last part and by whole name."""

    def __init__(self) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 2, 3))
        self.mixer = nn.Linear(3, 3)
        self.mixer.A_log = nn.Parameter(torch.zeros(3, 2))
        self.norm = nn.LayerNorm(3)
        self.frozen = nn.Parameter(torch.zeros(3, 3), requires_grad=False)
        self.head = nn.Linear(3, 2)

    def no_weight_decay(self):
        return {"pos_embed", "A_log"}


def test_what_decays():
    model = Marked()
    optimizer = adamw(model, Recipe(weight_decay=0.05, betas=(0.8, 0.95), eps=1e-6, lr=0.1))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decay = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {name for name, value in decay.items() if value == 0.05} == {"mixer.weight", "head.weight"}
    assert {name for name, value in decay.items() if value == 0} == {
        "pos_embed", "mixer.A_log", "mixer.bias", "norm.weight", "norm.bias", "head.bias"
    }  # fmt: skip
    assert all((g["betas"], g["eps"], g["lr"]) == ((0.8, 0.95), 1e-6, 0.1) for g in optimizer.param_groups)


@pytest.mark.parametrize(
    ("epochs", "steps", "warmup", "expected"),
    [
        (2, 5, 0.0, {0: 1.0, 9: 0.1}),
        (2, 5, 1.0, {0: 1 / 6, 4: 5 / 6, 5: 1.0, 9: 0.1}),
        (3, 4, 0.5, {0: 1 / 3, 1: 2 / 3, 2: 1.0, 11: 0.1}),
        (1, 1, 0.0, {0: 0.1}),
        (1, 2, 0.0, {0: 1.0, 1: 0.1}),
        (2, 1, 1.5, {0: 1 / 2.5, 1: 0.1}),
    ],
)
def test_first_and_last_steps(epochs, steps, warmup, expected):
    rate = LearningRate.of(Recipe(epochs=epochs, lr=1.0, min_lr=0.1, warmup_epochs=warmup), steps)
    assert rate.last == epochs * steps - 1
    for step, value in expected.items():
        assert rate.at(step) == pytest.approx(value, abs=1e-12), step
    assert rate.at(rate.last) == 0.1


def test_between_it_is_a_cosine():
    rate = LearningRate(steps=11, warmup=0.0, peak=1.0, low=0.0)
    assert [rate.at(step) for step in range(11)] == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(11)]
    )
    assert rate.at(4) > rate.at(4.5) > rate.at(5)
