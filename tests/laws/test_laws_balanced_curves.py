"""The engine that fits, the scores of representations, and the λ of common initialisations."""

import math

import numpy as np
import pytest
import torch
from balanced_cases import draw, integrate, off, tensor

from learndyn import tasks
from learndyn.errors import InputError
from learndyn.laws import balanced as law
from learndyn.models.balanced import sample_balanced

TIMES = tensor([0.0, 0.4, 2.0, 6.0])


def data(white, d=4, c=3, noise=0.2):
    task = tasks.linear_teacher(30, inputs=d, outputs=c, white=white, spread=1.0 if white else 3.0, noise=noise)
    return task.train.inputs, task.train.targets


@pytest.mark.parametrize("lam", [-2.0, 0.0, 1.5])
@pytest.mark.parametrize("white", [True, False])
@pytest.mark.parametrize("gaussian", [False, True])
def test_the_engine_that_fits_gives_the_flow(lam, white, gaussian):
    x, y = data(white)
    rng = np.random.default_rng(1)
    w1, w2 = (
        (tensor(rng.standard_normal((3, 4))), tensor(rng.standard_normal((3, 3))))
        if gaussian
        else sample_balanced((4, 3, 3), (lam,), rng)
    )
    found = law.curves(w1, w2, x, y, TIMES)
    assert found.engine == ("exact" if white and not gaussian else "integrated")
    assert found.why.startswith(found.engine)
    assert ("off balance" in found.why) == gaussian and ("E[xx'] differs" in found.why) == (not white)
    for i, (first, last) in enumerate(integrate(w1, w2, y.T @ x / 30, TIMES, x.T @ x / 30)):
        assert off(found.function[i], last @ first) < 1e-7
        assert off(found.rep_in[i], first.T @ first) < 1e-7 and off(found.rep_out[i], last @ last.T) < 1e-7
        measured = float((y - x @ (last @ first).T).square().sum() / 60)
        assert float(found.loss[i]) == pytest.approx(measured, rel=1e-7)
    assert 0 <= found.floor < float(found.loss[-1]) and found.drift < 1e-8


def test_fewer_examples_than_inputs_and_times_in_any_order():
    x, y = data(False)
    x, y = x[:2], y[:2]
    w1, w2, _ = draw(4, 3, 3, 0.5)
    found = law.curves(w1, w2, x, y, tensor([3.0, 0.0, 3.0]))
    assert found.engine == "integrated" and found.floor < 1e-25
    assert torch.equal(found.w1[0], found.w1[2]) and torch.allclose(found.w1[1], w1)
    assert float(found.loss[1]) == pytest.approx(float((y - x @ (w2 @ w1).T).square().sum() / 4), rel=1e-12)
    assert len(law.curves(w1, w2, x, y, tensor([])).loss) == 0


def test_what_has_no_curves_is_refused():
    x, y = data(False)
    w1, w2, _ = draw(4, 3, 3, 0.5)
    with pytest.raises(InputError, match="Only the exact engine knows t = inf"):
        law.curves(w1, w2, x, y, tensor([math.inf]))
    with pytest.raises(InputError, match="do not fit layers"):
        law.curves(w1, w2, x[:, :3], y, TIMES)
    white, targets = data(True)
    assert law.curves(w1, w2, white, targets, tensor([math.inf])).loss.item() == pytest.approx(
        law.moments(white, targets).floor, rel=1e-12
    )


# Scores


