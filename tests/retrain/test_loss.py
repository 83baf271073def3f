"""The loss is the published formula; the mixer leaves its input alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rmeeto.retrain import Recipe
from rmeeto.retrain.distill import DistillationLoss, Mixer


def by_hand(logits, targets, taught, weight, temperature):
    """Plain Python: mean over rows of -sum t log p + weight T^2 sum q (log q - log p)."""
    total = 0.0
    for row, target, teacher in zip(logits.tolist(), targets.tolist(), taught.tolist(), strict=True):
        p, q = softmax(row, temperature), softmax(teacher, temperature)
        cross = -sum(t * math.log(x) for t, x in zip(target, softmax(row, 1.0), strict=True))
        divergence = sum(y * (math.log(y) - math.log(x)) for x, y in zip(p, q, strict=True))
        total += cross + weight * temperature**2 * divergence
    return total / len(logits)


def softmax(row, temperature):
    powers = [math.exp(x / temperature) for x in row]
    return [x / sum(powers) for x in powers]


@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 1.0), (0.5, 3.0), (2.0, 0.7), (0.0, 1.0)])
def test_equals_the_formula(weight, temperature):
    torch.manual_seed(0)
    logits, taught = torch.randn(6, 4), torch.randn(6, 4)
    targets = torch.rand(6, 4).softmax(-1)
    loss = DistillationLoss(weight, temperature)(logits, targets, taught)
    assert loss.item() == pytest.approx(by_hand(logits, targets, taught, weight, temperature), rel=1e-5)


def test_without_a_teacher_it_is_cross_entropy():
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 3, 0])
    targets = torch.nn.functional.one_hot(labels, 4).float()
    expected = torch.nn.functional.cross_entropy(logits, labels)
    torch.testing.assert_close(DistillationLoss(0.5, 1.0)(logits, targets), expected)


def test_a_teacher_of_the_same_mind_adds_nothing():
    logits, targets = torch.randn(6, 4), torch.full((6, 4), 0.25)
    loss = DistillationLoss(0.5, 2.0)
    torch.testing.assert_close(loss(logits, targets, logits), loss(logits, targets))


def test_half_precision_logits_give_a_float32_loss():
    logits = torch.randn(6, 4).bfloat16()
    assert DistillationLoss(0.5, 1.0)(logits, torch.full((6, 4), 0.25), logits).dtype == torch.float32


@pytest.mark.parametrize("settings", [{"cutmix": 0.0}, {"mixup": 0.0}, {}], ids=["mixup", "cutmix", "both"])
def test_mixing_keeps_shapes_sums_and_the_input(settings):
    np.random.seed(0)  # noqa: NPY002  timm draws from it
    images, labels = torch.rand(8, 3, 6, 6), torch.arange(8) % 4
    before = images.clone()
    mixed = Mixer(Recipe(**settings), 4)(images, labels, 0)
    assert torch.equal(images, before)
    assert not torch.equal(mixed.images, before)
    assert mixed.images.shape == images.shape
    torch.testing.assert_close(mixed.targets.sum(-1), torch.ones(8))


def test_without_mixing_only_labels_are_smoothed():
    images, labels = torch.rand(3, 3, 6, 6), torch.tensor([2, 0, 1])
    mixed = Mixer(Recipe(mixup=0.0, cutmix=0.0, smoothing=0.2), 4)(images, labels, 0)
    assert torch.equal(mixed.images, images)
    torch.testing.assert_close(mixed.targets[0], torch.tensor([0.05, 0.05, 0.85, 0.05]))
