"""Weight files of others into folders of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rmeeto.errors import OutputError
from rmeeto.hub import build, read_official, save_bundle
from rmeeto.hub.bundle import CONFIG


def convert(
    file: Path | str,
    output: Path,
    *,
    model: str | None = None,
    part: str | None = None,
    img_size: int | None = None,
) -> dict[str, Any]:
    """Write a published weight file, or any other of a named network, as a folder that `rmeeto.load` and timm read.

    No code of the file runs. A published file brings its schedule, licence and accuracy.

    Args:
        file: the weight file.
        output: the folder; made if it is not there.
        model: the network's name; None goes by the file's name.
        part: the entry of the file to take, such as model_ema; None takes the one whose accuracy was published.
        img_size: side of the square input that the weights were trained with; None takes the network's own.

    Returns:
        {"model", "origin": name of the published weights or None, "parameters", "schedule", "notes", "output"}.

    Raises:
        RmeetoError: a kind of it for each input that cannot be.
    """
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise OutputError(f"output {output} is a file; name a folder")
    if (output / CONFIG).exists():
        raise OutputError(f"{output} holds a model already, which this would replace; name another folder")
    converted = read_official(file, model=model, part=part, img_size=img_size)
    bundle = converted.bundle
    built = build(bundle, str(file))
    save_bundle(
        built,
        output,
        architecture=bundle.architecture,
        model_args=bundle.model_args,
        schedule=bundle.schedule,
        reduction=bundle.reduction,
        input=bundle.input,
        records=bundle.records,
    )
    return {
        "kind": "conversion",
        "model": bundle.architecture,
        "origin": bundle.records.get("origin", {}).get("name"),
        "parameters": sum(parameter.numel() for parameter in built.parameters()),
        "schedule": None if bundle.schedule is None else list(bundle.schedule.removals),
        "notes": list(converted.notes),
        "output": str(output),
    }
