"""Features of the patches after chosen blocks, in the forms in which timm's models give them.

A merged model can give them at full resolution: every patch that entered gets the features of the token it has become.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from rmeeto._shapes import Float
from rmeeto.errors import SettingsError, ShapeError
from rmeeto.models import stack
from rmeeto.models.configs import VimConfig
from rmeeto.tokens import TokenMap, Tokens, protected_first

if TYPE_CHECKING:
    from rmeeto.models.vim import Vim

OutputFormat = Literal["NCHW", "NLC"]


@dataclass(frozen=True)
class Form:
    """What is given; the names are those of timm's `forward_intermediates`, told in `Vim.forward_intermediates`."""

    return_prefix_tokens: bool = False
    norm: bool = False
    stop_early: bool = False
    output_fmt: OutputFormat = "NCHW"
    intermediates_only: bool = False
    output_dict: bool = False
    unmerge: bool = False

    def __post_init__(self) -> None:
        if self.output_fmt not in ("NCHW", "NLC"):
            raise SettingsError(f"output_fmt = {self.output_fmt!r} is unknown; use 'NCHW' or 'NLC'")


def feature_info(config: VimConfig) -> list[dict[str, Any]]:
    """For each block what timm's feature extractors read: name, width, pixels per patch."""
    step = config.stride or config.patch_size
    return [{"module": f"layers.{i}", "num_chs": config.embed_dim, "reduction": step} for i in range(config.depth)]


def taken(indices: int | Sequence[int] | None, depth: int) -> list[int]:
    """The numbers of the blocks meant, rising: the last so many, these (negative ones from the end), or all.

    Raises:
        SettingsError: there is no such block, or none is asked for.
    """
    if indices is None or isinstance(indices, int):
        count = depth if indices is None else indices
        if not 0 < count <= depth:
            raise SettingsError(f"indices = {indices} asks for the last {indices} of {depth} blocks; give 1 to {depth}")
        return list(range(depth - count, depth))
    found = sorted({index + depth if index < 0 else index for index in indices})
    if not found or found[0] < 0 or found[-1] >= depth:
        raise SettingsError(
            f"indices = {list(indices)} are not all blocks of {depth}; give numbers from 0 to {depth - 1}"
        )
    return found


def forward(model: Vim, images: Tensor, indices: int | Sequence[int] | None, form: Form) -> Any:
    """See `Vim.forward_intermediates`."""
    blocks = taken(indices, len(model.layers))
    depth = blocks[-1] + 1 if form.stop_early else len(model.layers)
    tokens = model.embed(images)
    if form.unmerge:
        batch, count = tokens.x.shape[:2]
        tokens = replace(tokens, origin=TokenMap.identity(batch, count, tokens.x.device))
    keeping = _Keeping(model.call, blocks)
    tokens = stack.run(tokens, model.layers[:depth], model.slots[:depth], keeping)
    kept = [_rows(left, model.norm_f if form.norm else None, model, form) for left in keeping.kept]
    patches = [_shaped(rows[:, 1:], model, form) for rows in kept]
    final = None if form.intermediates_only else _rows(tokens, model.norm_f, model, form)
    return _packed(final, patches, [rows[:, :1] for rows in kept], form)


class _Keeping:
    """Calls blocks as `call` does and keeps the tokens that the chosen ones leave, before any slot."""

    def __init__(self, call: stack.Call, blocks: Sequence[int]) -> None:
        self.call, self.blocks, self.number = call, blocks, 0
        self.kept: list[Tokens] = []

    def __call__(self, block: nn.Module, tokens: Tokens) -> Tokens:
        left = self.call(block, tokens)
        if self.number in self.blocks:
            self.kept.append(replace(left, features=None))
        self.number += 1
        return left


def _rows(tokens: Tokens, norm: nn.Module | None, model: Vim, form: Form) -> Float[Tensor, "b n c"]:
    """(b, m, c) or, un-merged, (b, n, c) features, the class token first."""
    x, places = tokens.x if norm is None else norm(tokens.x), tokens.places
    if form.unmerge and tokens.origin is not None:
        x, places = tokens.origin.unmerge(x), torch.full_like(places, model.config.class_place)
    return protected_first(x, places)


def _shaped(patches: Float[Tensor, "b n c"], model: Vim, form: Form) -> Tensor:
    if form.output_fmt == "NLC":
        return patches
    if patches.shape[1] != model.config.num_patches:
        raise ShapeError(
            f"{patches.shape[1]} of {model.config.num_patches} patches are left and fill no grid of "
            f"{'x'.join(map(str, model.grid_size))}; give unmerge=True, or output_fmt='NLC'"
        )
    return patches.transpose(1, 2).unflatten(2, model.grid_size).contiguous()


def _packed(final: Tensor | None, patches: list[Tensor], prefixes: list[Tensor], form: Form) -> Any:
    if form.output_dict:
        named: dict[str, Any] = {"image_intermediates": patches}
        if form.return_prefix_tokens:
            named["image_intermediates_prefix"] = prefixes
        return named if final is None else {**named, "image_features": final}
    given: list[Any] = list(zip(patches, prefixes, strict=True)) if form.return_prefix_tokens else list(patches)
    return given if final is None else (final, given)
