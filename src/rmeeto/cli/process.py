"""What the command line sets for its own process, and a library must not."""

from __future__ import annotations

import ctypes
import os
import sys

SPINS = "GOMP_SPINCOUNT"  # a variable of GNU's OpenMP, which PyTorch brings along on Linux
_SOME = "10000"  # one to five tenths of a millisecond, as the processor is
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


def sleep_soon() -> bool:
    """Ask the threads of OpenMP to sleep when they have waited for some tenths of a millisecond, instead of some whole.

    They wait spinning. Tenths last from one op to the next; whole milliseconds also through the Python between two
    passes, so that a second thread never sleeps, which costs a virtual machine up to a third of its speed: see
    docs/log.md. It is for the processes that start from here, and for this one as long as torch is not loaded. What the
    environment says already stays.

    Returns:
        Whether the environment has changed.
    """
    if SPINS in os.environ or "OMP_WAIT_POLICY" in os.environ:
        return False
    os.environ[SPINS] = _SOME
    return True
