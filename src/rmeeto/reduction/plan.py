"""What a matcher sees, and what it answers.

Patch tokens, the protected ones left out, are numbered by rows 0 .. N-1 in sequence order.
Letters: b batch, n tokens, N patch tokens, k protected tokens, r tokens that leave, d width of a feature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from rmeeto._shapes import Float, Int
from rmeeto.ops.draws import Draws
from rmeeto.ops.token_plan.reference import patch_rows
from rmeeto.reduction.features import compared
from rmeeto.reduction.settings import Feature, Settings
from rmeeto.tokens import Tokens, at_rows

F = TypeVar("F", bound=Callable[..., object])


@dataclass(frozen=True)
class Plan:
    """Which patch tokens leave, and whom each joins; where tokens are pruned, nobody is joined.

    Attributes:
        leaving: (b, r) int64, rows that leave, each once.
        joined: (b, r) int64, the row that each of them joins, one that stays.
        heads: (b, h) int64, staying rows that an unordered sequence begins with, in this order; the others that stay
            follow by sequence.
    """

    leaving: Int[Tensor, "b r"]
    joined: Int[Tensor, "b r"]
    heads: Int[Tensor, "b h"]


@dataclass(frozen=True)
class Sight:
    """What a matcher may look at.

    Attributes:
        tokens: the tokens as they stand in the slot.
        shuffled: (b, N) int64, the place in the sequence of each patch token where they were shuffled, else None.
        settings: how the user wants it.
        block: number of the block in front.
    """

    tokens: Tokens
    shuffled: Int[Tensor, "b N"] | None
    settings: Settings
    block: int = 0

    @property
    def rows(self) -> Int[Tensor, "b N"]:
        """(b, N) int64, the place in the sequence of each patch token; made whenever somebody asks."""
        if self.shuffled is not None:
            return self.shuffled
        return patch_rows(self.tokens.places, self.tokens.x.shape[1])

    def patches(self, values: Float[Tensor, "b n d"]) -> Float[Tensor, "b N d"]:
        """(b, n, d) values of all tokens -> (b, N, d) those of the patch tokens, row by row."""
        return at_rows(values, self.rows)

    def compared(self, feature: Feature | None = None) -> Float[Tensor, "b N d"]:
        """(b, N, d) a feature of the patch tokens; None means the one that the settings name.

        Raises:
            SettingsError: the tokens carry no such feature.
        """
        return self.patches(compared(self.tokens, feature or self.settings.feature))

    @property
    def first_source(self) -> int:
        """See the function of this name."""
        return first_source(self.tokens.places.shape[1], self.settings)

    def draw(self, purpose: str) -> Draws:
        """Random numbers that depend on seed, block and purpose only, the same in every call."""
        return drawing(self.settings.seed, self.block, purpose)


def first_source(protected: int, settings: Settings) -> int:
    """The row of the first source where every second token is one: 0, or 1 behind an odd number of prefixes."""
    return protected % 2 if settings.split == "sequence" else 0


def drawing(seed: int, block: int, purpose: str) -> Draws:
    """See `Sight.draw`."""
    return Draws(f"{purpose} {seed} {block}")


def reading(*features: Feature) -> Callable[[F], F]:
    """Mark a matcher that reads features of its own beside the one that the settings name."""

    def mark(matcher: F) -> F:
        matcher.reads = features  # type: ignore[attr-defined]
        return matcher

    return mark
