"""The module that stands in a slot: plan who merges, then merge."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from rmeeto._bare import is_bare, is_watched
from rmeeto.errors import SettingsError
from rmeeto.ops import Merged, Merging, bipartite_merge, token_merge
from rmeeto.reduction.features import compared
from rmeeto.reduction.matchers import bipartite, matcher_of
from rmeeto.reduction.ordering import new_map, shuffled_map
from rmeeto.reduction.plan import Sight, drawing, first_source
from rmeeto.reduction.settings import Feature, Settings
from rmeeto.schedule import Schedule, removable
from rmeeto.tokens import TokenMap, Tokens


class Planner(nn.Module):
    """Tokens -> the map that says which of them become one. A module, so that a hook can watch the very map applied."""

    def __init__(self, removal: int, settings: Settings, block: int) -> None:
        super().__init__()
        self.removal, self.settings, self.block = removal, settings, block
        self.matcher = matcher_of(settings.matcher)

    @torch.no_grad()
    def forward(self, tokens: Tokens) -> TokenMap:
        settings = self.settings
        sight = self._seen(tokens)
        mapping = new_map(
            sight,
            self.matcher(sight, removable(tokens.x.shape[1], self.removal, tokens.places.shape[1])),
            order=settings.order,
            class_place=settings.class_place,
            prune=settings.mode == "prune",
        )
        if settings.order != "shuffled":
            return mapping
        draws = drawing(settings.seed, self.block, "order")
        return mapping.then(shuffled_map(mapping.move(tokens.places), mapping.length, draws))

    def _seen(self, tokens: Tokens) -> Sight:
        sight = Sight(tokens, None, self.settings, self.block)
        return replace(sight, shuffled=self._shuffled(sight.rows)) if self.settings.shuffle else sight

    def _shuffled(self, rows: Tensor) -> Tensor:
        """(b, N) rows, a share of them permuted among themselves, alike for the whole batch."""
        moved = round(self.settings.shuffle * rows.shape[1])
        if moved < 2:
            return rows
        count, here, seed = rows.shape[1], rows.device, self.settings.seed
        subset = drawing(seed, self.block, "subset").permutation(count, here)[:moved].sort().values
        among = drawing(seed, self.block, "shuffle").permutation(moved, here)
        return rows.index_select(1, torch.arange(count, device=here).scatter(0, subset, subset[among]))


class Reducer(nn.Module):
    """Merge `removal` tokens, or as many as one merge can; without parameters and buffers.

    Args:
        removal: tokens to remove, r; cut to half of the unprotected tokens, and 0 returns the tokens given.
        settings: how.
        block: number of the block in front; only `Settings.shuffle` reads it.

    Raises:
        ScheduleError: `removal` is negative or not an integer.
    """

    def __init__(self, removal: int, settings: Settings, block: int = 0) -> None:
        super().__init__()
        Schedule((removal,))
        self.removal, self.settings = removal, settings
        self.planner = Planner(removal, settings, block)

    def forward(self, tokens: Tokens) -> Tokens:
        """(b, n, c) tokens -> (b, n - r, c) tokens."""
        protected = tokens.places.shape[1]
        removal = removable(tokens.x.shape[1], self.removal, protected)
        if removal == 0:
            return tokens
        if self._is_one(protected):
            values, merging = compared(tokens, self.settings.feature), self._merging(removal, protected)
            how = merging._asdict()
            return self.after(tokens, bipartite_merge(tokens.x, tokens.size, values, tokens.places, **how))
        return merged(tokens, self.planner(tokens), self.settings)

    @property
    def feature(self) -> Feature:
        """What is compared."""
        return self.settings.feature

    @property
    def steers(self) -> bool:
        """Whether the blocks behind are told for how long each token stands."""
        return self.settings.size_aware_scan

    def merging(self, count: int, protected: int) -> Merging | None:
        """How so many tokens, `protected` of them kept apart, will be merged once a block has changed them; None where
        it takes more than one op, r = 0 where none leaves.

        A Vision Mamba asks, whose block and merge may be one op.
        """
        removal = removable(count, self.removal, protected)
        if not is_bare(self, Reducer) or (removal and self.settings.feature not in ("hidden", "x")):
            return None
        return self._merging(removal, protected) if not removal or self._is_one(protected) else None

    def after(self, tokens: Tokens, made: Merged) -> Tokens:
        """The tokens of which that was made by `merging`."""
        return _after(tokens, made.x, made.size, made.places, made.mapping, self.settings)

    def _merging(self, removal: int, protected: int) -> Merging:
        settings = self.settings
        return Merging(
            removal,
            settings.similarity,
            settings.rank,
            first_source(protected, settings),
            settings.split == "sequence",
            settings.order == "ordered",
            settings.class_place == "official",
            settings.mode,
        )

    def _is_one(self, protected: int) -> bool:
        """Whether the method itself is asked for and nobody watches its plan, so that all may be done in one go."""
        settings, planner = self.settings, self.planner
        return (
            settings.matcher == "bipartite"
            and planner.matcher is bipartite.plan
            and settings.mode not in ("amax", "amin")
            and settings.order != "shuffled"
            and not settings.shuffle
            and (settings.class_place == "exact" or protected == 1)
            and is_bare(planner, Planner)
            and not is_watched()
        )

    @property
    def reads(self) -> tuple[Feature, ...]:
        """The features that are compared (see `rmeeto.tokens.Slotted`)."""
        return (self.settings.feature, *getattr(self.planner.matcher, "reads", ()))

    def extra_repr(self) -> str:
        return f"removal={self.removal}"


def merged(tokens: Tokens, mapping: TokenMap, settings: Settings) -> Tokens:
    """Carry out a plan: residual stream, sizes, places, origin; the features were the last mixer's and are gone."""
    return _after(tokens, *_merged_values(tokens, mapping, settings), mapping, settings)


def _after(tokens: Tokens, x: Tensor, size: Tensor, places: Tensor, mapping: TokenMap, settings: Settings) -> Tokens:
    return replace(
        tokens,
        x=x,
        places=places,
        size=size,
        time=size if settings.size_aware_scan else None,
        weight=size if settings.proportional_attention else None,
        features=None,
        origin=None if tokens.origin is None else tokens.origin.then(mapping),
    )


def _merged_values(tokens: Tokens, mapping: TokenMap, settings: Settings) -> tuple[Tensor, Tensor, Tensor]:
    if settings.mode not in ("amax", "amin"):
        return token_merge(tokens.x, tokens.size, mapping, tokens.places, settings.mode)
    # Extremes are not linear: as published, the mixer's output and the stream without it are merged apart, then added.
    if tokens.features is None:
        raise SettingsError(f"mode={settings.mode!r} needs the last mixer's output; put the reducer behind a block")
    hidden = tokens.features.hidden
    stream, size = mapping.merge(tokens.x - hidden, tokens.sizes(), settings.mode)
    return stream + mapping.merge(hidden, tokens.sizes(), settings.mode)[0], size, mapping.move(tokens.places)
