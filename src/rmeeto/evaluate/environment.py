"""What a number was measured on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("rmeeto", "torch", "torchvision", "timm", "accelerate", "numpy")


def environment() -> dict[str, Any]:
    """Machine and versions as plain values, for a record.

    Returns:
        python, platform, cpu (the model's name, family and number), cores (those this process may use), threads
        (torch's), gpus (names), packages (name -> version, None where it is not installed).
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": _cores(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _cpu_name() -> str:
    """Linux tells it in a file, the other systems through `platform`."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        told = ""
    return _named(told) or platform.processor() or platform.machine()


def _named(cpuinfo: str) -> str:
    """The first processor of such a file: virtual machines often hide the name, and the family and model tell it."""
    lines = cpuinfo.partition("\n\n")[0].splitlines()
    known = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name, numbers = known.get("model name", ""), (known.get("cpu family"), known.get("model"))
    return f"{name} (family {numbers[0]}, model {numbers[1]})" if name and all(numbers) else name


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
