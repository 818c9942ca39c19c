"""Starts as they are: how balanced initialisations are, what the law is worth there, what training conserves, and which
starts never learn.
"""

import math
import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from learndyn.dynamics import start, train_together
from learndyn.experiments.lambda_balanced.nets import descend, field, follow
from learndyn.experiments.lambda_balanced.overlay import weights
from learndyn.experiments.lambda_balanced.settings import Settings
from learndyn.laws import balanced as law
from learndyn.laws.balanced.inits import INITS
from learndyn.models.balanced import sample_balanced
from learndyn.names import build_model
from learndyn.noise import generator, isolated, key
from learndyn.record import Progress
from learndyn.tasks import linear_teacher

SHAPES = ("60,60,60", "20,40,60", "60,40,20")
DRAWS = 20
STDS = (1.0, 0.1, 1e-3)  # of Gaussian weights, over 1/√n
PAIRS = 3  # Gaussian starts a cell
ACTIVATIONS = ("linear", "relu", "tanh")
WIDTH, BALANCES, RATE = 8, (-10.0, 0.1, 10.0), 5e-3
STAGES = 8  # pieces of training between which balance is looked at, half of them on a second task
SIZES, WEAKEST, UNTIL, STEP = (2, 3, 4, 5), 0.5, 20.0, 0.02
ETAS = (0.04, 0.02, 0.01, 0.005)  # with which gradient descent leaves a saddle
PATIENCE = 40.0


def measure_inits(settings: Settings, progress: Progress) -> xr.Dataset:
    """Real layers of PyTorch, and Gaussian networks under the law for their λ*.

    Returns:
        Over (init, init_shape, draw): `lam_star`, `residual`, with `predicted_` (over draws the same) and
        `lam_spread`; over (size, std, gaussian): `approximate_function`, `approximate_rep`, the largest errors of the
        exact law with λ* along the flow, relative (Frobenius) to the largest.
    """
    found = [_layers(), _approximate(settings)]
    progress("initialisations", 1000)
    return xr.merge(found)


def _layers() -> xr.Dataset:
    start_by: dict[str, Any] = {
        "lecun": partial(nn.init.kaiming_normal_, nonlinearity="linear"),
        "glorot": nn.init.xavier_normal_,
        "he": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
        "torch": lambda weight: None,  # as the layer made itself
    }
    size = len(INITS), len(SHAPES), DRAWS
    lams, ratios = np.empty(size), np.empty(size)
    expected = np.empty((3, *size[:2]))
    for j, text in enumerate(SHAPES):
        d, h, c = map(int, text.split(","))
        for i, name in enumerate(INITS):
            expected[:, i, j] = law.expected_lambda(d, h, c, name)
            for draw in range(DRAWS):
                with isolated():
                    torch.default_generator.manual_seed(key(draw, "initialisation") % 2**63)
                    pair = [nn.Linear(m, n, bias=False).weight for m, n in ((d, h), (h, c))]
                    for weight in pair:
                        start_by[name](weight)
                found = law.balance(*pair)
                lams[i, j, draw], ratios[i, j, draw] = found.lam, found.ratio
    dims = ("init", "init_shape", "draw")
    data = {"lam_star": (dims, lams), "residual": (dims, ratios), "lam_spread": (dims[:2], expected[1])}
    data |= {"predicted_lam_star": (dims[:2], expected[0]), "predicted_residual": (dims[:2], expected[2])}
    return xr.Dataset(data, {"init": list(INITS), "init_shape": list(SHAPES)})


def _approximate(settings: Settings) -> xr.Dataset:
    """Square Gaussian networks on a task of singular values 0.2 to 2."""
    size = len(settings.sizes), len(STDS), PAIRS
    function, rep = np.empty(size), np.empty(size)
    times = torch.linspace(0, 10, 41, dtype=torch.float64)
    for i, n in enumerate(settings.sizes):
        for j, std in enumerate(STDS):
            for draw in range(PAIRS):
                rng = generator(draw, "gaussian", n)
                u, _, vt = np.linalg.svd(rng.standard_normal((n, n)))
                sigma = torch.from_numpy((u * np.linspace(2, 0.2, n)) @ vt)
                w1, w2 = (torch.from_numpy(rng.standard_normal((n, n)) * std / n**0.5) for _ in range(2))
                white = n**0.5 * torch.eye(n, dtype=torch.float64)
                true = law.curves(w1, w2, white, white @ sigma.T, times, rtol=1e-8)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # it says that it is approximate, which is what is measured
                    said = law.exact(w1, w2, sigma, times)
                function[i, j, draw] = _largest(said.function - true.function, true.function)
                reps = [(said.rep_in, true.rep_in), (said.rep_out, true.rep_out)]
                rep[i, j, draw] = max(_largest(a - b, b) for a, b in reps)
    dims = ("size", "std", "gaussian")
    data = {"approximate_function": (dims, function), "approximate_rep": (dims, rep)}
    return xr.Dataset(data, {"size": list(settings.sizes), "std": list(STDS)})


def _largest(error: Tensor, whole: Tensor) -> float:
    return float(error.flatten(1).norm(dim=1).max() / whole.flatten(1).norm(dim=1).max())


