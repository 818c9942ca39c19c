"""The budget of charges, step by step, against the laws' own forms and torch's own steps."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from learndyn.errors import InputError
from learndyn.recorder import MARKS, QUANTITIES, Ledger
from learndyn.recorder import ledger as module
from learndyn.symmetries.law import SymmetryLaw, Term
from learndyn.symmetries.matrix import MatrixLaw, Side

NAMES = list(QUANTITIES)
BROKEN, NOT_FINITE, UNSEEN = MARKS["weights_changed_between_steps"], MARKS["not_finite"], MARKS["gradients_not_seen"]
EXACT = {torch.float64: 1e-12, torch.float32: 1e-5}


def rows(name, count, weight=1.0, begin=0, index=None, charge=None):
    index = torch.arange(count) if index is None else index
    charge = torch.arange(count) if charge is None else charge
    return Term(name, "rows", begin, begin + count, index, charge, torch.full((len(index),), weight).double())


def columns(name, rows, count, each, weight=-1.0):
    """Of `count` inputs, with `each` columns each."""
    charge = torch.arange(count * each) // each
    return Term(
        name, "columns", 0, rows, torch.arange(count * each), charge, torch.full((len(charge),), weight).double()
    )


def network(dtype=torch.float64, seed=0):
    """Scale laws (up to the eps of the norm), rescale laws, translations, and a bias that nothing depends on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4, eps=1e-30), nn.ReLU()),
            *(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24, 10)),
        ).to(dtype)


def conserved():
    return [
        SymmetryLaw("scale", 4, (rows("0.weight", 4), rows("0.bias", 4))),
        SymmetryLaw("rescale", 4, (rows("1.weight", 4), rows("1.bias", 4), columns("3.weight", 6, 4, 9))),
        SymmetryLaw("rescale", 6, (rows("3.weight", 6), rows("3.bias", 6), columns("7.weight", 10, 6, 4))),
        SymmetryLaw("translation", 24, (columns("7.weight", 10, 24, 1, weight=1.0),)),
        SymmetryLaw("translation", 1, (rows("7.bias", 10, charge=torch.zeros(10, dtype=torch.int64)),)),
        SymmetryLaw("dead", 4, (rows("0.bias", 4),)),
    ]


class WithoutTerms:
    """A law of which only the form is known."""

    def __init__(self, law):
        self.kind, self.size, self.linear, self.parameters = law.kind, law.size, law.linear, law.parameters
        self.form, self.total, self.charge = law.form, law.total, law.charge


