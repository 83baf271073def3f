"""The short way to a kernel: taken where torch's dispatcher would do no more, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.profiler import profile
from torch.utils._python_dispatch import TorchDispatchMode

from rmeeto.ops import selective_scan
from rmeeto.ops._op import is_direct
from rmeeto.ops.selective_scan.op import backward_op, op

from .kernels import native
from .scans import make, run

pytestmark = native
FORWARD, BACKWARD = "rmeeto::selective_scan", "rmeeto::selective_scan_backward"


class _Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


class _Asked(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, torch._ops.OpOverload):
            self.names.append(func.name())
        return func(*args, **(kwargs or {}))


class _Other(Tensor):
    """A type of its own."""


@contextmanager
def _dispatching() -> Iterator[list[str]]:
    with _Seen() as mode:
        yield mode.names


@contextmanager
def _asking() -> Iterator[list[str]]:
    with _Asked() as mode:
        yield mode.names


@contextmanager
def _profiling() -> Iterator[list[str]]:
    names: list[str] = []
    with profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as found:
        yield names
    names += [event.name for event in found.events()]


WATCHERS = [
    pytest.param(_dispatching, {FORWARD, BACKWARD}, id="dispatch mode"),
    pytest.param(_asking, {FORWARD}, id="function mode"),  # torch asks none inside a backward pass
    pytest.param(_profiling, {FORWARD, BACKWARD}, id="profiler"),
]


@pytest.mark.parametrize(("watching", "expected"), WATCHERS)
def test_who_watches_sees_the_op(watching: Callable[[], Any], expected: set[str]) -> None:
    values = make(2, 5, 8, 3)
    unwatched = run(values, "native")
    with watching() as names:
        watched = run(values, "native")
    assert expected <= set(names)
    for name, value in unwatched.items():
        assert torch.equal(watched[name], value), name


@pytest.mark.parametrize(("watching", "expected"), WATCHERS)
def test_so_does_who_watches_inference(watching: Callable[[], Any], expected: set[str]) -> None:
    with torch.inference_mode(), watching() as names:
        selective_scan(**make(2, 5, 8, 3), backend="native")
    assert expected & {FORWARD} <= set(names)


def test_a_traced_graph_holds_the_op() -> None:
    values = list(make(1, 4, 8, 2).values())
    graph = make_fx(lambda *given: selective_scan(*given, backend="native"))(*values)
    assert op.name in {getattr(node.target, "__name__", "").split(".")[0] for node in graph.graph.nodes}
    assert torch.equal(graph(*values), selective_scan(*values, backend="native"))


def _refuse(*_: Any) -> None:
    raise AssertionError("the dispatcher was called")


def test_nobody_watching_torch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (op, backward_op):
        monkeypatch.setattr(each, "_op", _refuse)
    run(make(2, 5, 8, 3), "native")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_nor_where_no_gradients_are_wanted(mode: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op, "_op", _refuse)
    with mode():
        selective_scan(**make(2, 5, 8, 3), backend="native")


@pytest.mark.parametrize("grad", [False, True])
def test_equals_what_torch_calls(grad: bool) -> None:
    leaves = [x.requires_grad_(grad) for x in make(2, 19, 11, 4).values()]
    found = op(*leaves, True, False, grad)
    wanted = torch.ops.rmeeto.selective_scan(*leaves, True, False, grad)
    assert torch.equal(found[0], wanted[0])
    assert found[1].shape == wanted[1].shape  # kept states, which have lanes that nobody writes
    assert found[0].requires_grad == wanted[0].requires_grad == grad
    if grad:
        dy = torch.randn_like(found[0])
        gradients = [torch.autograd.grad(y, leaves, dy) for y in (found[0], wanted[0])]
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def _in_inference() -> Tensor:
    with torch.inference_mode():
        return torch.zeros(3)


DIRECT = {
    "a tensor": torch.zeros(3),
    "a parameter": nn.Parameter(torch.zeros(3)),
    "made for inference": _in_inference(),
    "nothing": None,
    "a flag": True,
    "flags": (True, False),
    "a word": "sum",
    "many": [torch.zeros(3), nn.Parameter(torch.zeros(3))],
    "many numbers": [1, 2],
}
NOT_DIRECT = {
    "another type": torch.zeros(3).as_subclass(_Other),
    "without values": torch.zeros(3, device="meta"),
    "with its sign to come": torch._neg_view(torch.zeros(3)),
    "many, one of another type": [torch.zeros(3), torch.zeros(3).as_subclass(_Other)],
    "many, one without values": [torch.zeros(3), torch.zeros(3, device="meta")],
    "many, one with its sign to come": [torch.zeros(3), torch._neg_view(torch.zeros(3))],
    "many of many": [[torch.zeros(3)]],
}


@pytest.mark.parametrize("name", DIRECT)
def test_plain_arguments_go_directly(name: str) -> None:
    assert is_direct((torch.zeros(2), DIRECT[name]))


@pytest.mark.parametrize("name", NOT_DIRECT)
def test_others_go_by_torch(name: str) -> None:
    assert not is_direct((torch.zeros(2), NOT_DIRECT[name]))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_transforms_are_never_passed_by(mode: Callable[[], Any]) -> None:
    found: list[bool] = []

    def ask(x: Tensor) -> Tensor:
        found.append(is_direct((torch.zeros(2),)))
        return x.sum()

    with mode():
        torch.func.vmap(ask)(torch.zeros(2, 3))
        torch.func.functionalize(ask)(torch.zeros(3))
    torch.func.grad(ask)(torch.zeros(3))
    assert found == [False] * 3


def test_a_sign_to_come_is_not_lost() -> None:
    values = make(2, 5, 8, 3)
    turned = {name: torch._neg_view(-x) for name, x in values.items()}
    found = selective_scan(**turned, backend="native")
    assert torch.equal(found, selective_scan(**values, backend="native"))
