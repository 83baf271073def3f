"""Memory of this process, as the benchmarks ask for it."""

from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def resident(*, peak: bool) -> float:
    """MiB in memory: the peak since the last question about the present, where Linux keeps it; else the peak of all."""
    if not (_STATUS.exists() and hasattr(ctypes.CDLL(None), "malloc_trim")):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    if not peak:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed and kept would be used again unseen
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the imports
    field = "VmHWM:" if peak else "VmRSS:"
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024
