"""What to read, in which form, how to vary it: plain values that know no torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from rmeeto.data.names import DEFAULT_TRAIN
from rmeeto.errors import SettingsError

Split = Literal["train", "val"]
Crop = Literal["resized", "padded", "none"]
CropMode = Literal["center", "squash", "border"]
ErasingMode = Literal["const", "rand", "pixel"]

# timm's statistics of ImageNet; one channel takes their mean over the colours.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_SMALL_SIDE = 96
_POLICIES = ("rand", "augmix", "original", "originalr", "v0", "v0r", "3a")
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


@dataclass(frozen=True)
class DataSpec:
    """Which images, and how many at a time.

    Attributes:
        data: "demo", a folder with train/ and val/ (with `val_data`, one folder per class), a .tar of such
            a folder, wds/FOLDER for shards of WebDataset, or a name of timm's readers with its folder after a
            colon: torch/cifar10:sets/, hfds/NAME or, as a stream, hfids/NAME or wds/ADDRESS.
        val_data: the validation images, where they are not in `data` as val/, validation/, valid/ or test/.
        train_split: name of the training part, or its shards such as train-{0000..0031}.tar.
        val_split: name of the validation part; by default what the reader calls it.
        input_key: column of the images in a table of hfds/ or hfids/; by default image.
        target_key: column of the labels there; by default label.
        train_size: images of a training epoch, where a stream does not say how many it has.
        val_size: images of the validation part of a stream.
        num_classes: number of classes, where a stream does not say it.
        batch_size: images per training batch.
        val_batch_size: images per validation batch; by default `batch_size`.
        workers: processes that decode and augment images; sets held in memory need none.
        prefetch: batches that each worker prepares ahead.
        train_limit: use only this many training images, drawn once for all.
        train_share: use only this share of the training images, the same of every class (at least one image).
        subset_seed: chooses the images of train_limit and train_share.
        val_limit: use only this many validation images, drawn once for all.
        max_bad_images: share of the images that may be unreadable; such images are listed in the run's
            bad_images.jsonl, training shows others of their batch instead, evaluation leaves them out.
    """

    data: str = "demo"
    val_data: str | None = None
    train_split: str = DEFAULT_TRAIN
    val_split: str | None = None
    input_key: str | None = None
    target_key: str | None = None
    train_size: int | None = None
    val_size: int | None = None
    num_classes: int | None = None
    batch_size: int = 128
    val_batch_size: int | None = None
    workers: int = 0
    prefetch: int = 2
    train_limit: int | None = None
    train_share: float | None = None
    subset_seed: int = 0
    val_limit: int | None = None
    max_bad_images: float = 0.001

    def __post_init__(self) -> None:
        if not self.data:
            raise SettingsError("data is empty; name a folder, a .tar, 'demo' or a set such as torch/cifar10:sets/")
        for name in ("batch_size", "val_batch_size", "train_limit", "val_limit", "train_size", "val_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name} {value} is not a number of images; give 1 or more")
        if self.num_classes is not None and self.num_classes < 2:
            raise SettingsError(f"num_classes {self.num_classes} tells nothing apart; give 2 or more")
        if self.workers < 0:
            raise SettingsError(f"workers {self.workers} is negative; give 0 to read in the main process")
        if self.prefetch < 1:
            raise SettingsError(f"prefetch {self.prefetch} prepares nothing; give 1 batch or more")
        if not 0 <= self.max_bad_images <= 1:
            raise SettingsError(f"max_bad_images {self.max_bad_images} is not a share; give 0 to 1")
        self._check_subset()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a record keeps them."""
        return dataclasses.asdict(self)

    def _check_subset(self) -> None:
        if self.train_share is not None and not 0 < self.train_share <= 1:
            raise SettingsError(f"train_share {self.train_share} is not a share of the images; give one in (0, 1]")
        if self.train_share is not None and self.train_limit is not None:
            raise SettingsError(
                f"train_share {self.train_share} and train_limit {self.train_limit} both choose a part; give one"
            )
        if self.subset_seed < 0:
            raise SettingsError(f"subset_seed {self.subset_seed} is negative; give 0 or more")


