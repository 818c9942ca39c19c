"""Diagonal linear networks from starts down to 1e-300: their path through saddles, and how it is approached."""

import math

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from learndyn.compare import drops, half_power, towards_zero
from learndyn.dynamics import diagonal_flow
from learndyn.experiments.agf.settings import Settings
from learndyn.laws import staircase as law
from learndyn.noise import generator
from learndyn.record import Progress

NEAR = 8.0  # flow time on each side of a drop that is looked at closely
FINE, COARSE = 161, 200
RANDOM, WIDTH, SAMPLES = 8, 6, 15  # further problems of correlated inputs
RANDOM_SIZES = (1e-30, 1e-60)
LONGEST = 8.0  # time, over ln(1/α), to which they are followed
DEEP = 3  # smallest starts that are extrapolated


def plane() -> tuple[Tensor, Tensor]:
    """The paper's illustration, y = Xβ with β = (−0.2, 2): a coordinate wakes, sleeps and wakes with the other sign."""
    angle = math.radians(150)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    x = np.linalg.cholesky(turn @ np.diag([1.0, 25.0]) @ turn.T)
    return torch.from_numpy(x), torch.from_numpy(x @ [-0.2, 2.0])


def five() -> tuple[Tensor, Tensor]:
    """The paper's problem in five dimensions (NumPy's legacy generator, seed 10), twenty samples."""
    draw = np.random.RandomState(10)
    x = draw.randn(20, 5) @ np.diag(1 / np.sqrt(np.arange(1, 6)))
    return torch.from_numpy(x), torch.from_numpy(x @ (10 * draw.randn(5)))


def correlated(seed: int) -> tuple[Tensor, Tensor]:
    """A random problem whose columns depend on each other, so that coordinates fall asleep again."""
    draw = generator(seed, "correlated inputs")
    x = draw.standard_normal((SAMPLES, WIDTH)) @ (np.eye(WIDTH) + 0.6 * draw.standard_normal((WIDTH, WIDTH)))
    return torch.from_numpy(x), torch.from_numpy(x @ draw.standard_normal(WIDTH))


def measure_diagonal(settings: Settings, progress: Progress) -> xr.Dataset:
    """Both problems of the paper at every α, and random ones at two.

    Returns:
        With a prefix plane or five, over (alpha, look): `time` (units of ln(1/α)), `loss`, `beta`, `s`, each but the
        time with its `predicted_`; over (alpha, drop): `jumps` in those units; over drop: `limit`, `shift`, both
        of jumps extrapolated to α = 0, `predicted_times`, `predicted_drop` (which coordinate); over (alpha, plateau)
        `plateau_loss`; over (alpha, coordinate): `learned`, when half of its last power was there; over alpha:
        `gap`, sup |s − s of the limit|. Over (random, random_alpha): `random_gap`; over random: `random_sleeps`.
    """
    parts = []
    for name, problem in (("plane", plane()), ("five", five())):
        parts.append(_problem(name, problem, settings.alphas))
        progress("diagonal networks", 1000)
    return xr.merge([*parts, _random(progress)])


def looks(path: law.DiagonalPath, decades: float) -> Tensor:
    """Times in units of ln(1/α), fine where the loss drops."""
    times = path.staircase.times
    near = times[:, None] + torch.linspace(-NEAR, NEAR, FINE, dtype=torch.float64) / decades
    found = torch.cat([near.flatten(), torch.linspace(0, 1.1 * float(times[-1]), COARSE, dtype=torch.float64)])
    return found[found >= 0].unique()


