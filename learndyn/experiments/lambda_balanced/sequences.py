"""Tasks one after the other, a task turned round, and fine-tuning after a change of λ."""

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
from learndyn.experiments.lambda_balanced.shapes import moved
from learndyn.experiments.lambda_balanced.tree import learned
from learndyn.laws import balanced as law
from learndyn.models.balanced import rebalance, sample_balanced
from learndyn.noise import generator
from learndyn.record import Progress
from learndyn.tasks import linear_teacher

SIZE, EXAMPLES, LAM = 5, 25, 1.0
RATE = 0.02
SEEN = 60  # looks a task
LAMS = (-5.0, -1.0, 1.0, 5.0)  # forgetting is the same at all of them
STRENGTHS = (1.5, 1.0, 0.5)  # modes that are turned round
UNTIL = 40.0  # time of a reversal at λ = 0
LATE = 20.0  # when it is asked whether the network has relearned
TUNED = 6.0  # time of fine-tuning at λ = 0


def measure_sequence(settings: Settings, seed: int, progress: Progress) -> xr.Dataset:
    """A network on random tasks, by torch's SGD and by the law; the first losses also at other λ.

    Returns:
        Over (stage, sequence_look, learned_task): `sequence_loss` with `predicted_`; over stage: `sequence_error` of
        W₂W₁; over (forgotten, stage): `rise` of the loss on a task from the end of one stage to that of the next, with
        `predicted_`; over (rise_lam, stage): `rise_first`.
    """
    tasks = [
        linear_teacher(EXAMPLES, inputs=SIZE, outputs=SIZE, data_seed=1000 * seed + i) for i in range(settings.sequence)
    ]
    sigmas = [law.moments(*task.train).sigma for task in tasks]
    model = network(tasks[0], SIZE, LAM, 0.5, seed)
    first = weights(model)
    at = looks(settings.sequence_steps, SEEN)
    times = RATE * torch.tensor(at, dtype=torch.float64)
    said = law.chain_tasks(*first, sigmas, [times] * len(tasks), LAM)
    functions = []
    for task in tasks:
        state = start(task, model, partial(torch.optim.SGD, lr=RATE))
        run = train(state, settings.sequence_steps, {"function": OBSERVED["function"]}, at)
        functions.append(torch.from_numpy(run.series["function"].values))
        progress("sequence", settings.sequence_steps)
    path, wanted = torch.stack(functions), torch.stack([stage.function for stage in said.stages])
    losses = (path[:, :, None] - torch.stack(sigmas)).square().sum((-2, -1)) / 2
    scale = wanted.abs().amax((1, 2, 3))
    ends = losses[:, -1]
    count = len(tasks)
    rise = (ends[1:] - ends[:-1]).T.numpy()
    law_rise = [[law.forgetting(sigmas[i], sigmas[j], sigmas[j + 1]) for j in range(count - 1)] for i in range(count)]
    data: dict[str, Any] = {
        "sequence_time": ("sequence_look", times.numpy()),
        "sequence_loss": (("stage", "sequence_look", "learned_task"), losses.numpy()),
        "predicted_sequence_loss": (("stage", "sequence_look", "learned_task"), torch.stack(list(said.losses)).numpy()),
        "sequence_error": ("stage", ((path - wanted).abs().amax((1, 2, 3)) / scale).numpy()),
        "rise": (("learned_task", "turn"), rise),
        "predicted_rise": (("learned_task", "turn"), np.array(law_rise)),
        "rise_first": (("rise_lam", "turn"), _other_lams(settings, sigmas, seed)),
    }
    coords = {"sequence_look": range(len(at)), "rise_lam": list(LAMS)}
    return xr.Dataset(data, coords)


def _other_lams(settings: Settings, sigmas: list[Tensor], seed: int) -> np.ndarray:
    """Rise of the loss on the first task at every turn, `(λ, turns)`, by gradient descent to convergence."""
    rng = generator(seed, "sequence")
    pairs = [sample_balanced((SIZE, SIZE, SIZE), (lam,), rng, scale=0.5) for lam in LAMS]
    w1, w2 = (torch.stack([pair[i] for pair in pairs]) for i in (0, 1))
    rates, ends = torch.full((len(LAMS),), RATE, dtype=torch.float64), []
    for sigma in sigmas:
        path = descend(w1, w2, field(sigma), rates, settings.sequence_steps, [settings.sequence_steps])
        w1, w2 = path[0][0], path[1][0]
        ends.append((w2 @ w1 - sigmas[0]).square().sum((-2, -1)) / 2)
    return torch.stack(ends, 1).diff(dim=1).numpy()


def measure_reversal(settings: Settings, progress: Progress) -> xr.Dataset:
    """Σ learned to the end, then −Σ; and Σ_a learned, λ changed at the same function, then Σ_b.

    Returns:
        Over (turned_lam, turned_look): `turned_loss`, with `predicted_`; over (turned_lam, turned_mode): `crossing` of
        zero, with `predicted_`; over turned_lam: `relearned` at 0.1 % of the first loss, with `predicted_`, `late_loss`
        at t = 20, `trust`; and over (tuned_lam, pair): `tuned_moved`, `tuned_time`, with `predicted_`, `kept_function`.
    """
    turned = _turned(settings)
    progress("reversal", 1000)
    tuned = _tuned(settings)
    progress("fine-tuning", 1000)
    return turned.merge(tuned)


