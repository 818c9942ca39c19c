"""Figures of the cone effect: the paper's Figs. 4 and 5."""

import matplotlib.pyplot as plt
import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import LogLocator, NullFormatter

from learndyn.compare.transition import FEWEST as TIMES
from learndyn.errors import InputError
from learndyn.experiments.cone.claims import LEVEL, runs, turning_transition, velocity
from learndyn.observables import cone
from learndyn.report.figures import Figure, curve, grid, legend, mark
from learndyn.report.style import COLOURS, SEQUENTIAL, style

REFERENCES = 5  # kernels from which distances are drawn


def cone_figures(found: xr.Dataset, late: float) -> list[Figure]:
    """Distances between all kernels, and the way of the kernel through time."""
    with style():
        return [_distances(found), _way(found, late)]


def _distances(found: xr.Dataset) -> Figure:
    names = [str(name) for name in found.reduction.values]
    drawing, axes = plt.subplots(1, len(names), figsize=(max(4.6, 3.9 * len(names)), 3.6), squeeze=False)
    mean = (1 - found.kernel_cosine).clip(min=0).mean("seed")
    for ax, name in zip(axes[0], names):
        grid(ax, mean.sel(reduction=name), f"kernel distance $S$, {name}", low=0.0)
    caption = (
        "Distance S = 1 − cos between the tangent kernels of all pairs of steps (the paper's Fig. 4), by reduction: "
        "trace averages over outputs, full keeps all pairs of outputs, sum is the kernel of their sum; they are "
        f"different measures, not estimates of one. Look for a dark block at late steps: there the kernel stays within "
        f"a cone. Mean over {_count(found)}, {int(found.attrs['inputs'])} probe inputs."
    )
    return Figure("kernel-distances", drawing, caption)


def _count(found: xr.Dataset) -> str:
    size = int(found.sizes["seed"])
    return f"{size} run{'s' * (size > 1)}"


def _way(found: xr.Dataset, late: float) -> Figure:
    drawing, axes = plt.subplots(2, 2, figsize=(10, 7.6))
    _references(axes[0, 0], found)
    _velocity(axes[0, 1], found)
    _structure(axes[1, 0], found, late)
    _embedding(axes[1, 1], found)
    first = str(found.reduction.values[0])
    begin = float(found.kernel_step[found.kernel_step >= late * found.kernel_step[-1]][0])
    caption = (
        f"The way of the kernel ({first}). Top left: distance from the kernels of a few steps (Fig. 5a), flat within "
        f"a cone; mean over {_count(found)}. Top right: distance of neighbours (Fig. 5b) with a {100 * LEVEL:g} % "
        f"band; dotted its transition. Bottom left: mean distance against lag from step {begin:g} on; the slope is the "
        f"exponent β, the grey band (5 to 95 %) what random walks with the same steps would do. Bottom right: the "
        f"directions of the first run's kernels in the plane of their leading axes across the first kernel (as in "
        f"Fig. 5c); the distance from the centre is the angle from the first kernel."
    )
    return Figure("kernel-way", drawing, caption)


def _references(ax: Axes, found: xr.Dataset) -> None:
    steps = found.kernel_step.values
    distance = (1 - found.kernel_cosine.isel(reduction=0)).clip(min=0).mean("seed")
    for i, place in enumerate(np.linspace(0, len(steps) * (REFERENCES - 1) // REFERENCES, REFERENCES).astype(int)):
        later = slice(place, None)
        ax.plot(
            steps[later],
            distance.values[place, later],
            marker="o",
            markersize=3,
            color=COLOURS[i],
            label=f"τ = {steps[place]:g}",
        )
    ax.set(xlabel="$t$ (step)", ylabel="$S(t, τ)$", title="distance from the kernel of step τ", ylim=(0, None))
    legend(ax)


def _velocity(ax: Axes, found: xr.Dataset) -> None:
    curves = velocity(found)
    lag = curves.attrs["lag"]
    curve(ax, curves, f"dt = {lag:g}", level=LEVEL, against="kernel_step")
    for i, factor in enumerate((2, 4), 1):
        far = velocity(found, factor * lag)
        if far.sizes["kernel_step"] > 1:
            mean = far.mean("seed")
            ax.plot(mean.kernel_step, mean, color=COLOURS[i], linewidth=1, label=f"dt = {factor * lag:g}")
    ax.set(xlabel="$t$ (step)", ylabel="$S(t, t + dt)$", title="distance of neighbours", ylim=(0, None))
    if curves.sizes["kernel_step"] >= TIMES:
        mark(ax, turning_transition(found))
    legend(ax)


def _structure(ax: Axes, found: xr.Dataset, late: float) -> None:
    ax.set(xlabel="lag dt (steps)", ylabel="mean $S$", title="mean distance against lag, late")
    try:
        for i, run in enumerate(runs(found, late)):
            lags, means = cone.structure_function(run.gram, run.steps, run.window)
            label = f"β = {run.exponent():.2f}" if found.sizes["seed"] <= 6 else None
            ax.loglog(lags, means, marker="o", markersize=3, color=COLOURS[i % len(COLOURS)], label=label)
            if i == 0:
                walks = cone.walk_distances(run.gram, run.steps, run.window)
                low, high = (torch.quantile(walks, q, dim=0) for q in (0.05, 0.95))
                ax.fill_between(lags, low, high, color="grey", alpha=0.25, linewidth=0, label="random walks")
        for axis in (ax.xaxis, ax.yaxis):  # after the last loglog, which sets its own
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    except InputError as error:
        ax.text(0.5, 0.5, "not evenly spaced" if "evenly" in str(error) else "too few kernels",
                transform=ax.transAxes, ha="center", color="grey")  # fmt: skip
    legend(ax)


def _embedding(ax: Axes, found: xr.Dataset) -> None:
    run = runs(found, 0.5)[0]
    angle, azimuth = cone.polar(run.gram)
    x, y = (angle.rad2deg() * f(azimuth) for f in (torch.cos, torch.sin))
    colours = Normalize(float(run.steps[0]), float(run.steps[-1]))
    ax.plot(x, y, color="grey", linewidth=0.6, zorder=1)
    ax.scatter(x, y, c=run.steps, cmap=SEQUENTIAL, norm=colours, s=22, zorder=2)
    ax.scatter([0], [0], color="black", s=40, zorder=3)
    ax.annotate(f"step {run.steps[0]:g}", (0, 0), textcoords="offset points", xytext=(6, 6), fontsize=8)
    ax.set(xlabel="degrees from the first kernel", ylabel="degrees", title="way of the kernel's direction")
    ax.set_aspect("equal", adjustable="datalim")
    ax.figure.colorbar(ScalarMappable(colours, SEQUENTIAL), ax=ax, fraction=0.05, pad=0.02, label="step")
