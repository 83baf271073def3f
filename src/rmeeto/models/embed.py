"""From pixels to tokens: patches, the class token, positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from timm.layers import lecun_normal_, trunc_normal_
from torch import Tensor, nn

from rmeeto._shapes import Float
from rmeeto.errors import ShapeError
from rmeeto.models.configs import VimConfig
from rmeeto.models.layers import PatchConv2d, PatchConv3d
from rmeeto.tokens import Tokens, at_rows

_CAST = (torch.float32, torch.bfloat16, torch.float16)  # what autocast takes to its own dtype


class PatchEmbed(nn.Module):
    """Cut an image, or each frame of a video, into patches and project each to the model's width.

    (b, in_chans, height, width) or (b, in_chans, frames, height, width) -> (b, n_patches, c), patches in reading
    order, one frame after the other.

    Raises:
        ShapeError: images of another size, or, outside of autocast, of another dtype.
    """

    def __init__(self, config: VimConfig) -> None:
        super().__init__()
        self.input_shape = config.input_shape
        self.proj = _projection(config)
        lecun_normal_(self.proj.weight)
        if self.proj.bias is not None:  # it is there; the type does not know it
            nn.init.zeros_(self.proj.bias)

    def forward(self, images: Tensor) -> Tensor:
        if tuple(images.shape[1:]) != self.input_shape:
            raise ShapeError(
                f"images of shape {tuple(images.shape)} do not fit a model made for "
                f"(b, {', '.join(map(str, self.input_shape))}); resize the images, or create the "
                "model with the img_size, in_chans and num_frames of yours"
            )
        kind = getattr(self.proj, "weight", images).dtype  # somebody's own projection may have none
        if images.dtype != kind and not (images.dtype in _CAST and _casts(images.device.type)):
            cure = f"call .to({kind})" if images.is_floating_point() else "scale and normalise their bytes first"
            raise ShapeError(f"images of {images.dtype} do not fit a model with weights of {kind}; {cure}")
        return self.proj(images).flatten(2).transpose(1, 2)


def _casts(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def _projection(config: VimConfig) -> nn.Conv2d | nn.Conv3d:
    patch, step = config.patch_size, config.stride or config.patch_size
    if config.num_frames is None:
        return PatchConv2d(config.in_chans, config.embed_dim, patch, step)
    return PatchConv3d(config.in_chans, config.embed_dim, (1, patch, patch), (1, step, step))


def place_class_token(
    patches: Float[Tensor, "b p c"], class_token: Float[Tensor, "1 1 c"], place: int
) -> Float[Tensor, "b n c"]:
    """(b, n - 1, c) patches and a (1, 1, c) class token -> (b, n, c) with the class token at `place`."""
    one = class_token.expand(patches.shape[0], -1, -1)
    return torch.cat((patches[:, :place], one, patches[:, place:]), dim=1)


class PatchDropout(nn.Module):
    """Leave out patches of each image while training; those that stay keep their order and their positions.

    As many on either side of the class token in every image, so that it has one place in the whole batch (timm's layer
    of this name is for class tokens in front).

    Args:
        class_place: where the class token stands.

    Attributes:
        rate: the largest share that is left out; each call draws its own between 0 and this one.
    """

    def __init__(self, class_place: int) -> None:
        super().__init__()
        self.class_place = class_place
        self.rate = 0.0

    def forward(self, tokens: Tokens) -> Tokens:
        if not (self.training and self.rate):
            return tokens
        shape = tokens.x.shape[:2]
        return self.leave_out(tokens, self.rate * torch.rand(()).item(), torch.rand(shape, device=tokens.x.device))

    def leave_out(self, tokens: Tokens, share: float, likings: Float[Tensor, "b n"]) -> Tokens:
        """Tokens without those that are liked least.

        Args:
            tokens: as they enter the first block.
            share: of the patches on either side that is left out, rounded down.
            likings: (b, n), anything that can be compared; that of the class token is not looked at.
        """
        place, n = self.class_place, tokens.x.shape[1]
        before = likings[:, :place].topk(place - int(share * place), dim=1, sorted=False).indices
        after = likings[:, place + 1 :]
        after = after.topk(after.shape[1] - int(share * (n - 1 - place)), dim=1, sorted=False).indices + place + 1
        stay = torch.cat((before, torch.full_like(after[:, :1], place), after), dim=1).sort(dim=1).values
        return replace(tokens, x=at_rows(tokens.x, stay), places=torch.full_like(tokens.places, before.shape[1]))


def new_parameter(*shape: int) -> nn.Parameter:
    """A learned token or position table, truncated normal of deviation 0.02."""
    parameter = nn.Parameter(torch.empty(*shape))
    trunc_normal_(parameter, std=0.02)
    return parameter


def video_positions(
    spatial: Float[Tensor, "1 p c"], temporal: Float[Tensor, "1 frames c"], config: VimConfig
) -> Float[Tensor, "1 n c"]:
    """One table for all tokens of a video: a patch has its place's position plus its frame's.

    Args:
        spatial: (1, n_patches_of_a_frame + 1, c), the class token's position among them.
        temporal: (1, frames, c).
        config: where the class token stands.
    """
    own, patches = _class_apart(spatial, config)
    per_frame = patches.unsqueeze(1) + temporal.unsqueeze(2)
    return place_class_token(per_frame.flatten(1, 2), own, config.class_place)


def fit_positions(state: Mapping[str, Tensor], config: VimConfig) -> dict[str, Tensor]:
    """Weights whose position tables fit the config's input size; everything else as it is.

    A table that cannot be fitted (no square grid, another width) is left as it is, for the loader to name.
    """
    fitted = dict(state)
    spatial, temporal = state.get("pos_embed"), state.get("temporal_pos_embedding")
    if spatial is not None and spatial.dim() == 3 and _is_square(spatial.shape[1] - 1):
        fitted["pos_embed"] = resize_positions(spatial, config)
    if temporal is not None and temporal.dim() == 3 and config.num_frames is not None:
        fitted["temporal_pos_embedding"] = resize_frames(temporal, config.num_frames)
    return fitted


def resize_frames(table: Float[Tensor, "1 old c"], frames: int) -> Float[Tensor, "1 frames c"]:
    """A table of frames' positions, fitted to another number of frames by linear interpolation, as published."""
    if table.shape[1] == frames:
        return table
    fitted = F.interpolate(table.float().transpose(1, 2), size=frames, mode="linear", align_corners=False)
    return fitted.transpose(1, 2).to(table.dtype)


