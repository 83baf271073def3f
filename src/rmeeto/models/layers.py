"""Torch's layers, worked by the ops of this package; names, arguments and state are torch's."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from rmeeto.ops import linear, rms_norm


class Linear(nn.Linear):
    """A linear layer whose product the fastest library at hand makes."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class PatchConv2d(nn.Conv2d):
    """A convolution of (b, c, height, width) whose windows, where they lie side by side, are a product's rows.

    A convolution would first bring images and weights into an order of its own, torch.compile's even in every call.
    """

    def forward(self, input: Tensor) -> Tensor:
        return _by_patches(input, self) if _side_by_side(self) else super().forward(input)


class PatchConv3d(nn.Conv3d):
    """The same of each frame: (b, c, frames, height, width), windows of one frame."""

    def forward(self, input: Tensor) -> Tensor:
        return _by_patches(input, self) if _side_by_side(self) else super().forward(input)


def _side_by_side(conv: nn.Conv2d | nn.Conv3d) -> bool:
    """Whether every window is a patch of one frame, and all of it."""
    plain = not any(conv.padding) and max(conv.dilation) == conv.groups == 1
    return plain and conv.kernel_size == conv.stride and conv.kernel_size[:-2] in ((), (1,))


def _by_patches(images: Tensor, conv: nn.Conv2d | nn.Conv3d) -> Tensor:
    """(b, c, ..., height, width), whole patches -> (b, m, ..., rows, columns), as the convolution gives it."""
    height, width = conv.kernel_size[-2:]
    cut = images.unflatten(-1, (-1, width)).unflatten(-3, (-1, height))
    rows = cut.dim() - 4
    patches = cut.permute(0, *range(2, rows + 1), rows + 2, 1, rows + 1, rows + 3).flatten(-3)
    return linear(patches, conv.weight.flatten(1), conv.bias).movedim(-1, 1)


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
