"""The exact solution of balanced two-layer linear networks against integrating their gradient flow.

    python benchmarks/exact.py [--widths 10 50 200] [--out benchmarks/results/exact.txt]

Both give W2 W1, W1'W1 and W2 W2' to 1e-8 of their largest entry, (a) at one late time and (b) at 100 times at once,
logarithmic from 0.01 to the same late time. The flow is integrated by SciPy's DOP853 on the weights with hand-written
right-hand side (three products a call), at the largest of a ladder of tolerances that reaches 1e-8 at every time asked
for; the ladder is climbed beforehand and not timed. Both errors are taken from DOP853 at rtol 1e-13, which is itself
trusted to some 1e-11. d = h = c, lambda = 0.5, task singular values some 0 to 2, start 0.1 of that: a rich run, learned
by t = 20, after which DOP853's steps are bounded by stability. Best of repetitions, turn by turn.
"""

import argparse
import datetime
import platform
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import learndyn
from learndyn import noise
from learndyn.laws import balanced
from learndyn.models.balanced import sample_balanced
from learndyn.record import _processor

ACCURACY, LAMBDA = 1e-8, 0.5
LADDER = [10.0**-k for k in range(5, 13)]
HEADER = f"{'width':>5}{'times':>7}{'latest':>9}{'exact ms':>10}{'DOP853 ms':>11}{'ratio':>8}{'rtol':>8}{'calls':>9}"
HEADER += f"{'error exact':>13}{'DOP853':>9}"


def start(width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Both layers and the task, Gaussian over the root of the width."""
    draw = noise.generator(0, "benchmark", width)
    sigma = torch.from_numpy(draw.standard_normal((width, width)) / np.sqrt(width))
    w1, w2 = sample_balanced((width, width, width), (LAMBDA,), draw, scale=0.1)
    return w1, w2, sigma


def integrate(w1: Tensor, w2: Tensor, sigma: Tensor, times: np.ndarray, rtol: float) -> tuple[np.ndarray, int]:
    """[[W1'W1, .], [W2 W1, W2 W2']] at the times by DOP853, and the calls of the right-hand side."""
    (h, d), c, target = w1.shape, len(w2), sigma.numpy()

    def slope(_: float, y: np.ndarray) -> np.ndarray:
        first, last = y[: h * d].reshape(h, d), y[h * d :].reshape(c, h)
        error = target - last @ first
        out = np.empty_like(y)
        np.matmul(last.T, error, out=out[: h * d].reshape(h, d))
        np.matmul(error, first.T, out=out[h * d :].reshape(c, h))
        return out

    y0 = np.concatenate([w1.numpy().ravel(), w2.numpy().ravel()])
    found = solve_ivp(slope, (0, times[-1]), y0, "DOP853", rtol=rtol, atol=rtol * 1e-2, t_eval=times)
    q = [np.concatenate([y[: h * d].reshape(h, d).T, y[h * d :].reshape(c, h)]) for y in found.y.T]
    return np.stack([m @ m.T for m in q]), found.nfev


def solve(w1: Tensor, w2: Tensor, sigma: Tensor, times: Tensor) -> np.ndarray:
    """The same by the law."""
    found = balanced.exact(w1, w2, sigma, times, LAMBDA)
    q = torch.cat([found.w1.mT, found.w2], 1)
    return (q @ q.mT).numpy()


def seconds(work: Callable[[], object], least: float = 1.0, most: int = 20) -> float:
    """Best of repetitions, at least one and for about `least` seconds."""
    spent: list[float] = []
    while not spent or (sum(spent) < least and len(spent) < most):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return min(spent)


def off(found: np.ndarray, true: np.ndarray) -> float:
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, true))


def row(width: int, times: np.ndarray, limit: float) -> tuple[str, float]:
    """One line of the table, and the seconds of one integration."""
    w1, w2, sigma = start(width)
    asked = torch.from_numpy(times)
    exact = solve(w1, w2, sigma, asked)
    for rtol in LADDER:
        began = time.perf_counter()
        integrated, calls = integrate(w1, w2, sigma, times, rtol)
        spent = time.perf_counter() - began
        if off(integrated, exact) < ACCURACY:
            break
    if spent < limit / 4:  # a stricter integration judges both
        true, _ = integrate(w1, w2, sigma, times, 1e-13)
        errors = f"{off(exact, true):>13.1e}{off(integrated, true):>9.1e}"
    else:
        errors = f"{'-':>13}{off(integrated, exact):>9.1e}  from each other"
    quick = seconds(lambda: solve(w1, w2, sigma, asked))
    slow = min(spent, seconds(lambda: integrate(w1, w2, sigma, times, rtol), most=3)) if spent < limit / 4 else spent
    quick = min(quick, seconds(lambda: solve(w1, w2, sigma, asked)))
    text = f"{width:>5}{len(times):>7}{times[-1]:>9.0e}{1e3 * quick:>10.3g}{1e3 * slow:>11.4g}{slow / quick:>8.0f}"
    return f"{text}{rtol:>8.0e}{calls:>9}{errors}", slow


def main() -> None:
    """Print the tables, and keep them if asked to."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--widths", nargs="+", type=int, default=[10, 50, 200])
    arguments.add_argument("--latest", nargs="+", type=float, default=[1e3, 1e4])
    arguments.add_argument(
        "--limit", type=float, default=60, help="seconds of one integration above which none follows"
    )
    arguments.add_argument("--out", type=Path, help="file to keep the tables in")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("error")  # every start here is balanced and generic
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
    say(f"equal accuracy: {ACCURACY:g} of the largest entry; DOP853 at the loosest tolerance that reaches it\n{HEADER}")
    for width in chosen.widths:
        before, spent = np.inf, 0.0
        for latest in sorted(chosen.latest):
            if spent * latest / before > chosen.limit:
                say(
                    f"{width:>5}{'':>7}{latest:>9.0e}  left out: DOP853 would take some {spent * latest / before:.0f} s"
                )
                continue
            for times in (np.array([latest]), np.geomspace(1e-2, latest, 100)):
                line, spent = row(width, times, chosen.limit)
                say(line)
            before = latest


if __name__ == "__main__":
    main()
