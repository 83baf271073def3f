"""Features of patches, of un-merged and of merged models."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from rmeeto.errors import SettingsError, ShapeError
from rmeeto.models import Vim, VimConfig
from rmeeto.models.intermediates import taken
from rmeeto.reduction import Settings, attach, detach, trace
from rmeeto.schedule import Schedule

SMALL = VimConfig(img_size=(12, 20), patch_size=4, num_classes=5, embed_dim=16, depth=4, state_size=4)
SHAPES = [{}, {"class_token": "first", "directions": "sum"}, {"num_frames": 2, "class_token": "first"}]
SCHEDULE = Schedule.of([3, 2, 0, 2])
VARIANTS = [Settings(), Settings(class_place="official"), Settings(mode="prune"), Settings(order="unordered")]


def small(**sizes):
    torch.manual_seed(0)
    return Vim(replace(SMALL, **sizes)).eval()


def images_of(model, batch=2):
    return torch.randn(batch, *model.config.input_shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sizes", SHAPES)
def test_what_is_given_is_what_the_blocks_leave(sizes):
    model = small(**sizes)
    images, left = images_of(model), []
    for layer in model.layers:
        layer.register_forward_hook(lambda _m, _a, tokens: left.append(tokens.x))
    final, maps = model.forward_intermediates(images, [1, -1])
    place, n = model.config.class_place, model.config.num_patches
    assert torch.equal(final, model.forward_features(images))
    for seen, x in zip(maps, (left[1], left[3]), strict=True):
        assert seen.shape == (2, 16, *model.grid_size)
        patches = seen.flatten(2).transpose(1, 2)
        assert torch.equal(patches, torch.cat((x[:, :place], x[:, place + 1 :]), dim=1))
        assert patches.shape[1] == n


def test_forms():
    model, images = small(), images_of(small())
    maps = model.forward_intermediates(images, 2, intermediates_only=True)
    assert len(maps) == 2
    flat = model.forward_intermediates(images, 2, output_fmt="NLC", intermediates_only=True)
    assert torch.equal(maps[0].flatten(2).transpose(1, 2), flat[0])
    normed = model.forward_intermediates(images, 2, norm=True, output_fmt="NLC", intermediates_only=True)
    assert torch.equal(normed[0], model.norm_f(flat[0]))
    final, pairs = model.forward_intermediates(images, norm=True, return_prefix_tokens=True)
    assert len(pairs) == 4
    torch.testing.assert_close(pairs[-1][1][:, 0], final[:, 0])
    named = model.forward_intermediates(images, output_dict=True, return_prefix_tokens=True)
    assert set(named) == {"image_features", "image_intermediates", "image_intermediates_prefix"}
    assert set(model.forward_intermediates(images, output_dict=True, intermediates_only=True)) == {
        "image_intermediates"
    }


def test_stopping_early_runs_no_further_block():
    model, images = small(), images_of(small())
    expected = model.forward_intermediates(images, [0, 1], intermediates_only=True)
    model.layers[2] = nn.Module()  # cannot be called
    maps = model.forward_intermediates(images, [0, 1], stop_early=True, intermediates_only=True)
    assert all(torch.equal(one, other) for one, other in zip(maps, expected, strict=True))


@pytest.mark.parametrize(
    ("indices", "blocks"), [(None, [0, 1, 2, 3]), (2, [2, 3]), ([-1, 0], [0, 3]), ((1,), [1]), (4, [0, 1, 2, 3])]
)
def test_blocks_that_are_meant(indices, blocks):
    assert taken(indices, 4) == blocks


@pytest.mark.parametrize("indices", [0, 5, -1, [4], [-5], []])
def test_blocks_that_are_not_there_are_refused(indices):
    with pytest.raises(SettingsError, match=r"^indices = .*4"):
        small().forward_intermediates(images_of(small()), indices)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("sizes", SHAPES)
def test_without_a_merge_un_merging_changes_no_bit(sizes, norm):
    model = small(**sizes)
    images = images_of(model)
    expected = model.forward_intermediates(images, norm=norm)
    attach(model, Schedule.none(4))
    for given in (model, detach(small(**sizes))):
        final, maps = given.forward_intermediates(images, norm=norm, unmerge=True)
        assert torch.equal(final, expected[0])
        assert all(torch.equal(one, other) for one, other in zip(maps, expected[1], strict=True))


@pytest.mark.parametrize("settings", VARIANTS)
@pytest.mark.parametrize("sizes", SHAPES)
def test_patches_that_became_one_have_one_feature(sizes, settings):
    model = attach(small(**sizes), SCHEDULE, settings)
    images = images_of(model)
    with torch.inference_mode(), trace(model) as seen:
        final, (*_, patches) = model.forward_intermediates(images, output_fmt="NLC", unmerge=True)
    left = model.config.num_patches - 5  # the last block's own slot comes after its features
    index, place = seen.maps[0].then(seen.maps[1]).index, model.config.class_place
    groups = torch.cat((index[:, :place], index[:, place + 1 :]), dim=1)
    assert patches.shape[1] == groups.shape[1] == model.config.num_patches
    assert final.shape == (2, model.num_tokens, 16)
    for image in range(2):
        tokens = groups[image].unique()
        assert len(tokens) == left if settings.mode != "prune" else len(tokens) <= left
        for token in tokens:
            rows = patches[image][groups[image] == token]
            assert (rows == rows[0]).all()
        assert len(patches[image].unique(dim=0)) == len(tokens)


def test_un_merging_changes_no_logit_and_its_gradients_flow():
    model = attach(small().train(), SCHEDULE)
    images = images_of(model)
    before = model(images)
    (features,) = model.forward_intermediates(images, 1, intermediates_only=True, unmerge=True)
    features.square().sum().backward()
    last = {"norm_f.weight", "head.weight", "head.bias"}
    assert {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()} == last
    assert torch.equal(model(images), before)


def test_missing_tokens_are_told_with_the_cure():
    model = attach(small(), SCHEDULE)
    with pytest.raises(ShapeError, match=r"12 of 15 patches are left and fill no grid of 3x5; give unmerge=True"):
        model.forward_intermediates(images_of(model), [1])
    (patches,) = model.forward_intermediates(images_of(model), [1], output_fmt="NLC", intermediates_only=True)
    assert patches.shape == (2, 12, 16)
    with pytest.raises(SettingsError, match="'NHWC' is unknown"):
        model.forward_intermediates(images_of(model), output_fmt="NHWC")
