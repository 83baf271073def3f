"""Results as frozen values that any program can read: JSON in and out, no torch.

Every record knows its `kind`, so that a folder of JSON files tells what it holds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from rmeeto.errors import OutputError, RmeetoError

R = TypeVar("R", bound="Record")


@dataclass(frozen=True)
class Record:
    """Base of all results: an interface, never made itself."""

    kind: ClassVar[str] = "record"

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, with the record's kind first."""
        return {"kind": self.kind, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls: type[R], values: dict[str, Any]) -> R:
        """Read what `to_dict` wrote.

        Raises:
            RmeetoError: another kind, an unknown key or a missing one.
        """
        values = dict(values)
        kind = values.pop("kind", cls.kind)
        if kind != cls.kind:
            raise RmeetoError(f"this is a record of kind {kind!r}, not {cls.kind!r}; read it as what it is")
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(values.keys() - known):
            raise RmeetoError(f"unknown keys {unknown} in a record of kind {cls.kind!r}; known: {sorted(known)}")
        try:
            return cls(**{key: _frozen(value) for key, value in values.items()})
        except TypeError as error:
            raise RmeetoError(f"a record of kind {cls.kind!r} is incomplete: {error}") from None

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write_json(path, self.to_dict())

    @classmethod
    def read(cls: type[R], path: Path) -> R:
        """Read from a JSON file.

        Raises:
            RmeetoError: the file is missing, not JSON, or holds another record.
        """
        values = read_json(path)
        if not isinstance(values, dict):
            raise RmeetoError(f"{path} holds no record of kind {cls.kind!r} but a {type(values).__name__}")
        return cls.from_dict(values)


@dataclass(frozen=True)
class Accuracy(Record):
    """How often a model is right.

    Attributes:
        top1, top5: percent of `images`.
        loss: mean cross entropy in nats.
        images: number of images.
        seconds: wall time, data included.
    """

    kind: ClassVar[str] = "accuracy"
    top1: float
    top5: float
    loss: float
    images: int
    seconds: float


@dataclass(frozen=True)
class Cost(Record):
    """Cost of one forward pass of one image.

    Attributes:
        gflops: 10^9 operations.
        convention: how they were counted, in words; numbers of two conventions do not compare.
        by_operator: 10^9 operations per operator, largest first; empty for a formula.
    """

    kind: ClassVar[str] = "cost"
    gflops: float
    convention: str
    by_operator: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Speed(Record):
    """Measured throughput of one model.

    Attributes:
        images_per_second: median over the repeats.
        low, high: 10th and 90th percentile.
        seconds: every repeat's wall time for one batch.
        batch, threads, warmup, device, dtype: the setting.
        cuda_graph: whether the forward pass was replayed as one CUDA graph, without Python.
        peer: the model it was measured in turn with, and `ratio`: this one's speed over the peer's,
            the median of the ratios of neighbouring runs; `ratio_low`, `ratio_high` their 10th and 90th percentile.
    """

    kind: ClassVar[str] = "speed"
    images_per_second: float
    low: float
    high: float
    seconds: tuple[float, ...]
    batch: int
    threads: int
    warmup: int
    device: str
    dtype: str
    cuda_graph: bool = False
    peer: str | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None


@dataclass(frozen=True)
class Epoch(Record):
    """One epoch of training as it went.

    Attributes:
        epoch: its number, the first being 1.
        steps: optimiser steps; `skipped` of them changed nothing, as their loss or gradients were no numbers.
        loss: mean over the steps that were taken; None where none was.
        lr: of the last step.
        images_per_second: of all processes.
        seconds: wall time of the steps.
        top1, top5: percent of the validation images, by the weights at its end; None before they are validated.
        ema_top1: by the averaged weights, where there are any.
        data_wait: share of the time in which the main process waited for its images; of an epoch that was resumed in
            its middle, since then.
    """

    kind: ClassVar[str] = "epoch"
    epoch: int
    steps: int
    loss: float | None
    lr: float
    images_per_second: float
    seconds: float
    top1: float | None = None
    top5: float | None = None
    ema_top1: float | None = None
    skipped: int = 0
    data_wait: float | None = None


