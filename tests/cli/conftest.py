"""A place to type commands in: images, a model with random weights, and files of every bad kind."""

from __future__ import annotations

import os
import pickle
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rmeeto.cli.main import main
from rmeeto.data import InputSpec
from rmeeto.models import create
from rmeeto.pipeline.opening import Opened
from rmeeto.pipeline.training import write_model
from rmeeto.reduction import attach
from rmeeto.schedule import Schedule

from ..pipeline.conftest import CLASSES, NANO, paint

FORM = InputSpec.of((3, 8, 8))


@dataclass(frozen=True)
class Told:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str


class _Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile-was-here",)


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that commands run in; they may read all of it and write new folders only."""
    root = tmp_path_factory.mktemp("desk")
    _photos(root)
    _models(root)
    (root / "file").write_text("mine")
    return root


@pytest.fixture
def rmeeto_says(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], Told]:
    """Type a command line; a word in braces is a folder of this test alone."""

    def say(line: str) -> Told:
        monkeypatch.chdir(desk)
        monkeypatch.setattr(sys, "argv", ["rmeeto", *shlex.split(line)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Told(int(ended.value.code or 0), out, err)

    return say


def _photos(root: Path) -> None:
    paint(root / "photos")
    paint(root / "four", (*CLASSES, "violet"), train=2, val=1)
    paint(root / "one", ("red",), train=2, val=1)
    (root / "nothing").mkdir()
    for name, part in (("cut", "train"), ("cut-val", "val")):
        image = paint(root / name) / part / "green" / "1.png"
        image.write_bytes(image.read_bytes()[:60])
    (paint(root / "text") / "train" / "red" / "note.jpg").write_text("a text")
    (root / "cut.tar").write_bytes(b"no tar at all")


def _models(root: Path) -> None:
    torch.manual_seed(0)
    model = create("vim_nano", **NANO.sizes(), num_classes=3)
    state = model.state_dict()
    save_file(state, root / "nano.safetensors")
    write_model(Opened(model, "vim_nano", FORM, CLASSES), root / "model", {})
    write_model(Opened(model, "vim_nano", FORM, CLASSES), root / "cut-model", {})
    whole = (root / "nano.safetensors").read_bytes()
    for place in (root / "cut.safetensors", root / "cut-model" / "model.safetensors"):
        place.write_bytes(whole[: len(whole) // 2])
    save_file({**state, "layers.1.mixer.D": torch.zeros(5)}, root / "other.safetensors")
    attach(model, Schedule((0, 4, 0, 0)))
    write_model(Opened(model, "vim_nano", FORM, CLASSES), root / "merged", {})
    (root / "hostile.pth").write_bytes(pickle.dumps(_Hostile()))
    run = root / "run" / "checkpoints" / "epoch-0001"
    run.mkdir(parents=True)
    (run / "checkpoint.json").write_text("{")