class Custom(torch.optim.Optimizer):
    """Nobody's: a sign step, by an optimizer that spoils the gradients as old ones do."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.grad.add_(p, alpha=0.3)
                    p.sub_(group["lr"] * p.grad.sign())


SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
SPLIT = {
    "plain": lambda p: SGD(p, 0.1, weight_decay=1e-2),
    "heavy": lambda p: SGD(p, 0.05, 0.9, weight_decay=1e-2),
    "nesterov": lambda p: SGD(p, 0.05, 0.9, weight_decay=1e-2, nesterov=True),
    "dampened": lambda p: SGD(p, 0.05, 0.9, 0.3, weight_decay=1e-2),
    "maximize": lambda p: SGD(p, 0.01, 0.5, weight_decay=1e-2, maximize=True),
    "foreach": lambda p: SGD(p, 0.05, 0.9, weight_decay=1e-2, foreach=True),
    "fused": lambda p: SGD(p, 0.05, 0.9, weight_decay=1e-2, fused=True),
    "adam": lambda p: ADAM(p, 1e-2, weight_decay=1e-2),
    "adam, decoupled": lambda p: ADAM(p, 1e-2, weight_decay=1e-2, decoupled_weight_decay=True),
    "amsgrad": lambda p: ADAM(p, 1e-2, (0.8, 0.95), weight_decay=1e-2, amsgrad=True, maximize=True),
    "adamw": lambda p: ADAMW(p, 1e-2, weight_decay=0.1),
    "adamw, fused": lambda p: ADAMW(p, torch.tensor(1e-2), weight_decay=0.1, fused=True),
    "adam, no memory": lambda p: ADAM(p, 1e-2, (0.0, 0.9), eps=1e-3),
}
OTHERS = {
    "adagrad": lambda p: torch.optim.Adagrad(p, 1e-2, weight_decay=1e-3),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-3, momentum=0.9, centered=True),
    "custom": lambda p: Custom(p, 1e-3),
}


def task(model, batch=0):
    draw = torch.Generator().manual_seed(batch)
    x = torch.randn(20, 1, 6, 6, generator=draw, dtype=torch.float64).to(next(model.parameters()))
    return F.cross_entropy(model(x), torch.randint(0, 10, (20,), generator=draw))


def backward(model, batch=0):
    model.zero_grad()
    task(model, batch).backward()


def tensors(model):
    return {n: p.detach().double().clone() for n, p in model.named_parameters()}


def charges(model, laws):
    return torch.cat([law.charge(tensors(model)) for law in laws])


def magnitude(model, laws):
    """The sum of absolute values that a charge consists of."""
    theta = {n: p.abs() for n, p in tensors(model).items()}
    return torch.cat([law.absolute().charge(theta) for law in laws]).numpy()


def steps(model, optimizer, laws, count, every=1, **options):
    """Train on; the windows, as dictionaries."""
    book, found = Ledger(model, optimizer, laws, **options), []
    for k in range(count):
        backward(model, k)
        book.before()
        optimizer.step()
        book.after()
        if (k + 1) % every == 0:
            found.append(named(book.take()))
    return found


def named(window):
    return SimpleNamespace(
        **dict(zip(NAMES, window.values)), **{k: v for k, v in vars(window).items() if k != "values"}
    )


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("name", [*SPLIT, *OTHERS])
def test_the_budget_closes_and_every_entry_is_what_the_laws_say(name, dtype):
    """Against the laws' own forms, of the weights before and after the step and torch's gradients."""
    model, laws = network(dtype), conserved()
    optimizer = (SPLIT | OTHERS)[name](model.parameters())
    book = Ledger(model, optimizer, laws, exact=True)
    assert book.split == (name in SPLIT)
    for k in range(6):
        backward(model, k)
        theta, size = tensors(model), magnitude(model, laws)
        gradient = {n: p.grad.double().clone() for n, p in model.named_parameters()}
        book.before()
        optimizer.step()
        book.after()
        step = {n: p - theta[n] for n, p in tensors(model).items()}
        w = named(book.take())
        zero = [torch.zeros(law.size).double() for law in laws]
        rate = float(optimizer.param_groups[0]["lr"])
        expected = {
            "q": [law.charge(tensors(model)) for law in laws],
            "loss_current": [law.current(theta, gradient) for law in laws],
            "gradient_norm": [z if law.linear else law.charge(gradient) for law, z in zip(laws, zero)],
            "step_current": [law.total(step) if law.linear else 2 * law.form(theta, step) for law in laws],
            "step_norm": [z if law.linear else law.charge(step) for law, z in zip(laws, zero)],
            "velocity_norm": [z if law.linear else law.charge(step) / rate**2 for law, z in zip(laws, zero)],
        }
        for quantity, values in expected.items():
            exact = torch.cat(values).numpy()
            np.testing.assert_allclose(getattr(w, quantity), exact, rtol=1e-12, atol=1e-13 * np.abs(exact).max())
        before = np.concatenate([law.charge(theta).numpy() for law in laws])
        np.testing.assert_array_less(np.abs(w.q - before - w.step_current - w.step_norm), 1e-13 * size)
        np.testing.assert_array_less(np.abs(w.jump), 1e-13 * size)
        parts = w.decay + w.current + w.memory
        if name in SPLIT:
            np.testing.assert_array_less(np.abs(w.step_current - parts), EXACT[dtype] * size)
            moved = np.abs(w.decay) + np.abs(w.current) + np.abs(w.memory)
            assert (moved[:14] > 1e-8).all()  # of the quadratic laws: there is something to add up
        else:
            assert np.isnan(parts).all()
        assert w.mark == 0


@pytest.mark.parametrize("name", ["plain", "heavy", "nesterov", "dampened", "maximize"])
def test_parts_of_a_step_of_sgd_are_the_steps_that_torch_makes_with_the_others_switched_off(name):
    model, laws = network(), conserved()
    optimizer = SPLIT[name](model.parameters())
    book = Ledger(model, optimizer, laws)
    for k in range(4):
        backward(model, k)
        expected = {}
        for part in ("decay", "current", "memory"):
            twin, other = copy.deepcopy((model, optimizer))
            for p, q in zip(twin.parameters(), model.parameters()):
                p.grad = q.grad * (part == "current")
            for group in other.param_groups:
                group["weight_decay"] *= part == "decay"
            for state in other.state.values():
                if state.get("momentum_buffer") is not None:
                    state["momentum_buffer"] *= part == "memory"
            theta = tensors(twin)
            other.step()
            step = {n: p - theta[n] for n, p in tensors(twin).items()}
            values = [law.total(step) if law.linear else 2 * law.form(theta, step) for law in laws]
            expected[part] = torch.cat(values).numpy()
        book.before()
        optimizer.step()
        book.after()
        w = named(book.take())
        for part, values in expected.items():
            np.testing.assert_allclose(getattr(w, part), values, rtol=0, atol=1e-13)
    assert np.abs(w.decay).max() > 1e-4 and (name == "plain" or np.abs(w.memory).max() > 1e-4)


@pytest.mark.parametrize("name", ["adam", "amsgrad", "adamw", "adam, no memory"])
def test_parts_of_a_step_of_adam_are_those_of_its_published_form(name):
    """AdamW: q' − q = [(1−ηλ)²−1] q − 2η(1−ηλ) B(θ, u) + η² N(u), u = m̂ / (√v̂ + ε); the current is that of ĝ."""
    model, laws = network(), [law for law in conserved() if not law.linear]
    optimizer = SPLIT[name](model.parameters())
    group = optimizer.param_groups[0]
    (beta1, beta2), rate, decay, eps = group["betas"], group["lr"], group["weight_decay"], group["eps"]
    sign = -1 if group["maximize"] else 1
    book = Ledger(model, optimizer, laws)
    for k in range(1, 5):
        backward(model, k)
        theta, before = tensors(model), charges(model, laws)
        book.before()
        optimizer.step()
        book.after()
        w = named(book.take())
        u, direct, decayed = {}, {}, {}
        for n, p in model.named_parameters():
            state = optimizer.state[p]
            second = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"]
            metric = (second / (1 - beta2**k)).sqrt() + eps
            u[n] = state["exp_avg"] / (1 - beta1**k) / metric
            direct[n], decayed[n] = sign * p.grad / metric, theta[n] / metric

        def form(v):
            return torch.cat([law.form(theta, v) for law in laws])  # noqa: B023  used at once

        np.testing.assert_allclose(w.current, -2 * rate * form(direct), rtol=0, atol=1e-13)
        if name == "adamw":
            norm = torch.cat([law.charge(u) for law in laws])
            change = ((1 - rate * decay) ** 2 - 1) * before - 2 * rate * (1 - rate * decay) * form(u) + rate**2 * norm
            np.testing.assert_allclose(w.step_current + w.step_norm, change, rtol=0, atol=1e-13)
            np.testing.assert_allclose(w.decay, -2 * rate * decay * before, rtol=0, atol=1e-13)
        else:
            np.testing.assert_allclose(w.decay, -2 * rate * decay * form(decayed), rtol=0, atol=1e-13)
            np.testing.assert_allclose(w.step_current, -2 * rate * form(u), rtol=0, atol=1e-13)
        if beta1 == 0:
            np.testing.assert_allclose(w.memory, 0, atol=1e-15)
        assert (np.abs(w.current) > 1e-8).all()  # Adam's metric breaks the symmetry


