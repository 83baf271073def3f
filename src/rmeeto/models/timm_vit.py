"""timm's ViT and DeiT with a slot in every block, between attention and MLP, by adopting the model in place.

No forward pass is written again: `adopt` gives the model and its blocks subclasses of their own classes, `release`
gives the classes back. A block is called by timm with a tensor; once tokens were merged, `Tokens` travel to the next
block in its stead, and the last block hands timm a tensor again. So nothing is kept between calls, and nothing leaks:
not after an exception, not between threads, not into a compiled graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block, ResPostBlock, VisionTransformer
from torch import Tensor, nn

from rmeeto._shapes import Float
from rmeeto.errors import SettingsError
from rmeeto.tokens import Features, Tokens, is_slotted

M = TypeVar("M", bound=nn.Module)
Half = Callable[[Any, Tensor, Callable[[Tensor], Tensor]], Tensor]


def adopt(model: M) -> M:
    """Give every block of a timm `VisionTransformer` a slot, in place: a model that `rmeeto.attach` takes.

    With empty slots all outputs are timm's, bit for bit; names and values of the state dict never change. Prefix
    tokens (class, distillation, registers) are protected. Pooling by average or attention sees the tokens that are
    left, each counting once. An adopted model is returned as it is.

    Example:
        model = adopt(timm.create_model("deit_small_patch16_224"))
        attach(model, Schedule.of([8] * 12), Settings(split="sequence", feature="k"))

    Args:
        model: a timm `VisionTransformer` or a subclass of it, with pre- or post-norm blocks.

    Raises:
        SettingsError: another model, or blocks without a place between attention and MLP.
    """
    if isinstance(model, _AdoptedModel):
        return model
    if not isinstance(model, VisionTransformer):
        raise SettingsError(f"{type(model).__name__} is no timm VisionTransformer; only such can be adopted")
    strangers = sorted({type(block).__name__ for block in model.blocks if type(block).forward not in _HALVES})
    if strangers:
        raise SettingsError(
            f"blocks of kind {', '.join(strangers)} have no place between attention and MLP; "
            "adopt a model of timm's Block or ResPostBlock"
        )
    slots = nn.ModuleList(nn.Identity() for _ in model.blocks)
    for place, block in enumerate(model.blocks):
        # Beside the registered modules: the slots belong to the model, a block only knows them.
        block.__dict__.update(_slots=slots, _place=place, _prefix=model.num_prefix_tokens)
        block.__class__ = _adopted(type(block), _AdoptedBlock)
    model.slots = slots
    model.__class__ = _adopted(type(model), _AdoptedModel)
    return model


def release(model: M) -> M:
    """Take the slots out again, in place, whatever stood in them: exactly timm's model. Any other is left as it is."""
    if isinstance(model, _AdoptedModel):
        for block in model.blocks:
            block.__class__ = block.timm_class
            for name in ("_slots", "_place", "_prefix"):
                del block.__dict__[name]
        model.__class__ = model.timm_class
        del model.slots
    return model


@contextmanager
def adopted(model: M) -> Iterator[M]:
    """The model with slots inside the `with`, as it was afterwards."""
    before = is_slotted(model)
    try:
        yield adopt(model)
    finally:
        if not before:
            release(model)


class _Adopted:
    """What adopted models and blocks share: the way back, and copies and pickles without a class of their own name."""

    timm_class: type[nn.Module]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        kind = _AdoptedModel if isinstance(self, _AdoptedModel) else _AdoptedBlock
        return _blank, (self.timm_class, kind), self.__dict__


