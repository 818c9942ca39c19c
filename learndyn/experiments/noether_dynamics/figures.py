"""Theory dashed over measurement: effective learning rates, Noether's charge, equilibria, twins, rates, optimizers."""

import json
import warnings

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from learndyn.experiments.noether_dynamics.claims import TRAINED, balanced, has, sgd_runs
from learndyn.report.figures import Figure, grid, legend
from learndyn.report.style import COLOURS, style

SHOWN = 3  # channels of a layer that are drawn one by one


def figures(results: xr.DataTree) -> list[Figure]:
    """All figures of the report."""
    found, law = results["measured"].to_dataset(), results["predicted"].to_dataset()
    constant = json.loads(results.attrs["settings"])["schedule"].startswith("constant")
    with style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(Mean of empty slice|All-NaN)", category=RuntimeWarning)
        made = [_rates_figure(found, law)] if has(found, "effective_lr") else []
        made += [_charge(found, law, constant)] if has(found, "noether_charge") else []
        made.append(_angles(found, law))
        made += [_twin(found)] if has(found, "twin_loss") else []
        made += [_robustness(found)] if "rate" in found.dims else []
        return [*made, _optimizers(found)]


def _title(text: str) -> str:
    """A run's name in a few signs."""
    signs = {"lr=": "η=", "momentum=": "β=", "weight_decay=": "λ="}
    for long, short in signs.items():
        text = text.replace(long, short)
    return text