@dataclass(frozen=True)
class InputSpec:
    """The images that a model takes.

    Attributes:
        size: (channels, height, width); 1 channel reads images as grey, 3 as colours.
        mean: per channel, subtracted from values in 0..1.
        std: per channel, divides.
        interpolation: how images are resized.
        crop_pct: evaluation resizes the short side to height / crop_pct and crops the centre.
        crop_mode: "center" keeps the shape and cuts, "squash" distorts, "border" keeps all and pads.
    """

    size: tuple[int, int, int] = (3, 224, 224)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    crop_mode: CropMode = "center"

    def __post_init__(self) -> None:
        for name in ("size", "mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if len(self.size) != 3 or min(self.size) < 1 or self.size[0] not in (1, 3):
            raise SettingsError(f"input size {self.size} is not (channels, height, width) with 1 or 3 channels")
        if not len(self.mean) == len(self.std) == self.size[0]:
            raise SettingsError(f"mean {self.mean} and std {self.std} need one number per channel of {self.size}")
        if min(self.std) <= 0:
            raise SettingsError(f"std {self.std} must be positive; it divides")
        if not 0 < self.crop_pct <= 1:
            raise SettingsError(f"crop_pct {self.crop_pct} is not in (0, 1]; 1 keeps the whole image")
        if self.crop_mode not in ("center", "squash", "border"):
            raise SettingsError(f"crop_mode {self.crop_mode!r} is unknown; use center, squash or border")
        _check_interpolation(self.interpolation)

    @classmethod
    def of(cls, size: tuple[int, int, int]) -> InputSpec:
        """ImageNet's statistics at any size; images under 96 pixels are not cropped in evaluation."""
        crop_pct = 1.0 if min(size[1:]) < _SMALL_SIDE else 0.875
        if size[0] == 1:
            return cls(size, (sum(IMAGENET_MEAN) / 3,), (sum(IMAGENET_STD) / 3,), crop_pct=crop_pct)
        return cls(size, crop_pct=crop_pct)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a record and a bundle's config keep them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> InputSpec:
        """Read what `to_dict` wrote, JSON's lists included.

        Raises:
            SettingsError: an unknown key or an impossible value.
        """
        return cls(**_known(cls, values))


@dataclass(frozen=True)
class Augment:
    """How training images vary. The defaults are the published ones (R-MeeTo, arXiv 2412.12496).

    Attributes:
        crop: "resized" cuts a random part and resizes it, "padded" shifts by up to `padding` pixels, "none"
            takes the whole image.
        scale: area of a "resized" crop, as a share of the image.
        ratio: width over height of a "resized" crop.
        padding: largest shift of a "padded" crop, in pixels.
        hflip: probability of a mirror image.
        auto_augment: timm's policy string; "none" for none.
        color_jitter: strength of brightness, contrast and saturation changes; unused beside auto_augment.
        erasing: probability that a random rectangle is erased.
        erasing_mode: fill it with 0 ("const"), one random colour ("rand") or noise ("pixel").
        interpolation: how a "resized" crop is resized.
        repeats: each drawn image appears this often, augmented anew, in an epoch of unchanged length.
    """

    crop: Crop = "resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    padding: int = 2
    hflip: float = 0.5
    auto_augment: str = "rand-m9-mstd0.5-inc1"
    color_jitter: float = 0.0
    erasing: float = 0.25
    erasing_mode: ErasingMode = "pixel"
    interpolation: str = "bicubic"
    repeats: int = 3

    def __post_init__(self) -> None:
        for name in ("scale", "ratio"):
            value = tuple(getattr(self, name))
            object.__setattr__(self, name, value)
            if len(value) != 2 or not 0 < value[0] <= value[1]:
                raise SettingsError(f"{name} {value} is not a range of two positive numbers, smaller first")
        for name in ("hflip", "erasing"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"{name} {getattr(self, name)} is not a probability; give 0 to 1")
        if self.crop not in ("resized", "padded", "none"):
            raise SettingsError(f"crop {self.crop!r} is unknown; use resized, padded or none")
        if self.erasing_mode not in ("const", "rand", "pixel"):
            raise SettingsError(f"erasing_mode {self.erasing_mode!r} is unknown; use const, rand or pixel")
        if self.policy is not None and self.policy.split("-")[0] not in _POLICIES:
            raise SettingsError(
                f"auto_augment {self.auto_augment!r} is no policy of timm; use none or one of {', '.join(_POLICIES)}"
            )
        if self.padding < 0 or self.color_jitter < 0:
            raise SettingsError(f"padding {self.padding} and color_jitter {self.color_jitter} must be 0 or more")
        if self.repeats < 1:
            raise SettingsError(f"repeats {self.repeats} is less than 1; 1 shows each image once")
        _check_interpolation(self.interpolation, "random")

    @classmethod
    def light(cls) -> Augment:
        """For tiny images: shift by up to two pixels, mirror."""
        return cls(crop="padded", padding=2, auto_augment="none", erasing=0.0, repeats=1)

    @classmethod
    def none(cls) -> Augment:
        """Images as they are."""
        return cls(crop="none", hflip=0.0, auto_augment="none", erasing=0.0, repeats=1)

    @property
    def policy(self) -> str | None:
        """timm's policy string, None for none."""
        return None if self.auto_augment in ("", "none") else self.auto_augment

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a record keeps them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Augment:
        """Read what `to_dict` wrote, JSON's lists included.

        Raises:
            SettingsError: an unknown key or an impossible value.
        """
        return cls(**_known(cls, values))


@dataclass(frozen=True)
class Share:
    """Which part of every epoch one process sees.

    Attributes:
        index: number of this process, from 0.
        count: number of processes.
        accumulate: batches of one process that make one training step.
    """

    index: int = 0
    count: int = 1
    accumulate: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise SettingsError(f"share {self.index} of {self.count} does not exist; shares count from 0")
        if self.accumulate < 1:
            raise SettingsError(f"accumulate {self.accumulate} is less than 1; 1 makes a step of every batch")


def _check_interpolation(name: str, *more: str) -> None:
    known = (*_INTERPOLATIONS, *more)
    if name not in known:
        raise SettingsError(f"interpolation {name!r} is unknown; use one of {', '.join(known)}")


def _known(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    names = {f.name for f in dataclasses.fields(kind)}
    if unknown := sorted(values.keys() - names):
        raise SettingsError(f"unknown keys {unknown} for {kind.__name__}; known: {sorted(names)}")
    return values
