"""The page of what a `learndyn.Recorder` wrote in anybody's training loop."""

import json
import sys
from pathlib import Path

import numpy as np
import xarray as xr

from learndyn.compare import Claim
from learndyn.errors import InputError
from learndyn.experiments.neural_mechanics import summary
from learndyn.experiments.neural_mechanics.claims import claims
from learndyn.recorder import read
from learndyn.recorder.forecast import overlay
from learndyn.recorder.lens import lens
from learndyn.report.charges import lenses
from learndyn.report.figures import Figure
from learndyn.report.page import Table, number, write_page

TITLE = "Charges of a recorded run"
PAPER = (
    "D. Kunin, J. Sagastuy-Brena, S. Ganguli, D. L. K. Yamins, H. Tanaka. Neural Mechanics: Symmetry and Broken "
    "Conservation Laws in Deep Learning Dynamics. ICLR 2021, arXiv:2012.04728. H. Tanaka, D. Kunin. Noether's Learning "
    "Dynamics: Role of Symmetry Breaking in Neural Networks. NeurIPS 2021, arXiv:2105.02716."
)
__all__ = ["PAPER", "TITLE", "claims", "figures", "lead", "notes", "results_of", "tables", "write"]


def results_of(folder: Path) -> xr.DataTree:
    """A record and its prediction, as an experiment of one run has them.

    Raises:
        InputError: If there is no record, or nothing in it that could be compared.
    """
    record = read(folder)
    measured, predicted = overlay(record)
    named = {"seed": 0, "counted": "{}", "complete": "True"}
    described = f"{record.attrs['optimizer'].lower()}({_options(record)})"
    measured = measured.assign_attrs({**record.attrs, **named, "optimizer": described})
    groups = {"/measured/run-0": measured, "/predicted/run-0": predicted}
    for law in np.flatnonzero(record.kind.values == "scale"):
        try:
            groups[f"/lens/law-{law}"] = lens(record, int(law))
        except InputError as error:  # no effective rate: settings differ within the law, say
            groups[f"/lens/law-{law}"] = xr.Dataset(attrs={"law": str(record.law.values[law]), "left_out": str(error)})
    tree = xr.DataTree.from_dict(groups)
    tree.attrs["settings"] = json.dumps(
        {
            "models": [record.attrs["model"]],
            "seeds": 1,
            "every": int(record.step[1] - record.step[0]),
            "dtype": record.attrs["dtype"],
        }
    )
    return tree


def _options(record: xr.Dataset) -> str:
    """The settings that matter to charges, as they were first."""
    group = json.loads(record.attrs["options"])[0]
    wanted = ("lr", "momentum", "dampening", "betas", "weight_decay", "nesterov")
    return ", ".join(f"{name}={group[name]}" for name in wanted if group.get(name))


def lead(results: xr.DataTree) -> list[str]:
    """What was recorded, and what came out."""
    m = results["measured/run-0"].to_dataset()
    run = (
        f"{m.sizes['charge']} charges of {m.sizes['law']} laws of a {m.attrs['model']} in {m.attrs['dtype']}, "
        f"{m.attrs['optimizer']}, steps {int(m.step[0])} to {int(m.step[-1])}."
    )
    return [run, *summary.answer(results)]


def _lenses(results: xr.DataTree) -> list[xr.Dataset]:
    return [node.to_dataset() for node in results["lens"].children.values()] if "lens" in results.children else []


def notes(results: xr.DataTree) -> list[str]:
    """What could mislead a reader."""
    left = {found.attrs["left_out"]: None for found in _lenses(results) if found.attrs["left_out"]}
    return [*summary.notes(results), *left]


def figures(results: xr.DataTree) -> list[Figure]:
    """Charges, residuals, portraits, budgets, and how fast channels in front of norms learn."""
    seen = [found for found in _lenses(results) if "angle" in found]
    return [*summary.run_figures(results), *([lenses(seen)] if seen else [])]


def tables(results: xr.DataTree) -> list[Table]:
    """Errors by law, and the channels in front of norms."""
    made = summary.tables(results)
    rows = []
    for found in _lenses(results):
        if "angle" not in found:
            continue
        end = found.isel(step=-1)
        cells = [
            number(float(end[name].median())) if name in end else "–"
            for name in ("q", "effective_lr", "memory", "memory_factor", "angle", "equilibrium_angle")
        ]
        wait = number(float(end.steps_to_equilibrium.median())) if "steps_to_equilibrium" in end else "–"
        kinds, counts = np.unique(found.verdict.values.astype(str), return_counts=True)
        verdict = f"{kinds[counts.argmax()]} ({counts.max()} of {counts.sum()})"
        rows.append((found.attrs["law"].removeprefix("scale at "), *cells, wait, verdict))
    header = (
        "weights", "|q|²", "η_eff", "memory (steps)", "ϕ", "angle (rad)", "at equilibrium", "steps to equilibrium",
        "verdict",
    )  # fmt: skip
    caption = (
        "Channels in front of a normalisation, medians at the end: the rate η/(μ|q|²) at which directions learn, how "
        "many steps the norm remembers, and the angle of a step beside that at which decay and steps balance."
    )
    return [*made, Table("Effective learning rates", header, rows, caption)] if rows else made


def write(folder: Path) -> tuple[xr.DataTree, list[Claim]]:
    """Draw report.html and its figures beside the record.

    Raises:
        InputError: If there is no record, or nothing in it that could be compared.
    """
    results = results_of(folder)
    attributes = results["measured/run-0"].attrs
    settings = {f"group {i}": str(group) for i, group in enumerate(json.loads(attributes["options"]))}
    environment = {name: attributes[name] for name in ("learndyn", "torch", "device", "dtype")}
    page = write_page(folder, sys.modules[__name__], results, settings, environment, f"learndyn report {folder}")
    return results, page
