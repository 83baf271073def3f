"""A checkpoint runs no code and says what is wrong with it."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from rmeeto.errors import CheckpointError, OutputError
from rmeeto.records import to_json
from rmeeto.retrain import Checkpoints, Recipe
from rmeeto.retrain.checkpoint import Contents, read, sealed
from rmeeto.retrain.state import Position, random_state


def contents(epoch=1, **changes) -> Contents:
    shared = torch.arange(6.0)
    values = {
        "position": Position(epoch=epoch, step=5 * epoch),
        "recipe": Recipe(),
        "about": {"verb": "retrain", "grid": (14, 14)},
        "weights": {"a": shared, "b": shared.view(2, 3).t()},
        "ema": None,
        "state": {"optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}, "random": [random_state()]},
    }
    return Contents(**{**values, **changes})


def test_what_is_written_is_read(tmp_path):
    folder = Checkpoints(tmp_path).save(contents())
    found = read(folder)
    assert (found.position, found.recipe) == (Position(epoch=1, step=5), Recipe())
    assert torch.equal(found.weights["b"], torch.arange(6.0).view(2, 3).t())
    assert found.ema is None
    found.refuse_other(Recipe(), {"verb": "retrain", "grid": [14, 14]})


class Trap:
    def __reduce__(self):
        return (print, ("this must not run",))


def test_code_in_a_checkpoint_is_refused(tmp_path, capsys):
    folder = Checkpoints(tmp_path).save(contents())
    buffer = io.BytesIO()
    torch.save({"optimizer": Trap(), "random": []}, buffer)
    (folder / "state.pt").write_bytes(buffer.getvalue())
    manifest = json.loads((folder / "checkpoint.json").read_text())
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    manifest["files"]["state.pt"] = {"bytes": len(buffer.getvalue()), "sha256": digest}
    (folder / "checkpoint.json").write_text(to_json(sealed(manifest)))
    with pytest.raises(CheckpointError, match=r"state.pt would run code when loaded; do not use it"):
        read(folder)
    assert capsys.readouterr().out == ""
    assert pickle.dumps(Trap())  # it is a real trap


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 99}, "another format than 2"),
        ({"about": None}, "lacks about"),
        ({"position": {"epoch": 1, "epochs": [], "wheel": 3}}, "not the position of a run"),
    ],
)
def test_manifests_of_other_versions(tmp_path, change, words):
    folder = Checkpoints(tmp_path).save(contents())
    manifest = {**json.loads((folder / "checkpoint.json").read_text()), **change}
    kept = sealed({name: value for name, value in manifest.items() if value is not None})
    (folder / "checkpoint.json").write_text(to_json(kept))
    with pytest.raises(CheckpointError, match=words):
        read(folder)


def test_a_manifest_that_says_the_same_in_other_words_was_altered(tmp_path):
    path = Checkpoints(tmp_path).save(contents()) / "checkpoint.json"
    text = path.read_text()
    assert "1e-08" in text
    path.write_text(text.replace("1e-08", "1E-08"))
    with pytest.raises(CheckpointError, match=r"checkpoint.json was altered"):
        read(path.parent)


def test_a_half_written_folder_is_no_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    folder = checkpoints.save(contents(epoch=1))
    shutil.copytree(folder, tmp_path / ".epoch-0002.partial")
    assert checkpoints.newest(pytest.fail).position.epoch == 1
    checkpoints.save(contents(epoch=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-0001", "epoch-0002", "index.json"]


def test_failing_in_the_middle_keeps_the_one_before(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(contents(epoch=1))

    def full(path, values):
        raise OutputError(f"cannot write {path}: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("rmeeto.retrain.checkpoint.write_json", full)
        with pytest.raises(OutputError, match="No space left"):
            checkpoints.save(contents(epoch=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-0001", "index.json"]
    assert checkpoints.newest(pytest.fail).position.epoch == 1


def test_nothing_is_there_yet(tmp_path):
    checkpoints = Checkpoints(tmp_path / "no")
    assert checkpoints.newest(pytest.fail) is None
    for place in (checkpoints.best, checkpoints.last):
        with pytest.raises(CheckpointError, match="holds no checkpoint yet"):
            place()


def test_clear(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(contents())
    checkpoints.clear()
    assert checkpoints.all() == []


def test_all_is_on_the_disk_before_it_is_moved_into_place(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr("os.fsync", lambda handle: done.append(Path(f"/proc/self/fd/{handle}").readlink().name))
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda self, target: (done.append("renamed"), rename(self, target))[1])
    Checkpoints(tmp_path).save(contents(ema={"a": torch.ones(1)}))
    before, after = done[: done.index("renamed")], done[done.index("renamed") + 1 :]
    assert len([name for name in before if name.endswith(".tmp")]) == 4  # weights, average, state, manifest
    assert before[-1] == ".epoch-0001.partial"
    assert after[0] == tmp_path.name


def test_judging_writes_the_manifest_alone(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    folder = checkpoints.save(contents())
    before = {path.name: path.stat().st_ino for path in folder.iterdir()}
    position = Position(epoch=1, step=5, best_epoch=1, best_top1=50.0, best_weights="weights.safetensors")
    checkpoints.judge(position)
    assert read(folder).position == position
    assert {name for name, inode in before.items() if (folder / name).stat().st_ino != inode} == {"checkpoint.json"}


def test_checkpoints_within_an_epoch_stand_between_those_at_its_ends(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for epoch, step in ((1, 5), (1, 7), (2, 10), (2, 12)):
        position = Position(epoch=epoch, step=step, epoch_steps=step % 5, best_epoch=1)
        checkpoints.save(contents(position=position))
    names = [folder.name for folder in checkpoints.all()]
    assert names == ["epoch-0002-step-00000012", "epoch-0002", "epoch-0001"]
    assert checkpoints.newest(pytest.fail).position.step == 12


def test_epochs_of_five_figures_are_newer(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for epoch in (9998, 9999, 10000, 10001):
        checkpoints.save(contents(epoch))
    assert [folder.name for folder in checkpoints.all()] == ["epoch-10001", "epoch-10000"]
    assert checkpoints.newest(pytest.fail).position.epoch == 10001
