"""How many tokens leave after each block: a tuple of integers that knows no tensor."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rmeeto._numbers import is_whole
from rmeeto.errors import ScheduleError

Phase = Literal["even", "odd"]
# What becomes of the tokens that leave (see `TokenMap.merge`).
MergeMode = Literal["sum", "mean", "amax", "amin", "prune"]


@dataclass(frozen=True)
class Schedule:
    """The number of tokens to remove after each block, first block first.

    A merge "before block i" of the paper is the removal after block i - 1. The numbers are
    wishes: one merge takes at most half of the tokens that may leave (see `lengths`).

    Args:
        removals: one non-negative integer per block.

    Raises:
        ScheduleError: a removal is negative or not an integer, or there is no block.
    """

    removals: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.removals:
            raise ScheduleError("an empty schedule fits no model; give one number per block, such as 0,5,0,5")
        for block, removal in enumerate(self.removals):
            if not is_whole(removal) or removal < 0:
                raise ScheduleError(
                    f"removal {removal!r} after block {block} is not a number of tokens; give an integer of 0 or more"
                )
        object.__setattr__(self, "removals", tuple(map(int, self.removals)))  # a list could not be hashed

    @classmethod
    def none(cls, depth: int) -> Schedule:
        """No token leaves."""
        return cls((0,) * depth)

    @classmethod
    def constant(cls, r: int, depth: int, *, every: int = 2, phase: Phase = "even") -> Schedule:
        """The paper's schedule: `r` tokens leave before every `every`-th block.

        Args:
            r: tokens removed by one merge.
            depth: number of blocks.
            every: distance between merges, in blocks.
            phase: "even" merges before block i when i % every == 0, "odd" when (i + 1) % every == 0;
                never before block 0.
        """
        return cls(tuple(r if merges else 0 for merges in _merging(depth, every, phase)))

    @classmethod
    def ending_at(
        cls, final: int, tokens: int, depth: int, *, every: int = 2, phase: Phase = "even", protected: int = 1
    ) -> Schedule:
        """As equal removals as integers and the halving limit allow, larger ones first, so that `final` tokens remain.

        Args:
            final: tokens left after the last block, protected ones included.
            tokens: tokens that enter the first block.
            depth, every, phase: where merges stand, as in `constant`.
            protected: tokens that never leave.

        Raises:
            ScheduleError: `final` is no integer, or cannot be reached, because it is more than there are or the merges
                are too few.
        """
        if not is_whole(final):
            raise ScheduleError(f"final length {final!r} is not a number of tokens; give an integer")
        if not protected <= final <= tokens:
            raise ScheduleError(
                f"final length {final} is outside {protected}..{tokens}, the tokens of this model; choose within"
            )

        places = [block for block, merges in enumerate(_merging(depth, every, phase)) if merges]

        def at_most(r: int, first: int) -> Schedule:
            """The first merges may take r tokens, the later ones r - 1."""
            wishes = dict.fromkeys(places[:first], r) | dict.fromkeys(places[first:], r - 1)
            return cls.of(wishes.get(block, 0) for block in range(depth)).clamped(tokens, protected=protected)

        least = tokens - sum(at_most(tokens, len(places)).removals)
        if final < least:
            raise ScheduleError(
                f"final length {final} cannot be reached: {len(places)} merges in {depth} blocks, each taking at "
                f"most half, leave {least} tokens; ask for {least} or more, or merge in more places"
            )
        if final == tokens:
            return cls.none(depth)
        # One more merge allowed r takes one more token at most, so that no length is stepped over.
        tries = (at_most(r, first) for r in range(1, tokens) for first in range(1, len(places) + 1))
        return next(schedule for schedule in tries if sum(schedule.removals) == tokens - final)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.removals)

    @property
    def merges(self) -> int:
        """Number of places where tokens leave."""
        return sum(removal > 0 for removal in self.removals)

    def lengths(self, tokens: int, *, protected: int = 1) -> tuple[int, ...]:
        """Tokens that each block works on.

        One merge removes at most half of the unprotected tokens: r <- min(r, (n - protected) // 2).

        Args:
            tokens: tokens that enter the first block, protected ones included.
            protected: tokens that never leave (class token, registers).
        """
        lengths, n = [], tokens
        for removal in self.removals:
            lengths.append(n)
            n -= removable(n, removal, protected)
        return tuple(lengths)

    def clamped(self, tokens: int, *, protected: int = 1) -> Schedule:
        """The removals that really happen: each wish cut to what one merge can take there."""
        lengths = self.lengths(tokens, protected=protected)
        return Schedule(tuple(removable(n, r, protected) for n, r in zip(lengths, self.removals, strict=True)))

    def final_length(self, tokens: int, *, protected: int = 1) -> int:
        """Tokens left after the last block and its removal."""
        return tokens - sum(self.clamped(tokens, protected=protected).removals)

    def reduction(self, tokens: int, *, protected: int = 1) -> float:
        """Share of the token-layers that are gone: 1 - mean(n_i) / n_0.

        Raises:
            ScheduleError: there is no token.
        """
        if not is_whole(tokens) or tokens < 1:
            raise ScheduleError(f"tokens {tokens!r} is not a model's number of tokens; give an integer, 1 or more")
        return 1.0 - sum(self.lengths(tokens, protected=protected)) / (self.depth * tokens)

    def require_fit(self, tokens: int, depth: int, *, protected: int = 1) -> None:
        """Check that the schedule can be carried out to the letter.

        Raises:
            ScheduleError: another depth, or a removal that more than halves the tokens there.
        """
        if self.depth != depth:
            raise ScheduleError(f"the schedule has {self.depth} entries for a model of {depth} blocks; give {depth}")
        for block, (n, removal) in enumerate(
            zip(self.lengths(tokens, protected=protected), self.removals, strict=True)
        ):
            most = max(0, (n - protected) // 2)
            if removal > most:
                raise ScheduleError(
                    f"r = {removal} after block {block} is too large: {n} tokens arrive there and at most {most} "
                    f"can leave; use r <= {most} or merge in fewer places"
                )

    def to_json(self) -> str:
        """A JSON list of integers."""
        return json.dumps(list(self.removals))

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """Read what `to_json` wrote.

        Raises:
            ScheduleError: the text is not a JSON list of integers.
        """
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            raise ScheduleError(f"schedule {text!r} is not JSON ({error}); write a list such as [0, 5, 0, 5]") from None
        if not isinstance(value, list):
            raise ScheduleError(f"schedule {text!r} is not a list; write one such as [0, 5, 0, 5]")
        return cls(tuple(value))

    @classmethod
    def of(cls, removals: Iterable[int]) -> Schedule:
        """A schedule from any iterable of integers."""
        return cls(tuple(removals))


def removable(n: int, r: int, protected: int = 1) -> int:
    """Tokens that one merge of n tokens really removes: min(r, (n - protected) // 2), never below 0."""
    return max(0, min(r, (n - protected) // 2))


def _merging(depth: int, every: int, phase: Phase) -> Sequence[bool]:
    """For each block, whether tokens leave after it."""
    if depth < 1 or every < 1:
        raise ScheduleError(f"depth {depth} and every {every} must both be 1 or more")
    if phase not in ("even", "odd"):
        raise ScheduleError(f"phase {phase!r} is unknown; use 'even' or 'odd'")
    shift = 0 if phase == "even" else 1
    return [i + 1 < depth and (i + 1 + shift) % every == 0 for i in range(depth)]
