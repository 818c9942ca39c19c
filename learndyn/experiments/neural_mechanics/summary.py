"""Words, tables and figures of the report."""

import json
from itertools import groupby

import numpy as np
import xarray as xr

from learndyn.experiments.neural_mechanics.claims import overlays_of
from learndyn.experiments.neural_mechanics.toys import modified_equations, toy_symmetries
from learndyn.laws import charges
from learndyn.report.charges import Overlay, budgets, overlays, portraits, residuals
from learndyn.report.figures import Figure
from learndyn.report.page import Table, number


def _first_seed(results: xr.DataTree) -> list[list[Overlay]]:
    """The runs of the first seed, by model: what figures show."""
    runs = [run for run in overlays_of(results) if run.measured.attrs["seed"] == 0]
    return [list(some) for _, some in groupby(runs, key=lambda run: run.measured.attrs["model"])]


def figures(results: xr.DataTree) -> list[Figure]:
    """All figures of the report."""
    return [*run_figures(results), toy_symmetries(), modified_equations()]


def run_figures(results: xr.DataTree) -> list[Figure]:
    """Charges, residuals, portraits and budgets of the runs of the first seed."""
    made = []
    by_model = _first_seed(results)
    for i, runs in enumerate(by_model):
        end = f"-{i + 1}" if len(by_model) > 1 else ""
        predicted = [run for run in runs if (run.predicted.why.values == "").any()]
        if predicted:
            made += [overlays(predicted, f"charges{end}"), residuals(predicted, f"residuals{end}")]
            made.append(portraits(predicted, f"portraits{end}"))
        made.append(budgets(runs, f"budgets{end}"))
    return made


def lead(results: xr.DataTree) -> list[str]:
    """What was run, and the answer."""
    s = json.loads(results.attrs["settings"])
    runs = overlays_of(results)
    counts = {run.measured.attrs["model"]: run.measured.sizes["charge"] for run in runs}
    said = ", ".join(f"{model} with {count} charges" for model, count in counts.items())
    run = f"{said}, on {s['task']}, {s['schedule']} schedule, {s['steps']} steps in {s['dtype']}; {len(runs)} runs."
    return [run, *answer(results)]


def answer(results: xr.DataTree) -> list[str]:
    """How well the laws predict, in a sentence."""
    runs = overlays_of(results)
    errors = {
        curve: [
            float(e)
            for one in runs
            for e in one.predicted.change_error.sel(curve=curve).values
            if np.isfinite(e)
        ]
        for curve in ("decay_only", "continuous", "exact")
    }  # fmt: skip
    if not errors["exact"]:
        return [
            "No run is one of SGD with the same settings for all parameters: there are budgets, but no predictions."
        ]
    median = {curve: number(100 * float(np.median(values))) for curve, values in errors.items()}
    return [
        f"Relative to how far they moved, charges are predicted from their first value and the lengths of the steps to "
        f"{median['continuous']} % by the paper's continuous law and to {median['exact']} % by the exact one (median "
        f"over laws and runs); by weight decay alone to {median['decay_only']} %."
    ]


def notes(results: xr.DataTree) -> list[str]:
    """What could mislead a reader."""
    said: dict[str, None] = {}
    for run in overlays_of(results):
        reasons = {why for why in run.predicted.why.values if why}
        for why in sorted(reasons):
            said[f"{run.measured.attrs['optimizer']}: no prediction, since {why}."] = None
        if int((run.measured.mark.values & 4).max()):
            said[f"{run.measured.attrs['optimizer']}: something was not finite, the record ends there."] = None
        if run.measured.attrs["complete"] == "None":
            said["The network is too large for its symmetries to be counted in the gradients within seconds."] = None
    return list(said)


def tables(results: xr.DataTree) -> list[Table]:
    """Errors by law and run, and what the settings say."""
    rows = [row for run in overlays_of(results) for row in law_rows(run, name=True)]
    header = ("run", "law", "charges", "moved", "decay only", "continuous", "slow branch", "exact", "with current")
    caption = (
        "Error of each law at the end, relative to how far the charges moved (Euclidean over the charges of a law). "
        "moved: largest change relative to the charge."
    )
    made = [Table("Errors", header, rows, caption)]
    regimes: list[tuple[str, ...]] = []
    for run in overlays_of(results):
        m = run.measured
        if run.predicted.why.values[0]:
            continue
        lr, decay, momentum = (
            float(m[n].isel(law=0, step=slice(1, None)).max()) for n in ("rate", "weight_decay", "momentum")
        )
        if lr <= 0:
            continue
        regimes.append(
            (
                _one_line(run.name),
                charges.regime(lr, decay, momentum) if momentum > 0 else "first order",
                number(charges.critical_decay(lr, momentum)),
                number(charges.half_life(lr, decay, momentum)),
                number(charges.half_life(lr, decay, momentum, linear=True)),
            )
        )
    names = ("run", "charges are", "critical decay λ", "half-life of a charge (steps)", "of a translation charge")
    caption = "From the settings alone: damping of the oscillator, and what weight decay would do by itself."
    return [*made, Table("Regimes", names, regimes, caption)] if regimes else made


def _one_line(name: str) -> str:
    return " ".join(name.split())


def law_rows(run: Overlay, name: bool = False) -> list[tuple[str, ...]]:
    """Errors of the laws of one run, as cells."""
    rows: list[tuple[str, ...]] = []
    scores = run.predicted.change_error
    for law, text in enumerate(run.measured.law.values):
        size = int((run.measured.law_of.values == law).sum())
        cells = [
            number(float(scores.sel(curve=c).values[law]))
            for c in ("decay_only", "continuous", "started", "exact", "with_current")
        ]
        moved = number(float(run.predicted.moved.values[law]))
        rows.append(((_one_line(run.name),) if name else ()) + (str(text), str(size), moved, *cells))
    return rows
