"""Results in words and tables, for people at a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmeeto.report.table import Table, result_table
from rmeeto.report.words import measured_on, verdict


def result_text(result: Mapping[str, Any], output: Path) -> str:
    """A re-training: table, verdict, where things are."""
    setting = result["speed_setting"]
    how = (
        f"images/s: median of {setting['repeats']} forward passes of batch {setting['batch']} on "
        f"{measured_on(setting)}, the models in turn; GFLOPs: {result['conventions']['gflops']}; "
        f"paper GFLOPs: {result['conventions']['gflops_paper']}"
    )
    where = f"The faster model, its records, pictures and report.html are in {output}"
    return "\n\n".join((result_table(result).to_text(), verdict(result), how, where))


_MEASURED = {"unmerged": "un-merged", "merged": "merged"}


def benchmark_text(result: Mapping[str, Any]) -> str:
    """A benchmark: one row per model and how it was measured."""
    rows = []
    names = {name: _MEASURED[name.partition("_")[0]] for name in result if name.partition("_")[0] in _MEASURED}
    for name, said in names.items():
        row, speed = result[name], result[name]["speed"]
        ratio = "1.00x" if speed["ratio"] is None else f"{speed['ratio']:.2f}x"
        spread = "" if speed["ratio"] is None else f"{speed['ratio_low']:.2f}-{speed['ratio_high']:.2f}"
        rows.append(
            (
                said + "".join(f", {numbers}" for numbers in name.split("_")[1:]),
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
        f"batch {speed['batch']}, {measured_on(speed)}, {speed['dtype']}; "
        f"{speed['warmup']} warm-up and {len(speed['seconds'])} timed passes of each model, in turn"
    )
    errors = [f"{said}, {100 * result[name]['error']:.2f} %" for name, said in names.items() if "_" in name]
    how += f"\nerror of the logits in other numbers: {'; '.join(errors)}" if errors else ""
    return f"{Table.of(headers, rows).to_text()}\n\n{how}"


def conversion_text(done: Mapping[str, Any]) -> str:
    """A weight file that became a folder: what was taken, and where it is."""
    merged = "" if done["schedule"] is None else f", {sum(done['schedule'])} tokens leave"
    first = f"{done['model']}: {done['parameters'] / 1e6:.2f} M parameters{merged}"
    return "\n".join((first, *done["notes"], f"The model is in {done['output']}"))


def upload_text(done: Mapping[str, Any]) -> str:
    """A model that went to the hub, or would."""
    files = ", ".join(f"{name} ({size / 1e6:.2f} MB)" for name, size in done["files"].items())
    if done["address"] is None:
        return f"{done['card']}\nWould be put into {done['repo']}: {files}"
    return f"{done['address']} holds {files}"


def models_text(found: Mapping[str, Any]) -> str:
    """Networks and published weights: one row each."""
    rows = [
        (
            model["name"],
            f"{model['parameters'] / 1e6:.2f} M",
            "x".join(map(str, [*model["input"][:1], *filter(None, [model["num_frames"]]), *model["input"][1:]])),
            "" if model["r"] is None else model["r"],
            "" if model["top1"] is None else f"{model['top1']:.1f}",
            model["repo"] or ("this package" if model["file"] else "none listed"),
            (model["licence"] or "none stated") if model["file"] else "",
        )
        for model in found["models"]
    ]
    headers = ("model", "parameters", "input", "r", "top-1 %", "weights", "licence")
    how = (
        "top-1 as published, on ImageNet-1K, Kinetics-400 (k400) or Fashion-MNIST (nano)\n"
        "r: tokens that leave at each merge\n"
        'rmeeto.load("vim_tiny.midclstok_in1k") or --model vim_tiny.midclstok_in1k downloads them; '
        "`rmeeto convert` reads a file"
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
    "unmerged_gflops_paper": "un-merged paper GFLOPs",
    "gflops_paper": "paper GFLOPs",
    "speedup_low": "speed-up, least",
    "speedup_high": "speed-up, most",
    "minutes_8_h100": "min, 8 H100",
    "minutes_16_h100": "min, 16 H100",
    "minutes_32_h100": "min, 32 H100",
}


def tables_text(found: Sequence[Mapping[str, Any]]) -> str:
    """The tables that can be run again."""
    rows = [(f"table{each['number']}", each["name"], each["runs"], each["about"]) for each in found]
    how = "Numbers are places in this list; those of the published tables are not recorded here."
    return f"{Table.of(('table', 'or', 'runs', 'what'), rows).to_text()}\n\n{how}"


def reproduced_text(result: Mapping[str, Any]) -> str:
    """A published table beside what was measured here, marked as what it is."""
    rows = result["rows"]
    published = [key for key in _REPRODUCED if any(key in row["published"] for row in rows)]
    here = ("unmerged", "training_free", "top1")
    headers = ["run", *(f"published: {_REPRODUCED[key]}" for key in published)]
    headers += [*(f"here: {_REPRODUCED[key]}" for key in here), "here: paper GFLOPs", "here: speed-up", "here: min"]
    cells = [
        (
            row["label"],
            *(row["published"].get(key, "") for key in published),
            *(f"{row['here'][key]:.1f}" for key in here),
            f"{row['here']['gflops_paper']:.3f}",
            f"{row['here']['speedup']:.2f}",
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
    title = f"table{result['number']} ({result['name']}): {result['about']}"
    return "\n\n".join(filter(None, (title, Table.of(headers, cells).to_text(), how, missing)))