def test_currents_of_the_loss_vanish_and_the_published_recursion_follows():
    """SGD: q' = (1−ηλ)² q + η² N(ĝ), and c' = (1−ηλ) c, for laws that hold exactly (arXiv:2012.04728, discrete)."""
    model, laws = network(), conserved()
    q = charges(model, laws).numpy()
    eta, lam = 0.1, 1e-2
    kept = np.concatenate([np.full(law.size, (1 - eta * lam) ** (1 if law.linear else 2)) for law in laws])
    for w in steps(model, SGD(model.parameters(), eta, weight_decay=lam), laws, 40):
        np.testing.assert_allclose(w.loss_current, 0, atol=1e-14)
        q = kept * q + eta**2 * w.gradient_norm
        np.testing.assert_allclose(w.q, q, rtol=0, atol=1e-13)
    assert np.abs(charges(network(), laws).numpy() - q).max() > 0.01


def test_heavy_ball_follows_its_recursion():
    """q'' = (1+β−2ηλ) q' − β q + N(d'') + β N(d') (derived in the paper's discrete setting)."""
    model, laws = network(), conserved()[:3]
    q = [charges(model, laws).numpy()] * 2
    eta, lam, beta, last = 0.02, 1e-2, 0.9, 0.0
    for w in steps(model, SGD(model.parameters(), eta, beta, weight_decay=lam), laws, 40):
        q.append((1 + beta - 2 * eta * lam) * q[-1] - beta * q[-2] + w.step_norm + beta * last)
        last = w.step_norm
        np.testing.assert_allclose(w.velocity_norm, w.step_norm / eta**2, rtol=1e-12)
        np.testing.assert_allclose(w.q, q[-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["heavy", "nesterov", "adam", "rmsprop"])
def test_a_window_is_the_sum_of_its_steps(name):
    one, other = network(), network()
    every = steps(one, (SPLIT | OTHERS)[name](one.parameters()), conserved(), 12)
    fourth = steps(other, (SPLIT | OTHERS)[name](other.parameters()), conserved(), 12, every=4)
    for i, w in enumerate(fourth):
        parts = every[4 * i : 4 * i + 4]
        np.testing.assert_allclose(w.q, parts[-1].q, rtol=1e-13, atol=1e-15)
        for quantity in NAMES[2:]:
            total = sum(getattr(p, quantity) for p in parts)
            np.testing.assert_allclose(getattr(w, quantity), total, rtol=1e-10, atol=1e-14)
        assert w.mark == 0


def two_groups(parameters):
    parameters = list(parameters)
    first, second = parameters[::2], parameters[1::2]
    return SGD([{"params": first, "lr": 0.02, "weight_decay": 0.1}, {"params": second}], 0.05, 0.9, weight_decay=1e-2)


@pytest.mark.parametrize("name", [*SPLIT, "rmsprop", "two groups"])
def test_laws_of_which_only_the_form_is_known_get_the_same_numbers(name):
    one, other = network(), network()
    make = (SPLIT | OTHERS | {"two groups": two_groups})[name]
    fast = steps(one, make(one.parameters()), conserved(), 4)
    slow = steps(other, make(other.parameters()), [WithoutTerms(law) for law in conserved()], 4)
    for a, b in zip(fast, slow):
        for quantity in ("q", *NAMES[2:]):
            np.testing.assert_allclose(getattr(a, quantity), getattr(b, quantity), rtol=1e-9, atol=1e-14)
        assert a.mark == b.mark == 0


@pytest.mark.parametrize("name", ["heavy", "adamw", "rmsprop"])
def test_whole_matrices(name):
    """W₁ W₁ᵀ − W₂ᵀ W₂ of two linear maps with nothing between them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 5, bias=False), nn.Linear(5, 10, bias=False)).double()
    index = torch.arange(5)[None, :, None]
    law = MatrixLaw((Side("1.weight", "rows", 0, 5, index, 1.0), Side("2.weight", "columns", 0, 10, index, -1.0)))
    i, j = torch.triu_indices(5, 5)
    optimizer = (SPLIT | OTHERS)[name](model.parameters())
    for w in steps(model, optimizer, [law], 5):
        np.testing.assert_allclose(w.loss_current, 0, atol=1e-14)
        assert w.mark == 0
        if name == "heavy":
            np.testing.assert_allclose(w.current, 0, atol=1e-14)
            np.testing.assert_allclose(w.step_current, w.decay + w.memory, atol=1e-14)
    first, second = (p.detach() for p in model.parameters())
    np.testing.assert_allclose(w.q, (first @ first.T - second.T @ second)[i, j], atol=1e-14)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_any_law_and_any_step(data):
    """Terms at random, on tensors of any shape, the weights of the step at random; pieces of any size."""
    seed = data.draw(st.integers(0, 2**31))
    draw = torch.Generator().manual_seed(seed)
    shapes = data.draw(st.lists(st.lists(st.integers(1, 5), max_size=4), min_size=1, max_size=3))
    model = nn.ParameterList(nn.Parameter(torch.randn(s, generator=draw, dtype=torch.float64)) for s in shapes)
    laws = []
    for kind in data.draw(st.lists(st.sampled_from(["rescale", "translation"]), min_size=1, max_size=3)):
        terms = []
        for name in data.draw(st.lists(st.sampled_from([str(i) for i in range(len(shapes))]), min_size=1, max_size=3)):
            shape = model[int(name)].shape
            count = shape[0] if shape else 1
            side = data.draw(st.sampled_from(["rows", "columns", "elements"]))
            begin = 0 if side == "elements" else data.draw(st.integers(0, count - 1))
            end = math.prod(shape) if side == "elements" else data.draw(st.integers(begin + 1, count))
            length = math.prod(shape) // count if side == "columns" else end - begin
            index = torch.randint(0, length, (data.draw(st.integers(1, 6)),), generator=draw)
            charge = torch.randint(0, 3, (len(index),), generator=draw)
            terms.append(Term(name, side, begin, end, index, charge, torch.randn(len(index), generator=draw).double()))
        laws.append(SymmetryLaw(kind, 3, tuple(terms)))
    chunk, small = data.draw(st.sampled_from([(module.CHUNK, module.SMALL), (7, 3), (1, 0)]))
    saved = module.CHUNK, module.SMALL
    module.CHUNK, module.SMALL = chunk, small
    try:
        book = Ledger(model, SGD(model.parameters(), 0.5), laws)
        theta = tensors(model)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=draw, dtype=torch.float64)
        gradient = {n: p.grad for n, p in model.named_parameters()}
        book.before()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=draw, dtype=torch.float64))
        book.after()
        w = named(book.take())
    finally:
        module.CHUNK, module.SMALL = saved
    step = {n: p - theta[n] for n, p in tensors(model).items()}
    np.testing.assert_allclose(w.q, charges(model, laws), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(w.loss_current, torch.cat([law.current(theta, gradient) for law in laws]), atol=1e-12)
    expected = torch.cat([law.total(step) if law.linear else 2 * law.form(theta, step) for law in laws])
    np.testing.assert_allclose(w.step_current, expected, rtol=1e-12, atol=1e-12)
    assert not w.mark & BROKEN


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("exact", [True, False])
def test_half_precision_is_summed_up_in_another(dtype, exact):
    """The identity is exact though a step of the optimizer is rounded to three digits."""
    model, laws = network(), conserved()
    optimizer = SGD(model.parameters(), 0.05, 0.9, weight_decay=1e-2)
    model.to(dtype)
    book = Ledger(model, optimizer, laws, exact)
    for k in range(3):
        model.zero_grad()
        for i, p in enumerate(model.parameters()):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * k + i)).to(dtype)
        before, theta = charges(model, laws).numpy(), tensors(model)
        momenta = {n: optimizer.state[p].get("momentum_buffer", 0 * p) for n, p in model.named_parameters()}
        momenta = {n: b.detach().double().clone() for n, b in momenta.items()}
        book.before()
        optimizer.step()
        book.after()
        w = named(book.take())
        for law, at in zip(laws[:3], (0, 4, 8)):
            memory = -2 * 0.05 * 0.9 * law.form(theta, momenta)
            np.testing.assert_allclose(w.memory[at : at + law.size], memory, rtol=0, atol=1e-14 if exact else 1e-7)
        np.testing.assert_allclose(w.q, charges(model, laws), rtol=1e-14)
        np.testing.assert_allclose(w.q - before, w.step_current + w.step_norm, rtol=0, atol=1e-14 if exact else 1e-7)
        assert w.mark == 0


@pytest.mark.parametrize("name", ["heavy", "nesterov", "adamw", "rmsprop"])
def test_float32_is_summed_up_to_seven_digits_and_float64_to_all(name):
    """The charges themselves are exact, and so is their identity up to what was summed in float32."""
    for dtype, digits in ((torch.float32, 2e-6), (torch.float64, 1e-13)):
        one, other = network(dtype), network(dtype)
        make = (SPLIT | OTHERS)[name]
        exact = steps(one, make(one.parameters()), conserved(), 5, exact=True)
        for a, b in zip(exact, steps(other, make(other.parameters()), conserved(), 5)):
            np.testing.assert_allclose(a.q, b.q, rtol=1e-14, atol=0)
            for quantity in NAMES[2:6]:
                values = getattr(a, quantity)
                atol = digits * np.abs(values).max() if quantity.endswith("norm") else 0.1 * digits
                np.testing.assert_allclose(getattr(b, quantity), values, rtol=0, atol=atol)
            assert b.mark == 0
            assert (np.abs(b.jump).max() < 1e-14) == (dtype == torch.float64)
            np.testing.assert_array_less(np.abs(b.jump), 0.05 * digits * magnitude(one, conserved()))


def test_groups_with_different_settings_are_told_from_uniform_ones_and_the_budget_still_closes():
    model, laws = network(), conserved()
    plain = [p for n, p in model.named_parameters() if n.endswith("bias")]
    decayed = [p for n, p in model.named_parameters() if not n.endswith("bias")]
    groups = [{"params": plain, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.1, "lr": 0.02}]
    theta = tensors(model)
    (w,) = steps(model, SGD(groups, 0.05), laws, 1)
    assert w.settings[:2, :, 0].tolist() == [[0.02, 0.05], [0.0, 0.1]]  # scale: weights and biases
    assert w.settings[:2, :, 3].tolist() == [[0.02, 0.02], [0.1, 0.1]]  # translation of weights
    assert w.settings[2:].tolist() == np.zeros((2, 2, 6)).tolist()
    exact = -2 * 0.02 * 0.1 * theta["0.weight"].square().sum((1, 2, 3))
    np.testing.assert_allclose(w.decay[:4], exact, rtol=1e-13)
    assert w.mark == 0 and w.uniform.tolist() == [False, False, False, True, True, True]


def test_schedules_widen_the_settings_of_a_window_and_a_rate_of_zero_moves_nothing():
    model, laws = network(), conserved()
    optimizer = SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-2)
    book = Ledger(model, optimizer, laws)
    for k, rate in enumerate([0.0, 0.0, 0.05, 0.1, 0.0, 0.1]):
        optimizer.param_groups[0]["lr"] = rate
        backward(model, k)
        book.before()
        optimizer.step()
        book.after()
        if k in (1, 5):
            w = named(book.take())
            assert w.mark == 0
            assert w.settings[0].T.tolist() == [[0.0, 0.0 if k == 1 else 0.1]] * 6
            if k == 1:
                np.testing.assert_array_equal(w.step_current, 0)
                np.testing.assert_array_equal(w.velocity_norm, 0)
            assert w.uniform.all()  # over parameters, whatever the schedule does
    np.testing.assert_allclose(w.step_current, w.decay + w.current + w.memory, rtol=0, atol=1e-14)
    assert np.abs(w.memory).max() > 1e-3


@pytest.mark.parametrize("name", ["heavy", "nesterov", "adam"])
def test_parameters_that_stand_still_have_rate_zero(name):
    """Frozen, or now and then without a gradient: momentum waits, the charge's other terms move."""
    model, laws = network(), conserved()
    model[3].weight.requires_grad_(False)
    optimizer = SPLIT[name](model.parameters())
    book = Ledger(model, optimizer, laws)
    for k in range(6):
        backward(model, k)
        if k % 2:
            model[0].bias.grad = model[7].weight.grad = None
        before = tensors(model)
        book.before()
        optimizer.step()
        book.after()
        w = named(book.take())
        assert w.mark == 0
        np.testing.assert_allclose(w.step_current, w.decay + w.current + w.memory, rtol=0, atol=1e-13)
        low = w.settings[0, 0]
        assert (low[[1, 2]] == 0).all() and (low[4] > 0) and ((low[[0, 3, 5]] == 0) == bool(k % 2)).all()
        if k % 2:
            assert (before["7.weight"] == model[7].weight).all()
            np.testing.assert_array_equal(w.step_current[14:38], 0)


def test_momentum_that_was_there_before_the_recording():
    """A checkpoint with a momentum buffer, loaded into a new optimizer: memory from the first step on."""
    model, laws = network(), conserved()
    first = SPLIT["heavy"](model.parameters())
    steps(model, first, laws, 5)
    saved = copy.deepcopy((model.state_dict(), first.state_dict()))
    whole = steps(model, first, laws, 3)
    model = network(seed=1)
    model.load_state_dict(saved[0])
    second = SPLIT["heavy"](model.parameters())
    second.load_state_dict(saved[1])
    for a, b in zip(whole, steps(model, second, laws, 3)):
        for quantity in NAMES[2:]:
            np.testing.assert_allclose(getattr(a, quantity), getattr(b, quantity), rtol=1e-10, atol=1e-15)
    assert np.abs(whole[0].memory).max() > 1e-3


@pytest.mark.parametrize("when", [2, 3])
def test_a_momentum_that_somebody_changes_is_read_again(when):
    model, laws = network(), conserved()
    optimizer = SPLIT["heavy"](model.parameters())
    book = Ledger(model, optimizer, laws)
    for k in range(5):
        backward(model, k)
        if k == when:
            for state in optimizer.state.values():
                state["momentum_buffer"].mul_(-2.0)
        if k == when + 1:
            optimizer.state.clear()
        book.before()
        optimizer.step()
        book.after()
        w = named(book.take())
        assert w.mark == 0
        np.testing.assert_allclose(w.step_current, w.decay + w.current + w.memory, rtol=0, atol=1e-13)


def swap(model):
    """Exchange with averaged weights, as many averaging helpers do: behind torch's back."""
    for p in model.parameters():
        p.data.copy_(0.9 * p.data)


def load(model):
    model.load_state_dict(network(seed=5).state_dict())


def replace(model):
    model[3].weight = nn.Parameter(1.1 * model[3].weight.detach())


def prune(model):
    model[7].weight.data = model[7].weight.data * (model[7].weight.data > 0)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("change", [swap, load, replace, prune])
def test_weights_that_change_between_steps_are_marked_and_the_jump_is_told(change, every):
    model, laws = network(), conserved()
    optimizer = SPLIT["heavy"](model.parameters())
    book, marks, total, begin = Ledger(model, optimizer, laws), [], 0.0, charges(model, laws).numpy()
    for k in range(9):
        if k == 4:
            before = charges(model, laws).numpy()
            change(model)
            difference = charges(model, laws).numpy() - before
        backward(model, k)
        book.before()
        optimizer.step()
        book.after()
        if (k + 1) % every == 0:
            w = named(book.take())
            marks.append(w.mark)
            if change in (load, replace) or k // every != 4 // every:  # torch has counted the change, or there was none
                np.testing.assert_allclose(w.step_current, w.decay + w.current + w.memory, rtol=0, atol=1e-13)
            total = total + w.jump + w.step_current + w.step_norm
            exact = difference if k // every == 4 // every else 0.0
            np.testing.assert_allclose(w.jump, exact, rtol=0, atol=1e-13)
            np.testing.assert_allclose(w.q, begin + total, rtol=0, atol=1e-12)
    assert np.abs(difference).max() > 1e-3
    assert marks == [BROKEN * (k // every == 4 // every) for k in range(0, 9, every)]
    replaced = change is replace  # which no optimizer knows of
    assert (w.settings[0, 0] == 0).tolist() == [False, replaced, replaced, False, False, False]


@pytest.mark.parametrize("gone", ["shape", "name"])
def test_a_parameter_that_is_no_longer_what_the_laws_are_about_ends_the_ledger(gone):
    model, laws = network(), conserved()
    optimizer = SPLIT["heavy"](model.parameters())
    book = Ledger(model, optimizer, laws)
    if gone == "shape":
        model[7].weight = nn.Parameter(torch.randn(10, 12).double())
    else:
        torch.nn.utils.parametrizations.weight_norm(model[7])
    book.before()
    book.after()
    for _ in range(2):
        w = book.take()
        assert w.mark == BROKEN and np.isnan(w.values).all()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_ends_the_ledger_and_not_the_training(value):
    model, laws = network(), conserved()
    optimizer = SPLIT["heavy"](model.parameters())
    book, marks = Ledger(model, optimizer, laws), []
    for k in range(4):
        backward(model, k)
        if k == 2:
            model[1].weight.grad[1] = value
        book.before()
        optimizer.step()
        book.after()
        w = book.take()
        marks.append(w.mark)
        assert np.isnan(w.values).all() == (k >= 2)
    assert marks == [0, 0, NOT_FINITE, NOT_FINITE]
    book.restart()
    assert book.stopped == 0


def test_sparse_gradients():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(7, 5, sparse=True), nn.Linear(5, 3)).double()
    laws = [SymmetryLaw("rescale", 5, (columns("0.weight", 7, 5, 1, weight=1.0), columns("1.weight", 3, 5, 1)))]
    optimizer = SGD(model.parameters(), 0.1)
    book = Ledger(model, optimizer, laws)
    for k in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.tensor([k, 2, 2])), torch.tensor([0, 1, 2])).backward()
        assert model[0].weight.grad.is_sparse
        book.before()
        optimizer.step()
        book.after()
        w = named(book.take())
        np.testing.assert_allclose(w.loss_current, 0, atol=1e-15)
        np.testing.assert_allclose(w.step_current, w.current, atol=1e-15)
        assert w.mark == 0 and (w.gradient_norm != 0).all() and model[0].weight.grad.is_sparse


