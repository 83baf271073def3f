"""Chance that is a function of a name."""

import pytest
import torch

from rmeeto.ops.draws import Draws


def test_a_name_always_draws_the_same_and_disturbs_nobody():
    before = torch.random.get_rng_state()
    one, other = Draws("a"), Draws("b")
    first = one.permutation(50), one.integers(7, 50)
    assert torch.equal(other.permutation(50).sort().values, torch.arange(50))
    assert torch.equal(one.permutation(50), first[0])
    assert torch.equal(one.integers(7, 50), first[1])
    assert not torch.equal(other.permutation(50), first[0])
    assert not torch.equal(other.integers(7, 50), first[1])
    assert set(first[1].tolist()) == set(range(7))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_graph_draws_what_the_program_draws():
    def shuffled(x):
        return x[Draws("graph").permutation(x.shape[0])] + Draws("graph").integers(9, x.shape[0])

    torch._dynamo.reset()
    x = torch.arange(30)
    assert torch.equal(torch.compile(shuffled, backend="eager", fullgraph=True, dynamic=True)(x), shuffled(x))


def test_another_device_is_sent_a_drawing_once(monkeypatch):
    elsewhere, drawn = torch.device("meta"), []
    for name in ("randperm", "randint"):
        draw = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, draw=draw, **how: drawn.append(draw(*a, **how)) or drawn[-1])
    for _ in range(3):
        found = Draws("far").permutation(5, elsewhere), Draws("far").integers(3, 5, elsewhere)
        assert all((x.device, x.dtype, x.shape) == (elsewhere, torch.int64, (5,)) for x in found)
    assert len(drawn) == 2
    Draws("farther").permutation(5, elsewhere)
    assert len(drawn) == 3


@pytest.mark.parametrize("device", [None, torch.device("cpu"), torch.device("meta")])
def test_the_ops_are_whole(device):
    for name, arguments in (("permutation", ("x", 5)), ("integers", ("x", 3, 5))):
        torch.library.opcheck(getattr(torch.ops.rmeeto, name).default, (*arguments, device))
