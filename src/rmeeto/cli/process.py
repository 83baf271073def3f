"""What the command line sets for its own process, and a library must not."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt, malloc.h
_LARGE = 1 << 30


def keep_freed_memory() -> None:
    """Ask the C library to keep freed memory for the next layer instead of handing it back to the system.

    A layer's tensors are some megabytes each: asking for them anew costs a page fault per 4 KiB, which can take as long
    as the layer itself. Where there is no glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _LARGE)
        mallopt(_MMAP_THRESHOLD, _LARGE)
