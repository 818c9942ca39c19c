"""learndyn plateau: the run sits on a plateau; which unit is next, and when does the loss drop?"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from learndyn.commands.options import Parser
from learndyn.errors import InputError


def main(words: list[str]) -> None:
    """Read the options and the run, look at it once, print."""
    from learndyn.commands.phase_check import _live_run
    from learndyn.dynamics import load_weights
    from learndyn.names import blaming
    from learndyn.plateau import watch
    from learndyn.storage import finite

    began = time.monotonic()
    given = _options(words)
    state = _live_run(given.factory)
    if given.weights is not None:
        load_weights(state.model, given.weights)
    if given.step is not None:
        state = dataclasses.replace(state, step=given.step)
    try:
        with blaming():
            told = watch(
                state,
                first=given.first,
                second=given.second,
                dormant_below=given.dormant_below,
                samples=given.samples,
            )
    except InputError:
        raise
    except Exception as error:  # a stranger's model on a stranger's task
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(f"The run of {given.factory} cannot be read: {type(error).__name__}: {reason}.") from error
    seconds = time.monotonic() - began
    if given.json:
        print(json.dumps(finite(told.plain() | {"seconds": round(seconds, 3)}), indent=1, allow_nan=False))
    else:
        _show(told, state.step)
        print(f"\ntime     {seconds:.1f} s")


def _options(words: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="learndyn plateau",
        description="Early warning on a plateau: which hidden units are dormant, which wakes next, and when?",
        allow_abbrev=False,
    )
    parser.add_argument(
        "factory",
        help="package.module:factory or file.py:factory, with arguments if need be: 'run.py:make(width=64)'; it "
        "returns a learndyn.dynamics.State, or (task, model, optimizer) with the schedule as a fourth if there is one",
    )
    parser.add_argument("--first", help="the nn.Linear that leads in; found where there is one block only")
    parser.add_argument("--second", help="the nn.Linear that leads out")
    parser.add_argument("--weights", type=Path, help="a state_dict to load into the model")
    parser.add_argument("--step", type=int, help="where the run stands; by default what the state says")
    parser.add_argument("--samples", type=int, default=2000, help="training examples to look at (%(default)s)")
    parser.add_argument("--dormant-below", type=float, help="norm below which a unit is dormant; found by default")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(words)
    if given.step is not None and given.step < 0:
        raise InputError(f"step={given.step} must not be negative.")
    return given


def _show(told: Any, step: int) -> None:
    import math

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drop = told.drop
    rows = [("block", f"{told.first} -> {told.second}", f"{told.activation}, degree {told.degree:g}")]
    rows.append(("units", drop.census, f"norms {float(drop.norms.min()):.2g} to {float(drop.norms.max()):.2g}"))
    if drop.neuron >= 0:
        inward = told.incoming.abs().argsort(descending=True)[:5].tolist()
        outward = told.outgoing.abs().argsort(descending=True)[:5].tolist()
        if math.isfinite(told.onset_steps):
            rows.append(("drop begins at", f"step {step + told.onset_steps:.0f}", f"in {told.onset_steps:.0f} steps"))
        elif math.isfinite(drop.onset):
            rows.append(("drop begins in", f"{drop.onset:.4g}", "of flow time"))
        in_steps = f"in {told.steps:.0f} steps, " if math.isfinite(told.steps) else ""
        rows.append(("next", f"unit {drop.neuron}", f"{in_steps}{drop.time:.4g} of flow time"))
        rows.append(("it reads", ", ".join(f"{i}: {float(told.incoming[i]):+.2f}" for i in inward), "input: weight"))
        rows.append(("it writes", ", ".join(f"{i}: {float(told.outgoing[i]):+.2f}" for i in outward), "output: weight"))
        rows.append(("loss", f"{drop.loss:.4g}, then", f"{drop.level:.4g} or less"))
    console = Console(width=max(100, Console().width))
    table = Table(show_header=False, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table, highlight=False)
    console.print()
    console.print(Text(str(told)), soft_wrap=False)
