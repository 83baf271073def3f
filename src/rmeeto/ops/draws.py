"""Chance as torch ops `rmeeto::permutation` and `rmeeto::integers`: functions of a name, so that compilers take them.

torch's own generators cannot be made inside a compiled or exported graph, and the global one belongs to the user.
What was drawn for a GPU stays there: a CUDA graph can be recorded of a pass that draws what an earlier one drew.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from rmeeto.ops._op import LIBRARY

LIBRARY.define("permutation(str name, SymInt count, Device? device=None) -> Tensor")
LIBRARY.define("integers(str name, SymInt below, SymInt count, Device? device=None) -> Tensor")

_KEPT = 256  # drawings on GPUs: some for each block of a model


@dataclass(frozen=True)
class Draws:
    """Random numbers that depend on a name alone: neither the global generator nor another name's are touched.

    Attributes:
        name: the same name gives the same numbers, in every call and on every machine.
    """

    name: str

    def permutation(self, count: int, device: torch.device | None = None) -> Tensor:
        """(count,) int64, the numbers 0 .. count-1 in random order, the same on every device; None is the CPU."""
        drawn: Tensor = torch.ops.rmeeto.permutation(self.name, count, device)
        return drawn

    def integers(self, below: int, count: int, device: torch.device | None = None) -> Tensor:
        """(count,) int64, each drawn from 0 .. below-1, the same on every device; None is the CPU."""
        drawn: Tensor = torch.ops.rmeeto.integers(self.name, below, count, device)
        return drawn


def _generator(name: str) -> torch.Generator:
    # torch's CPU generator reads 32 bits of a seed.
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def _permutation(name: str, count: int, device: torch.device | None = None) -> Tensor:
    return _on(device, _shuffled, name, count)


def _integers(name: str, below: int, count: int, device: torch.device | None = None) -> Tensor:
    return _on(device, _dealt, name, below, count)


def _on(device: torch.device | None, draw: Callable[..., Tensor], *arguments: str | int) -> Tensor:
    if device is None or device.type == "cpu":
        return draw(*arguments)
    return _kept(device, draw, *arguments).clone()


@lru_cache(maxsize=_KEPT)
def _kept(device: torch.device, draw: Callable[..., Tensor], *arguments: str | int) -> Tensor:
    return draw(*arguments).to(device)


def _shuffled(name: str, count: int) -> Tensor:
    return torch.randperm(count, generator=_generator(name))


def _dealt(name: str, below: int, count: int) -> Tensor:
    return torch.randint(below, (count,), generator=_generator(f"integers {name}"))


LIBRARY.impl("permutation", _permutation, "CompositeExplicitAutograd")
LIBRARY.impl("integers", _integers, "CompositeExplicitAutograd")
torch.library.register_fake(
    "rmeeto::permutation",
    lambda _name, count, device=None: torch.empty(count, dtype=torch.int64, device=device),
    lib=LIBRARY,
)
torch.library.register_fake(
    "rmeeto::integers",
    lambda _name, _below, count, device=None: torch.empty(count, dtype=torch.int64, device=device),
    lib=LIBRARY,
)
