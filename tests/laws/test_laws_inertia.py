"""Noether's learning dynamics against heavy ball, Lagrange's equations, and simulated noise on the sphere."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from learndyn.errors import InputError
from learndyn.laws import inertia as law
from learndyn.laws.charges import discrete, translation_discrete


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


# Heavy ball


def heavy_ball(steps, lr, decay, beta, dampening=0.0, seed=0):
    """torch.optim.SGD with gradients that leave Σ w θ² and Σ φ alone: both charges, N(step), all parameters θ."""
    weight = torch.sign(draw(6, seed=seed)) * (1 + draw(6, seed=seed + 1).abs())
    theta, phi = draw(6, seed=seed + 2).requires_grad_(), draw(4, seed=seed + 3).requires_grad_()
    optimizer = torch.optim.SGD([theta, phi], lr=1.0, momentum=0.5, foreach=False)
    path, linear = [theta.detach().clone()], [phi.sum().item()]
    for k in range(steps):
        optimizer.param_groups[0].update(lr=lr[k], weight_decay=decay[k], momentum=beta[k], dampening=dampening)
        normal = weight * theta.detach()
        slope = draw(6, seed=seed + 4 + k)
        theta.grad = slope - (slope @ normal) / (normal @ normal) * normal
        phi.grad = draw(4, seed=seed + 4 + k)
        phi.grad -= phi.grad.mean()
        optimizer.step()
        path.append(theta.detach().clone())
        linear.append(phi.detach().sum().item())
    path = torch.stack(path)
    return {
        "path": path,
        "weight": weight,
        "charges": (weight * path.square()).sum(1, keepdim=True),
        "squares": (weight * path.diff(dim=0).square()).sum(1, keepdim=True),
        "linear": tensor(linear)[:, None],
    }


def test_mass_and_friction():
    assert law.mass(0.1, 0.9) == pytest.approx(0.095) and law.mass(0.1) == 0.05
    assert law.friction(0.9) == pytest.approx(0.1) and law.friction() == 1
    # rest of a velocity after a step: e^{−μη/m} ≈ β
    for beta in (0.9, 0.99, 0.999):
        kept = math.exp(-law.friction(beta) * 0.1 / law.mass(0.1, beta))
        assert kept == pytest.approx(beta, abs=0.2 * (1 - beta) ** 3)


@pytest.mark.parametrize("beta", [0.0, 0.9])
def test_the_charge_of_two_charges_is_that_of_the_middle_of_the_step(beta):
    lr, log = 0.3, heavy_ball(8, [0.3] * 8, [0.1] * 8, [beta or 1e-9] * 8)
    found = law.noether_charge(log["charges"], beta)[:, 0]
    kinetic = law.euclidean(law.mass(lr, beta))
    for k in range(8):
        old, new = log["path"][k], log["path"][k + 1]
        exact = law.momentum_along(kinetic, lambda q: log["weight"] * q, (old + new) / 2, (new - old) / lr)
        assert found[k].item() == pytest.approx(exact.item(), rel=1e-10, abs=1e-13)
        ones = law.momentum_along(kinetic, torch.ones_like, (old + new) / 2, (new - old) / lr)
        sums = law.noether_charge(log["path"].sum(1, keepdim=True), beta, linear=True)
        assert sums[k, 0].item() == pytest.approx(ones.item(), rel=1e-10, abs=1e-13)


share = st.floats(0.01, 0.99)
STEPS = 10


@settings(deadline=None, max_examples=25)
@given(st.data(), st.integers(0, 1000), st.booleans())
def test_the_balanced_scheme_is_heavy_ball(data, seed, constant):
    """Residual at rounding, with any schedule; damped, η(1 − τ) is the learning rate."""
    once = 1 if constant else STEPS
    lr, decay, beta = (
        data.draw(st.lists(v, min_size=once, max_size=once)) * (STEPS // once)
        for v in (st.floats(0.01, 0.5), st.floats(0, 0.5), share)
    )
    tau = data.draw(st.one_of(st.just(0.0), share))
    log = heavy_ball(STEPS, lr, decay, beta, tau, seed)
    eta, lam, b = tensor(lr) * (1 - tau), tensor(decay), tensor(beta)
    for charges, squares in ((log["charges"], log["squares"]), (log["linear"], None)):
        terms = law.nld_terms(charges, eta, lam, b, squares)
        size = 1 + sum(float(t.abs().max()) for t in terms) + float(charges.abs().max() / eta.min())
        assert terms.residual.abs().max() < 1e-12 * size
        measured = law.noether_charge(charges, b, linear=squares is None)
        central = law.nld(measured[0], terms.drive, eta, b, scheme="central")
        assert (central - measured).abs().max() < 1e-11 * size
    if constant:
        equal = law.nld_terms(log["charges"], eta, lam, b, log["squares"], balanced=False)
        off = (1 - beta[0]) / (4 * eta[0]) * (log["squares"][1:] - log["squares"][:-1])
        assert torch.allclose(equal.residual, off, rtol=0, atol=1e-12 * size)


def test_the_terms_are_those_of_the_equation():
    """At constant settings, every term as written: (m/2η)ΔC over η, (μ/m) times their mean, m N/η², λC."""
    log, lr, decay, beta = heavy_ball(6, [0.2] * 6, [0.3] * 6, [0.7] * 6), 0.2, 0.3, 0.7
    terms, m = law.nld_terms(log["charges"], lr, decay, beta, log["squares"]), law.mass(lr, beta)
    charge = m / (2 * lr) * log["charges"].diff(dim=0)
    assert torch.allclose(law.noether_charge(log["charges"], beta), charge)
    assert torch.allclose(terms.inertia, charge.diff(dim=0) / lr)
    assert torch.allclose(terms.friction, law.friction(beta) / m * (charge[1:] + charge[:-1]) / 2)
    energy = m * log["squares"] / lr**2
    assert torch.allclose(terms.asymmetry, (energy[1:] + beta * energy[:-1]) / (1 + beta))
    assert torch.allclose(terms.decay, decay * log["charges"][1:-1])


def test_the_exponential_integrator_solves_the_equation_for_a_drive_that_stands_still():
    lr, beta, drive = 0.2, 0.8, tensor([[0.7, -0.3]])
    m, mu = law.mass(lr, beta), law.friction(beta)
    found = law.nld(tensor([1.0, 2.0]), drive.expand(30, -1), lr, beta)
    times = lr * torch.arange(31).double()[:, None]
    fall = torch.exp(-mu / m * times)
    assert torch.allclose(found, fall * tensor([1.0, 2.0]) + (1 - fall) * m / mu * drive, rtol=1e-12)
    rates = law.nld(tensor([1.0]), torch.zeros(1, 1), tensor([0.1, 0.3]), 0.5)  # 𝒬/m goes on when η jumps
    assert rates[1].item() == pytest.approx(3 * math.exp(-0.5 * 0.4 / (0.3 + 0.05)))


@pytest.mark.parametrize("beta", [0.9, 0.99])
def test_the_exponential_integrator_is_near_heavy_ball(beta):
    steps = 400
    log = heavy_ball(steps, [0.05] * steps, [0.02] * steps, [beta] * steps)
    terms = law.nld_terms(log["charges"], 0.05, 0.02, beta, log["squares"])
    measured = law.noether_charge(log["charges"], beta)
    for scheme, limit in (("exponential", 0.1 * (1 - beta)), ("central", 1e-11)):
        found = law.nld(measured[0], terms.drive, 0.05, beta, scheme)
        assert (found - measured).norm() / measured.norm() < limit
    assert (found[-1] - measured[0]).abs() > 0.1 * measured[0].abs()


@pytest.mark.parametrize("kind", ["quadratic", "linear"])
def test_the_recursion_of_charges_is_the_same_law(kind):
    """`charges.discrete` with random squares has no residual here: five digits more than measured."""
    lr, decay, beta = 0.1, 0.05, 0.9
    squares = draw(50, 3).square() if kind == "quadratic" else None
    q0 = draw(3, seed=1)
    path = translation_discrete(q0, 50, lr, decay, beta) if squares is None else discrete(q0, squares, lr, decay, beta)
    terms = law.nld_terms(path, lr, decay, beta, squares)
    assert terms.residual.abs().max() < 5e-12 * terms.drive.abs().max()


# Lagrange's equations for any kinetic energy

SYMMETRIES = {
    # generator, loss with this symmetry, start
    "scale": (lambda q: q, lambda q: (q @ tensor([1.0, -2.0, 0.5])) ** 2 / (q @ q), [1.0, 0.7, -1.2]),
    "rescale": (
        lambda q: q * tensor([1.0, -1.0, 0.0]),
        lambda q: (q[0] * q[1] - 2 * q[2]) ** 2 + (q[2] - 1) ** 2,
        [1.0, 0.7, -1.2],
    ),
    "translation": (
        lambda q: tensor([1.0, 1.0, 0.0]),
        lambda q: torch.cos(q[0] - q[1]) * q[2] + q[2] ** 2,
        [1.0, 0.7, -1.2],
    ),
    "rotation": (
        lambda q: torch.stack([-q[1], q[0], 0 * q[2]]),
        lambda q: (q[0] ** 2 + q[1] ** 2 - q[2]) ** 2,
        [1.0, 0.7, -1.2],
    ),
}
M = law.mass(0.5, 0.6)
KINETIC = {
    "euclid": law.euclidean(M),
    "layers": law.layerwise(tensor([0.5, 0.5, 2.0]), M),
    "adam": law.adam(tensor([0.5, 2.0, 0.8]) ** 2, 1e-3, M),
    "multiplicative": law.multiplicative(M),
    "curved": lambda q, v: M / 2 * ((1 + q.square().sum()) * v.square().sum() + (q @ v) ** 2),
}


@pytest.mark.parametrize(
    ("kind", "symmetry"),
    [(kind, symmetry) for kind in KINETIC for symmetry in ("scale", "rescale")]
    + [("euclid", "rotation"), ("adam", "rotation"), ("multiplicative", "translation"), ("curved", "translation")],
)
def test_the_charge_obeys_noethers_learning_dynamics(kind, symmetry):
    """Euler–Lagrange of e^{(μ/m)t}(T − f − (λ/2)|q|²), and next to it equation (1) for the charge alone."""
    generator, loss, start = SYMMETRIES[symmetry]
    kinetic, mu, decay = KINETIC[kind], law.friction(0.6), 0.3

    def field(_, state):
        q, v, charge = tensor(state[:3]), tensor(state[3:6]), state[6]
        slope = torch.func.grad(loss)(q) + decay * q
        by_q = torch.func.grad(kinetic)(q, v)
        by_v = torch.func.grad(kinetic, 1)
        # d/dt ∂T/∂q̇ = (∂²T/∂q̇²) q̈ + (∂²T/∂q̇∂q) q̇
        metric = torch.func.jacfwd(by_v, 1)(q, v)
        turned = torch.func.jvp(lambda x: by_v(x, v), (q,), (v,))[1]
        push = torch.linalg.solve(metric, by_q - slope - mu / M * by_v(q, v) - turned)
        asymmetry = law.kinetic_asymmetry(kinetic, generator, q, v)
        rate = -mu / M * charge + asymmetry.item() - decay * (q @ generator(q)).item()
        return np.concatenate([v.numpy(), push.numpy(), [rate]])

    q, v = tensor(start), tensor([0.3, -0.1, 0.2])
    first = law.momentum_along(kinetic, generator, q, v).item()
    end = solve_ivp(field, (0, 0.1), np.concatenate([q, v, [first]]), method="DOP853", rtol=1e-7, atol=1e-9).y[:, -1]
    last = law.momentum_along(kinetic, generator, tensor(end[:3]), tensor(end[3:6])).item()
    assert last == pytest.approx(end[6], abs=1e-6)
    assert abs(last - first) > 1e-3


EXACT = {
    ("euclid", "scale"): 1,
    ("euclid", "translation"): 0,
    ("euclid", "rotation"): 0,
    ("layers", "scale"): 1,
    ("layers", "translation"): 0,
    ("layers", "rotation"): 0,  # the two coordinates share a learning rate
    ("adam", "scale"): 1,
    ("adam", "translation"): 0,  # of the frozen metric
    ("multiplicative", "scale"): 0,
    ("multiplicative", "rescale"): 0,
}


@pytest.mark.parametrize("seed", range(3))
def test_which_kinetic_energy_has_which_symmetry(seed):
    q, v = draw(3, seed=seed), draw(3, seed=seed + 9)
    for (kind, symmetry), kappa in EXACT.items():
        generator = SYMMETRIES[symmetry][0]
        assert law.relative_asymmetry(KINETIC[kind], generator, q, v).item() == pytest.approx(kappa, abs=1e-13)
    for kind, symmetry in (("multiplicative", "translation"), ("adam", "rotation"), ("curved", "scale")):
        assert law.relative_asymmetry(KINETIC[kind], SYMMETRIES[symmetry][0], q, v) > 1e-3
    a, b, c = v.square().tolist()
    for kind, first, second in (("euclid", 1, 1), ("layers", 2, 2), ("adam", 0.501, 2.001)):
        found = law.kinetic_asymmetry(KINETIC[kind], SYMMETRIES["rescale"][0], q, v)
        assert found.item() == pytest.approx(M * (first * a - second * b), rel=1e-12)
        found = law.relative_asymmetry(KINETIC[kind], SYMMETRIES["rescale"][0], q, v)
        assert found.item() == pytest.approx(abs(first * a - second * b) / (first * a + second * b), rel=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from(sorted(KINETIC)))
def test_asymmetry_is_the_change_under_a_small_transformation(seed, kind):
    """A bent generator: T(q + sX, q̇ + s ∂X q̇) by central differences."""
    q, v, a = 1 + draw(3, seed=seed).abs(), draw(3, seed=seed + 1), draw(3, 3, seed=seed + 2)

    def generator(x):
        return a @ x.sin() + x * (x @ x)

    turn = torch.func.jacfwd(generator)(q) @ v
    s = 1e-5
    ends = [KINETIC[kind](q + e * s * generator(q), v + e * s * turn).item() for e in (-1, 1)]
    found = law.kinetic_asymmetry(KINETIC[kind], generator, q, v).item()
    size = abs(ends[0]) / s
    assert found == pytest.approx((ends[1] - ends[0]) / (2 * s), rel=1e-6, abs=1e-9 * size + 1e-6)


def test_asymmetry_of_what_takes_part():
    q, v = draw(2, 3), draw(2, 3, seed=1)
    mask = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    scale = lambda x: x * mask  # noqa: E731
    assert law.relative_asymmetry(law.euclidean(), scale, q, v).item() == pytest.approx(1)
    whole = law.relative_asymmetry(law.euclidean(), scale, q, v, mask=torch.ones(2, 3))
    assert whole.item() == pytest.approx(((mask * v).square().sum() / v.square().sum()).item())
    assert law.relative_asymmetry(law.euclidean(), scale, q, v * (1 - mask)).isnan()
    assert law.kinetic_asymmetry(law.euclidean(), scale, q.float(), v.float()).dtype == torch.float64


# Implicit RMSProp


@pytest.mark.parametrize(
    ("settings_", "rho", "angle", "memory"),
    [
        ((0.1, 5e-4, 0.9), 0.998, 7.2548e-3, 500),
        ((0.1, 1e-4, 0.9), 0.9996, 3.2444e-3, 2500),
        ((0.1, 5e-4, 0.0), 0.9998, 0.01, 5000),
    ],
)
def test_constants_of_everyday_settings(settings_, rho, angle, memory):
    found = law.rmsprop(*settings_)
    assert (found.rho, found.memory) == pytest.approx((rho, memory), rel=1e-12)
    assert found.lr == pytest.approx(angle, rel=1e-4) and law.equilibrium_angle(*settings_) == found.lr
    lr, decay, beta = settings_
    white = law.rmsprop(*settings_, memory_factor=(1 - beta) / (1 + beta))
    assert white.lr == pytest.approx(math.sqrt(2 * lr * decay / (1 - beta))) and white.rho == found.rho


def test_without_decay_it_is_adagrad():
    assert law.rmsprop(0.1, 0.0, 0.9) == (1, 0, math.inf)
    squares = draw(100, 2).square()
    found = law.fourth_power(torch.ones(2), squares, 0.1, 0.0, 0.5, 0.7)
    sums = 1 + 2 * 0.1**2 * 1.5 / 0.5**3 * 0.7 * squares.cumsum(0)
    assert torch.allclose(found[1:], sums, rtol=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.floats(1e-3, 0.5), st.floats(1e-4, 0.1), st.floats(0, 0.7), st.floats(0.05, 2), st.integers(0, 99))
def test_the_norm_is_rmsprops_running_mean(lr, decay, beta, phi, seed):
    """v of |q|⁴ runs as v ← ρv + (1 − ρ)|ĝ|², and η_RMS/√v is η/(μ|q|²)."""
    squares, q0 = draw(20, 3, seed=seed).square(), 0.5 + draw(3, seed=seed + 1).abs()
    fourth = law.fourth_power(q0, squares, lr, decay, beta, phi)
    constants, v = law.rmsprop(lr, decay, beta, phi), law.second_moment(fourth, lr, decay, beta, phi)
    for k in range(20):
        assert torch.allclose(v[k + 1], constants.rho * v[k] + (1 - constants.rho) * squares[k], rtol=1e-10)
    assert torch.allclose(constants.lr / v.sqrt(), law.effective_lr(fourth.sqrt(), lr, beta), rtol=1e-10)


def test_the_recursion_goes_to_its_differential_equation():
    """d|q|⁴/dt = −(4λ/μ)|q|⁴ + (4mϕ/μ³)|ĝ|², m with the η of the step: with η → 0, forcing kept by its size."""
    errors = []
    for steps in (100, 200, 400):
        lr, decay, beta = 2.0 / steps, 0.3, 0.5
        force = tensor([1 + math.sin(lr * k) for k in range(steps)]) / lr
        found = law.fourth_power(torch.ones(1), force[:, None], lr, decay, beta, 0.8)[-1].item()
        gain = 4 * law.mass(lr, beta) * 0.8 / law.friction(beta) ** 3 / lr
        exact = solve_ivp(
            lambda t, p, g=gain: -4 * 0.3 / 0.5 * p + g * (1 + math.sin(t)), (0, 2), [1.0], rtol=1e-11, atol=1e-12
        )
        errors.append(abs(found / exact.y[0, -1] - 1))
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1) and errors[1] / errors[2] == pytest.approx(2, rel=0.1)
    assert errors[2] < 5e-3


def sphere(steps, lr, decay, beta, channels, seed=0, memory=0.0, size=50):
    """SGD on weights in front of a normalisation: gradients ⟂ q of length 1/|q| times noise with some memory."""
    random = np.random.default_rng(seed)
    q, b, noise = random.normal(size=(channels, size)) / math.sqrt(size), 0.0, 0.0
    log = {k: [] for k in ("q", "g", "b", "d", "angle")}
    for _ in range(steps):
        noise = memory * noise + math.sqrt(1 - memory**2) * random.normal(size=q.shape) / math.sqrt(size)
        square = (q * q).sum(1, keepdims=True)
        g = (noise - (noise * q).sum(1, keepdims=True) / square * q) / np.sqrt(square)
        b = beta * b + g + decay * q
        new = q - lr * b
        directions = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (q, new)]
        angle = 2 * np.arcsin(np.linalg.norm(directions[1] - directions[0], axis=1) / 2)
        for name, value in zip(log, (square[:, 0], (g * g).sum(1), (b * b).sum(1), lr**2 * (b * b).sum(1), angle)):
            log[name].append(value)
        q = new
    return {k: torch.from_numpy(np.stack(v)) for k, v in log.items()}


@pytest.fixture(scope="module")
def white():
    lr, decay, beta = 0.05, 0.02, 0.9
    return lr, decay, beta, sphere(3000, lr, decay, beta, channels=8)


def test_without_momentum_the_effective_learning_rate_is_rmsprops():
    lr, decay = 0.1, 5e-3
    log = sphere(1000, lr, decay, 0.0, channels=8)
    fourth = law.fourth_power(log["q"][0], (log["q"] * log["g"])[:-1], lr, decay)
    measured, found = lr / log["q"], law.effective_lr(fourth.sqrt(), lr)
    assert (found / measured - 1).abs().max() < 5e-3
    assert (measured[-1] / measured[0] - 1).abs().min() > 0.5  # it has moved


def test_with_momentum_the_memory_of_the_gradient_counts(white):
    """White noise: ϕ → (1−β)/(1+β), and |q|² within a few per cent; with ϕ = 1 four times too large."""
    lr, decay, beta, log = white
    phi = law.memory_factor(log["b"], log["g"], beta)
    assert phi[-1000:].mean().item() == pytest.approx((1 - beta) / (1 + beta), rel=0.05)
    force = log["q"] * log["g"]
    found = law.fourth_power(log["q"][0], force[:-1], lr, decay, beta, phi[:-1]).sqrt()
    assert (found[-1000:] / log["q"][-1000:]).mean().item() == pytest.approx(1, abs=0.04)
    wrong = law.fourth_power(log["q"][0], force[:-1], lr, decay, beta).sqrt()
    assert (wrong[-1000:] / log["q"][-1000:]).mean().item() == pytest.approx(math.sqrt(19), rel=0.1)
    settled = law.equilibrium_norm(force[-1000:].mean(0), lr, decay, beta, phi[-1000:].mean(0))
    assert (settled / log["q"][-1000:].mean(0)).mean().item() == pytest.approx(1, abs=0.04)


def test_the_angle_at_equilibrium_does_not_know_the_gradients(white):
    lr, decay, beta, log = white
    last = slice(-1500, None)
    angle = log["angle"][last].square().mean().sqrt().item()
    assert angle == pytest.approx(law.equilibrium_angle(lr, decay, beta), rel=0.02)
    balance = 2 * lr * decay * log["q"][last].mean() / ((1 + beta) * log["d"][last].mean())
    assert balance.item() == pytest.approx(1, abs=0.02)
    coloured = sphere(3000, lr, decay, beta, channels=8, memory=0.8)
    angle = coloured["angle"][last].square().mean().sqrt().item()
    assert angle == pytest.approx(law.equilibrium_angle(lr, decay, beta), rel=0.03)
    assert coloured["q"][-1].mean() > 1.5 * log["q"][-1].mean()


def test_the_running_memory_factor():
    """Two exponential means by hand; constant gradients without decay have ϕ → 1."""
    beta, steps = 0.5, 300
    b2, g2 = draw(steps, 2).square(), draw(steps, 2, seed=1).square()
    for horizon, span in ((None, 50.0), (7.0, 7.0)):
        found = law.memory_factor(b2, g2, beta, horizon)
        above = below = torch.zeros(2)
        for k in range(steps):
            above, below = (1 - 1 / span) * above + 0.25 * b2[k], (1 - 1 / span) * below + g2[k]
            assert torch.allclose(found[k], above / below, rtol=1e-12)
    buffers = torch.cumsum(0.9 ** torch.arange(1000).double(), 0)[:, None].square()
    assert law.memory_factor(buffers, torch.ones(1000, 1), 0.9)[-1].item() == pytest.approx(1, abs=1e-6)
    wide = law.memory_factor(buffers, torch.ones(1000, 1), 0.99)  # horizon 500: the beginning is not forgotten
    assert wide[-1].item() == pytest.approx(law.memory_factor(buffers, torch.ones(1000, 1), 0.99, 500)[-1].item())
    assert law.memory_factor(torch.zeros(3, 1), torch.zeros(3, 1), 0.9).tolist() == [[1.0]] * 3


def test_equilibrium_is_where_the_norm_stands_still():
    lr, decay, beta, phi = 0.1, 0.01, 0.8, 0.3
    force = tensor([0.2, 3.0, 0.0])
    target = law.equilibrium_norm(force, lr, decay, beta, phi)
    found = law.fourth_power(torch.ones(3), force.expand(3000, -1), lr, decay, beta, phi)[-1].sqrt()
    assert torch.allclose(found, target, rtol=1e-10, atol=1e-10)
    # and the balance of charges says the same: λ|q|² = m ϕ|ĝ|²/(μ²|q|²)
    balance = law.mass(lr, beta) * phi * force[:2] / (law.friction(beta) ** 2 * target[:2])
    assert torch.allclose(decay * target[:2], balance, rtol=1e-12)


@pytest.mark.parametrize("within", [0.1, 0.5])
def test_time_to_equilibrium_is_counted_right(within):
    lr, decay, beta = 0.1, 0.01, 0.8
    force = tensor([0.2])
    target = law.equilibrium_norm(force, lr, decay, beta)
    starts = target * tensor([1e-3, 0.3, 0.8, 0.95, 1.04, 1.3, 3.0, 100.0])
    steps = law.steps_to_equilibrium(starts, target.expand(8), lr, decay, beta, within)
    path = law.fourth_power(starts, force.expand(2000, 8), lr, decay, beta).sqrt()
    off = (path / target - 1).abs() > within * (1 + 1e-12)
    last = torch.where(off.any(0), 2000 - off.flip(0).int().argmax(0) + 1, 0)
    assert steps.ceil().tolist() == last.tolist()
    assert steps.max() > 100 and steps.min() == 0
    far = law.steps_to_equilibrium(tensor([1e12]), tensor([1.0]), lr, 1e-5, beta).item()
    assert far == pytest.approx(0.2 / (2 * lr * 1e-5) * math.log(1e12), rel=0.04)


@pytest.mark.parametrize(("steps", "options"), [(100, {}), (300, {"momentum": 0.9})])
def test_equivalent_hyper_parameters_train_the_same_functions(steps, options):
    """Batch-normalised weights with (cη, λ/c, √c q), the rest as it is: losses and directions to rounding."""
    x, y = draw(300, 8, seed=1), draw(300, 1, seed=2)
    rows = torch.randint(0, 300, (steps, 32), generator=torch.Generator().manual_seed(0))
    runs = []
    for factor in (1.0, 9.0):
        lr, decay, w = law.equivalent_hparams(0.05, 0.02, draw(5, 8, seed=3), factor)
        w, out = w.requires_grad_(), draw(1, 5, seed=4).requires_grad_()
        groups = [{"params": [w], "lr": lr, "weight_decay": decay}, {"params": [out], "lr": 0.02}]
        optimizer, losses = torch.optim.SGD(groups, foreach=False, **options), []
        for k in range(steps):
            h = x[rows[k]] @ w.T
            h = ((h - h.mean(0)) / h.var(0).sqrt()).relu()
            loss = (h @ out.T - y[rows[k]]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        runs.append((losses, w.detach().square().sum(1), torch.nn.functional.normalize(w.detach())))
    (one, norm, direction), (other, large, turned) = runs
    assert other == pytest.approx(one, rel=1e-11)
    assert torch.allclose(large / norm, tensor([9.0] * 5), rtol=1e-11)
    assert (
        torch.allclose(direction, turned, atol=1e-11)
        and (norm / draw(5, 8, seed=3).square().sum(1) - 1).abs().min() > 0.05
    )


@pytest.mark.parametrize("beta1", [0.0, 0.9])
@pytest.mark.parametrize("drift", [0.0, -0.04])
def test_decoupled_decay_balances_as_said(beta1, drift):
    """θ ← (1−ηλ)θ − ηu, brute force, with gradients that push along θ by `drift`; time averages of q, N(u) and J."""
    lr, decay, steps = 0.05, 0.1, 10_000
    random = np.random.default_rng(0)
    noise = random.normal(size=(steps, 20))
    q, u, log = noise[0] / 3, np.zeros(20), []
    for k in range(steps):
        g = noise[k] - (noise[k] @ q) / (q @ q) * q + drift * q
        u = beta1 * u + (1 - beta1) * g
        log.append((q @ q, u @ u, q @ g))
        q = (1 - lr * decay) * q - lr * u
    mean = tensor(log)[1000:].mean(0)
    found = law.adamw_equilibrium(mean[1], lr, decay, beta1, mean[2]).item()
    assert found == pytest.approx(mean[0].item(), rel=5e-3)
    if drift == 0:
        angle = math.sqrt(lr**2 * mean[1].item() / found)
        assert angle == pytest.approx(law.adamw_angle(lr, decay, beta1), rel=0.06)
        near = lr * mean[1].item() * (1 + beta1) / (2 * decay * (1 - beta1))
        assert found == pytest.approx(near, rel=0.06)


def test_adamw_turns_by_less_than_its_bound():
    """torch.optim.AdamW on batch-normalised weights, mini-batches: the preconditioner pushes the norm up."""
    lr, decay, beta1 = 5e-3, 1.0, 0.9
    x, y = draw(500, 10, seed=1), draw(500, 3, seed=2)
    w, out = (0.07 * draw(6, 10, seed=3)).requires_grad_(), draw(3, 6, seed=4).requires_grad_()
    optimizer = torch.optim.AdamW(
        [{"params": [w], "lr": lr, "weight_decay": decay}, {"params": [out], "lr": 1e-3}],
        betas=(beta1, 0.99),
        foreach=False,
    )
    rows = torch.randint(0, 500, (700, 16), generator=torch.Generator().manual_seed(0))
    angles, log = [], []
    for k in range(700):
        h = x[rows[k]] @ w.T
        h = ((h - h.mean(0)) / h.var(0).sqrt()).relu()
        optimizer.zero_grad()
        (h @ out.T - y[rows[k]]).square().mean().backward()
        old, slope = w.detach().clone(), w.grad.clone()
        optimizer.step()
        one, two = (torch.nn.functional.normalize(v) for v in (old, w.detach()))
        angles.append(2 * torch.asin((two - one).norm(dim=1) / 2))
        u = ((1 - lr * decay) * old - w.detach()) / lr
        square = optimizer.state[w]["exp_avg_sq"] / (1 - 0.99 ** (k + 1))
        log.append(torch.stack([v.sum(1) for v in (old * old, u * u, old * slope / (square.sqrt() + 1e-8))]))
    angle = torch.stack(angles)[300:].square().mean().sqrt().item()
    bound = law.adamw_angle(lr, decay, beta1)
    assert 0.4 * bound < angle < 0.95 * bound
    q, squares, current = torch.stack(log)[300:].mean(0)
    assert current.max() < 0
    told = law.adamw_equilibrium(squares, lr, decay, beta1, current)
    blind = law.adamw_equilibrium(squares, lr, decay, beta1)
    assert ((told / q - 1).abs() < (blind / q - 1).abs()).all() and (told / q - 1).abs().max() < 0.12


# Bad input

ONE, TWO = torch.ones(3, 2).double(), torch.ones(2, 2).double()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: law.mass(0.0), "lr=0 must be positive and finite"),
        (lambda: law.friction(1.0), "momentum=1 must be at least 0 and below 1"),
        (lambda: law.noether_charge(torch.ones(3), 0.9), r"the shape \(times, charges\), not \(3,\)"),
        (lambda: law.nld_terms(TWO, 0.1, 0.0, 0.9), "2 times are no two steps"),
        (lambda: law.nld_terms(ONE, 0.0, 0.0, 0.9), "lr=0 must be positive"),
        (lambda: law.nld_terms(ONE, 0.1, 0.0, 0.9, ONE), r"squared_steps has shape \(3, 2\); expected \(2, 2\)"),
        (lambda: law.nld_terms(ONE * math.nan, 0.1, 0.0, 0.9), "The series is not finite at step 0"),
        (lambda: law.nld(torch.ones(2), ONE, 0.1, 0.9, "euler"), "There is no scheme 'euler'"),
        (lambda: law.nld(torch.ones(3), ONE, 0.1, 0.9), r"drive has shape \(3, 2\)"),
        (lambda: law.diagonal(torch.tensor([1.0, 0.0])), "diagonal of a metric must be positive"),
        (lambda: law.layerwise(torch.tensor([1.0, -1.0])), "diagonal of a metric must be positive"),
        (lambda: law.adam(torch.tensor([-1.0])), "diagonal of a metric must be positive"),
        (lambda: law.kinetic_asymmetry(law.euclidean(), torch.sin, torch.ones(2), torch.ones(3)), "does not fit q"),
        (
            lambda: law.kinetic_asymmetry(law.euclidean(), lambda q: q.sum(), torch.ones(2), torch.ones(2)),
            r"generator has shape \(\) for q of shape \(2,\)",
        ),
        (
            lambda: law.kinetic_asymmetry(lambda q, v: v * v, torch.sin, torch.ones(2), torch.ones(2)),
            r"A kinetic energy is one number; this one has shape \(2,\)",
        ),
        (lambda: law.rmsprop(0.1, 0.3, 0.9), r"4 lr decay / \(1 - momentum\) = 1.2 must be below 1"),
        (lambda: law.rmsprop(0.1, 0.01, 0.9, 0.0), "memory_factor=0 must be positive"),
        (lambda: law.fourth_power(torch.ones(2), ONE, 0.1, 0.3, 0.9), "= 1.2 must be below 1"),
        (lambda: law.fourth_power(torch.ones(2), -ONE, 0.1, 0.0), "sphere_gradients is a mean or sum of squares"),
        (
            lambda: law.fourth_power(-torch.ones(2), ONE, 0.1, 0.0),
            "initial is a mean or sum of squares and cannot be -1",
        ),
        (lambda: law.fourth_power(torch.ones(2), ONE, 0.1, 0.0, 0.9, TWO), r"memory_factor has shape \(2, 2\)"),
        (lambda: law.memory_factor(ONE, TWO, 0.9), "squared_buffers has 3 steps and squared_gradients 2"),
        (lambda: law.memory_factor(ONE, -ONE, 0.9), "squared_gradients is a mean or sum of squares"),
        (lambda: law.memory_factor(ONE, ONE, 0.9, 0.5), "horizon=0.5 must be at least one step"),
        (lambda: law.equilibrium_norm(ONE, 0.1, 0.0), "decay=0 has no equilibrium"),
        (lambda: law.steps_to_equilibrium(ONE, ONE, 0.1, 0.0), "decay=0 has no equilibrium"),
        (lambda: law.steps_to_equilibrium(ONE, ONE, 0.1, 0.1, 0.0, 1.0), "within=1 must lie between 0 and 1"),
        (lambda: law.equivalent_hparams(0.1, 0.1, ONE, -2.0), "factor=-2 must be positive"),
        (lambda: law.adamw_equilibrium(ONE, 0.1, 0.0), "lr . decay = 0 must lie between 0 and 1"),
    ],
)
def test_bad_inertia_is_refused_in_a_sentence(call, message):
    with pytest.raises(InputError, match=message):
        call()
