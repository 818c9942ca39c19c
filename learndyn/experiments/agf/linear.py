"""Fully connected linear networks: modes that commute, seed by seed, and modes that do not, as the start vanishes."""

import math

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from learndyn.compare import drops, half_power, towards_zero
from learndyn.dynamics import linear_flow
from learndyn.errors import InputError
from learndyn.experiments.agf.settings import Settings
from learndyn.laws import staircase as law
from learndyn.noise import generator
from learndyn.record import Progress

TRAP, GAINS = (3.0, 2.0, 1.6), (3.0, 4.0, 5.12)  # σ, and by what a mode lowers the loss: the orders differ
LOOKS, FINE = 500, 200
MIXED = (1e-10, 1e-13)
TRIES = 200


def rotation(draw: np.random.Generator, n: int) -> np.ndarray:
    """A random orthogonal matrix."""
    return np.linalg.qr(draw.standard_normal((n, n)))[0]


def white(settings: Settings, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Σxx = I and Σyx with the given singular values."""
    modes = len(settings.values)
    c, d = modes + 2, modes + 1
    return np.eye(d), rotation(draw, c)[:, :modes] @ np.diag(settings.values) @ rotation(draw, d)[:, :modes].T


def trap(settings: Settings, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Σxx and Σyx that commute, whose modes grow in another order than that of their gains."""
    sigma, gains = np.array(TRAP), np.array(GAINS)
    left, right = rotation(draw, 4)[:, :3], rotation(draw, 3)
    return right @ np.diag(sigma**2 / gains) @ right.T, left @ np.diag(sigma) @ right.T


def falling(settings: Settings, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The paper's problem: a Gaussian map, variances 1/i² in its right singular directions."""
    n = settings.size
    left, values, right = np.linalg.svd(draw.standard_normal((n, n)))
    variances = 1 / np.arange(1.0, n + 1) ** 2
    return right.T @ np.diag(variances) @ right, left @ np.diag(values * variances) @ right


COMMUTING = {"white": white, "trap": trap, "falling": falling}


def mixed(seed: int) -> tuple[Tensor, Tensor]:
    """A well-conditioned problem of three modes that do not commute and whose order is clear."""
    draw = generator(seed, "modes that mix")
    for _ in range(TRIES):
        a, b = draw.standard_normal((3, 3)), draw.standard_normal((3, 3))
        cov = torch.from_numpy(0.5 * a @ a.T / 3 + 0.7 * np.eye(3))
        corr = torch.from_numpy(3 * b) @ cov
        times = torch.linalg.svdvals(corr).reciprocal()
        try:
            found = law.linear_staircase(cov, corr, 10)
        except InputError:
            continue
        told, gaps = found.staircase.times, found.staircase.times.diff()
        clear = not any("ambiguous" in sentence for sentence in found.staircase.sentences)
        if clear and float(told[-1]) < 12 * float(told[0]) and float((gaps / told[0]).min()) > 0.8:
            if float(((times - told).abs() / told).max()) > 0.02:
                return cov, corr
    raise AssertionError("no problem found")


def measure_linear(settings: Settings, seed: int, progress: Progress) -> xr.Dataset:
    """Three commuting problems at every α with one draw of directions, and one of modes that mix.

    Returns:
        With a prefix white, trap or falling, over (linear_alpha, look): `time`, `loss` and, with modes, `modes`, both
        with `predicted_`; over (linear_alpha, drop) `jumps`, flow times at which half of what a mode adds
        to the loss is gone, and `predicted_jumps` of this very start; over linear_alpha `loss_error`, the largest along
        a curve; over (linear_alpha, plateau) `levels`; over drop `limit` and `predicted_limit`; over plateau
        `predicted_levels`. Over mixed_drop: `mixed_limit`, `predicted_mixed_limit`, `mixed_naive`, 1/σ_k(Σyx).
    """
    parts = [_commuting(name, settings, seed, progress) for name in COMMUTING]
    return xr.merge([*parts, _mixed(seed, progress)])


def first_weights(draw: np.random.Generator, hidden: int, d: int, c: int) -> tuple[Tensor, Tensor]:
    """W(0) and A(0) for α = 1: every neuron has E‖θ‖² = 1."""
    w, a = draw.standard_normal((hidden, d)) / (2 * d) ** 0.5, draw.standard_normal((c, hidden)) / (2 * c) ** 0.5
    return torch.from_numpy(w), torch.from_numpy(a)


def _commuting(name: str, settings: Settings, seed: int, progress: Progress) -> xr.Dataset:
    draw = generator(seed, f"{name} linear problem")
    cov, corr = (torch.from_numpy(np.ascontiguousarray(part)) for part in COMMUTING[name](settings, draw))
    modes = law.linear_staircase(cov, corr, settings.hidden)
    w, a = first_weights(draw, settings.hidden, corr.shape[1], corr.shape[0])
    dims = {"loss": (f"{name}_look",), "modes": (f"{name}_look", f"{name}_mode")}
    runs, jumps, said, levels, off = [], [], [], [], []
    stairs, count = modes.staircase, len(modes.growth)
    for alpha in settings.linear_alphas:
        x = law.linear_seed(modes, alpha * w, alpha * a)
        due = law.linear_times(modes, x)
        at = _looks(due, modes.growth)
        run = linear_flow(alpha * w, alpha * a, cov, corr, at)
        found = drops(run.time, run.loss, stairs.levels.numpy(), log=False)
        curves = law.linear_curves(modes, x, at)
        mu = modes.values * modes.growth
        loss = ((mu * (1 - curves / modes.values) ** 2).sum(1) / 2).numpy()
        keep = np.unique(np.linspace(0, len(at) - 1, LOOKS).astype(int))
        values = {"loss": run.loss.values[keep], "modes": run.modes.values[keep, :count]}
        told = {"loss": loss[keep], "modes": curves.numpy()[keep]}
        runs.append(
            xr.Dataset(
                {f"{name}_time": (f"{name}_look", at.numpy()[keep])}
                | {f"{name}_{n}": (dims[n], v) for n, v in values.items()}
                | {f"predicted_{name}_{n}": (dims[n], v) for n, v in told.items()}
            )
        )
        # (1 − 1/√2) of a mode is where half of its drop is done; half_power looks for 1/√2
        last = (modes.values * (math.sqrt(2) - 1)).tolist()
        learned = [half_power(run.time, mode, end, log=False).step for mode, end in zip(run.modes.values.T, last)]
        jumps.append([math.nan if time is None else time for time in learned])
        off.append(float(np.abs(run.loss.values - loss).max() / loss[0]))
        levels.append(found.levels)
        said.append(due.numpy())
        progress("linear networks", 100)
    limit = towards_zero(np.array(settings.linear_alphas), np.stack(jumps) / -np.log(settings.linear_alphas)[:, None])
    made = xr.concat(runs, "linear_alpha").assign_coords(linear_alpha=list(settings.linear_alphas))
    over = ("linear_alpha", f"{name}_drop")
    return made.assign(
        {
            f"{name}_jumps": (over, np.stack(jumps)),
            f"predicted_{name}_jumps": (over, np.stack(said)),
            f"{name}_levels": (("linear_alpha", f"{name}_plateau"), np.stack(levels)),
            f"predicted_{name}_levels": (f"{name}_plateau", stairs.levels.numpy()),
            f"{name}_loss_error": ("linear_alpha", off),
            f"{name}_limit": (over[1], limit.times),
            f"predicted_{name}_limit": (over[1], stairs.times.numpy()),
        }
    )


def _looks(due: Tensor, growth: Tensor) -> Tensor:
    """Times from 0 on, fine where modes are learned, whose widths are 1/σ."""
    near = due[:, None] + torch.linspace(-5, 5, FINE, dtype=torch.float64) / growth[:, None]
    found = torch.cat([near.flatten(), torch.linspace(0, 1.25 * float(due[-1]), FINE, dtype=torch.float64)])
    return found[found >= 0].unique()


def _mixed(seed: int, progress: Progress) -> xr.Dataset:
    cov, corr = mixed(seed)
    modes = law.linear_staircase(cov, corr, 10)
    stairs = modes.staircase
    w, a = first_weights(generator(seed, "mixed start"), 10, 3, 3)
    jumps = []
    for alpha in MIXED:
        decades = -math.log(alpha)
        at = torch.linspace(0, (1.1 * float(stairs.times[-1]) + 0.2) * decades, 8000, dtype=torch.float64)
        run = linear_flow(alpha * w, alpha * a, cov, corr, at, rtol=1e-10)
        jumps.append(drops(run.time, run.loss, stairs.levels.numpy(), log=False).times / decades)
        progress("modes that mix", 100)
    limit = towards_zero(np.array(MIXED), np.stack(jumps))
    naive = torch.linalg.svdvals(corr).reciprocal()[: len(stairs.times)]
    data = {"mixed_limit": limit.times, "predicted_mixed_limit": stairs.times.numpy(), "mixed_naive": naive.numpy()}
    return xr.Dataset({name: ("mixed_drop", values) for name, values in data.items()})
