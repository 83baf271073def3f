"""The scan's kernels for CPUs and GPUs against the law: outputs and all gradients, over a table of shapes and forms."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rmeeto.errors import BackendError, ShapeError
from rmeeto.ops import instruction_sets, native_info, selective_scan, use_backend, use_instruction_set
from rmeeto.ops.selective_scan.cost import scan_flops

from .kernels import KERNELS, bear, by_threads, counted, home, moved, native, on_each
from .scans import NAMES, TOLERANCE, assert_close, double, make, run

OPTIONAL = ("D", "z", "delta_bias", "time")
LOW_TOLERANCE = {torch.bfloat16: 1.6e-2, torch.float16: 2e-3}

SHAPES = [  # b, n, e, s
    (1, 1, 1, 1),
    (1, 2, 8, 16),
    (2, 3, 17, 5),
    (2, 19, 11, 2),
    (3, 16, 16, 4),
    (2, 17, 24, 8),
    (1, 37, 40, 16),
    (2, 65, 70, 7),
    (1, 33, 130, 12),
    (2, 50, 24, 64),
    (1, 20, 9, 67),
    (5, 197, 33, 16),
]


@on_each
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_reference(shape: tuple[int, int, int, int], reverse: bool, backend: str) -> None:
    values = make(*shape)
    assert_close(run(values, backend, reverse=reverse), run(double(values), "reference", reverse=reverse))


@native
@pytest.mark.parametrize("shape", SHAPES[1:8])
@pytest.mark.parametrize("name", instruction_sets()[1:])  # the first is what all other tests run
def test_every_instruction_set_equals_the_reference(name: str, shape: tuple[int, int, int, int]) -> None:
    values = make(*shape)
    with use_instruction_set(name):
        assert native_info().instruction_set == name
        found = run(values, "native")
    assert_close(found, run(double(values), "reference"))


@on_each
@pytest.mark.parametrize("without", [(), *[(name,) for name in OPTIONAL], ("z", "D"), ("z", "time"), OPTIONAL])
@pytest.mark.parametrize("softplus", [False, True])
def test_every_optional_input_may_be_absent(without: tuple[str, ...], softplus: bool, backend: str) -> None:
    values = make(1, 21, 12, 3, without=without)
    if not softplus:
        values["delta"] = values["delta"].abs() * 0.1
        values.update({"delta_bias": values["delta_bias"].abs()} if "delta_bias" in values else {})
    wanted = run(double(values), "reference", softplus=softplus)
    assert_close(run(values, backend, softplus=softplus), wanted)


@on_each
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    b=st.integers(1, 3),
    n=st.integers(1, 40),
    e=st.integers(1, 70),
    s=st.integers(1, 20),
    without=st.sets(st.sampled_from(OPTIONAL)),
    reverse=st.booleans(),
)
def test_equals_the_reference_anywhere(
    b: int, n: int, e: int, s: int, without: set[str], reverse: bool, backend: str
) -> None:
    values = make(b, n, e, s, without=tuple(without))
    assert_close(run(values, backend, reverse=reverse), run(double(values), "reference", reverse=reverse))


@pytest.mark.parametrize("backend", ["reference", *KERNELS])
def test_reverse_is_flip_scan_flip(backend: str) -> None:
    values = moved(make(1, 35, 10, 2), backend)
    flipped = {k: v.flip(1) if k in ("u", "delta", "B", "C", "z", "time") else v for k, v in values.items()}
    y = selective_scan(**values, reverse=True, backend=backend)
    torch.testing.assert_close(y, selective_scan(**flipped, backend=backend).flip(1))


def test_the_reference_is_the_equation() -> None:
    """One channel and one state, written out by hand."""
    u, delta, B, C = (torch.rand(1, 3, 1, dtype=torch.float64) for _ in range(4))
    A = torch.tensor([[-0.5]], dtype=torch.float64)
    h, wanted = 0.0, []
    for t in range(3):
        d = float(torch.nn.functional.softplus(delta[0, t, 0]))
        h = float(torch.exp(d * A[0, 0])) * h + d * float(B[0, t, 0] * u[0, t, 0])
        wanted.append(h * float(C[0, t, 0]))
    y = selective_scan(u, delta, A, B, C, backend="reference")
    torch.testing.assert_close(y.flatten(), torch.tensor(wanted, dtype=torch.float64))


def test_the_reference_passes_gradcheck() -> None:
    values = double(make(1, 4, 3, 2))
    leaves = [values[name].requires_grad_() for name in NAMES]
    assert torch.autograd.gradcheck(lambda *x: selective_scan(*x, backend="reference"), leaves)


@on_each
def test_slices_of_projections_need_no_copy(backend: str) -> None:
    values = moved(make(2, 19, 12, 2), backend)
    wide = torch.randn(2, 19, 2 * 12 + 2 * 2 + 3).to(home(backend))
    values["u"], values["z"] = wide[..., :12], wide[..., 12:24]
    values["B"], values["C"] = wide[..., 24:26], wide[..., 26:28]
    values["delta"] = torch.randn(19, 2, 12).to(wide).transpose(0, 1)
    values["time"] = torch.rand(19, 2).to(wide).t()
    for name in ("u", "z", "B", "C", "delta", "time"):
        assert not values[name].is_contiguous()
    dense = {name: value.contiguous() for name, value in values.items()}
    for reverse in (False, True):
        y = selective_scan(**values, reverse=reverse, backend=backend)
        assert torch.equal(y, selective_scan(**dense, reverse=reverse, backend=backend))
    leaf = wide.clone().requires_grad_()
    views = {"u": leaf[..., :12], "z": leaf[..., 12:24], "B": leaf[..., 24:26], "C": leaf[..., 26:28]}
    selective_scan(**{**values, **views}, backend=backend).sum().backward()
    again = wide.clone().requires_grad_()
    views = {"u": again[..., :12], "z": again[..., 12:24], "B": again[..., 24:26], "C": again[..., 26:28]}
    selective_scan(**{**values, **views}, backend="reference").sum().backward()
    assert_close({"wide": leaf.grad}, {"wide": again.grad})


@on_each
def test_strange_strides_are_copied(backend: str) -> None:
    values = moved(make(2, 9, 6, 4), backend)
    strange = {k: v.transpose(-1, -2).contiguous().transpose(-1, -2) if v.dim() > 1 else v for k, v in values.items()}
    strange["u"] = values["u"][:, :1].expand(2, 9, 6)
    values["u"] = strange["u"].contiguous()
    assert_close(run(strange, backend), run(double(values), "reference"))
    zeros = torch.zeros(6, device=home(backend))
    shared = {**values, "D": zeros[:1].expand(6)}
    assert torch.equal(
        selective_scan(**shared, backend=backend),
        selective_scan(**{**values, "D": zeros}, backend=backend),
    )


@on_each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_compute_in_float32(dtype: torch.dtype, backend: str) -> None:
    values = {k: v if k in ("A", "D", "delta_bias") else v.to(dtype) for k, v in make(2, 20, 18, 16).items()}
    found = run(values, backend)
    for name, value in values.items():
        assert found[name].dtype is value.dtype
    assert found["y"].dtype is dtype
    assert_close(found, run(double(values), "reference"), LOW_TOLERANCE[dtype])


BAD = [(name, value) for name in NAMES for value in (float("nan"), float("inf"), float("-inf"))]


@on_each
@pytest.mark.parametrize(("name", "value"), BAD)
def test_nan_and_infinity_come_out_as_in_the_reference(name: str, value: float, backend: str) -> None:
    values = make(1, 20, 18, 4)
    values[name].view(-1)[values[name].numel() // 2] = value
    bear(backend, 2)
    found = selective_scan(**moved(values, backend), backend=backend).cpu()
    wanted = selective_scan(**values, backend="reference")
    assert torch.equal(found.isnan(), wanted.isnan())
    assert torch.equal(found.isposinf(), wanted.isposinf())
    assert torch.equal(found.isneginf(), wanted.isneginf())
    fine = wanted.isfinite()
    assert (found[fine] - wanted[fine]).abs().max() <= TOLERANCE * wanted[fine].abs().max()


@native
def test_the_number_of_threads_changes_nothing() -> None:
    values = make(2, 50, 150, 16)
    results = by_threads(lambda: run(values, "native"))
    for other in results[1:]:
        assert all(torch.equal(results[0][name], other[name]) for name in other)


@on_each
def test_keeping_states_changes_nothing_and_keeps_little(backend: str) -> None:
    values = moved(make(2, 50, 20, 16), backend)
    arguments = [values[name] for name in NAMES]
    bare, nothing = torch.ops.rmeeto.selective_scan(*arguments, True, False, False)
    kept, states = torch.ops.rmeeto.selective_scan(*arguments, True, False, True)
    assert torch.equal(bare, kept)
    assert nothing.numel() == 0
    assert states.shape == (2, 4, 16, 32)


@on_each
def test_only_wanted_gradients_are_made(backend: str) -> None:
    values = make(2, 18, 9, 4)
    wanted = run(values, backend)
    values = moved(values, backend)
    for name in NAMES:
        leaf = values[name].clone().requires_grad_()
        y = selective_scan(**{**values, name: leaf}, backend=backend)
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(7)).to(y)
        assert_close({name: torch.autograd.grad(y, leaf, dy)[0].cpu()}, {name: wanted[name]}, 1e-6)


@on_each
@pytest.mark.parametrize("penalty", [Tensor.sum, lambda y: y.square().sum()], ids=["constant", "not constant"])
@pytest.mark.parametrize("name", ["u", "delta"])
def test_differentiating_twice_is_refused(name: str, penalty: Callable[[Tensor], Tensor], backend: str) -> None:
    values = moved(make(1, 5, 4, 2), backend)
    values |= {each: values[each].requires_grad_() for each in ("u", "delta")}
    first = penalty(selective_scan(**values, backend=backend))
    (du,) = torch.autograd.grad(first, values["u"], create_graph=True)
    with pytest.raises(BackendError, match=r"first derivatives only; compute under .*use_backend"):
        torch.autograd.grad(du.square().sum() + first, values[name])


@on_each
def test_a_gradient_with_a_graph_is_the_gradient(backend: str) -> None:
    values = moved(make(2, 18, 9, 4), backend)
    leaves = {name: value.clone().requires_grad_() for name, value in values.items()}
    y = selective_scan(**leaves, backend=backend).sum()
    with_graph = torch.autograd.grad(y, [*leaves.values()], create_graph=True)
    assert all(map(torch.equal, torch.autograd.grad(y, [*leaves.values()]), with_graph))


@on_each
def test_an_empty_batch_passes(backend: str) -> None:
    values = run(make(0, 5, 4, 3), backend)
    assert values["y"].shape == (0, 5, 4)
    assert torch.equal(values["A"], torch.zeros(4, 3))


@on_each
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by opcheck itself
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("requires", [True, False])
def test_opcheck(keep: bool, requires: bool, backend: str) -> None:
    values = [value.requires_grad_(requires) for value in moved(make(2, 19, 12, 4), backend).values()]
    torch.library.opcheck(torch.ops.rmeeto.selective_scan.default, (*values, True, False, keep))


@on_each
def test_opcheck_backward(backend: str) -> None:
    values = list(moved(make(2, 19, 12, 4), backend).values())
    y, states = torch.ops.rmeeto.selective_scan(*values, True, True, True)
    needs = [True] * 6 + [False] * 3
    backward = torch.ops.rmeeto.selective_scan_backward.default
    torch.library.opcheck(backward, (torch.ones_like(y), states, *values, True, True, needs))


@counted
@pytest.mark.parametrize("gate", [True, False])
def test_the_flop_counter_sees_it(gate: bool) -> None:
    values = make(2, 19, 12, 4, without=() if gate else ("z",))
    values = {name: value.to("meta").requires_grad_() for name, value in values.items()}
    once = scan_flops((2, 19, 12), 4, skip=True, gate=gate)
    assert once == 2 * 19 * 12 * (9 * 4 + 1 + gate)
    with FlopCounterMode(display=False) as counter:
        y = selective_scan(**values)
    assert counter.get_total_flops() == once
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * once


@on_each
@pytest.mark.skipif(sys.platform == "win32", reason="torch.compile needs a compiler set up")
def test_it_compiles_as_one_graph(backend: str) -> None:
    values = [value.requires_grad_() for value in moved(make(2, 19, 12, 4), backend).values()]

    def both(*inputs: Tensor) -> Tensor:
        return selective_scan(*inputs) + selective_scan(*inputs, reverse=True)

    wanted = torch.autograd.grad(both(*values).square().sum(), values)
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(*values).square().sum(), values)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


MISFITS = [
    ("u", (2, 5), "u has shape"),
    ("A", (4,), "A has shape"),
    ("A", (3, 2), "A has shape"),
    ("delta", (2, 5, 3), "delta has shape"),
    ("B", (2, 5, 4), "B has shape"),
    ("C", (1, 5, 2), "C has shape"),
    ("D", (3,), "D has shape"),
    ("z", (2, 4, 4), "z has shape"),
    ("delta_bias", (1, 4), "delta_bias has shape"),
    ("time", (2, 5, 1), "time has shape"),
]


@pytest.mark.parametrize(("name", "shape", "message"), MISFITS)
def test_shapes_that_do_not_fit_are_named(name: str, shape: tuple[int, ...], message: str) -> None:
    values = make(2, 5, 4, 2)
    values[name] = torch.zeros(shape)
    with pytest.raises(ShapeError, match=message) as caught:
        selective_scan(**values)
    assert "\n" not in str(caught.value)


def test_no_tokens_is_an_error() -> None:
    with pytest.raises(ShapeError, match="at least one token"):
        selective_scan(**make(2, 0, 4, 2))


@on_each
def test_autocast_mixes_types(backend: str) -> None:
    values = moved(make(2, 19, 12, 4), backend)
    for name in ("u", "z"):
        values[name] = values[name].bfloat16()
    with torch.autocast(home(backend), dtype=torch.bfloat16):
        found = selective_scan(**values)
        with use_backend("reference"):
            wanted = selective_scan(**values)
    assert found.dtype is torch.bfloat16
    assert_close({"y": found}, {"y": wanted}, LOW_TOLERANCE[torch.bfloat16])
