"""Checkpoints that are whole or not there, and that load without running code.

    checkpoints/epoch-0003/weights.safetensors   the student
                           ema.safetensors       its moving average, where the recipe keeps one
                           state.pt              optimiser, loss scale, random generators (tensors and plain values)
                           checkpoint.json       position, recipe, versions, checksums; written last
    checkpoints/epoch-0003-step-00000512/        the same, within the epoch after the third
    checkpoints/index.json                       which folder is the last one, which the best

A folder is written beside its place, brought to the disk and renamed, so a cut leaves the one before it as the newest.
Kept are the last one, the one before it (to fall back to) and the best.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import pickle
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from rmeeto.errors import CheckpointError, OutputError
from rmeeto.records import to_json, write_bytes, write_json
from rmeeto.retrain.recipe import Recipe
from rmeeto.retrain.state import EMA, WEIGHTS, Position

FORMAT = 2
STATE = "state.pt"
MANIFEST = "checkpoint.json"
INDEX = "index.json"
_RESCUE = "the checkpoint before it is whole: free some space and resume"

Weights = Mapping[str, Tensor]


@functools.cache
def versions() -> dict[str, str]:
    """What decides the last bits of a run."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("rmeeto", "torch", "timm", "numpy")},
    }


@dataclass(frozen=True)
class Contents:
    """What one checkpoint holds.

    Attributes:
        position: how far the run has come.
        recipe: how it trains.
        about: what is trained on what, as the caller describes it; compared on resume.
        weights: the student's state dict.
        ema: the averaged state dict, or None.
        state: "optimizer", "scaler" and "random" (one state per process): dicts, lists, numbers, strings
            and tensors.
        versions: of the programs that wrote it.
    """

    position: Position
    recipe: Recipe
    about: Mapping[str, Any]
    weights: Weights
    ema: Weights | None
    state: Mapping[str, Any]
    versions: Mapping[str, str] = field(default_factory=versions)

    def news(self, processes: int) -> Iterator[str]:
        """What somebody who resumes it in `processes` processes should know, a line each."""
        position, epochs = self.position, self.recipe.epochs
        if position.epoch_steps:
            yield f"resuming after step {position.step}, in epoch {position.epoch + 1} of {epochs}"
        else:
            yield f"resuming after epoch {position.epoch} of {epochs}"
        if (before := len(self.state["random"])) != processes:
            yield f"{before} processes before, {processes} now: the same images in the same order, other rounding"
        here = versions()
        other = [
            f"{name} {made}, here {here.get(name)}" for name, made in self.versions.items() if here.get(name) != made
        ]
        if other:
            yield f"the checkpoint was made with {'; '.join(other)}: the last bits may differ"

    def refuse_other(self, recipe: Recipe, about: Mapping[str, Any]) -> None:
        """Check that a run with `recipe` and `about` is the run that wrote this.

        Raises:
            CheckpointError: it is another one; names what differs.
        """
        differing = self.recipe.differences(recipe)
        mine, theirs = _flat(self.about), _flat(about)
        for name in sorted(mine.keys() | theirs.keys()):
            if mine.get(name) != theirs.get(name):
                differing.append(f"{name} ({mine.get(name)!r}, {theirs.get(name)!r})")
        if differing:
            raise CheckpointError(
                f"the checkpoint was made by another run: {'; '.join(differing)} (there, here); resume with the "
                "settings it was made with, or name another output folder"
            )


class Checkpoints:
    """The folder of one run's checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    def all(self) -> list[Path]:
        """Folders of checkpoints, newest first, whole or not."""
        return sorted(self.folder.glob("epoch-*"), key=lambda folder: _numbers(folder.name), reverse=True)

    def good(self) -> Path | None:
        """The newest one that was written while steps were taken, not skipped; None where there is none."""
        return next(filter(_is_good, self.all()), None)

    def save(self, contents: Contents) -> Path:
        """Write one checkpoint and remove those that nobody needs any more.

        Raises:
            OutputError: the disk is full or read-only; the checkpoints that were there are whole.
        """
        position = contents.position
        target = self.folder / _name(position)
        beside = self.folder / f".{target.name}.partial"
        try:
            shutil.rmtree(beside, ignore_errors=True)
            _write_folder(beside, contents)
            if target.exists():  # a broken one that this run fell back from
                shutil.rmtree(target)
            beside.rename(target)
            _sync_folder(self.folder)
        except OSError as error:
            raise OutputError(f"cannot write checkpoint {target}: {error.strerror or error}; {_RESCUE}") from None
        except OutputError as error:
            raise OutputError(f"{str(error).split(';', 1)[0]}; {_RESCUE}") from None
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        self.index(position)
        self._remove_old(position)
        return target

    def judge(self, position: Position) -> None:
        """Tell the checkpoint of an epoch's end how well it does: only its position is written again.

        Raises:
            OutputError: it cannot be written; the checkpoint is as it was.
        """
        folder = self.folder / _name(position)
        write_json(folder / MANIFEST, sealed({**_read_manifest(folder), "position": position.to_dict()}))
        _sync_folder(folder)
        self.index(position)
        self._remove_old(position)

    def newest(self, note: Callable[[str], None]) -> Contents | None:
        """The newest whole checkpoint; None where there is none at all.

        Args:
            note: is told, one line each, which ones are broken and why.

        Raises:
            CheckpointError: there are some, and all are broken.
        """
        folders = self.all()
        for folder in folders:
            found = _read_or_note(folder, note)
            if found is not None:
                return found
        if folders:
            raise CheckpointError(f"no checkpoint in {self.folder} is whole; start again in another folder")
        return None

    def last(self) -> Path:
        """Weights of the last epoch.

        Raises:
            CheckpointError: nothing was written yet.
        """
        return self.folder / self._read_index()["last"] / WEIGHTS

    def best(self) -> Path:
        """Weights of the epoch with the best validation (the averaged ones where those were better).

        Raises:
            CheckpointError: nothing was written yet.
        """
        index = self._read_index()
        return self.folder / index["best"] / index["best_weights"]

    def clear(self) -> None:
        """Remove all checkpoints: a new run may start in this folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def index(self, position: Position) -> None:
        """Write down which checkpoint is the last one and which the best."""
        last = _name(position)
        best = last if position.best_epoch is None else _epoch_name(position.best_epoch)
        values = {"last": last, "best": best, "best_weights": position.best_weights or WEIGHTS}
        write_json(self.folder / INDEX, values)

    def _read_index(self) -> dict[str, str]:
        try:
            index: dict[str, str] = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise CheckpointError(f"{self.folder} holds no checkpoint yet; train an epoch first") from None
        return index

    def _remove_old(self, position: Position) -> None:
        """Newer ones are broken: this run fell back from them."""
        folders = [folder for folder in self.all() if _numbers(folder.name) <= _numbers(_name(position))]
        kept = {folder.name for folder in folders[:2]}
        if position.best_epoch is not None:
            kept.add(_epoch_name(position.best_epoch))
        for folder in self.all():
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)


