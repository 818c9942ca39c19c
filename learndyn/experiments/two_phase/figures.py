"""Figures of the chaos half (the grids of the paper's Fig. 3, the curves over t0 with prediction, growth at a fixed
horizon) and of switching; those of the kernels are shared with the cone experiment.
"""

import json
import warnings

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from learndyn.experiments.cone.claims import measured_kernels
from learndyn.experiments.cone.figures import cone_figures
from learndyn.experiments.two_phase.claims import LEVEL, METRICS, ceiling, curves, floors, rms_growth, transitions
from learndyn.report.figures import Figure, curve, grid, legend, mark
from learndyn.report.style import COLOURS, style


def figures(results: xr.DataTree) -> list[Figure]:
    """All figures of the report."""
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(Mean of empty slice|All-NaN)", category=RuntimeWarning)
        return [_grids(results), _curves(results), _growth(results), *_cone(results)]


def _cone(results: xr.DataTree) -> list[Figure]:
    """The cone half: the kernels of the base runs, and what their linearisations lose."""
    measured, settings = results["measured"].to_dataset(), json.loads(results.attrs["settings"])
    made = cone_figures(measured, settings["late"]) if measured_kernels(measured) else []
    if "switch" in measured.dims and bool(measured.switched_error.notnull().any()):
        made.append(_switches(measured, settings["steps"]))
    return made


def _switches(measured: xr.Dataset, end: int) -> Figure:
    drawing, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    for ax, kind, unit in zip(axes, ("loss", "error"), (" (nats)", "")):
        curve(
            ax, measured[f"switched_{kind}"].sel(split="test", drop=True), "linearised", level=LEVEL, against="switch"
        )
        whole = float(measured[f"base_{kind}"].sel(split="test", step=end).mean())
        ax.axhline(whole, color="grey", linewidth=0.8, linestyle=":", label="never linearised")
        ax.set(xlabel="switch (step)", ylabel=f"test {kind}{unit} at the end", title=f"test {kind}")
        legend(ax)
    seen = measured.switched_loss.sel(split="test")
    if float(seen.max()) > 20 * float(seen.min()):
        axes[0].set_yscale("log")
    slower = measured.switched_factor.min()
    caption = (
        "Base runs replaced at a step by their linearisation there, f + J (θ − θ_t), and trained on with the same "
        f"batches to step {end} (the paper's Fig. 6); batch norm by batch statistics in both. Dotted: the base runs "
        f"themselves, mean over seeds; bands {100 * LEVEL:g} % Student t."
    )
    if slower < 1:
        caption += f" Some diverged and were trained with {float(slower):.2g} of the learning rate."
    return Figure("switching", drawing, caption)


def _replicates(results: xr.DataTree) -> str:
    sizes = results["measured"].to_dataset().sizes
    seeds, directions = sizes["seed"], sizes["direction"]
    return f"{seeds} seed{'s' * (seeds > 1)} × {directions} direction{'s' * (directions > 1)}"


def _grids(results: xr.DataTree) -> Figure:
    measured = results["measured"].to_dataset()
    mean = measured.mean(("seed", "direction")).transpose("t0", "t1", ...)
    chord = {"batch_norm": "recalibrate", "convention": "chord"}
    drawing, axes = plt.subplots(2, 3, figsize=(11, 7.2))
    grid(axes[0, 0], mean.dissimilarity, "parameter dissimilarity $C$", log=True, low=1e-12)
    grid(axes[0, 1], mean.loss_barrier.sel(split="train", **chord), "barrier, training loss (nats)", low=0.0)
    grid(axes[0, 2], mean.loss_barrier.sel(split="test", **chord), "barrier, test loss (nats)", low=0.0)
    grid(axes[1, 0], mean.disagreement, "disagreement $D$ on the test set", low=0.0)
    grid(axes[1, 1], mean.function_distance, "distance of probabilities (r.m.s.)", log=True, low=1e-9)
    grid(axes[1, 2], mean.log_growth.where(np.isfinite(mean.log_growth)), "ln growth  ln ‖δ‖/‖ε‖ (nats)")
    caption = (
        "Twins made at t0 and compared at t1 (the paper's Fig. 3). Look for the row below which everything is dark: "
        f"from there on twins end the same. Mean over {_replicates(results)}; barriers by the chord convention with "
        f"batch-norm statistics recalibrated; logarithmic colours saturate at their lower end; cells with t1 ≤ t0 "
        f"are empty."
    )
    return Figure("grids", drawing, caption)


