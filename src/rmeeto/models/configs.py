"""The sizes of a Vision Mamba as one frozen value, and the named ones."""

from __future__ import annotations

import dataclasses
import difflib
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rmeeto.errors import SettingsError, ShapeError

ClassTokenPlace = Literal["middle", "first"]
DirectionSum = Literal["mean", "sum"]
GlobalPool = Literal["token", "avg", ""]

_CHOICES = {
    "class_token": get_args(ClassTokenPlace),
    "directions": get_args(DirectionSum),
    "global_pool": get_args(GlobalPool),
}


@dataclass(frozen=True)
class VimConfig:
    """Sizes of a bidirectional Vision Mamba for images or videos.

    Attributes:
        img_size: (height, width) in pixels; one integer means a square.
        num_frames: frames of a video, each cut into patches of its own; None means an image.
        patch_size: side of a patch in pixels.
        stride: pixels between patches; None means patch_size (no overlap).
        in_chans: colour channels of the input.
        num_classes: outputs of the head; 0 means no head, the model then gives features.
        embed_dim: model width c.
        depth: number of blocks.
        expand: inner width e = expand * embed_dim.
        state_size: numbers that the scan keeps per inner channel, s.
        conv_width: taps of the causal convolution.
        dt_rank: rank R of the projection to the time step; None means ceil(c / 16).
        class_token: where the class token stands, "middle" (n_patches // 2, Vim) or "first" (VideoMamba).
        directions: how the two directions meet, "mean" (Vim) or "sum" (VideoMamba).
        global_pool: what the head reads, "token" the class token, "avg" the mean of the patches, each counted as often
            as it was merged, "" every token, the class token first.
        drop_rate: dropout before the head.
        drop_path_rate: stochastic depth of the last block, rising linearly from 0.
        norm_eps: epsilon of the RMS norms.

    Raises:
        SettingsError: a size is not positive, or an unknown place or direction sum.
        ShapeError: the patches do not fill the image.
    """

    img_size: tuple[int, int] = (224, 224)
    num_frames: int | None = None
    patch_size: int = 16
    stride: int | None = None
    in_chans: int = 3
    num_classes: int = 1000
    embed_dim: int = 192
    depth: int = 24
    expand: int = 2
    state_size: int = 16
    conv_width: int = 4
    dt_rank: int | None = None
    class_token: ClassTokenPlace = "middle"
    directions: DirectionSum = "mean"
    global_pool: GlobalPool = "token"
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        if isinstance(self.img_size, int):
            object.__setattr__(self, "img_size", (self.img_size, self.img_size))
        object.__setattr__(self, "img_size", tuple(self.img_size))
        for name in (
            "patch_size",
            "in_chans",
            "embed_dim",
            "depth",
            "expand",
            "state_size",
            "conv_width",
        ):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} = {getattr(self, name)} is not a size; give 1 or more")
        if self.num_frames is not None and self.num_frames < 1:
            raise SettingsError(f"num_frames = {self.num_frames} is no video; give 1 or more, or None for an image")
        if self.num_classes < 0:
            raise SettingsError(f"num_classes = {self.num_classes} is negative; give 1 or more, or 0 for no head")
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise SettingsError(f"{name} = {value!r} is unknown; use {' or '.join(map(repr, choices))}")
        for name in ("drop_rate", "drop_path_rate"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise SettingsError(f"{name} = {getattr(self, name)} is outside [0, 1); 0.1 is usual")
        self._require_grid()

    def _require_grid(self) -> None:
        step = self.stride or self.patch_size
        for side in self.img_size:
            if side < self.patch_size or (side - self.patch_size) % step:
                raise ShapeError(
                    f"input size {self.img_size[0]}x{self.img_size[1]} does not fit patches of {self.patch_size} "
                    f"pixels every {step}: each side must be {self.patch_size} plus a multiple of {step}; "
                    f"the nearest that fits is {_fitting(side, self.patch_size, step)}"
                )

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input: (in_chans, height, width), of a video (in_chans, num_frames, height, width)."""
        frames = () if self.num_frames is None else (self.num_frames,)
        return (self.in_chans, *frames, *self.img_size)

    @property
    def grid_size(self) -> tuple[int, int]:
        """(rows, columns) of patches of an image or of one frame."""
        step = self.stride or self.patch_size
        height, width = ((side - self.patch_size) // step + 1 for side in self.img_size)
        return height, width

    @property
    def frame_patches(self) -> int:
        """Patches of an image or of one frame."""
        return self.grid_size[0] * self.grid_size[1]

    @property
    def num_patches(self) -> int:
        """Patches of one input: of an image, or of all frames of a video."""
        return self.frame_patches * (self.num_frames or 1)

    @property
    def class_place(self) -> int:
        """Index at which the class token enters."""
        return self.class_place_among(self.num_patches)

    def class_place_among(self, patches: int) -> int:
        """Index at which the class token stands in a row of `patches` patches."""
        return patches // 2 if self.class_token == "middle" else 0

    @property
    def inner_dim(self) -> int:
        """Inner width e."""
        return self.expand * self.embed_dim

    @property
    def time_rank(self) -> int:
        """Rank R of the projection to the time step."""
        return self.dt_rank or math.ceil(self.embed_dim / 16)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `with_overrides` and JSON take."""
        return {**dataclasses.asdict(self), "img_size": list(self.img_size)}


# Published widths and depths.
_SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"embed_dim": 192},
    "small": {"embed_dim": 384},
    "middle": {"embed_dim": 576, "depth": 32},
    "base": {"embed_dim": 768},
}
_VIDEO_FRAMES = (8, 16, 32, 64)