def read(folder: Path) -> Contents:
    """Read one checkpoint after comparing every file with its checksum.

    Raises:
        CheckpointError: a file is missing, cut, altered, or would run code when loaded.
    """
    manifest = _read_manifest(folder)
    for name, expected in manifest["files"].items():
        _compare(folder / name, expected)
    try:
        state = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(f"checkpoint {folder}: {STATE} would run code when loaded; do not use it") from None
    return Contents(
        position=Position.from_dict(manifest["position"]),
        recipe=Recipe.from_dict(manifest["recipe"]),
        about=manifest["about"],
        weights=load_file(folder / WEIGHTS),
        ema=load_file(folder / EMA) if EMA in manifest["files"] else None,
        state=state,
        versions=manifest["versions"],
    )


def _is_good(folder: Path) -> bool:
    try:
        return not _read_manifest(folder)["position"]["skipped_in_a_row"]
    except CheckpointError:
        return False


def _read_or_note(folder: Path, note: Callable[[str], None]) -> Contents | None:
    try:
        return read(folder)
    except CheckpointError as error:
        note(f"{error}; trying the one before it")
        return None


def _write_folder(folder: Path, contents: Contents) -> None:
    files: dict[str, dict[str, Any]] = {}
    for name, data in _files(contents):
        write_bytes(folder / name, data)
        files[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest = {
        "format": FORMAT,
        "position": contents.position.to_dict(),
        "recipe": contents.recipe.to_dict(),
        "about": contents.about,
        "versions": contents.versions,
        "files": files,
    }
    write_json(folder / MANIFEST, sealed(manifest))
    _sync_folder(folder)


def _files(contents: Contents) -> Iterator[tuple[str, bytes]]:
    """One file's bytes at a time, so that only one copy is in memory."""
    yield WEIGHTS, _packed(contents.weights)
    if contents.ema is not None:
        yield EMA, _packed(contents.ema)
    buffer = io.BytesIO()
    torch.save(contents.state, buffer)
    yield STATE, buffer.getvalue()


def _packed(weights: Weights) -> bytes:
    # clone: safetensors refuses two names for one memory (tied weights, views).
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    data: bytes = save(tensors, metadata={"format": "pt"})
    return data


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        text = (folder / MANIFEST).read_bytes().decode()
        manifest: dict[str, Any] = json.loads(text)
    except (OSError, ValueError):
        raise CheckpointError(f"checkpoint {folder} was not written to its end: {MANIFEST} is unreadable") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {folder} has another format than {FORMAT}, which this version reads")
    if missing := {"position", "recipe", "about", "versions", "files", "sha256"} - manifest.keys():
        raise CheckpointError(f"checkpoint {folder}: {MANIFEST} lacks {', '.join(sorted(missing))}")
    # The text, not what it says: a number may be spelt in more than one way (1e-05, 1E-05).
    if to_json(sealed(manifest)) != text:
        raise CheckpointError(f"checkpoint {folder}: {MANIFEST} was altered: its checksum differs")
    return manifest


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with the checksum of all else that it says."""
    said = json.loads(to_json({name: value for name, value in manifest.items() if name != "sha256"}))
    return {**said, "sha256": hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()}


def _compare(path: Path, expected: Mapping[str, Any]) -> None:
    try:
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise CheckpointError(f"checkpoint file {path} has {size} of {expected['bytes']} bytes")
        digest = _digest(path)
    except OSError as error:
        raise CheckpointError(f"checkpoint file {path} cannot be read: {error.strerror}") from None
    if digest != expected["sha256"]:
        raise CheckpointError(f"checkpoint file {path} was altered: its checksum differs")


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Bring renames to the disk; systems that cannot open a folder do it by themselves."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _numbers(name: str) -> list[int]:
    """What names are sorted by, as their positions are."""
    return [int(number) for number in re.findall(r"\d+", name)]


def _name(position: Position) -> str:
    within = f"-step-{position.step:08d}" if position.epoch_steps else ""
    return _epoch_name(position.epoch) + within


def _epoch_name(epoch: int) -> str:
    return f"epoch-{epoch:04d}"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names, as JSON gives them back."""
    flat: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(values)).items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat
