"""Files with the official names, shapes and wrappers, which weigh nothing: every tensor repeats one number."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

GOLDEN = Path(__file__).parent.parent / "golden"
KEYS: dict[str, dict[str, list[int]]] = {
    **json.loads((GOLDEN / "keys_image.json").read_text()),
    **json.loads((GOLDEN / "keys_video.json").read_text()),
}


def state_of(network: str, value: float = 0.0) -> dict[str, torch.Tensor]:
    """The network's state dict as published; a tensor takes four bytes of the file."""
    return {name: torch.full((1,), value).expand(shape) for name, shape in KEYS[network].items()}


def vim_file(network: str) -> dict[str, Any]:
    """As Vim's authors saved it, weights and their moving average differing."""
    return {
        "model": state_of(network, 1.0),
        "model_ema": state_of(network, 2.0),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]},
        "epoch": 299,
        "args": argparse.Namespace(model=network, lr=1e-3, betas=(0.9, 0.999), output_dir=None),
    }


def save(content: Any, path: Path) -> Path:
    """The file, as torch writes it."""
    torch.save(content, path)
    return path
