"""Predicted staircases against the flows and the training that they predict, from starts of 1e-8.

    python benchmarks/staircase.py [--alpha 1e-8] [--out benchmarks/results/staircase.txt]

"predict": the closed form or exact algorithm for diagonal and linear networks, `alternate` for attention and modular
addition (p = 9, 12 neurons). "flow": gradient flow in coordinates made for vanishing starts. "descent": plain gradient
descent of torch on the loss with autograd, in float64, at 95 % of the largest stable step 2/λ_max of the Hessian where
the flow ends; a step is timed as the best of three times 200, and the whole run is the number of steps times that, not
run. Ratios are over "predict". One thread, each once, predictions of less than a second as the best of five.
"""

import argparse
import datetime
import math
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy
import torch
from torch import Tensor

import learndyn
from learndyn import groups, neurons
from learndyn.compare import drops
from learndyn.dynamics import diagonal_flow, linear_flow, vanishing_flow
from learndyn.experiments.agf import diagonal, linear, modular, settings
from learndyn.experiments.agf.attention import directions
from learndyn.experiments.agf.attention import problem as attention_problem
from learndyn.laws import staircase as law
from learndyn.noise import generator
from learndyn.record import _processor

HEADER = f"{'network':<12}{'predict s':>11}{'flow s':>9}{'ratio':>8}{'steps':>10}{'step us':>9}"
HEADER += f"{'descent s':>12}{'ratio':>10}{'worst time':>12}{'worst level':>13}"
STEPS, TURNS, STABLE = 200, 3, 0.95


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Seconds, the best of five if it is quick, and what came out."""
    spent: list[float] = []
    while not spent or (sum(spent) < 1 and len(spent) < 5):
        began = time.perf_counter()
        made = work()
        spent.append(time.perf_counter() - began)
    return min(spent), made


def descent(problem: neurons.Problem, theta: Tensor, until: float) -> tuple[float, float]:
    """Steps of plain descent to a flow time, at the largest stable rate where it ends, and seconds of one."""
    flat = theta.flatten()
    hessian = torch.autograd.functional.hessian(lambda y: problem.loss(y.view(theta.shape)), flat)
    rate = STABLE * 2 / float(torch.linalg.eigvalsh(hessian)[-1])
    best = math.inf
    for _ in range(TURNS):
        leaf = theta.clone().requires_grad_()
        began = time.perf_counter()
        for _ in range(STEPS):
            (slope,) = torch.autograd.grad(problem.loss(leaf), leaf)
            with torch.no_grad():
                leaf -= rate * slope
        best = min(best, time.perf_counter() - began)
    return until / rate, best / STEPS


def row(name: str, predict: float, flow: float, plain: tuple[float, float], off: tuple[float, float]) -> str:
    steps, step = plain
    text = f"{name:<12}{predict:>11.2g}{flow:>9.2g}{flow / predict:>8.2g}{steps:>10.2g}{1e6 * step:>9.0f}"
    return f"{text}{steps * step:>12.3g}{steps * step / predict:>10.2g}{off[0]:>12.1e}{off[1]:>13.1e}"


def errors(times: object, loss: object, said: Tensor, levels: Tensor) -> tuple[float, float]:
    """Largest relative error of a drop's time and of a level above 1e-6 of the first."""
    found = drops(times, loss, levels.cummin(0).values.numpy(), log=False)
    high = levels.numpy() > 1e-4 * float(levels[0])
    time = np.nanmax(np.abs(found.times / said.numpy() - 1))
    return float(time), float(np.nanmax(np.abs(found.levels[high] / levels.numpy()[high] - 1)))


