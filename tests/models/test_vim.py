"""The un-merged network: official names and sizes, logits, slots."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from rmeeto.errors import SettingsError, ShapeError
from rmeeto.models import Vim, VimConfig, cast_weights, create
from rmeeto.models.embed import place_class_token
from rmeeto.models.layers import Linear
from rmeeto.reduction import attach
from rmeeto.schedule import Schedule

GOLDEN = Path(__file__).parents[1] / "golden"
OFFICIAL = {
    name: shapes
    for file in ("keys_image.json", "keys_video.json")
    for name, shapes in json.loads((GOLDEN / file).read_text()).items()
}
# Sizes of ours -> name in the official files. R-MeeTo's image "middle" has 24 blocks, VideoMamba's own has 32.
PUBLISHED = {
    ("vim_tiny", None): ("vim_tiny", 7_148_008),
    ("vim_small", None): ("vim_small", 25_796_584),
    ("vim_base", None): ("vim_base", 97_598_440),
    ("videomamba_tiny", None): ("RMeeTo_video_tiny", 7_148_008),
    ("videomamba_small", None): ("RMeeTo_video_small", 25_796_584),
    ("videomamba_middle", 24): ("RMeeTo_video_middle", 55_946_728),
    ("videomamba_base", None): ("RMeeTo_video_base", 97_598_440),
    ("videomamba_tiny_k400_f8", None): ("videomamba_tiny_k400_f8", 7_033_744),
    ("videomamba_small_k400_f8", None): ("videomamba_small_k400_f8", 25_568_656),
    ("videomamba_middle_k400_f8", None): ("videomamba_middle_k400_f8", 73_875_856),
}
SMALL = VimConfig(img_size=(12, 12), patch_size=4, in_chans=3, num_classes=5, embed_dim=16, depth=3, state_size=4)


def small(**sizes):
    torch.manual_seed(0)
    return Vim(replace(SMALL, **sizes)).eval()


def unfilled(name, **sizes):
    with torch.device("meta"):
        return create(name, **sizes)


@pytest.mark.parametrize(("ours", "published"), PUBLISHED.items(), ids=lambda pair: str(pair[0]))
def test_names_and_shapes_are_official(ours, published):
    (name, depth), (official, parameters) = ours, published
    model = unfilled(name, **({"depth": depth} if depth else {}))
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == OFFICIAL[official]
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_every_official_file_is_compared():
    assert {official for official, _ in PUBLISHED.values()} == set(OFFICIAL)


@pytest.mark.parametrize(
    ("name", "parameters", "tokens", "place", "grid"),
    [
        ("videomamba_middle", 74_217_448, 197, 0, (14, 14)),
        ("videomamba_tiny_k400_f8", 7_033_744, 1569, 0, (8, 14, 14)),
        ("videomamba_tiny_k400_f64", 7_033_744 + 56 * 192, 12545, 0, (64, 14, 14)),
        ("vim_tiny_stride8", 7_148_008 + (730 - 197) * 192, 730, 364, (27, 27)),
    ],
)
def test_published_sizes(name, parameters, tokens, place, grid):
    model = unfilled(name)
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert (model.num_tokens, model.config.class_place, model.grid_size) == (tokens, place, grid)


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"class_token": "first"},
        {"directions": "sum"},
        {"img_size": (8, 20)},
        {"stride": 2},
        {"num_frames": 2},
        {"num_frames": 3, "class_token": "first", "directions": "sum"},
    ],
)
def test_logits_whatever_the_form(sizes):
    model = small(**sizes)
    logits = model(torch.randn(2, *model.config.input_shape))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()
    assert model.forward_features(torch.randn(1, *model.config.input_shape)).shape == (1, model.num_tokens, 16)


def test_class_token_enters_at_its_place():
    tokens = small().embed(torch.randn(2, 3, 12, 12))
    assert tokens.x.shape == (2, 10, 16)
    assert tokens.places.tolist() == [[4], [4]]
    patches, one = torch.zeros(1, 4, 2), torch.ones(1, 1, 2)
    assert place_class_token(patches, one, 3)[0, :, 0].tolist() == [0, 0, 0, 1, 0]


def test_head_reads_the_class_token_wherever_it_went():
    class ToFront(nn.Module):
        def forward(self, tokens):
            order = torch.cat((tokens.places, torch.tensor([[i for i in range(10) if i != 4]])), dim=1)
            return replace(tokens, x=tokens.x[:, order[0]], places=torch.zeros_like(tokens.places))

    model, images = small(), torch.randn(1, 3, 12, 12)
    expected = model(images)
    model.slots[-1] = ToFront()
    torch.testing.assert_close(model(images), expected)


def test_video_tokens_carry_their_place_and_their_frame():
    model = small(num_frames=2, class_token="first")
    nn.init.normal_(model.temporal_pos_embedding)
    video = torch.randn(1, 3, 2, 12, 12)
    tokens = model.embed(video).x[0]
    assert tokens.shape == (19, 16)
    torch.testing.assert_close(tokens[0], model.cls_token[0, 0] + model.pos_embed[0, 0])
    for frame in range(2):
        proj = model.patch_embed.proj
        patches = nn.functional.conv2d(video[:, :, frame], proj.weight[:, :, 0], proj.bias, stride=4).flatten(2)[0].T
        expected = patches + model.pos_embed[0, 1:] + model.temporal_pos_embedding[0, frame]
        torch.testing.assert_close(tokens[1 + 9 * frame : 10 + 9 * frame], expected)


@pytest.mark.parametrize(
    ("sizes", "shape", "says"),
    [
        ({}, (2, 3, 16, 16), r"made for \(b, 3, 12, 12\)"),
        ({}, (2, 1, 12, 12), r"made for \(b, 3, 12, 12\)"),
        ({}, (2, 3, 4, 12, 12), r"made for \(b, 3, 12, 12\)"),
        ({"num_frames": 4}, (2, 3, 12, 12), r"made for \(b, 3, 4, 12, 12\)"),
        ({"num_frames": 4}, (2, 3, 5, 12, 12), r"made for \(b, 3, 4, 12, 12\)"),
    ],
)
def test_other_images_are_refused(sizes, shape, says):
    with pytest.raises(ShapeError, match=says):
        small(**sizes)(torch.randn(shape))


def test_slots_leave_no_trace_in_the_weights():
    assert not [key for key in small().state_dict() if key.startswith("slots")]


def test_time_of_ones_changes_nothing_and_time_matters():
    class Time(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, tokens):
            return replace(tokens, time=torch.full(tokens.x.shape[:2], self.factor))

    model, images = small(), torch.randn(2, 3, 12, 12)
    expected = model(images)
    model.slots[0] = Time(1.0)
    torch.testing.assert_close(model(images), expected)
    model.slots[0] = Time(4.0)
    assert not torch.allclose(model(images), expected)


def test_bfloat16_stays_close_and_keeps_the_scan_parameters():
    model, images = small(), torch.randn(2, 3, 12, 12)
    expected = model(images)
    cast_weights(model, torch.bfloat16)
    got = model(images.bfloat16())
    assert got.dtype == torch.bfloat16
    assert model.layers[0].mixer.A_log.dtype == torch.float32
    torch.testing.assert_close(got.float(), expected, atol=0.05, rtol=0.05)


def test_integer_weights_are_refused():
    with pytest.raises(SettingsError, match=r"torch\.int8"):
        cast_weights(small(), torch.int8)


def test_weight_decay_spares_what_it_would_bend():
    spared = small(num_frames=2).no_weight_decay()
    assert {"cls_token", "pos_embed", "temporal_pos_embedding", "layers.0.mixer.A_log", "layers.2.mixer.D_b"} <= spared
    assert "head.weight" not in spared


def test_initial_time_steps_lie_in_the_published_range():
    steps = nn.functional.softplus(small().layers[0].mixer.dt_proj.bias)
    assert steps.min() > 0.0009
    assert steps.max() < 0.11


@pytest.mark.parametrize("sizes", [{}, {"num_frames": 2}])
def test_gradients_reach_every_parameter(sizes):
    model = small(**sizes).train()
    model(torch.randn(2, *model.config.input_shape)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("sizes", [{}, {"global_pool": "avg"}, {"global_pool": ""}, {"num_frames": 2}])
@pytest.mark.parametrize("class_token", ["first", "middle"])
def test_features_and_head_are_the_model(sizes, class_token):
    model = small(class_token=class_token, **sizes)
    images = torch.randn(2, *model.config.input_shape)
    features = model.forward_features(images)
    torch.testing.assert_close(model.forward_head(features), model(images))
    pooled = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(model.head(pooled), model(images))
    assert pooled.shape == ((2, 16) if model.global_pool else features.shape)


def test_features_begin_with_the_class_token():
    model, images = small(), torch.randn(2, 3, 12, 12)
    x = model.norm_f(model.forward_tokens(images).x)
    assert torch.equal(model.forward_features(images), torch.cat((x[:, 4:5], x[:, :4], x[:, 5:]), dim=1))


def test_the_mean_counts_a_merged_token_as_often_as_it_was_merged():
    model = attach(small(global_pool="avg"), Schedule.of([2, 2, 0]))
    images = torch.randn(2, 3, 12, 12)
    tokens = model.forward_tokens(images)
    patches = [[row for row in range(6) if row != place] for place in tokens.places[:, 0].tolist()]
    for image, rows in enumerate(patches):
        weights = tokens.size[image, rows, None]
        mean = (model.norm_f(tokens.x)[image, rows] * weights).sum(0) / 9
        torch.testing.assert_close(model(images)[image], model.head(mean))
    with pytest.raises(ShapeError, match="6 of 10 tokens are left, whose mean needs their sizes"):
        model.forward_head(model.forward_features(images))


@pytest.mark.parametrize("pool", [None, "avg"])
def test_a_new_head(pool):
    model = small()
    model.reset_classifier(7, pool)
    assert (model.num_classes, model.global_pool) == (7, pool or "token")
    assert model.head is model.get_classifier()
    assert model(torch.randn(2, 3, 12, 12)).shape == (2, 7)
    assert not model.head.training
    model.reset_classifier(0)
    assert model(torch.randn(2, 3, 12, 12)).shape == (2, 16)
    model.double().reset_classifier(3)
    assert model.head.weight.dtype == torch.float64
    with pytest.raises(SettingsError, match=r"'max' is unknown; use 'token' or 'avg'"):
        model.reset_classifier(3, "max")


@pytest.mark.parametrize("schedule", [None, Schedule.of([2, 2, 0])])
def test_checkpointing_computes_the_same_gradients(schedule):
    gradients = []
    for enable in (False, True):
        model = small(drop_path_rate=0.3).train()
        if schedule:
            attach(model, schedule)
        model.set_grad_checkpointing(enable=enable)
        calls = []
        model.layers[1].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(1)
        model(torch.randn(8, 3, 12, 12)).square().sum().backward()
        assert len(calls) == 1 + enable
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


@pytest.mark.parametrize("class_token", ["first", "middle"])
def test_another_input_size(class_token):
    model = small(num_frames=2, class_token=class_token)
    nn.init.normal_(model.temporal_pos_embedding)
    frozen = model.pos_embed.requires_grad_(requires_grad=False).clone()
    model.set_input_size((12, 20), num_frames=4)
    assert model.grid_size == (4, 3, 5)
    assert model(torch.randn(2, 3, 4, 12, 20)).shape == (2, 5)
    place = model.config.class_place_among(15)
    assert torch.equal(model.pos_embed[:, place], frozen[:, model.config.class_place_among(9)])
    assert not model.pos_embed.requires_grad
    assert model.temporal_pos_embedding.requires_grad
    model.set_input_size(12)
    assert (model.grid_size, model.num_tokens) == ((4, 3, 3), 37)
    with pytest.raises(ShapeError, match="nearest that fits is 12"):
        model.set_input_size(13)
    assert model(torch.randn(1, 3, 4, 12, 12)).shape == (1, 5)


def test_a_size_of_an_equal_number_of_patches_is_another_grid():
    model = small(img_size=(8, 32))
    before = model.pos_embed.clone()
    model.set_input_size((32, 8))
    assert model.pos_embed.shape == before.shape
    assert not torch.equal(model.pos_embed, before)


def test_frames_of_images_are_refused():
    with pytest.raises(SettingsError, match="num_frames = 4 is for videos"):
        small().set_input_size(num_frames=4)


class Doubled(Linear):
    """A layer of somebody's own."""

    def forward(self, input):
        return 2 * super().forward(input)