class _AdoptedModel(_Adopted):
    slots: nn.ModuleList

    @property
    def num_tokens(self) -> int:
        """Tokens that enter the first block at the model's own image size, prefix tokens included."""
        return self.patch_embed.num_patches + self.num_prefix_tokens  # type: ignore[attr-defined]

    @property
    def num_protected(self) -> int:
        """Tokens that no reducer may touch: class token, distillation token, registers."""
        return self.num_prefix_tokens  # type: ignore[attr-defined]

    @property
    def grid_size(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return self.patch_embed.grid_size  # type: ignore[attr-defined]

    def forward_intermediates(self, *args: Any, **kwargs: Any) -> Any:
        if any(not isinstance(slot, nn.Identity) for slot in self.slots):
            raise SettingsError("merged tokens are no grid; call forward_intermediates inside `with detached(model)`")
        return super().forward_intermediates(*args, **kwargs)  # type: ignore[misc]

    def prune_intermediate_layers(self, *args: Any, **kwargs: Any) -> Any:
        taken = super().prune_intermediate_layers(*args, **kwargs)  # type: ignore[misc]
        del self.slots[len(self.blocks) :]  # type: ignore[attr-defined]
        return taken


class _AdoptedBlock(_Adopted):
    """Attention half, slot, MLP half; tensors until something is merged, `Tokens` from there to the last block."""

    _slots: nn.ModuleList
    _place: int
    _prefix: int
    attn: Any
    mlp: nn.Module

    def forward(
        self, x: Float[Tensor, "b n c"] | Tokens, *, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Float[Tensor, "b m c"] | Tokens:
        tokens = x if isinstance(x, Tokens) else self._received(x)
        if tokens.size is not None and (attn_mask is not None or is_causal):
            raise SettingsError("an attention mask does not fit merged tokens; use it inside `with detached(model)`")
        if tokens.weight is not None:
            attn_mask = tokens.weight.log().to(tokens.x.dtype)[:, None, None, :]
        attention_half, mlp_half = _HALVES[self.timm_class.forward]
        slot, heads = self._slots[self._place], {}

        def attend(normed: Tensor) -> Tensor:
            asked = set("qkv") & set(getattr(slot, "reads", ()))
            if not asked or type(self.attn).forward is not Attention.forward:
                return self.attn(normed, attn_mask=attn_mask, is_causal=is_causal)
            qkv = self.attn.qkv(normed)
            heads.update(_heads(qkv, self.attn.head_dim))
            return Attention.forward(_Given(self.attn, qkv), normed, attn_mask, is_causal)

        attended = attention_half(self, tokens.x, attend)
        tokens = slot(replace(tokens, x=attended, features=Features(attended, **heads)))
        out = mlp_half(self, tokens.x, self.mlp)
        if tokens.size is None or self._place == len(self._slots) - 1:
            return out
        return replace(tokens, x=out, features=None)

    def _received(self, x: Float[Tensor, "b n c"]) -> Tokens:
        return Tokens(x, torch.arange(self._prefix, device=x.device).expand(x.shape[0], -1))


class _Given:
    """An `Attention` whose queries, keys and values are computed already."""

    def __init__(self, attention: nn.Module, qkv: Tensor) -> None:
        self._attention, self._qkv = attention, qkv

    def __getattr__(self, name: str) -> Any:
        return getattr(self._attention, name)

    def qkv(self, _x: Tensor) -> Tensor:
        return self._qkv


def _heads(qkv: Float[Tensor, "b n qkv"], head_dim: int) -> dict[str, tuple[Tensor, ...]]:
    """(b, n, 3 heads d) -> per name and head a (b, n, d) view."""
    parts = qkv.chunk(3, dim=-1)
    return {name: part.unflatten(-1, (-1, head_dim)).unbind(2) for name, part in zip("qkv", parts, strict=True)}


def _prenorm_attention(block: Any, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
    return x + block.drop_path1(block.ls1(attend(block.norm1(x))))


def _prenorm_mlp(block: Any, x: Tensor, mlp: Callable[[Tensor], Tensor]) -> Tensor:
    return x + block.drop_path2(block.ls2(mlp(block.norm2(x))))


def _postnorm_attention(block: Any, x: Tensor, attend: Callable[[Tensor], Tensor]) -> Tensor:
    return x + block.drop_path1(block.norm1(attend(x)))


def _postnorm_mlp(block: Any, x: Tensor, mlp: Callable[[Tensor], Tensor]) -> Tensor:
    return x + block.drop_path2(block.norm2(mlp(x)))


# By the forward pass that they stand for, so that a subclass with a forward pass of its own is not taken for one.
_HALVES: dict[Callable[..., Tensor], tuple[Half, Half]] = {
    Block.forward: (_prenorm_attention, _prenorm_mlp),
    ResPostBlock.forward: (_postnorm_attention, _postnorm_mlp),
}


_CLASSES: dict[type[nn.Module], type[Any]] = {}


def _adopted(timm_class: type[nn.Module], kind: type[_Adopted]) -> type[Any]:
    """The one subclass of timm's class and of `kind`."""
    if timm_class not in _CLASSES:
        _CLASSES[timm_class] = type(f"Adopted{timm_class.__name__}", (kind, timm_class), {"timm_class": timm_class})
    return _CLASSES[timm_class]


def _blank(timm_class: type[nn.Module], kind: type[_Adopted]) -> _Adopted:
    """An adopted object without its state, for copies and pickles."""
    subclass: type[_Adopted] = _adopted(timm_class, kind)
    return subclass.__new__(subclass)
