"""Stochastic depth that is the same however a step's images are cut and dealt out.

A layer of its own kind would draw from the process's generator, in the order of the images that this process sees:
two processes would drop other paths than one. Here a step draws for all of its images at once.
"""

from __future__ import annotations

from functools import partial
from typing import final

import numpy as np
import torch
from timm.layers import DropPath
from torch import Tensor, nn

_STREAM = 1  # of the numbers that a step's seed gives; mixing has its own


@final
class DroppedPaths:
    """Takes over the drawing of a model's `DropPath` layers until it is closed.

    Args:
        model: in training; its rates are what they are now.
        seed: of the run.
    """

    def __init__(self, model: nn.Module, seed: int) -> None:
        self._seed = seed
        self._paths = [each for each in model.modules() if isinstance(each, DropPath) and each.drop_prob]
        self._rates = [float(path.drop_prob) for path in self._paths]
        self._factors = torch.empty(0)
        self._hooks = [path.register_forward_hook(partial(self._drop, n)) for n, path in enumerate(self._paths)]
        for path in self._paths:
            path.drop_prob = 0.0

    def draw(self, step: int, images: int, places: Tensor, device: torch.device) -> None:
        """Choose what is dropped.

        Args:
            step: its number.
            images: how many the step has, in all processes and micro-batches.
            places: (b,) int64 where in the step those of the next forward pass stand.
            device: where that computes.
        """
        if not self._paths:
            return
        seed = int(np.random.SeedSequence((self._seed, step, _STREAM)).generate_state(1)[0])
        drawn = torch.rand(len(self._paths), images, generator=torch.Generator().manual_seed(seed))
        rates = torch.tensor(self._rates).unsqueeze(1)
        kept = (drawn[:, places] >= rates).float() / (1 - rates)
        self._factors = kept.to(device, non_blocking=True)

    def close(self) -> None:
        """Give the layers their rates back."""
        for hook in self._hooks:
            hook.remove()
        for path, rate in zip(self._paths, self._rates, strict=True):
            path.drop_prob = rate

    def _drop(self, number: int, path: nn.Module, _inputs: tuple[Tensor, ...], x: Tensor) -> Tensor | None:
        """(b, ...) -> the same, some images' rows zero; called twice where activations are computed again."""
        if not path.training:
            return None
        return x * self._factors[number].to(x.dtype).view(-1, *(1 for _ in x.shape[1:]))
