"""The matrix product by oneDNN against torch's own linear layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from rmeeto.ops import _products, linear, use_backend

native = pytest.mark.skipif(not _products.available(), reason="this torch has no oneDNN")

CASES = [  # shape of x, outputs, bias
    ((3, 4), 5, False),
    ((2, 7, 12), 20, True),
    ((1, 1, 3), 1, True),
    ((2, 3, 5, 40), 8, False),
    ((300, 4), 128, False),
    ((50, 17), 3, True),
]


def make(shape: tuple[int, ...], outputs: int, *, bias: bool) -> list[Tensor]:
    torch.manual_seed(0)
    tensors = [torch.randn(shape), torch.randn(outputs, shape[-1])]
    return [*tensors, torch.randn(outputs)] if bias else tensors


def results(layer, tensors: list[Tensor]) -> list[Tensor]:
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    y = layer(*leaves)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


@native
@pytest.mark.parametrize(("shape", "outputs", "bias"), CASES)
def test_equals_torch(shape: tuple[int, ...], outputs: int, bias: bool) -> None:
    tensors = make(shape, outputs, bias=bias)
    wanted = results(functional.linear, [t.double() for t in tensors])
    for found, value in zip(results(linear, tensors), wanted, strict=True):
        torch.testing.assert_close(found.double(), value, rtol=1e-5, atol=1e-5)


@native
def test_slices_are_taken_as_they_are() -> None:
    x = torch.randn(2, 9, 24)
    weight = torch.randn(5, 12)
    torch.testing.assert_close(linear(x[..., 12:], weight), functional.linear(x[..., 12:], weight))


def test_other_types_and_the_reference_are_torchs_own() -> None:
    x, weight = torch.randn(4, 6), torch.randn(3, 6)
    with use_backend("reference"):
        assert torch.equal(linear(x, weight), functional.linear(x, weight))
    assert torch.equal(linear(x.double(), weight.double()), functional.linear(x.double(), weight.double()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight).dtype is torch.bfloat16


@native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
@pytest.mark.parametrize("requires", [True, False])
def test_opcheck(requires: bool) -> None:
    tensors = [t.requires_grad_(requires) for t in make((2, 7, 12), 20, bias=True)]
    torch.library.opcheck(torch.ops.rmeeto.linear.default, tensors)


@native
def test_an_empty_batch_passes() -> None:
    y, dx, dweight = results(linear, [torch.zeros(0, 4), torch.randn(3, 4)])
    assert y.shape == (0, 3)
    assert dx.shape == (0, 4)
    assert torch.equal(dweight, torch.zeros(3, 4))


@native
def test_the_flop_counter_sees_it() -> None:
    tensors = [t.requires_grad_() for t in make((2, 7, 12), 20, bias=True)]
    with FlopCounterMode(display=False) as counter:
        y = linear(*tensors)
    assert counter.get_total_flops() == 2 * 2 * 7 * 12 * 20
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * 2 * 2 * 7 * 12 * 20
