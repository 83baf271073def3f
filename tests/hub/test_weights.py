"""Weight files are read without running their code, and each broken one gives one clear line."""

from __future__ import annotations

import argparse
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from rmeeto.errors import WeightsError
from rmeeto.hub import load_weights, read_weights

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b.weight": torch.tensor([1.5], dtype=torch.bfloat16)}


class Payload:
    """Unpickling it with an open unpickler creates the file."""

    def __init__(self, function: object, argument: str) -> None:
        self.function, self.argument = function, argument

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return self.function, (self.argument,)


def _same(state: dict[str, torch.Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(
        torch.equal(state[k], STATE[k]) and state[k].dtype == STATE[k].dtype for k in STATE
    )


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("bare.pth", STATE, None),
        ("model.pt", {"model": STATE, "epoch": 3}, None),
        ("state_dict.bin", {"state_dict": STATE, "optimizer": {"lr": 1.0}}, None),
        ("ema_only.pth", {"model_ema": STATE}, None),
        ("ema.pth", {"model": {"other": torch.zeros(1)}, "model_ema": STATE}, "model_ema"),
        ("options.pth", {"model": STATE, "args": argparse.Namespace(lr=1e-3, betas=(0.9, 0.999))}, None),
        ("parallel.pth", {f"module.{k}": v for k, v in STATE.items()}, None),
        ("compiled.pth", {"model": {f"module._orig_mod.{k}": v for k, v in STATE.items()}}, None),
    ],
)
def test_torch_files_are_unwrapped(tmp_path: Path, name: str, content: object, part: str | None) -> None:
    torch.save(content, tmp_path / name)
    assert _same(read_weights(tmp_path / name, part=part))


@pytest.mark.parametrize("name", ["model.safetensors", "misnamed.pth"])
def test_safetensors_are_known_by_content(tmp_path: Path, name: str) -> None:
    safetensors.torch.save_file(STATE, tmp_path / name)
    assert _same(read_weights(str(tmp_path / name)))


