"""Gradient flow against closed forms, conserved charges, and gradient descent that comes nearer with smaller steps."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from learndyn.dynamics import State, descent, flow
from learndyn.errors import InputError


class Weights(nn.Module):
    """θ itself."""

    def __init__(self, start):
        super().__init__()
        self.theta = nn.Parameter(torch.as_tensor(start).clone())

    def forward(self):
        return self.theta


def bowl(eigenvalues):
    scale = torch.as_tensor(eigenvalues, dtype=torch.float64)
    return lambda network: (scale * network().square()).sum() / 2


@pytest.mark.parametrize("method", ["DOP853", "RK45", "LSODA", "BDF", "Radau"])
def test_a_quadratic_loss_decays_as_exponentials(method):
    times = torch.linspace(0, 3, 7, dtype=torch.float64)
    start = Weights(torch.tensor([1.0, -2.0]))
    loose = {"rtol": 1e-6, "atol": 1e-9} if method in ("Radau", "RK45") else {}  # else they take their time
    found = flow(start, bowl([4.0, 1.0]), times, {"theta": lambda s: s.model()}, method=method, **loose)
    exact = torch.stack([torch.exp(-4 * times), -2 * torch.exp(-times)], 1)
    np.testing.assert_allclose(found.series.theta, exact, rtol=0, atol=2e-6 if loose else 2e-8)
    np.testing.assert_allclose(found.series.loss, (torch.tensor([4.0, 1.0]) * exact.square()).sum(1) / 2, atol=5e-6)
    np.testing.assert_allclose(found.at(1.234)().detach(), [math.exp(-4.936), -2 * math.exp(-1.234)], atol=1e-6)
    assert found.stopped is None and found.gradients > 10


def test_stiff_flows_over_many_orders_of_time():
    times = torch.logspace(-3, 6, 10, dtype=torch.float64)
    found = flow(Weights([1.0, 1.0]), bowl([1e3, 1e-6]), times, {"theta": lambda s: s.model()}, method="LSODA")
    np.testing.assert_allclose(found.series.theta[:, 1], torch.exp(-1e-6 * times), rtol=1e-7)
    assert found.gradients < 3000


def regression():
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(20, n, generator=draw, dtype=torch.float64) for n in (4, 2))
    return lambda network: (network(x) - y).square().mean()


def two_layers(dtype=torch.float64, between=nn.Identity):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5, bias=False), between(), nn.Linear(5, 2)).to(dtype)


def test_charges_are_conserved_by_the_flow_and_the_loss_falls():
    """Two linear layers: W1 W1ᵀ − W2ᵀ W2."""

    def charge(state: State):
        first, second = state.model[0].weight, state.model[2].weight
        return first @ first.mT - second.mT @ second

    found = flow(two_layers(), regression(), torch.linspace(0, 20, 9), {"charge": charge})
    np.testing.assert_allclose(found.series.charge, found.series.charge[:1].values.repeat(9, 0), atol=1e-9)
    assert (np.diff(found.series.loss) < 0).all() and float(found.series.loss[0] / found.series.loss[-1]) > 1.3


def test_a_flow_that_slides_along_a_kink_is_ended():
    with pytest.raises(InputError, match="After 500 gradients the flow has come to t=0.69"):
        flow(
            Weights([1.0, 2.0]),
            lambda network: network()[0].abs() * 1.4427 + network()[1] * network()[0].sign(),
            torch.tensor([20.0]),
            most=500,
        )


def test_descent_comes_nearer_at_first_order():
    model, loss = two_layers(between=nn.Tanh), regression()
    vector = torch.nn.utils.parameters_to_vector
    end = vector(flow(model, loss, torch.tensor([2.0])).at(2.0).parameters())
    errors = [float((vector(descent(model, loss, 2.0, n).parameters()) - end).detach().norm()) for n in (50, 100, 200)]
    for coarse, fine in zip(errors, errors[1:]):
        assert 1.85 < coarse / fine < 2.15


def test_rates_of_their_own():
    found = flow(Weights([1.0]), bowl([1.0]), torch.tensor([0.5]), {"theta": lambda s: s.model()}, {"theta": 3.0})
    assert float(found.series.theta[0, 0]) == pytest.approx(math.exp(-1.5), rel=1e-9)
    slow = descent(Weights([1.0]), bowl([1.0]), 0.5, 200, {"theta": 3.0})
    assert float(slow()) == pytest.approx(math.exp(-1.5), rel=1e-2)
    with pytest.raises(InputError, match="rates names 'phi', which is no trainable parameter"):
        flow(Weights([1.0]), bowl([1.0]), torch.tensor([0.5]), rates={"phi": 1.0})


def test_it_stops_where_it_is_told_to():
    found = flow(Weights([1.0]), bowl([2.0]), torch.linspace(0, 5, 11), stop=lambda m: float(m().detach()) - 0.3)
    assert found.stopped == pytest.approx(math.log(1 / 0.3) / 2, rel=1e-8)
    assert found.series.time.values.tolist() == [0.0, 0.5, found.stopped]
    with pytest.raises(InputError, match="t=3 is outside"):
        found.at(3.0)


def test_the_model_stays_as_it_was_and_frozen_weights_do_too():
    model = two_layers(torch.float32)
    model[0].weight.requires_grad_(False)
    before = {n: p.clone() for n, p in model.state_dict().items()}
    after = flow(model, regression(), torch.tensor([1.0])).at(1.0)
    assert all((before[n] == p).all() for n, p in model.state_dict().items())
    assert (after[0].weight == before["0.weight"]).all() and (after[2].weight != before["2.weight"]).all()
    assert after[0].weight.dtype == torch.float64


def test_running_averages_do_not_make_the_loss_depend_on_the_past():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).double()
    found = flow(model, regression(), torch.tensor([0.0, 1.0]))
    assert float(found.series.loss[1]) < float(found.series.loss[0])
    assert int(found.at(1.0)[1].num_batches_tracked) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"times": torch.tensor([1.0, 1.0])}, "times must be"),
        ({"times": torch.tensor([-1.0])}, "times must be"),
        ({"times": torch.tensor([math.inf])}, "times must be"),
        ({"method": "Euler"}, "method='Euler' is none of"),
        ({"observe": {"loss": lambda s: 0.0}}, "cannot be called 'loss'"),
        ({"loss": lambda network: network()}, "it must be one number"),
        ({"loss": lambda network: (network() * math.nan).sum()}, "not finite"),
        ({"loss": lambda network: (network() * torch.rand(2)).sum()}, "another one each time"),
        ({"loss": lambda network: -network().square().square().sum(), "rtol": 1e-4}, "could not be followed beyond t="),
    ],
)
def test_what_cannot_flow_is_refused(changes, message):
    arguments = {"model": Weights([1.0, 2.0]), "loss": bowl([1.0, 1.0]), "times": torch.tensor([1.0])} | changes
    with pytest.raises(InputError, match=message):
        flow(**arguments)


def test_a_network_without_parameters_is_refused():
    with pytest.raises(InputError, match="ReLU has no trainable parameter"):
        flow(nn.ReLU(), lambda network: network(torch.ones(1)).sum(), torch.tensor([1.0]))
    with pytest.raises(InputError, match="must be positive"):
        descent(Weights([1.0]), bowl([1.0]), 0.0, 5)
