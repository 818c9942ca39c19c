"""Do the charges move as theory says? Numbers with what they were in a prototype beside them."""

import json
from collections.abc import Iterator

import numpy as np
import xarray as xr

from learndyn.compare import Claim, at_least, at_most, exact
from learndyn.report.charges import Overlay

LINEAR = ("translation", "dead")
BROKEN = 1e-12  # relative current of a law above which an eps breaks it
FLOAT64 = {"exact": 1e-10, "budget": 1e-11}
FLOAT32 = {"exact": 1e-3, "budget": 1e-5}


def overlays_of(results: xr.DataTree) -> list[Overlay]:
    """Every run with its prediction."""
    settings = json.loads(results.attrs["settings"])
    found = []
    for name, node in results["measured"].children.items():
        measured = node.to_dataset()
        title = measured.attrs["optimizer"]
        if len(settings["models"]) > 1:
            title = f"{measured.attrs['model']}\n{title}"
        if settings["seeds"] > 1:
            title += f", seed {measured.attrs['seed']}"
        found.append(Overlay(title, measured, results["predicted"][name].to_dataset()))
    return found


def _by_eps(run: Overlay) -> np.ndarray:
    """Laws that the eps of a norm breaks: as the finder has measured it, or those of scale where nobody has."""
    if "broken" in run.measured.attrs:
        return np.array(json.loads(run.measured.attrs["broken"])) > BROKEN
    return run.measured.kind.values == "scale"


def _errors(
    runs: list[Overlay], curve: str, kinds: tuple[str, ...], score: str = "change_error", by_eps: bool | None = None
) -> Iterator[tuple[Overlay, float]]:
    """Of every law of these kinds that moved and has a prediction; only those that an eps breaks, or does not."""
    for run in runs:
        chosen = run.predicted.sel(curve=curve)
        among = np.isin(run.measured.kind.values, kinds)
        among &= True if by_eps is None else _by_eps(run) == by_eps
        for law in np.flatnonzero(among):
            value = float(chosen[score].values[law])
            if np.isfinite(value):
                yield run, value


def _momentum(run: Overlay) -> float:
    return float(run.measured.momentum.max())


def _decay(run: Overlay) -> float:
    return float(run.measured.weight_decay.max())


def _largest_fall(run: Overlay) -> float:
    """Of any scale charge from row to row."""
    scale = run.measured.kind.values[run.measured.law_of.values] == "scale"
    return float((-np.diff(run.measured.q.values[:, scale], axis=0)).max(initial=0.0))


def claims(results: xr.DataTree) -> list[Claim]:
    """The claims of the paper and of what was derived from it; those that the settings cannot bear are left out."""
    settings = json.loads(results.attrs["settings"])
    runs = overlays_of(results)
    known = all("broken" in run.measured.attrs for run in runs)  # else an eps may break what is taken for exact
    bound = FLOAT64 if settings["dtype"] == "float64" and known else FLOAT32
    found: list[Claim] = []

    def worst(name: str, sentence: str, values: list[float], most: float, paper: str) -> None:
        if values:
            found.append(at_most(name, sentence, exact(max(values)), most, paper=paper))

    residual = [float(run.measured.residual.max()) for run in runs]
    worst(
        "budget-closes",
        "Decay, gradient, momentum and the lengths of the steps make up the change of every charge, for every "
        "optimizer: what is left over, relative to the charge.",
        residual,
        bound["budget"],
        "4e-15 for one step of AdamW (derived)",
    )
    homogeneous = ("rescale", "matrix")
    worst(
        "rescale-exact",
        "Rescale charges follow the exact discrete law: error relative to how far they moved, worst law and run.",
        [v for _, v in _errors(runs, "exact", homogeneous, by_eps=False)],
        bound["exact"],
        "4e-13 without, 4.5e-12 with momentum (derived); 3e-6 to 7e-6 in float32",
    )
    worst(
        "translation-exact",
        "Translation charges, which only decay moves, follow theirs.",
        [v for _, v in _errors(runs, "exact", LINEAR)],
        bound["exact"],
        "1.3e-14 without, 1.5e-12 with momentum (derived)",
    )
    if settings["every"] == 1:
        worst(
            "scale-exact",
            "Charges that the epsilon of a norm breaks, such as scale, follow it too once the current that it drives "
            "is added.",
            [v for _, v in _errors(runs, "with_current", ("scale", *homogeneous), by_eps=True)],
            bound["exact"],
            "1e-15 (derived)",
        )
    worst(
        "epsilon-shows",
        "Without that current they are off by no more than what epsilon breaks.",
        [v for _, v in _errors(runs, "exact", ("scale", *homogeneous), by_eps=True)],
        1e-2,
        "5e-4 to 1e-3 at epsilon 1e-5",
    )
    quadratic = ("scale", *homogeneous)
    plain = [v for run, v in _errors(runs, "continuous", quadratic) if _momentum(run) == 0]
    worst(
        "continuous-first-order",
        "Without momentum the paper's continuous law is off by order η: error relative to how far charges moved.",
        plain,
        1e-2,
        '"indistinguishable" in the figures; 1e-4 to 2.4e-3 in a prototype',
    )
    heavy = [v for run, v in _errors(runs, "continuous", quadratic, "sup_error") if _momentum(run) > 0]
    worst(
        "continuous-oscillator",
        "With momentum the damped oscillator is off by a few percent of the largest change at any time.",
        heavy,
        5e-2,
        '"indistinguishable" in the figures; 0.3 to 2 % at worst over time in a prototype',
    )
    decaying = [v for run, v in _errors(runs, "decay_only", quadratic) if _decay(run) > 0]
    if decaying:
        sentence = "Weight decay alone does not explain them: its error, best law and run."
        found.append(at_least("decay-is-not-enough", sentence, exact(min(decaying)), 0.05, paper="wrong by 5 to 140 %"))
    free = [run for run in runs if (run.predicted.why.values == "").all() and _decay(run) == _momentum(run) == 0]
    falls = [_largest_fall(run) for run in free if "scale" in run.measured.kind.values]
    worst(
        "norms-only-grow",
        "Without decay and momentum the norms in front of a normalisation only grow: largest fall between two rows.",
        falls,
        1e-12 if settings["dtype"] == "float64" else 1e-5,
        "monotone",
    )
    counted = [json.loads(run.measured.attrs["counted"]) for run in runs]
    gaps = [abs(c["found"] - c["silent"] - c["listed"]) for c in counted if c]
    worst(
        "count-complete",
        "The finder lists as many diagonal symmetries as there are relations among the gradients: difference.",
        [float(gap) for gap in gaps],
        0,
        "equal in every network tried (derived)",
    )
    return found
