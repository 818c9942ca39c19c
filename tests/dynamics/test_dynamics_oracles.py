"""Tangent dynamics where the answer is known: the logistic map and a quadratic (two-phase sheet, checks 7 and 8).

Gradient descent with lr 1 on r θ³/3 + (1 − r) θ²/2 is θ → r θ (1 − θ). At r = 4, θ = sin²φ doubles the angle, so that

    |dθ_n / dθ_0| = 2ⁿ √(θ_n (1 − θ_n)) / √(θ_0 (1 − θ_0))

exactly, for every n: a check of each step, and not only of the limit ln 2. (The limit itself: `lyapunov_exponents` gave
0.6932 in 20,000 steps from θ_0 = 0.3, which take minutes; the sheet says 0.69310.)
"""

import math
from functools import partial

import pytest
import torch
from potentials import Number, Potential, logistic

from learndyn.dynamics import adjoint_norms, fork, lyapunov_exponents, start, tangent_growth, train
from learndyn.dynamics.tangent import pull, push, record
from learndyn.errors import InputError
from learndyn.laws import log_growth

ONE = torch.ones(1, 1, dtype=torch.float64)


def orbit(state, steps):
    return train(fork(state), steps, {"value": lambda state: state.model.value}).series["value"].values[:, 0].tolist()


def test_gradient_descent_is_the_logistic_map():
    expected = [0.3]
    for _ in range(30):
        expected.append(3.7 * expected[-1] * (1 - expected[-1]))
    # Rounding grows as e^{0.35 n}, to 1e-11 after 30 steps.
    assert orbit(logistic(3.7, 0.3), 30) == pytest.approx(expected, abs=1e-9)


def test_every_step_of_the_chaotic_orbit():
    state, steps = logistic(4.0, 0.3), 60
    exact = [n * math.log(2) + 0.5 * math.log(x * (1 - x) / 0.21) for n, x in enumerate(orbit(state, steps))]
    # A rounding error of the orbit counts as ulp / distance to the critical point, once a step.
    assert tangent_growth(state, steps, ONE)[0].tolist() == pytest.approx(exact, abs=1e-11)


@pytest.mark.parametrize(
    ("r", "value", "exponent"),
    [(4.0, 0.3, math.log(2)), (3.2, None, 0.5 * math.log(0.16)), (2.5, 0.6, math.log(0.5))],
    ids=["chaos", "cycle of two", "fixed point"],
)
def test_exponents_of_the_logistic_map(r, value, exponent):
    """ln 2; −0.9163, as the cycle of two has the multiplier 4 + 2r − r²; −0.6931 = ln |2 − r| at θ = 1 − 1/r.

    The exponent is that of (δθ, δm) together. Without momentum δm_n = L″(θ_{n−1}) δθ_{n−1} feeds nothing back, but it
    counts in the last norm: an offset of order 1 / steps, known exactly.
    """
    value = (r + 1 + math.sqrt((r - 3) * (r + 1))) / (2 * r) if value is None else value
    state, steps = logistic(r, value), 60
    found = lyapunov_exponents(state, steps, count=1, every=7).item()
    before, last = orbit(state, steps)[-2:]
    slope = r * (1 - 2 * before)
    product = exponent * steps + (0.5 * math.log(last * (1 - last) / (value * (1 - value))) if r == 4 else 0.0)
    offset = 0.5 * math.log(1 + ((1 - slope) / slope) ** 2)
    assert found == pytest.approx((product + offset) / steps, rel=1e-9)
    assert found == pytest.approx(exponent, abs=3 / steps)


def quadratic(h, value=1.0):
    task = Potential(lambda x: h * x**2 / 2)
    return start(task, Number(value), partial(torch.optim.SGD, lr=0.1, momentum=0.9))


@pytest.mark.parametrize(("h", "factor"), [(1.0, -0.0666802), (39.0, 3.2444e6)])
def test_fifty_steps_of_momentum_on_a_quadratic(h, factor):
    state = quadratic(h)
    assert tangent_growth(state, 50, ONE)[0, -1].exp().item() == pytest.approx(abs(factor), rel=2e-5)

    tape, scratch = record(fork(state), 50), fork(state)
    rows = (ONE, torch.zeros_like(ONE))
    for point in tape:
        rows = push(scratch, point, rows)
    assert rows[0].item() == pytest.approx(factor, rel=2e-5)  # the sheet's digits
    # The map is linear: the run itself moves by the same factor.
    assert rows[0].item() == pytest.approx(train(fork(state), 50).state.model.value.item(), rel=1e-11)

    rows = (ONE, torch.zeros_like(ONE))
    for point in reversed(tape):
        rows = pull(scratch, point, rows)
    assert rows[0].item() == pytest.approx(factor, rel=2e-5)  # the θθ block is one number: its own transpose


@pytest.mark.parametrize(("h", "modulus"), [(37.9, 0.94868), (38.0, 1.0), (38.1, 1.0646)])
def test_the_edge_of_stability(h, modulus):
    """Largest modulus of the step's 2x2 Jacobian: 1 at h = 2(1 + μ)/η = 38."""
    state = train(quadratic(h), 1).state  # from the second step on there is a momentum buffer to perturb
    (point,) = record(fork(state), 1)
    unit = torch.eye(2, dtype=torch.float64)
    theta, momentum = push(state, point, (unit[:, :1], unit[:, 1:]))
    jacobian = torch.cat([theta, momentum], dim=1).T
    eta, mu = 0.1, 0.9
    torch.testing.assert_close(jacobian, torch.tensor([[1 - eta * h, -eta * mu], [h, mu]], dtype=torch.float64))
    assert torch.linalg.eigvals(jacobian).abs().max().item() == pytest.approx(modulus, abs=1e-4)  # the sheet's digits


def test_the_exponent_beyond_the_edge_of_stability():
    """At h = 39 the modes are −1 ± √0.1; from step 20 on, the smaller one has died away as 0.5195^20 = 2e-6."""
    once, twice = (steps * lyapunov_exponents(quadratic(39.0), steps, count=1).item() for steps in (20, 30))
    assert (twice - once) / 10 == pytest.approx(math.log(1 + 0.1**0.5), abs=1e-6)
    with pytest.raises(InputError, match="every=6 must lie between 1 and the 5 steps"):
        lyapunov_exponents(quadratic(1.0), 5, count=1, every=6)


def test_a_growth_beyond_float64_is_infinite():
    """A millionfold growth a step, from an unstable fixed point that the run itself never leaves."""
    state = quadratic(1e7, value=0.0)
    norms = adjoint_norms(lambda step: state, [0], [0, 40, 60], 60, probes=1)
    growth = log_growth(norms, 1)
    assert growth[0] == math.inf and growth[2] == 0
    # Modes z² − (1.9 − 1e6) z + 0.9 = 0: |z| = 1e6 − 1.9; the start is along it but for 1e-6.
    assert growth[1].item() == pytest.approx(20 * math.log(1e6), abs=1e-3)
