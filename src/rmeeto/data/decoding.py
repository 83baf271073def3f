"""From the bytes of one file to a picture in grey or in colours, whatever it holds."""

from __future__ import annotations

import errno
import functools
import struct
import warnings
import zlib
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

# What photographs come as. Others are refused: some of Pillow's readers start programs (EPS) or hold no picture.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
# What Pillow, tarfile and the decoders below raise for files that are no images, or only the first part of one.
UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    NotImplementedError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
# Faults of the machine, not of the file: they end the run instead of costing an image.
_MACHINE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
_GREY = ("1", "L", "LA", "La")


def decode(file: IO[bytes]) -> Image.Image:
    """Read a picture whole and bring it to mode "L" (what was grey) or "RGB" (all else).

    Grey of 16 bits keeps its upper eight, as libpng does for colours; transparency is dropped, of an animation the
    first frame is taken, and the orientation that a camera notes is ignored: all as the published pipelines do.

    Raises:
        one of `UNREADABLE`: the file is none, is cut, or has more pixels than Pillow holds harmless.
    """
    with warnings.catch_warnings():
        # Strange metadata is no reason to speak, let alone from eight processes at once.
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(file, formats=_formats()) as image:
            image.load()
            return _plain(image)


def plain_picture(path: str) -> Image.Image:
    """`decode` by path: a loader for torchvision's folders."""
    with open(path, "rb") as file:  # noqa: PTH123  torchvision hands on texts
        return decode(file)


def reason_of(error: BaseException) -> str:
    """Why a file could not be read, in a few words.

    Raises:
        the error itself: it is the machine's.
    """
    if isinstance(error, OSError) and error.errno in _MACHINE:
        raise error
    if isinstance(error, UnidentifiedImageError):
        return "it is no image"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _plain(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        # Pillow's own conversion cuts at 255, which makes nearly all of a picture of 16 bits white.
        return Image.fromarray((np.asarray(image).clip(0, 2**16 - 1) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("L" if image.mode in _GREY else "RGB")


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those that this Pillow was built with."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)
