"""The command line: learndyn list | run EXPERIMENT | report RUN | phase-check FACTORY | plateau FACTORY |
regime MODEL | symmetries FACTORY.

An experiment's options are the fields of its `Settings`; --preset chooses their defaults.
"""

import contextlib
import dataclasses
import importlib
import inspect
import io
import re
import sys
import time
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import yaml

from learndyn import __version__
from learndyn.errors import InputError, unknown

USAGE = """\
learndyn: a laboratory for the learning dynamics of neural networks

  learndyn list                        experiments, presets, tasks, models, observables, laws
  learndyn run EXPERIMENT [options]    run it, or finish it, or find it finished; report at the end
  learndyn run EXPERIMENT --help       all its options
  learndyn report FOLDER ...           draw the report of a run again, or of what a Recorder wrote
  learndyn phase-check FACTORY         is your own run chaotic, from where on is merging safe? (--help)
  learndyn plateau FACTORY             your run sits on a plateau: when does the loss drop, what is next? (--help)
  learndyn regime MODEL                lazy or rich? the imbalance of its hidden units, and what they foretell (--help)
  learndyn symmetries FACTORY          which symmetries a network has, and what broke the others (--help)
  learndyn --version

Try: learndyn run two-phase
"""
OWN_HELP = ("phase-check", "plateau", "regime", "symmetries")  # commands with options of their own


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 2 for bad input, 130 when interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        asked = words[1:] in (["-h"], ["--help"]) and words[0] not in OWN_HELP
        if not words or words[0] in ("-h", "--help", "help") or asked:
            print(USAGE, end="")
            return 0
        if words[0] == "--version":
            print(f"learndyn {__version__}")
            return 0
        commands = {"list": _list, "run": _run, "report": _report, **dict.fromkeys(OWN_HELP, _own)}
        if words[0] not in commands:
            raise unknown("command", words[0], commands)
        commands[words[0]](words if words[0] in OWN_HELP else words[1:])
    except InputError as error:
        print(f"learndyn: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    return 0


def _own(words: list[str]) -> None:
    importlib.import_module(f"learndyn.commands.{words[0].replace('-', '_')}").main(words[1:])


def _list(words: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    from learndyn import experiments, laws, models, observables, tasks
    from learndyn.dynamics.perturb import KINDS

    if words:
        raise InputError(f"learndyn list takes no arguments; got {' '.join(words)}.")
    table = Table(show_header=False, box=None, pad_edge=False)
    for name in experiments.names():
        table.add_row("experiment", name, "presets: " + ", ".join(experiments.find(name).PRESETS))
    for kind, room, names in (
        ("task", tasks, tasks.BUILT_IN),
        ("model", models, models.BUILT_IN),
        ("observable", observables, (*observables.OF_ONE, *observables.OF_TWO)),
        ("law", laws, laws.LAWS),
    ):
        for name in names:
            table.add_row(kind, name, _first_sentence(getattr(room, name).__doc__))
    for name, function in KINDS.items():
        table.add_row("perturbation", name, _first_sentence(function.__doc__))
    Console(width=max(100, Console().width)).print(table, highlight=False)


def _first_sentence(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


def _run(words: list[str]) -> None:
    from learndyn.experiments import find, names

    if not words or words[0].startswith("-"):
        raise InputError(f"Say which experiment: learndyn run {' | '.join(names())}.")
    name, rest = words[0], words[1:]
    experiment = find(name)
    settings, common = _settings(name, experiment, rest)
    execute(name, experiment, settings, **common)


@dataclasses.dataclass(frozen=True)
class Common:
    """Options of every experiment; none of them changes a result.

    Attributes:
        preset: Where the defaults come from.
        settings: A settings.yaml to take the defaults from instead.
        runs: Folder of all run directories.
        jobs: Processes; by default one for each part, as far as there are cores.
        fresh: Throw away what an earlier run of the same settings has left.
        tune: Use faster float32 products where a probe finds them exact; a run that has begun goes on as it began.
    """

    preset: str = "quick"
    settings: Path | None = None
    runs: Path = Path("runs")
    jobs: int | None = None
    fresh: bool = False
    tune: bool = True


def _settings(name: str, experiment: ModuleType, words: list[str]) -> tuple[Any, dict[str, Any]]:
    """Settings from preset or file, overridden by options; and the common options."""
    import tyro

    preset, file = (_given(words, option) for option in ("--preset", "--settings"))
    preset = Common.preset if preset is None else preset
    if preset not in experiment.PRESETS:
        raise unknown("preset", preset, experiment.PRESETS)
    defaults = experiment.PRESETS[preset]
    if file is not None:
        defaults = read_settings(Path(file), name, type(defaults))
    kind = _options(type(defaults), defaults, experiment.PRESETS)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed: Any = tyro.cli(
                kind, args=words, prog=f"learndyn run {name}", description=(experiment.__doc__ or "").strip()
            )
    except SystemExit as ended:
        if ended.code:
            raise _refused(said.getvalue(), name, kind) from None
        raise
    own = {
        field.name: getattr(parsed, field.name) for field in dataclasses.fields(defaults) if hasattr(parsed, field.name)
    }
    common = {
        field.name: getattr(parsed, field.name)
        for field in dataclasses.fields(Common)
        if field.name in ("runs", "jobs", "fresh", "tune")
    }
    return dataclasses.replace(defaults, **own), common


def _given(words: list[str], option: str) -> str | None:
    """The last value that the command line gives an option, before all of it can be parsed; None without one."""
    values = [following for word, following in zip(words, words[1:]) if word == option and following[:2] != "--"]
    values += [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    return values[-1] if values else None


def _refused(box: str, name: str, options: type) -> InputError:
    """What tyro says in a box, as a sentence; for an option that does not exist, the nearest one."""
    told = " ".join(line.strip(" │") for line in box.partition("│ ──")[0].splitlines() if line.startswith("│"))
    if found := re.match(r"Unrecognized options: (--[^\s,=]+)", told):
        known = [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(options)]
        return unknown("option", found[1], known)
    return InputError(f"{told.rstrip('.')}; see learndyn run {name} --help.")


def _options(settings: type, defaults: Any, presets: Iterable[str]) -> type:
    """One dataclass of all options, each with its help from the docstring and its default from the preset."""
    import tyro

    fields: list[Any] = []
    for owner, start in ((settings, defaults), (Common, Common())):
        helps, hints = documented(owner), typing.get_type_hints(owner)
        for field in dataclasses.fields(owner):
            if field.name == "sources":
                continue
            text = helps.get(field.name, "")
            if field.name == "preset":
                text += f" One of: {', '.join(presets)}."
            name = field.name.replace("_", "-") if len(field.name) > 2 else field.name
            annotation: Any = Annotated[hints[field.name], tyro.conf.arg(help=text, name=name)]
            fields.append((field.name, annotation, dataclasses.field(default=getattr(start, field.name))))
    return dataclasses.make_dataclass("Options", fields, frozen=True)


def documented(kind: type) -> dict[str, str]:
    """The descriptions of a dataclass's fields, from the Attributes section of its docstring."""
    section = (inspect.getdoc(kind) or "").partition("Attributes:\n")[2]
    return {
        name: " ".join(text.split())
        for name, text in re.findall(r"^    (\w+): (.+(?:\n {8}.*)*)", section, re.MULTILINE)
    }


def read_settings(path: Path, name: str, kind: type) -> Any:
    """Settings of an experiment from a YAML file, such as a run directory's settings.yaml.

    Raises:
        InputError: If the file is missing or damaged, or of another experiment, or has unknown or ill-typed entries.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        owner = content.pop("experiment", name)
    except (OSError, ValueError, yaml.YAMLError, AttributeError, TypeError) as error:
        raise InputError(
            f"Cannot read settings from {path} ({type(error).__name__}); give a settings.yaml of a run."
        ) from error
    if owner != name:
        raise InputError(f"{path} holds settings of {owner!r}, not of {name!r}.")
    fields, hints = {field.name: field for field in dataclasses.fields(kind)}, typing.get_type_hints(kind)
    for key, value in content.items():
        if key not in fields:
            raise unknown(f"setting in {path}", str(key), fields)
        if isinstance(value, list):
            content[key] = value = tuple(value)
        if hints[key] is float and isinstance(value, int | str) and not isinstance(value, bool):
            with contextlib.suppress(ValueError):
                content[key] = value = float(value)  # YAML reads 1e-7 as text
        if not _fits(value, hints[key]):
            what = getattr(hints[key], "__name__", "")
            what = str(hints[key]).replace("typing.", "") if typing.get_args(hints[key]) else what
            raise InputError(f"{path}: {key}={value!r} should be a {what}, such as {fields[key].default!r}.")
    return kind(**content)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from a file is of the type of a field: a plain type, Literal, tuple[..., ...] or a union."""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return value in inner
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(one, inner[0]) for one in value)
    return any(_fits(value, one) for one in inner) if inner else type(value) is hint


def execute(
    name: str, experiment: ModuleType, settings: Any, runs: Path, jobs: int | None, fresh: bool, tune: bool
) -> None:
    """Run, report, and print the claims."""
    from learndyn.record import locked
    from learndyn.report.page import write_report
    from learndyn.run import run, with_sources
    from learndyn.runtime import keep_memory
    from learndyn.storage import read_json

    began = time.monotonic()
    settings = with_sources(settings)
    kept = keep_memory() if tune else False
    experiment.validate(settings)
    total = experiment.work(settings) * len(experiment.parts(settings))
    with watching(total) as progress:
        record, results = run(name, settings, runs, jobs, fresh, progress, tune)
    with locked(record):
        claims = write_report(record, experiment, results)
    _print(experiment, results, claims)
    products = read_json(record.folder / "environment.json").get("float32_products", "as they were")
    memory = "large blocks kept" if kept else "as it was"
    print(f"\nreport   {record.folder / 'report.html'}\ntime     {time.monotonic() - began:.0f} s")
    print(f"machine  memory: {memory}; float32 products: {products}")


def _print(experiment: ModuleType, results: Any, claims: list[Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from learndyn.report.page import interval, number

    console = Console(width=max(100, Console().width))
    colours = {"holds": "green", "fails": "red", "undecided": "yellow"}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in ("verdict", "claim", "measured", "interval", "expected"):
        table.add_column(header)
    for claim in claims:
        verdict = Text(claim.verdict, colours[claim.verdict])
        measured = f"{number(claim.measured)} {claim.unit}".strip()
        table.add_row(verdict, claim.name, measured, interval(claim.low, claim.high), claim.expected)
    console.print()
    for sentence in (*experiment.lead(results), *experiment.notes(results)):
        console.print(Text(sentence), soft_wrap=False)
    console.print()
    console.print(table, highlight=False)


@contextlib.contextmanager
def watching(total: float) -> Iterator[Any]:
    """A progress bar that says what is being done and how long it will still take; plain lines where there is no
    terminal.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(total)
        return
    columns = (
        TextColumn("{task.description:<16}"), BarColumn(), TaskProgressColumn(),
        TextColumn("elapsed"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=True),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, speed_estimate_period=60) as bar:
        task = bar.add_task("starting", total=total)
        yield lambda what, units: bar.update(task, advance=units, description=what)


class _Lines:
    """Progress for a log file: a line every tenth of the work."""

    def __init__(self, total: float):
        self.total, self.done, self.next, self.began = total, 0.0, 0.1, time.monotonic()

    def __call__(self, what: str, units: float) -> None:
        self.done += units
        share = min(1.0, self.done / max(self.total, 1e-9))
        if share >= self.next:
            elapsed = time.monotonic() - self.began
            print(
                f"{100 * share:3.0f} %  {what}, {elapsed:.0f} s, about {elapsed * (1 - share) / share:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
            self.next = share + 0.1


def _report(words: list[str]) -> None:
    from learndyn.experiments import find
    from learndyn.experiments.neural_mechanics import recording
    from learndyn.record import locked, read_record
    from learndyn.recorder.file import FILE
    from learndyn.report.page import write_report

    if not words:
        raise InputError("Say which run: learndyn report runs/two-phase-...")
    for word in words:
        if (Path(word) / FILE).is_file():
            results, claims = recording.write(Path(word))
            _print(recording, results, claims)
            print(f"\nreport   {Path(word) / 'report.html'}")
            continue
        record = read_record(Path(word))
        experiment = find(record.experiment)
        if not record.results_file.exists():
            raise InputError(f"{word} is not finished: run it again with --settings {Path(word) / 'settings.yaml'}.")
        with locked(record):
            claims = write_report(record, experiment, results := record.read_results())
        _print(experiment, results, claims)
        print(f"\nreport   {record.folder / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())
