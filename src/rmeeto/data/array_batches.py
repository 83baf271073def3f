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
        self._first = 0
        self._scale = 1 / (255 * torch.tensor(form.std).view(-1, 1, 1))
        self._shift = -torch.tensor(form.mean).view(-1, 1, 1) / torch.tensor(form.std).view(-1, 1, 1)

    def __len__(self) -> int:
        return self._order.batches(self._batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is: order and augmentation depend on it and on the seed alone."""
        self._order.set_epoch(epoch)

    def skip(self, batches: int) -> None:
        """Leave out this many batches of the next pass."""
        self._first = batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        first, self._first = self._first, 0
        for indices, seeds in self._order.in_batches(self._batch_size, first):
            draws = uniform(seeds, 8)
            pixels = self._shaped(self._set.images[indices], draws[:3])
            images = torch.addcmul(self._shift, pixels.float(), self._scale)
            if self._augment.erasing:
                images = erase(images, self._augment, draws[3:], seeds)
            yield images, self._set.labels[indices]

    def _shaped(self, pixels: Tensor, draws: Tensor) -> Tensor:
        if self._augment.crop == "padded" and self._augment.padding:
            pixels = shift(pixels, self._augment.padding, draws[:2])
        if self._augment.hflip:
            pixels = mirror(pixels, self._augment.hflip, draws[2])
        return pixels


def uniform(seeds: Tensor, count: int) -> Tensor:
    """(b,) seeds -> (count, b) numbers in [0, 1): an image's depend on its seed alone, not on its batch."""
    generator = torch.Generator()
    return torch.stack([torch.rand(count, generator=generator.manual_seed(seed)) for seed in seeds.tolist()], dim=1)


def shift(pixels: Tensor, padding: int, draws: Tensor) -> Tensor:
    """(b, c, h, w) -> the same shape, each image moved by up to `padding` pixels each way; zeros come in.

    `draws` are (2, b) numbers in [0, 1).
    """
    height, width = pixels.shape[2:]
    padded = functional.pad(pixels, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    top, left = (draws * (2 * padding + 1)).long()
    return windows[torch.arange(len(pixels)), :, top, left]


def mirror(pixels: Tensor, probability: float, draws: Tensor) -> Tensor:
    """(b, c, h, w) -> the same shape, some images left to right; `draws` are (b,) numbers in [0, 1)."""
    chosen = draws < probability
    return torch.where(chosen.view(-1, 1, 1, 1), pixels.flip(3), pixels)


def erase(images: Tensor, augment: Augment, draws: Tensor, seeds: Tensor) -> Tensor:
    """(b, c, h, w) normalised -> the same shape, in some images one rectangle filled (Random Erasing).

    `draws` are (5, b) numbers in [0, 1); the (b,) seeds are those of what fills.
    """
    b, _, h, w = images.shape
    area = (_ERASED_AREA[0] + draws[0] * (_ERASED_AREA[1] - _ERASED_AREA[0])) * h * w
    low, high = (math.log(bound) for bound in _ERASED_ASPECT)
    aspect = torch.exp(low + draws[1] * (high - low))
    tall = (area * aspect).sqrt().round().clamp(1, h - 1)
    wide = (area / aspect).sqrt().round().clamp(1, w - 1)
    top = (draws[2] * (h - tall + 1)).floor()
    left = (draws[3] * (w - wide + 1)).floor()
    rows, columns = torch.arange(h).view(1, h, 1), torch.arange(w).view(1, 1, w)
    inside = _between(rows, top, tall) & _between(columns, left, wide)
    chosen = draws[4] < augment.erasing
    inside &= chosen.view(b, 1, 1)
    return torch.where(inside.unsqueeze(1), _fill(images, augment, seeds, chosen), images)


def _fill(images: Tensor, augment: Augment, seeds: Tensor, chosen: Tensor) -> Tensor:
    """What erased rectangles show, for the chosen images; zeros for all others."""
    b, c, h, w = images.shape
    fill = torch.zeros(b, c, 1, 1) if augment.erasing_mode != "pixel" else torch.zeros(b, c, h, w)
    if augment.erasing_mode == "const":
        return fill
    generator = torch.Generator()
    for place in chosen.nonzero().flatten().tolist():
        # Another seed than that of the image's other numbers.
        fill[place].normal_(generator=generator.manual_seed(int(seeds[place]) ^ 0x9E3779B9))
    return fill


def _between(places: Tensor, start: Tensor, length: Tensor) -> Tensor:
    start, end = start.view(-1, 1, 1), (start + length).view(-1, 1, 1)
    return (places >= start) & (places < end)
