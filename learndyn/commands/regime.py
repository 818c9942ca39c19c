"""learndyn regime: the imbalance of hidden units, and whether a network is going to be lazy or rich."""

import argparse
import contextlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learndyn.commands.options import Parser, network
from learndyn.errors import InputError

MOVED = (
    ("kernel", "kernel turned", "distance S of tangent kernels, 0 to 1"),
    ("patterns", "units changed sides", "share of units, over inputs"),
    ("parameters", "weights moved", "|θ' - θ| / |θ|"),
)


def main(words: list[str]) -> None:
    """Read the options and the network; with a task foretell, with steps train and measure; print."""
    from learndyn.storage import finite

    began = time.monotonic()
    given = _options(words)
    if given.task is None:
        found: dict[str, Any] = {"imbalance": _read(given)}
    else:
        found = _foretold(given)
    found["seconds"] = round(time.monotonic() - began, 3)
    if given.json:
        print(json.dumps(finite(found), indent=1, allow_nan=False))
    else:
        _show(found)


def _options(words: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="learndyn regime",
        description="Lazy or rich? The imbalance of every hidden unit of a network. With a task: what it foretells, "
        "from the weights alone; with a task and steps: what comes of a run beside it.",
        allow_abbrev=False,
    )
    parser.add_argument("factory", help="a built-in model, package.module:factory or file.py:factory, with arguments")
    parser.add_argument("--input-shape", type=int, nargs="+", metavar="N", help="of one input, such as 3 32 32")
    parser.add_argument("--vocabulary", type=int, help="inputs are whole numbers below this one")
    parser.add_argument("--classes", type=int, default=10, help="for factories that take it (%(default)s)")
    parser.add_argument("--task", help="a task to learn, such as digits")
    parser.add_argument("--data-dir", help="folder of data files")
    parser.add_argument("--samples", type=int, default=100, help="inputs to look at (%(default)s)")
    parser.add_argument("--weights", type=Path, help="a state_dict to load into the model")
    parser.add_argument("--alpha", type=float, default=1.0, help="divide the first layer by it, multiply the last")
    parser.add_argument("--first", nargs="+", default=[], metavar="NAME", help="parameters to divide by alpha instead")
    parser.add_argument("--last", nargs="+", default=[], metavar="NAME", help="parameters to multiply by alpha instead")
    parser.add_argument("--steps", type=int, default=0, help="train for so many steps and compare")
    parser.add_argument("--seeds", type=int, default=1, help="independent repetitions (%(default)s)")
    parser.add_argument("--optimizer", default="sgd(lr=0.1)", help="such as 'adamw(lr=1e-3)' (%(default)s)")
    parser.add_argument("--schedule", default="constant", help="factor on the learning rate (%(default)s)")
    parser.add_argument("--sharpness", type=float, metavar="C", help="learning rate C / largest curvature instead")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"), help="precision (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(words)
    if given.task is None and given.input_shape is None:
        raise InputError("Say what goes into the network: --input-shape 3 32 32, or --task digits.")
    if given.task is None and (given.steps or given.seeds > 1):
        raise InputError("--steps and --seeds need something to learn: give --task.")
    if given.samples < 1 or given.seeds < 1 or given.steps < 0 or any(n < 1 for n in given.input_shape or ()):
        raise InputError("--samples, --seeds and --input-shape take positive numbers, --steps none below 0.")
    return given


def _read(given: argparse.Namespace) -> dict[str, Any]:
    from learndyn.dynamics import load_weights
    from learndyn.regime import imbalance, scaled

    given.samples = min(given.samples, 8)
    model, inputs = network(given)
    if given.weights is not None:
        load_weights(model, given.weights)
    if given.alpha != 1:
        model = scaled(model, given.alpha, inputs, first=given.first, last=given.last).model
    return imbalance(model, inputs).plain()


def _foretold(given: argparse.Namespace) -> dict[str, Any]:
    from learndyn.regime import card, foretell

    found = []
    changed = 0.0
    for seed in range(given.seeds):
        state, changed = _state(given, seed)
        if given.steps:
            found.append(card(state, given.steps, given.samples).plain())
        else:
            reading, told = foretell(state, samples=given.samples)
            plain = vars(told) | {"linearised": vars(told.linearised)}
            found.append({"imbalance": reading.plain(), "foretold": plain, "measured": {"steps": 0}})
    return {"function_change": changed, "runs": found}


def _state(given: argparse.Namespace, seed: int) -> tuple[Any, float]:
    from learndyn.dynamics import load_weights
    from learndyn.names import build_state
    from learndyn.observables import evaluate
    from learndyn.regime import learning_rate, scaled
    from learndyn.regime.overlay import some

    with _as_model():
        state = build_state(
            *(given.task, given.factory, given.optimizer, given.schedule, max(given.steps, 1), seed, given.dtype),
            *("cpu", given.data_dir),
            lambda state: evaluate(state.model, state.task, "train"),
        )
    if given.weights is not None:
        load_weights(state.model, given.weights)
    sample, criterion = some(state, given.samples)
    change = 0.0
    if given.alpha != 1:
        changed = scaled(state.model, given.alpha, sample.inputs, first=given.first, last=given.last)
        state.model.load_state_dict(changed.model.state_dict())
        change = changed.function_change
    if given.sharpness is not None:
        rate = learning_rate(state.model, *sample, criterion, given.sharpness)
        for group in state.optimizer.param_groups:
            group["lr"] = group["initial_lr"] = rate
    return state, change


@contextlib.contextmanager
def _as_model():
    """Here the model is no option but the first word."""
    try:
        yield
    except InputError as error:
        raise InputError(str(error).removeprefix("--model ")) from error


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=max(100, Console().width))
    runs = found.get("runs", [])
    reading = runs[0]["imbalance"] if runs else found["imbalance"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header, justify in (("units", "right"), ("delta", "right"), ("rho", "right"), ("", "left"), ("where", "left")):
        table.add_column(header, justify=justify)  # type: ignore[arg-type]
    for family in reading["units"]:
        rho = family["rho"]["mean"]
        kind = "upstream" if rho > 1 / 3 else "downstream" if rho < -1 / 3 else "balanced"
        where = family["where"] + ("" if family["conserved"] else f" (not conserved: {family['why']})")
        table.add_row(str(family["units"]), f"{family['delta']['mean']:.3g}", f"{rho:+.2f}", kind, where)
    for pair in reading["pairs"]:
        lam = sum(pair["lam"]) / len(pair["lam"])
        off = f"lambda {lam:.2g}, off by {sum(pair['residual']) / len(pair['residual']):.0%}"
        table.add_row(pair["group"], "", "", "pair", f"{pair['where']}: {off}")
    console.print(table, highlight=False)
    silent = sum(len(family["silent"]) for family in reading["units"])
    lines = [f"{silent} units have nothing leading in, or nothing out."] if silent else []
    lines += [f"in front of a norm, without a partner: {where}" for where in reading["alone"]]
    lines += [f"delta is {reading['note']}."]
    if runs:
        lines += ["", *_words(runs, found["function_change"])]
    for line in lines:
        console.print(Text(line), soft_wrap=False)
    if runs:
        console.print()
        console.print(_compared(runs), highlight=False)
    print(f"\ntime     {found['seconds']:.1f} s")


def _words(runs: Sequence[dict[str, Any]], change: float) -> list[str]:
    told = [run["foretold"] for run in runs]
    lines = [f"foretold: {', '.join(dict.fromkeys(t['regime'] for t in told))}"]
    delays = [t["delay"] for t in told if not math.isnan(t["delay"])]
    if delays:
        lines.append(
            f"  the last layer alone can learn {told[0]['readout']:.0%}; the first has turned after a gradient-flow "
            f"time (learning rate times steps) of about {sum(delays) / len(delays):.3g}"
        )
    if "measured" in runs[0] and runs[0]["measured"]["steps"]:
        lines.append(f"measured: {', '.join(dict.fromkeys(run['measured']['regime'] for run in runs))}")
        met = sum(run["agrees"] for run in runs)
        lines.append(f"lazy or rich was foretold in {met} of {len(runs)} runs")
    if change > 1e-9:
        lines.append(f"alpha has changed the function: by {change:.1e} of its largest value")
    return lines


def _compared(runs: Sequence[dict[str, Any]]) -> Any:
    from rich.table import Table

    from learndyn.compare import mean_interval

    measured = bool(runs[0]["measured"]["steps"])
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in ("", "foretold", *(("measured",) if measured else ()), ""):
        table.add_column(header, justify="right" if header else "left")
    for name, label, unit in MOVED:
        cells = []
        for values in (
            [run["foretold"]["linearised"][name] for run in runs],
            *([[run["measured"][name] for run in runs]] if measured else []),
        ):
            if len(values) > 1 and not math.isnan(sum(values)):
                found = mean_interval(values)
                cells.append(f"{found.value:.3g} [{found.low:.3g}, {found.high:.3g}]")
            else:
                cells.append("-" if math.isnan(values[0]) else f"{values[0]:.3g}")
        table.add_row(label, *cells, unit)
    return table
