"""Published files are read as they are: every wrapper, name and shape, and what is no network is told."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from rmeeto.errors import SettingsError, WeightsError
from rmeeto.hub import build, load, read_official
from rmeeto.hub.official import published_as
from rmeeto.models import create
from rmeeto.models.origins import ORIGINS, Origin, find
from rmeeto.reduction import attached

from .published import KEYS, save, state_of, vim_file

NANO = create("vim_nano", depth=2, embed_dim=16)


@pytest.mark.parametrize(
    ("file", "content", "value", "notes"),
    [
        ("vim_t_midclstok_76p1acc.pth", vim_file("vim_tiny"), 1.0, ["its part model", "vim_tiny_patch16_224.midcl"]),
        ("vim_b_midclstok_81p9acc.pth", vim_file("vim_base"), 2.0, ["its part model_ema", "hustvl/Vim-base-midclst"]),
        (
            "Vim-S_15epoch_80.0.pth",
            {f"module.{name}": value for name, value in state_of("vim_small", 3.0).items()},
            3.0,
            ["vim_small_patch16_224.rmeeto_in1k"],
        ),
        ("Vim-Ti_30epoch_75.3", {"model": state_of("vim_tiny", 4.0)}, 4.0, ["vim_tiny_patch16_224.rmeeto_in1k"]),
    ],
)
def test_wrappers(tmp_path: Path, file: str, content: Any, value: float, notes: list[str]) -> None:
    found = read_official(save(content, tmp_path / file))
    assert {tensor.flatten()[0].item() for tensor in found.bundle.state.values()} == {value}
    assert all(any(note in told for told in found.notes) for note in notes)


def _alike(origin: Origin) -> str:
    """The network whose names and shapes it has: VideoMamba's for images have Vim's."""
    return origin.short.replace("videomamba", "vim") if origin.num_frames is None else origin.short


@pytest.mark.parametrize(
    "origin", [origin for origin in ORIGINS if _alike(origin) in KEYS], ids=lambda origin: origin.name
)
def test_every_published_file_has_the_names_and_shapes_of_its_network(origin: Origin, tmp_path: Path) -> None:
    """Without the numbers: the model is built where tensors have shapes alone."""
    state = state_of(_alike(origin))
    bundle = read_official(save({origin.part: state} if origin.part else state, tmp_path / origin.file)).bundle
    assert bundle.architecture == origin.short
    assert bundle.schedule == origin.schedule
    assert bundle.records["origin"]["name"] == origin.name
    assert bundle.records["origin"]["top1"] == origin.top1
    with torch.device("meta"):
        own = create(origin.short).state_dict()
    assert {name: list(value.shape) for name, value in own.items()} == {
        name: list(value.shape) for name, value in bundle.state.items()
    }


def test_a_published_file_becomes_the_merged_model(tmp_path: Path) -> None:
    """At full size, once."""
    model = load(save({"model": state_of("vim_tiny", 0.01)}, tmp_path / "Vim-Ti_30epoch_75.3.pth"))
    found = attached(model)
    assert found is not None
    assert found[0].removals == (0, 5) * 11 + (0, 0)
    assert found[1].class_place == "official"
    assert sum(parameter.numel() for parameter in model.parameters()) == 7_148_008
    assert (model.head.weight == torch.tensor(0.01)).all()
    assert model.pretrained_cfg["license"] is None


def _nano(**changes: Any) -> dict[str, torch.Tensor]:
    """A file of two tensors is enough where the network is not built."""
    return {**NANO.state_dict(), **changes}


def test_extras_are_left_out_and_told(tmp_path: Path) -> None:
    extras = {"distill_head.weight": torch.ones(2, 2), "distill_head.bias": torch.ones(2)}
    found = read_official(save({"model": _nano(**extras)}, tmp_path / "mine.pth"), model="vim_nano")
    assert found.bundle.state.keys() == NANO.state_dict().keys()
    assert found.notes[1:] == ("left out what is no part of the network: distill_head.weight, distill_head.bias",)


def test_of_a_users_own_file_nothing_but_the_network_is_known(tmp_path: Path) -> None:
    """Not the licence or the accuracy of the published weights, and not their number of classes."""
    state = {"head.weight": torch.ones(7, 192), "head.bias": torch.ones(7)}
    found = read_official(save({"model": state, "model_ema": state}, tmp_path / "mine.pth"), model="vim_tiny")
    assert found.bundle.records == {}
    assert found.bundle.schedule is None
    assert found.bundle.model_args == {"num_classes": 7}
    assert found.bundle.input["num_classes"] == 7
    assert "license" not in found.bundle.input
    assert found.bundle.input["input_size"] == (3, 224, 224)


def test_a_renamed_published_file_is_what_it_is_said_to_be(tmp_path: Path) -> None:
    """A merged model under another file name would otherwise come back un-merged, and nobody would be told."""
    path = save({"model": state_of("vim_tiny")}, tmp_path / "mine.pth")
    found = read_official(path, model="vim_tiny.rmeeto_in1k")
    assert found.bundle.schedule == find("vim_tiny.rmeeto_in1k").schedule  # type: ignore[union-attr]
    assert found.bundle.records["origin"]["top1"] == 75.3
    assert found.notes[-1] == "taken for vim_tiny_patch16_224.rmeeto_in1k of Soptq/R-Meeto as was said"
    path = path.rename(tmp_path / "Vim-Ti_30epoch_75.3.pth")
    with pytest.raises(
        SettingsError, match=r"is published as vim_tiny\.rmeeto_in1k and not as vim_tiny\.midclstok_in1k;"
    ):
        read_official(path, model="vim_tiny.midclstok_in1k")


@pytest.mark.parametrize("frames", [8, 16, 64])
def test_a_file_of_8_frames_serves_a_network_of_more(tmp_path: Path, frames: int) -> None:
    """The frames' positions are interpolated; the published file's own name changes nothing about that."""
    state = state_of("videomamba_tiny_k400_f8", 0.5)
    state["temporal_pos_embedding"] = torch.arange(8.0).view(1, 8, 1).expand(1, 8, 192).clone()
    path = save(state, tmp_path / "videomamba_t16_k400_f8_res224.pth")
    found = read_official(path, model=f"videomamba_tiny_k400_f{frames}")
    table = found.bundle.state["temporal_pos_embedding"]
    assert table.shape == (1, frames, 192)
    torch.testing.assert_close(table.mean(), torch.tensor(3.5))
    assert found.bundle.architecture == f"videomamba_tiny_k400_f{frames}"
    assert ("origin" in found.bundle.records) == (frames == 8)
    assert (f"positions of 8 frames interpolated to {frames}" in found.notes) == (frames != 8)


@pytest.mark.parametrize(
    ("model", "part", "taken"),
    [
        ("vim_base", None, "model_ema"),
        ("vim_tiny", None, "model"),
        ("vim_base", "model", "model"),
        ("vim_tiny", "model_ema", "model_ema"),
    ],
)
def test_which_part_is_taken(tmp_path: Path, model: str, part: str | None, taken: str) -> None:
    parts = {"model": {"head.bias": torch.ones(5)}, "model_ema": {"head.bias": torch.ones(6)}}
    found = read_official(save(parts, tmp_path / "mine.pth"), model=model, part=part)
    assert len(found.bundle.state["head.bias"]) == {"model": 5, "model_ema": 6}[taken]
    assert found.notes == (f"weights of mine.pth, its part {taken}",)


def test_the_accuracy_is_that_of_one_part(tmp_path: Path) -> None:
    path = save(vim_file("vim_base"), tmp_path / "vim_b_midclstok_81p9acc.pth")
    assert read_official(path).bundle.records["origin"]["top1"] == 81.9
    other = read_official(path, part="model")
    assert other.bundle.records["origin"]["top1"] is None
    assert "the published accuracy is that of the part model_ema, so it is not recorded" in other.notes


@pytest.mark.parametrize(
    ("file", "model", "name"),
    [
        ("vim_t_midclstok_76p1acc.pth", None, "vim_tiny.midclstok_in1k"),
        ("vim_t_midclstok_76p1acc.pth", "vim_tiny", "vim_tiny.midclstok_in1k"),
        ("Vim-Ti_30epoch_75.3", "vim_tiny", "vim_tiny.rmeeto_in1k"),
        ("Vim-Ti_30epoch_75.3.bin", "vim_tiny_patch16_224", "vim_tiny.rmeeto_in1k"),
        ("Vim-Ti_30epoch_75.3.pth", "vim_tiny.midclstok_in1k", None),
        ("vim_t_midclstok_76p1acc.pth", "vim_small", None),
        ("vim_t_midclstok_76p1acc.pth", "vim_nano", None),
        ("mine.pth", "vim_tiny", None),
        ("mine.pth", None, None),
    ],
)
def test_published_as(file: str, model: str | None, name: str | None) -> None:
    assert published_as(file, model) == (None if name is None else find(name))


def _hostile(path: Path) -> Path:
    class Payload:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(path.parent / "ran"),)

    return save({"model": _nano(), "args": Payload()}, path)


def _truncated(path: Path) -> Path:
    save({"model": _nano()}, path)
    path.write_bytes(path.read_bytes()[:-2000])
    return path


@pytest.mark.parametrize(
    ("write", "model", "kind", "told"),
    [
        (_hostile, "vim_nano", WeightsError, r"would run code when opened: it names `(posix|nt)\.mkdir`; refused"),
        (_truncated, "vim_nano", WeightsError, "is cut short or damaged"),
        (lambda path: path, "vim_nano", WeightsError, "no weight file at"),
        (lambda path: save(_nano(), path), None, SettingsError, "its network is not known; name it"),
        (
            lambda path: save(_nano(), path.with_name("videomamba_t16_in1k_res224.pth")),
            "vim_tiny",
            SettingsError,
            "is published as videomamba_tiny, whose weights fit vim_tiny and mean something else there; leave out",
        ),
        (
            lambda path: save(_nano(pos_embed=torch.zeros(1, 28**2 + 1, 192)), path),
            "vim_tiny",
            WeightsError,
            "positions for 28x28 patches and vim_tiny at 224 pixels has 14x14; convert it with --img-size 448$",
        ),
        (
            lambda path: save(_nano(pos_embed=torch.zeros(1, 27**2 + 1, 192)), path),
            "vim_tiny",
            WeightsError,
            "convert it with --img-size 432, or vim_tiny_stride8 if its patches overlap$",
        ),
        (lambda path: save(_nano(), path), "vim_huge", SettingsError, "'vim_huge' is unknown; did you mean vim_"),
        (
            lambda path: save({"model": _nano(), "args": argparse.Namespace()}, path),
            "vim_nano",
            WeightsError,
            r"of another size \(cls_token is 1x1x16 and the model's is 1x1x64.*missing \(layers\.2",
        ),
        (
            lambda path: save({"blocks.0.attn.qkv.weight": torch.ones(1)}, path),
            "vim_nano",
            WeightsError,
            r"missing \(cls_token.*1 unexpected \(blocks.0.attn.qkv.weight\); no name agrees: .* another kind of netw",
        ),
    ],
)
def test_files_that_cannot_be(tmp_path: Path, write: Any, model: str | None, kind: Any, told: str) -> None:
    path = write(tmp_path / "mine.pth")
    with pytest.raises(kind, match=told) as caught:
        build(read_official(path, model=model).bundle, str(path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
