"""The fused bidirectional core against the law composed of the reference ops: outputs and all gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rmeeto.errors import BackendError, ShapeError
from rmeeto.ops import Direction, bimamba, instruction_sets, use_instruction_set
from rmeeto.ops.bimamba.cost import bimamba_flops

from .kernels import bear, by_threads, counted, home, native, on_each

TOLERANCE = 5e-6  # largest error over largest value (at least 1)

SHAPES = [  # b, n, e, s, R, k
    (1, 1, 2, 1, 1, 4),
    (2, 2, 8, 8, 4, 4),
    (1, 3, 17, 5, 2, 3),
    (3, 16, 16, 4, 1, 4),
    (2, 33, 40, 16, 12, 4),
    (1, 50, 70, 16, 3, 8),
    (2, 65, 130, 8, 20, 2),
    (1, 21, 9, 67, 5, 4),
]


def make(b: int, n: int, e: int, s: int, rank: int, taps: int, *, time: bool = False) -> list[Tensor | None]:
    """xz, time and the 14 parameters, A and the time bias in their usual ranges."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    parameters = []
    for _ in range(2):
        direction = Direction(
            conv_weight=normal(e, 1, taps) * 0.5,
            conv_bias=normal(e) * 0.3,
            projection=normal(rank + 2 * s, e) * e**-0.5,
            dt_weight=normal(e, rank) * rank**-0.5,
            dt_bias=normal(e) - 2,
            A_log=torch.rand(e, s, generator=random) * 2,
            D=normal(e),
        )
        parameters += direction
    return [normal(b, n, 2 * e), torch.rand(b, n, generator=random) * 2 if time else None, *parameters]


def call(tensors: list[Tensor | None], backend: str, scale: float = 0.5) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    xz, time, *parameters = [None if t is None else t if t.is_meta else t.to(home(backend)) for t in tensors]
    directions = Direction(*parameters[:7]), Direction(*parameters[7:])
    return bimamba(xz, directions, time, scale=scale, backend=backend)


def run(tensors: list[Tensor | None], backend: str, scale: float = 0.5) -> dict[str, Tensor]:
    """Outputs and the gradient of every input, under a fixed random gradient of y."""
    bear(backend, 2 * tensors[0].shape[0] * -(-tensors[0].shape[1] // 16), tensors[7].shape[1])
    leaves = [None if t is None else t.detach().clone().to(home(backend)).requires_grad_() for t in tensors]
    y, (p, p_b) = call(leaves, backend, scale)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(y)
    names = ["xz", "time", *Direction._fields, *[f"{name}_b" for name in Direction._fields]]
    present = {name: leaf for name, leaf in zip(names, leaves, strict=True) if leaf is not None}
    gradients = torch.autograd.grad(y, list(present.values()), dy)
    found = {"y": y, "p": p, "p_b": p_b, **dict(zip(present, gradients, strict=True))}
    return {name: value.detach().cpu() for name, value in found.items()}


def double(tensors: list[Tensor | None]) -> list[Tensor | None]:
    return [None if t is None else t.double() for t in tensors]


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float = TOLERANCE) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].shape == value.shape, name
        error = (found[name].double() - value.double()).abs().max()
        assert error <= tolerance * value.double().abs().max().clamp(min=1), f"{name}: {error}"


@on_each
@pytest.mark.parametrize("time", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_reference(shape: tuple[int, ...], time: bool, backend: str) -> None:
    tensors = make(*shape, time=time)
    assert_close(run(tensors, backend), run(double(tensors), "reference"))


@native
@pytest.mark.parametrize("shape", SHAPES[2:6])
@pytest.mark.parametrize("name", instruction_sets()[1:])
def test_every_instruction_set_equals_the_reference(name: str, shape: tuple[int, ...]) -> None:
    tensors = make(*shape, time=True)
    with use_instruction_set(name):
        found = run(tensors, "native", 1.0)
    assert_close(found, run(double(tensors), "reference", 1.0))


@on_each
def test_slices_and_strange_strides(backend: str) -> None:
    tensors = make(2, 19, 12, 4, 3, 4)
    wanted = run(tensors, backend)
    wide = torch.zeros(2, 19, 40)
    wide[..., 5:29] = tensors[0]
    strided = call([wide[..., 5:29], *tensors[1:]], backend)[0].cpu()
    assert torch.equal(strided, wanted["y"])
    transposed = tensors[0].transpose(1, 2).contiguous().transpose(1, 2)
    assert_close(run([transposed, *tensors[1:]], backend), wanted, 0)


@on_each
def test_half_types_compute_in_float32(backend: str) -> None:
    tensors = make(2, 20, 18, 8, 2, 4)
    kept = {"dt_bias", "A_log", "D"}
    names = ["xz", "time", *Direction._fields, *Direction._fields]
    low = [t if t is None or name in kept else t.bfloat16() for name, t in zip(names, tensors, strict=True)]
    found = run(low, backend)
    assert found["y"].dtype is torch.bfloat16
    assert found["projection"].dtype is torch.bfloat16
    assert found["D"].dtype is torch.float32
    assert_close(found, run(double(low), "reference"), 3e-2)


@native
def test_no_gradient_is_made_that_nobody_wants() -> None:
    tensors = make(2, 18, 9, 4, 2, 4)
    wanted = run(tensors, "native")
    xz = tensors[0].clone().requires_grad_()
    y, projected = call([xz, *tensors[1:]], "native")
    assert not any(p.requires_grad for p in projected)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(7))
    assert torch.equal(torch.autograd.grad(y, xz, dy)[0], wanted["xz"])


