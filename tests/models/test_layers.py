"""Patches as a product against torch's convolution of the same weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rmeeto.models.layers import PatchConv2d, PatchConv3d

CASES = [  # shape of the images, kernel, stride
    ((3, 2, 12, 8), 4, 4),
    ((1, 1, 6, 6), 2, 2),
    ((2, 3, 8, 12), (2, 4), (2, 4)),
    ((3, 2, 12, 8), 4, 2),  # windows overlap: torch's convolution
    ((2, 3, 4, 12, 8), (1, 4, 4), (1, 4, 4)),
    ((2, 3, 4, 12, 8), (1, 4, 4), (1, 2, 2)),
    ((2, 3, 4, 12, 8), (2, 4, 4), (2, 4, 4)),  # windows of two frames
]


def results(layer: nn.Module, images: Tensor) -> list[Tensor]:
    leaf = images.clone().requires_grad_()
    y = layer(leaf)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return [y.detach(), *torch.autograd.grad(y, [leaf, *layer.parameters()], dy)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("shape", "kernel", "stride"), CASES)
def test_equals_the_convolution(shape, kernel, stride, bias: bool) -> None:
    torch.manual_seed(0)
    ours, torchs = (PatchConv2d, nn.Conv2d) if len(shape) == 4 else (PatchConv3d, nn.Conv3d)
    layer, other = (kind(shape[1], 5, kernel, stride, bias=bias) for kind in (ours, torchs))
    other.load_state_dict(layer.state_dict())
    images = torch.randn(shape)
    for found, wanted in zip(results(layer, images), results(other, images), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("other", [{"padding": 4}, {"padding": "valid"}, {"groups": 2}, {"dilation": 2}])
def test_other_convolutions_are_torchs(other) -> None:
    layer = PatchConv2d(2, 4, 4, 4, **other)
    images = torch.randn(3, 2, 16, 16)
    torch.testing.assert_close(layer(images), nn.Conv2d.forward(layer, images), rtol=1e-5, atol=1e-5)


def test_patches_side_by_side_come_as_rows() -> None:
    y = PatchConv2d(2, 5, 4, 4)(torch.randn(3, 2, 12, 8))
    assert y.flatten(2).transpose(1, 2).is_contiguous()
