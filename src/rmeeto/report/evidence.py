"""What a run's folder tells, read once: plain values of JSON, nothing computed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmeeto.errors import RmeetoError
from rmeeto.records import read_json


@dataclass(frozen=True)
class Stage:
    """One state of the model that was measured.

    Attributes:
        key: its name in result.json.
        name: its name for people.
        short: the same where there is little room.
        values: what was measured: top1, top5, tokens, gflops, gflops_paper, images_per_second (with _low and _high).
    """

    key: str
    name: str
    short: str
    values: Mapping[str, Any]

    def number(self, key: str) -> float | None:
        """A measured number, or None."""
        return number(self.values, key)


@dataclass(frozen=True)
class Evidence:
    """Everything that a report is made from.

    Attributes:
        result: result.json.
        run: run.json of the training, or nothing.
        steps: the "step" lines of log.jsonl, or nothing.
        images: the merged-image records of images.json, or nothing.
    """

    result: Mapping[str, Any]
    run: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...] = ()
    images: tuple[Mapping[str, Any], ...] = ()

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The measured states in the order of the story."""
        return stages(self.result)


def read_evidence(folder: Path) -> Evidence:
    """Read result.json and the records beside it that are there.

    Raises:
        RmeetoError: there is no result.json, or a record that is there cannot be read.
    """
    folder = Path(folder)
    result = read_json(folder / "result.json")
    if not isinstance(result, Mapping):
        raise RmeetoError(f"{folder / 'result.json'} holds a {type(result).__name__} and no result; make it again")
    images = mapping(_if_there(folder / "images.json")).get("images")
    return Evidence(
        result=result,
        run=mapping(_if_there(folder / "run.json")),
        steps=_steps(folder / "log.jsonl"),
        images=tuple(filter(_is_mapping, images)) if isinstance(images, list) else (),
    )


def stages(result: Mapping[str, Any]) -> tuple[Stage, ...]:
    """The states of the model that a result holds, in the order of the story."""
    both = bool(mapping(result.get("merged")) and mapping(result.get("merged_official_place")))
    place = mapping(result.get("reduction")).get("class_place", "exact")
    named = {
        "unmerged": ("un-merged", "un-merged"),
        "merged_official_place": ("merged, official class place", "merged, official place"),
        "merged": (f"merged, {place} class place", f"merged, {place} place") if both else ("merged", "merged"),
        "retrained": ("merged, re-trained", "re-trained"),
    }
    return tuple(Stage(key, *names, values) for key, names in named.items() if (values := mapping(result.get(key))))


def stage_of(result: Mapping[str, Any], key: str) -> Stage | None:
    """One state of the model, or None where it was not measured."""
    return next((found for found in stages(result) if found.key == key), None)


def number(values: Mapping[str, Any], key: str) -> float | None:
    """The finite number under a key, or None for anything else."""
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def numbers(value: Any) -> list[float]:
    """The finite numbers of a list, or nothing where one of them is none."""
    if not isinstance(value, (list, tuple)):
        return []
    found = [number({"": item}, "") for item in value]
    return [] if None in found else [item for item in found if item is not None]


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, or an empty one."""
    return value if isinstance(value, Mapping) else {}


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _if_there(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _steps(path: Path) -> tuple[Mapping[str, Any], ...]:
    """A line that was cut or is of another kind is left out: a log may end in the middle of a word."""
    if not path.is_file():
        return ()
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if mapping(values).get("kind") == "step":
            found.append(values)
    return tuple(found)
