"""Files that are no good image, and odd ones that are: one writer a kind."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image


def ramp(height: int = 24, width: int = 32) -> np.ndarray:
    """(h, w, 3) uint8, smooth, so that formats which lose little lose nothing much."""
    rows, columns = np.linspace(0, 255, height), np.linspace(0, 255, width)
    planes = np.broadcast_arrays(rows[:, None], columns[None], (rows[:, None] + columns[None]) / 2)
    return np.stack(planes, axis=2).astype(np.uint8)


def encoded(image: Image.Image, format: str, **settings: object) -> bytes:
    """A file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format, **settings)
    return buffer.getvalue()


def _cut(format: str) -> bytes:
    whole = encoded(Image.fromarray(ramp(200, 200)), format)
    return whole[: len(whole) // 2]


def _bomb(height: int, width: int) -> bytes:
    return encoded(Image.new("1", (width, height)), "PNG")


def _postscript() -> bytes:
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


# Kind -> the file.
BAD: dict[str, Callable[[], bytes]] = {
    "zero bytes": lambda: b"",
    "a text": lambda: b"this is a letter, not a picture",
    "cut jpeg": lambda: _cut("JPEG"),
    "cut png": lambda: _cut("PNG"),
    "cut webp": lambda: _cut("WEBP"),
    "header only": lambda: encoded(Image.fromarray(ramp()), "JPEG")[:40],
    "noise after a signature": lambda: b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "20,000 x 20,000": lambda: _bomb(20_000, 20_000),
    "20,000 x 5,000": lambda: _bomb(5_000, 20_000),
    "a program for a printer": _postscript,
}


def _odd(image: Image.Image, format: str, **settings: object) -> Callable[[], bytes]:
    return lambda: encoded(image, format, **settings)


def _transparent_palette() -> bytes:
    image = Image.fromarray(ramp()).quantize(64)
    return encoded(image, "PNG", transparency=bytes(range(0, 256, 4)))


_COLOURS = Image.fromarray(ramp())
_GREY16 = (ramp()[..., 0].astype(np.uint16) << 8) + 77
# Kind -> (the file, its pixels as they should be: (h, w, 3) or (h, w), and by how much they may differ).
ODD: dict[str, tuple[Callable[[], bytes], np.ndarray, int]] = {
    "grey": (_odd(_COLOURS.getchannel(0), "PNG"), ramp()[..., 0], 0),
    "grey with transparency": (_odd(_COLOURS.getchannel(0).convert("LA"), "PNG"), ramp()[..., 0], 0),
    "16 bits": (_odd(Image.fromarray(_GREY16), "PNG"), ramp()[..., 0], 0),
    "16 bits tiff": (_odd(Image.fromarray(_GREY16), "TIFF"), ramp()[..., 0], 0),
    "cmyk": (_odd(_COLOURS.convert("CMYK"), "JPEG", quality=100), ramp(), 8),
    "palette": (_odd(_COLOURS.quantize(256), "PNG"), ramp(), 24),
    "palette with transparency": (_transparent_palette, ramp(), 48),
    "transparency": (_odd(_COLOURS.convert("RGBA"), "PNG"), ramp(), 0),
    "animation": (
        _odd(_COLOURS, "GIF", save_all=True, append_images=[Image.new("RGB", (32, 24), "red")] * 3),
        ramp(),
        24,
    ),
    "moving webp": (
        _odd(_COLOURS, "WEBP", save_all=True, lossless=True, append_images=[Image.new("RGB", (32, 24))]),
        ramp(),
        0,
    ),
    "two colours": (_odd(Image.new("1", (32, 24), 1), "PNG"), np.full((24, 32), 255, np.uint8), 0),
    "20,000 x 24": (_odd(Image.fromarray(ramp(24, 20_000)), "JPEG", quality=100), ramp(24, 20_000), 8),
    "one colour": (_odd(Image.new("RGB", (32, 24), (9, 8, 7)), "BMP"), np.full((24, 32, 3), (9, 8, 7), np.uint8), 0),
}
