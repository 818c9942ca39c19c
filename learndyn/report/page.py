"""One self-contained page: what was run, what came out, figures, settings, environment, how to cite."""

import base64
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import matplotlib.pyplot as plt
import xarray as xr

from learndyn import __version__
from learndyn.compare import Claim, to_json
from learndyn.record import Record
from learndyn.report.figures import Figure
from learndyn.report.style import style
from learndyn.storage import read_json, write_atomically, write_text


@dataclass(frozen=True)
class Table:
    """Numbers for the page.

    Attributes:
        title: What it shows.
        header: Names of the columns.
        rows: Cells as text.
        caption: What to look for.
    """

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    caption: str = ""


def number(value: float) -> str:
    """A number for a table: four digits, a dash for nan.

    >>> number(0.123456), number(math.nan), number(2.5e-17)
    ('0.1235', '–', '2.5e-17')
    """
    return "–" if math.isnan(value) else f"{value:.4g}".replace("inf", "∞")


def interval(low: float, high: float) -> str:
    """An interval for a table; a dash where there is none."""
    return "–" if math.isnan(low) or math.isnan(high) else f"[{number(low)}, {number(high)}]"


def write_report(record: Record, experiment: ModuleType, results: xr.DataTree) -> list[Claim]:
    """Draw the figures and write claims.json and report.html into the run directory.

    Everything is made from results.nc, settings.yaml and environment.json, so it can be drawn again years later.

    Returns:
        The claims.

    Raises:
        InputError: If a file cannot be written.
    """
    environment = read_json(record.folder / "environment.json")
    return write_page(record.folder, experiment, results, record.settings, environment, command(record))


def write_page(
    folder: Path,
    experiment: ModuleType,
    results: xr.DataTree,
    settings: Mapping[str, Any],
    environment: Mapping[str, Any],
    command: str,
) -> list[Claim]:
    """Draw the figures and write claims.json and report.html into a folder, in the words of an experiment.

    Returns:
        The claims.

    Raises:
        InputError: If a file cannot be written.
    """
    claims = experiment.claims(results)
    figures = experiment.figures(results)
    write_text(folder / "claims.json", to_json(claims))
    pictures = [(figure, _save(figure, folder / "figures")) for figure in figures]
    engine = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    engine.filters |= {"number": number}
    template = engine.from_string(resources.files("learndyn.report").joinpath("page.html").read_text(encoding="utf-8"))
    page = template.render(
        title=experiment.TITLE,
        paper=experiment.PAPER,
        name=folder.resolve().name,
        lead=experiment.lead(results),
        notes=experiment.notes(results),
        claims=claims,
        interval=interval,
        tables=experiment.tables(results),
        pictures=pictures,
        settings={key: _shown(value) for key, value in settings.items()},
        environment={key: _shown(value) for key, value in environment.items()},
        command=command,
        files=sorted(p.name for p in folder.glob("*") if p.is_file() and p.name[0] != "." and p.name != "report.html"),
        version=__version__,
    )
    write_text(folder / "report.html", page)
    return claims


def command(record: Record) -> str:
    """The command line that gives this run again."""
    return f"learndyn run {record.experiment} --settings {record.folder.name}/settings.yaml"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _save(figure: Figure, folder: Path) -> str:
    """Write PNG and SVG, close the drawing; returns the PNG for the page, base64."""
    with style():
        figure.drawing.draw_without_rendering()  # lay out once, not twice a file
        with plt.rc_context({"figure.constrained_layout.use": False}):
            figure.drawing.set_layout_engine(None)  # "none" would leave a placeholder, for which all is drawn once more
        for ending, metadata in (("png", {"Software": "learndyn"}), ("svg", {"Date": None})):
            draw = partial(figure.drawing.savefig, format=ending, metadata=metadata)
            write_atomically(folder / f"{figure.name}.{ending}", draw)
    plt.close(figure.drawing)
    return base64.b64encode((folder / f"{figure.name}.png").read_bytes()).decode()
