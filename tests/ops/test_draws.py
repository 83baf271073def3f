"""Chance that is a function of a name."""

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


def test_the_ops_are_whole():
    for name, arguments in (("permutation", ("x", 5)), ("integers", ("x", 3, 5))):
        torch.library.opcheck(getattr(torch.ops.rmeeto, name).default, arguments)
