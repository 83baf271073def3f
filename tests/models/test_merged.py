"""Every model with reducers in its slots: nothing of it changes, and its tokens leave as the schedule says."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rmeeto.evaluate.mode import on_threads
from rmeeto.models import create
from rmeeto.ops import native_info
from rmeeto.reduction import Settings, attach, detach, trace
from rmeeto.schedule import Schedule

TINY = {"embed_dim": 16, "depth": 4, "state_size": 4, "num_classes": 3}
# name, sizes, tokens removed by each of the merges after the blocks 0, 1 and 2
MODELS = [
    ("vim_tiny", {"img_size": 64}, 2),
    ("vim_tiny", {"img_size": (48, 112)}, 3),
    ("vim_tiny_stride8", {"img_size": 64}, 9),
    ("videomamba_base", {"img_size": 96}, 5),
    ("videomamba_tiny_k400_f8", {"img_size": 32}, 4),
    ("videomamba_tiny_k400_f16", {"img_size": (32, 64)}, 15),
    ("videomamba_tiny_k400_f8", {}, 88),
]


@pytest.mark.parametrize("class_place", ["exact", "official"])
@pytest.mark.parametrize(("name", "sizes", "r"), MODELS)
def test_tokens_leave_from_every_model(name, sizes, r, class_place):
    torch.manual_seed(0)
    model = create(name, **TINY, **sizes).eval()
    images = torch.randn(1, *model.config.input_shape)
    schedule = Schedule.of([r, r, r, 0])
    with torch.inference_mode():
        before, names = model(images), list(model.state_dict())
        attach(model, schedule, Settings(class_place=class_place))
        with trace(model) as seen:
            merged = model(images)
        assert merged.shape == before.shape
        assert not torch.equal(merged, before)
        assert list(model.state_dict()) == names
        assert seen.composed().length == schedule.final_length(model.num_tokens) == model.num_tokens - 3 * r
        assert torch.equal(detach(model)(images), before)
    (record,) = seen.images(model.grid_size)
    assert record.grid[1] == model.config.grid_size[1]
    assert record.grid[0] == model.config.grid_size[0] * (model.config.num_frames or 1)
    assert set(record.groups) | set(record.protected) == set(range(record.tokens))


def test_a_video_is_drawn_with_its_frames_one_under_the_other():
    model = create("videomamba_tiny_k400_f8", **TINY, img_size=32, directions="mean").eval()
    with torch.inference_mode(), trace(model) as seen:
        model(torch.randn(1, 3, 8, 32, 32))
    (record,) = seen.images(model.grid_size)
    assert model.grid_size == (8, 2, 2)
    assert record.grid == (16, 2)
    assert record.groups == tuple(range(1, 33))


PARTS = ("rms_norm", "linear", "bimamba")  # what a block that is watched is made of


def merges(model):
    return any(getattr(slot, "removal", 0) for slot in model.slots)


class Named(TorchDispatchMode):
    """Names of the package's ops, in the order of their calls."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name.startswith("rmeeto::"):
            self.names.append(func._schema.name.removeprefix("rmeeto::"))
        return func(*args, **(kwargs or {}))


ALL, IN_ONE, IN_TWO = ["blocks"], ["block", "block_merge", "block"], ["block", "block", "bipartite_merge", "block"]
WATCHING = {
    "nobody": (None, ALL),
    "a hook on another block": (lambda model: model.layers[0].register_forward_hook(lambda *_: None), IN_ONE),
    "a hook on a norm": (lambda model: model.layers[2].norm.register_forward_hook(lambda *_: None), IN_ONE[:2]),
    "a block with numbers of its own": (lambda model: setattr(model.layers[0].norm, "eps", 1e-4), IN_ONE),
    "sizes that the next block reads": (
        lambda model: attach(model, Schedule.of([0, 3, 0]), Settings(size_aware_scan=True)),
        IN_ONE,
    ),
    "a slot that merges nothing": (lambda model: attach(model, Schedule.of([0, 0, 0])), ALL),
    "empty slots": (detach, ALL),
    "a hook on the block": (lambda model: model.layers[1].register_forward_hook(lambda *_: None), IN_TWO),
    "a hook on the slot": (lambda model: model.slots[1].register_forward_pre_hook(lambda *_: None), IN_TWO),
    "another feature": (lambda model: attach(model, Schedule.of([0, 3, 0]), Settings(feature="B")), IN_TWO),
    "the stream": (lambda model: attach(model, Schedule.of([0, 3, 0]), Settings(feature="x")), ALL),
}


@pytest.mark.skipif(native_info() is None, reason="no native kernels here")
@pytest.mark.parametrize("watching", WATCHING)
def test_blocks_and_merges_are_one_op_where_nobody_looks_between(watching):
    torch.manual_seed(0)
    model, images = create("vim_nano", img_size=12, embed_dim=16, depth=3).eval(), torch.randn(2, 1, 12, 12)
    attach(model, Schedule.of([0, 3, 0]))
    change, wanted = WATCHING[watching]
    if change is not None:
        change(model)
    with torch.no_grad(), Named() as seen:
        found = model(images)
    assert [name for name in seen.names if name not in PARTS] == wanted
    with torch.no_grad(), trace(model) as traced:
        assert torch.equal(model(images), found)
    assert traced.composed().length == (34 if merges(model) else 37)


@pytest.mark.parametrize("removals", [[0, 0, 0, 0], [3, 0, 5, 0], [0, 0, 0, 7]])
def test_all_in_one_op_leaves_what_one_after_the_other_leaves(removals):
    torch.manual_seed(0)
    model, images = create("vim_nano", img_size=12, embed_dim=16, depth=4).eval(), torch.randn(3, 1, 12, 12)
    attach(model, Schedule.of(removals))
    with torch.no_grad():
        found = model.forward_tokens(images)
        model.layers[0].register_forward_hook(lambda *_: None)
        wanted = model.forward_tokens(images)
    assert torch.equal(found.x, wanted.x)
    assert torch.equal(found.places, wanted.places)
    assert (found.size is None) == (wanted.size is None) == (not any(removals))
    assert found.size is None or torch.equal(found.size, wanted.size)
    assert (found.features is None) == (wanted.features is None) == bool(removals[-1])
    if found.features is not None:
        for name in ("B", "C", "delta"):
            assert all(map(torch.equal, getattr(found.features, name), getattr(wanted.features, name)))
        assert torch.equal(found.features.hidden, wanted.features.hidden)


@pytest.mark.skipif(native_info() is None, reason="no native kernels here")
@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_in_training_a_block_is_one_op_and_learns_what_its_parts_learn(merged, rate):
    torch.manual_seed(0)
    model = create("vim_nano", img_size=12, embed_dim=16, depth=3, drop_path_rate=rate).train()
    images = torch.randn(8, 1, 12, 12)
    if merged:
        attach(model, Schedule.of([0, 3, 0]))
    gradients, ops = [], []
    for watched in (False, True):
        if watched:
            for layer in model.layers:
                layer.mixer.register_forward_hook(lambda *_: None)
        model.zero_grad()
        torch.manual_seed(1)  # the paths
        with on_threads(2), Named() as seen:
            model(images).square().sum().backward()
        ops.append([name for name in seen.names if name in ("block", "block_backward", "bimamba", "bimamba_backward")])
        gradients.append([p.grad for p in model.parameters()])
    assert ops == [["block"] * 3 + ["block_backward"] * 3, ["bimamba"] * 3 + ["bimamba_backward"] * 3]
    for in_one, by_parts in zip(*gradients, strict=True):
        torch.testing.assert_close(in_one, by_parts, rtol=1e-4, atol=1e-5)
