"""Models come from a hub and go to one, and each refusal is one line, told at once."""

from __future__ import annotations

import dataclasses
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

import rmeeto
from rmeeto.errors import OutputError, RmeetoError, SettingsError, WeightsError
from rmeeto.hub import Hub, load, save_bundle, upload
from rmeeto.models import create
from rmeeto.reduction import attached
from rmeeto.schedule import Schedule

from .local_hub import COMMIT, LocalHub, serving
from .published import save, state_of

SIZES = {"img_size": [8, 8], "in_chans": 3, "embed_dim": 16, "depth": 2, "state_size": 4, "num_classes": 3}
FORM = {"input_size": [3, 8, 8], "mean": [0.5] * 3, "std": [0.25] * 3, "num_classes": 3}


@pytest.fixture
def far(tmp_path: Path) -> Iterator[LocalHub]:
    (tmp_path / "hub").mkdir()
    with serving(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture
def near(far: LocalHub, tmp_path: Path) -> Hub:
    return Hub(endpoint=far.address, cache_dir=tmp_path / "cache", token="hf_test")


def _bundle(folder: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    values: dict[str, Any] = {"schedule": Schedule((3, 0)), "reduction": {"class_place": "official"}, **changes}
    model = create("vim_nano", **SIZES)
    save_bundle(model, folder, architecture="vim_nano", model_args=SIZES, input=FORM, records={}, **values)
    return folder


@pytest.mark.parametrize("place", ["hf-hub:me/nano", "hf-hub:me/nano@main", f"hf-hub:me/nano@{COMMIT}"])
def test_a_merged_model_comes_back_merged(far: LocalHub, near: Hub, place: str) -> None:
    folder = _bundle(far.root / "me" / "nano")
    model, own = load(place, hub=near), load(folder)
    found = attached(model)
    assert found is not None
    assert (found[0], found[1].class_place) == (Schedule((3, 0)), "official")
    images = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        assert torch.equal(model(images), own(images))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("me/nano", {}),
        ("me/nano", {"revision": COMMIT}),
        ("me/nano@main", {}),
        ("hf-hub:me/nano", {"revision": "main"}),
        ("own", {}),
        ("hub/own", {}),
    ],
)
def test_from_pretrained(
    far: LocalHub, near: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, how: dict[str, Any]
) -> None:
    """A bare owner/name is the hub's, unless a folder of this machine is called so."""
    for folder in (far.root / "me" / "nano", far.root / "own", tmp_path / "own"):
        _bundle(folder)
    monkeypatch.chdir(tmp_path)
    model = rmeeto.from_pretrained(name, hub=near, **how)
    assert attached(model) is not None
    assert bool(far.asked) == ("me/nano" in name)
    assert all(f"/{how['revision']}/" in line for line in far.asked[:1] if how)


@pytest.mark.parametrize(
    ("name", "revision", "kind", "told"),
    [
        ("me/gone", None, WeightsError, "no repository me/gone at"),
        ("me/nano", "other", WeightsError, "me/nano: the repository has no such revision"),
        ("me/nano@main", "other", SettingsError, "revision = 'other'"),
        ("vim_tiny", "main", SettingsError, "revision = 'main' is of a model on the hub and vim_tiny is none, or"),
        ("runs/of/mine", None, WeightsError, "runs/of/mine is no folder of this machine and no published model"),
    ],
)
def test_what_from_pretrained_refuses(
    far: LocalHub, near: Hub, name: str, revision: str | None, kind: Any, told: str
) -> None:
    _bundle(far.root / "me" / "nano")
    with pytest.raises(kind, match=told) as caught:
        rmeeto.from_pretrained(name, revision=revision, hub=near)
    assert "\n" not in str(caught.value)


def test_both_files_are_of_one_commit(far: LocalHub, near: Hub) -> None:
    _bundle(far.root / "me" / "nano")
    load("hf-hub:me/nano", hub=near)
    taken = [line for line in far.asked if line.startswith("GET ")]
    assert taken == [
        f"GET /me/nano/resolve/{revision}/{name}"
        for revision, name in (("main", "config.json"), (COMMIT, "model.safetensors"))
    ]


def test_what_was_downloaded_is_found_without_a_network(far: LocalHub, near: Hub) -> None:
    _bundle(far.root / "me" / "nano")
    load("hf-hub:me/nano", hub=near)
    far.refusals["me/nano"] = "Broken"
    gone = dataclasses.replace(near, endpoint=_nobody())
    assert attached(load("hf-hub:me/nano", hub=gone)) is not None


def test_published_weights_by_name(far: LocalHub, near: Hub) -> None:
    """Of the re-trained ones the file's ending is not known, so the hub is asked for it."""
    repo = far.root / "Soptq" / "R-Meeto"
    repo.mkdir(parents=True)
    save(state_of("vim_tiny", 0.5), repo / "Vim-Ti_30epoch_75.3.pth")
    save({}, repo / "Vim-Ti_30epoch_75.pth")
    model = load("vim_tiny.rmeeto_in1k", hub=near)
    assert attached(model) is not None
    assert model.pretrained_cfg["paper_ids"][0] == "arXiv:2412.12496"
    assert (model.norm_f.weight == 0.5).all()


@pytest.mark.parametrize("place", ["hf-hub:hustvl/Vim-tiny-midclstok", "vim_tiny"])
def test_a_repository_of_one_published_file_is_that_model(far: LocalHub, near: Hub, place: str) -> None:
    """Its authors put no config.json there."""
    repo = far.root / "hustvl" / "Vim-tiny-midclstok"
    repo.mkdir(parents=True)
    save({"model": state_of("vim_tiny", 0.5)}, repo / "vim_t_midclstok_76p1acc.pth")
    assert (load(place, hub=near).norm_f.weight == 0.5).all()
    assert not [line for line in far.asked if "config.json" in line]


