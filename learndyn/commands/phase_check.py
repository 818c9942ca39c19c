"""learndyn phase-check: is a live run chaotic, from where on can branches be merged?"""

import argparse
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from learndyn.commands.options import Parser
from learndyn.errors import InputError


def main(words: list[str]) -> None:
    """Read the options and the run, probe it, print."""
    import torch

    from learndyn.dynamics import load_weights
    from learndyn.dynamics.determinism import check_replay, deterministic
    from learndyn.names import blaming
    from learndyn.observables.phase import phase
    from learndyn.storage import finite

    began = time.monotonic()
    given = _options(words)
    state = _live_run(given.factory)
    if given.weights is not None:
        load_weights(state.model, given.weights)
    if given.step is not None:
        state = dataclasses.replace(state, step=given.step)
    try:
        with deterministic(state.device, torch.get_num_threads()), blaming():
            check_replay(state)
            found = phase(state, given.window, given.probes, given.end)
    except InputError:
        raise
    except Exception as error:  # a stranger's model on a stranger's task
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(f"The run of {given.factory} cannot be trained: {type(error).__name__}: {reason}.") from error
    seconds = time.monotonic() - began
    if given.json:
        content = dataclasses.asdict(found) | {"verdict": found.verdict, "seconds": round(seconds, 3)}
        print(json.dumps(finite(content), indent=1, allow_nan=False))
    else:
        _show(found)
        print(f"\ntime     {seconds:.1f} s")


def _options(words: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="learndyn phase-check",
        description="Probe a run for a few seconds: is it chaotic, and from where on can branches be merged?",
        allow_abbrev=False,
    )
    parser.add_argument(
        "factory",
        help="package.module:factory or file.py:factory, with arguments if need be: 'run.py:make(width=64)'; it "
        "returns a learndyn.dynamics.State, or (task, model, optimizer) with the schedule as a fourth if there is one",
    )
    parser.add_argument("--weights", type=Path, help="a state_dict to load into the model")
    parser.add_argument("--step", type=int, help="where the run stands; by default what the state says")
    parser.add_argument("--end", type=int, help="last step of the run; by default that of the schedule if it has one")
    parser.add_argument("--window", type=int, default=40, help="steps to look ahead (%(default)s)")
    parser.add_argument("--probes", type=int, default=2, help="perturbations to follow (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(words)
    if given.step is not None and given.step < 0:
        raise InputError(f"step={given.step} must not be negative.")
    return given


def _live_run(text: str) -> Any:
    """The state that a stranger's factory returns, or that is made of what it returns."""
    from torch import nn

    from learndyn.dynamics import State, start
    from learndyn.names import _call, factory, parse

    if ":" not in parse(text)[0]:
        raise InputError(f"Cannot read {text!r}; write package.module:factory or file.py:factory.")
    try:
        make, arguments = factory(text, "run", {})
        found = _call(make, arguments, {}, text, "run")
    except InputError as error:  # elsewhere a name follows an option
        raise InputError(str(error).removeprefix("--run ")) from error
    if isinstance(found, State):
        return found
    methods = ("batch", "loss", "evaluation")
    if not (
        isinstance(found, tuple)
        and len(found) in (3, 4)
        and all(callable(getattr(found[0], name, None)) for name in methods)
        and isinstance(found[1], nn.Module)
        and all(callable(part) or hasattr(part, "param_groups") for part in found[2:])
    ):
        told = type(found).__name__
        if isinstance(found, tuple):
            told += f" of {', '.join(type(part).__name__ for part in found) or 'nothing'}"
        raise InputError(
            f"{text} gave a {told}; return a learndyn.dynamics.State, or a tuple (task, model, optimizer) with the "
            "schedule as a fourth if there is one."
        )
    try:
        return start(*found)
    except InputError:
        raise
    except Exception as error:  # whatever makes a stranger's optimizer
        raise InputError(f"{text} gave an optimizer that raised {type(error).__name__}: {error}.") from error


def _show(found: Any) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from learndyn.observables.phase import factor

    kept = {True: "yes", False: "no", None: "the end is not known"}[found.rounding_reproducible]
    safe = "the end is not known" if found.safe_from is None else f"step {found.safe_from}"
    between = "" if found.safe_between is None else "{} to {}".format(*found.safe_between)
    rows = (
        (
            "window",
            f"{found.window} steps from step {found.step}",
            {"tangent": "by tangent vectors", "twin": "by twins"}[found.way],
        ),
        ("exponent", f"{found.exponent:.3g} / step", f"± {found.exponent_error:.2g}"),
        ("", f"{found.exponent_per_time:.3g} / time", "gradient-flow time"),
        ("growth", f"a factor {factor(found.growth)} by step {found.growth_until}", f"e^(± {found.growth_error:.2g})"),
        ("kernel turns", f"{found.kernel_velocity:.2g} / step", f"norm {found.kernel_scale:+.1%} over the window"),
        ("rounding stays unseen", kept, f"{found.floor:.1e} a step"),
        ("merging is safe from", safe, between),
    )
    console = Console(width=max(100, Console().width))
    table = Table(show_header=False, box=None, pad_edge=False)
    colour = {"chaotic": "red", "marginal": "yellow", "stable": "green"}[found.regime]
    for row in (("regime", Text(found.regime, colour), ""), *rows):
        table.add_row(*row)
    console.print(table, highlight=False)
    console.print()
    for sentence in (found.verdict, *found.notes):
        console.print(Text(sentence), soft_wrap=False)
