"""What the chaos grid costs, as ratios measured in one process (machines are noisy; the two sides take turns).

    python benchmarks/replay.py [--out benchmarks/results/replay.txt]

(a) The (t0, t1) grid of twins against a plain PyTorch loop. The least number of training steps is
    T + directions x sum over t0 of (T - t0); "grid" is the time of the grid without its comparisons (evaluation,
    barriers), that is training, noise tape, forks, rounding floors, snapshots and records, over the time of that many
    steps of the plain loop. "naive" is what training every cell from scratch would cost, likewise.
(b) K replicas in one batched network against one after the other; "rule" is what `choose_engine` takes.
"""

import argparse
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from learndyn.dynamics import State, fork, train_together
from learndyn.dynamics.determinism import deterministic
from learndyn.dynamics.replicas import choose_engine, training_work
from learndyn.experiments.two_phase import PRESETS, Settings, grid
from learndyn.record import _processor, silent

QUICK = PRESETS["quick"]
SHORT = {"t1": (75, 150), "steps": 150, "t0": (0, 25, 50, 100), "horizons": (), "seeds": 1, "points": 3, "probes": 0}
LONG = SHORT | {"t1": (300, 600), "steps": 600, "t0": (0, 100, 200, 400)}  # for steps of less than 3 ms


@dataclass(frozen=True)
class Case:
    """A network to time."""

    name: str
    settings: Settings


def cases() -> list[Case]:
    """From a step that is all overhead to one that is all arithmetic."""
    digits, image = "digits(batch_size=64)", "digits(batch_size=64, image=True)"
    calm = "sgd(lr=0.05, momentum=0.9, weight_decay=5e-4)"
    return [
        Case(
            "MLP 64-64-64-10, f32", replace(QUICK, task=digits, model="mlp(width=64)", optimizer=calm, dtype="float32")
        ),
        Case("BN-MLP 64-128x4-10, f64 (quick)", QUICK),
        Case("BN-MLP 64-128x4-10, f32", replace(QUICK, dtype="float32")),
        Case("tiny-VGG 8x8, f32", replace(QUICK, task=image, model="tiny_vgg", optimizer=calm, dtype="float32")),
        Case(
            "ResNet-8 (8/16/32) 8x8, f32", replace(QUICK, task=image, model="resnet8", optimizer=calm, dtype="float32")
        ),
        Case(
            "MLP 64-512-512-10, f32",
            replace(QUICK, task=digits, model="mlp(width=512)", optimizer=calm, dtype="float32"),
        ),
        Case(
            "ResNet-8 (16/32/64) 8x8, f32",
            replace(QUICK, task=image, model="resnet8(width=16)", optimizer=calm, dtype="float32"),
        ),
    ]


def plain_loop(state: State, steps: int) -> float:
    """Seconds of a training loop as anyone would write it: shuffled indices, loss, backward, step."""
    state = fork(state)
    model, optimizer, data = state.model.train(), state.optimizer, state.task.train
    draw, size, order = np.random.default_rng(0), state.task.batch_size, np.empty(0, dtype=int)
    began = time.perf_counter()
    for _ in range(steps):
        if len(order) < size:
            order = draw.permutation(len(data.inputs))
        chosen, order = torch.from_numpy(order[:size]), order[size:]
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(data.inputs[chosen]), data.targets[chosen])
        loss.backward()
        optimizer.step()
    return time.perf_counter() - began


def time_grid(settings: Settings) -> float:
    """Seconds of a whole grid, without the comparisons of twins."""
    comparing = 0.0
    row = grid._Grid._row

    def timed(self, index: int, step: int):  # noqa: ANN202
        nonlocal comparing
        began = time.perf_counter()
        try:
            return row(self, index, step)
        finally:
            comparing += time.perf_counter() - began

    grid._Grid._row = timed
    try:
        with tempfile.TemporaryDirectory() as folder:
            state = grid.initial_state(settings, 0)
            began = time.perf_counter()
            grid._Grid(settings, 0, state, Path(folder), silent).finish()
            return time.perf_counter() - began - comparing
    finally:
        grid._Grid._row = row


def compare_grid(case: Case, repeats: int) -> str:
    """One line of table (a)."""
    settings = replace(case.settings, **SHORT, control=False, schedule="constant")
    if plain_loop(grid.initial_state(settings, 0), 20) < 20 * 3e-3:
        settings = replace(settings, **LONG)
    least = settings.steps + settings.directions * sum(settings.steps - t0 for t0 in settings.t0)
    naive = settings.steps + settings.directions * sum(t1 for t0 in settings.t0 for t1 in settings.t1 if t1 > t0)
    state = grid.initial_state(settings, 0)
    plain_loop(state, 20)
    ratios: dict[str, list[float]] = {"loop": [], "auto": []}
    step = []
    for _ in range(repeats):
        for engine, found in ratios.items():
            before = plain_loop(state, settings.steps)
            spent = time_grid(replace(settings, engine=engine))
            plain = (before + plain_loop(state, settings.steps)) / (2 * settings.steps)
            step.append(plain)
            found.append(spent / (least * plain))
    loop, auto = (f"{statistics.median(r):5.2f} ({min(r):.2f}-{max(r):.2f})" for r in ratios.values())
    return f"{case.name:<34}{1e3 * statistics.median(step):9.2f}   {loop:>18}   {auto:>18}   {naive / least:8.2f}"


def compare_replicas(case: Case, counts: tuple[int, ...], repeats: int) -> str:
    """One line of table (b)."""
    base = grid.initial_state(replace(case.settings, schedule="constant"), 0)
    cells = []
    for count in counts:
        sides: dict[str, list[float]] = {"loop": [], "vmap": []}
        for turn in range(repeats + 1):
            for engine, seconds in sides.items():
                states = [fork(base) for _ in range(count)]
                began = time.perf_counter()
                train_together(states, 20, engine)
                if turn:
                    seconds.append((time.perf_counter() - began) / 20 / count * 1e3)
        gain = statistics.median(a / b for a, b in zip(*sides.values()))
        rule = choose_engine(base, count)
        cells.append(f"{statistics.median(sides['loop']):6.2f} {gain:5.2f}x {rule:<4}")
    return f"{case.name:<34}{training_work(base) / 1e6:9.1f}   " + "   ".join(cells)


def main() -> None:
    """Print both tables, and keep them if asked to."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, help="file to keep the tables in")
    arguments.add_argument("--repeats", type=int, default=5)
    chosen = arguments.parse_args()
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    with deterministic("cpu", 1):
        say(f"{_processor()}, 1 thread, torch {torch.__version__}, Python {platform.python_version()}")
        counts = (2, 4, 8, 16)
        say("\n(b) replicas: ms a replica-step one after the other, gain of batching, what the rule takes")
        say(f"{'network':<34}{'M mult-add':>10}  " + "   ".join(f"{f'K = {k}':<18}" for k in counts))
        _each(cases(), lambda case: compare_replicas(case, counts, chosen.repeats), say)
        say("\n(a) grid of twins over the least number of plain training steps; median (range)")
        say(f"{'network':<34}{'plain ms':>9}   {'engine loop':>18}   {'engine auto':>18}   {'naive':>8}")
        _each(cases(), lambda case: compare_grid(case, chosen.repeats), say)
    if chosen.out:
        chosen.out.write_text("\n".join([f"$ python {' '.join(sys.argv)}", *lines]) + "\n")


def _each(these: list[Case], measure: Callable[[Case], str], say: Callable[[str], None]) -> None:
    for case in these:
        say(measure(case))


if __name__ == "__main__":
    main()
