"""Vision Mamba (Vim, arXiv 2401.09417; VideoMamba, arXiv 2403.06977) as a configuration of parts.

State-dict names are the official ones.
"""

from __future__ import annotations

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from rmeeto._shapes import Float
from rmeeto.errors import SettingsError
from rmeeto.models import stack
from rmeeto.models.configs import VimConfig
from rmeeto.models.embed import PatchEmbed, new_parameter, place_class_token, video_positions
from rmeeto.tokens import Tokens

# Parameters that weight decay would pull away from what they mean.
_UNDECAYED = ("A_log", "A_b_log", "D", "D_b", "cls_token", "pos_embed", "temporal_pos_embedding")


class Vim(nn.Module):
    """A bidirectional Vision Mamba that returns logits, always.

    `slots` holds one module after each block, `nn.Identity` at first; `rmeeto.attach` puts reducers there.

    Args:
        config: the sizes.
    """

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
        self.layers = nn.ModuleList(stack.Block(config) for _ in range(config.depth))
        self.slots = nn.ModuleList(nn.Identity() for _ in range(config.depth))
        self.norm_f = nn.RMSNorm(config.embed_dim, eps=config.norm_eps)
        self.head = nn.Linear(config.embed_dim, config.num_classes)
        trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
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
        """Outputs of the head."""
        return self.config.num_classes

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay must leave alone."""
        return {name for name, _ in self.named_parameters() if name.rsplit(".", 1)[-1] in _UNDECAYED}

    def positions(self) -> Float[Tensor, "1 n c"]:
        """(1, n, c) positions of all tokens that enter the first block."""
        if self.temporal_pos_embedding is None:
            return self.pos_embed
        return video_positions(self.pos_embed, self.temporal_pos_embedding, self.config)

    def embed(self, images: Float[Tensor, "b channels *size"]) -> Tokens:
        """(b, in_chans, [frames,] height, width) images or videos -> tokens with class token and positions."""
        place = self.config.class_place
        x = place_class_token(self.patch_embed(images), self.cls_token, place) + self.positions()
        return Tokens(x=x, places=torch.full((x.shape[0], 1), place, device=x.device))

    def forward_tokens(self, images: Float[Tensor, "b channels *size"]) -> Tokens:
        """Tokens after the last block and its slot, before the final norm."""
        return stack.run(self.embed(images), self.layers, self.slots)

    def forward_features(self, images: Float[Tensor, "b channels *size"]) -> Float[Tensor, "b m c"]:
        """(b, in_chans, [frames,] height, width) images or videos -> (b, m, c) normed tokens that are left."""
        return self.norm_f(self.forward_tokens(images).x)

    def forward(self, images: Float[Tensor, "b channels *size"]) -> Float[Tensor, "b classes"]:
        """(b, in_chans, [frames,] height, width) normalised images or videos -> (b, num_classes) logits.

        Raises:
            ShapeError: the images have another size than the model was made for.
        """
        tokens = self.forward_tokens(images)
        at = tokens.places[:, :1, None].expand(-1, -1, tokens.x.shape[-1])
        # Only the class token's row is normed: a norm acts on each token alone.
        return self.head(self.norm_f(tokens.x.gather(1, at).squeeze(1)))


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
