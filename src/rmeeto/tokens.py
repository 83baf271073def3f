"""The load that travels from block to block, and the map that says which tokens became one.

Letters: b batch, n tokens, m tokens after a merge, c model width, e inner width, s state size, k protected tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard, overload

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from rmeeto._shapes import Bool, Float, Int
from rmeeto.errors import SettingsError, ShapeError
from rmeeto.schedule import MergeMode


class _PerDirection(Sequence[Tensor]):
    """One tensor per direction of a scan, made when somebody asks for it: most of them nobody does."""

    _held: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self._held)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | Sequence[Tensor]:
        if isinstance(index, slice):
            return tuple(map(self._made, range(len(self))[index]))
        return self._made(range(len(self))[index])

    def _made(self, direction: int) -> Tensor:
        raise NotImplementedError


class Columns(_PerDirection):
    """Per direction (b, n, d) columns of what a mixer projected.

    Args:
        projected: per direction (b, n, R + 2s).
        first: of the columns.
        count: d.
    """

    def __init__(self, projected: tuple[Tensor, ...], first: int, count: int) -> None:
        self._held, self._first, self._count = projected, first, count

    def _made(self, direction: int) -> Tensor:
        return self._held[direction].narrow(-1, self._first, self._count)


class TimeSteps(_PerDirection):
    """Per direction (b, n, e) time steps W dt, before bias and softplus.

    Args:
        projected: per direction (b, n, R + 2s), dt in front.
        weight: per direction (e, R).
    """

    def __init__(self, projected: tuple[Tensor, ...], weight: tuple[Tensor, ...]) -> None:
        self._held, self._weight = projected, weight

    def _made(self, direction: int) -> Tensor:
        weight = self._weight[direction]
        return linear(self._held[direction].narrow(-1, 0, weight.shape[1]), weight)


@dataclass(frozen=True)
class Features:
    """What the last mixer computed, by name; a view of tensors that exist anyway.

    Attributes:
        hidden: (b, n, c) the mixer's output before drop-path and residual sum (the paper's X).
        B: per direction (b, n, s) input matrices of the scan; a mixer gives `Columns`.
        C: per direction (b, n, s) output matrices of the scan; a mixer gives `Columns`.
        delta: per direction (b, n, e) time steps before bias and softplus; a mixer gives `TimeSteps`.
        q, k, v: per head (b, n, d) queries, keys and values of attention; only where a slot `reads` them.
    """

    hidden: Float[Tensor, "b n c"]
    B: Sequence[Float[Tensor, "b n s"]] = ()
    C: Sequence[Float[Tensor, "b n s"]] = ()
    delta: Sequence[Float[Tensor, "b n e"]] = ()
    q: tuple[Float[Tensor, "b n d"], ...] = ()
    k: tuple[Float[Tensor, "b n d"], ...] = ()
    v: tuple[Float[Tensor, "b n d"], ...] = ()


@dataclass(frozen=True)
class Tokens:
    """The residual stream and what is known about each token.

    Attributes:
        x: (b, n, c) the residual stream, the last block's output already added.
        places: (b, k) int64, where the protected tokens stand; column 0 is the class token.
        size: (b, n) float32, how many input tokens each token stands for; None means one each.
        time: (b, n) float32, the factor on A in the scan; None means one each.
        weight: (b, n) float32, as how many keys each token counts in attention; None means one each.
        features: what the last mixer computed; None before the first block.
        origin: for each token that entered, the token it is in now; None means that nobody asks. Whoever merges
            appends the map that it applied.
    """

    x: Float[Tensor, "b n c"]
    places: Int[Tensor, "b k"]
    size: Float[Tensor, "b n"] | None = None
    time: Float[Tensor, "b n"] | None = None
    weight: Float[Tensor, "b n"] | None = None
    features: Features | None = None
    origin: TokenMap | None = None

    def computed(self, x: Float[Tensor, "b n c"], features: Features) -> Tokens:
        """The same tokens behind another block."""
        # Not dataclasses.replace, which takes four times as long: there is a block behind every block.
        return Tokens(x, self.places, self.size, self.time, self.weight, features, self.origin)

    def sizes(self) -> Float[Tensor, "b n"]:
        """(b, n) float32 sizes, ones where none are kept."""
        if self.size is not None:
            return self.size
        return torch.ones(self.x.shape[:2], dtype=torch.float32, device=self.x.device)


class _ByName(type(Protocol)):  # type: ignore[misc]
    """isinstance as `is_slotted`: checks of types at run time ask so."""

    def __instancecheck__(cls, instance: object) -> bool:
        return is_slotted(instance)


class Slotted(Protocol, metaclass=_ByName):
    """A model with a slot after each block: what reduction needs to know of a model.

    What stands in a slot may say by an attribute `reads` which of the `Features` it compares; a block that would have
    to do more than usual for a feature does it only then.
    """

    slots: nn.ModuleList

    @property
    def num_tokens(self) -> int:
        """Tokens that enter the first block, protected ones included."""

    @property
    def num_protected(self) -> int:
        """Tokens that no reducer may touch (class token, registers)."""


def is_slotted(model: object) -> TypeGuard[Slotted]:
    """Whether a model has all that `Slotted` names."""
    # isinstance of a protocol sees no sub-modules from Python 3.12 on: it looks past `nn.Module.__getattr__`.
    return all(hasattr(model, name) for name in ("slots", "num_tokens", "num_protected"))


@dataclass(frozen=True)
class TokenMap:
    """For each old token, the new token it becomes.

    Attributes:
        index: (b, n) int64 in [0, m).
        length: m, the number of new tokens; each has at least one old token.
        kept: (b, n) bool, False for tokens that weigh nothing (pruned); None means all weigh.
    """

    index: Int[Tensor, "b n"]
    length: int
    kept: Bool[Tensor, "b n"] | None = None

    @classmethod
    def identity(cls, batch: int, tokens: int, device: torch.device | None = None) -> TokenMap:
        """The map that changes nothing."""
        return cls(torch.arange(tokens, device=device).expand(batch, tokens), tokens)

    def merge(
        self, x: Float[Tensor, ...], size: Float[Tensor, ...], mode: MergeMode = "sum"
    ) -> tuple[Float[Tensor, "b m d"], Float[Tensor, "b m"]]:
        """Make each group of tokens one token.

        Args:
            x: (b, n, d) values, any floating dtype; sums are carried in float32 (float64 for float64).
            size: (b, n) size of each token.
            mode: "sum" is the size-weighted mean, whose sizes add up (method of the paper); "mean", "amax"
                and "amin" ignore the sizes and reset them to 1, "prune" keeps only what weighs.

        Returns:
            (b, m, d) merged values in the dtype of `x`, (b, m) new sizes in the dtype of `size`.

        Raises:
            ShapeError: `x` or `size` does not have the map's (b, n).
            SettingsError: unknown mode.
        """
        if x.shape[:2] != self.index.shape or size.shape != self.index.shape:
            raise ShapeError(
                f"values {tuple(x.shape)} and sizes {tuple(size.shape)} do not fit a map of {tuple(self.index.shape)} "
                "tokens; merge the tensor that the map was made for"
            )
        if mode == "sum":
            return self._weighted(x, self._weights(size))
        if mode == "prune":
            return self._weighted(x, self._weights(size), sizes_add=True)
        if mode == "mean":
            return self._weighted(x, self._weights(torch.ones_like(size)), sizes_add=False)
        if mode in ("amax", "amin"):
            return self._extreme(x, size, mode)
        raise SettingsError(f"merge mode {mode!r} is unknown; use sum, mean, amax, amin or prune")

    def unmerge(self, x: Tensor) -> Tensor:
        """(b, m, d) -> (b, n, d): every old token gets the value of its group."""
        if x.shape[:2] != (self.index.shape[0], self.length):
            raise ShapeError(
                f"values {tuple(x.shape)} are not the {self.index.shape[0]} x {self.length} tokens that this map "
                "leaves; unmerge what it merged"
            )
        return x.flatten(0, 1).index_select(0, self._rows()).view(*self.index.shape, x.shape[-1])

    def move(self, places: Int[Tensor, "b k"]) -> Int[Tensor, "b k"]:
        """(b, k) places among the old tokens -> (b, k) places among the new ones."""
        return self.index.gather(1, places)

    def then(self, later: TokenMap) -> TokenMap:
        """This map followed by `later`, as one map."""
        if later.index.shape[1] != self.length:
            raise ShapeError(f"a map of {later.index.shape[1]} tokens cannot follow one that leaves {self.length}")
        kept = self.kept
        if later.kept is not None:
            still = later.kept.gather(1, self.index)
            kept = still if kept is None else kept & still
        return TokenMap(later.index.gather(1, self.index), later.length, kept)

    def counts(self) -> Float[Tensor, "b m"]:
        """(b, m) float32, the number of old tokens that weigh in each new one."""
        return self._add(self._weights(torch.ones_like(self.index, dtype=torch.float32)))

    def _weights(self, size: Tensor) -> Tensor:
        return size if self.kept is None else size * self.kept

    def _rows(self) -> Tensor:
        """(b * n,) int64, the new token of each old one in a batch laid end to end."""
        first = torch.arange(self.index.shape[0], device=self.index.device).unsqueeze(1) * self.length
        return (self.index + first).flatten()

    def _add(self, values: Tensor) -> Tensor:
        """(b, n, ...) -> (b, m, ...), sums over the groups."""
        # Whole rows of a flat batch: several times faster on a CPU than scatter_add along dimension 1.
        out = values.new_zeros(self.index.shape[0] * self.length, *values.shape[2:])
        out = out.index_add(0, self._rows(), values.flatten(0, 1))
        return out.view(self.index.shape[0], self.length, *values.shape[2:])

    def _weighted(self, x: Tensor, weights: Tensor, *, sizes_add: bool = True) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(x.dtype, torch.float32)
        size = self._add(weights)
        # The share of a token alone in its group is exactly 1, so that it passes bit for bit.
        shares = weights.to(wide) / size.gather(1, self.index).to(wide)
        merged = self._add(x * shares.unsqueeze(-1))
        return merged.to(x.dtype), size if sizes_add else torch.ones_like(size)

    def _extreme(self, x: Tensor, size: Tensor, mode: str) -> tuple[Tensor, Tensor]:
        bound = float("-inf") if mode == "amax" else float("inf")
        if self.kept is not None:
            x = x.masked_fill(~self.kept.unsqueeze(-1), bound)
        out = x.new_full((x.shape[0], self.length, x.shape[2]), bound)
        index = self.index.unsqueeze(-1).expand_as(x)
        merged = out.scatter_reduce(1, index, x, reduce=mode, include_self=True)
        return merged, size.new_ones(x.shape[0], self.length)


def at_rows(values: Float[Tensor, "b N d"], rows: Int[Tensor, "b r"]) -> Float[Tensor, "b r d"]:
    """(b, N, d) values, (b, r) rows -> (b, r, d) the values there."""
    # Whole rows of a flat batch: faster on a CPU than a gather along dimension 1.
    first = torch.arange(rows.shape[0], device=rows.device).unsqueeze(1) * values.shape[1]
    return values.flatten(0, 1).index_select(0, (rows + first).flatten()).view(*rows.shape, values.shape[-1])


def protected_first(x: Float[Tensor, "b n c"], places: Int[Tensor, "b k"]) -> Float[Tensor, "b n c"]:
    """(b, n, c) tokens in another order: those at (b, k) `places`, then the others as they stand."""
    others = torch.ones(x.shape[:2], dtype=torch.int8, device=x.device).scatter(1, places, 0)
    rows = torch.cat((places, others.argsort(dim=1, stable=True)[:, places.shape[1] :]), dim=1)
    return x.gather(1, rows.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