def _turned(settings: Settings) -> xr.Dataset:
    lams, s = settings.reversal_lams, torch.tensor(STRENGTHS, dtype=torch.float64)
    sigma, size = torch.diag(s), len(STRENGTHS)
    rng = generator(0, "reversal")
    pairs = [sample_balanced((size, size, size), (lam,), rng, sigma) for lam in lams]
    w1, w2 = (torch.stack([pair[i] for pair in pairs]) for i in (0, 1))
    rates = torch.tensor([settings.rate / (1 + lam) for lam in lams], dtype=torch.float64)
    steps = round(UNTIL / settings.rate)
    at = list(range(0, steps + 1, max(1, steps // 1000)))
    path1, path2 = descend(w1, w2, field(-sigma), rates, steps, at)
    product = path2 @ path1  # (look, λ, size, size)
    loss = (product + sigma).square().sum((-2, -1)) / 2
    modes = product.diagonal(dim1=-2, dim2=-1)
    rows: dict[str, list[Any]] = {}
    for i, lam in enumerate(lams):
        times = float(rates[i]) * torch.tensor(at, dtype=torch.float64)
        said = law.exact(w1[i], w2[i], -sigma, times, lam)
        target = 1e-3 * float(said.loss[0])
        row = {
            "turned_time": times.numpy(),
            "turned_loss": loss[:, i].numpy(),
            "predicted_turned_loss": said.loss.numpy(),
            "crossing": np.array([_crossing(times, modes[:, i, j]) for j in range(size)]),
            "predicted_crossing": law.reversal_time(s, lam).numpy(),
            "relearned": learned(times, loss[:, i], target),
            "predicted_relearned": learned(times, said.loss, target) if lam else math.inf,
            "late_loss": float(np.interp(LATE, times.numpy(), loss[:, i].numpy())),
            "trust": said.trust,
        }
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
    dims = {n: ("turned_look",) for n in ("turned_time", "turned_loss", "predicted_turned_loss")}
    dims |= {n: ("turned_mode",) for n in ("crossing", "predicted_crossing")}
    data = {n: (("turned_lam", *dims.get(n, ())), np.array(v)) for n, v in rows.items()}
    return xr.Dataset(data, {"turned_lam": list(lams), "turned_mode": list(STRENGTHS)})


def _crossing(times: Tensor, mode: Tensor) -> float:
    """When a falling mode passes zero, by linear interpolation; inf if it does not."""
    below = (mode < 0).nonzero()
    if not len(below):
        return math.inf
    n = int(below[0])
    if n == 0:
        return float(times[0])
    before, after = float(mode[n - 1]), float(mode[n])
    return float(times[n - 1] + before / (before - after) * (times[n] - times[n - 1]))


def _tuned(settings: Settings) -> xr.Dataset:
    sizes = [lam for lam in settings.reversal_lams if lam >= 0.1]
    lams = [*(-lam for lam in reversed(sizes)), 0.0, *sizes]
    shape = len(lams), settings.tasks
    seen, said_moved, time, said_time, kept = (np.full(shape, np.nan) for _ in range(5))
    steps = round(TUNED / settings.rate)
    every = list(range(0, steps + 1, max(1, steps // 300)))
    for pair in range(settings.tasks):
        rng = generator(pair, "fine-tuning")
        first, second = (torch.from_numpy(rng.standard_normal((SIZE, SIZE)) / SIZE**0.5) for _ in range(2))
        one, two = sample_balanced((SIZE, SIZE, SIZE), (0.0,), rng, first)
        pairs = [rebalance(one, two, lam) for lam in lams]
        w1, w2 = (torch.stack([p[i] for p in pairs]) for i in (0, 1))
        kept[:, pair] = (w2 @ w1 - first).abs().amax((-2, -1)).numpy()
        rates = torch.tensor([settings.rate / (1 + abs(lam)) for lam in lams], dtype=torch.float64)
        path = descend(w1, w2, field(second), rates, steps, every)
        loss = (path[1] @ path[0] - second).square().sum((-2, -1)) / 2
        seen[:, pair] = moved((path[0][0], path[1][0]), (path[0][-1], path[1][-1])).numpy()
        for i, lam in enumerate(lams):
            times = float(rates[i]) * torch.tensor(every, dtype=torch.float64)
            said = law.exact(w1[i], w2[i], second, times, lam)
            said_moved[i, pair] = float(moved((said.w1[0], said.w2[0]), (said.w1[-1], said.w2[-1])))
            below = 0.1 * float(said.loss[0])
            time[i, pair], said_time[i, pair] = learned(times, loss[:, i], below), learned(times, said.loss, below)
    dims = ("tuned_lam", "pair")
    data = {"tuned_moved": (dims, seen), "predicted_tuned_moved": (dims, said_moved), "kept_function": (dims, kept)}
    data |= {"tuned_time": (dims, time), "predicted_tuned_time": (dims, said_time)}
    return xr.Dataset(data, {"tuned_lam": lams})
