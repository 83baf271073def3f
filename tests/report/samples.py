"""A run's records, small but complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rmeeto.records import MergedImage
from rmeeto.report import draw_tokens, write_picture


def result(**changes: Any) -> dict[str, Any]:
    """result.json as the pipeline writes it; a change to None leaves the key out."""
    values = {
        "kind": "result",
        "model": "vim_nano",
        "data": "demo",
        "images": {"train": 12000, "validation": 3000},
        "schedule": [0, 30, 0, 30, 0, 0],
        "reduction": {"feature": "hidden", "class_place": "exact", "size_aware_scan": False},
        "unmerged": _row(91.2, 197, 100.0),
        "merged": _row(82.9, 137, 170.0),
        "merged_official_place": _row(52.1, 137, 171.0),
        "retrained": _row(90.8, 137, 172.0),
        "speedup": 1.72,
        "speedup_low": 1.7,
        "speedup_high": 1.75,
        "retrain_seconds": 220.4,
        "retrain_images": 36000,
        "token_reduction": 0.41,
        "lengths": [197, 197, 167, 167, 137, 137],
        "conventions": {"gflops": "counted by torch", "gflops_paper": "the published formula"},
        "recipe": {"epochs": 3, "betas": [0.9, 0.999], "ema_decay": None},
        "augment": {"flip": 0.5},
        "speed_setting": {"batch": 16, "threads": 2, "warmup": 5, "repeats": 30, "device": "cpu"},
        "environment": {"cores": 2, "threads": 2, "gpus": [], "packages": {"torch": "2.14.1", "mamba_ssm": None}},
    }
    return {key: value for key, value in {**values, **changes}.items() if value is not None}


def _row(top1: float, tokens: int, speed: float) -> dict[str, float]:
    return {
        "top1": top1,
        "top5": 99.5,
        "tokens": tokens,
        "gflops": 0.3,
        "gflops_paper": 0.15,
        "images_per_second": speed,
        "images_per_second_low": 0.98 * speed,
        "images_per_second_high": 1.02 * speed,
    }


def run(**changes: Any) -> dict[str, Any]:
    """run.json of three epochs."""
    epochs = [
        {"kind": "epoch", "epoch": epoch, "steps": 10, "loss": 1 / epoch, "seconds": 70.0, "top1": 88.0 + epoch}
        for epoch in (1, 2, 3)
    ]
    return {"kind": "run", "verb": "retrain", "epochs": epochs, "recipe": {"betas": [0.9, 0.999]}, **changes}


def write_folder(folder: Path, values: dict[str, Any] | None = None) -> Path:
    """A run's folder with all that a report reads."""
    records = [
        MergedImage((2, 2), (0, 0, 1, 2), (3,), 4, "bag", "bag"),
        MergedImage((2, 2), (0, 1, 1, 2), (3,), 4, "boot", "<b>shoe</b>"),
    ]
    for number, record in enumerate(records):
        image = np.full((8, 8, 3), 40 * number, dtype=np.uint8)
        write_picture(folder / "tokens" / f"{number:02d}.png", draw_tokens(image, record, side=32))
    steps = [{"kind": "step", "epoch": 1 + step // 10, "step": step, "loss": 1.0} for step in range(1, 30, 5)]
    texts = {
        "result.json": json.dumps(result() if values is None else values),
        "run.json": json.dumps(run()),
        "images.json": json.dumps({"images": [record.to_dict() for record in records]}),
        "log.jsonl": "\n".join(map(json.dumps, steps)) + '\n{"kind": "st',
        "model.safetensors": "",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder
