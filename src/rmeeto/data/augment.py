"""How one picture becomes a tensor: timm's transforms, chosen by InputSpec and Augment."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

import numpy as np
import torch
from PIL import Image, ImageOps
from timm.data import create_transform
from torchvision import transforms

from rmeeto.data.spec import Augment, InputSpec
from rmeeto.errors import SettingsError

# Steps hand on pictures, the last ones tensors.
Transform = Callable[[Any], Any]


def eval_transform(form: InputSpec) -> Transform:
    """Resize, crop, normalise: picture -> (c, h, w) float32."""
    return transforms.Compose([_Colours(form.size[0]), _evaluation(form)])


def train_transform(form: InputSpec, augment: Augment) -> Transform:
    """Crop, mirror, vary, normalise, erase: picture -> (c, h, w) float32.

    Raises:
        SettingsError: timm cannot read the policy.
    """
    resized_crop, vary, finish = _training(form, augment)
    if augment.crop == "resized":
        return transforms.Compose([_Colours(form.size[0]), resized_crop, vary, finish])
    # timm knows no crop by padding; its evaluation gives the shape, all but its last steps (tensor, normalisation).
    shape = _evaluation(form).transforms[:-2]
    padding = augment.padding if augment.crop == "padded" else 0
    shift = [transforms.RandomCrop(form.size[1:], padding=padding)] if padding else []
    mirror = transforms.RandomHorizontalFlip(augment.hflip)
    return transforms.Compose([_Colours(form.size[0]), *shape, *shift, mirror, vary, finish])


@contextmanager
def kept_generators() -> Iterator[None]:
    """Put the global generators that transforms draw from back as they were."""
    before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        torch.default_generator.set_state(before[2])


def seed_generators(seed: int) -> None:
    """Make the global generators that transforms draw from start at `seed`, which is below 2**32."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  timm's augmentations draw from numpy's global generator
    torch.default_generator.manual_seed(seed)


@final
class _Colours:
    """Grey for one channel, colours for three."""

    def __init__(self, channels: int) -> None:
        self.mode = "L" if channels == 1 else "RGB"

    def __call__(self, image: Image.Image) -> Image.Image:
        return image if image.mode == self.mode else image.convert(self.mode)


def _evaluation(form: InputSpec) -> transforms.Compose:
    return create_transform(
        form.size,
        interpolation=form.interpolation,
        mean=form.mean,
        std=form.std,
        crop_pct=form.crop_pct,
        crop_mode=form.crop_mode,
    )


def _training(form: InputSpec, augment: Augment) -> tuple[Transform, Transform, Transform]:
    try:
        steps = create_transform(
            form.size,
            is_training=True,
            separate=True,
            scale=augment.scale,
            ratio=augment.ratio,
            hflip=augment.hflip,
            color_jitter=augment.color_jitter or None,
            auto_augment=augment.policy,
            interpolation=augment.interpolation,
            mean=form.mean,
            std=form.std,
            re_prob=augment.erasing,
            re_mode=augment.erasing_mode,
        )
    except (AssertionError, ValueError, KeyError) as error:
        raise SettingsError(
            f"auto_augment {augment.auto_augment!r} cannot be read by timm ({error}); check it"
        ) from None
    _allow_posterize_to_black(steps[1])
    return steps


def _allow_posterize_to_black(vary: transforms.Compose) -> None:
    """timm's strongest Posterize keeps no bit, which Pillow 13 refuses; make that the black image it was before."""
    for step in vary.transforms:
        # RandAugment and AugMix hold a list of operations, AutoAugment a list of lists.
        held = getattr(step, "ops", None) or [op for line in getattr(step, "policy", ()) for op in line]
        for op in held:
            if op.name.startswith("Posterize"):
                op.aug_fn = _posterize


def _posterize(image: Image.Image, bits_to_keep: int, **_: Any) -> Image.Image:
    if bits_to_keep >= 8:
        return image
    return ImageOps.posterize(image, bits_to_keep) if bits_to_keep > 0 else Image.new(image.mode, image.size)
