"""Every model with reducers in its slots: nothing of it changes, and its tokens leave as the schedule says."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

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


class Named(TorchDispatchMode):
    """Names of the package's ops, in the order of their calls."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name.startswith("rmeeto::"):
            self.names.append(func._schema.name.removeprefix("rmeeto::"))
        return func(*args, **(kwargs or {}))


IN_ONE, IN_TWO = ["block_merge"], ["block", "bipartite_merge"]
WATCHING = {
    "nobody": (None, IN_ONE),
    "a hook on the block": (lambda model: model.layers[1].register_forward_hook(lambda *_: None), IN_TWO),
    "a hook on the slot": (lambda model: model.slots[1].register_forward_pre_hook(lambda *_: None), IN_TWO),
    "another feature": (lambda model: attach(model, Schedule.of([0, 3, 0]), Settings(feature="B")), IN_TWO),
    "the stream": (lambda model: attach(model, Schedule.of([0, 3, 0]), Settings(feature="x")), IN_ONE),
}


@pytest.mark.skipif(native_info() is None, reason="no native kernels here")
@pytest.mark.parametrize("watching", WATCHING)
def test_block_and_merge_are_one_op_where_nobody_looks_between(watching):
    torch.manual_seed(0)
    model, images = create("vim_nano", img_size=12, embed_dim=16, depth=3).eval(), torch.randn(2, 1, 12, 12)
    attach(model, Schedule.of([0, 3, 0]))
    change, wanted = WATCHING[watching]
    if change is not None:
        change(model)
    with torch.no_grad(), Named() as seen:
        found = model(images)
    assert seen.names == ["block", *wanted, "block"]
    with torch.no_grad(), trace(model) as traced:
        assert torch.equal(model(images), found)
    assert traced.composed().length == 34
