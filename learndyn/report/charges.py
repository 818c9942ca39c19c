"""Figures of charges: the laws over the measurement, what is left, the plane of charge and velocity, the budget."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from learndyn.report.figures import Figure
from learndyn.report.style import COLOURS, style

COLUMNS = 4  # laws side by side, at most
STILL = 1e-12  # of a charge: a smaller change shows nothing
POINTS = 100  # of a way through the plane of charge and velocity
LINES = 6  # charges in a panel, at most
KINDS = ("scale", "rescale", "translation", "matrix", "dead")
WORDS = {
    "gradient_flow": "gradient flow",
    "decay_only": "decay only",
    "continuous": "continuous law",
    "started": "continuous, slow branch",
    "exact": "exact law",
    "with_current": "exact, with current",
}
PARTS = {
    "step_norm": "length of the steps",
    "decay": "weight decay",
    "memory": "momentum",
    "current": "gradient",
    "jump": "changed from outside",
}


@dataclass(frozen=True)
class Overlay:
    """A training run and its prediction, as `learndyn.recorder.forecast.overlay` makes them.

    Attributes:
        name: The run, for the titles.
        measured: Charges `q` `(step, charge)`, `spent`, `residual`.
        predicted: `q` `(curve, step, charge)` and the scores by law.
    """

    name: str
    measured: xr.Dataset
    predicted: xr.Dataset

    @property
    def title(self) -> str:
        """The name on short lines."""
        return "\n".join(line for part in self.name.splitlines() for line in textwrap.wrap(part, 24))

    def charges(self, law: int, count: int = LINES) -> np.ndarray:
        """Some charges of a law, evenly chosen from the one that moved least to the one that moved most."""
        mine = np.flatnonzero(self.measured.law_of.values == law)
        q = self.measured.q.values[:, mine]
        order = mine[np.argsort(q[-1] - q[0], kind="stable")]
        return order[np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))]


def shown(overlay: Overlay, count: int = COLUMNS) -> list[int]:
    """Laws to draw: the first of each kind, then further ones that moved."""
    kinds = overlay.measured.kind.values
    moved = np.nan_to_num(overlay.predicted.moved.values)
    first = [int(np.flatnonzero(kinds == kind)[0]) for kind in KINDS if (kinds == kind).any()]
    alive = [law for law in first if kinds[law] != "dead"]
    others = sorted(set(range(len(kinds))) - set(first), key=lambda law: -moved[law])
    chosen = [*alive, *others, *(law for law in first if law not in alive)]
    return sorted(chosen[:count])


def overlays(runs: Sequence[Overlay], name: str = "charges") -> Figure:
    """Charges against time, measured solid, the continuous law dashed: a row a run, a column a law."""
    with style():
        drawing, axes = _panels(runs, _charges, "charge", height=2.7)
        handles = [
            Line2D([], [], color=COLOURS[0], label="measured"),
            Line2D([], [], color="black", linestyle="--", linewidth=1, label=WORDS["continuous"]),
        ]
        axes[0, 0].legend(handles=handles, loc="best")
    caption = (
        "Charges of symmetries along training: measured (solid), and predicted (dashed) from their first value, the "
        "settings and the lengths of the steps, with nothing fitted (arXiv:2012.04728). Each line is one charge, of "
        f"one channel or unit; of each law up to {LINES}, from the one that falls most to the one that rises most."
    )
    return Figure(name, drawing, caption)


def _panels(
    runs: Sequence[Overlay], draw: Callable[[Axes, Overlay, int], None], label: str, height: float, sharey: bool = False
) -> tuple[Drawing, np.ndarray]:
    """A row a run, a column a law, against steps."""
    laws = shown(runs[0])
    size = (3.3 * len(laws) + 0.4, height * len(runs) + 0.3)
    drawing, axes = plt.subplots(len(runs), len(laws), figsize=size, squeeze=False, sharex=True, sharey=sharey)
    for row, run in zip(axes, runs):
        for ax, law in zip(row, laws):
            draw(ax, run, law)
        row[0].set_ylabel(f"{run.title}\n\n{label}")
    for ax, law in zip(axes[0], laws):
        ax.set_title(_title(runs[0].measured, law))
    for ax in axes[-1]:
        ax.set_xlabel("step")
    return drawing, axes


def _title(measured: xr.Dataset, law: int) -> str:
    text, size = str(measured.law.values[law]), int((measured.law_of.values == law).sum())
    kind, _, place = text.partition(" at ")
    places = [_short(side) for side in place.split(" against ")]
    return f"{kind} ({size})\n" + " / ".join(places)


def _short(names: str) -> str:
    listed = names.split(", ")
    text = listed[0] + (f" + {len(listed) - 1}" if len(listed) > 1 else "")
    return text if len(text) <= 26 else "…" + text[-25:]


def _charges(ax: Axes, run: Overlay, law: int) -> None:
    steps = run.measured.step.values
    for i, charge in enumerate(run.charges(law)):
        ax.plot(steps, run.measured.q.values[:, charge], color=COLOURS[i % 6], linewidth=2.2, alpha=0.75)
        ax.plot(steps, run.predicted.q.sel(curve="continuous").values[:, charge], "--", color="black", linewidth=0.9)
    if run.predicted.why.values[law]:
        _say(ax, "no prediction")
    _breaks(ax, run.measured)


def _say(ax: Axes, text: str) -> None:
    ax.text(0.5, 0.97, text, transform=ax.transAxes, ha="center", va="top", color="grey", fontsize=8)


def _breaks(ax: Axes, measured: xr.Dataset) -> None:
    for step in measured.step.values[(measured.mark.values & 1) > 0]:
        ax.axvline(step, color="grey", linewidth=0.8, linestyle=":")


def residuals(runs: Sequence[Overlay], name: str = "residuals") -> Figure:
    """How far each law is off, relative to how far the charges have moved at most: a row a run, a column a law."""
    curves = [str(c) for c in runs[0].predicted.curve.values]
    with style():
        drawing, _ = _panels(runs, _residuals, "|off| / largest change", height=2.5, sharey=True)
        handles = [Line2D([], [], color=COLOURS[i], label=WORDS[c]) for i, c in enumerate(curves)]
        drawing.legend(handles=handles, loc="outside lower center", ncols=len(curves))
    caption = (
        "Distance between predicted and measured charges of a law (Euclidean over its charges), relative to the "
        "largest change that was measured. The exact law is at rounding where the symmetry holds; where the epsilon of "
        "a norm breaks it, adding the measured current B(θ, g) brings it there. A residual above that is a broken "
        "symmetry or a fault in the training code."
    )
    return Figure(name, drawing, caption)


def _residuals(ax: Axes, run: Overlay, law: int) -> None:
    mine = np.flatnonzero(run.measured.law_of.values == law)
    q = run.measured.q.values[:, mine]
    change = np.linalg.norm(q - q[0], axis=1).max()
    for i, curve in enumerate(run.predicted.curve.values):
        off = np.linalg.norm(run.predicted.q.sel(curve=curve).values[:, mine] - q, axis=1)
        if np.isfinite(off).any() and run.predicted.moved.values[law] > STILL:
            seen = np.maximum(off[1:] / change, 1e-17)
            ax.semilogy(run.measured.step.values[1:], seen, color=COLOURS[i], linewidth=1.2)
    if not ax.lines:
        _say(ax, "the charges did not move" if not run.predicted.why.values[law] else "no prediction")


def portraits(runs: Sequence[Overlay], name: str = "portraits") -> Figure:
    """Charge and velocity: a panel a run, for the first law that is not linear."""
    law = next((i for i in shown(runs[0]) if runs[0].measured.kind.values[i] not in ("translation", "dead")), 0)
    with style():
        columns = min(len(runs), 4)
        drawing, axes = plt.subplots(
            -(-len(runs) // columns), columns, figsize=(3.4 * columns + 0.3, 3.2 * -(-len(runs) // columns) + 0.2),
            squeeze=False,
        )  # fmt: skip
        for ax, run in zip(axes.flat, runs):
            _portrait(ax, run, law)
        for ax in list(axes.flat)[len(runs) :]:
            ax.set_visible(False)
    caption = (
        f"Charge and velocity of {runs[0].measured.law.values[law]}: measured (solid, a dot at the end), the "
        "continuous law (dashed). The dotted line is where decay and the friction of momentum alone would hold a "
        "charge, dq/dt = −2λq/(1−β): above it the lengths of the steps push outwards."
    )
    return Figure(name, drawing, caption)


def _portrait(ax: Axes, run: Overlay, law: int) -> None:
    m = run.measured.isel(step=slice(None, None, max(1, run.measured.sizes["step"] // POINTS)))
    time = np.asarray(m.time.values, float)
    middle = (np.diff(time) > 0).nonzero()[0]

    def velocity(q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (q[1:] + q[:-1])[middle] / 2, np.diff(q)[middle] / np.diff(time)[middle]

    for i, charge in enumerate(run.charges(law, 5)):
        q, v = velocity(m.q.values[:, charge])
        ax.plot(q, v, color=COLOURS[i % 6], linewidth=1.6, alpha=0.7)
        ax.plot(q[-1:], v[-1:], "o", color=COLOURS[i % 6])
        ax.plot(
            *velocity(run.predicted.q.sel(curve="continuous", step=m.step).values[:, charge]),
            "--",
            color="black",
            linewidth=0.8,
        )
    decay, momentum = (float(m[name].isel(law=law, step=-1).mean()) for name in ("weight_decay", "momentum"))
    left, right = ax.get_xlim()
    line = np.array([left, right])
    if np.isfinite([decay, momentum]).all():
        ax.plot(line, -2 * decay * line / (1 - momentum), ":", color="grey", linewidth=1.2)
    ax.set(xlabel="charge $q$", ylabel="$dq/dt$", title=run.title, xlim=(left, right))


def budgets(runs: Sequence[Overlay], name: str = "budgets") -> Figure:
    """What moved the charge of a law that moved most: a row a run, a column a law."""
    with style():
        drawing, _ = _panels(runs, _budget, "change of a charge", height=2.6)
        outside = any((run.measured.mark.values & 1).any() for run in runs)
        named = list(PARTS.values())[: None if outside else -1]
        handles = [Line2D([], [], color=COLOURS[i], label=words) for i, words in enumerate(named)]
        handles += [Line2D([], [], color="black", linewidth=2, label="together, as measured")]
        drawing.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    caption = (
        "The budget of one charge of each law, that which moved most, summed up since the first step: decay and the "
        "gradient pull, momentum passes on what earlier steps began, and the length of the steps pushes outwards. "
        "Together they are the change of the charge, exactly, for every optimizer. The gradient's part vanishes where "
        "the symmetry holds and nothing stands between gradient and step; under Adam it is the current that the "
        "preconditioner drives."
    )
    return Figure(name, drawing, caption)


def _budget(ax: Axes, run: Overlay, law: int) -> None:
    m = run.measured
    mine = np.flatnonzero(m.law_of.values == law)
    away = np.abs(m.q.values[:, mine] - m.q.values[0, mine])
    charge = mine[np.nan_to_num(away).max(0).argmax()]
    if not run.predicted.moved.values[law] > STILL:
        _say(ax, "the charges did not move")
        ax.set_yticks([])
        return
    for i, part in enumerate(PARTS):
        values = m.spent.sel(spending=part).values[:, charge]
        if part != "jump" or np.abs(values).max() > 1e-9:
            ax.plot(m.step, values, color=COLOURS[i], linewidth=1.4)
    if not m.attrs.get("split", 1):
        ax.plot(m.step, m.unsplit.values[:, charge], color=COLOURS[3], linewidth=1.4)
        _say(ax, "gradient, momentum and decay together")
    ax.plot(m.step, m.q.values[:, charge] - m.q.values[0, charge], color="black", linewidth=2)
    _breaks(ax, m)


def lenses(found: Sequence[xr.Dataset], name: str = "effective-rates") -> Figure:
    """How fast channels in front of norms learn and turn: a column a law, as `learndyn.recorder.lens` sees it."""
    some = [found[i] for i in np.unique(np.linspace(0, len(found) - 1, min(COLUMNS, len(found))).round().astype(int))]
    with style():
        drawing, axes = plt.subplots(
            2, len(some), figsize=(3.3 * len(some) + 0.6, 5.4), squeeze=False, sharex=True, sharey="row"
        )
        for (top, below), one in zip(axes.T, some):
            _band(top, one, "effective_lr", "measured")
            if "predicted_effective_lr" in one:
                middle = one.predicted_effective_lr.median("charge")
                top.plot(one.step, middle, "--", color="black", linewidth=1, label="implicit RMSProp")
            if "effective_lr" not in one:
                _say(top, "not for this optimizer")
            _band(below, one, "angle", "measured")
            if "equilibrium_angle" in one:
                below.plot(one.step, one.equilibrium_angle, "--", color="black", linewidth=1, label="at equilibrium")
            for ax in (top, below):
                ax.set_yscale("log")
            top.set_title("\n".join(textwrap.wrap(one.attrs["law"].removeprefix("scale at "), 28)))
            below.set_xlabel("step")
        axes[0, 0].set_ylabel("$η_{eff} = η/(μ|q|^2)$")
        axes[1, 0].set_ylabel("angle of a step (rad)")
        for ax in axes[:, 0]:
            if ax.get_legend_handles_labels()[0]:
                ax.legend()
    caption = (
        "Channels in front of a normalisation: the learning rate of their directions, measured (median, 5 to 95 % of "
        "the channels) and predicted by the implicit RMSProp (arXiv:2105.02716; dashed), and the angle by which a step "
        "turns them, beside the one at which weight decay and steps balance."
    )
    return Figure(name, drawing, caption)


def _band(ax: Axes, one: xr.Dataset, name: str, label: str) -> None:
    if name not in one:
        return
    values = one[name].values
    rows = np.isfinite(values).any(1)
    low, middle, high = np.nanquantile(values[rows], (0.05, 0.5, 0.95), axis=1)
    ax.fill_between(one.step.values[rows], low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
    ax.plot(one.step.values[rows], middle, color=COLOURS[0], label=label)
