"""The call structure of a block (csrc/rmeeto.h), packed: of one, and of many that read what the last one wrote."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rmeeto.ops._library import call
from rmeeto.ops._structs import MergeCall
from rmeeto.ops._tensors import address, all_dense, dense, rows, walk
from rmeeto.ops.bimamba.reference import Direction

# 8 numbers, eps, scale, x, time, 3 weights, two directions of 9, 2 results, 2 numbers, a BipartiteMerge
_BLOCK_FORWARD = struct.Struct("=8q2d58q")
_GRADIENTS = struct.Struct("=26q")  # a number, dy, dhidden, 5 results, two directions of 7
_NO_MERGE = (0,) * 29
_NO_WALK = (0, 0, 0)
_OUTER = 3  # of a block's tensors: of the norm and of the projections in and out; then come two `Direction`s
TENSORS = _OUTER + 2 * len(Direction._fields)  # as `BlockWeights.tensors` has them


def outputs_of(weights: Sequence[Tensor]) -> int:
    """How many numbers a direction projects for each token, R + 2s, as the first block's weights say."""
    return _first_way(weights).projection.shape[0]


def _first_way(weights: Sequence[Tensor]) -> Direction:
    """The first direction of the first block."""
    return Direction(*weights[_OUTER : _OUTER + len(Direction._fields)])


class BlockForward(NamedTuple):
    """One call: y and hidden, or what a merge leaves of them, and what both directions projected are written.

    So are their scans' states, where they are kept for the gradients.
    """

    x: Tensor
    time: Tensor | None
    weights: Sequence[Tensor]
    eps: float
    scale: float
    projected: tuple[Tensor, Tensor]
    results: tuple[Tensor, Tensor] | None  # y, hidden
    merge: MergeCall | None = None
    by_stream: bool = False
    states: tuple[Tensor, Tensor] | None = None

    def run(self) -> None:
        _held, packed = self.pack()
        call("rmeeto_block_forward", packed, 1)

    def pack(self) -> tuple[list[Any], bytes]:
        x, time = rows(self.x), None if self.time is None else self.time.float()
        parameters = _Parameters.of(self.weights)
        sizes = (*x.shape, *parameters.sizes, torch.get_num_threads())
        held: list[Any] = [x, time, parameters]
        merging: tuple[int, ...] = _NO_MERGE
        if self.merge is not None:
            kept, fields = self.merge.fields((0, 0, 0, 0), (0,) * 6)
            held, merging = [*held, kept], (1, self.by_stream, *fields)
        y, hidden = self.results or (None, None)
        states = (0, 0) if self.states is None else (self.states[0].data_ptr(), self.states[1].data_ptr())
        return held, _BLOCK_FORWARD.pack(
            *(*sizes, self.eps, self.scale, *walk(x), *walk(time)),
            *parameters.of_block(0, (self.projected[0].data_ptr(), self.projected[1].data_ptr()), states),
            *(address(y), address(hidden), *merging),
        )


class BlockBackward(NamedTuple):
    """One call: every gradient that is there is written."""

    of: BlockForward
    shares: int
    dy: Tensor | None
    dhidden: Tensor | None
    dx: Tensor
    dtime: Tensor | None
    dweights: Sequence[Tensor] | None  # as `BlockWeights.tensors` has them

    def run(self) -> None:
        _held, packed = self.of.pack()
        dy, dhidden = rows(self.dy), rows(self.dhidden)
        weights = [0] * TENSORS if self.dweights is None else [t.data_ptr() for t in self.dweights]
        results = (self.dx.data_ptr(), address(self.dtime), *weights)
        packed += _GRADIENTS.pack(self.shares, *walk(dy), *walk(dhidden), *results)
        call("rmeeto_block_backward", packed, 1)


