"""The kernels' exponential and what is made of it: their errors, and scans whose exponents are of every kind."""

from __future__ import annotations

import math

import pytest
import torch

from rmeeto.ops import _library

from .kernels import native, on_each
from .scans import assert_close, double, make, run

# The numbers of csrc/kernels.cpp's map().
EXP2, EXP, SOFTPLUS, SIGMOID, NEAR_EXP2, LOW_EXP2, SHALLOW_EXP2 = range(7)


def mapped(function: int, x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    _library.library().rmeeto_map(function, x.numel(), x.data_ptr(), y.data_ptr())
    return y


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found.double() - wanted) / wanted).abs().max().item()


@native
@pytest.mark.parametrize(
    ("function", "law", "low", "high", "bound"),
    [
        (EXP2, torch.exp2, -125.49, 127.999, 2e-7),
        (NEAR_EXP2, torch.exp2, -125.0, 125.0, 2e-7),
        (LOW_EXP2, torch.exp2, -2.5, 0.0, 4.5e-7),
        (SHALLOW_EXP2, torch.exp2, -1.25, 0.0, 2.1e-7),
        (EXP, torch.exp, -86.98, 88.72, 2.5e-7),
        (SOFTPLUS, torch.nn.functional.softplus, -86.0, 100.0, 3.5e-7),
        (SIGMOID, torch.sigmoid, -86.0, 100.0, 3.5e-7),
    ],
)
def test_relative_error_over_the_whole_range(function: int, law, low: float, high: float, bound: float) -> None:
    x = torch.linspace(low, high, 4_000_003)
    assert relative(mapped(function, x), law(x.double())) <= bound
    near = torch.linspace(max(low, -1), min(high, 1), 400_001)
    assert relative(mapped(function, near), law(near.double())) <= bound


@native
def test_the_ends_of_the_range() -> None:
    inf, nan = float("inf"), float("nan")
    x = torch.tensor([-inf, -1e30, -200.0, -0.0, 0.0, 128.0, 1e30, inf, nan])
    wanted = torch.tensor([0, 0, 0, 1, 1, inf, inf, inf, nan])
    torch.testing.assert_close(mapped(EXP2, x), wanted, equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(mapped(EXP, x), wanted, equal_nan=True, rtol=0, atol=0)
    ones = torch.tensor([-0.0, 0.0])
    for function in (NEAR_EXP2, LOW_EXP2, SHALLOW_EXP2):
        torch.testing.assert_close(mapped(function, ones), torch.ones(2), rtol=0, atol=0)
    softplus = torch.tensor([0, 0, 0, 0.6931472, 0.6931472, 128, 1e30, inf, nan])
    torch.testing.assert_close(mapped(SOFTPLUS, x), softplus, equal_nan=True, rtol=1e-6, atol=0)
    sigmoid = torch.tensor([0, 0, 0, 0.5, 0.5, 1, 1, 1, nan])
    torch.testing.assert_close(mapped(SIGMOID, x), sigmoid, equal_nan=True, rtol=1e-6, atol=0)


@on_each
@pytest.mark.parametrize("shift", [-200.0, -80.0, -30.0, 19.9, 20.1, 60.0, 1000.0])
def test_steps_huge_and_tiny(shift: float, backend: str) -> None:
    """Underflow of the exponential, both sides of the softplus threshold, steps close to zero."""
    values = make(1, 40, 10, 6)
    values["delta"] = values["delta"] * 0.3 + shift
    wanted = run(double(values), "reference")
    found = run(values, backend)
    for name, value in wanted.items():
        assert torch.isfinite(found[name]).all(), name
        scale = value.abs().max()
        assert (found[name] - value).abs().max() <= max(2e-5 * scale, 1e-37), name


@on_each
def test_exponents_from_near_to_where_they_are_cut_off(backend: str) -> None:
    """Tokens and channels of one chunk on both sides of the kernels' short cut for exponents above -125."""
    values = make(2, 40, 20, 6, without=("delta_bias",))
    values["delta"] = (torch.linspace(0, 120, 40).view(1, 40, 1) * torch.linspace(0.1, 1, 20)).repeat(2, 1, 1)
    found, wanted = run(values, backend, softplus=False), run(double(values), "reference", softplus=False)
    assert_close(found, wanted)


@on_each
@pytest.mark.parametrize("longest", [0.5, 1.2, 1.3, 2.4, 2.6])
@pytest.mark.parametrize("growing", [False, True])
def test_exponents_on_both_sides_of_the_short_cuts(longest: float, growing: bool, backend: str) -> None:
    """Tiles of states that decay by at most 2^-1.25, 2^-2.5 and more, in one chunk; and one that grows."""
    values = make(2, 40, 20, 12, without=("delta_bias", "time"))
    values["A"] = -torch.arange(1.0, 13.0).repeat(20, 1) / 12
    values["delta"] = values["delta"].sigmoid() * longest * math.log(2)
    values["delta"][:, :, 3] *= 5  # of one channel alone
    if growing:
        values["A"][5, 2] = 0.01
    found, wanted = run(values, backend, softplus=False), run(double(values), "reference", softplus=False)
    assert_close(found, wanted)


@on_each
def test_long_sequences_of_slow_decays_match(backend: str) -> None:
    """2,000 decays a little below 1, whose errors would add up if they were all to one side."""
    values = make(1, 2000, 8, 8, without=("time", "z"))
    values["A"] = -torch.arange(1.0, 9.0).repeat(8, 1) / 8
    values["delta"] = values["delta"] * 0.1 - 7
    wanted = run(double(values), "reference")
    assert_close(run(values, backend), wanted)


@on_each
def test_growing_states_match(backend: str) -> None:
    values = make(1, 12, 9, 5, without=("time",))
    values["A"] = values["A"].neg() * 0.1
    assert_close(run(values, backend), run(double(values), "reference"))
    values["delta"] = values["delta"] - 0.5
    assert_close(run(values, backend, softplus=False), run(double(values), "reference", softplus=False))
