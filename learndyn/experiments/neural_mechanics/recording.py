"""The page of what a `learndyn.Recorder` wrote in anybody's training loop."""

import json
import sys
from pathlib import Path

import xarray as xr

from learndyn.compare import Claim
from learndyn.experiments.neural_mechanics.claims import claims
from learndyn.experiments.neural_mechanics.summary import answer, notes, run_figures, tables
from learndyn.recorder import read
from learndyn.recorder.forecast import overlay
from learndyn.report.page import write_page

TITLE = "Charges of a recorded run"
PAPER = (
    "D. Kunin, J. Sagastuy-Brena, S. Ganguli, D. L. K. Yamins, H. Tanaka. Neural Mechanics: Symmetry and Broken "
    "Conservation Laws in Deep Learning Dynamics. ICLR 2021, arXiv:2012.04728."
)
figures = run_figures
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
    tree = xr.DataTree.from_dict({"/measured/run-0": measured, "/predicted/run-0": predicted})
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
    return [run, *answer(results)]


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
