"""The sizes of a Vision Mamba as one frozen value, and the named ones."""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rmeeto._numbers import is_whole
from rmeeto.errors import SettingsError, ShapeError

ClassTokenPlace = Literal["middle", "first"]
DirectionSum = Literal["mean", "sum"]
GlobalPool = Literal["token", "avg", ""]

_CHOICES = {
    "class_token": get_args(ClassTokenPlace),
    "directions": get_args(DirectionSum),
    "global_pool": get_args(GlobalPool),
}

# Whole numbers and their least; those in _OPTIONAL may be None.
_LEAST = {
    **dict.fromkeys(("patch_size", "in_chans", "embed_dim", "depth", "expand", "state_size", "conv_width"), 1),
    **dict.fromkeys(("num_frames", "stride", "dt_rank"), 1),
    "num_classes": 0,
}
_OPTIONAL = ("num_frames", "stride", "dt_rank")
_NO_SIZE = "is not a size; give an integer, 1 or more"
_LEAST_SAYS = {
    "num_frames": "is no video; give an integer, 1 or more, or None for an image",
    "num_classes": "is no number of classes; give an integer, 1 or more, or 0 for no head",
}


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


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
        SettingsError: a size is no whole number or not positive, or an unknown place or direction sum.
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
        if is_whole(self.img_size):
            object.__setattr__(self, "img_size", (self.img_size, self.img_size))
        size = self.img_size
        if isinstance(size, str) or not isinstance(size, Sequence) or len(size) != 2 or not all(map(is_whole, size)):
            raise SettingsError(f"img_size = {size!r} is no size; give the side of a square, or (height, width)")
        object.__setattr__(self, "img_size", tuple(map(int, size)))
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if not (is_whole(value) and value >= least) and not (value is None and name in _OPTIONAL):
                raise SettingsError(f"{name} = {value!r} {_LEAST_SAYS.get(name, _NO_SIZE)}")
            object.__setattr__(self, name, None if value is None else int(value))  # numpy's numbers are no JSON
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise SettingsError(f"{name} = {value!r} is unknown; use {' or '.join(map(repr, choices))}")
        for name in ("drop_rate", "drop_path_rate"):
            if not _is_number(value := getattr(self, name)) or not 0.0 <= value < 1.0:
                raise SettingsError(f"{name} = {value!r} is outside [0, 1); 0.1 is usual")
        if not _is_number(self.norm_eps) or not self.norm_eps > 0:
            raise SettingsError(f"norm_eps = {self.norm_eps!r} must be above 0; 1e-5 is published")
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


# Mean and deviation of ImageNet's pixels, of one grey channel and of three colours.
_PIXELS = {1: ((0.449,), (0.226,)), 3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}
_SMALL_SIDE = 96

# Short name -> the name in timm's manner: vim_tiny -> vim_tiny_patch16_224.
TIMM_NAMES = {short: _timm_name(short, config) for short, config in CONFIGS.items()}
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


def timm_parts(name: str) -> dict[str, Any]:
    """What timm's `pretrained_cfg` says of a network by name: which parts timm replaces for other classes or colours.

    Of a video network it replaces no first convolution, for it knows flat ones only (see `timm_entries`).
    """
    video = is_name(name) and CONFIGS[short_name(name)].num_frames is not None
    return {"fixed_input_size": True, "first_conv": None if video else "patch_embed.proj", "classifier": "head"}


def described(config: VimConfig) -> dict[str, Any]:
    """timm's `pretrained_cfg` of random weights: what images must be. Small ones are not cropped in evaluation."""
    name, _ = named_like(config)
    mean, std = _PIXELS.get(config.in_chans, ((0.5,) * config.in_chans, (0.5,) * config.in_chans))
    whole = config.num_frames is not None or min(config.img_size) < _SMALL_SIDE
    return {
        "architecture": TIMM_NAMES[name],
        "input_size": (config.in_chans, *config.img_size),
        "num_classes": config.num_classes,
        "interpolation": "bicubic",
        "crop_pct": 1.0 if whole else 0.875,
        "crop_mode": "center",
        "mean": mean,
        "std": std,
        **timm_parts(name),
    }


def named_like(config: VimConfig) -> tuple[str, dict[str, Any]]:
    """The named network that differs least, and what differs: `config_of(*named_like(config)) == config`."""
    own = config.to_dict()
    differing = {
        name: {size: value for size, value in own.items() if value != theirs.to_dict()[size]}
        for name, theirs in CONFIGS.items()
    }
    return min(differing.items(), key=lambda item: len(item[1]))


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
