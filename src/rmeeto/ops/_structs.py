"""The call structures of csrc/rmeeto.h, packed; with each come the tensors that must live during the call."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from rmeeto.ops._library import call
from rmeeto.ops._tensors import address, dense, indices, rows, walk

_SCAN_INPUTS = "9qd22q"  # ScanInputsOf: 9 numbers, scale, 6 walks, A, D, bias, W
_SCAN_FORWARD = struct.Struct(f"={_SCAN_INPUTS}4q")  # y, states
_SCAN_BACKWARD = struct.Struct(f"={_SCAN_INPUTS}26q")  # states, dy, y, five walks, four gradients
_CONV_FORWARD = struct.Struct("=14q")  # 6 numbers, x, weight, bias, y
_CONV_BACKWARD = struct.Struct("=20q")  # 7 numbers, x, weight, bias, dy, dx, two gradients
_NORM_FORWARD = struct.Struct("=4qd5q")  # 4 numbers, eps, x, weight, y
_NORM_BACKWARD = struct.Struct("=4qd9q")  # the same inputs, dy, two gradients
_WEIGHT_GRADIENT = struct.Struct("=9q")  # 4 numbers, dy, x, the result
_TOKEN_MATCH = struct.Struct("=19q")  # 10 numbers, values, places, rows, four results
_TOKEN_PLAN = struct.Struct("=14q")  # 7 numbers, five tensors, two results
_TOKEN_MERGE = struct.Struct("=17q")  # MergeGroups, 2 numbers, x, places, three results
_TOKEN_MERGE_BACKWARD = struct.Struct("=12q")  # MergeGroups, dy, dx
_BIPARTITE_MERGE = struct.Struct("=27q")  # 14 numbers, values, x, two tensors, five results


class ScanInputs(NamedTuple):
    """What one direction of a scan reads, in the order of the op's arguments, and W of delta = W dt."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None = None
    z: Tensor | None = None
    delta_bias: Tensor | None = None
    time: Tensor | None = None
    W: Tensor | None = None


class ScanFlags(NamedTuple):
    """How: see ScanInputsOf in csrc/rmeeto.h."""

    softplus: bool = True
    reverse: bool = False
    accumulate: bool = False
    scale: float = 1.0


def _scan_fields(inputs: ScanInputs, flags: ScanFlags) -> tuple[list[Any], tuple[float, ...]]:
    u, delta, B, C, z = (rows(x) for x in (inputs.u, inputs.delta, inputs.B, inputs.C, inputs.z))
    A, D, bias, W = (dense(x) for x in (inputs.A, inputs.D, inputs.delta_bias, inputs.W))
    time = inputs.time
    time = time if time is None or time.dtype is torch.float32 else time.float()
    rank = 0 if W is None else W.shape[1]
    sizes = (*inputs.u.shape, inputs.A.shape[1], rank, torch.get_num_threads())
    fields = (
        *(*sizes, flags.softplus, flags.reverse, flags.accumulate, flags.scale),
        *(*walk(u), *walk(delta), *walk(B), *walk(C), *walk(z), *walk(time)),
        *(address(A), address(D), address(bias), address(W)),
    )
    return [u, delta, A, B, C, D, z, bias, time, W], fields


class ScanForward(NamedTuple):
    """One forward call: y is written, states too where they are wanted."""

    inputs: ScanInputs
    flags: ScanFlags
    y: Tensor
    states: Tensor | None

    def pack(self) -> tuple[list[Any], bytes]:
        held, fields = _scan_fields(self.inputs, self.flags)
        return held, _SCAN_FORWARD.pack(*fields, *walk(self.y), address(self.states))


class ScanBackward(NamedTuple):
    """One backward call: every gradient that is there is written, in the order of the inputs; accumulate adds to dz."""

    inputs: ScanInputs
    flags: ScanFlags
    states: Tensor
    dy: Tensor
    du: Tensor | None = None
    ddelta: Tensor | None = None
    dA: Tensor | None = None
    dB: Tensor | None = None
    dC: Tensor | None = None
    dD: Tensor | None = None
    dz: Tensor | None = None
    dbias: Tensor | None = None
    dtime: Tensor | None = None

    def pack(self) -> tuple[list[Any], bytes]:
        held, fields = _scan_fields(self.inputs, self.flags)
        dy = rows(self.dy)
        walks = [part for x in (dy, None, self.du, self.ddelta, self.dz, self.dB, self.dC) for part in walk(x)]
        dense_ones = [address(x) for x in (self.dtime, self.dA, self.dD, self.dbias)]
        return [*held, dy], _SCAN_BACKWARD.pack(*fields, address(self.states), *walks, *dense_ones)


