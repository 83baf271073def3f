"""The networks as timm's own programs meet them."""

import argparse
import subprocess
import sys

import pytest
import timm
import torch
from timm.models import get_model_args, get_model_input_config
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn

import rmeeto
from rmeeto.errors import SettingsError
from rmeeto.models import Vim, timm_entries
from rmeeto.models.configs import CONFIGS, TIMM_NAMES
from rmeeto.models.embed import resize_positions
from rmeeto.models.origins import ORIGINS
from rmeeto.schedule import Schedule

TINY = {"embed_dim": 16, "depth": 4, "state_size": 4, "img_size": 64}

# What a user may do before `timm.create_model`, in a fresh Python.
ORDERS = [
    "import timm, rmeeto",
    # Others ask whether timm is there; and it may be imported in the midst of our own modules.
    "import rmeeto, importlib.util; importlib.util.find_spec('timm'); import rmeeto.models.vim",
]
CHECK = """
import sys, timm
assert timm.is_model("vim_tiny_patch16_224") and timm.list_models("vim_nano*") == ["vim_nano_patch2_28"]
assert type(timm.__spec__.loader).__module__ == type(timm.__loader__).__module__ == "_frozen_importlib_external"
assert not [finder for finder in sys.meta_path if type(finder).__module__.startswith("rmeeto")]
"""


@pytest.mark.parametrize("order", ORDERS)
def test_timm_knows_the_networks_whatever_was_imported_first(order):
    subprocess.run([sys.executable, "-W", "error", "-c", f"{order}\n{CHECK}"], check=True)


def test_importing_rmeeto_imports_no_timm_and_no_torch():
    code = "import rmeeto, sys; assert not {'torch', 'timm', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_network_has_an_entry():
    assert sorted(timm.list_models(module="timm_entries")) == sorted(TIMM_NAMES.values())
    assert {TIMM_NAMES[o.short] for o in ORIGINS} == {o.model for o in ORIGINS}
    assert {"vim_small_patch16_stride8_224", "videomamba_middle_patch16_224", "videomamba_tiny_k400_f64_224"} <= set(
        TIMM_NAMES.values()
    )


@pytest.mark.parametrize("short", CONFIGS)
def test_both_names_make_the_same_network(short):
    with torch.device("meta"):
        long = timm.create_model(TIMM_NAMES[short])
        named = rmeeto.create(TIMM_NAMES[short])
    assert isinstance(long, Vim)
    assert long.config == named.config == CONFIGS[short]
    assert long.pretrained_cfg["num_classes"] == long.num_classes
    assert long.pretrained_cfg["input_size"] == (long.in_chans, *long.config.img_size)


def test_published_weights_are_described():
    cfg = timm.get_pretrained_cfg("vim_base_patch16_224.midclstok_in1k")
    assert (cfg.hf_hub_id, cfg.hf_hub_filename) == ("hustvl/Vim-base-midclstok", "vim_b_midclstok_81p9acc.pth")
    assert cfg.license == "apache-2.0"
    assert cfg.paper_ids == ("arXiv:2401.09417",)
    assert timm.models.is_model_pretrained("videomamba_tiny_k400_f8_224")
    assert not timm.models.is_model_pretrained("vim_nano_patch2_28")
    assert "videomamba_middle_patch16_224.in1k" in timm.list_pretrained("videomamba*")


@pytest.mark.parametrize(
    ("name", "tag", "part"),
    [
        ("vim_base_patch16_224", "midclstok_in1k", "model_ema"),  # the published accuracy is the moving average's
        ("vim_tiny_patch16_224", None, "model"),
        ("videomamba_tiny_patch16_224", "in1k", None),
    ],
)
def test_weights_of_an_official_file_become_the_models(name, tag, part):
    old = rmeeto.create(name, **TINY)
    state = {**old.state_dict(), "distill_head.weight": torch.zeros(1)}
    worse = {name: torch.zeros_like(value) for name, value in state.items()}
    wrapped = {"model": worse, "model_ema": worse, "args": argparse.Namespace(lr=1), "epoch": 3, part: state}
    checkpoint = wrapped if part else state
    new = rmeeto.create(name, **{**TINY, "img_size": 96})
    new.pretrained_cfg = {"architecture": name, "tag": tag}
    new.load_state_dict(timm_entries.fitted_weights(checkpoint, new))
    assert torch.equal(new.head.weight, old.head.weight)
    assert torch.equal(new.pos_embed, resize_positions(old.pos_embed, new.config))


