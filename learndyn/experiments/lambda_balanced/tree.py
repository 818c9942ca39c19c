"""The semantic task: modes one after the other, and what the representations keep of the tree."""

import math
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from learndyn.dynamics import start, train
from learndyn.experiments.lambda_balanced.nets import descend, field, looks
from learndyn.experiments.lambda_balanced.overlay import OBSERVED, network, weights
from learndyn.experiments.lambda_balanced.settings import Settings
from learndyn.laws import balanced as law
from learndyn.laws.balanced.scores import Side
from learndyn.models.balanced import sample_balanced
from learndyn.noise import generator
from learndyn.record import Progress
from learndyn.tasks import semantic

#: Starts that are trained as modules: λ, or None for Gaussian weights; scale of the product, or standard deviation.
STARTS: dict[str, tuple[float | None, float]] = {
    "λ = −10": (-10.0, 0.42),
    "λ = 0": (0.0, 0.42),
    "λ = 10": (10.0, 0.42),
    "Gaussian, 0.001": (None, 1e-3),
    "Gaussian, 0.42": (None, 0.42),
}
LEARNED = 1e-3  # loss
SEEN = 40


def rate(settings: Settings, lam: float) -> float:
    """Learning rate at which Σ/k is learned in units of 1/η, and large layers stay stable."""
    return settings.rate * 2**settings.depth / (1 + abs(lam) / 10)


def measure_tree(settings: Settings, seed: int, progress: Progress) -> xr.Dataset:
    """Five starts as modules, and all λ from the same first function.

    Returns:
        Over (begin, look, mode): `modes`, the singular values of W₂W₁, over (begin, row, column): `gram`, QQᵀ at the
        end, both with `predicted_`; over tree_lam: `score_in_linear`, ..., `learned_time`, both with `predicted_`.
    """
    begun = [_begin(settings, name, seed, progress) for name in STARTS]
    made = xr.concat(begun, "begin").assign_coords(begin=list(STARTS))
    return made.merge(_swept(settings, seed, progress))


def _begin(settings: Settings, name: str, seed: int, progress: Progress) -> xr.Dataset:
    task, size = semantic(settings.depth), 2**settings.depth
    lam, scale = STARTS[name]
    x, y = task.train
    model = network(task, size, lam, scale * size**0.5 if lam is None else scale, seed)
    tried = seed
    while lam == 0 and law.plateau(weights(model)[1] @ weights(model)[0], y.T @ x):
        tried += 1000  # half of all starts at λ = 0 never learn the last mode, which another part is about
        model = network(task, size, lam, scale, tried)
    w1, w2 = weights(model)
    eta, at = rate(settings, lam or 0.0), looks(settings.tree_steps, SEEN)
    times = eta * torch.tensor(at, dtype=torch.float64)
    said = law.curves(w1, w2, x, y, times)
    run = train(
        start(task, model, partial(torch.optim.SGD, lr=eta)),
        settings.tree_steps,
        {"function": OBSERVED["function"]},
        at,
    )
    progress("tree", settings.tree_steps)
    modes = torch.linalg.svdvals(torch.from_numpy(run.series["function"].values))
    predicted = torch.linalg.svdvals(said.function)
    grams = [_gram(*weights(model)), _gram(said.w1[-1], said.w2[-1])]
    data: dict[str, Any] = {
        "tree_time": ("tree_look", times.numpy() / size),
        "modes": (("tree_look", "mode"), modes.numpy()),
        "predicted_modes": (("tree_look", "mode"), predicted.numpy()),
        "gram": (("row", "column"), grams[0].numpy()),
        "predicted_gram": (("row", "column"), grams[1].numpy()),
        "modes_error": float((modes - predicted).abs().max() / predicted.max()),
        "tree_engine": said.engine,
    }
    data["score_in_end"] = law.representation_scores(grams[0][:size, :size], y.T @ x, "in").specific
    data["score_out_end"] = law.representation_scores(grams[0][size:, size:], y.T @ x, "out").specific
    return xr.Dataset(data, {"tree_look": range(len(at))})


def _swept(settings: Settings, seed: int, progress: Progress) -> xr.Dataset:
    """From one function at every λ, by gradient descent."""
    size, lams = 2**settings.depth, settings.tree_lams
    x, y = semantic(settings.depth).train
    sigma, k = y.T @ x / size, 1 / size
    rng = generator(seed, "tree")
    product = torch.from_numpy(0.42 * rng.standard_normal((size, size)) / size**0.5)
    if law.plateau(product, sigma):
        product[0] *= -1
    pairs = [sample_balanced((size, size, size), (lam,), rng, product) for lam in lams]
    w1, w2 = (torch.stack([pair[i] for pair in pairs]) for i in (0, 1))
    rates = torch.tensor([rate(settings, lam) for lam in lams], dtype=torch.float64)
    every = list(range(0, settings.tree_steps + 1, max(1, settings.tree_steps // 500)))
    path1, path2 = descend(w1, w2, field(sigma, torch.eye(size).double() * k), rates, settings.tree_steps, every)
    progress("tree, all λ", settings.tree_steps / 5)
    loss = k / 2 * (path2 @ path1 - sigma / k).square().sum((-2, -1))  # (look, lam)
    data: dict[str, list[float]] = {}
    for i, lam in enumerate(lams):
        times = float(rates[i]) * torch.tensor(every, dtype=torch.float64)
        said = law.exact(w1[i], w2[i], sigma, times, lam, k)
        row = {"learned_time": learned(times, loss[:, i]), "predicted_learned_time": learned(times, said.loss)}
        reps: dict[Side, Tensor] = {"in": path1[-1, i].T @ path1[-1, i], "out": path2[-1, i] @ path2[-1, i].T}
        for side, rep in reps.items():
            scores = law.representation_scores(rep, sigma, side), law.steady_scores(sigma / k, lam, size, side)
            for name in ("linear", "quadratic"):
                row[f"score_{side}_{name}"] = getattr(scores[0], name)
                row[f"predicted_score_{side}_{name}"] = getattr(scores[1], name)
        for name, value in row.items():
            data.setdefault(name, []).append(value)
    return xr.Dataset({n: ("tree_lam", np.array(v)) for n, v in data.items()}, {"tree_lam": list(lams)})


def learned(times: Tensor, loss: Tensor, below: float = LEARNED) -> float:
    """When the loss first falls below a value, interpolated in its logarithm; nan if it does not."""
    under = (loss < below).nonzero()
    if not len(under) or int(under[0]) == 0:
        return math.nan if not len(under) else float(times[0])
    n = int(under[0])
    before, after = (math.log(max(float(loss[i]), 1e-300)) for i in (n - 1, n))
    share = (before - math.log(below)) / (before - after)
    return float(times[n - 1] + share * (times[n] - times[n - 1]))


def _gram(w1: Tensor, w2: Tensor) -> Tensor:
    """QQᵀ, inputs before outputs."""
    q = torch.cat([w1.T, w2])
    return q @ q.T
