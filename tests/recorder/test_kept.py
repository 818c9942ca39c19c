"""Which optimizer keeps which law: against currents by hand, and nothing of the user's is touched."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from learndyn.errors import InputError
from learndyn.optimizers.lars import LARS
from learndyn.optimizers.sign import SignSGD
from learndyn.optimizers.sphere import SphereRMSProp
from learndyn.recorder import kept
from learndyn.symmetries import find

X = torch.randn(16, 5, generator=torch.Generator().manual_seed(0)).double()
Y = torch.randint(0, 3, (16,), generator=torch.Generator().manual_seed(1))


def network(dtype=torch.float64):
    """A scale, a dead, a rescale and a translation law."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            *(nn.Linear(5, 6), nn.BatchNorm1d(6, eps=1e-12), nn.ReLU()),
            *(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)),
        )
    return net.to(dtype)


def loss(net):
    return F.cross_entropy(net(X.to(net[0].weight)), Y)


def laws(net):
    return find(net, X, certify=False).laws


def clipped(parameters):
    held = list(parameters)
    optimizer = torch.optim.SGD(held, 0.5)
    optimizer.register_step_pre_hook(lambda *_: (nn.utils.clip_grad_norm_(held, 0.1), None)[1])
    return optimizer


FACTORIES = {
    "sgd": lambda ps: torch.optim.SGD(ps, 0.1, weight_decay=0.1),
    "nesterov": lambda ps: torch.optim.SGD(ps, 0.1, 0.9, nesterov=True),
    "clipped": clipped,
    "lars": LARS,
    "sign": SignSGD,
    "adam": torch.optim.Adam,
    "rmsprop": torch.optim.RMSprop,
}


@pytest.fixture(scope="module")
def table():
    net = network()
    return kept(net, laws(net), FACTORIES, loss)


def test_who_keeps_what(table):
    kinds = table.kind.values.tolist()
    assert {"scale", "dead", "rescale", "translation"} == set(kinds)
    assert table.optimizer.values.tolist() == ["gradient", *FACTORIES]
    for name in ("gradient", "sgd", "nesterov", "clipped"):
        assert table.kept.sel(optimizer=name).all(), name
        assert float(table.largest.sel(optimizer=name).max()) < 1e-9, name
    for name in ("sign", "adam", "rmsprop"):
        for kind in ("scale", "rescale"):
            where = [i for i, k in enumerate(kinds) if k == kind]
            assert not table.kept.sel(optimizer=name)[where].any(), (name, kind)
            assert float(table.largest.sel(optimizer=name)[where].max()) > 0.1, (name, kind)
    rescale = np.array([k == "rescale" for k in kinds])
    translation = np.array([k == "translation" for k in kinds])
    assert not table.kept.sel(optimizer="lars").values[rescale].any()
    assert table.kept.sel(optimizer="lars").values[translation].all()


def test_currents_by_hand(table):
    """Of SignSGD: u = −sign(g), row by row for the scale law, in rows and columns for a rescale law."""
    net = network()
    loss(net).backward()
    sign = table.current.sel(optimizer="sign").values
    found = {str(law): sign[table.law_of == i] for i, law in enumerate(table.law.values)}
    w, b = net[0].weight, net[0].bias
    theta, u = torch.cat([w, b[:, None]], 1), -torch.cat([w.grad, b.grad[:, None]], 1).sign()
    wanted = (theta * u).sum(1) / (theta.norm(dim=1) * u.norm(dim=1))
    np.testing.assert_allclose(found["scale at 0.weight, 0.bias"], wanted.detach(), rtol=1e-9)
    into = [torch.cat([net[3].weight, net[3].bias[:, None]], 1), net[5].weight.T]
    steps = [-torch.cat([net[3].weight.grad, net[3].bias.grad[:, None]], 1).sign(), -net[5].weight.grad.T.sign()]
    signed = (into[0] * steps[0]).sum(1) - (into[1] * steps[1]).sum(1)
    sizes = [sum(t.square().sum(1) for t in pair).sqrt() for pair in (into, steps)]
    np.testing.assert_allclose(
        found["rescale at 3.weight, 3.bias against 5.weight"], (signed / (sizes[0] * sizes[1])).detach(), rtol=1e-9
    )
    columns = -net[5].weight.grad.sign()
    wanted = columns.sum(0) / (3**0.5 * columns.norm(dim=0))
    np.testing.assert_allclose(found["translation at 5.weight"], wanted, rtol=1e-9)


