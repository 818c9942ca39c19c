"""Heads of linear attention that regress in context: principal components, one head at a time."""

import math

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from learndyn.compare import drops
from learndyn.dynamics import VanishingFlow, vanishing_flow
from learndyn.experiments.agf.settings import Settings
from learndyn.laws import staircase as law
from learndyn.neurons import InContext, Problem, Start, polar
from learndyn.noise import generator
from learndyn.record import Progress

LOOKS = 600
FEW_ALPHA = 1e-3


def problem(settings: Settings, seed: int) -> InContext:
    """Σ with eigenvalues proportional to 1, 1/2, ..., 1/D and a trace of 2, turned at random."""
    values = 1 / np.arange(1.0, settings.directions + 1)
    turn = np.linalg.qr(generator(seed, "covariance").standard_normal((settings.directions, settings.directions)))[0]
    sigma = turn @ np.diag(2 * values / values.sum()) @ turn.T
    return InContext(torch.from_numpy((sigma + sigma.T) / 2), settings.examples)


def directions(settings: Settings, seed: int, heads: int) -> Start:
    """Heads for α = 1: every number is N(0, 1), and |N(0, 1)| in v, as in the paper."""
    draw = generator(seed, "heads").standard_normal((heads, 1 + 2 * settings.directions))
    draw[:, 0] = np.abs(draw[:, 0])
    return polar(torch.from_numpy(draw))


def seen(problem: Problem, run: VanishingFlow, times: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and loss of a flow at times of one's own, by the solver's own interpolation."""
    weights = torch.stack([run.at(float(t)).weights() for t in times])
    return weights, torch.stack([problem.loss(theta) for theta in weights])


def measure_attention(settings: Settings, seed: int, progress: Progress) -> xr.Dataset:
    """The flow, averaged over all prompts, under the general algorithm, from the same heads at every α.

    Returns:
        Over (attention_alpha, attention_look): `attention_time`, `attention_loss` with `predicted_`, and with
        attention_mode `attention_modes`, e_lᵀMe_l; over (attention_alpha, attention_drop): `attention_jumps`, flow
        times, with `predicted_` and `predicted_attention_bound`, the earliest that the largest dormant head at the
        drop before could come; over (attention_alpha, attention_plateau) `attention_levels`,
        `predicted_attention_levels` in closed form and `alternated_attention_levels` by the algorithm; over
        attention_mode `attention_weights` with `predicted_`; `few_loss` and `predicted_few_loss`, where `few_heads`
        end; `few_drops`.
    """
    task = problem(settings, seed)
    modes = law.attention_staircase(task.covariance, settings.examples, settings.heads)
    start = directions(settings, seed, settings.heads)
    found = [_one(task, modes, start.scaled(math.log(alpha)), progress) for alpha in settings.attention_alphas]
    made = xr.concat(found, "attention_alpha").assign_coords(attention_alpha=list(settings.attention_alphas))
    few = law.attention_staircase(task.covariance, settings.examples, settings.few_heads)
    begun = directions(settings, seed + 1000, settings.few_heads).scaled(math.log(FEW_ALPHA))
    said = law.alternate(task, begun)
    run = vanishing_flow(task, begun, 1.5 * float(said.times[-1]))
    progress("attention", 100)
    weights = made.attention_modes.isel(attention_alpha=-1, attention_look=-1, drop=True)
    return made.assign(
        attention_weights=weights,
        predicted_attention_weights=("attention_mode", modes.weights.numpy()),
        predicted_attention_levels=("attention_plateau", modes.staircase.levels.numpy()),
        few_loss=float(run.loss[-1]),
        predicted_few_loss=float(few.staircase.levels[-1]),
        few_drops=len(said.times),
    )


def _one(task: InContext, modes: law.AttentionModes, start: Start, progress: Progress) -> xr.Dataset:
    said = law.alternate(task, start)
    count = len(modes.weights)
    run = vanishing_flow(task, start, 1.3 * float(said.times[-1]))
    found = drops(run.times, run.loss, modes.staircase.levels.numpy(), log=False)
    # the largest dormant head when a round begins: all but those that have woken before it
    norms = [float(start.log_norms.exp().max())]
    for k, time in enumerate(found.times[:-1], start=1):
        seen_at = math.isfinite(time)
        norms.append(
            float(run.at(float(time)).log_norms.sort(descending=True).values[k].exp()) if seen_at else math.nan
        )
    before = torch.tensor([0.0, *found.times[:-1]], dtype=torch.float64)
    known = torch.tensor(norms).isfinite()
    bound = torch.full_like(before, math.nan)
    size = torch.tensor(norms, dtype=torch.float64)[known]
    bound[known] = law.lower_bounds(modes.utilities[known], size, 3, before[known])
    times = torch.logspace(math.log10(0.02 * float(said.times[0])), math.log10(float(run.times[-1])), LOOKS).double()
    times[-1] = run.times[-1]
    weights, loss = seen(task, run, times)
    basis = modes.eigenvectors
    grown = torch.stack([(basis.T @ task.learnt(theta) @ basis).diagonal() for theta in weights])
    jumps, levels = np.full(count, np.nan), np.full(count + 1, np.nan)
    jumps[: len(said.times)], levels[: len(said.levels)] = said.times[:count], said.levels[: count + 1]
    progress("attention", 100)
    look, drop, plateau = "attention_look", "attention_drop", "attention_plateau"
    return xr.Dataset(
        {
            "attention_time": (look, times.numpy()),
            "attention_loss": (look, loss.numpy()),
            "predicted_attention_loss": (look, said.loss(times).numpy()),
            "attention_modes": ((look, "attention_mode"), grown.numpy()),
            "attention_jumps": (drop, found.times),
            "predicted_attention_jumps": (drop, jumps),
            "predicted_attention_bound": (drop, bound.numpy()),
            "attention_levels": (plateau, found.levels),
            "alternated_attention_levels": (plateau, levels),
        }
    )
