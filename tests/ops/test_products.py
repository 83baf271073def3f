"""The gradient of a weight: against float64, on every instruction set, and the same bits on any threads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rmeeto.ops import instruction_sets, use_instruction_set
from rmeeto.ops._products import weight_gradient

from .kernels import by_threads

CASES = [  # tokens, outputs, inputs
    (1, 1, 1),
    (3, 5, 7),
    (50, 7, 130),  # panels of unlike width
    (127, 8, 16),
    (128, 9, 17),
    (129, 48, 48),
    (257, 128, 4),  # fewer inputs than lanes: the other way round
    (300, 20, 128),
    (1000, 100, 65),
    (0, 4, 6),
    (5, 4, 0),
]
COUNTS = (1, 2, 3, 5)  # threads


def make(tokens: int, outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(tokens, outputs), torch.randn(tokens, inputs)


@pytest.mark.parametrize("sizes", CASES)
@pytest.mark.parametrize("name", instruction_sets() or ["none"])
def test_equals_the_product(name: str, sizes: tuple[int, int, int]) -> None:
    dy, x = make(*sizes)
    wanted = dy.double().t() @ x.double()
    if name == "none":
        torch.testing.assert_close(weight_gradient(dy, x).double(), wanted, rtol=1e-5, atol=1e-4)
        return
    with use_instruction_set(name):
        made = by_threads(lambda: weight_gradient(dy, x), COUNTS)
    torch.testing.assert_close(made[0].double(), wanted, rtol=1e-5, atol=1e-4)
    assert all(torch.equal(each, made[0]) for each in made)


def test_slices_are_read_where_they_lie() -> None:
    wide_dy, wide_x = make(70, 40, 60)
    dy, x = wide_dy[:, 3:20], wide_x[:, 11:50]
    torch.testing.assert_close(weight_gradient(dy, x), weight_gradient(dy.contiguous(), x.contiguous()), rtol=0, atol=0)


def test_columns_that_lie_apart_are_copied() -> None:
    dy, x = make(33, 6, 21)
    apart = x.t().contiguous().t()
    torch.testing.assert_close(weight_gradient(dy, apart), weight_gradient(dy, x), rtol=0, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_comes_out_where_it_belongs(value: float) -> None:
    dy, x = make(140, 18, 35)
    dy[7, 2] = value
    made = weight_gradient(dy, x)
    assert not made[2].isfinite().any()
    assert made[[row for row in range(18) if row != 2]].isfinite().all()


def test_without_compiled_kernels_it_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    dy, x = make(9, 4, 5)
    monkeypatch.setattr("rmeeto.ops._products.problem", lambda: "none here")
    assert torch.equal(weight_gradient(dy, x), dy.t() @ x)
