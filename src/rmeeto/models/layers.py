"""Torch's layers, worked by the ops of this package; names, arguments and state are torch's."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

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


def is_bare(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether calling a module means just what its class says: somebody who knows the class may compute it himself."""
    own = module.__dict__
    return type(module) is kind and not (own["_forward_hooks"] or own["_forward_pre_hooks"] or "forward" in own)


def is_watched() -> bool:
    """Whether somebody watches the calls of all modules."""
    return _has_any_global_hook()
