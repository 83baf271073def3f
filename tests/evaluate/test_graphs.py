"""A forward pass replayed as a CUDA graph says what the model says; most of this needs a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rmeeto import Schedule, Settings, attach, create
from rmeeto.errors import SettingsError, ShapeError
from rmeeto.evaluate import Replay, measure_speed
from rmeeto.models import Vim
from rmeeto.reduction.matchers import MATCHERS

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="only a GPU has CUDA graphs")


def merged_model(settings: Settings | None = None) -> Vim:
    torch.manual_seed(0)
    model = create("vim_nano", depth=4, img_size=16, num_classes=5).cuda()
    return attach(model, Schedule.constant(8, 4), settings or Settings())


def some_images(count: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, 16, 16, generator=torch.Generator().manual_seed(seed)).cuda()


@gpu
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_it_says_what_the_model_says_of_any_images(dtype: torch.dtype | None) -> None:
    model = merged_model().train()  # what is recorded is evaluation
    with torch.autocast("cuda", dtype=dtype, enabled=dtype is not None):
        replay = Replay(model, some_images())
        assert model.training
        with torch.inference_mode():
            wanted = [model.eval()(some_images(seed=seed)) for seed in (1, 2)]
    found = [replay(some_images(seed=seed)) for seed in (1, 2)]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-2 if dtype else 1e-5)
    assert not torch.equal(*found)


@gpu
@pytest.mark.parametrize("settings", [Settings(shuffle=0.5), *(Settings(matcher=matcher) for matcher in MATCHERS)])
def test_every_way_to_merge_can_be_recorded(settings: Settings) -> None:
    model = merged_model(settings).eval()
    replay = Replay(model, some_images())
    with torch.inference_mode():
        torch.testing.assert_close(replay(some_images(seed=1)), model(some_images(seed=1)), rtol=1e-4, atol=1e-5)


@gpu
def test_a_model_may_cast_by_itself() -> None:
    model, images = merged_model().eval(), some_images()

    def cast(images: Tensor) -> Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return model(images)

    with torch.autocast("cuda", dtype=torch.bfloat16):
        cast(images)  # the weights that it leaves behind are not the graph's
        replay = Replay(cast, images)
    spoiled = [torch.full((1 << 16,), torch.nan, device="cuda") for _ in range(64)]
    torch.testing.assert_close(replay(images), cast(images).detach(), rtol=1e-4, atol=1e-2)
    assert len(spoiled) == 64


@gpu
def test_weights_that_change_in_place_are_seen() -> None:
    model = merged_model().eval()
    replay = Replay(model, some_images())
    before = replay(some_images())
    with torch.no_grad():
        model.head.bias.add_(1.0)
    torch.testing.assert_close(replay(some_images()), before + 1.0, rtol=1e-4, atol=1e-5)


@gpu
def test_speed_tells_which_model_was_replayed() -> None:
    model, images = merged_model().eval(), some_images()
    found = measure_speed({"plain": model, "replayed": Replay(model, images)}, images, repeats=2)
    assert [found[name].cuda_graph for name in ("plain", "replayed")] == [False, True]


@gpu
@pytest.mark.parametrize("images", [torch.zeros(2, 1, 16, 16), torch.zeros(3, 1, 16, 16), torch.zeros(1)])
def test_other_images_are_refused(images: Tensor) -> None:
    with pytest.raises(ShapeError, match=r"the graph is of \(3, 1, 16, 16\) torch.float32 on cuda"):
        Replay(merged_model(), some_images())(images)


def test_a_cpu_has_none() -> None:
    with pytest.raises(SettingsError, match="on cpu and only a GPU has CUDA graphs"):
        Replay(torch.nn.Identity(), torch.zeros(1))
