"""The published networks' own answers: logits within 1e-4, lengths, class places and sizes exactly."""

from __future__ import annotations

import pytest
import torch

from rmeeto.ops import use_backend
from rmeeto.reduction import Settings, attach, detach
from rmeeto.schedule import Schedule

from ..ops.kernels import KERNELS, home
from ..ops.kernels import native as NATIVE
from .cases import NETWORKS, TOLERANCE, filled, golden, inexact, largest_error, observed

ALL_CASES = [(network, case) for network in NETWORKS for case in NETWORKS[network].cases]
BACKENDS = ["reference", *KERNELS]


@pytest.fixture(autouse=True)
def whole_float32(monkeypatch):
    """Convolutions of a GPU in float32 as everywhere, not in the ten bits of TF32 that torch takes there."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("file", sorted({network.file for network in NETWORKS.values()}))
def test_every_golden_case_is_in_the_table(file):
    asked = {
        f"{network.prefix}{case}" for network in NETWORKS.values() if network.file == file for case in network.cases
    }
    assert {key.rsplit("/", 1)[0] for key in golden(file)} == asked


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("network", "case"), ALL_CASES)
def test_golden_case(network, case, backend):
    network = NETWORKS[network]
    expected, model = network.expected(case), network.merging(case)
    assert {"logits", "lengths", "positions"} <= set(expected)
    with use_backend(backend):
        seen = observed(model.to(home(backend)), network.images().to(home(backend)), model.layers)
    model.cpu()  # others are given the same
    seen = {name: value.cpu() for name, value in seen.items()}
    assert not inexact(seen, expected)
    assert largest_error(seen, expected) <= TOLERANCE
    if "last_hidden" in expected:
        torch.testing.assert_close(seen["last_hidden"], expected["last_hidden"], atol=TOLERANCE, rtol=1e-5)


@NATIVE
@pytest.mark.parametrize(
    ("network", "settings"),
    [
        ("vim", {}),
        ("vim", {"class_place": "exact"}),
        ("vim", {"size_aware_scan": True}),
        ("vim", {"mode": "amax"}),
        ("videomamba", {}),
        ("video", {"class_place": "exact"}),
    ],
)
def test_gradients_of_both_ops_agree(network, settings):
    network = NETWORKS[network]
    model, images = filled(network.config), network.images()
    attach(model, Schedule.constant(12, network.config.depth), Settings(**{"class_place": "official", **settings}))
    labels = torch.tensor([1, 4, 7][: len(images)])
    gradients = {}
    for backend in ("reference", "native"):
        model.zero_grad()
        with use_backend(backend):
            torch.nn.functional.cross_entropy(model(images), labels).backward()
        gradients[backend] = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    still = [name for name, gradient in gradients["reference"].items() if not gradient.any()]
    # A class token that stands first has no past: the last forward scan's decay never reaches the logits.
    assert still == ([f"layers.{network.config.depth - 1}.mixer.A_log"] if network.config.class_place == 0 else [])
    for name, expected in gradients["reference"].items():
        scale = expected.abs().max().item()
        torch.testing.assert_close(gradients["native"][name], expected, atol=1e-4 * scale, rtol=1e-3, msg=name)


@pytest.mark.parametrize("network", ["vim", "videomamba", "video"])
def test_detached_model_answers_as_the_unmerged_one(network):
    network = NETWORKS[network]
    merged = attach(filled(network.config), Schedule.constant(12, network.config.depth))
    with use_backend("reference"), torch.no_grad():
        logits = detach(merged)(network.images())
    torch.testing.assert_close(logits, network.expected("r0")["logits"], atol=TOLERANCE, rtol=0)