def _picked(found: xr.Dataset, each: int = SHOWN) -> list[tuple[int, int, str | None]]:
    """Some channels of two layers, with the number of the layer, and its name for the first of them."""
    places = list(dict.fromkeys(found.place.values))
    made: list[tuple[int, int, str | None]] = []
    for i, place in enumerate(places[:: max(1, len(places) // 2)][:2]):
        where = np.flatnonzero(found.place.values == place)
        chosen = where[np.linspace(0, len(where) - 1, min(each, len(where))).astype(int)]
        made += [(int(c), i, None if n else str(place).split(",")[0]) for n, c in enumerate(chosen)]
    return made


def _rates_figure(found: xr.Dataset, law: xr.Dataset) -> Figure:
    runs = [i for i in sgd_runs(found) if has(found.isel(run=i), "effective_lr")][:4]
    size = (3.4 * len(runs) + 0.6, 5.2)
    drawing, axes = plt.subplots(2, len(runs), figsize=size, sharex=True, squeeze=False, height_ratios=(2, 1))
    for (top, below), i in zip(axes.T, runs):
        seen, said = (x.isel(run=i, seed=0) for x in (found, law))
        for c, layer, label in _picked(found):
            top.plot(found.step, seen.effective_lr.isel(charge=c), color=COLOURS[layer], label=label, linewidth=1.2)
            top.plot(found.step, said.effective_lr.isel(charge=c), "--", color="black", linewidth=0.9)
        top.plot([], [], "--", color="black", linewidth=0.9, label="predicted")
        top.set(yscale="log", title=_title(str(found.run.values[i])))
        top.title.set_fontsize(8.5)
        off = said.effective_lr / seen.effective_lr - 1
        low, mid, high = (off.quantile(p, "charge") for p in (0.05, 0.5, 0.95))
        below.fill_between(found.step, low, high, color=COLOURS[0], alpha=0.2, linewidth=0)
        below.plot(found.step, mid, color=COLOURS[0])
        below.axhline(0, color="grey", linewidth=0.8, linestyle=":")
        below.set(xlabel="step")
        reach = float(np.nanmax(np.abs([low.values[1:], high.values[1:]])))
        below.set_ylim(-1.1 * reach, 1.1 * reach)
    axes[0, 0].set_ylabel("$η_{eff} = η/(μ|q|^2)$")
    axes[1, 0].set_ylabel("predicted / measured − 1")
    legend(axes[0, 0])
    caption = (
        "Effective learning rates of some channels of two layers (solid) and what the implicit RMSProp predicts from "
        "the gradients on the sphere and the measured memory factor ϕ (dashed): |q|⁴ as their running mean. Below, the "
        "relative error, median and 5 to 95 % of all channels of the first seed. Without momentum theory and "
        "measurement cannot be told apart; with momentum the running ϕ lags behind fast changes at the start."
    )
    return Figure("effective-lr", drawing, caption)


def _charge(found: xr.Dataset, law: xr.Dataset, constant: bool) -> Figure:
    runs = [i for i in sgd_runs(found) if has(found.isel(run=i), "noether_charge")]
    run = next((i for i in runs if sgd_runs(found)[i]["momentum"] > 0), runs[0])
    seen, said = (x.isel(run=run, seed=0) for x in (found, law))
    drawing, axes = plt.subplots(2, 2, figsize=(10, 7.2))
    inside = slice(1, None)
    for c, layer, label in _picked(found, each=1):
        for ax, name, x in (
            (axes[0, 0], "noether_charge", found.step.values[inside]),
            (axes[0, 1], "noether_charge_close", found.step.values[-1] - np.arange(found.sizes["close"])[::-1]),
        ):
            values = [y[name].isel(charge=c).values for y in (seen, said)]
            values = [y[inside] if name == "noether_charge" else y for y in values]
            ax.plot(x, values[0], color=COLOURS[layer], label=label, linewidth=1.2)
            ax.plot(x, values[1], "--", color="black", linewidth=0.9)
        _portrait(axes[1, 0], found, seen, run, (c, layer), constant)
    axes[0, 0].plot([], [], "--", color="black", linewidth=0.9, label="predicted")
    charges = seen.noether_charge.values[1:]
    axes[0, 0].set_yscale("symlog", linthresh=max(1e-9, float(np.nanquantile(np.abs(charges), 0.5))))
    axes[0, 0].set(xlabel="step", ylabel="$\\mathcal{Q}$", title="Noether charge, means between rows")
    axes[0, 1].set(xlabel="step", ylabel="$\\mathcal{Q}$", title="Noether charge, the last steps one by one")
    axes[0, 0].legend(loc="lower right")
    _residuals(axes[1, 1], found, runs)
    caption = (
        f"Top and bottom left: {_title(str(found.run.values[run]))}, first seed, a channel of each of two layers. "
        "Solid: 𝒬 = (m/2η) Δ|q|² as measured; dashed: from its start by d𝒬/dt + (μ/m)𝒬 = δT − λ|q|² with the measured "
        "drive. "
        "Bottom left: the same channels in the plane of |q|² and its relative velocity (large dot: end); on the dashed "
        "line decay acts alone, and the distance from it is what kinetic symmetry breaking gives. Bottom right: by how "
        "much that equation is missed, every channel of every run: rounding with balanced weights of the two half "
        "steps, not with equal ones."
    )
    return Figure("noether-charge", drawing, caption)


def _portrait(
    ax: Axes, found: xr.Dataset, seen: xr.Dataset, run: int, channel: tuple[int, int], constant: bool
) -> None:
    """Velocity over charge against charge: the line of decay alone is level, and so is the nullcline."""
    s, (c, layer) = sgd_runs(found)[run], channel
    q, steps = seen.q.isel(charge=c).values, found.step.values
    velocity, middle = np.diff(q) / np.diff(steps), (q[1:] + q[:-1]) / 2
    ax.plot(middle, velocity / middle, "-", color=COLOURS[layer], linewidth=0.8, marker=".", markersize=3)
    ax.plot(middle[-1], (velocity / middle)[-1], "o", color=COLOURS[layer], markersize=6)
    if not ax.get_xlabel():
        decay = -2 * s["lr"] * s["weight_decay"] / (1 - s["momentum"])
        if constant:
            ax.axhline(decay, color="black", linestyle="--", linewidth=0.9, label="decay alone, $-2ηλ/μ$")
        ax.axhline(0, color="grey", linewidth=0.8, linestyle=":", label="nullcline: steps balance decay")
        ax.set(xlabel="$|q|^2$", ylabel="$Δ|q|^2 / |q|^2$ per step", xscale="log", title="charge and velocity")
        legend(ax)


def _residuals(ax: Axes, found: xr.Dataset, runs: list[int]) -> None:
    for k, (name, words) in enumerate((("residual", "balanced"), ("residual_equal", "equal weights"))):
        for n, i in enumerate(runs):
            values = found[name].isel(run=i).values.ravel()
            values = np.maximum(values[np.isfinite(values)], 1e-17)
            at = n + np.linspace(-0.25, 0.25, len(values))
            ax.plot(at, values, ".", color=COLOURS[k], markersize=3, label=words if n == 0 else None)
    ax.set(yscale="log", ylabel="relative residual of (1)", title="left minus right side")
    labels = [_title(str(found.run.values[i])).replace(", ", "\n") for i in runs]
    ax.set_xticks(range(len(runs)), labels, fontsize=7.5)
    legend(ax)


def _angles(found: xr.Dataset, law: xr.Dataset) -> Figure:
    runs = range(min(found.sizes["run"], 7))
    names = [i for i in sgd_runs(found) if has(found.isel(run=i), "norm_ratio_smooth")]
    names = [i for i in names if balanced(found, i)] or names
    drawing, axes = plt.subplots(1, 2 if names else 1, figsize=(11 if names else 6, 4.2), squeeze=False)
    left = axes[0, 0]
    for i in runs:
        seen, said = found.isel(run=i), law.isel(run=i)
        low, mid, high = (seen.angle.quantile(p, ("seed", "charge")) for p in (0.05, 0.5, 0.95))
        left.fill_between(found.step, low, high, color=COLOURS[i], alpha=0.15, linewidth=0)
        left.plot(found.step, mid, color=COLOURS[i], label=_title(str(found.run.values[i])), linewidth=1.2)
        if "angle" in said:
            left.plot(found.step, said.angle.mean(("seed", "charge")), "--", color=COLOURS[i], linewidth=1)
    left.set(xlabel="step", ylabel="angle of a step (rad)", yscale="log", title="rotation of the direction")
    left.legend(fontsize=7)
    caption = (
        "Left: root-mean-square angle by which a channel turns in a step, median and 5 to 95 % of all channels and "
        "seeds; dashed where decay and steps balance, √(2ηλ/(1+β)), whatever the gradients; for AdamW an upper bound."
    )
    if names:
        _norms(axes[0, 1], found, names)
        caption += (
            " Right: |q|² at equilibrium from the gradients on the sphere of the late steps, over the measured mean, "
            "every channel (sorted), of runs that have come there. With momentum ϕ = 1 is wrong for the noise of "
            "mini-batches."
        )
    return Figure("equilibrium", drawing, caption)


def _norms(right: Axes, found: xr.Dataset, names: list[int]) -> None:
    """Predicted over measured norms at equilibrium, by memory factor."""
    factors = {"measured": "ϕ measured", "white": "ϕ white", "smooth": "ϕ = 1"}
    for k, (name, words) in enumerate(factors.items()):
        for n, i in enumerate(names):
            values = found[f"norm_ratio_{name}"].isel(run=i).values.ravel()
            values = np.sort(values[np.isfinite(values)])
            at = n + (k - 1) * 0.25 + np.linspace(-0.1, 0.1, len(values))
            right.plot(at, values, ".", color=COLOURS[k], markersize=3, label=words if n == 0 else None)
    right.axhline(1, color="grey", linewidth=0.8, linestyle=":")
    labels = [_title(str(found.run.values[i])).replace(", ", "\n") for i in names]
    right.set_xticks(range(len(names)), labels, fontsize=7.5)
    right.set_ylim(0.05, 50)
    right.set(yscale="log", ylabel="predicted / measured $|q|^2$", title="norm at equilibrium, by memory factor")
    legend(right)


def _twin(found: xr.Dataset) -> Figure:
    runs = [i for i in range(found.sizes["run"]) if has(found.isel(run=i), "twin_loss")][:3]
    drawing, axes = plt.subplots(len(runs), 2, figsize=(10, 3.6 * len(runs)), squeeze=False)
    for (left, right), i in zip(axes, runs):
        seen = found.isel(run=i)
        left.plot(found.step, seen.loss.mean("seed"), color=COLOURS[0], label="SGD in front of norms")
        left.plot(found.step, seen.twin_loss.mean("seed"), "--", color=COLOURS[1], label="RMSProp on the sphere")
        left.set(xlabel="step", ylabel="training loss (nats)", yscale="log", title=_title(str(found.run.values[i])))
        legend(left)
        one = seen.isel(seed=0)
        for c, layer, label in _picked(found):
            right.plot(found.step, one.effective_lr.isel(charge=c), color=COLOURS[layer], label=label, linewidth=1.2)
            right.plot(found.step, one.twin_effective_lr.isel(charge=c), "--", color="black", linewidth=0.9)
        right.plot([], [], "--", color="black", linewidth=0.9, label="its twin's $η_{RMS}/√v$")
        right.set(xlabel="step", ylabel="$η_{eff}$", yscale="log", title="effective learning rates, first seed")
        legend(right)
    caption = (
        "The same network from the same weights, with the same batches: once by SGD with weight decay, once with the "
        "weights in front of norms on the unit sphere, by RMSProp with one second moment a channel, "
        "ρ = 1 − 4ηλ and η_RMS = √(2ηλ). Losses are means between rows and over seeds."
    )
    return Figure("rmsprop-twin", drawing, caption)


def _robustness(found: xr.Dataset) -> Figure:
    drawing, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    for k, network in enumerate(map(str, found.network.values)):
        at = found.sel(network=network)
        finite = at.final_loss.where(np.isfinite(at.final_loss))
        for ax, values in ((left, finite), (right, at.norm_factor)):
            ax.plot(found.rate, values.mean("seed"), "o-", color=COLOURS[k], label=network)
            for row in values.transpose("seed", "rate").values:
                ax.plot(found.rate, row, color=COLOURS[k], alpha=0.35, linewidth=0.7)
        lost = found.rate.values[~np.isfinite(at.final_loss).all("seed").values]
        left.plot(lost, np.full(len(lost), np.log(10)), "x", color=COLOURS[k], markersize=7)
    left.axhline(TRAINED, color="grey", linewidth=0.8, linestyle=":")
    left.set(xscale="log", yscale="log", xlabel="learning rate of hidden weights", ylabel="final training loss (nats)")
    right.set(xscale="log", yscale="log", xlabel="learning rate of hidden weights", ylabel="$|w|^2$, end over start")
    legend(left)
    caption = (
        "Final loss (mean of the last 50 steps) against the learning rate of hidden weights, all others at 0.05; "
        "crosses: diverged for a seed. Right: how the norms of hidden rows have grown, median; in front of a norm they "
        "grow until the effective rate is small enough. Thin lines: seeds."
    )
    return Figure("learning-rates", drawing, caption)


def _optimizers(found: xr.Dataset) -> Figure:
    drawing, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for ax, name, title in (
        (left, "law_current", "largest relative current of a step"),
        (right, "asymmetry", "κ of the kinetic energy"),
    ):
        values = found[name]
        rows, columns = ([str(x) for x in values[dim].values] for dim in values.dims)
        numbered = xr.DataArray(values.values, {"y": range(len(rows)), "x": range(len(columns))}, ("y", "x"))
        grid(ax, numbered, title, log=name == "law_current", low=1e-16 if name == "law_current" else 0.0)
        ax.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=0, fontsize=8)
        ax.set_yticks(np.arange(len(rows)) + 0.5, rows, fontsize=8)
        ax.set(xlabel="", ylabel="")
        ax.invert_yaxis()
        for (i, j), value in np.ndenumerate(values.values):
            ax.text(
                j + 0.5,
                i + 0.5,
                f"{value:.1g}",
                ha="center",
                va="center",
                fontsize=7.5,
                color="white",
                bbox={"facecolor": "black", "alpha": 0.35, "linewidth": 0, "pad": 1},
            )
    caption = (
        "Left: ⟨u, X⟩ / (|u| |θ|) of the first step u of an optimizer, the largest over all charges of a kind: "
        "rounding where the optimizer keeps the law, of order 0.1 where it breaks it. Scale: MLP with batch norm; "
        "rescale and translation: also one without. Right: κ = |δT|/2T of kinetic energies at a random point: 0 where "
        "the metric of the learning rule has the symmetry."
    )
    return Figure("optimizers", drawing, caption)