@native
def test_keeping_for_the_backward_pass_changes_nothing() -> None:
    tensors = make(2, 50, 20, 8, 4, 4)
    with torch.no_grad():
        bare = call(tensors, "native")[0]
    assert torch.equal(bare, run(tensors, "native")["y"])


@native
def test_the_number_of_threads_changes_nothing() -> None:
    tensors = make(2, 50, 150, 8, 4, 4)
    results = by_threads(lambda: call(tensors, "native")[0])
    assert all(torch.equal(results[0], other) for other in results[1:])


@on_each
def test_an_empty_batch_passes(backend: str) -> None:
    found = run(make(0, 5, 4, 3, 2, 4), backend)
    assert found["y"].shape == (0, 5, 4)
    assert torch.equal(found["projection"], torch.zeros(8, 4))


@on_each
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_come_out_as_in_the_reference(value: float, backend: str) -> None:
    tensors = make(2, 20, 18, 4, 2, 4)
    tensors[0][1, 10, 3] = value
    found, wanted = call(tensors, backend)[0].cpu(), call(tensors, "reference")[0]
    assert torch.equal(found.isnan(), wanted.isnan())
    assert torch.equal(found.isinf(), wanted.isinf())


@native
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
@pytest.mark.parametrize("requires", [True, False])
def test_opcheck(requires: bool) -> None:
    tensors = [t.requires_grad_(requires) for t in make(2, 19, 12, 4, 3, 4, time=True)]
    torch.library.opcheck(torch.ops.rmeeto.bimamba.default, (*tensors, 0.5, requires))


@on_each
def test_it_compiles_as_one_graph(backend: str) -> None:
    tensors = [t.requires_grad_() for t in make(2, 19, 12, 4, 3, 4, time=True)]
    compiled = torch.compile(lambda *x: call(list(x), backend)[0], fullgraph=True, backend="aot_eager")
    wanted = torch.autograd.grad(call(tensors, backend)[0].square().sum(), tensors)
    found = torch.autograd.grad(compiled(*tensors).square().sum(), tensors)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@counted
def test_the_flop_counter_sees_it() -> None:
    tensors = [None if t is None else t.to("meta").requires_grad_() for t in make(2, 19, 12, 4, 3, 4)]
    once = bimamba_flops((2, 19, 12), 4, 3, 4)
    assert once == 2 * 2 * 19 * 12 * (2 * 4 + 2 * (3 + 8 + 3) + 9 * 4 + 2)
    with FlopCounterMode(display=False) as counter:
        y = call(tensors, "auto")[0]
    assert counter.get_total_flops() == once
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * once


def _reshaped(place: int, shape: tuple[int, ...]) -> Callable[[list[Tensor | None]], None]:
    def change(tensors: list[Tensor | None]) -> None:
        tensors[place] = torch.zeros(shape)

    return change


MISFITS = [
    (_reshaped(0, (2, 5)), "xz has shape"),
    (_reshaped(0, (2, 5, 7)), "xz has shape"),
    (_reshaped(1, (2, 4)), "time has shape"),
    (_reshaped(2, (4, 4)), "conv_weight of the forward direction"),
    (_reshaped(4, (3, 4)), "projection of the forward direction"),
    (_reshaped(13, (5,)), "dt_bias of the backward direction"),
]


@pytest.mark.parametrize(("change", "message"), MISFITS)
def test_shapes_that_do_not_fit_are_named(change: Callable[[list[Tensor | None]], None], message: str) -> None:
    tensors = make(2, 5, 4, 3, 2, 4)
    change(tensors)
    with pytest.raises(ShapeError, match=message) as caught:
        call(tensors, "reference")
    assert "\n" not in str(caught.value)


def test_native_is_refused_where_it_cannot_be_had() -> None:
    with pytest.raises(BackendError, match="float64 has no kernel"):
        call(double(make(1, 5, 4, 3, 2, 4)), "native")
