"""Chance as torch ops `rmeeto::permutation` and `rmeeto::integers`: functions of a name, so that compilers take them.

torch's own generators cannot be made inside a compiled or exported graph, and the global one belongs to the user.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

from rmeeto.ops._tensors import LIBRARY

LIBRARY.define("permutation(str name, SymInt count) -> Tensor")
LIBRARY.define("integers(str name, SymInt below, SymInt count) -> Tensor")


@dataclass(frozen=True)
class Draws:
    """Random numbers that depend on a name alone: neither the global generator nor another name's are touched.

    Attributes:
        name: the same name gives the same numbers, in every call and on every machine.
    """

    name: str

    def permutation(self, count: int) -> Tensor:
        """(count,) int64 on the CPU, the numbers 0 .. count-1 in random order."""
        drawn: Tensor = torch.ops.rmeeto.permutation(self.name, count)
        return drawn

    def integers(self, below: int, count: int) -> Tensor:
        """(count,) int64 on the CPU, each drawn from 0 .. below-1."""
        drawn: Tensor = torch.ops.rmeeto.integers(self.name, below, count)
        return drawn


def _generator(name: str) -> torch.Generator:
    # torch's CPU generator reads 32 bits of a seed.
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def _permutation(name: str, count: int) -> Tensor:
    return torch.randperm(count, generator=_generator(name))


def _integers(name: str, below: int, count: int) -> Tensor:
    return torch.randint(below, (count,), generator=_generator(f"integers {name}"))


LIBRARY.impl("permutation", _permutation, "CompositeExplicitAutograd")
LIBRARY.impl("integers", _integers, "CompositeExplicitAutograd")
torch.library.register_fake(
    "rmeeto::permutation", lambda _name, count: torch.empty(count, dtype=torch.int64), lib=LIBRARY
)
torch.library.register_fake(
    "rmeeto::integers", lambda _name, _below, count: torch.empty(count, dtype=torch.int64), lib=LIBRARY
)
