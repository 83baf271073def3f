"""Watch which tokens become one, from outside: what is computed does not change."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from rmeeto.errors import RmeetoError, SettingsError, ShapeError
from rmeeto.records import MergedImage
from rmeeto.reduction.reducer import Planner
from rmeeto.tokens import Slotted, TokenMap, Tokens, is_slotted


class Trace:
    """The maps of the last forward pass, in the order of the merges.

    Attributes:
        maps: one map per merge that happened.
        entered: (b, k) int64, where the protected tokens stood at the first block; None before a forward pass.
        tokens: tokens that entered the first block.
    """

    def __init__(self) -> None:
        self.maps: list[TokenMap] = []
        self.entered: Tensor | None = None
        self.tokens = 0

    def composed(self) -> TokenMap:
        """The map of the tokens that entered onto those that are left.

        Raises:
            RmeetoError: no forward pass was watched.
        """
        entered = self._entered()
        composed = TokenMap.identity(entered.shape[0], self.tokens, entered.device)
        for later in self.maps:
            composed = composed.then(later)
        return composed

    def images(self, grid: tuple[int, ...]) -> list[MergedImage]:
        """One record per image or video of the batch: the final token of each patch.

        Args:
            grid: (rows, columns) of patches, in reading order in the sequence; (frames, rows, columns) of a video,
                whose record is one tall image, its frames one under the other.

        Raises:
            ShapeError: the grid has not as many patches as the sequence.
            RmeetoError: no forward pass was watched.
        """
        places, composed = self._entered(), self.composed()
        patches = self.tokens - places.shape[1]
        rows, columns = math.prod(grid[:-1]), grid[-1]
        if rows * columns != patches:
            raise ShapeError(
                f"a grid of {'x'.join(map(str, grid))} has {rows * columns} patches and the model saw {patches}; "
                "give the model's own grid size"
            )
        index = composed.index if composed.kept is None else composed.index.masked_fill(~composed.kept, -1)
        final = composed.move(places).tolist()
        images = []
        for row, own, protected in zip(index.tolist(), places.tolist(), final, strict=True):
            groups = tuple(token for place, token in enumerate(row) if place not in own)
            images.append(MergedImage((rows, columns), groups, tuple(protected), composed.length))
        return images

    def _entered(self) -> Tensor:
        if self.entered is None:
            raise RmeetoError("nothing was traced yet; call the model inside `with trace(model)` first")
        return self.entered

    def _begin(self, _slot: nn.Module, arguments: tuple[Any, ...]) -> None:
        tokens: Tokens = arguments[0]
        self.maps, self.entered, self.tokens = [], tokens.places, tokens.x.shape[1]

    def _collect(self, _planner: nn.Module, _arguments: tuple[Any, ...], mapping: TokenMap) -> None:
        self.maps.append(mapping)


@contextmanager
def trace(model: Slotted) -> Iterator[Trace]:
    """Watch the forward passes inside the `with`; the last one is kept.

    Of one thread at a time, and of the reducers that are there when it begins: after `attach` or `detach`, and inside
    `detached`, trace anew.

    Example:
        with trace(model) as seen:
            logits = model(images)
        pictures = seen.images(model.grid_size)

    Raises:
        SettingsError: the model has no slots.
    """
    if not is_slotted(model) or not len(model.slots):
        raise SettingsError(f"{type(model).__name__} has no slots to watch; give the model itself, not a wrapper of it")
    seen = Trace()
    planners = [module for module in model.slots.modules() if isinstance(module, Planner)]
    handles = [model.slots[0].register_forward_pre_hook(seen._begin)]
    handles += [planner.register_forward_hook(seen._collect) for planner in planners]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