def test_old_format_of_torch(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert _same(read_weights(tmp_path / "old.pth"))


def _write_zip(path: Path, payload: Payload) -> None:
    torch.save({"model": STATE, "extra": payload}, path)


def _write_old(path: Path, payload: Payload) -> None:
    torch.save({"model": STATE, "extra": payload}, path, _use_new_zipfile_serialization=False)


def _write_pickle(path: Path, payload: Payload) -> None:
    path.write_bytes(pickle.dumps(payload, protocol=0))


def _write_new_pickle(path: Path, payload: Payload) -> None:
    path.write_bytes(pickle.dumps({"model": payload}, protocol=5))


@pytest.mark.parametrize("write", [_write_zip, _write_old, _write_pickle, _write_new_pickle])
@pytest.mark.parametrize(("function", "named"), [(os.mkdir, "posix.mkdir"), (eval, "eval`")])
@pytest.mark.parametrize("name", ["hostile.pth", "hostile.safetensors"])
def test_hostile_pickle_is_refused_and_does_not_run(
    tmp_path: Path, write: object, function: object, named: str, name: str
) -> None:
    ran = tmp_path / "ran"
    payload = Payload(function, str(ran) if function is os.mkdir else f"__import__('os').mkdir({str(ran)!r})")
    path = tmp_path / name
    write(path, payload)  # type: ignore[operator]
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    assert not ran.exists()
    assert "\n" not in str(caught.value)
    if path.read_bytes().startswith(b"PK") or name.endswith(".pth"):
        assert named.replace("posix", os.mkdir.__module__) in str(caught.value)
    pickle.loads(pickle.dumps(payload))
    assert ran.exists(), "the payload is harmless, so this test proves nothing"


@pytest.mark.parametrize("keep", [1, 7, 8, 9, 30, 0.5, -1])
@pytest.mark.parametrize("kind", ["safetensors", "pth", "old"])
def test_truncated_files(tmp_path: Path, kind: str, keep: float) -> None:
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model.pth")
    if kind == "safetensors":
        safetensors.torch.save_file(STATE, path)
    else:
        torch.save({"model": STATE}, path, _use_new_zipfile_serialization=kind == "pth")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(WeightsError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    assert "run code" not in message


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("empty.pth", b"", "empty"),
        ("empty.safetensors", b"", "empty"),
        ("text.pth", b"hello world\n" * 20, "not a weight file"),
        ("page.safetensors", b"<!DOCTYPE html><html></html>", "safetensors"),
        ("pointer.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
        ("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        ("zeros.bin", bytes(4000), "not a weight file"),
        ("picture.pth", b"\x89PNG\r\n\x1a\n" + bytes(50), "not a weight file"),
        ("huge_header.safetensors", b"\xff" * 7 + b"\x7f{}", "safetensors"),
    ],
)
def test_other_files(tmp_path: Path, name: str, content: bytes, word: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=word) as caught:
        read_weights(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "part", "word"),
    [
        ([torch.zeros(1)], None, "list"),
        ({}, None, "nothing at all"),
        ({"epoch": 3}, None, "epoch"),
        ({"model": {"a": torch.zeros(1), "step": 4}}, None, "step"),
        ({"model": STATE}, "model_ema", "no part 'model_ema'"),
        ({"model": STATE, "epoch": 3}, "epoch", "no part 'epoch'"),
        ({"a": torch.zeros(1), "module.a": torch.zeros(1)}, None, "twice"),
    ],
)
def test_files_without_a_state_dict(tmp_path: Path, content: object, part: str | None, word: str) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(WeightsError, match=word):
        read_weights(tmp_path / "odd.pth", part=part)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weight file at .*gone\.pth"):
        read_weights(tmp_path / "gone.pth")
    with pytest.raises(WeightsError, match="cannot read"):
        read_weights(tmp_path)


def _model() -> nn.Module:
    model = nn.Module()
    model.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
    model.head = nn.Linear(4, 3)
    model.body = nn.Linear(4, 4)
    return model


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"head.weight": torch.zeros(7, 4), "head.bias": torch.zeros(7)},
            ["2 of another size", "7x4", "3x4", "number of classes"],
        ),
        ({"pos_embed": torch.zeros(1, 9, 4)}, ["1x9x4", "1x5x4", "input size"]),
        # Another size is no cure where other things are wrong, too.
        (
            {"pos_embed": torch.zeros(1, 9, 4), "tail": torch.zeros(1)},
            ["1x9x4", "1 unexpected", "the file's sizes, or"],
        ),
        ({"head.bias": None}, ["1 missing (head.bias)"]),
        ({f"extra.{i}": torch.zeros(1) for i in range(5)}, ["5 unexpected (extra.0, extra.1, extra.2 and 2 more)"]),
        (
            {"head.bias": None, "other": torch.zeros(1), "body.bias": torch.zeros(())},
            ["1 missing", "1 unexpected", "a scalar"],
        ),
    ],
)
def test_weights_that_do_not_fit_change_nothing(changes: dict[str, torch.Tensor | None], words: list[str]) -> None:
    model = _model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = {name: torch.ones_like(value) for name, value in before.items()}
    state = {name: value for name, value in {**state, **changes}.items() if value is not None}
    with pytest.raises(WeightsError) as caught:
        load_weights(model, state, "w.pth")
    message = str(caught.value)
    assert message.startswith("w.pth does not fit the model")
    assert "\n" not in message
    for word in words:
        assert word in message
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_of_another_network() -> None:
    with pytest.raises(WeightsError, match="another kind of network"):
        load_weights(_model(), {"conv.weight": torch.zeros(1)}, "w.pth")


def test_weights_are_copied_into_the_models_own_dtype() -> None:
    model = _model()
    state = {name: torch.full_like(value, 2.0, dtype=torch.bfloat16) for name, value in model.state_dict().items()}
    load_weights(model, state, "w.pth")
    assert model.head.weight.dtype == torch.float32
    assert bool((model.head.weight == 2.0).all())
