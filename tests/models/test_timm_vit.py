"""Adopted ViTs: timm's own answers until something is merged, and timm's own model afterwards."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, ParallelScalingBlock, ResPostBlock, VisionTransformer
from torch import nn

from rmeeto.errors import SettingsError
from rmeeto.models.timm_vit import adopt, adopted, release
from rmeeto.reduction import Settings, attach, attached, detached, trace
from rmeeto.schedule import Schedule
from rmeeto.tokens import is_slotted

DEPTH, SCHEDULE = 3, Schedule.of([4, 0, 3])
VIT = Settings(split="sequence")
VARIANTS = {
    "plain": {},
    "layer_scale": {"init_values": 0.1},
    "drop_path": {"drop_path_rate": 0.5, "attn_drop_rate": 0.2, "patch_drop_rate": 0.25},
    "qk_norm": {"qk_norm": True},
    "scale_norm": {"scale_attn_norm": True, "scale_mlp_norm": True},
    "registers": {"reg_tokens": 3, "no_embed_class": True},
    "distilled": {"kind": VisionTransformerDistilled},
    "average": {"class_token": False, "global_pool": "avg"},
    "map": {"class_token": False, "global_pool": "map"},
    "pre_norm": {"pre_norm": True},
    "post_norm": {"block_fn": ResPostBlock, "init_values": 0.5},
    "differential": {"attn_layer": "diff"},
    "dynamic": {"dynamic_img_size": True},
}


def vit(variant="plain", *, fused=True):
    sizes = dict(VARIANTS[variant])
    torch.manual_seed(0)
    kind = sizes.pop("kind", VisionTransformer)
    model = kind(img_size=32, patch_size=8, embed_dim=24, depth=DEPTH, num_heads=2, num_classes=5, **sizes)
    for parameter in model.parameters():  # so that no token is like another by initialisation
        nn.init.normal_(parameter, std=0.2)
    for block in model.blocks:
        block.attn.fused_attn = fused
    return model.eval()


def images(side=32):
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def answers(model, x):
    torch.manual_seed(3)
    return model(x)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_unmerged_it_answers_as_timm_bit_for_bit(variant, fused, training):
    model, x = vit(variant, fused=fused).train(training), images(48 if variant == "dynamic" else 32)
    names, expected = list(model.state_dict()), answers(model, x)
    expected.sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    assert list(adopt(model).state_dict()) == names
    for empty in (model, attach(model, Schedule.none(DEPTH), VIT), attach(model, Schedule.none(DEPTH), KEYS)):
        model.zero_grad()
        logits = answers(empty, x)
        logits.sum().backward()
        assert torch.equal(logits, expected)
        assert all(torch.equal(parameter.grad, gradients[name]) for name, parameter in model.named_parameters())


KEYS = Settings(split="sequence", feature="k")


@pytest.mark.parametrize("order", ["ordered", "unordered"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_merges_and_leaves_its_prefix_in_front(variant, fused, order):
    model = attach(adopt(vit(variant, fused=fused)), SCHEDULE, Settings(split="sequence", order=order))
    left = []
    model.slots[-1].register_forward_hook(lambda _m, _a, tokens: left.append(tokens))
    logits = model(images())
    prefix = model.num_prefix_tokens
    assert is_slotted(model)
    assert (model.num_tokens, model.num_protected, model.grid_size) == (16 + prefix, prefix, (4, 4))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()
    assert left[0].x.shape[1] == 16 + prefix - 7
    assert torch.equal(left[0].size.sum(1), torch.full((2,), 16.0 + prefix))
    assert torch.equal(left[0].places, torch.arange(prefix).expand(2, -1))
    assert torch.equal(left[0].size[:, :prefix], torch.ones(2, prefix))


@pytest.mark.parametrize("kind", [VisionTransformer, VisionTransformerDistilled])
def test_release_gives_back_the_timm_model(kind):
    model = vit("distilled" if kind is VisionTransformerDistilled else "plain")
    text, entries = repr(model), [list(module.__dict__) for module in model.modules()]
    children = list(model._modules)
    attach(adopt(model), SCHEDULE)
    assert release(model) is model
    assert type(model) is kind
    assert all(type(block) is Block for block in model.blocks)
    assert [list(module.__dict__) for module in model.modules()] == entries
    assert list(model._modules) == children
    assert repr(model) == text
    assert release(model) is model


def test_adopted_for_a_moment():
    model = vit()
    with adopted(model) as slotted:
        assert slotted is model
        assert is_slotted(model)
    assert type(model) is VisionTransformer
    with pytest.raises(RuntimeError, match="midway"), adopted(model):
        raise RuntimeError("midway")
    assert type(model) is VisionTransformer
    with adopted(adopt(model)):
        assert adopt(model) is model
    assert is_slotted(model)


class OwnBlock(Block):
    def forward(self, x):
        return super().forward(x) * 2


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (nn.Linear(2, 2), "Linear is no timm VisionTransformer"),
        (VisionTransformer(embed_dim=8, depth=1, num_heads=1, block_fn=ParallelScalingBlock), "ParallelScalingBlock"),
        (VisionTransformer(embed_dim=8, depth=1, num_heads=1, block_fn=OwnBlock), "OwnBlock"),
    ],
)
def test_what_cannot_be_adopted_is_refused_and_left_alone(model, word):
    kind = type(model)
    with pytest.raises(SettingsError, match=word) as caught:
        adopt(model)
    assert "\n" not in str(caught.value)
    assert type(model) is kind
    assert not is_slotted(model)


@pytest.mark.parametrize("feature", ["hidden", "x", "q", "k", "v"])
@pytest.mark.parametrize("fused", [True, False])
def test_features(feature, fused):
    model = adopt(vit("qk_norm", fused=fused))
    seen = []
    attach(model, SCHEDULE, Settings(split="sequence", feature=feature))
    model.slots[0].register_forward_pre_hook(lambda _m, given: seen.append(given[0]))
    normed = []
    model.blocks[0].norm1.register_forward_hook(lambda _m, _a, out: normed.append(out))
    with torch.no_grad():
        logits = model(images())
        assert torch.equal(seen[0].features.hidden, seen[0].x)
        if feature in ("q", "k", "v"):
            part = model.blocks[0].attn.qkv(normed[0]).chunk(3, dim=-1)["qkv".index(feature)]
            mean = sum(getattr(seen[0].features, feature)) / 2
            torch.testing.assert_close(mean, part.reshape(2, 17, 2, 12).mean(2))
        else:
            assert seen[0].features.k == ()
            assert torch.equal(attach(model, SCHEDULE, VIT)(images()), logits)


def test_a_feature_that_attention_does_not_have_is_named():
    with pytest.raises(SettingsError, match="'k' is not known"):
        attach(adopt(vit("differential")), SCHEDULE, KEYS)(images())
    with pytest.raises(SettingsError, match="'delta' is not known"):
        attach(adopt(vit()), SCHEDULE, Settings(feature="delta"))(images())


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("proportional", [True, False])
def test_tokens_that_are_alike_can_merge_for_nothing_in_proportional_attention(proportional, fused):
    model = vit(fused=fused)
    nn.init.zeros_(model.pos_embed)
    x = torch.ones(2, 3, 32, 32)
    expected = model(x)
    attach(adopt(model), SCHEDULE, Settings(split="sequence", proportional_attention=proportional))
    assert torch.allclose(model(x), expected, atol=1e-5) == proportional


@pytest.mark.parametrize("mode", ["sum", "mean", "amax", "amin", "prune"])
def test_modes(mode):
    model = attach(adopt(vit()), SCHEDULE, Settings(split="sequence", mode=mode))
    with torch.inference_mode(), trace(model) as seen:
        assert model(images()).isfinite().all()
    assert seen.composed().length == 10
    assert seen.images(model.grid_size)[0].protected == (0,)


def test_nothing_is_kept_between_calls():
    model = attach(adopt(vit()), SCHEDULE, VIT)
    x = images()
    expected = model(x)
    handle = model.blocks[1].norm2.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(x)
    handle.remove()
    assert torch.equal(model(x), expected)
    with torch.inference_mode():
        assert torch.equal(model(x[:1]), model(x[:1]))
    assert torch.equal(model(x), expected)
    with detached(model):
        assert not torch.equal(model(x), expected)
    assert torch.equal(model(x), expected)


def test_threads_do_not_meet():
    model = attach(adopt(vit()), SCHEDULE, VIT)
    parts = [images() * scale for scale in (1, 2, 3)]
    with torch.no_grad():
        expected, found = [model(part) for part in parts], [None] * 3

    def answer(number):
        with torch.no_grad():
            for _ in range(5):
                found[number] = model(parts[number])

    threads = [threading.Thread(target=answer, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_stand_on_their_own(copied):
    model, x = attach(adopt(vit("distilled")), SCHEDULE, VIT), images()
    expected = model(x)
    other = copied(model)
    assert type(other) is type(model)
    release(model)
    assert attached(other) == (SCHEDULE, VIT)
    assert torch.equal(other(x), expected)
    assert other.blocks[0]._slots is other.slots
    assert type(release(other)) is VisionTransformerDistilled


def test_gradients_flow_and_checkpointing_keeps_them():
    model, x = attach(adopt(vit("layer_scale")), SCHEDULE, KEYS).train(), images()
    gradients = []
    for checkpointed in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(checkpointed)
        model(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(gradient.abs().max() > 0 for gradient in gradients[0])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("settings", [VIT, KEYS, Settings(split="sequence", proportional_attention=False)])
def test_compiles_without_a_break(settings):
    model, x = attach(adopt(vit("registers")), SCHEDULE, settings), images()
    torch._dynamo.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))


def test_exports_as_one_graph():
    model, x = attach(adopt(vit("distilled")), SCHEDULE, VIT), images()
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))


@pytest.mark.parametrize("fused", [True, False])
def test_half_precision(fused):
    model, x = attach(adopt(vit(fused=fused)), SCHEDULE, VIT), images()
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            assert model(x).isfinite().all()
        assert model.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


def test_what_needs_a_grid_is_refused_where_tokens_merge():
    model, x = attach(adopt(vit()), SCHEDULE, VIT), images()
    with pytest.raises(SettingsError, match="detached"):
        model.forward_intermediates(x)
    with pytest.raises(SettingsError, match="mask"):
        model(x, is_causal=True)
    expected = vit()
    with detached(model):
        for mine, timms in zip(model.forward_intermediates(x)[1], expected.forward_intermediates(x)[1], strict=True):
            assert torch.equal(mine, timms)
        assert torch.equal(model(x, is_causal=True), expected(x, is_causal=True))


def test_a_shortened_model_ends_where_it_now_ends():
    model = attach(adopt(vit()), Schedule.of([4, 3, 2]), VIT)
    model.prune_intermediate_layers([0, 1])
    assert attached(model) == (Schedule.of([4, 3]), VIT)
    assert model.forward_features(images()).shape == (2, 10, 24)
