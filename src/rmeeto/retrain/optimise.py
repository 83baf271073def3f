"""AdamW's parameter groups and the learning rate of every step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from timm.optim import param_groups_weight_decay
from torch import nn

from rmeeto.retrain.recipe import Recipe


def adamw(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW over all parameters that want a gradient.

    No weight decay on biases, on one-dimensional parameters and on names of `model.no_weight_decay()`, which are
    a parameter's whole name, its last part, or a pattern such as "*.A_log".
    """
    groups = param_groups_weight_decay(model, recipe.weight_decay, no_weight_decay_list=_exempt(model))
    # fused: one pass over all parameters; the plain loop costs a small model as much as its backward pass.
    return torch.optim.AdamW(groups, lr=recipe.peak_lr, betas=recipe.betas, eps=recipe.eps, fused=True)


@dataclass(frozen=True)
class LearningRate:
    """Linear warm-up, then a cosine that reaches `low` at the last step.

    Attributes:
        steps: optimiser steps of the whole run.
        warmup: of these, steps of warm-up, fractions allowed.
        peak, low: the largest and the last learning rate.
    """

    steps: int
    warmup: float
    peak: float
    low: float

    @classmethod
    def of(cls, recipe: Recipe, steps_per_epoch: int) -> LearningRate:
        """The learning rate of a recipe's run."""
        return cls(recipe.epochs * steps_per_epoch, recipe.warmup * steps_per_epoch, recipe.peak_lr, recipe.last_lr)

    @property
    def last(self) -> int:
        """Number of the last step, the first being 0."""
        return self.steps - 1

    def at(self, position: float) -> float:
        """Learning rate of step `position`; a run of limited time asks for places between steps."""
        if position >= self.last:
            return self.low
        if position < self.warmup:
            return self.peak * (position + 1) / (self.warmup + 1)
        share = (position - self.warmup) / (self.last - self.warmup)
        return self.low + (self.peak - self.low) * 0.5 * (1 + math.cos(math.pi * share))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give all parameter groups one learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def _exempt(model: nn.Module) -> list[str]:
    listed = getattr(model, "no_weight_decay", None)
    names: set[str] = set(listed()) if listed is not None else set()
    return sorted(names | {f"*.{name}" for name in names})
