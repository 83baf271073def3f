"""A selective scan's inputs, its outputs and gradients by any backend, and how near these must be to the law."""

from __future__ import annotations

import torch
from torch import Tensor

from rmeeto.ops import selective_scan

from .kernels import bear, moved

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "time")
TOLERANCE = 3e-6  # largest error over largest value (at least 1); float32 rounding through a few hundred tokens


def make(b: int, n: int, e: int, s: int, *, seed: int = 0, without: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """Inputs as float32, the optional ones named in `without` left out."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    values = {
        "u": normal(b, n, e),
        "delta": normal(b, n, e),
        "A": -torch.rand(e, s, generator=random) * 4 - 0.1,
        "B": normal(b, n, s),
        "C": normal(b, n, s),
        "D": normal(e),
        "z": normal(b, n, e),
        "delta_bias": normal(e),
        "time": torch.rand(b, n, generator=random) * 2,
    }
    return {name: value for name, value in values.items() if name not in without}


def run(values: dict[str, Tensor], backend: str, *, softplus: bool = True, reverse: bool = False) -> dict[str, Tensor]:
    """The output and the gradient of every input, under a fixed random gradient of the output."""
    (b, n), s = values["u"].shape[:2], values["A"].shape[1]
    bear(backend, b * -(-n // 16), s)
    leaves = {name: value.detach().clone().requires_grad_() for name, value in moved(values, backend).items()}
    y = selective_scan(**leaves, softplus=softplus, reverse=reverse, backend=backend)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(7))
    gradients = torch.autograd.grad(y, list(leaves.values()), dy.to(y))
    return {"y": y.detach().cpu(), **dict(zip(leaves, [g.cpu() for g in gradients], strict=True))}


def double(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() for name, value in values.items()}


def assert_close(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float = TOLERANCE) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        error = (found[name].double() - value.double()).abs().max()
        assert error <= tolerance * value.double().abs().max().clamp(min=1), f"{name}: {error}"