def _conv_inputs(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[list[Any], tuple[int, ...]]:
    x_rows, weight_rows, bias_rows = rows(x), dense(weight), dense(bias)
    return [x_rows, weight_rows, bias_rows], (*walk(x_rows), address(weight_rows), address(bias_rows))


class ConvForward(NamedTuple):
    """One forward call: y is written."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    reverse: bool
    y: Tensor

    def pack(self) -> tuple[list[Any], bytes]:
        held, fields = _conv_inputs(self.x, self.weight, self.bias)
        sizes = (*self.x.shape, self.weight.shape[1], torch.get_num_threads(), self.reverse)
        return held, _CONV_FORWARD.pack(*sizes, *fields, *walk(self.y))


class ConvBackward(NamedTuple):
    """One backward call: every gradient that is there is written; accumulate adds to dx."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    reverse: bool
    accumulate: bool
    dy: Tensor
    dx: Tensor | None
    dweight: Tensor | None
    dbias: Tensor | None

    def pack(self) -> tuple[list[Any], bytes]:
        held, fields = _conv_inputs(self.x, self.weight, self.bias)
        dy = rows(self.dy)
        sizes = (*self.x.shape, self.weight.shape[1], torch.get_num_threads(), self.reverse, self.accumulate)
        gradients = (*walk(self.dx), address(self.dweight), address(self.dbias))
        return [*held, dy], _CONV_BACKWARD.pack(*sizes, *fields, *walk(dy), *gradients)


class NormForward(NamedTuple):
    """One forward call: y is written."""

    x: Tensor
    weight: Tensor
    eps: float
    y: Tensor

    def pack(self) -> tuple[list[Any], bytes]:
        x, weight = rows(self.x), dense(self.weight)
        sizes = (*self.x.shape, torch.get_num_threads(), self.eps)
        return [x, weight], _NORM_FORWARD.pack(*sizes, *walk(x), address(weight), address(self.y))


class NormBackward(NamedTuple):
    """One backward call: every gradient that is there is written."""

    x: Tensor
    weight: Tensor
    eps: float
    dy: Tensor
    dx: Tensor | None
    dweight: Tensor | None

    def pack(self) -> tuple[list[Any], bytes]:
        x, weight, dy = rows(self.x), dense(self.weight), rows(self.dy)
        sizes = (*self.x.shape, torch.get_num_threads(), self.eps)
        gradients = (address(self.dx), address(self.dweight))
        return [x, weight, dy], _NORM_BACKWARD.pack(*sizes, *walk(x), address(weight), *walk(dy), *gradients)


class WeightGradient(NamedTuple):
    """One call: dweight is written."""

    dy: Tensor  # (t, m)
    x: Tensor  # (t, k)
    dweight: Tensor  # (m, k)

    def pack(self) -> tuple[list[Any], bytes]:
        dy, x = rows(self.dy), rows(self.x)
        sizes = (*dy.shape, x.shape[1], torch.get_num_threads())
        read = (dy.data_ptr(), dy.stride(0), x.data_ptr(), x.stride(0))
        return [dy, x], _WEIGHT_GRADIENT.pack(*sizes, *read, address(self.dweight))


class MergeCall(NamedTuple):
    """How tokens are merged, beside the values: the results are written, kept where it is wanted."""

    places: Tensor  # (b, k)
    size: Tensor | None  # (b, n)
    how: tuple[int, ...]  # r, similarity, rank, first, by_sequence, ordered, official, forget
    results: tuple[Tensor | None, ...]  # index, kept, y, sizes, moved

    def fields(self, sizes: tuple[int, ...], walks: tuple[int, ...]) -> tuple[list[Any], tuple[int, ...]]:
        """A `BipartiteMerge`: sizes are batch, tokens, width and channels, walks those of the values and of x."""
        places, size = indices(self.places), dense(self.size)
        numbers = (*sizes, places.shape[1], *self.how, torch.get_num_threads())
        addresses = [address(t) for t in (places, size, *self.results)]
        return [places, size], (*numbers, *walks, *addresses)


class BipartiteMerge(NamedTuple):
    """One call: what a `MergeCall` says is written."""

    values: Tensor  # (b, n, d)
    x: Tensor  # (b, n, c)
    merge: MergeCall

    def pack(self) -> tuple[list[Any], bytes]:
        values, x = rows(self.values), rows(self.x)
        held, fields = self.merge.fields((*values.shape, x.shape[2]), (*walk(values), *walk(x)))
        return [values, x, held], _BIPARTITE_MERGE.pack(*fields)


class TokenMatch(NamedTuple):
    """One call: all but the first nine are written."""

    values: Tensor  # (b, n, d)
    places: Tensor  # (b, k)
    rows: Tensor | None  # (b, N)
    r: int
    similarity: int
    rank: int
    first: int
    by_sequence: bool
    leaving: Tensor
    joined: Tensor
    staying: Tensor
    best: Tensor

    def pack(self) -> tuple[list[Any], bytes]:
        values, places, given = rows(self.values), indices(self.places), indices(self.rows)
        sizes = (*values.shape, places.shape[1], self.r, self.similarity, self.rank, self.first, self.by_sequence)
        written = [address(x) for x in (self.leaving, self.joined, self.staying, self.best)]
        reads = (*walk(values), address(places), address(given))
        return [values, places, given], _TOKEN_MATCH.pack(*sizes, torch.get_num_threads(), *reads, *written)


class TokenPlan(NamedTuple):
    """One call: the new numbers are written, kept too where it is wanted."""

    leaving: Tensor  # (b, r)
    joined: Tensor  # (b, r)
    heads: Tensor  # (b, h)
    places: Tensor  # (b, k)
    rows: Tensor | None  # (b, N)
    ordered: bool
    official: bool
    numbers: Tensor
    kept: Tensor | None

    def pack(self) -> tuple[list[Any], bytes]:
        held = [indices(x) for x in (self.leaving, self.joined, self.heads, self.places, self.rows)]
        counts = (self.places.shape[1], self.leaving.shape[1], self.heads.shape[1])
        addresses = [address(x) for x in (*held, self.numbers, self.kept)]
        return held, _TOKEN_PLAN.pack(*self.numbers.shape, *counts, self.ordered, self.official, *addresses)


class MergeGroups(NamedTuple):
    """Which tokens become one, and what each weighs."""

    group: Tensor  # (b, n)
    length: int
    size: Tensor | None  # (b, n)
    kept: Tensor | None  # (b, n)

    def fields(self, channels: int) -> tuple[list[Any], tuple[int, ...]]:
        held = [indices(self.group), dense(self.size), None if self.kept is None else self.kept.contiguous()]
        sizes = (*self.group.shape, self.length, channels, torch.get_num_threads())
        return held, (*sizes, *[address(x) for x in held])


class TokenMerge(NamedTuple):
    """One call: y, the sizes and the moved places are written."""

    groups: MergeGroups
    forget: bool
    x: Tensor
    places: Tensor
    y: Tensor
    sizes: Tensor
    moved: Tensor

    def pack(self) -> tuple[list[Any], bytes]:
        held, fields = self.groups.fields(self.x.shape[2])
        x, places = rows(self.x), indices(self.places)
        others = [address(t) for t in (places, self.y, self.sizes, self.moved)]
        return [*held, x, places], _TOKEN_MERGE.pack(*fields, places.shape[1], self.forget, *walk(x), *others)


class TokenMergeBackward(NamedTuple):
    """One call: dx is written."""

    groups: MergeGroups
    dy: Tensor
    dx: Tensor

    def pack(self) -> tuple[list[Any], bytes]:
        held, fields = self.groups.fields(self.dy.shape[2])
        dy = rows(self.dy)
        return [*held, dy], _TOKEN_MERGE_BACKWARD.pack(*fields, *walk(dy), address(self.dx))


_KERNELS = {
    ScanForward: "rmeeto_scan_forward",
    ScanBackward: "rmeeto_scan_backward",
    ConvForward: "rmeeto_conv_forward",
    ConvBackward: "rmeeto_conv_backward",
    NormForward: "rmeeto_norm_forward",
    NormBackward: "rmeeto_norm_backward",
    WeightGradient: "rmeeto_weight_gradient",
    TokenMatch: "rmeeto_token_match",
    TokenPlan: "rmeeto_token_plan",
    TokenMerge: "rmeeto_token_merge",
    TokenMergeBackward: "rmeeto_token_merge_backward",
    BipartiteMerge: "rmeeto_bipartite_merge",
}


Call: TypeAlias = (ScanForward | ScanBackward | ConvForward | ConvBackward | NormForward | NormBackward) | (
    WeightGradient | TokenMatch | TokenPlan | TokenMerge | TokenMergeBackward | BipartiteMerge
)


def run(calls: Sequence[Call]) -> None:
    """Run one or two calls of one kind and the same (batch, tokens, channels), each task one after the other."""
    packed = [each.pack() for each in calls]
    call(_KERNELS[type(calls[0])], b"".join(fields for _held, fields in packed), len(calls))