def _videomamba(size: str, **sizes: Any) -> VimConfig:
    """VideoMamba (arXiv 2403.06977): the class token stands first, the two directions are added."""
    return VimConfig(class_token="first", directions="sum", **_SIZES[size], **sizes)


CONFIGS: dict[str, VimConfig] = {
    "vim_nano": VimConfig(
        img_size=(28, 28), patch_size=2, in_chans=1, num_classes=10, embed_dim=64, depth=12, state_size=8
    ),
    **{f"vim_{size}": VimConfig(**_SIZES[size]) for size in ("tiny", "small", "base")},
    # Fine-tuned with overlapping patches, at the same image size.
    **{f"vim_{size}_stride8": VimConfig(stride=8, **_SIZES[size]) for size in ("tiny", "small")},
    **{f"videomamba_{size}": _videomamba(size) for size in _SIZES},
    **{
        f"videomamba_{size}_k400_f{frames}": _videomamba(size, num_classes=400, num_frames=frames)
        for size in ("tiny", "small", "middle")
        for frames in _VIDEO_FRAMES
    },
}


def _timm_name(short: str, config: VimConfig) -> str:
    if config.num_frames is not None:
        return f"{short}_{config.img_size[0]}"
    step = f"_stride{config.stride}" if config.stride else ""
    return f"{short.removesuffix(step)}_patch{config.patch_size}{step}_{config.img_size[0]}"


# Short name -> the name in timm's manner: vim_tiny -> vim_tiny_patch16_224.
TIMM_NAMES = {short: _timm_name(short, config) for short, config in CONFIGS.items()}
# What timm's `pretrained_cfg` says of every network: which parts it replaces for other classes or colours.
TIMM_PARTS = {"fixed_input_size": True, "first_conv": "patch_embed.proj", "classifier": "head"}
_SHORT_NAMES = {long: short for short, long in TIMM_NAMES.items()}


def is_name(name: str) -> bool:
    """Whether a model has this name, short or timm's."""
    return name in CONFIGS or name in _SHORT_NAMES


def short_name(name: str) -> str:
    """vim_tiny for vim_tiny and for vim_tiny_patch16_224.

    Raises:
        SettingsError: no model has this name.
    """
    if not is_name(name):
        raise SettingsError(f"model {name!r} is unknown; {nearest(name)}`rmeeto models` lists all there are")
    return _SHORT_NAMES.get(name, name)


def nearest(name: str) -> str:
    """The beginning of a message's cure, where a model is called almost so: "did you mean vim_tiny? "."""
    found = difflib.get_close_matches(name, [*CONFIGS, *_SHORT_NAMES], n=1)
    return f"did you mean {found[0]}? " if found else ""


def config_of(name: str, overrides: dict[str, Any] | None = None) -> VimConfig:
    """The named sizes, some of them replaced.

    Args:
        name: short, or timm's.
        overrides: sizes of `VimConfig` by name.

    Raises:
        SettingsError: unknown name or unknown size.
    """
    named = CONFIGS[short_name(name)]
    known = [f.name for f in dataclasses.fields(VimConfig)]
    if unknown := sorted(set(overrides or {}) - set(known)):
        raise SettingsError(f"{name} has no size named {', '.join(unknown)}; known sizes: {', '.join(known)}")
    return dataclasses.replace(named, **(overrides or {}))


def _fitting(side: int, patch: int, step: int) -> int:
    """The nearest image side that patches fill."""
    return patch + max(0, round((side - patch) / step)) * step
