"""Models as one graph: compiled, and exported for any batch."""

from dataclasses import replace

import pytest
import torch

from rmeeto.models import Vim, VimConfig
from rmeeto.ops import use_backend
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
