"""What stands between a mixer's two large products may be somebody else's."""

import warnings
from copy import deepcopy

import pytest
import torch
from torch import nn

from rmeeto.errors import SettingsError
from rmeeto.models import Vim, VimConfig, cast_weights
from rmeeto.models.mixer import Mixer
from rmeeto.reduction import Settings, attach
from rmeeto.schedule import Schedule

CONFIG = VimConfig(img_size=(12, 12), patch_size=4, in_chans=3, num_classes=5, embed_dim=16, depth=3, state_size=4)
INNER = ("x_proj", "dt_proj", "x_proj_b", "dt_proj_b")


class Adapted(nn.Module):
    """As adapters of low rank are: the old layer's weight to look at, and something added in each call."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    @property
    def weight(self):
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


def models(name):
    """A model with an adapter in every block, and the same model with it inside the weights."""
    torch.manual_seed(0)
    adapted = Vim(CONFIG).eval()
    inside = deepcopy(adapted)
    for block, other in zip(adapted.layers, inside.layers, strict=True):
        layer = Adapted(getattr(block.mixer, name))
        with torch.no_grad():
            getattr(other.mixer, name).weight += layer.up.weight @ layer.down.weight
        setattr(block.mixer, name, layer)
    return adapted, inside


@pytest.mark.parametrize("feature", [None, "hidden", "delta", "B"])
@pytest.mark.parametrize("name", INNER)
def test_adapters_are_not_passed_over(name, feature):
    both, images = models(name), torch.randn(2, 3, 12, 12)
    if feature:
        both = [attach(model, Schedule.of([2, 1, 0]), Settings(feature=feature)) for model in both]
    found, wanted = (model(images) for model in both)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    for logits in (found, wanted):
        logits.square().sum().backward()
    gradients = [model.layers[1].mixer.A_log.grad for model in both]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)
    adapter = getattr(both[0].layers[1].mixer, name)
    assert adapter.up.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", INNER)
def test_hooks_are_called(name):
    torch.manual_seed(0)
    model, images, seen = Vim(CONFIG).eval(), torch.randn(2, 3, 12, 12), []
    with torch.no_grad():
        before = model(images)
        getattr(model.layers[1].mixer, name).register_forward_hook(lambda _layer, _inputs, out: seen.append(out.shape))
        torch.testing.assert_close(model(images), before, rtol=1e-5, atol=1e-6)
    assert [shape[:2] for shape in seen] == [(2, 10)]


@pytest.mark.parametrize("name", ["norm", "mixer.in_proj", "mixer.out_proj", *(f"mixer.{n}" for n in INNER)])
@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_hooks_of_gradients_are_called(name, register):
    torch.manual_seed(0)
    model, images, seen = Vim(CONFIG).eval(), torch.randn(2, 3, 12, 12), []
    getattr(model.layers[1].get_submodule(name), register)(lambda *_: seen.append(1))
    model(images).sum().backward()
    assert seen == [1]


@pytest.mark.parametrize("name", ["x_proj", "dt_proj"])
def test_a_bias_more_or_less_counts(name):
    torch.manual_seed(0)
    mixer, x = Mixer(CONFIG), torch.randn(2, 10, 16)
    changed = deepcopy(mixer)
    layer = getattr(changed, name)
    if name == "x_proj":
        layer.bias = nn.Parameter(torch.zeros(layer.out_features))
    else:
        layer.bias = None
        mixer.dt_proj.bias.data.zero_()
    torch.testing.assert_close(changed(x).hidden, mixer(x).hidden)
    if name == "x_proj":
        layer.bias.data.add_(1)
        assert not torch.allclose(changed(x).hidden, mixer(x).hidden)


def test_layers_of_8_bits():
    torch.manual_seed(0)
    model, images = Vim(CONFIG).eval(), torch.randn(2, 3, 12, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch tells of its successor, another package
        small = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert type(small.layers[0].mixer.x_proj) is not nn.Linear
    with torch.no_grad():
        torch.testing.assert_close(small(images), model(images), rtol=0.05, atol=0.05)


def test_half_types_and_time():
    adapted, inside = models("x_proj")
    images, settings = torch.randn(2, 3, 12, 12), Settings(size_aware_scan=True)
    both = [
        cast_weights(attach(model, Schedule.of([2, 1, 0]), settings), torch.bfloat16) for model in (adapted, inside)
    ]
    with torch.no_grad():
        found, wanted = (model(images.bfloat16()) for model in both)
    torch.testing.assert_close(found, wanted, rtol=0.1, atol=0.1)


def test_another_convolution_is_refused():
    mixer = Mixer(CONFIG)
    mixer.conv1d_b = nn.Sequential(mixer.conv1d_b)
    with pytest.raises(SettingsError, match="conv1d_b is a Sequential, which would not be called"):
        mixer(torch.randn(2, 10, 16))


def test_compiles_with_adapters():
    model, _ = models("x_proj")
    images = torch.randn(2, 3, 12, 12)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(images), model(images))
