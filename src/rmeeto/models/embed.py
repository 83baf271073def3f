"""From pixels to tokens: patches, the class token, positions."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from timm.layers import lecun_normal_, trunc_normal_
from torch import Tensor, nn

from rmeeto._shapes import Float
from rmeeto.errors import ShapeError
from rmeeto.models.configs import VimConfig


class PatchEmbed(nn.Module):
    """Cut an image into patches and project each to the model's width.

    (b, in_chans, height, width) -> (b, n_patches, c), patches in reading order.
    """

    def __init__(self, config: VimConfig) -> None:
        super().__init__()
        self.img_size, self.in_chans = config.img_size, config.in_chans
        self.proj = nn.Conv2d(
            config.in_chans, config.embed_dim, kernel_size=config.patch_size, stride=config.stride or config.patch_size
        )
        lecun_normal_(self.proj.weight)
        if self.proj.bias is not None:  # it is there; the type does not know it
            nn.init.zeros_(self.proj.bias)

    def forward(self, images: Tensor) -> Tensor:
        expected = (self.in_chans, *self.img_size)
        if tuple(images.shape[1:]) != expected:
            raise ShapeError(
                f"images of shape {tuple(images.shape)} do not fit a model made for "
                f"(b, {', '.join(map(str, expected))}); resize the images, or create the "
                "model with img_size and in_chans of your images"
            )
        return self.proj(images).flatten(2).transpose(1, 2)


def place_class_token(
    patches: Float[Tensor, "b p c"], class_token: Float[Tensor, "1 1 c"], place: int
) -> Float[Tensor, "b n c"]:
    """(b, n - 1, c) patches and a (1, 1, c) class token -> (b, n, c) with the class token at `place`."""
    one = class_token.expand(patches.shape[0], -1, -1)
    return torch.cat((patches[:, :place], one, patches[:, place:]), dim=1)


def new_parameter(*shape: int) -> nn.Parameter:
    """A learned token or position table, truncated normal of deviation 0.02."""
    parameter = nn.Parameter(torch.empty(*shape))
    trunc_normal_(parameter, std=0.02)
    return parameter


def resize_positions(table: Float[Tensor, "1 old c"], config: VimConfig) -> Float[Tensor, "1 n c"]:
    """A position table of another square grid, fitted to this model's grid by bicubic interpolation.

    Args:
        table: (1, n_old + 1, c) positions, the class token's among them.
        config: the sizes to fit; the class token is taken from, and put, where the config places it.

    Returns:
        (1, n + 1, c) positions; `table` itself where the length is right already.

    Raises:
        ShapeError: the old positions are not those of a square grid with one class token.
    """
    old = table.shape[1] - 1
    if old == config.num_patches:
        return table
    side = math.isqrt(old)
    if side * side != old:
        raise ShapeError(
            f"pos_embed has {old + 1} positions, which is no square grid and a class token; "
            "load it into a model of its own img_size first"
        )
    place = old // 2 if config.class_token == "middle" else 0
    own, patches = table[:, place : place + 1], torch.cat((table[:, :place], table[:, place + 1 :]), dim=1)
    grid = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    fitted = F.interpolate(grid, size=config.grid_size, mode="bicubic", antialias=True, align_corners=False)
    patches = fitted.flatten(2).transpose(1, 2).to(table.dtype)
    return place_class_token(patches, own, config.class_place)
