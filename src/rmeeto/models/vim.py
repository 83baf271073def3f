"""Vision Mamba (Vim, arXiv 2401.09417; VideoMamba, arXiv 2403.06977) as a configuration of parts.

State-dict names are the official ones; the methods beside `forward` are those of timm's VisionTransformer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from timm.layers import trunc_normal_
from timm.models._input import update_model_input_size
from torch import Tensor, nn

from rmeeto._shapes import Float
from rmeeto.errors import SettingsError, ShapeError
from rmeeto.models import intermediates, stack
from rmeeto.models.configs import GlobalPool, VimConfig
from rmeeto.models.embed import (
    PatchDropout,
    PatchEmbed,
    new_parameter,
    place_class_token,
    resize_frames,
    resize_positions,
    video_positions,
)
from rmeeto.tokens import Tokens, protected_first

# Parameters that weight decay would pull away from what they mean.
_UNDECAYED = ("A_log", "A_b_log", "D", "D_b", "cls_token", "pos_embed", "temporal_pos_embedding")


class Vim(nn.Module):
    """A bidirectional Vision Mamba that returns logits, always.

    `slots` holds one module after each block, `nn.Identity` at first; `rmeeto.attach` puts reducers there.

    Args:
        config: the sizes.

    Attributes:
        config: the sizes as they are now; `reset_classifier` and `set_input_size` change them.
        grad_checkpointing: whether blocks are computed again for the gradients instead of being kept.
    """

    num_prefix_tokens = 1  # timm's word for the class token

    def __init__(self, config: VimConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_token = new_parameter(1, 1, config.embed_dim)
        self.pos_embed = new_parameter(1, config.frame_patches + 1, config.embed_dim)
        # Zeros, as published: a video begins as frames that are all alike.
        self.temporal_pos_embedding = (
            None if config.num_frames is None else nn.Parameter(torch.zeros(1, config.num_frames, config.embed_dim))
        )
        self.patch_embed = PatchEmbed(config)
        self.patch_drop = PatchDropout(config.class_place)
        self.layers = nn.ModuleList(stack.Block(config) for _ in range(config.depth))
        self.slots = nn.ModuleList(nn.Identity() for _ in range(config.depth))
        self.norm_f: nn.Module = nn.RMSNorm(config.embed_dim, eps=config.norm_eps)
        self.head_drop = nn.Dropout(config.drop_rate)
        self.head = _head(config)
        self.grad_checkpointing = False
        self.feature_info = intermediates.feature_info(config)
        stack.set_drop_path(self, config.drop_path_rate)

    @property
    def num_tokens(self) -> int:
        """Tokens that enter the first block, the class token included."""
        return self.config.num_patches + 1

    @property
    def num_protected(self) -> int:
        """Tokens that no reducer may touch: the class token."""
        return 1

    @property
    def grid_size(self) -> tuple[int, ...]:
        """(rows, columns) of the patches of an image, (frames, rows, columns) of those of a video."""
        frames = () if self.config.num_frames is None else (self.config.num_frames,)
        return (*frames, *self.config.grid_size)

    @property
    def num_classes(self) -> int:
        """Outputs of the head; 0 without one."""
        return self.config.num_classes

    @property
    def in_chans(self) -> int:
        """Colour channels of the input."""
        return self.config.in_chans

    @property
    def global_pool(self) -> GlobalPool:
        """What the head reads (see `VimConfig`)."""
        return self.config.global_pool

    @property
    def num_features(self) -> int:
        """Width of the features, c."""
        return self.config.embed_dim

    embed_dim = head_hidden_size = num_features

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay must leave alone."""
        return {name for name, _ in self.named_parameters() if name.rsplit(".", 1)[-1] in _UNDECAYED}

    @torch.jit.ignore
    def group_matcher(self, *, coarse: bool = False) -> dict[str, Any]:  # noqa: ARG002 - timm's signature
        """Patterns of the parameters' names by depth, as timm's layer decay reads them: stem, then each block."""
        return {
            "stem": r"^cls_token|pos_embed|temporal_pos_embedding|patch_embed",
            "blocks": [(r"^layers\.(\d+)", None), (r"^norm_f", (99999,))],
        }

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:  # noqa: FBT001, FBT002  (timm's signature)
        """Keep only the input of each block and compute the block again for the gradients: less memory, more time."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: GlobalPool | None = None) -> None:
        """A new head, in place, with random weights.

        Args:
            num_classes: its outputs; 0 for none.
            global_pool: what it reads; None leaves that as it is.

        Raises:
            SettingsError: there is no such head.
        """
        pool = self.global_pool if global_pool is None else global_pool
        self.config = replace(self.config, num_classes=num_classes, global_pool=pool)
        self.head = _head(self.config).to(self.cls_token).train(self.training)

    def set_input_size(self, img_size: int | tuple[int, int] | None = None, *, num_frames: int | None = None) -> None:
        """Take inputs of another size, in place; the positions are interpolated.

        Args:
            img_size: (height, width), or the side of a square; None leaves it as it is.
            num_frames: frames of a video; None leaves it as it is.

        Raises:
            ShapeError: the patches do not fill the image.
            SettingsError: frames are asked of a model of images.
        """
        old = self.config
        if num_frames is not None and old.num_frames is None:
            raise SettingsError(f"num_frames = {num_frames} is for videos and this model takes images; leave it out")
        size: Any = old.img_size if img_size is None else img_size
        self.config = new = replace(old, img_size=size, num_frames=old.num_frames if num_frames is None else num_frames)
        self.pos_embed = _like(self.pos_embed, resize_positions(self.pos_embed.detach(), new, old.grid_size))
        if self.temporal_pos_embedding is not None and new.num_frames is not None:
            table = resize_frames(self.temporal_pos_embedding.detach(), new.num_frames)
            self.temporal_pos_embedding = _like(self.temporal_pos_embedding, table)
        self.patch_embed.input_shape = new.input_shape
        self.patch_drop.class_place = new.class_place
        update_model_input_size(self, new.img_size)  # what timm's data configuration and export read

    def positions(self) -> Float[Tensor, "1 n c"]:
        """(1, n, c) positions of all tokens that enter the first block."""
        if self.temporal_pos_embedding is None:
            return self.pos_embed
        return video_positions(self.pos_embed, self.temporal_pos_embedding, self.config)

    def embed(self, images: Float[Tensor, "b channels *size"]) -> Tokens:
        """(b, in_chans, [frames,] height, width) images or videos -> tokens with class token and positions."""
        place = self.config.class_place
        x = place_class_token(self.patch_embed(images), self.cls_token, place) + self.positions()
        return self.patch_drop(Tokens(x=x, places=torch.full((x.shape[0], 1), place, device=x.device)))

    def forward_tokens(self, images: Float[Tensor, "b channels *size"]) -> Tokens:
        """Tokens after the last block and its slot, before the final norm."""
        return stack.run(self.embed(images), self.layers, self.slots, self.call)

    @property
    def call(self) -> stack.Call:
        """How a block is run."""
        return stack.recomputing if self.grad_checkpointing and torch.is_grad_enabled() else stack.plainly

    def forward_features(self, images: Float[Tensor, "b channels *size"]) -> Float[Tensor, "b m c"]:
        """(b, in_chans, [frames,] height, width) images or videos -> (b, m, c) normed tokens that are left.

        The class token comes first, wherever it stood, as in timm's ViT; the others keep their order.
        """
        tokens = self.forward_tokens(images)
        return protected_first(self.norm_f(tokens.x), tokens.places)

    def forward_head(self, features: Float[Tensor, "b m c"], *, pre_logits: bool = False) -> Tensor:
        """What `forward_features` gave -> (b, num_classes) logits, or what the head reads where `pre_logits`.

        Raises:
            ShapeError: the mean of patches is asked of merged tokens, whose sizes are not among the features.
        """
        pool = self.config.global_pool
        if pool == "avg" and features.shape[1] != self.num_tokens:
            raise ShapeError(
                f"{features.shape[1]} of {self.num_tokens} tokens are left, whose mean needs their sizes; call the "
                "model itself, or model.pool(model.forward_tokens(images))"
            )
        if pool:
            features = features[:, 0] if pool == "token" else features[:, 1:].mean(dim=1)
        features = self.head_drop(features)
        return features if pre_logits else self.head(features)

    def pool(self, tokens: Tokens) -> Tensor:
        """Tokens after the last block -> (b, c) normed features that the head reads; (b, m, c) where it reads all."""
        if self.config.global_pool == "token":
            at = tokens.places[:, :1, None].expand(-1, -1, tokens.x.shape[-1])
            # Only the class token's row is normed: a norm acts on each token alone.
            return self.norm_f(tokens.x.gather(1, at).squeeze(1))
        x = self.norm_f(tokens.x)
        if self.config.global_pool == "":
            return protected_first(x, tokens.places)
        sizes = tokens.sizes().scatter(1, tokens.places, 0.0)
        shares = sizes / sizes.sum(dim=1, keepdim=True)
        return (x * shares.unsqueeze(-1)).sum(dim=1).to(x.dtype)

    def forward(self, images: Float[Tensor, "b channels *size"]) -> Tensor:
        """(b, in_chans, [frames,] height, width) normalised images or videos -> (b, num_classes) logits.

        Without a head (num_classes 0) the features that it would read.

        Raises:
            ShapeError: the images have another size, or another dtype, than the model was made for.
        """
        return self.head(self.head_drop(self.pool(self.forward_tokens(images))))

    def forward_intermediates(
        self,
        images: Float[Tensor, "b channels *size"],
        indices: int | Sequence[int] | None = None,
        *,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: intermediates.OutputFormat = "NCHW",
        intermediates_only: bool = False,
        output_dict: bool = False,
        unmerge: bool = False,
    ) -> Any:
        """Features of the patches after chosen blocks, as timm's ViT gives them.

        Args:
            images: (b, in_chans, [frames,] height, width).
            indices: the last so many blocks, or these (negative ones from the end); None means all.
            return_prefix_tokens: give (patches, class token) for each.
            norm: put the final norm on each.
            stop_early: leave out the blocks behind the last one asked for.
            output_fmt: "NCHW" for (b, c, [frames,] rows, columns), "NLC" for (b, n, c).
            intermediates_only: leave out the final features.
            output_dict: give a dictionary with image_intermediates, image_features, image_intermediates_prefix.
            unmerge: every patch that entered gets the features of the token it has become, so that a merged model
                too gives (b, c, rows, columns); a pruned patch those of the token it resembled.

        Returns:
            the final features (b, 1 + n, c), class token first, and a list of the intermediates, taken before the
            slot behind their block.

        Raises:
            SettingsError: a block that is not there, or an unknown format.
            ShapeError: tokens are missing for NCHW.
        """
        form = intermediates.Form(
            return_prefix_tokens=return_prefix_tokens,
            norm=norm,
            stop_early=stop_early,
            output_fmt=output_fmt,
            intermediates_only=intermediates_only,
            output_dict=output_dict,
            unmerge=unmerge,
        )
        return intermediates.forward(self, images, indices, form)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, *, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the blocks behind the last one asked for, in place, and the final norm and the head if told to.

        Returns:
            the numbers of the blocks asked for.
        """
        taken = intermediates.taken(indices, len(self.layers))
        self.layers, self.slots = self.layers[: taken[-1] + 1], self.slots[: taken[-1] + 1]
        self.config = replace(self.config, depth=len(self.layers))
        if prune_norm:
            self.norm_f = nn.Identity()
        if prune_head:
            self.reset_classifier(0, "")
        return taken


def _head(config: VimConfig) -> nn.Module:
    if config.num_classes == 0:
        return nn.Identity()
    head = nn.Linear(config.embed_dim, config.num_classes)
    trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head


def _like(parameter: nn.Parameter, values: Tensor) -> nn.Parameter:
    """A parameter of other values, learned or frozen as the old one."""
    return nn.Parameter(values.clone(), requires_grad=parameter.requires_grad)


def cast_weights(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast floating-point weights in place, all but A_log, D and the time bias, which a scan needs in float32.

    Raises:
        SettingsError: `dtype` is not a floating-point type.
    """
    if not dtype.is_floating_point:
        raise SettingsError(f"{dtype} is not a floating-point type; use torch.float32 or torch.bfloat16")
    for name, parameter in model.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if leaf in ("A_log", "A_b_log", "D", "D_b") or name.endswith(("dt_proj.bias", "dt_proj_b.bias")):
            continue
        parameter.data = parameter.data.to(dtype)
    return model
