"""The model that comes with the package: a `vim_nano` trained on Fashion-MNIST (docs/demo-weights.md)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.resources import as_file, files
from pathlib import Path

DEMO_MODEL = "vim_nano"
# Its weights' name beside that, as those of published weights have one: vim_nano.demo.
DEMO_TAG = "demo"


def demo_model() -> AbstractContextManager[Path]:
    """Its folder with config.json and model.safetensors, there inside the `with`."""
    return as_file(files("rmeeto.data") / "demo" / DEMO_MODEL)
