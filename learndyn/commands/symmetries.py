"""learndyn symmetries: which symmetries a network has, what broke the others, which an optimizer keeps."""

import argparse
import json
import time
from typing import Any

from learndyn.commands.options import Parser, network
from learndyn.errors import InputError


def main(words: list[str]) -> None:
    """Read the options and the network, find, print."""
    from learndyn.storage import finite
    from learndyn.symmetries import find

    began = time.monotonic()
    given = _options(words)
    model, inputs = network(given)
    softmax = None if given.no_softmax else given.softmax
    found = find(model, inputs, softmax=softmax, training=not given.eval, certify=given.certify or None)
    table = _kept(found, model.train(not given.eval), inputs, softmax, given.optimizer) if given.optimizer else None
    seconds = time.monotonic() - began
    if given.json:
        steps = {} if table is None else {"kept": _plain_kept(table)}
        print(json.dumps(finite(found.plain() | steps | {"seconds": round(seconds, 3)}), indent=1, allow_nan=False))
    else:
        _show(found)
        if table is not None:
            _print_kept(table)
        print(f"\ntime     {seconds:.1f} s")


def _kept(found: Any, model: Any, inputs: Any, softmax: int | None, optimizers: list[str]) -> Any:
    """Which of the laws one step of each optimizer keeps, for a random function of the outputs."""
    import torch

    from learndyn.names import build_optimizer
    from learndyn.recorder import kept
    from learndyn.symmetries.verify import floats

    def loss(model: Any) -> Any:
        draw = torch.Generator().manual_seed(0)
        outputs = floats(model(inputs))
        counted = outputs if softmax is None else [t.log_softmax(softmax) for t in outputs]
        return sum((t * torch.randn(t.shape, generator=draw).to(t)).mean() for t in counted)

    if not found.laws:
        raise InputError("The network has no law that an optimizer could keep.")
    made = {text: lambda parameters, text=text: build_optimizer(text, parameters) for text in optimizers}
    return kept(model, found.laws, made, loss)


def _plain_kept(table: Any) -> list[dict[str, Any]]:
    """For programs: by optimizer, the largest relative current of each law, in the order of the laws."""
    return [
        {
            "optimizer": str(name),
            "largest": [float(x) for x in table.largest.values[i]],
            "kept": [bool(x) for x in table.kept.values[i]],
        }
        for i, name in enumerate(table.optimizer.values)
        if name != "gradient"
    ]


def _print_kept(table: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=max(100, Console().width))
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("one step keeps the law?")
    names = [str(name) for name in table.optimizer.values if name != "gradient"]
    for name in names:
        shown.add_column(name, justify="right")
    for i, law in enumerate(table.law.values):
        cells = []
        for name in names:
            at = table.sel(optimizer=name).isel(law=i)
            cells.append("-" if at.largest.isnull() else "kept" if bool(at.kept) else f"{float(at.largest):.0e}")
        shown.add_row(str(law), *cells)
    console.print()
    console.print(shown, highlight=False)
    console.print("Numbers: largest |<step, X>| / (|step| |X|) of any charge of the law.", highlight=False)


def _options(words: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="learndyn symmetries",
        description="The continuous symmetries of a network, what they conserve, and which operations broke others.",
        allow_abbrev=False,
    )
    parser.add_argument("factory", help="a built-in model, package.module:factory or file.py:factory, with arguments")
    parser.add_argument("--input-shape", type=int, nargs="+", metavar="N", help="of one input, such as 3 32 32")
    parser.add_argument(
        "--vocabulary", type=int, help="inputs are whole numbers below this one, not random normal ones"
    )
    parser.add_argument("--classes", type=int, default=10, help="for factories that take it (%(default)s)")
    parser.add_argument("--task", help="take the inputs from a task instead, such as digits")
    parser.add_argument("--data-dir", help="folder of data files")
    parser.add_argument("--samples", type=int, default=6, help="inputs to try it on (%(default)s)")
    parser.add_argument("--softmax", type=int, default=-1, help="dimension of the outputs' softmax (%(default)s)")
    parser.add_argument("--no-softmax", action="store_true", help="the loss takes no softmax of the outputs")
    parser.add_argument("--eval", action="store_true", help="look at the network in evaluation mode")
    parser.add_argument("--certify", action="store_true", help="count in the gradients, also for a larger network")
    parser.add_argument(
        "--optimizer", nargs="+", default=[], metavar="TEXT",
        help="which laws does one step of it keep? such as 'sgd(lr=0.1)' 'adamw(lr=1e-3)'",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args(words)
    if given.task is None and given.input_shape is None:
        raise InputError("Say what goes into the network: --input-shape 3 32 32, or --task digits.")
    if given.samples < 1 or any(n < 1 for n in given.input_shape or ()):
        raise InputError("--samples and --input-shape take positive numbers.")
    return given


def _show(found: Any) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=max(100, Console().width))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header, justify in (("law", "left"), ("charges", "right"), ("broken by", "right"), ("where", "left")):
        table.add_column(header, justify=justify)  # type: ignore[arg-type]
    for law, size in zip(found.laws, found.broken):
        table.add_row(law.label, str(law.size), f"{size:.0e}" if size > 1e-12 else "-", law.place)
    console.print(table, highlight=False)
    lines = [""]
    if any(size > 1e-12 for size in found.broken):
        lines.append(
            "broken by: largest |<g, X>| / sum |g X| with the eps of the norms; without eps all are below 1e-9."
        )
    lines += [f"no law for {r.count} outputs of {r.parameter}: {r.why}" for r in found.rejected]
    lines += [f"REFUTED in numbers, please report it: {law}" for law in found.failed]
    if found.uncovered:
        lines.append(f"in no law: {', '.join(found.uncovered)}")
    lines += [f"zero eigenvalues of the Hessian at a critical point: at least {found.zero_modes}", found.counted]
    for line in [*lines, *found.suggestions]:
        console.print(Text(line), soft_wrap=False)
