"""Dropped paths and patches that are the same however a step's images are cut and dealt out.

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

from rmeeto.models.embed import PatchDropout
from rmeeto.tokens import Tokens

# Of the numbers that a step's seed gives; mixing has its own.
_PATHS, _PATCHES = 1, 2


@final
class Dropping:
    """Takes over the drawing of a model's `DropPath` and `PatchDropout` layers until it is closed.

    Args:
        model: in training; its rates are what they are now.
        seed: of the run.
    """

    def __init__(self, model: nn.Module, seed: int) -> None:
        self._seed = seed
        self._paths = [each for each in model.modules() if isinstance(each, DropPath) and each.drop_prob]
        self._rates = [float(path.drop_prob) for path in self._paths]
        self._patches = [each for each in model.modules() if isinstance(each, PatchDropout) and each.rate]
        self._shares = [layer.rate for layer in self._patches]
        self._hooks = [path.register_forward_hook(partial(self._drop, n)) for n, path in enumerate(self._paths)]
        self._hooks += [
            layer.register_forward_hook(partial(self._leave_out, share))
            for layer, share in zip(self._patches, self._shares, strict=True)
        ]
        self._step, self._images, self._places = 0, 0, torch.empty(0)
        self._factors = torch.empty(0)
        self._give(0.0)

    def draw(self, step: int, images: int, places: Tensor, device: torch.device) -> None:
        """Choose what is dropped.

        Args:
            step: its number.
            images: how many the step has, in all processes and micro-batches.
            places: (b,) int64 where in the step those of the next forward pass stand.
            device: where that computes.
        """
        self._step, self._images, self._places = step, images, places
        if not self._paths:
            return
        drawn = torch.rand(len(self._paths), images, generator=self._generator(_PATHS))
        rates = torch.tensor(self._rates).unsqueeze(1)
        kept = (drawn[:, places] >= rates).float() / (1 - rates)
        self._factors = kept.to(device, non_blocking=True)

    def close(self) -> None:
        """Give the layers their rates back."""
        for hook in self._hooks:
            hook.remove()
        self._give(None)

    def _give(self, rate: float | None) -> None:
        """Let all layers have this rate, or their own."""
        for path, own in zip(self._paths, self._rates, strict=True):
            path.drop_prob = own if rate is None else rate
        for layer, own in zip(self._patches, self._shares, strict=True):
            layer.rate = own if rate is None else rate

    def _generator(self, stream: int) -> torch.Generator:
        seed = int(np.random.SeedSequence((self._seed, self._step, stream)).generate_state(1)[0])
        return torch.Generator().manual_seed(seed)

    def _drop(self, number: int, path: nn.Module, _inputs: tuple[Tensor, ...], x: Tensor) -> Tensor | None:
        """(b, ...) -> the same, some images' rows zero; called twice where activations are computed again."""
        if not path.training:
            return None
        return x * self._factors[number].to(x.dtype).view(-1, *(1 for _ in x.shape[1:]))

    def _leave_out(self, rate: float, layer: nn.Module, _inputs: tuple[Tokens], tokens: Tokens) -> Tokens | None:
        """Tokens -> those that stay, as many in every process."""
        if not layer.training:
            return None
        assert isinstance(layer, PatchDropout)
        generator = self._generator(_PATCHES)
        share = rate * float(torch.rand((), generator=generator))
        likings = torch.rand(self._images, tokens.x.shape[1], generator=generator)
        return layer.leave_out(tokens, share, likings[self._places].to(tokens.x.device, non_blocking=True))