@dataclass(frozen=True)
class Run(Record):
    """A whole training run.

    Attributes:
        verb: "pretrain" or "retrain".
        epochs: one `Epoch` as a dictionary each.
        best_epoch, best_top1: where validation was best.
        recipe: the recipe as plain values.
        seconds: wall time of training steps and checkpoints, validation included.
        images: training images seen.
        environment: `environment()` of the machine.
    """

    kind: ClassVar[str] = "run"
    verb: str
    epochs: tuple[dict[str, Any], ...]
    best_epoch: int | None
    best_top1: float | None
    recipe: dict[str, Any]
    seconds: float
    images: int
    environment: dict[str, Any]


@dataclass(frozen=True)
class MergedImage(Record):
    """Which tokens of one image became one.

    Attributes:
        grid: (rows, columns) of patches; the frames of a video stand one under the other, so rows = frames * rows
            of a frame.
        groups: per patch in reading order, the final token it belongs to; -1 if it was pruned.
        protected: final places of the protected tokens (class token first).
        tokens: tokens left at the end, protected ones included.
        label, predicted: class names, where known.
    """

    kind: ClassVar[str] = "merged_image"
    grid: tuple[int, int]
    groups: tuple[int, ...]
    protected: tuple[int, ...]
    tokens: int
    label: str | None = None
    predicted: str | None = None


def read_json(path: Path) -> Any:
    """The values of a JSON file.

    Raises:
        RmeetoError: the file is missing, unreadable or not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RmeetoError(
            f"cannot read {path}: {error.strerror or error}; name a file that a finished run wrote"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RmeetoError(f"{path} is not JSON ({error}); it was cut or changed, make it again") from None


def write_json(path: Path, values: Any) -> None:
    """Write JSON whole or not at all; a number that JSON does not have (nan, infinity) becomes null.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    write_text(path, to_json(values))


def to_json(values: Any) -> str:
    """The text that `write_json` writes."""
    return json.dumps(_finite(values), indent=2, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a text whole or not at all.

    Names of files that are no UTF-8 (as old archives have them) are written with a backslash, as JSON and Python do.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes whole or not at all.

    Raises:
        OutputError: the folder cannot be written or the disk is full.
    """
    write_together({Path(path): data})


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write files that belong together: all of them, or none and the older ones stay as they were.

    Each is written beside its place first, which is where a full disk shows, and moved there when all are on disk.

    Args:
        files: what to write where, at least one; folders are made.

    Raises:
        OutputError: a folder cannot be written or the disk is full.
    """
    staged: dict[Path, Path] = {}
    aside: list[Path] = []
    with contextlib.ExitStack() as undo:
        path = Path()
        try:
            for path, data in files.items():
                staged[path] = _stage(path, data, undo)
            last = path
            for path, new in staged.items():
                # The last move replaces in one step and nothing after it can fail, so it needs no way back.
                if path != last:
                    aside.append(_set_aside(path, undo))
                new.replace(path)
        except OSError as error:
            in_the_way = error.errno in (errno.ENOTDIR, errno.EEXIST)  # a file, where a folder should be
            cure = "name" if in_the_way else "free some space or name"
            raise OutputError(
                f"cannot write {path}: {error.strerror or error}; {cure} another folder (--output)"
            ) from None
        undo.pop_all()
    for old in aside:
        old.unlink(missing_ok=True)


def _stage(path: Path, data: bytes, undo: contextlib.ExitStack) -> Path:
    """Put the data on disk under a name beside `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{uuid.uuid4().hex}.tmp")
    undo.callback(staged.unlink, missing_ok=True)
    with staged.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return staged


def _set_aside(path: Path, undo: contextlib.ExitStack) -> Path:
    """Move what stands at `path`, if anything, to a name beside it; undoing moves it back."""
    aside = path.with_name(f".{uuid.uuid4().hex}.old")
    if path.exists():
        path.replace(aside)
        undo.callback(aside.replace, path)
    else:
        undo.callback(path.unlink, missing_ok=True)
    return aside


def _finite(value: Any) -> Any:
    """The same values with None for the floats that JSON cannot write."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _frozen(value: Any) -> Any:
    """Lists of JSON become tuples, as the records hold them."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
