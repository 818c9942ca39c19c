"""Hidden units: exchanged with all that leads in and out, they leave the outputs as they were."""

import pytest
import strangers
import torch
from test_symmetries_finder import Residual, convolutional, draw, mlp, words
from torch import nn
from torch.func import functional_call

from learndyn.symmetries import find, units


def exchanged(parameters, family, order):
    """The parameters after the units have changed places."""
    made = {name: p.clone() for name, p in parameters.items()}
    for term in (*family.incoming, *family.own, *family.outgoing):
        old, new = (term.matrix(t[term.parameter]) for t in (parameters, made))
        if term.side == "columns":
            old, new = old.T, new.T
        places = [term.index[term.charge == unit] for unit in range(family.size)]
        for unit, other in enumerate(order.tolist()):
            new[places[unit]] = old[places[other]]
    return made


@pytest.mark.parametrize(
    ("model", "inputs", "sizes", "which"),
    [
        (lambda: mlp(nn.ReLU(), nn.GELU()), draw(4, 5), [7, 6], [0, 1]),
        (convolutional, draw(4, 1, 8, 8), [4, 6, 9], [0, 1, 2]),
        (lambda: Residual(True), draw(4, 3, 8, 8), [4, 4, 4], [0, 1, 2]),
        (strangers.GPT, words(9, 6, 6), [12, 12, 12, 24], [0, 3]),  # those of heads stay in their head
        (lambda: strangers.GPT(tied=False), words(9, 6, 6), [12, 12, 12, 24], [0, 3]),
        (strangers.Llama, words(9, 6, 6), [12, 4, 8, 10], [0, 3]),
        (strangers.ConvNeXtBlock, draw(4, 3, 8, 8), [6, 24], [0, 1]),
        (strangers.SE, draw(4, 3, 6, 6), [6, 3], [0, 1]),
        (strangers.MobileBlock, draw(4, 3, 6, 6), [6, 12], [0, 1]),
    ],
)
def test_units_may_be_exchanged(model, inputs, sizes, which):
    torch.manual_seed(0)
    network = model().double()
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    found = units(network, inputs)
    assert [family.size for family in found] == sizes
    parameters = {name: p.detach() + 0.1 * torch.randn_like(p) for name, p in network.named_parameters()}
    buffers = {name: b.clone() for name, b in network.named_buffers()}
    before = functional_call(network, (parameters, buffers), (inputs,))
    for number in which:
        family = found[number]
        moved = exchanged(parameters, family, torch.randperm(family.size, generator=torch.Generator().manual_seed(1)))
        after = functional_call(network, (moved, {n: b.clone() for n, b in network.named_buffers()}), (inputs,))
        assert any(not torch.equal(moved[name], parameters[name]) for name in moved)
        torch.testing.assert_close(after, before, rtol=0, atol=1e-12)


def test_norms_belong_to_their_units():
    (first, *_) = units(convolutional(), draw(4, 1, 8, 8))
    assert str(first) == "0.weight, 0.bias -> 1.weight, 1.bias -> 4.weight"


def test_the_rescale_charge_is_what_leads_in_minus_what_leads_out():
    model = mlp(nn.ReLU(), nn.ReLU()).double()
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    laws = [law for law in find(model, draw(8, 5), certify=False).laws if law.kind == "rescale"]
    for family, law in zip(units(model, draw(8, 5)), laws, strict=True):
        into, out = (family.squared_norm(parameters, side) for side in ("incoming", "outgoing"))
        torch.testing.assert_close(law.charge(parameters), into - out, rtol=0, atol=1e-13)
    assert family.squared_norm(parameters, "own").tolist() == [0.0] * family.size
