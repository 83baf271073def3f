"""Images with their merged tokens drawn: one colour and one outline per token."""

from __future__ import annotations

import functools
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rmeeto.errors import ShapeError
from rmeeto.records import MergedImage, write_bytes

Pixels = NDArray[np.uint8]
Group = NDArray[np.int64]

_INK, _MUTED, _RIGHT, _WRONG = (28, 36, 48), (93, 104, 120), (0, 105, 163), (196, 78, 0)
_PAPER = (255, 255, 255)
_PRUNED, _HATCH = (228, 232, 238), (150, 160, 172)
# Okabe and Ito's colours: one for each of the largest tokens, none of them twice.
_LARGEST = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66))


def draw_tokens(image: Pixels, merged: MergedImage, *, side: int = 336) -> Image.Image:
    """Three pictures side by side: the image, its tokens, and the largest of them.

    In the middle all patches of one token have the mean colour of their pixels, and lines run where one token ends
    and another begins; patches that were pruned are hatched. On the right the seven largest tokens of two patches or
    more have a colour each, wherever their patches lie, over the faded image.

    Args:
        image: (h, w, 3), (h, w, 1) or (h, w) uint8.
        merged: which patches became one token; its grid is laid over the whole image.
        side: height of each picture in pixels, about: pixels of the image are enlarged by a whole number.

    Returns:
        RGBA, transparent between the three, so that it lies on light and dark pages.

    Raises:
        ShapeError: the image is no uint8 image, or the record has not one group per patch of its grid.
    """
    large, tokens = _prepared(image, merged, side)
    height, width = tokens.shape
    step = width + max(6, side // 28)
    out = Image.new("RGBA", (2 * step + width, height))
    for place, picture in enumerate((large, _merged(large, tokens), _largest(large, tokens, merged.groups))):
        out.paste(Image.fromarray(picture), (place * step, 0))
    return out


def draw_sheet(
    images: Sequence[Pixels], merged: Sequence[MergedImage], *, columns: int = 2, side: int = 196
) -> Image.Image:
    """Several images with their merged tokens and captions: tokens left, label, and the prediction if it is wrong.

    Args:
        images: see `draw_tokens`.
        merged: one record per image.
        columns: images in a row.
        side: height of each picture in pixels, about.

    Raises:
        ShapeError: there are no images, another number of records, or one that does not fit (see `draw_tokens`).
    """
    if not images or len(images) != len(merged):
        raise ShapeError(f"{len(images)} images and {len(merged)} records make no sheet; give a record each")
    pictures = [draw_tokens(image, record, side=side) for image, record in zip(images, merged, strict=True)]
    columns = max(1, min(columns, len(pictures)))
    width, height = max(picture.width for picture in pictures), max(picture.height for picture in pictures)
    margin, line = max(18, side // 7), max(24, side // 7)
    across, down = width + margin, height + line + margin
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (margin + columns * across, margin + line + rows * down), _PAPER)
    for column in range(columns):
        _heading(sheet, pictures[column].width, (margin + column * across, margin), size=line * 12 // 24)
    for place, (picture, record) in enumerate(zip(pictures, merged, strict=True)):
        left, top = margin + place % columns * across, margin + line + place // columns * down
        sheet.paste(picture, (left, top), picture)
        _caption(sheet, record, (left, top + height + line // 5), width, size=line * 13 // 24)
    return sheet


def draw_batch(images: Sequence[Pixels], labels: Sequence[str], *, columns: int = 8, side: int = 112) -> Image.Image:
    """Images as they come, each with its label below.

    Args:
        images: (h, w, 3), (h, w, 1) or (h, w) uint8, all of one size.
        labels: one per image.
        columns: images in a row.
        side: height of each picture in pixels, about.

    Raises:
        ShapeError: there are no images, another number of labels, or one that is no uint8 image.
    """
    if not images or len(images) != len(labels):
        raise ShapeError(f"{len(images)} images and {len(labels)} labels make no sheet; give a label each")
    pictures = [_prepared(image, MergedImage((1, 1), (0,), (), 1), side)[0] for image in images]
    (height, width), line = pictures[0].shape[:2], max(18, side // 6)
    across, down = width + line // 2, height + line * 3 // 2
    columns = max(1, min(columns, len(pictures)))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (line // 2 + columns * across, line // 2 + rows * down), _PAPER)
    for place, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        left, top = line // 2 + place % columns * across, line // 2 + place // columns * down
        sheet.paste(Image.fromarray(picture), (left, top))
        draw, font = ImageDraw.Draw(sheet), _font(line * 12 // 20)
        draw.text((left, top + height), _fitted(_one_line(label), width, draw, font), fill=_INK, font=font)
    return sheet


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a picture as PNG, whole or not at all.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    write_bytes(path, out.getvalue())


def _prepared(image: Pixels, merged: MergedImage, side: int) -> tuple[Pixels, Group]:
    """The image in colour, enlarged to about `side` pixels, and the token of each of its pixels."""
    image = np.asarray(image)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 3) or image.dtype != np.uint8 or 0 in image.shape:
        raise ShapeError(
            f"an image of shape {image.shape} and type {image.dtype} cannot be drawn; give (h, w, 3) or (h, w, 1) uint8"
        )
    rows, columns = merged.grid
    if rows < 1 or columns < 1 or len(merged.groups) != rows * columns:
        raise ShapeError(f"{len(merged.groups)} groups are not a grid of {rows}x{columns} patches; give one per patch")
    height, width = image.shape[:2]
    factor = max(1, round(side / height), -(-rows // height), -(-columns // width))
    large = _enlarged(image, np.full(height, factor), np.full(width, factor))
    groups = np.asarray(merged.groups, dtype=np.int64).reshape(rows, columns)
    tokens = _enlarged(groups, _shares(rows, height * factor), _shares(columns, width * factor))
    return np.repeat(large, 3 // large.shape[2], axis=2), tokens


def _enlarged(values: NDArray[Any], rows: Group, columns: Group) -> NDArray[Any]:
    """Each entry repeated: `rows[i]` times downwards, `columns[j]` times across."""
    return np.repeat(np.repeat(values, rows, axis=0), columns, axis=1)


def _shares(count: int, length: int) -> Group:
    """`length` pixels as `count` sizes as equal as can be."""
    return np.diff(np.arange(count + 1) * length // count)


def _merged(large: Pixels, tokens: Group) -> Pixels:
    """Each pixel in the mean colour of its token's pixels, lines between tokens."""
    _, index = np.unique(tokens, return_inverse=True)
    index = index.reshape(-1)
    counts = np.bincount(index)
    means = np.stack([np.bincount(index, large[..., colour].reshape(-1)) / counts for colour in range(3)], axis=1)
    painted = means[index].reshape(large.shape)
    down, across = np.indices(tokens.shape)
    painted[tokens < 0] = _PRUNED
    painted[(tokens < 0) & ((down + across) % 8 == 0)] = _HATCH
    return _lined(painted, tokens).round().astype(np.uint8)


def _largest(large: Pixels, tokens: Group, groups: Sequence[int]) -> Pixels:
    """The largest tokens in their colours over the faded image."""
    grey = large.mean(axis=2, keepdims=True)
    faded = np.repeat(240 - 0.2 * (255 - grey), 3, axis=2)
    several = [name for name, count in Counter(groups).most_common() if count > 1 and name >= 0]
    for name, colour in zip(several, _LARGEST, strict=False):
        here = tokens == name
        faded[here] = 0.82 * np.asarray(colour) + 0.18 * faded[here]
    return faded.round().astype(np.uint8)


def _lined(painted: NDArray[np.float64], tokens: Group) -> NDArray[np.float64]:
    """A line where the token changes, lighter than dark ground and darker than light ground."""
    border = np.zeros(tokens.shape, dtype=bool)
    border[:, 1:] |= tokens[:, 1:] != tokens[:, :-1]
    border[1:, :] |= tokens[1:, :] != tokens[:-1, :]
    ground = painted[border]
    dark = ground.mean(axis=1, keepdims=True) < 110
    lined = painted.copy()
    lined[border] = np.where(dark, ground + 0.42 * (255 - ground), 0.6 * ground)
    return lined


def _heading(sheet: Image.Image, width: int, at: tuple[int, int], size: int) -> None:
    """What each of the three pictures of `draw_tokens` is."""
    draw, font = ImageDraw.Draw(sheet), _font(size)
    for place, words in enumerate(("image", "its tokens", "largest tokens")):
        draw.text((at[0] + place * (width + size // 2) // 3, at[1]), words, fill=_MUTED, font=font)


def _caption(sheet: Image.Image, record: MergedImage, at: tuple[int, int], width: int, size: int) -> None:
    """Label and prediction on the left, tokens left on the right."""
    draw, font = ImageDraw.Draw(sheet), _font(size)
    tokens = f"{record.tokens} tokens"
    draw.text((at[0] + width - draw.textlength(tokens, font), at[1]), tokens, fill=_MUTED, font=font)
    room = width - draw.textlength(tokens + "  ", font)
    words, colour = _told(record)
    draw.text(at, _fitted(words, room, draw, font), fill=colour, font=font)


def _fitted(words: str, room: float, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    """As many of the words as there is room for."""
    while words and draw.textlength(words, font) > room:
        words = words[:-2].rstrip("…") + "…" if len(words) > 2 else ""
    return words


def _told(record: MergedImage) -> tuple[str, tuple[int, int, int]]:
    label, predicted = (_one_line(name) for name in (record.label, record.predicted))
    if label and predicted:
        return (f"✓ {label}", _RIGHT) if label == predicted else (f"✗ {label}, seen as {predicted}", _WRONG)
    return label or predicted, _INK


def _one_line(name: str | None) -> str:
    return " ".join((name or "").split())


@functools.lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib: the same picture on every machine."""
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