def _nobody() -> str:
    """An address where nobody answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


REFUSED = [
    ("hf-hub:me/nano@other", None, "config.json of me/nano: the repository has no such revision; leave out what"),
    ("hf-hub:me/empty", None, "config.json of me/empty: the repository has no such file; see .*/me/empty/tree/main"),
    ("hf-hub:me/gone", None, "no repository me/gone at http://.* or it is private; check the name, or log in"),
    ("hf-hub:me/nano", "GatedRepo", "its owner gives access on request; ask at http://.*/me/nano, then log in"),
    ("hf-hub:me/nano", "Broken", r"http://127.*\d answered 500 .*; try again later"),
    ("hf-hub:me/na no", None, "'me/na no' is not a repository's name; write owner/name"),
    ("hf-hub:a/b/c", None, "'a/b/c' is not a repository's name"),
    ("hf-hub:Soptq/R-Meeto", None, "holds 9 published models; load one of them by its name: vim_tiny.rmeeto_in1k, vim"),
    ("vim_tiny", None, "vim_t_midclstok_76p1acc.pth of hustvl/Vim-tiny-midclstok: no repository"),
    ("vim_tiny.rmeeto_in1k", None, "Vim-Ti_30epoch_75.3 of Soptq/R-Meeto: the repository has no such file"),
]


@pytest.mark.parametrize(("place", "refusal", "told"), REFUSED)
def test_refusals(far: LocalHub, near: Hub, place: str, refusal: str | None, told: str) -> None:
    _bundle(far.root / "me" / "nano")
    for repo in ("me/empty", "Soptq/R-Meeto"):
        (far.root / repo).mkdir(parents=True)
    if refusal:
        far.refusals["me/nano"] = refusal
    with pytest.raises(RmeetoError, match=told) as caught:
        load(place, hub=near)
    assert isinstance(caught.value, WeightsError | SettingsError)
    assert "\n" not in str(caught.value)


def test_a_cut_download_is_told(far: LocalHub, near: Hub) -> None:
    folder = _bundle(far.root / "me" / "nano")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    with pytest.raises(WeightsError, match="is cut short"):
        load("hf-hub:me/nano", hub=near)


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (
            lambda hub: load("vim_tiny", hub=hub),
            "vim_t_midclstok_76p1acc.pth of hustvl/Vim-tiny-midclstok: http://.* cannot be reached .*HF_ENDPOINT to a "
            "mirror, or download it by hand from https://huggingface.co/hustvl/Vim-tiny-midclstok and use `rmeeto conv",
        ),
        (lambda hub: load("hf-hub:me/nano", hub=hub), "config.json of me/nano: http://.* cannot be reached"),
        (
            lambda hub: upload({"a": b"b"}, "me/nano", hub, message="m", private=False),
            "upload to me/nano: http://.* cannot be reached .*; check the network and log in",
        ),
    ],
)
def test_without_a_network_it_is_told_at_once(
    tmp_path: Path, ask: Any, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's own download tries six times, for 23 seconds."""
    monkeypatch.setattr(time, "sleep", lambda _seconds: pytest.fail("it waits to try again"))
    with pytest.raises(WeightsError, match=told) as caught:
        ask(Hub(endpoint=_nobody(), cache_dir=tmp_path, token="hf_test"))
    assert "\n" not in str(caught.value)


def test_a_full_disk_is_no_broken_network(near: Hub, far: LocalHub, tmp_path: Path) -> None:
    """A file stands where the downloads should be kept."""
    _bundle(far.root / "me" / "nano")
    (tmp_path / "cache").write_text("mine")
    with pytest.raises(OutputError, match=r"cannot keep config\.json of me/nano: .*; free some space, or name another"):
        load("hf-hub:me/nano", hub=near)


def test_offline_by_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        WeightsError,
        match=r"HF_HUB_OFFLINE forbids to ask https://hugging\S+; unset it, or set HF_ENDPOINT to a mirror, or",
    ):
        load("vim_tiny", hub=Hub(cache_dir=tmp_path))


@pytest.mark.parametrize("private", [True, False])
def test_upload(far: LocalHub, near: Hub, tmp_path: Path, private: bool) -> None:
    """What goes up comes down."""
    folder = _bundle(tmp_path / "own")
    files = {name: folder / name for name in ("config.json", "model.safetensors")}
    address = upload({**files, "README.md": b"# nano"}, "me/nano", near, message="first", private=private)
    assert address == f"{far.address}/me/nano"
    assert (far.root / "me/nano/.private").read_text() == str(private)
    assert (far.root / "me/nano/README.md").read_text() == "# nano"
    assert attached(load("hf-hub:me/nano", hub=near)) is not None


def test_an_upload_that_is_refused(far: LocalHub, near: Hub) -> None:
    far.refusals["me/nano"] = "GatedRepo"
    with pytest.raises(WeightsError, match="upload to me/nano: "):
        upload({"a": b"b"}, "me/nano", near, message="m", private=False)


def test_a_token_is_not_shown() -> None:
    assert "secret" not in repr(Hub(token="secret"))


def test_timms_word_for_a_folder(tmp_path: Path) -> None:
    folder = _bundle(tmp_path / "own")
    assert attached(load(f"local-dir:{folder}")) is not None
    shutil.rmtree(folder)
    with pytest.raises(WeightsError, match="does not exist"):
        load(f"local-dir:{folder}")
