"""Models as one graph, compiled or exported for any batch, and as functions that torch.func transforms."""

from dataclasses import replace

import pytest
import torch
from torch.func import functional_call, grad, vmap

from rmeeto.errors import BackendError
from rmeeto.models import Vim, VimConfig
from rmeeto.ops import SlowPathWarning, backends, native_info, use_backend
from rmeeto.reduction import attach
from rmeeto.schedule import Schedule

SMALL = VimConfig(img_size=(12, 12), patch_size=4, in_chans=3, num_classes=5, embed_dim=16, depth=3, state_size=4)
REMOVED = [2, 1, 0]


def model_of(removals, **sizes):
    torch.manual_seed(0)
    model = Vim(replace(SMALL, **sizes)).eval()
    return attach(model, Schedule.of(removals)) if removals else model


def exported(model, images, strict):
    batch = torch.export.Dim("batch", max=64)
    return torch.export.export(model, (images,), dynamic_shapes=({0: batch},), strict=strict).module()


def ops_of(graph):
    return {str(node.target).split(".")[1] for node in graph.graph.nodes if str(node.target).startswith("rmeeto.")}


@pytest.mark.parametrize("removals", [None, REMOVED])
def test_compiles_as_one_graph(removals):
    model, images = model_of(removals), torch.randn(2, 3, 12, 12)
    torch._dynamo.reset()
    with torch.inference_mode():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(images), model(images))


@pytest.mark.parametrize(
    ("removals", "training", "strict"), [(None, False, False), (REMOVED, True, False), (REMOVED, False, True)]
)
def test_exports_with_gradients_for_any_batch(removals, training, strict):
    """The graph runs as it is, and can be trained; one batch leaves a thread less work than the block asks for."""
    model = model_of(removals).train(training)
    graph = exported(model, torch.randn(2, 3, 12, 12), strict)
    assert "block" in ops_of(graph)
    for size in (1, 3, 40):
        images, found = torch.randn(size, 3, 12, 12), {}
        for one in (model, graph):
            logits = one(images)
            one.zero_grad()
            logits.square().sum().backward()
            found[one] = logits, {name: p.grad for name, p in one.named_parameters()}
        torch.testing.assert_close(found[graph], found[model])
        with torch.no_grad():
            torch.testing.assert_close(graph(images), found[model][0].detach())


@pytest.mark.parametrize(("removals", "strict"), [(None, False), (REMOVED, False), (REMOVED, True)])
def test_exports_the_blocks_without_gradients(removals, strict):
    model = model_of(removals)
    with torch.no_grad():
        graph = exported(model, torch.randn(2, 3, 12, 12), strict)
        assert "blocks" in ops_of(graph)
        for size in (1, 3, 40):
            images = torch.randn(size, 3, 12, 12)
            torch.testing.assert_close(graph(images), model(images))


def test_exports_the_references_for_any_batch():
    model = model_of([1], img_size=(8, 8), depth=1)
    with use_backend("reference"):
        graph = exported(model, torch.randn(2, 3, 8, 8), strict=False)
    assert not ops_of(graph)
    images = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(graph(images), model(images))


@pytest.mark.parametrize("removals", [None, [1]])
def test_gradients_by_torch_func(removals, monkeypatch):
    """Of the batch, and of each image at once, as autograd gives them; it is slow, and said once."""
    monkeypatch.setattr(backends, "_warned", set())
    model, images = model_of(removals, img_size=(8, 8), depth=1), torch.randn(2, 3, 8, 8)

    def loss(parameters, images):
        return functional_call(model, parameters, (images,)).square().sum()

    def of_one(parameters, image):
        return loss(parameters, image[None])

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    with pytest.warns(SlowPathWarning, match="torch.func transforms no kernel; cure: use torch.autograd") as said:
        whole, each = grad(loss)(parameters, images), vmap(grad(of_one), (None, 0))(parameters, images)
    assert len(said) == 1
    loss(dict(model.named_parameters()), images).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(whole[name], parameter.grad)
        torch.testing.assert_close(each[name].sum(0), parameter.grad)


@pytest.mark.parametrize("watched", [False, True], ids=["blocks", "layers"])
@pytest.mark.parametrize("removals", [None, REMOVED])
def test_second_derivatives_are_the_references_or_none(removals, watched):
    model = model_of(removals).train()
    if watched:
        model.layers[0].mixer.in_proj.register_forward_hook(lambda *_: None)
    images = torch.randn(8, 3, 12, 12, requires_grad=True)

    def penalty():
        (slope,) = torch.autograd.grad(model(images).sum(), images, create_graph=True)
        return slope.square().sum()

    if native_info() is not None:
        with pytest.raises(BackendError, match=r"first derivatives only; compute under .*use_backend\('reference'\)"):
            penalty().backward()
    with use_backend("reference"):
        penalty().backward()
    assert model.layers[0].mixer.in_proj.weight.grad.abs().sum() > 0