def _class_of_in_proj(block):
    block.mixer.in_proj.__class__ = Doubled


def _own_norm(block):
    block.norm.forward = lambda x: 2 * x


def _patched(block):
    block.mixer.out_proj.register_forward_hook(lambda _module, _inputs, out: 2 * out)


def _watched_before(block):
    block.mixer.register_forward_pre_hook(lambda _module, inputs: (2 * inputs[0], *inputs[1:]))


def _other_projection(block):
    block.mixer.in_proj = nn.Linear(block.mixer.in_proj.in_features, block.mixer.in_proj.out_features)


def _biased(block):
    block.mixer.out_proj.bias = nn.Parameter(torch.ones(block.mixer.out_proj.out_features))


@pytest.mark.parametrize(
    "change", [_class_of_in_proj, _own_norm, _patched, _watched_before, _other_projection, _biased]
)
def test_what_somebody_changed_in_a_block_is_not_passed_over(change):
    model, images = small(), torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        before = model(images)
        change(model.layers[1])
        after, wanted = model(images), _by_parts(model, images)
    assert not torch.allclose(before, after)
    assert torch.equal(after, wanted)


def _by_parts(model, images):
    tokens = model.embed(images)
    for block in model.layers:
        if block is model.layers[1]:
            tokens = replace(tokens, x=tokens.x + block.mixer(block.norm(tokens.x)).hidden)
        else:
            tokens = block(tokens)
    return model.head(model.pool(tokens))


