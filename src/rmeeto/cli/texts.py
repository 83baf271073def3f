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


# Key of a table's row -> heading; shown where a row has it.
_REPRODUCED = {
    "unmerged": "un-merged",
    "training_free": "merged",
    "top1": "re-trained",
    "top1_against_ordered": "against ordered",
    "gflops_paper": "paper GFLOPs",
    "minutes_8_h100": "min, 8 H100",
    "minutes_16_h100": "min, 16 H100",
    "minutes_32_h100": "min, 32 H100",
}


def reproduced_text(result: Mapping[str, Any]) -> str:
    """A published table beside what was measured here, marked as what it is."""
    rows = result["rows"]
    published = [key for key in _REPRODUCED if any(key in row["published"] for row in rows)]
    here = ("unmerged", "training_free", "top1")
    headers = ["run", *(f"published: {_REPRODUCED[key]}" for key in published)]
    headers += [*(f"here: {_REPRODUCED[key]}" for key in here), "here: paper GFLOPs", "here: min"]
    cells = [
        (
            row["label"],
            *(row["published"].get(key, "") for key in published),
            *(f"{row['here'][key]:.1f}" for key in here),
            f"{row['here']['gflops_paper']:.3f}",
            f"{row['here']['minutes']:.1f}",
        )
        for row in rows
    ]
    images = rows[0]["here"]["images"]
    how = (
        f"here: {rows[0]['here']['model']} on the demo set, {images['train']} training and {images['validation']} "
        "validation images of Fashion-MNIST: ANOTHER MODEL AND DATA SET than the published ones; only what is more and "
        "what is less may be compared. Rows that differ in the model alone are one run here."
        if result["scale"] == "demo"
        else "here: as published, on this machine."
    )
    missing = f"Not in this table, because it is not recorded: {result['missing']}." if result["missing"] else ""
    return "\n\n".join(filter(None, (result["about"], Table.of(headers, cells).to_text(), how, missing)))
