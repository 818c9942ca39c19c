"""A grid of two-layer ReLU networks at once against a loop over its cells with torch.optim.SGD and autograd.

    python benchmarks/grid.py [--cells 16] [--device cpu] [--out benchmarks/results/grid.txt]

Both take the same full-batch steps from the same weights, in turns, and the best of several turns counts; the loop's
modules and optimizers are built beforehand. "difference" is the largest one of the weights after all steps of a turn,
relative to their largest entry. Blocks of memory are kept for both (`learndyn.runtime`): the loop asks for new ones at
every step and would look slower than it must. "piece" is the number of cells that go through all steps together; "own"
is the library's choice. The matrix products of a step, 4 n d h operations forward and backward, are what no way of
writing it saves at large sizes: "products" is the time of these alone, cell by cell.
"""

import argparse
import datetime
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import learndyn
from learndyn.dynamics import Grid, Nets, advance_grid, grid, normalised_lr
from learndyn.record import _processor
from learndyn.runtime import keep_memory
from learndyn.tasks import relu_teacher

#: d, n, units, steps in a turn
SIZES = {
    "the paper's (Fig. 1b)": (100, 1000, 50, 40),
    "half of it": (50, 400, 50, 100),
    "small": (20, 100, 20, 300),
    "in the plane (Fig. 1a)": (2, 20, 50, 300),
}


def loop(g: Grid) -> Callable[[int], Nets]:
    """Steps of every cell by autograd and torch.optim.SGD."""
    x, y = g.inputs[0], g.targets[0][:, None]
    nets = []
    for first, last, lr in zip(g.start.first[0], g.start.last[0], g.lr[0]):
        model = nn.Sequential(
            nn.Linear(first.shape[1], len(first), bias=False), nn.ReLU(), nn.Linear(len(first), 1, False)
        )
        model = model.to(first)
        with torch.no_grad():
            model[0].weight.copy_(first)
            model[2].weight.copy_(last[None])
        nets.append((model, torch.optim.SGD(model.parameters(), lr=float(lr))))

    def steps(count: int) -> Nets:
        for model, optimizer in nets:
            for _ in range(count):
                optimizer.zero_grad()
                (model(x) - y).square().mean().backward()
                optimizer.step()
        weights = [[model[i].weight.detach() for model, _ in nets] for i in (0, 2)]
        return Nets(torch.stack(weights[0])[None], torch.stack(weights[1])[None, :, 0])

    return steps


def products(g: Grid, count: int) -> None:
    """The two matrix products of a step, for every cell."""
    w, x = g.start.first[0, 0].contiguous(), g.inputs[0]
    z = torch.empty(len(w), len(x), dtype=w.dtype, device=w.device)
    out = torch.empty_like(w)
    for _ in range(count * len(g.tau)):
        torch.mm(w, x.T, out=z)
        torch.mm(z, x, out=out)


def timed(work: Callable[[], object], device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def off(found: Nets, true: Nets) -> float:
    def one(a: Tensor, b: Tensor) -> float:
        return float((a - b).abs().max() / b.abs().max())

    return max(one(a, b) for a, b in zip(found, true))


def compared(
    g: Grid, count: int, pieces: dict[str, int | None], turns: int, device: str
) -> tuple[dict[str, float], float]:
    """Microseconds for one step of one cell by every way, and how far the two ends are apart."""
    stepping = loop(g)
    difference = off(advance_grid(g, g.start, 0, count)[0], stepping(count))
    ways: dict[str, Callable[[], object]] = {
        "products": partial(products, g, count),
        "loop": partial(stepping, count),
        **{name: partial(advance_grid, g, g.start, 0, count, piece) for name, piece in pieces.items()},
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, work in ways.items():
            spent[name].append(timed(work, device))
    return {name: 1e6 * min(times) / count / len(g.tau) for name, times in spent.items()}, difference


def main() -> None:
    """Print the table, and keep it if asked to."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cells", type=int, default=16)
    arguments.add_argument("--turns", type=int, default=5)
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--plain", action="store_true", help="leave the allocator as it is")
    arguments.add_argument("--out", type=Path, help="file to keep the table in")
    chosen = arguments.parse_args()
    torch.set_num_threads(chosen.threads)
    kept = not chosen.plain and keep_memory()
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)
        if chosen.out:
            chosen.out.write_text("\n".join([f"$ python {' '.join(sys.argv)}", *lines]) + "\n")

    device = _processor() if chosen.device == "cpu" else torch.cuda.get_device_name()
    say(
        f"{device}, threads: {chosen.threads}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"learndyn {learndyn.__version__}, {datetime.date.today()}, memory {'kept' if kept else 'as it is'}"
    )
    say(f"{chosen.cells} cells, one seed; microseconds for one step of one cell, best of {chosen.turns} turns")
    tau = torch.logspace(-1, 0.3, chosen.cells, dtype=torch.float64)
    delta = torch.linspace(-1, 1, chosen.cells, dtype=torch.float64)
    pieces = {"own": None, "1": 1, "all": chosen.cells}
    for precision in (torch.float64, torch.float32):
        header = f"{str(precision)[6:]:<24}{'d':>5}{'n':>6}{'units':>6}{'products':>10}{'loop':>8}"
        header += "".join(f"{f'piece {name}':>11}{'ratio':>7}" for name in pieces) + f"{'difference':>12}"
        say(f"\n{header}")
        for name, (d, n, units, count) in SIZES.items():
            task = relu_teacher(n, 10, d, dtype="float64")
            g = grid(tau, delta, (0,), [task], units, dtype=precision, device=chosen.device)
            g = replace(g, lr=normalised_lr(g).to(g.lr))  # the paper's diverges in the plane
            best, difference = compared(g, count, pieces, chosen.turns, chosen.device)
            row = f"{name:<24}{d:>5}{n:>6}{units:>6}{best['products']:>10.1f}{best['loop']:>8.1f}"
            row += "".join(f"{best[label]:>11.1f}{best['loop'] / best[label]:>7.2f}" for label in pieces)
            say(f"{row}{difference:>12.1e}")


if __name__ == "__main__":
    main()
