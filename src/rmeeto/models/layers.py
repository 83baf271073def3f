"""Torch's layers, worked by the ops of this package; names, arguments and state are torch's."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rmeeto.ops import linear, rms_norm


class Linear(nn.Linear):
    """A linear layer whose product the fastest library at hand makes."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class RMSNorm(nn.RMSNorm):
    """The norm over the last dimension of (b, n, c) tokens, with a weight, in one pass over memory."""

    eps: float

    def forward(self, x: Tensor) -> Tensor:
        assert self.weight is not None
        return rms_norm(x, self.weight, self.eps)


def parameter(module: Any, name: str) -> Tensor:
    """A module's attribute, first looked for where parameters are: an attribute costs a search in all of its tables."""
    found: Tensor | None = module._parameters.get(name)
    return getattr(module, name) if found is None else found
