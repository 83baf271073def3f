"""Batches of sets held in memory, augmented as whole tensors: no picture is made, no worker is needed.

Letters: b images of a batch, c channels, h height, w width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from rmeeto.data.images import ArrayImages
from rmeeto.data.order import Order
from rmeeto.data.spec import Augment, InputSpec

# Zhong et al., Random Erasing (arXiv 1708.04896), with the bounds that timm uses.
_ERASED_AREA = (0.02, 1 / 3)
_ERASED_ASPECT = (0.3, 1 / 0.3)


def fits(images: ArrayImages, form: InputSpec, augment: Augment | None) -> bool:
    """Whether `ArrayBatches` can make these batches; otherwise the pictures go through timm's transforms.

    Args:
        augment: None for evaluation.
    """
    channels, height, width = images.images.shape[1:]
    if (height, width) != form.size[1:] or form.crop_pct != 1 or channels not in (1, form.size[0]):
        return False
    return augment is None or (augment.crop != "resized" and augment.policy is None and not augment.color_jitter)


@final
class ArrayBatches:
    """Batches of (b, c, h, w) float32 normalised images and (b,) int64 labels.

    Args:
        images: the set.
        form: what the model takes; see `fits`.
        order: which images, in which order.
        batch_size: images per batch.
        augment: how to vary them; see `fits`.
    """

    def __init__(self, images: ArrayImages, form: InputSpec, order: Order, batch_size: int, augment: Augment) -> None:
        self.num_images = len(order)
        self._set = images
        self._order = order
        self._batch_size = batch_size
        self._augment = augment
        self._scale = 1 / (255 * torch.tensor(form.std).view(-1, 1, 1))
        self._shift = -torch.tensor(form.mean).view(-1, 1, 1) / torch.tensor(form.std).view(-1, 1, 1)

    def __len__(self) -> int:
        return self._order.batches(self._batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is: order and augmentation depend on it and on the seed alone."""
        self._order.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for indices, seeds in self._order.in_batches(self._batch_size):
            generator = torch.Generator().manual_seed(int(seeds[0]))
            pixels = self._shaped(self._set.images[indices], generator)
            images = torch.addcmul(self._shift, pixels.float(), self._scale)
            if self._augment.erasing:
                images = erase(images, self._augment, generator)
            yield images, self._set.labels[indices]

    def _shaped(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        if self._augment.crop == "padded" and self._augment.padding:
            pixels = shift(pixels, self._augment.padding, generator)
        if self._augment.hflip:
            pixels = mirror(pixels, self._augment.hflip, generator)
        return pixels


def shift(pixels: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """(b, c, h, w) -> the same shape, each image moved by up to `padding` pixels each way; zeros come in."""
    height, width = pixels.shape[2:]
    padded = functional.pad(pixels, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    top, left = torch.randint(0, 2 * padding + 1, (2, len(pixels)), generator=generator)
    return windows[torch.arange(len(pixels)), :, top, left]


def mirror(pixels: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """(b, c, h, w) -> the same shape, some images left to right."""
    chosen = torch.rand(len(pixels), generator=generator) < probability
    return torch.where(chosen.view(-1, 1, 1, 1), pixels.flip(3), pixels)


def erase(images: Tensor, augment: Augment, generator: torch.Generator) -> Tensor:
    """(b, c, h, w) normalised -> the same shape, in some images one rectangle filled (Random Erasing)."""
    b, c, h, w = images.shape
    draws = torch.rand(5, b, generator=generator)
    area = (_ERASED_AREA[0] + draws[0] * (_ERASED_AREA[1] - _ERASED_AREA[0])) * h * w
    low, high = (math.log(bound) for bound in _ERASED_ASPECT)
    aspect = torch.exp(low + draws[1] * (high - low))
    tall = (area * aspect).sqrt().round().clamp(1, h - 1)
    wide = (area / aspect).sqrt().round().clamp(1, w - 1)
    top = (draws[2] * (h - tall + 1)).floor()
    left = (draws[3] * (w - wide + 1)).floor()
    rows, columns = torch.arange(h).view(1, h, 1), torch.arange(w).view(1, 1, w)
    inside = _between(rows, top, tall) & _between(columns, left, wide)
    inside &= (draws[4] < augment.erasing).view(b, 1, 1)
    shapes = {"const": (), "rand": (b, c, 1, 1), "pixel": (b, c, h, w)}
    shape = shapes[augment.erasing_mode]
    fill = torch.randn(shape, generator=generator) if shape else torch.zeros(())
    return torch.where(inside.unsqueeze(1), fill, images)


def _between(places: Tensor, start: Tensor, length: Tensor) -> Tensor:
    start, end = start.view(-1, 1, 1), (start + length).view(-1, 1, 1)
    return (places >= start) & (places < end)
