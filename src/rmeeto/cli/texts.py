"""Results in words and tables, for people at a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmeeto.report.table import Table, result_table
from rmeeto.report.words import verdict


def result_text(result: Mapping[str, Any], output: Path) -> str:
    """A re-training: table, verdict, where things are."""
    setting = result["speed_setting"]
    how = (
        f"images/s: median of {setting['repeats']} forward passes of batch {setting['batch']} on {setting['threads']} "
        f"threads, the models in turn; GFLOPs: {result['conventions']['gflops']}; "
        f"paper GFLOPs: {result['conventions']['gflops_paper']}"
    )
    where = f"The faster model, its records, pictures and report.html are in {output}"
    return "\n\n".join((result_table(result).to_text(), verdict(result), how, where))


def benchmark_text(result: Mapping[str, Any]) -> str:
    """A benchmark: one row per model and how it was measured."""
    rows = []
    for name in ("unmerged", "merged"):
        if name not in result:
            continue
        row, speed = result[name], result[name]["speed"]
        ratio = "1.00x" if speed["ratio"] is None else f"{speed['ratio']:.2f}x"
        spread = "" if speed["ratio"] is None else f"{speed['ratio_low']:.2f}-{speed['ratio_high']:.2f}"
        rows.append(
            (
                {"unmerged": "un-merged", "merged": "merged"}[name],
                row["tokens"],
                f"{row['gflops']:.3f}",
                f"{row['gflops_paper']:.3f}",
                f"{speed['images_per_second']:.1f}",
                ratio,
                spread,
            )
        )
    headers = (result["model"], "tokens left", "GFLOPs", "paper GFLOPs", "images/s", "speed", "10-90 %")
    speed = result["unmerged"]["speed"]
    how = (
        f"batch {speed['batch']}, {speed['threads']} threads, {speed['dtype']}, {speed['device']}; "
        f"{speed['warmup']} warm-up and {len(speed['seconds'])} timed passes of each model, in turn"
    )
    return f"{Table.of(headers, rows).to_text()}\n\n{how}"


def doctor_text(found: Mapping[str, Any]) -> str:
    """What this machine computes with."""
    environment, native = found["environment"], found["native"]
    packages = "  ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    lines = [
        f"{environment['cpu']}, {environment['cores']} cores, {environment['threads']} threads",
        f"GPUs: {', '.join(environment['gpus']) or 'none'}",
        f"Python {environment['python']} on {environment['platform']}",
        packages,
        "native kernels: " + _native_text(native),
        "",
    ]
    rows = [
        (line["op"], line["backend"], "used" if line["used"] else "yes" if line["available"] else "no", line["why"])
        for line in found["backends"]
    ]
    return "\n".join(lines) + Table.of(("op", "backend", "here", "why"), rows).to_text()


def _native_text(native: Mapping[str, Any] | None) -> str:
    if native is None:
        return "none; scans and convolutions run their slow reference (the table says why)"
    return ", ".join(f"{key} {value}" for key, value in native.items())
