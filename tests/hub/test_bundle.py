"""A model's folder comes back as it was written, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models._hub import load_model_config_from_path  # timm reads the folder too

from rmeeto import records
from rmeeto.errors import OutputError, WeightsError
from rmeeto.hub import bundle_folder, load, read_bundle, save_bundle
from rmeeto.models import cast_weights, create
from rmeeto.models.configs import timm_parts
from rmeeto.reduction import attached
from rmeeto.schedule import Schedule

SIZES = {"img_size": [8, 8], "embed_dim": 16, "depth": 2, "num_classes": 3, "state_size": 4}
INPUT = {
    "input_size": [1, 8, 8], "mean": [0.5], "std": [0.25], "interpolation": "bicubic", "crop_pct": 1.0,
    "num_classes": 3, "label_names": ["boot", "bag", "<b>"],
}  # fmt: skip
SCHEDULE = Schedule((3, 0))


def _model() -> torch.nn.Module:
    torch.manual_seed(0)
    return create("vim_nano", **SIZES)


def _save(model: torch.nn.Module, folder: Path, **changes: Any) -> None:
    values: dict[str, Any] = {
        "architecture": "vim_nano", "model_args": SIZES, "schedule": SCHEDULE, "reduction": {"class_place": "official"},
        "input": INPUT, "records": {"accuracy": {"top1": 90.5, "loss": float("nan")}},
    }  # fmt: skip
    save_bundle(model, folder, **{**values, **changes})


def test_round_trip(tmp_path: Path) -> None:
    model = _model()
    _save(model, tmp_path)
    bundle = read_bundle(tmp_path)
    assert bundle.architecture == "vim_nano"
    assert bundle.model_args == SIZES
    assert bundle.schedule == SCHEDULE
    assert bundle.reduction == {"class_place": "official"}
    assert bundle.input == {**timm_parts("vim_nano"), **INPUT, "input_size": (1, 8, 8), "mean": (0.5,), "std": (0.25,)}
    assert bundle.records == {"accuracy": {"top1": 90.5, "loss": None}}
    assert bundle.version is not None
    state = model.state_dict()
    assert bundle.state.keys() == state.keys()
    assert all(torch.equal(bundle.state[name], state[name]) for name in state)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_config_is_in_timms_form(tmp_path: Path) -> None:
    model = _model().eval()
    _save(model, tmp_path)
    config, name, arguments = load_model_config_from_path(tmp_path)
    assert name == "vim_nano_patch2_28"
    assert arguments == SIZES
    assert config["num_classes"] == 3
    assert config["label_names"] == INPUT["label_names"]
    assert json.loads((tmp_path / "config.json").read_text())["num_features"] == 16
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(images), model(images))


def test_timm_gives_a_folders_model_other_classes_and_colours(tmp_path: Path) -> None:
    """As it does for its own models: the rest of the weights stays."""
    model = _model()
    _save(model, tmp_path)
    other = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=7, in_chans=3, img_size=16)
    assert other(torch.randn(1, 3, 16, 16)).shape == (1, 7)
    assert torch.equal(other.norm_f.weight, model.norm_f.weight)
    torch.testing.assert_close(other.patch_embed.proj.weight.sum(1), model.patch_embed.proj.weight.sum(1))


@pytest.mark.parametrize("name", ["vim_nano", "vim_nano_patch2_28"])
def test_both_names_of_a_network_are_read(tmp_path: Path, name: str) -> None:
    _save(_model(), tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("vim_nano_patch2_28", name))
    assert read_bundle(tmp_path).architecture == "vim_nano"
    assert load(tmp_path)(torch.randn(1, 1, 8, 8)).shape == (1, 3)


@pytest.mark.parametrize("suffix", ["", "config.json", "model.safetensors"])
def test_load_builds_the_model_with_its_schedule(tmp_path: Path, suffix: str) -> None:
    _save(_model(), tmp_path)
    model = load(tmp_path / suffix)
    assert not model.training
    assert model.pretrained_cfg["label_names"] == INPUT["label_names"]
    found = attached(model)
    assert found is not None
    assert found[0] == SCHEDULE
    assert found[1].class_place == "official"
    images = torch.randn(2, 1, 8, 8)
    with torch.inference_mode():
        assert model.forward_tokens(images).x.shape[1] == SCHEDULE.final_length(model.num_tokens)


@pytest.mark.parametrize(("dtype", "kind"), [(torch.bfloat16, torch.bfloat16), (torch.int8, torch.qint8)])
def test_load_in_fewer_bits(tmp_path: Path, dtype: torch.dtype, kind: torch.dtype) -> None:
    _save(_model(), tmp_path)
    model = load(tmp_path, dtype=dtype)
    assert attached(model) is not None
    weight = model.layers[0].mixer.in_proj.weight
    assert (weight() if dtype is torch.int8 else weight).dtype is kind


def test_load_from_a_runs_folder(tmp_path: Path) -> None:
    _save(_model(), tmp_path / "run" / "model")
    assert attached(load(tmp_path / "run")) is not None


def test_unmerged_model_gives_the_same_logits(tmp_path: Path) -> None:
    model = _model().eval()
    _save(model, tmp_path, schedule=None, reduction=None)
    again = load(str(tmp_path))
    images = torch.randn(2, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(again(images), model(images))
    assert attached(again) is None


def test_dtypes_are_kept(tmp_path: Path) -> None:
    model = cast_weights(_model(), torch.bfloat16)
    _save(model, tmp_path)
    kinds = {name: value.dtype for name, value in load(tmp_path).state_dict().items()}
    assert kinds == {name: value.dtype for name, value in model.state_dict().items()}
    assert set(kinds.values()) == {torch.bfloat16, torch.float32}


def test_folder_of_timm_without_our_part(tmp_path: Path) -> None:
    _save(_model(), tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["rmeeto"]
    config["label_names"] = config["pretrained_cfg"].pop("label_names")
    path.write_text(json.dumps(config))
    bundle = read_bundle(tmp_path)
    assert bundle.schedule is None
    assert bundle.records == {}
    assert bundle.input["label_names"] == INPUT["label_names"]


def _fail_at(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk be full when bytes go to disk, or a move fail when it is `name`'s turn."""
    if name == "fsync":

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(records.os, "fsync", full)
        return
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if Path(target).name == name and self.suffix == ".tmp":
            raise PermissionError(13, "Permission denied")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)


