"""Activation patterns against the formula, through modules and functions, in images, sentences and wrapped layers."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from learndyn.dynamics import advance_grid, fork, grid, grid_metrics, start, train
from learndyn.errors import InputError
from learndyn.models import mlp
from learndyn.observables import activation_patterns, hamming, hamming_fraction, pattern_changes
from learndyn.tasks import Batch, Supervised, relu_teacher

SGD = partial(torch.optim.SGD, lr=0.1)


def state_of(model, inputs, classes=2):
    batch = Batch(inputs, torch.arange(len(inputs)) % classes)
    return start(Supervised(batch, batch, len(inputs)), model, SGD)


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def test_patterns_of_a_plain_network_are_the_signs():
    model = mlp((6,), 2, width=(5, 4)).double()
    x = normal(300, 6)  # more than one chunk
    found = activation_patterns(state_of(model, x))
    first = model[1](x)
    second = model[3](first.clamp(min=0))
    assert list(found) == ["2", "4"]
    assert torch.equal(found["2"], first > 0) and torch.equal(found["4"], second > 0)


class Odd(nn.Module):
    """Functions, methods, in-place calls, one module used twice, a slope that is learnt."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(7))
        self.shared = nn.ReLU(inplace=True)
        self.learnt = nn.PReLU(4)

    def forward(self, x):
        for i, act in enumerate(
            (F.relu, torch.relu_, lambda z: z.clamp(min=0), self.shared, self.shared, self.learnt, nn.LeakyReLU(0.1))
        ):
            x = act(self.layers[i](x))
        return x.clamp(min=-1).clamp(max=0).clamp(0, 1)  # none of them a ReLU


def test_every_way_to_write_a_relu_is_heard():
    model = Odd().double()
    x = normal(20, 4)
    found = activation_patterns(state_of(model, x))
    assert list(found) == [
        "", ":1", ":2", "shared", "shared:1", "learnt", ":3"
    ]  # fmt: skip
    h = x
    for layer, act, pattern in zip(model.layers, [F.relu] * 5 + [model.learnt, None], found.values()):
        z = layer(h)
        assert torch.equal(pattern, z > 0)
        h = act(z) if act else z


def test_positions_of_images_and_sentences_are_examples():
    x = normal(3, 2, 5, 4)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2)).double()
    (found,) = activation_patterns(state_of(model, x)).values()
    z = model.eval()[1](model[0](x))
    assert found.shape == (3 * 3 * 2, 6) and torch.equal(found, (z > 0).permute(0, 2, 3, 1).reshape(-1, 6))
    x = normal(3, 2, 5)
    model = nn.Sequential(nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2)).double()
    (found,) = activation_patterns(state_of(model, x)).values()
    assert torch.equal(found, (model[0](x) > 0).transpose(1, 2).reshape(-1, 6))
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Flatten(), nn.Linear(14, 2)).double()  # 2 is a length
    (found,) = activation_patterns(state_of(model, x)).values()
    assert torch.equal(found, (model[0](x) > 0).reshape(-1, 7))


@pytest.mark.parametrize("training", [True, False])
def test_the_fused_transformer_layer_does_not_hide_its_units(training):
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True).double().train(training)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 2)).double()
    (found,) = activation_patterns(state_of(model, normal(5, 3, 8))).values()
    assert found.shape == (15, 12) and 0 < found.double().mean() < 1


def test_hamming_of_a_moved_network_and_dead_units():
    model = mlp((6,), 2, width=(5, 4), bias=False).double()
    a = state_of(model, normal(40, 6))
    b = fork(a)
    with torch.no_grad():
        b.model[1].weight[0] *= -1  # this unit changes sides on all inputs
        for s in (a, b):
            s.model[3].weight[2] = -1.0  # all inputs of this unit are >= 0: dead
    changes = pattern_changes(a, b)
    assert changes.hamming["2"] == 1.0 and changes.units == {"2": 5, "4": 4} and changes.dead == {"2": 0, "4": 1}
    first, second = (activation_patterns(s)["4"] for s in (a, b))
    rest = sum((p != q).double().mean().item() for p, q in zip(first.T, second.T))
    assert changes.hamming["4"] == pytest.approx(rest, abs=1e-14)
    assert changes.distance == pytest.approx(1 + rest, abs=1e-14) and hamming(a, b).item() == changes.distance
    assert hamming_fraction(a, b).item() == pytest.approx((1 + rest) / 9, abs=1e-14)
    assert changes.fraction_alive == pytest.approx((1 + rest) / 8, abs=1e-14)
    assert hamming(a, fork(a)).item() == 0 and hamming(a, b).item() == hamming(b, a).item()
    with torch.no_grad():
        for p in b.model.parameters():
            p.neg_()
    assert 0 < hamming(a, b, normal(9, 6)).item() <= 9


def test_hamming_is_that_of_the_grid():
    g = grid([0.1], [1.0], (0,), [relu_teacher(50, 20, 8, dtype="float64")], 10)
    nets, _ = advance_grid(g, g.start, 0, 100)
    states = []
    for net in (g.start, nets):
        model = nn.Sequential(nn.Linear(8, 10, bias=False), nn.ReLU(), nn.Linear(10, 1, bias=False)).double()
        with torch.no_grad():
            model[0].weight.copy_(net.first[0, 0])
        states.append(state_of(model, g.inputs[0]))
    assert hamming(*states).item() == pytest.approx(float(grid_metrics(g, nets)["hamming"]), abs=1e-12)
    assert hamming(*states).item() > 0


def test_patterns_leave_no_hook_and_training_goes_on():
    a = state_of(mlp((6,), 2, width=32).double(), normal(60, 6))
    before = [p.clone() for p in a.model.parameters()]
    activation_patterns(a)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in a.model.modules())
    assert all(torch.equal(p, q) for p, q in zip(before, a.model.parameters()))
    assert hamming(a, train(fork(a), 30).state).item() > 0


def test_what_has_no_patterns_is_refused():
    smooth = state_of(mlp((6,), 2, width=4, activation="tanh").double(), normal(5, 6))
    with pytest.raises(InputError, match="Sequential has no ReLU, leaky ReLU or PReLU"):
        activation_patterns(smooth)
    one, other = (state_of(mlp((6,), 2, width=w).double(), normal(5, 6)) for w in (4, 5))
    with pytest.raises(InputError, match="units in different places"):
        hamming(one, other)
    flat = state_of(nn.Sequential(nn.Linear(6, 1), nn.Flatten(0), nn.ReLU()).double(), normal(5, 6))
    with pytest.raises(InputError, match="its units cannot be told apart"):
        activation_patterns(flat)