def _problem(name: str, problem: tuple[Tensor, Tensor], alphas: tuple[float, ...]) -> xr.Dataset:
    path = law.diagonal_staircase(*problem)
    stairs, last = path.staircase, path.betas[-1].numpy()
    runs, seen = [], []
    for alpha in alphas:
        decades = -math.log(alpha)
        at = looks(path, decades)
        run = diagonal_flow(*problem, decades, at)
        found = drops(run.time, run.loss, stairs.levels.numpy(), log=False)
        said = {"loss": stairs.loss(at), "beta": path.beta(at), "s": path.accumulated(at)}
        gap = float(np.abs(run.s.values - said["s"].numpy()).max())
        learned = [half_power(run.time, run.beta[:, i], last[i], log=False).step or math.nan for i in range(len(last))]
        seen.append((found, gap, learned))
        over = {"loss": (), "beta": (f"{name}_coordinate",), "s": (f"{name}_coordinate",)}
        runs.append(
            xr.Dataset(
                {f"{name}_time": (f"{name}_look", at.numpy())}
                | {f"{name}_{n}": ((f"{name}_look", *dims), run[n].values) for n, dims in over.items()}
                | {f"predicted_{name}_{n}": ((f"{name}_look", *dims), said[n].numpy()) for n, dims in over.items()}
            )
        )
    longest = max(run.sizes[f"{name}_look"] for run in runs)
    padded = [run.pad({f"{name}_look": (0, longest - run.sizes[f"{name}_look"])}) for run in runs]
    made = xr.concat(padded, "alpha").assign_coords(alpha=list(alphas))
    deep = slice(-DEEP, None)  # drops that are near each other are one until the start is small
    limit = towards_zero(np.array(alphas[deep]), np.stack([found.times for found, _, _ in seen[deep]]))
    first = [next(e.neuron for e in stairs.events if e.time == float(t)) for t in stairs.times]
    middles = _middles(made, name, stairs)
    return made.assign(
        {
            f"{name}_jumps": (("alpha", f"{name}_drop"), np.stack([found.times for found, _, _ in seen])),
            f"{name}_plateau_loss": (("alpha", f"{name}_plateau"), np.stack([found.levels for found, _, _ in seen])),
            f"{name}_gap": ("alpha", [gap for _, gap, _ in seen]),
            f"{name}_learned": (("alpha", f"{name}_coordinate"), np.array([learned for _, _, learned in seen])),
            f"{name}_limit": (f"{name}_drop", limit.times),
            f"{name}_shift": (f"{name}_drop", limit.shifts),
            f"{name}_off_plateau": (("alpha", f"{name}_plateau"), middles),
            f"predicted_{name}_times": (f"{name}_drop", stairs.times.numpy()),
            f"predicted_{name}_drop": (f"{name}_drop", first),
            f"predicted_{name}_plateau_loss": (f"{name}_plateau", stairs.levels.numpy()),
        }
    )


def _middles(made: xr.Dataset, name: str, stairs: law.Staircase) -> np.ndarray:
    """Max |β − β of the limit| over the largest |β|, in the middle of every plateau: 0 where it sleeps, too."""
    edges = [0.0, *stairs.times.tolist(), 1.1 * float(stairs.times[-1])]
    beta, said = made[f"{name}_beta"].values, made[f"predicted_{name}_beta"].values
    times, off = made[f"{name}_time"].values, []
    for k, row in enumerate(times):
        at = [int(np.nanargmin(np.abs(row - (a + b) / 2))) for a, b in zip(edges, edges[1:])]
        off.append(np.abs(beta[k, at] - said[k, at]).max(1) / np.nanmax(np.abs(said)))
    return np.array(off)


def _random(progress: Progress) -> xr.Dataset:
    gaps, sleeps = np.empty((RANDOM, len(RANDOM_SIZES))), np.empty(RANDOM)
    for i in range(RANDOM):
        problem = correlated(i)
        path = law.diagonal_staircase(*problem)
        end = min(float(path.times[-1]), LONGEST)
        sleeps[i] = sum(e.kind == "deactivation" and e.time < end for e in path.staircase.events)
        at = torch.linspace(0, end, 800, dtype=torch.float64)
        for j, alpha in enumerate(RANDOM_SIZES):
            run = diagonal_flow(*problem, -math.log(alpha), at, rtol=1e-6)
            gaps[i, j] = np.abs(run.s.values - path.accumulated(at).numpy()).max()
        progress("random problems", 100)
    data = {"random_gap": (("random", "random_alpha"), gaps), "random_sleeps": ("random", sleeps)}
    return xr.Dataset(data, {"random_alpha": list(RANDOM_SIZES)})
