"""Distances between networks, against brute force and closed forms."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from learndyn.dynamics import displace, fork, start, trainable, vector
from learndyn.observables import (
    decisions,
    disagreement,
    dissimilarity,
    distance,
    error,
    function_distance,
    log_growth,
    loss,
    relative_distance,
)
from learndyn.tasks import Batch, Supervised

SGD = partial(torch.optim.SGD, lr=0.1)


def holding(values, task=None):
    """A state whose weights are a given vector."""
    values = torch.as_tensor(values, dtype=torch.float64)
    model = nn.Linear(len(values), 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(values[None])
    blank = Batch(torch.zeros(1, len(values)).double(), torch.zeros(1, 1).double())
    return start(task or Supervised(blank, blank, 1, criterion=nn.functional.mse_loss), model, SGD)


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9, 1e-12])
def test_dissimilarity_keeps_its_digits(size):
    """θ′ = θ + δ·n with n orthogonal to θ: C = 1 − 1/√(1 + δ²), ½ δ² for small δ. The sheet: 5.000e-19 at 1e-9."""
    base = torch.linspace(-1, 1, 272, dtype=torch.float64)
    normal = base.flip(0).abs() - 0.5
    normal -= base * (normal @ base) / (base @ base)
    moved = base + size * base.norm() * normal / normal.norm()
    exact = -math.expm1(-0.5 * math.log1p(size**2))
    # Rounding of the coordinates moves the direction by 1e-16, of the size itself at 1e-12: relative 1e-4.
    found = dissimilarity(holding(base), holding(moved)).item()
    assert found == pytest.approx(exact, rel=max(1e-9, 5e-16 / size))


def test_dissimilarity_of_opposite_and_orthogonal_vectors():
    assert dissimilarity(holding([1.0, 0.0]), holding([0.0, 3.0])).item() == pytest.approx(1, rel=1e-15)
    assert dissimilarity(holding([1.0, 2.0]), holding([-2.0, -4.0])).item() == pytest.approx(2, rel=1e-15)


# No numbers whose squares underflow.
NUMBERS = st.floats(-10, 10).map(lambda x: round(x, 9))
VECTORS = st.lists(NUMBERS, min_size=4, max_size=4).filter(lambda v: sum(x * x for x in v) > 1e-4)


@given(VECTORS, VECTORS, st.floats(0.1, 10))
def test_distances_against_plain_sums(first, second, scale):
    a, b = holding(first), holding(second)
    norms = [math.sqrt(sum(x * x for x in v)) for v in (first, second)]
    cosine = sum(x * y for x, y in zip(first, second)) / (norms[0] * norms[1])
    apart = math.dist(first, second)
    assert dissimilarity(a, b).item() == pytest.approx(1 - cosine, abs=1e-12)
    assert distance(a, b).item() == pytest.approx(apart, rel=1e-12, abs=1e-300)
    assert relative_distance(a, b).item() == pytest.approx(apart / norms[0], rel=1e-12, abs=1e-300)
    assert torch.equal(distance(a, b), distance(b, a)) and torch.equal(dissimilarity(a, b), dissimilarity(b, a))
    scaled = holding([scale * x for x in second])
    assert dissimilarity(a, scaled).item() == pytest.approx(dissimilarity(a, b).item(), abs=1e-14)
    if apart > 0:
        assert log_growth(a, b, scale).item() == pytest.approx(math.log(apart / scale), abs=1e-12)


def test_growth_of_nothing():
    a = holding([1.0, 2.0])
    assert log_growth(a, fork(a), 1e-7).item() == -math.inf
    assert log_growth(a, holding([1.0, 3.0]), 0.0).isnan()


def test_only_trainable_parameters_count_and_shared_ones_once():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(3, 3, dtype=torch.float64)
            self.same = self.one
            self.norm = nn.BatchNorm1d(3, dtype=torch.float64)
            self.frozen = nn.Linear(3, 3, dtype=torch.float64).requires_grad_(False)

        def forward(self, x):
            return self.frozen(self.norm(self.same(self.one(x))))

    blank = Batch(torch.zeros(2, 3).double(), torch.zeros(2, 3).double())
    state = start(Supervised(blank, blank, 2, criterion=nn.functional.mse_loss), Odd(), SGD)
    assert len(vector(state.model)) == 12 + 6
    twin, _ = displace(state, {n: torch.full_like(p, 0.5).detach() for n, p in trainable(state.model).items()})
    twin.model.norm.running_mean += 5
    with torch.no_grad():
        twin.model.frozen.weight += 5
    assert distance(state, twin).item() == pytest.approx(0.5 * math.sqrt(18), rel=1e-15)


class Table(nn.Module):
    """A network that looks its outputs up."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = nn.Parameter(outputs)

    def forward(self, rows):
        return self.outputs[rows[:, 0]]


def table(outputs, targets):
    rows = torch.arange(len(outputs))[:, None]
    split = Batch(rows, targets)
    return start(Supervised(split, split, len(rows)), Table(outputs), SGD)


@pytest.mark.parametrize("shape", [(6, 4), (3, 5, 4)])
def test_functions_against_double_loops(shape):
    """Class labels, some of them left out (-100), with and without a dimension of positions."""
    draw = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 4, shape[:-1], generator=draw)
    targets.view(-1)[2] = -100
    outputs = [torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2)]
    a, b = (table(o, targets) for o in outputs)
    apart, wrong, counted, nats, squares = 0, 0, 0, 0.0, []
    for first, second, target in zip(outputs[0].flatten(0, -2), outputs[1].flatten(0, -2), targets.flatten().tolist()):
        p, q = ([math.exp(x) / sum(math.exp(y) for y in row.tolist()) for x in row.tolist()] for row in (first, second))
        squares.append(sum((x - y) ** 2 for x, y in zip(p, q)))
        if target >= 0:
            apart += p.index(max(p)) != q.index(max(q))
            wrong += p.index(max(p)) != target
            nats -= math.log(p[target])
            counted += 1
    assert disagreement(a, b).item() == pytest.approx(apart / counted, rel=1e-12)
    assert error(a).item() == pytest.approx(wrong / counted, rel=1e-12)
    assert loss(a).item() == pytest.approx(nats / counted, rel=1e-12)
    assert function_distance(a, b).item() == pytest.approx(math.sqrt(sum(squares) / len(squares)), rel=1e-12)


def test_a_single_output_decides_by_its_sign():
    outputs = torch.tensor([[0.3], [-0.2], [0.0], [5.0]])
    assert decisions(outputs).tolist() == [1, 0, 0, 1]
    assert decisions(torch.tensor([[[1.0, 2.0]], [[3.0, 1.0]]])).tolist() == [[1], [0]]


def test_numbers_of_a_regression():
    draw = torch.Generator().manual_seed(1)
    outputs = [torch.randn(7, 2, generator=draw, dtype=torch.float64) for _ in range(2)]
    targets = torch.randn(7, 2, generator=draw, dtype=torch.float64)
    split = Batch(torch.arange(7)[:, None], targets)
    task = Supervised(split, split, 7, criterion=nn.functional.mse_loss)
    a, b = (start(task, Table(o.clone()), SGD) for o in outputs)
    assert error(a).isnan() and disagreement(a, b).isnan()
    assert loss(a).item() == pytest.approx((outputs[0] - targets).square().mean().item(), rel=1e-14)
    exact = (outputs[0] - outputs[1]).square().sum(1).mean().sqrt()
    assert function_distance(a, b).item() == pytest.approx(exact.item(), rel=1e-14)
