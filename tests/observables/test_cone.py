"""Cone statistics: oracles with known motion (sheet two-phase, 5.11), and geometry that can be worked out by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learndyn.errors import InputError
from learndyn.observables import cone

STEPS = list(range(0, 600, 10))


def series(kind, seed=0, count=60, size=2000):
    """Points whose directions move as the name says."""
    draw = np.random.default_rng(seed)
    fixed = draw.standard_normal(size)
    fixed /= np.linalg.norm(fixed)
    noise = 0.002 * draw.standard_normal((count, size))
    if kind == "jitter":
        moves = noise
    elif kind == "walk":
        moves = noise.cumsum(0)
    elif kind == "straight":
        moves = np.outer(np.arange(count), noise[0]) / 10
    else:  # Ornstein-Uhlenbeck, stationary
        moves = noise.copy()
        for t in range(1, count):
            moves[t] = 0.8 * moves[t - 1] + math.sqrt(1 - 0.8**2) * noise[t]
    return torch.from_numpy(fixed + moves)


def gram_of(points):
    return points @ points.T


@pytest.mark.parametrize(
    ("kind", "exponent", "within"),
    [("jitter", 0.0, 0.02), ("walk", 1.0, 0.1), ("straight", 2.0, 0.02), ("bound", 0.49, 0.15)],
)
def test_structure_exponent(kind, exponent, within):
    found = [float(cone.structure_exponent(gram_of(series(kind, seed)), STEPS)) for seed in range(4)]
    assert abs(np.mean(found) - exponent) < within


def test_saturation_of_bound_motion():
    """S(dt) of an Ornstein-Uhlenbeck direction is limit · (1 − ρ^dt), and ρ = 0.8 is 10 steps / 4.48 in time."""
    gram = sum(gram_of(series("bound", seed)) for seed in range(8)) / 8
    found = cone.saturation(*cone.structure_function(gram, STEPS))
    assert found.time == pytest.approx(10 / -math.log(0.8), rel=0.15)
    assert cone.saturation(*cone.structure_function(gram_of(series("straight")), STEPS)).limit == math.inf


def test_the_null_tells_a_cone_from_a_walk():
    caught = cone.random_walks(gram_of(series("bound")), STEPS)
    free = [cone.random_walks(gram_of(series("walk", seed)), STEPS, seed=seed, count=99) for seed in range(10)]
    assert caught.p_exponent == caught.p_angle == 1 / 200
    assert float(caught.exponents.mean()) == pytest.approx(1.0, abs=0.1)
    assert sum(null.p_exponent <= 0.1 for null in free) <= 4  # 1 expected; 5 or more have a probability of 0.2 %
    assert sum(null.p_angle <= 0.1 for null in free) <= 4


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(3, 8), st.floats(0.1, 10.0))
def test_directions_only(seed, count, scale):
    """Scales do not matter; distances are ½ ‖Ĥ − Ĥ′‖²; angles obey the triangle inequality."""
    draw = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 12, generator=draw, dtype=torch.float64).abs()
    unit = points / points.norm(dim=1, keepdim=True)
    gram = gram_of(points * torch.linspace(1, 1 + scale, count, dtype=torch.float64)[:, None])
    truth = 0.5 * (unit[:, None] - unit).square().sum(2)
    assert torch.allclose(cone.kernel_distances(gram), truth, atol=1e-14)
    mean = unit.mean(0) / unit.mean(0).norm()
    assert torch.allclose(cone.cone_angles(gram).cos(), unit @ mean, atol=1e-12)
    assert cone.angle_from(gram).cos() == pytest.approx(float(unit[0] @ mean), abs=1e-12)
    centred = unit - unit.mean(0)
    values = torch.linalg.svdvals(centred) ** 2
    assert cone.effective_dimension(gram) == pytest.approx(float(values.sum() ** 2 / values.square().sum()), rel=1e-9)
    where, share = cone.embedding(gram, dimensions=count)
    assert share == pytest.approx(1.0) and torch.allclose(where @ where.T, unit @ unit.T, atol=1e-12)
    assert torch.allclose(where[0, 1:], torch.zeros(where.shape[1] - 1, dtype=torch.float64), atol=1e-12)
    angle, _ = cone.polar(gram)
    assert torch.allclose(angle[1:].cos(), unit[1:] @ unit[0], atol=1e-12)


def test_a_circle_in_the_plane():
    """Three directions 10° apart: half-angle 10°, one dimension but for its bend, 20° from the first to the last."""
    at = torch.deg2rad(torch.tensor([0.0, 10.0, 20.0], dtype=torch.float64))
    gram = gram_of(torch.stack([at.cos(), at.sin()], dim=1))
    assert torch.rad2deg(cone.cone_angles(gram)).tolist() == pytest.approx([10, 0, 10], abs=1e-6)
    assert float(torch.rad2deg(cone.angle_from(gram))) == pytest.approx(10)
    assert 1 < float(cone.effective_dimension(gram)) < 1.01


def test_bad_input():
    gram = gram_of(series("walk"))
    with pytest.raises(InputError, match="at least 3"):
        cone.cone_angles(gram, slice(0, 2))
    with pytest.raises(InputError, match="evenly spaced"):
        cone.structure_exponent(gram, [*STEPS[:-1], 1000])
    gram[3] = gram[:, 3] = 0
    with pytest.raises(InputError, match="Kernel 3 of the series has the norm 0"):
        cone.kernel_distances(gram)