@pytest.mark.parametrize("name", ["vim_tiny_patch16_224", "videomamba_tiny_k400_f8_224"])
def test_pretrained_weights_go_into_a_model_of_other_sizes(name, tmp_path):
    file = tmp_path / "weights.pth"
    old = timm.create_model(name, **TINY)
    torch.save({"model": old.state_dict(), "args": argparse.Namespace()}, file)
    overlay = {"file": str(file)}
    sizes = {**TINY, "img_size": 96, "num_classes": 7}
    new = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **sizes)
    assert new.num_classes == 7
    assert torch.equal(new.norm_f.weight, old.norm_f.weight)
    assert torch.equal(new.pos_embed, resize_positions(old.pos_embed, new.config))


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
@pytest.mark.parametrize("name", ["vim_tiny_patch16_224", "videomamba_tiny_k400_f8_224"])
def test_pretrained_weights_go_into_a_model_of_other_colours(name, channels, tmp_path, caplog):
    """As timm fits them: three channels are added up for one, repeated and weighed for more."""
    file = tmp_path / "weights.pth"
    old = timm.create_model(name, **TINY)
    torch.save(old.state_dict(), file)
    overlay = {"file": str(file)}
    new = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, in_chans=channels, **TINY)
    source = old.patch_embed.proj.weight
    expected = [source[:, channel % 3] * 3 / channels for channel in range(channels)]
    if channels == 1:
        expected = [source.sum(1)]
    torch.testing.assert_close(new.patch_embed.proj.weight, torch.stack(expected, dim=1))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_a_folder_of_timms_form_is_loaded_by_timm(tmp_path):
    model = timm.create_model("vim_nano_patch2_28", embed_dim=16, depth=2, num_classes=3).eval()
    timm.models.save_for_hf(model, tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(1, 1, 28, 28)
    assert torch.equal(again(images), model(images))


def test_sizes_are_overridden_and_unknown_ones_named():
    model = timm.create_model(
        "vim_tiny_patch16_224", **TINY, in_chans=4, num_classes=7, drop_rate=0.2, drop_path_rate=0.1, global_pool="avg"
    )
    assert model(torch.randn(1, 4, 64, 64)).shape == (1, 7)
    assert model.head_drop.p == 0.2
    assert [layer.drop_path.drop_prob for layer in model.layers] == pytest.approx([0, 0.1 / 3, 0.2 / 3, 0.1])
    with pytest.raises(SettingsError, match="no size named num_heads"):
        timm.create_model("vim_tiny_patch16_224", num_heads=3)


def test_input_size_is_known_to_timm():
    model = timm.create_model("vim_tiny_patch16_224", **TINY)
    assert get_model_input_config(model)["input_size"] == (3, 64, 64)
    model.set_input_size(img_size=(96, 64))
    assert get_model_input_config(model)["input_size"] == (3, 96, 64)
    assert get_model_args(model)["img_size"] == (96, 64)
    assert model(torch.randn(1, 3, 96, 64)).shape == (1, 1000)


def scales(model, **how):
    """Name of each parameter -> its learning rate's factor."""
    groups = param_groups_layer_decay(model, layer_decay=0.5, no_weight_decay_list=model.no_weight_decay(), **how)
    of = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    return {name: of[id(parameter)] for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", ["vim_tiny_patch16_224", "videomamba_tiny_k400_f8_224"])
def test_layer_decay_is_that_of_a_vit(name):
    ours = scales(timm.create_model(name, **TINY))
    vit = scales(timm.create_model("vit_tiny_patch16_224", depth=4, embed_dim=12, img_size=64))
    assert {ours[n] for n in ours if n.startswith("layers.2.")} == {vit["blocks.2.attn.qkv.weight"]} == {0.25}
    for own, theirs in {
        "cls_token": "cls_token",
        "pos_embed": "pos_embed",
        "patch_embed.proj.weight": "patch_embed.proj.weight",
        "layers.0.mixer.A_log": "blocks.0.norm1.weight",
        "layers.3.norm.weight": "blocks.3.norm1.weight",
        "norm_f.weight": "norm.weight",
        "head.weight": "head.weight",
    }.items():
        assert ours[own] == vit[theirs], own
    assert ours.get("temporal_pos_embedding", ours["pos_embed"]) == ours["pos_embed"]


def test_optimizer_of_timm_decays_only_matrices():
    model = timm.create_model("vim_tiny_patch16_224", **TINY)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.75)
    decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    names = {name.rsplit(".", 2)[-2] for name, p in model.named_parameters() if id(p) in decayed}
    assert names == {"in_proj", "x_proj", "dt_proj", "x_proj_b", "dt_proj_b", "out_proj", "proj", "head",
                     "conv1d", "conv1d_b"}  # fmt: skip


@pytest.mark.parametrize(("wanted", "blocks"), [(3, 4), ((0, 2), 3)])
def test_features_only(wanted, blocks):
    torch.manual_seed(0)
    net = timm.create_model("vim_tiny_patch16_224", features_only=True, out_indices=wanted, **TINY).eval()
    maps = net(torch.randn(2, 3, 64, 64))
    count = wanted if isinstance(wanted, int) else len(wanted)
    assert [tuple(m.shape) for m in maps] == [(2, 16, 4, 4)] * count
    assert net.feature_info.channels() == [16] * count
    assert net.feature_info.reduction() == [16] * count
    assert len(net.model.layers) == len(net.model.slots) == net.model.config.depth == blocks
    assert isinstance(net.model.head, nn.Identity)


def test_a_model_of_timm_is_merged_as_any_other():
    model = timm.create_model("videomamba_tiny_patch16_224", **TINY).eval()
    rmeeto.attach(model, Schedule.constant(2, 4))
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 1000)