def test_a_dead_parameter_is_measured_by_how_others_move(table):
    """Its gradient is rounding: SGD leaves it, signs move it like all others, RMSprop by eps over rounding."""
    at = table.law.values.tolist().index("dead at 0.bias")
    assert table.kept.sel(optimizer="sgd")[at] and not table.kept.sel(optimizer="sign")[at]
    assert float(table.largest.sel(optimizer="sign")[at]) == pytest.approx(1, rel=0.2)


def test_nothing_of_the_users_is_touched():
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), 0.01, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss(net).backward()
        optimizer.step()
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict(), [p.grad for p in net.parameters()]))
    state, mode = torch.get_rng_state(), net.training
    found = kept(net, laws(net), optimizer, loss)
    after = net.state_dict(), optimizer.state_dict(), [p.grad for p in net.parameters()]
    assert torch.equal(state, torch.get_rng_state()) and net.training == mode
    for one, other in zip(before[0].values(), after[0].values()):
        assert torch.equal(one, other)
    assert before[1]["param_groups"] == after[1]["param_groups"]
    for one, other in zip(before[1]["state"].values(), after[1]["state"].values()):
        assert all(torch.equal(one[k], other[k]) for k in one)
    assert all(torch.equal(a, b) for a, b in zip(before[2], after[2]))
    fresh = kept(net, laws(net), lambda ps: torch.optim.AdamW(ps, 0.01), loss)
    assert found.optimizer.values.tolist() == ["gradient", "AdamW"]
    np.testing.assert_array_equal(found.current, fresh.current)  # neither its memory nor its decay count


def test_a_network_in_float32():
    net = network(torch.float32)
    found = kept(net, laws(net), {n: FACTORIES[n] for n in ("sgd", "sign")}, loss)
    assert found.kept.sel(optimizer="sgd").all() and not found.kept.sel(optimizer="sign").all()


def test_the_eps_of_a_norm_is_not_the_optimizers_fault():
    net = network()
    net[1].eps = 0.1
    found = kept(net, laws(net), {n: FACTORIES[n] for n in ("sgd", "sign")}, loss)
    at = found.law.values.tolist().index("scale at 0.weight, 0.bias")
    assert float(found.largest.sel(optimizer="sgd")[at]) > 1e-4 and found.kept.sel(optimizer="sgd")[at]
    assert not found.kept.sel(optimizer="sign")[at]


def test_parameters_that_an_optimizer_does_not_have():
    net = network()
    found = kept(net, laws(net), lambda ps: torch.optim.SGD(list(ps)[-1:], 0.1), loss)  # the last bias
    moved = np.isfinite(found.largest.isel(optimizer=1).values)
    names = found.law.values[moved].tolist()
    assert all("5.bias" in name or name.startswith("dead") for name in names), names
    assert not found.kept.isel(optimizer=1).values[~moved].any()


def test_laws_of_matrices():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False)).double()
    found = kept(net, laws(net), {n: FACTORIES[n] for n in ("sgd", "adam")}, loss)
    assert "matrix" in found.kind.values.tolist()
    matrix = found.kind == "matrix"
    assert found.kept.sel(optimizer="sgd").values[matrix].all()
    assert not found.kept.sel(optimizer="adam").values[matrix].any()