def _curves(results: xr.DataTree) -> Figure:
    found, marks, floor = curves(results), transitions(results), floors(results)
    predicted = results["predicted"].to_dataset()
    last = int(results["measured"].to_dataset().t1[-1])
    drawing, axes = plt.subplots(2, 2, figsize=(10, 7), sharex=True)
    for ax, name in zip(axes.flat, ("loss_barrier", "disagreement", "dissimilarity", "log_distance")):
        curve(ax, found[name], "measured", level=LEVEL)
        ax.set_title(METRICS[name][1])
        if name == "log_distance":
            ax.axhline(floor[name], color="grey", linewidth=0.8, linestyle=":")
            ax.annotate(
                "size of the perturbation",
                (found.t0[0], floor[name]),
                textcoords="offset points",
                xytext=(0, 4),
                fontsize=8,
                color="grey",
            )
            _predicted_distance(ax, results, predicted)
            legend(ax)
        mark(ax, marks[name])
    for ax in axes[-1]:
        ax.set_xlabel("$t_0$ (step)")
    caption = (
        f"Twins made at t0, compared at the end, t1 = {last}. Solid: measured, mean over seeds with a "
        f"{100 * LEVEL:g} % Student-t band (clipped to the panel), thin lines one seed each; "
        f"{_replicates(results)}. Dotted: transition t* with its jackknife interval shaded. Dashed: distance "
        f"predicted from the base run alone, by the adjoint tangent map (ε → 0), capped at ‖θ‖."
    )
    return Figure("transitions", drawing, caption)


def _predicted_distance(ax: plt.Axes, results: xr.DataTree, predicted: xr.Dataset) -> None:
    measured = results["measured"].to_dataset()
    law = predicted.log_growth.isel(t1=-1)
    if bool(law.notnull().any()):
        capped = np.minimum(law, ceiling(measured)) - ceiling(measured)
        curve(ax, capped / np.log(10), "predicted", COLOURS[1], dashed=True, level=LEVEL)


def _growth(results: xr.DataTree) -> Figure:
    measured, predicted = results["measured"].to_dataset(), results["predicted"].to_dataset()
    settings = json.loads(results.attrs["settings"])
    drawing, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    limit = float(ceiling(measured).mean())
    curve(left, rms_growth(measured).isel(t1=-1), "measured", level=LEVEL)
    if bool(predicted.log_growth.notnull().any()):
        curve(left, predicted.log_growth.isel(t1=-1), "predicted, $G(t_0)$", COLOURS[1], dashed=True, level=LEVEL)
    if np.isfinite(limit):
        left.axhline(limit, color="grey", linewidth=0.8, linestyle=":")
        left.annotate(
            "saturation, ln ‖θ‖/‖ε‖",
            (settings["t0"][-1], limit),
            textcoords="offset points",
            xytext=(0, -11),
            ha="right",
            fontsize=8,
            color="grey",
        )
    left.set(xlabel="$t_0$ (step)", ylabel="ln growth up to the end (nats)", title="growth from $t_0$ to the end")
    legend(left)
    for i, horizon in enumerate(settings["horizons"]):
        after = measured.log_growth_after.sel(horizon=horizon).mean("direction")
        curve(
            right,
            after.where(np.isfinite(after)).dropna("t0", how="all"),
            f"after {horizon} steps",
            COLOURS[i],
            level=LEVEL,
        )
    right.axhline(0, color="grey", linewidth=0.8, linestyle=":")
    right.set(xlabel="$t_0$ (step)", ylabel="ln growth (nats)", title="growth over a fixed number of steps")
    legend(right)
    caption = (
        "Left: root-mean-square growth over directions against the law ½ ln(‖M‖²_F / P), from one sweep of the "
        f"adjoint tangent map back through each base run ({settings['probes']} probes). Above the saturation "
        f"nothing can be seen; kinks of ReLU and pooling, which the law does not know, can only lift the measured "
        f"curve. Right: the same number of steps for every start, so that stability is not confused with lack of time. "
        f"{_replicates(results)}; bands as above."
    )
    return Figure("growth", drawing, caption)
