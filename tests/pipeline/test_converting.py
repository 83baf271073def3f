"""`convert`: a weight file becomes a folder that this program and timm read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import rmeeto
from rmeeto import pipeline
from rmeeto.errors import OutputError, SettingsError, ShapeError, WeightsError
from rmeeto.models import Vim, create
from rmeeto.reduction import attached, detach

from .conftest import NANO

KEYS = json.loads((Path(__file__).parent.parent / "golden" / "keys_image.json").read_text())


def _published(folder: Path, *, seed: int = 0) -> Path:
    """The re-trained Vim-Ti as it is published, with numbers of our own."""
    torch.manual_seed(seed)
    path = folder / "Vim-Ti_30epoch_75.3.pth"
    torch.save({"model": create("vim_tiny").state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A published file's folder, and what was told of it."""
    folder = tmp_path_factory.mktemp("converted")
    done = pipeline.convert(_published(folder), folder / "model")
    return folder / "model", done


def test_what_is_told(converted: tuple[Path, dict[str, Any]]) -> None:
    folder, done = converted
    assert done == {
        "kind": "conversion",
        "model": "vim_tiny",
        "origin": "vim_tiny_patch16_224.rmeeto_in1k",
        "parameters": 7_148_008,
        "schedule": [0, 5] * 11 + [0, 0],
        "notes": [
            "weights of Vim-Ti_30epoch_75.3.pth, its part model",
            "taken for vim_tiny_patch16_224.rmeeto_in1k of Soptq/R-Meeto by the file's name",
        ],
        "output": str(folder),
    }


def test_the_folder_has_timms_form(converted: tuple[Path, dict[str, Any]]) -> None:
    config = json.loads((converted[0] / "config.json").read_text())
    assert config["architecture"] == "vim_tiny_patch16_224"
    assert (config["num_classes"], config["num_features"], config["model_args"]) == (1000, 192, {})
    cfg = config["pretrained_cfg"]
    assert (cfg["first_conv"], cfg["classifier"], cfg["license"]) == ("patch_embed.proj", "head", None)
    assert cfg["paper_ids"] == ["arXiv:2412.12496", "arXiv:2401.09417"]
    assert config["rmeeto"]["records"]["origin"]["top1"] == 75.3


def test_both_read_it(converted: tuple[Path, dict[str, Any]]) -> None:
    """timm builds the un-merged model; ours comes merged."""
    own = rmeeto.load(converted[0])
    assert attached(own) is not None
    other = timm.create_model(f"local-dir:{converted[0]}", pretrained=True).eval()
    detach(own)
    images = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(own(images), other(images))
    assert other.pretrained_cfg["num_classes"] == 1000


def test_a_users_own_file(tmp_path: Path) -> None:
    """Of another number of classes, from many devices."""
    model = create("vim_nano", num_classes=4)
    torch.save({f"module.{name}": value for name, value in model.state_dict().items()}, tmp_path / "mine.pth")
    done = pipeline.convert(tmp_path / "mine.pth", tmp_path / "out", model="vim_nano")
    assert (done["origin"], done["schedule"]) == (None, None)
    again = rmeeto.load(tmp_path / "out")
    assert isinstance(again, Vim)
    assert again.num_classes == 4
    assert torch.equal(again.head.weight, model.head.weight)


def test_a_file_of_another_input_size(tmp_path: Path) -> None:
    torch.save({"model": create("vim_nano", img_size=20).state_dict()}, tmp_path / "mine.pth")
    with pytest.raises(
        WeightsError, match=r"10x10 patches and vim_nano at 28 pixels has 14x14; convert it with --img-size 20$"
    ):
        pipeline.convert(tmp_path / "mine.pth", tmp_path / "out", model="vim_nano")
    pipeline.convert(tmp_path / "mine.pth", tmp_path / "out", model="vim_nano", img_size=20)
    assert rmeeto.load(tmp_path / "out").pretrained_cfg["input_size"] == (1, 20, 20)
    with pytest.raises(ShapeError, match="21x21 does not fit patches of 2"):
        pipeline.convert(tmp_path / "mine.pth", tmp_path / "new", model="vim_nano", img_size=21)
    with pytest.raises(SettingsError, match="was published for 224 pixels; leave out img_size"):
        pipeline.convert("vim_t_midclstok_76p1acc.pth", tmp_path / "new", img_size=448)


def test_another_models_file_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    torch.save(create("vim_nano", **NANO.sizes()).state_dict(), tmp_path / "mine.pth")
    with pytest.raises(WeightsError, match=r"of another size \(.*missing \(.*build the model with the file's sizes"):
        pipeline.convert(tmp_path / "mine.pth", tmp_path / "out", model="vim_tiny")
    assert not (tmp_path / "out").exists()


def test_no_model_is_replaced(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds a model already, which this would replace; name another folder"):
        pipeline.convert("any.pth", trained, model="vim_nano")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="is a file; name a folder"):
        pipeline.convert("any.pth", tmp_path / "file", model="vim_nano")