@pytest.mark.parametrize(
    ("d", "h", "c", "lam"),
    [(d, h, c, lam) for d, h, c in ((4, 4, 4), (6, 3, 3), (3, 3, 6), (5, 2, 4)) for lam in (-3.0, -0.1, 0.0, 0.1, 3.0)]
    + [(3, 5, 6, 0.0), (3, 5, 6, 0.1), (3, 5, 6, 3.0), (6, 5, 3, -3.0)],
)
def test_scores_of_the_steady_state_are_its_closed_form(d, h, c, lam):
    sigma = draw(d, h, c, 0.0, 2)[2]
    starts = (sample_balanced((d, h, c), (lam,), np.random.default_rng(seed)) for seed in range(9))
    pair = next(w for w in starts if d != c or lam or not law.plateau(w[1] @ w[0], sigma))
    found = law.exact(*pair, sigma, tensor([math.inf]), lam)
    for side, rep in (("in", found.rep_in[0]), ("out", found.rep_out[0])):
        measured, known = law.representation_scores(rep, sigma, side), law.steady_scores(sigma, lam, h, side)
        assert tuple(measured) == pytest.approx(tuple(known), rel=1e-11)
        assert known.specific == max(known.linear, known.quadratic)


def test_scores_of_the_tree_are_the_known_ones():
    sigma = tasks.semantic().train.targets.T
    known = {-10: (0.9631, 0.8639), -1: (0.9975, 0.9467), 0: (1, 0.9670), 1: (0.9977, 0.9819), 10: (0.9714, 0.9998)}
    for lam, cosines in known.items():
        assert law.steady_scores(sigma, float(lam), 8, "in")[:2] == pytest.approx(cosines, abs=6e-5)
        assert law.steady_scores(sigma, -float(lam), 8, "out")[:2] == pytest.approx(cosines, abs=6e-5)


def test_a_representation_without_the_task_scores_low():
    sigma = torch.diag(tensor([3.0, 1.0, 0.1]))
    other = torch.diag(tensor([0.0, 0.0, 1.0]))
    assert law.representation_scores(other, sigma, "in").specific < 0.05
    assert math.isnan(law.representation_scores(torch.zeros(3, 3), sigma, "out").linear)
    with pytest.raises(InputError, match=r"of side 'in' expected is \(3, 3\)"):
        law.representation_scores(torch.zeros(2, 2), sigma, "in")


# Common initialisations


def sampled(d, h, c, init, rng):
    def layer(rows, columns):
        if init == "torch":
            return tensor(rng.uniform(-1, 1, (rows, columns)) / math.sqrt(columns))
        variance = {"lecun": 1 / columns, "glorot": 2 / (rows + columns), "he": 2 / columns}[init]
        return tensor(rng.standard_normal((rows, columns)) * math.sqrt(variance))

    return layer(h, d), layer(c, h)


@pytest.mark.parametrize("init", ["lecun", "glorot", "he", "torch"])
@pytest.mark.parametrize(("d", "h", "c"), [(20, 40, 60), (30, 30, 30), (50, 20, 10)])
def test_common_initialisations_have_the_expected_lambda_and_are_not_balanced(init, d, h, c):
    rng = np.random.default_rng(0)
    found = [law.balance(*sampled(d, h, c, init, rng)) for _ in range(200)]
    expected = law.expected_lambda(d, h, c, init)
    lams, ratios = np.array([b.lam for b in found]), np.array([b.ratio for b in found])
    assert lams.mean() == pytest.approx(expected.lam, abs=4 * expected.spread / math.sqrt(200))
    assert lams.std(ddof=1) == pytest.approx(expected.spread, rel=0.2)  # four standard errors of it
    assert ratios.mean() == pytest.approx(expected.ratio, abs=0.002 + 4 * ratios.std() / math.sqrt(200))


@pytest.mark.parametrize(
    ("init", "lam"), [("lecun", 0.5), ("glorot", 2 * (3 / 5 - 1 / 3)), ("he", 1.0), ("torch", 1 / 6)]
)
def test_expected_lambda_of_one_shape_by_the_known_formulas(init, lam):
    assert law.expected_lambda(200, 400, 600, init).lam == pytest.approx(lam)
    assert 0.93 < law.expected_lambda(200, 400, 600, init).ratio < 0.99


def test_unknown_initialisations_are_refused():
    with pytest.raises(InputError, match="orthogonal"):
        law.expected_lambda(3, 3, 3, "orthogonal")
    with pytest.raises(InputError, match="must be at least 1"):
        law.expected_lambda(3, 0, 3, "he")