class Twice(nn.Module):
    def forward(self, parameter):
        return 2 * parameter


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("norm", "weight"),
        ("mixer.in_proj", "weight"),
        ("mixer.conv1d", "bias"),
        ("mixer.x_proj_b", "weight"),
        ("mixer.dt_proj", "weight"),
        ("mixer", "A_b_log"),
        ("mixer", "D"),
    ],
)
def test_a_parameter_may_be_computed_from_another(part, name):
    doubled, images = small(), torch.randn(2, 3, 12, 12)
    computed = deepcopy(doubled)
    register_parametrization(computed.layers[1].get_submodule(part), name, Twice())
    with torch.no_grad():
        before = doubled(images)
        doubled.layers[1].get_submodule(part).get_parameter(name).mul_(2)
        torch.testing.assert_close(computed(images), doubled(images), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(before, computed(images))


def test_a_block_in_one_go_gives_what_its_parts_give():
    model, images, called = small(), torch.randn(2, 3, 12, 12), []
    with torch.no_grad():
        in_one_go = model(images)
        handles = [block.mixer.register_forward_hook(lambda *_: called.append(1)) for block in model.layers]
        torch.testing.assert_close(model(images), in_one_go, rtol=1e-5, atol=1e-6)
        assert len(called) == len(model.layers)
        for handle in handles:
            handle.remove()
        handle = nn.modules.module.register_module_forward_hook(lambda *_: called.append(1))
        model(images)
        handle.remove()
    assert len(called) > 2 * len(model.layers)