class _Parameters(NamedTuple):
    """Those of one block, or of many of one shape, as the kernel reads them."""

    sizes: tuple[int, int, int, int]  # channels, state, rank, taps
    held: Sequence[Tensor]
    addresses: list[int]

    @classmethod
    def of(cls, weights: Sequence[Tensor]) -> _Parameters:
        way, held = _first_way(weights), all_dense(weights)
        (channels, _, taps), rank, state = way.conv_weight.shape, way.dt_weight.shape[1], way.A_log.shape[1]
        return cls((channels, state, rank, taps), held, [t.data_ptr() for t in held])

    def of_block(self, number: int, p: tuple[int, int], states: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
        """The addresses of one block, each direction with what it projects and the states that it keeps."""
        begin, end = number * TENSORS, (number + 1) * TENSORS
        half = end - len(Direction._fields)
        return (*self.addresses[begin:half], p[0], states[0], *self.addresses[half:end], p[1], states[1])


class MergeNumbers(NamedTuple):
    """How tokens are merged behind a block, all as numbers; r = 0: not at all."""

    r: int = 0
    similarity: int = 0
    rank: int = 1
    first: int = 0
    by_sequence: int = 0
    ordered: int = 1
    official: int = 0
    forget: int = 0  # sizes are not read and become 1
    prune: int = 0
    by_stream: int = 0


class StackResults(NamedTuple):
    """What the last of many blocks, and the last merge, leave; empty where there is none."""

    x: Tensor  # (b, m, c)
    hidden: Tensor  # (b, m, c); empty where the last block's tokens are merged, as are p and p_b
    p: Tensor  # (b, m, R + 2s)
    p_b: Tensor
    size: Tensor  # (b, m)
    places: Tensor  # (b, k)
    group: Tensor  # (b, n), n tokens before the last merge
    kept: Tensor  # (b, n), empty where nothing is pruned


class BlockStack(NamedTuple):
    """Many calls in a row. What lies between two blocks is in two buffers that they use in turn."""

    x: Tensor
    size: Tensor | None
    places: Tensor
    weights: Sequence[Tensor]  # of all blocks, one after the other
    merges: Sequence[MergeNumbers]
    eps: float
    scale: float
    results: StackResults

    def run(self) -> None:
        x, places = rows(self.x), self.places.contiguous()
        size = dense(self.size)
        parameters, threads = _Parameters.of(self.weights), torch.get_num_threads()
        between = _Between.of(x, places, outputs=outputs_of(self.weights))
        last_merge = max((i for i, merge in enumerate(self.merges) if merge.r), default=-1)
        (batch, tokens, width), packed = x.shape, []
        constant = (*parameters.sizes, threads, self.eps, self.scale)
        seen, sizes, stand, turn = walk(x), address(size), places.data_ptr(), 0
        for i, merge in enumerate(self.merges):
            made = self.results if i + 1 == len(self.merges) else None
            y = between.x[i % 2] if made is None else made.x.data_ptr()
            numbers: tuple[int, ...] = _NO_MERGE
            hidden, p, p_b = 0, *between.projected
            if merge.r:
                kept = between.merged(turn % 2) if i != last_merge else tuple(t.data_ptr() for t in self.results[4:])
                numbers = self._merging(merge, (stand, sizes), y, kept, threads)
                (sizes, stand), turn = kept[:2], turn + 1
            elif made is not None:
                hidden, p, p_b = (t.data_ptr() for t in made[1:4])
            addresses = parameters.of_block(i, (p, p_b))
            fields = (batch, tokens, width, *constant, *seen, *_NO_WALK, *addresses, y, hidden)
            packed.append(_BLOCK_FORWARD.pack(*fields, *numbers))
            tokens -= merge.r
            seen = (y, tokens * width, width)
        call("rmeeto_block_forward", b"".join(packed), len(packed))

    def _merging(
        self, merge: MergeNumbers, given: tuple[int, int], y: int, kept: tuple[int, ...], threads: int
    ) -> tuple[int, ...]:
        """The part of a structure that is about the merge."""
        *how, _forget, prune, by_stream = merge
        (stand, sizes), (new_sizes, moved, index, weighing) = given, kept
        numbers = (0, 0, 0, 0, self.places.shape[1], *how, merge.forget, threads, 0, 0, 0, 0, 0, 0)
        read = (stand, 0 if merge.forget else sizes)
        return (1, by_stream, *numbers, *read, index, weighing if prune else 0, y, new_sizes, moved)


class _Between(NamedTuple):
    """Addresses of what blocks in a row write for each other, each twice where the next one still reads the first."""

    held: list[Tensor]
    x: tuple[int, int]
    projected: tuple[int, int]
    size: tuple[int, int]
    places: tuple[int, int]
    group: int
    kept: int

    @classmethod
    def of(cls, x: Tensor, places: Tensor, *, outputs: int) -> _Between:
        batch, tokens, width = x.shape
        count = batch * tokens
        floats = [x.new_empty(n) for n in (*[count * width] * 2, *[count * outputs] * 2, count, count)]
        numbers = [places.new_empty(n) for n in (places.numel(), places.numel(), count)]
        kept = x.new_empty(count, dtype=torch.bool)
        at = [t.data_ptr() for t in (*floats, *numbers)]
        held = [*floats, *numbers, kept]
        return cls(held, (at[0], at[1]), (at[2], at[3]), (at[4], at[5]), (at[6], at[7]), at[8], kept.data_ptr())

    def merged(self, which: int) -> tuple[int, ...]:
        """Where a merge writes sizes, places, index and what weighs."""
        return self.size[which], self.places[which], self.group, self.kept