@pytest.mark.parametrize("step", ["fsync", "model.safetensors", "config.json"])
def test_older_bundle_stays_when_the_new_one_cannot_be_written(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save(_model(), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    sizes = {**SIZES, "num_classes": 7}
    other = create("vim_nano", **sizes)
    changes = {"model_args": sizes, "schedule": None, "input": {**INPUT, "num_classes": 7, "label_names": None}}
    with monkeypatch.context() as patch:
        _fail_at(step, patch)
        with pytest.raises(OutputError, match="cannot write") as caught:
            _save(other, tmp_path, **changes)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    _save(other, tmp_path, **changes)
    assert load(tmp_path).num_classes == 7
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("step", ["fsync", "model.safetensors", "config.json"])
def test_nothing_is_left_of_a_first_bundle_that_failed(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_at(step, monkeypatch)
    with pytest.raises(OutputError):
        _save(_model(), tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="--output"):
        _save(_model(), tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a file"


def _without(key: str) -> Any:
    def change(config: dict[str, Any]) -> None:
        where, _, name = key.rpartition(".")
        del (config[where] if where else config)[name]

    return change


def _with(key: str, value: Any) -> Any:
    def change(config: dict[str, Any]) -> None:
        where, _, name = key.rpartition(".")
        (config[where] if where else config)[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (_without("architecture"), "architecture"),
        (_with("architecture", "vim_giant"), "vim_giant"),
        (_with("architecture", 3), "architecture"),
        (_with("model_args", [1]), "model_args"),
        (_with("model_args.colour", "red"), "colour"),
        (_with("model_args.num_classes", 5), "head.weight"),
        (_with("model_args.img_size", [9, 9]), "9x9"),
        (_without("pretrained_cfg"), "pretrained_cfg"),
        (_without("pretrained_cfg.input_size"), "input_size"),
        (_with("pretrained_cfg.input_size", [8, 8]), "input_size"),
        (_with("pretrained_cfg.mean", ["a"]), "mean"),
        (_with("rmeeto.schedule", [1, -1]), "schedule"),
        (_with("rmeeto.schedule", "5"), "schedule"),
        (_with("rmeeto.schedule", [1, 0, 0]), "3 entries"),
        (_with("rmeeto.reduction", {"feature": "smell"}), "smell"),
        (_with("rmeeto.reduction", {"colour": 1}), "colour"),
        (_with("rmeeto", []), "rmeeto"),
        (_with("rmeeto", {"foo": 1}), r"rmeeto\.foo in .* is no word of this version \(version, schedule, "),
        (_with("rmeeto.shedule", [1, 0]), r"rmeeto\.shedule in .* is no word of this version"),
        *((_with("num_classes", value), "num_classes in .* must be an integer") for value in ("a", -1, 3.0, True, [])),
        (_with("num_classes", 4), "label_names in .* are 3 for num_classes 4"),
        (_with("pretrained_cfg.label_names", "boots"), "label_names in .* must be a list"),
        (_with("pretrained_cfg.label_names", ["boot", 1, "bag"]), "label_names in .* must be texts"),
        (_with("label_names", {"0": "boot", "1": "bag", "3": "hat"}), "label_names in .* an object of them by number"),
    ],
)
def test_odd_configs_give_one_line(tmp_path: Path, change: Any, word: str) -> None:
    _save(_model(), tmp_path)
    _changed(tmp_path, change)
    with pytest.raises(WeightsError, match=word) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


def _changed(folder: Path, change: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_the_number_of_classes_builds_the_head(tmp_path: Path) -> None:
    """timm writes it beside the arguments, and not among them where nobody gave it there."""
    _save(_model(), tmp_path)
    _changed(tmp_path, _without("model_args.num_classes"))
    assert load(tmp_path).num_classes == 3
    _changed(tmp_path, _without("pretrained_cfg.label_names"))
    _changed(tmp_path, _with("num_classes", 4))
    with pytest.raises(WeightsError, match=r"head\.weight"):
        load(tmp_path)
    _changed(tmp_path, _with("model_args.num_classes", 3))
    with pytest.raises(WeightsError, match="num_classes is 4 and the weights are of 3"):
        load(tmp_path)


def test_names_of_classes_may_stand_by_their_number(tmp_path: Path) -> None:
    """As timm has it."""
    _save(_model(), tmp_path)
    _changed(tmp_path, _with("label_names", {"1": "bag", "0": "boot", "2": "hat"}))
    assert read_bundle(tmp_path).input["label_names"] == ["boot", "bag", "hat"]


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"", "JSON"), (b"[]", "object"), (b"{", "JSON"), (b"\xff\xfe", "JSON"), (b"[" * 20000, "JSON")],
)
def test_broken_config(tmp_path: Path, content: bytes, word: str) -> None:
    _save(_model(), tmp_path)
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=word):
        load(tmp_path)