def resize_positions(
    table: Float[Tensor, "1 old c"], config: VimConfig, old_grid: tuple[int, int] | None = None
) -> Float[Tensor, "1 n c"]:
    """A position table of another grid, fitted to this model's grid by bicubic interpolation.

    Args:
        table: (1, n_old + 1, c) positions of an image or one frame, the class token's among them.
        config: the sizes to fit; the class token is taken from, and put, where the config places it.
        old_grid: (rows, columns) that the table was made for; None means a square.

    Returns:
        (1, n + 1, c) positions; `table` itself where the grid is right already.

    Raises:
        ShapeError: the old positions are not those of such a grid with one class token.
    """
    old = table.shape[1] - 1
    if old_grid is None and old == config.frame_patches:
        return table
    rows, columns = old_grid or (math.isqrt(old), math.isqrt(old))
    if rows * columns != old:
        raise ShapeError(
            f"pos_embed has {old + 1} positions, which is no square grid and a class token; "
            "load it into a model of its own img_size first"
        )
    if (rows, columns) == config.grid_size:
        return table
    own, patches = _class_apart(table, config)
    grid = patches.reshape(1, rows, columns, -1).permute(0, 3, 1, 2).float()
    fitted = F.interpolate(grid, size=config.grid_size, mode="bicubic", antialias=True, align_corners=False)
    patches = fitted.flatten(2).transpose(1, 2).to(table.dtype)
    return place_class_token(patches, own, config.class_place_among(config.frame_patches))


def _class_apart(
    table: Float[Tensor, "1 n c"], config: VimConfig
) -> tuple[Float[Tensor, "1 1 c"], Float[Tensor, "1 p c"]]:
    """(1, 1, c) position of the class token and (1, n - 1, c) of the patches of an image or one frame."""
    place = config.class_place_among(table.shape[1] - 1)
    return table[:, place : place + 1], torch.cat((table[:, :place], table[:, place + 1 :]), dim=1)


def _is_square(number: int) -> bool:
    return number >= 0 and math.isqrt(number) ** 2 == number