class Polar(torch.optim.Optimizer):
    """Muon in exact arithmetic: the polar factor of every matrix of gradients."""

    def __init__(self, parameters):
        super().__init__([p for p in parameters if p.ndim == 2], {})

    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            u, s, v = torch.linalg.svd(p.grad, full_matrices=False)
            p -= 0.01 * (u * (s > 1e-12 * s[0])) @ v


def test_muon_keeps_translation_and_torchs_does_not():
    """In exact arithmetic column sums of zero stay zero; torch rounds to bfloat16 and enlarges what that leaves."""
    net = network()
    found = kept(net, laws(net), Polar, loss)
    where = found.law.values.tolist().index("translation at 5.weight")
    assert found.kept.isel(optimizer=1)[where] and float(found.largest.isel(optimizer=1)[where]) < 1e-10
    assert not found.kept.isel(optimizer=1)[[k in ("scale", "rescale") for k in found.kind.values]].any()
    if hasattr(torch.optim, "Muon"):
        theirs = kept(net, laws(net), lambda ps: torch.optim.Muon([p for p in ps if p.ndim == 2]), loss)
        assert float(theirs.largest.isel(optimizer=1)[where]) > 1e-3


def without_laws():
    kept(network(), [], torch.optim.Adam, loss)


def of_another():
    net = network()
    kept(net, laws(net), torch.optim.Adam(network().parameters()), loss)


def other_laws():
    kept(nn.Linear(5, 3).double(), laws(network()), torch.optim.Adam, loss)


def stands_still():
    net = network()
    kept(net, laws(net), lambda ps: torch.optim.SGD(ps, 0.0), loss)


def closure():
    net = network()
    kept(net, laws(net), torch.optim.LBFGS, loss)


def no_number():
    net = network()
    kept(net, laws(net), torch.optim.Adam, lambda net: net(X) / 0)


def taken():
    net = network()
    kept(net, laws(net), {"gradient": torch.optim.Adam}, loss)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (without_laws, "no law to keep: give those"),
        (of_another, "The optimizer Adam has none of the model's parameters"),
        (other_laws, "no parameter '0.weight'"),
        (stands_still, "made no step; give it a positive learning rate"),
        (closure, "The optimizer LBFGS makes no step without a closure"),
        (no_number, "The loss must be one finite number"),
        (taken, "No optimizer can be called 'gradient'"),
    ],
)
def test_what_cannot_be_told_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_rmsprop_on_the_sphere_by_hand():
    w, b = (nn.Parameter(torch.randn(*s, generator=torch.Generator().manual_seed(2)).double()) for s in ((3, 4), (2,)))
    rows, bias, v = F.normalize(w.detach(), dim=1), b.detach().clone(), torch.tensor([1.0, 2.0, 3.0]).double()
    groups = [
        {"params": [w], "lr": 0.1, "rho": 0.9, "second_moment": [v.clone()]},
        {"params": [b], "lr": 0.2, "weight_decay": 0.3},
    ]
    optimizer = SphereRMSProp(groups)
    assert torch.equal(w.detach(), rows)
    for step in range(3):
        w.grad, b.grad = torch.full_like(w, 0.5 + step), torch.ones_like(b)
        rows = F.normalize(rows - 0.1 * w.grad / v.sqrt()[:, None], dim=1)
        v = 0.9 * v + 0.1 * w.grad.square().sum(1)
        bias = bias - 0.2 * (1 + 0.3 * bias)
        optimizer.step()
        torch.testing.assert_close(w.detach(), rows)
        torch.testing.assert_close(optimizer.state[w]["second_moment"], v)
        torch.testing.assert_close(b.detach(), bias)
    with pytest.raises(InputError, match="must be positive, one for each row of 3"):
        SphereRMSProp([{"params": [w], "lr": 0.1, "rho": 0.9, "second_moment": [v[:2]]}])
    with pytest.raises(InputError, match="A row of zeros has no direction"):
        SphereRMSProp([{"params": [nn.Parameter(0 * w.detach())], "lr": 0.1, "second_moment": [v]}])
