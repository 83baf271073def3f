"""The native norm against torch's own: outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rmeeto.errors import BackendError, ShapeError
from rmeeto.evaluate.mode import on_threads
from rmeeto.ops import instruction_sets, native_info, rms_norm, use_instruction_set

native = pytest.mark.skipif(native_info() is None, reason="no native kernels here")

SHAPES = [(1, 1, 1), (2, 3, 7), (1, 5, 16), (2, 70, 33), (3, 65, 64), (2, 40, 200)]


def results(x: Tensor, weight: Tensor, backend: str, eps: float = 1e-5) -> list[Tensor]:
    x, weight = x.detach().clone().requires_grad_(), weight.detach().clone().requires_grad_()
    y = rms_norm(x, weight, eps, backend=backend)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), dy)]


def make(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(shape) * 3, torch.randn(shape[-1])


@native
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", instruction_sets())
def test_equals_the_reference(name: str, shape: tuple[int, ...]) -> None:
    x, weight = make(shape)
    with use_instruction_set(name):
        found = results(x, weight, "native")
    for one, other in zip(found, results(x.double(), weight.double(), "reference"), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


@native
@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e15])
def test_rows_tiny_and_huge(scale: float) -> None:
    x, weight = make((2, 5, 24))
    found, wanted = results(x * scale, weight, "native"), results(x.double() * scale, weight.double(), "reference")
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-6 * float(other.abs().max()))


@native
def test_slices_need_no_copy_and_threads_change_nothing() -> None:
    wide, weight = torch.randn(4, 80, 48), torch.randn(24)
    wanted = results(wide[..., 24:].contiguous(), weight, "native")
    with on_threads(2):
        found = results(wide[..., 24:], weight, "native")
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@native
def test_half_types_compute_in_float32() -> None:
    x, weight = (t.bfloat16() for t in make((2, 9, 40)))
    found, wanted = results(x, weight, "native"), results(x, weight, "reference")
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype is torch.bfloat16
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)


@native
def test_nan_and_infinity_come_out_as_in_the_reference() -> None:
    x, weight = make((1, 4, 9))
    x[0, 1, 2], x[0, 2, 3] = float("nan"), float("inf")
    found, wanted = rms_norm(x, weight, backend="native"), rms_norm(x, weight, backend="reference")
    torch.testing.assert_close(found, wanted, equal_nan=True)


@native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
@pytest.mark.parametrize("requires", [True, False])
def test_opcheck(requires: bool) -> None:
    x, weight = make((2, 9, 12))
    torch.library.opcheck(
        torch.ops.rmeeto.rms_norm.default, (x.requires_grad_(requires), weight.requires_grad_(requires), 1e-5)
    )


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ShapeError, match="x has shape"):
        rms_norm(torch.zeros(3, 4), torch.zeros(4))
    with pytest.raises(ShapeError, match="weight has shape"):
        rms_norm(torch.zeros(1, 3, 4), torch.zeros(3))
    with pytest.raises(BackendError, match="float64"):
        rms_norm(torch.zeros(1, 3, 4).double(), torch.zeros(4).double(), backend="native")