def test_tied_parameters_take_part_on_both_sides():
    """One matrix used twice, between ReLUs: its rows and its columns are in one law; known by either of its names."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tied = nn.Linear(6, 6)
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), tied, nn.ReLU(), tied, nn.ReLU(), nn.Linear(6, 3)).double()
    sides = rows("0.weight", 6), rows("0.bias", 6)
    out = columns("6.weight", 3, 6, 1)
    for name in ("2", "4"):
        both = rows(f"{name}.weight", 6), columns(f"{name}.weight", 6, 6, 1), rows(f"{name}.bias", 6)
        laws = [SymmetryLaw("rescale", 6, (*sides, *both, out))]
        optimizer = SPLIT["heavy"](model.parameters())
        book = Ledger(model, optimizer, laws)
        theta = {n: p.detach() for n, p in model.named_parameters(remove_duplicate=False)}
        np.testing.assert_allclose(book.charges, laws[0].charge(theta), atol=1e-14)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.eye(4).double()).square().sum().backward()
            book.before()
            optimizer.step()
            book.after()
            w = named(book.take())
            np.testing.assert_allclose(w.step_current, w.decay + w.current + w.memory, atol=1e-14)
            assert w.mark == 0


def test_memory_formats_do_not_matter():
    one, other = network(), network().to(memory_format=torch.channels_last)
    assert not other[3].weight.is_contiguous()
    pairs = [steps(m, SPLIT["adam"](m.parameters()), conserved(), 3) for m in (one, other)]
    for a, b in zip(*pairs):
        for quantity in NAMES[2:]:
            np.testing.assert_allclose(getattr(a, quantity), getattr(b, quantity), rtol=1e-6, atol=1e-11)
        assert b.mark == 0


def test_steps_only_where_the_gradients_are_not_seen():
    model, laws = network(), conserved()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    book = Ledger(model, optimizer, laws)
    before = charges(model, laws).numpy()

    def closure():
        backward(model)
        return task(model)

    book.before(gradients=False)
    optimizer.step(closure)
    book.after()
    w = named(book.take())
    assert w.mark == UNSEEN and np.isnan([w.loss_current, w.gradient_norm, w.decay, w.current, w.memory]).all()
    np.testing.assert_allclose(w.q - before, w.step_current + w.step_norm, atol=1e-14)
    assert np.abs(w.step_norm).max() > 1e-6


def test_nothing_is_left_behind():
    model, laws = network(torch.float32), conserved()
    optimizer = SPLIT["adam"](model.parameters())
    book = Ledger(model, optimizer, laws)
    backward(model)
    optimizer.step()
    backward(model)
    state = copy.deepcopy((model.state_dict(), optimizer.state_dict(), [p.grad for p in model.parameters()]))
    random, mode = torch.get_rng_state(), torch.is_grad_enabled()
    book.before()
    book.after()
    book.take()
    now = model.state_dict(), optimizer.state_dict(), [p.grad for p in model.parameters()]
    assert str(now) == str(state) and (torch.get_rng_state() == random).all() and torch.is_grad_enabled() == mode


def test_no_laws_at_all():
    model = network()
    (w,) = steps(model, SGD(model.parameters(), 0.1), [], 1)
    assert w.q.shape == (0,) and w.mark == 0


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (SymmetryLaw("scale", 4, (rows("0.wight", 4),)), "There is no parameter '0.wight'; did you mean '0.weight'?"),
        (SymmetryLaw("scale", 9, (rows("0.weight", 9),)), r"A law does not fit 0.weight of shape \(4, 1, 3, 3\)"),
        (
            SymmetryLaw("scale", 4, (columns("7.weight", 10, 25, 1),)),
            r"A law does not fit 7.weight of shape \(10, 24\)",
        ),
    ],
)
def test_laws_of_another_model_are_refused(law, message):
    model = network()
    with pytest.raises(InputError, match=message):
        Ledger(model, SGD(model.parameters(), 0.1), [law])


def test_complex_parameters_are_refused():
    model = nn.ParameterList([nn.Parameter(torch.ones(3, dtype=torch.complex64))])
    with pytest.raises(InputError, match="Parameter 0 is torch.complex64; charges are made of real numbers."):
        Ledger(model, SGD(model.parameters(), 0.1), [SymmetryLaw("scale", 3, (rows("0", 3),))])