def test_missing_parts(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="does not exist"):
        bundle_folder(tmp_path / "gone")
    with pytest.raises(WeightsError, match=r"holds no config\.json"):
        load(tmp_path)
    with pytest.raises(WeightsError, match="gone is no folder of this machine and no published model; `rmeeto models`"):
        load(tmp_path / "gone")
    with pytest.raises(WeightsError, match=r"no published model; did you mean vim_tiny\? `rmeeto models` lists those"):
        load("vim_tinny")
    with pytest.raises(WeightsError, match=r"of vim_tiny_stride8 no weights are published; rmeeto\.create"):
        load("vim_tiny_stride8")
    with pytest.raises(
        WeightsError, match=r"load videomamba_tiny_k400_f8 and call set_input_size\(num_frames=16\), which"
    ):
        load("videomamba_tiny_k400_f16")
    with pytest.raises(
        WeightsError, match=r"vim_tiny has no published weights 'in1k'; it has vim_tiny\.midclstok_in1k, vim"
    ):
        load("vim_tiny.in1k")
    _save(_model(), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        load(tmp_path)


def test_the_folder_one_is_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save(_model(), tmp_path / "run" / "model")
    for inside in ("run/model", "run"):
        monkeypatch.chdir(tmp_path / inside)
        assert attached(load(".")) is not None
    monkeypatch.chdir(tmp_path / "run" / "model")
    assert attached(load("config.json")) is not None
    (tmp_path / "run" / "model" / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"model folder empty holds no config\.json"):
        load("empty")