def of_diagonal(alpha: float) -> str:
    x, y = diagonal.five()
    predict, path = timed(lambda: law.diagonal_staircase(x, y, alpha))
    stairs, decades = path.staircase, -math.log(alpha)
    times = torch.linspace(0, 1.1 * float(stairs.times[-1]) / decades, 2000, dtype=torch.float64)
    flow, run = timed(lambda: diagonal_flow(x, y, decades, times))
    beta = torch.from_numpy(run.beta.values[-1])
    theta = torch.stack([beta.abs().sqrt(), beta.sign() * beta.abs().sqrt()], 1)
    problem = neurons.sampled(neurons.diagonal(), x, y[:, None], 2)
    off = errors(run.time.values * decades, run.loss, stairs.times, stairs.levels)
    return row("diagonal", predict, flow, descent(problem, theta, 1.1 * float(stairs.times[-1])), off)


def of_linear(alpha: float) -> str:
    preset, draw = settings.PRESETS["quick"], generator(0, "benchmark")
    cov, corr = (torch.from_numpy(np.ascontiguousarray(m)) for m in linear.white(preset, draw))
    w, a = (alpha * m for m in linear.first_weights(draw, preset.hidden, corr.shape[1], corr.shape[0]))

    def said() -> tuple[law.LinearModes, Tensor]:
        modes = law.linear_staircase(cov, corr, preset.hidden)
        return modes, law.linear_times(modes, law.linear_seed(modes, w, a))

    predict, (modes, due) = timed(said)
    times = torch.linspace(0, 1.2 * float(due[-1]), 2000, dtype=torch.float64)
    flow, run = timed(lambda: linear_flow(w, a, cov, corr, times))
    x = len(cov) ** 0.5 * torch.eye(len(cov), dtype=torch.float64)
    problem = neurons.sampled(neurons.linear(len(corr)), x, x @ corr.T, sum(corr.shape))
    root = modes.values.sqrt()
    theta = torch.zeros(preset.hidden, sum(corr.shape), dtype=torch.float64)
    theta[: len(root)] = torch.cat([root[:, None] * modes.right.T, root[:, None] * modes.left.T], 1)
    off = errors(run.time, run.loss, due, modes.staircase.levels)
    return row("linear", predict, flow, descent(problem, theta, float(times[-1])), off)


def of_general(name: str, problem: neurons.Problem, start: neurons.Start) -> str:
    predict, said = timed(lambda: law.alternate(problem, start))
    until = 1.2 * float(said.times[-1])
    flow, run = timed(lambda: vanishing_flow(problem, start, until))
    last = run.at(float(run.times[-1])).weights()
    return row(name, predict, flow, descent(problem, last, until), errors(run.times, run.loss, said.times, said.levels))


def main() -> None:
    """Print the tables, and keep them if asked to."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--alpha", type=float, default=1e-8)
    arguments.add_argument("--out", type=Path, help="file to keep the tables in")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)
        if chosen.out:
            chosen.out.write_text("\n".join([f"$ python {' '.join(sys.argv)}", *lines]) + "\n")

    say(
        f"{_processor()}, 1 thread, torch {torch.__version__}, NumPy {np.__version__}, SciPy {scipy.__version__}, "
        f"Python {platform.python_version()}, learndyn {learndyn.__version__}, {datetime.date.today()}"
    )
    say(f"alpha {chosen.alpha:g}; descent is extrapolated from the time of a step\n{HEADER}")
    say(of_diagonal(chosen.alpha))
    say(of_linear(chosen.alpha))
    preset = settings.PRESETS["quick"]
    heads = directions(preset, 0, preset.heads).scaled(math.log(chosen.alpha))
    say(of_general("attention", attention_problem(preset, 0), heads))
    problem, start = modular.problem(preset, 0)
    say(of_general("modular", problem, start.scaled(math.log(chosen.alpha / preset.modular_alpha))))
    say(f"{'irreps of':<34}{'order':>6}{'irreps':>8}{'s':>9}{'defect':>10}")
    for group in (
        groups.alternating(5),
        groups.symmetric(5),
        groups.direct_product(groups.dihedral(10), groups.cyclic(10)),
    ):
        began = time.perf_counter()
        found = groups.irreps(group)
        spent = time.perf_counter() - began
        worst = groups.defect(group, found)
        say(f"{group.label:<34}{group.order:>6}{len(found):>8}{spent:>9.2g}{worst:>10.1e}")


if __name__ == "__main__":
    main()