def measure_conserved(settings: Settings, progress: Progress) -> xr.Dataset:
    """Balanced networks with three activations through two tasks, by torch's SGD, all of a kind in one batch.

    Returns:
        Over (activation, balance, trial, piece), relative to |Q|² at the start: `trace_change` of tr B,
        `diagonal_change` and `off_diagonal_change` of the rest of B.
    """
    size = len(ACTIVATIONS), len(BALANCES), settings.trials, STAGES + 1
    trace, diagonal, rest = (np.zeros(size) for _ in range(3))
    tasks = [
        linear_teacher(2 * WIDTH, inputs=WIDTH, outputs=WIDTH, singular_values=(1.0,) * WIDTH, data_seed=i)
        for i in range(2)
    ]
    steps = max(1, 2 * settings.trial_steps // STAGES)
    for i, activation in enumerate(ACTIVATIONS):
        nets = []
        for lam in BALANCES:
            for trial in range(settings.trials):
                text = f"mlp(width={WIDTH}, depth=1, activation={activation!r}, bias=False)"
                net = build_model(text, tasks[0], trial).double()
                pair = sample_balanced((WIDTH, WIDTH, WIDTH), (lam,), generator(trial, "conserved"), scale=0.5)
                with torch.no_grad():
                    for p, w in zip(net.parameters(), pair, strict=True):
                        p.copy_(w)
                nets.append(net)
        first = [weights(net) for net in nets]
        for piece in range(1, STAGES + 1):
            task = tasks[2 * (piece - 1) // STAGES]
            states = [start(task, net, partial(torch.optim.SGD, lr=RATE)) for net in nets]
            states, _ = train_together(states, steps, "vmap")
            nets = [state.model for state in states]
            for n, net in enumerate(nets):
                at = (i, *divmod(n, settings.trials), piece)
                (a, b), (w1, w2) = first[n], weights(net)
                change = (w2.T @ w2 - w1 @ w1.T - b.T @ b + a @ a.T) / float(a.square().sum() + b.square().sum())
                trace[at] = abs(float(change.trace()))
                diagonal[at] = float(change.diagonal().norm())
                rest[at] = float((change - change.diagonal().diag()).norm())
            progress("conserved", 3 * steps)
    dims = ("activation", "balance", "trial", "piece")
    data = {"trace_change": (dims, trace), "diagonal_change": (dims, diagonal), "off_diagonal_change": (dims, rest)}
    coords = {"activation": list(ACTIVATIONS), "balance": list(BALANCES), "piece": np.arange(STAGES + 1) * steps}
    return xr.Dataset(data, coords)


def measure_saddles(settings: Settings, progress: Progress) -> xr.Dataset:
    """Square networks at λ = 0: does the sign of the determinants say which learn?

    Returns:
        Over (width, saddle): `stopped_loss` of the flow at t = 20, with `predicted_`; `stopped_path` of some starts of
        width 3 over (saddle_time, saddle); over (eta, leaving): `left`, when gradient descent has left half of the
        plateau.
    """
    shape = len(SIZES), settings.saddles
    stopped, said = np.empty(shape), np.empty(shape)
    steps = round(UNTIL / STEP)
    at = list(range(0, steps + 1, 10))
    data: dict[str, Any] = {}
    for i, n in enumerate(SIZES):
        starts = [_zero_balanced(n, seed) for seed in range(settings.saddles)]
        w1, w2, sigma = (torch.stack([one[j] for one in starts]) for j in range(3))
        path = follow(w1, w2, field(sigma), torch.full((len(starts),), STEP, dtype=torch.float64), steps, at)
        loss = (path[1] @ path[0] - sigma).square().sum((-2, -1)) / 2
        stopped[i] = loss[-1].numpy()
        said[i] = [law.plateau(b @ a, s) for a, b, s in starts]
        if n == 3:
            data["stopped_path"] = (("saddle_time", "saddle"), loss.numpy())
            data["left"] = (("eta", "leaving"), _left(starts))
        progress("saddles", 500)
    data |= {
        "stopped_loss": (("width", "saddle"), stopped),
        "predicted_stopped_loss": (("width", "saddle"), said),
    }
    coords = {"width": list(SIZES), "saddle_time": STEP * np.array(at), "eta": list(ETAS)}
    return xr.Dataset(data, coords)


def _zero_balanced(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = generator(seed, "saddles", n)
    u, _, vt = np.linalg.svd(rng.standard_normal((n, n)))
    sigma = torch.from_numpy((u * np.linspace(1.5, WEAKEST, n)) @ vt)
    w1, w2 = sample_balanced((n, n, n), (0.0,), rng, scale=0.5)
    return w1, w2, sigma


def _left(starts: list[tuple[Tensor, Tensor, Tensor]]) -> np.ndarray:
    """When gradient descent has come below half of a plateau, of all starts that have one; its steps let λ drift."""
    held = [one for one in starts if law.plateau(one[1] @ one[0], one[2])]
    found = np.full((len(ETAS), len(starts)), np.nan)
    if not held:
        return found
    w1, w2, sigma = (torch.stack([one[j] for one in held]) for j in range(3))
    for i, eta in enumerate(ETAS):
        steps = round(PATIENCE / eta)
        at = list(range(0, steps + 1, max(1, steps // 400)))
        path = descend(w1, w2, field(sigma), torch.full((len(held),), eta, dtype=torch.float64), steps, at)
        loss = (path[1] @ path[0] - sigma).square().sum((-2, -1)) / 2
        for j in range(len(held)):
            below = (loss[:, j] < WEAKEST**2 / 4).nonzero()
            found[i, j] = eta * at[int(below[0])] if len(below) else math.inf
    return found
