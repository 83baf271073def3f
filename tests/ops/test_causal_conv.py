"""The convolution's kernels for CPUs and GPUs against the law."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv1d, silu
from torch.utils.flop_counter import FlopCounterMode

from rmeeto.errors import ShapeError
from rmeeto.ops import causal_conv, instruction_sets, use_instruction_set

from .kernels import KERNELS, bear, by_threads, counted, home, native, on_each

TOLERANCE = 4e-6  # largest error over largest value (at least 1)


def make(b: int, n: int, e: int, k: int, *, bias: bool = True) -> list[Tensor | None]:
    random = torch.Generator().manual_seed(0)
    x, weight = torch.randn(b, n, e, generator=random), torch.randn(e, k, generator=random)
    return [x, weight, torch.randn(e, generator=random) if bias else None]


def run(values: list[Tensor | None], backend: str, *, reverse: bool = False) -> list[Tensor]:
    """The output and the gradient of every input, under a fixed random gradient of the output."""
    bear(backend, values[0].shape[0] * -(-values[0].shape[1] // 32), 2)
    leaves = [None if v is None else v.detach().clone().to(home(backend)).requires_grad_() for v in values]
    y = causal_conv(*leaves, reverse=reverse, backend=backend)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(y)
    gradients = torch.autograd.grad(y, [v for v in leaves if v is not None], dy)
    return [t.cpu() for t in (y.detach(), *gradients)]


def double(values: list[Tensor | None]) -> list[Tensor | None]:
    return [None if v is None else v.double() for v in values]


def assert_close(found: list[Tensor], wanted: list[Tensor], tolerance: float = TOLERANCE) -> None:
    for a, b in zip(found, wanted, strict=True):
        assert (a.double() - b.double()).abs().max() <= tolerance * b.double().abs().max().clamp(min=1)


SHAPES = [  # b, n, e, k
    (1, 1, 1, 1),
    (1, 1, 5, 4),
    (2, 2, 9, 4),
    (2, 3, 8, 4),
    (3, 40, 40, 4),
    (2, 70, 33, 3),
    (1, 5, 8, 8),
    (2, 33, 16, 1),
    (1, 31, 65, 2),
    (2, 29, 20, 5),
    (1, 17, 20, 6),
    (1, 18, 20, 7),
    (4, 197, 24, 4),
]


@native
@pytest.mark.parametrize("shape", [(1, 1, 5, 4), (2, 3, 8, 4), (2, 70, 33, 3), (3, 40, 40, 4)])
@pytest.mark.parametrize("name", instruction_sets()[1:])  # the first is what all other tests run
def test_every_instruction_set_equals_the_reference(name: str, shape: tuple[int, int, int, int]) -> None:
    values = make(*shape)
    with use_instruction_set(name):
        found = run(values, "native", reverse=True)
    for one, other in zip(found, run([v.double() for v in values], "reference", reverse=True), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


@on_each
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_reference(shape: tuple[int, int, int, int], reverse: bool, bias: bool, backend: str) -> None:
    values = make(*shape, bias=bias)
    assert_close(run(values, backend, reverse=reverse), run(double(values), "reference", reverse=reverse))


@on_each
@settings(max_examples=40, deadline=None, derandomize=True)
@given(b=st.integers(1, 3), n=st.integers(1, 70), e=st.integers(1, 70), k=st.integers(1, 8), reverse=st.booleans())
def test_equals_the_reference_anywhere(b: int, n: int, e: int, k: int, reverse: bool, backend: str) -> None:
    values = make(b, n, e, k)
    assert_close(run(values, backend, reverse=reverse), run(double(values), "reference", reverse=reverse))


def test_the_reference_is_torchs_convolution() -> None:
    x, weight, bias = make(2, 11, 6, 4)
    wanted = conv1d(x.transpose(1, 2), weight.unsqueeze(1), bias, padding=3, groups=6)[..., :11].transpose(1, 2)
    torch.testing.assert_close(causal_conv(x, weight, bias, backend="reference"), silu(wanted))


@pytest.mark.parametrize("backend", ["reference", *KERNELS])
def test_reverse_is_flip_convolve_flip(backend: str) -> None:
    x, weight, bias = (v.to(home(backend)) for v in make(2, 35, 10, 4))
    y = causal_conv(x, weight, bias, reverse=True, backend=backend)
    torch.testing.assert_close(y, causal_conv(x.flip(1), weight, bias, backend=backend).flip(1))


@on_each
def test_slices_and_strange_strides(backend: str) -> None:
    x, weight, bias = make(2, 40, 24, 4)
    wide = torch.cat([x, x], -1)[..., 24:]
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    swapped = x.transpose(0, 1).contiguous().transpose(0, 1)
    slanted = weight.t().contiguous().t()
    wanted = run([x, weight, bias], backend)
    for other in ([wide, weight, bias], [turned, weight, bias], [swapped, slanted, bias]):
        assert all(torch.equal(a, b) for a, b in zip(run(other, backend), wanted, strict=True))


@on_each
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1.6e-2), (torch.float16, 2e-3)])
def test_half_types_compute_in_float32(dtype: torch.dtype, tolerance: float, backend: str) -> None:
    x, weight, bias = make(2, 20, 18, 4)
    values = [x.to(dtype), weight, bias]
    found = run(values, backend)
    assert [t.dtype for t in found] == [dtype, dtype, torch.float32, torch.float32]
    assert_close(found, run(double(values), "reference"), tolerance)


@on_each
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e4, -1e4])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_nan_and_infinity_come_out_as_in_the_reference(place: int, value: float, backend: str) -> None:
    values = make(2, 20, 18, 4)
    values[place].view(-1)[values[place].numel() // 2] = value
    for found, wanted in zip(run(values, backend), run(values, "reference"), strict=True):
        torch.testing.assert_close(found, wanted, equal_nan=True, rtol=1e-5, atol=1e-5)


@native
def test_the_number_of_threads_changes_nothing() -> None:
    values = make(3, 100, 70, 4)
    results = by_threads(lambda: run(values, "native"))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@on_each
def test_only_wanted_gradients_are_made(backend: str) -> None:
    values = make(2, 18, 9, 4)
    wanted = run(values, backend)[1:]
    for place in range(3):
        leaves = [v.clone().to(home(backend)).requires_grad_(i == place) for i, v in enumerate(values)]
        y = causal_conv(*leaves, backend=backend)
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(y)
        assert_close([torch.autograd.grad(y, leaves[place], dy)[0].cpu()], [wanted[place]], 1e-6)


@on_each
def test_an_empty_batch_passes(backend: str) -> None:
    y, dx, dweight, dbias = run(make(0, 5, 4, 4), backend)
    assert y.shape == dx.shape == (0, 5, 4)
    assert torch.equal(dweight, torch.zeros(4, 4))
    assert torch.equal(dbias, torch.zeros(4))


@on_each
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("requires", [False, True])
def test_opcheck(bias: bool, requires: bool, backend: str) -> None:
    values = [
        None if v is None else v.to(home(backend)).requires_grad_(requires) for v in make(2, 19, 12, 4, bias=bias)
    ]
    torch.library.opcheck(torch.ops.rmeeto.causal_conv.default, (*values, True))


@on_each
def test_opcheck_backward(backend: str) -> None:
    values = [v.to(home(backend)) for v in make(2, 19, 12, 4)]
    backward = torch.ops.rmeeto.causal_conv_backward.default
    torch.library.opcheck(backward, (torch.ones_like(values[0]), *values, False, [True, True, False]))


@counted
def test_the_flop_counter_sees_it() -> None:
    values = [v.to("meta").requires_grad_() for v in make(2, 19, 12, 4)]
    with FlopCounterMode(display=False) as counter:
        y = causal_conv(*values)
    assert counter.get_total_flops() == 2 * 2 * 19 * 12 * 4
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * 2 * 2 * 19 * 12 * 4


@on_each
def test_it_compiles_as_one_graph(backend: str) -> None:
    values = [v.to(home(backend)).requires_grad_() for v in make(2, 19, 12, 4)]

    def both(*inputs: Tensor) -> Tensor:
        return causal_conv(*inputs) + causal_conv(*inputs, reverse=True)

    wanted = torch.autograd.grad(both(*values).square().sum(), values)
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*values).square().sum(), values)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


MISFITS = [
    ((2, 5), (4, 4), (4,), "x has shape"),
    ((2, 0, 4), (4, 4), (4,), "x has shape"),
    ((2, 5, 4), (4,), (4,), "weight has shape"),
    ((2, 5, 4), (4, 1, 4), (4,), "weight has shape"),
    ((2, 5, 4), (3, 4), (4,), "weight has shape"),
    ((2, 5, 4), (4, 9), (4,), "weight has shape"),
    ((2, 5, 4), (4, 4), (3,), "bias has shape"),
]


@pytest.mark.parametrize(("x", "weight", "bias", "message"), MISFITS)
def test_shapes_that_do_not_fit_are_named(
    x: tuple[int, ...], weight: tuple[int, ...], bias: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ShapeError, match=message) as caught:
        causal_conv(torch.zeros(x), torch.zeros(weight), torch.zeros(bias))
    assert "\n" not in str(caught.value)
