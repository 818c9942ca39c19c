"""Theory dashed over measurement: a figure for each kind of network, and for plain modules."""

import json

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from learndyn.experiments.agf.diagonal import plane
from learndyn.experiments.agf.linear import COMMUTING
from learndyn.report.figures import Figure, legend
from learndyn.report.style import COLOURS, SEQUENTIAL, style

BLACK = {"color": "black", "linestyle": "--", "linewidth": 1.0}
TITLES = {"white": "white inputs", "trap": "growth and gain in other orders", "falling": "variances 1/i²"}


def figures(results: xr.DataTree) -> list[Figure]:
    """All figures of the report."""
    found, law = results["measured"].to_dataset(), results["predicted"].to_dataset()
    settings = json.loads(results.attrs["settings"])
    with style():
        made = [_plane(found, law), _five(found, law), _linear(found, law), _attention(found, law)]
        return [*made, _modular(found, law), _relu(found, law), _modules(found, law, settings)]


def _shades(count: int) -> list:
    return [plt.get_cmap(SEQUENTIAL)(0.85 * i / max(1, count - 1)) for i in range(count)]


def _power_of_ten(value: float) -> str:
    return f"$10^{{{round(np.log10(value))}}}$"


def _plane(found: xr.Dataset, law: xr.Dataset) -> Figure:
    drawing, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.9))
    x, y = (values.numpy() for values in plane())
    grid = np.stack(np.meshgrid(np.linspace(-0.6, 0.8, 121), np.linspace(-0.3, 2.4, 121)), -1)
    loss = ((grid @ x.T - y) ** 2).sum(-1) / (2 * len(y))
    left.contour(grid[..., 0], grid[..., 1], loss, np.geomspace(0.01, 10, 12), colors="0.8", linewidths=0.7)
    shades = _shades(found.sizes["alpha"])
    for k, (alpha, colour) in enumerate(zip(found.alpha.values, shades)):
        beta, t = found.plane_beta.values[k], found.plane_time.values[k]
        left.plot(beta[:, 0], beta[:, 1], color=colour, label=f"α = {_power_of_ten(alpha)}")
        right.plot(t, found.plane_loss.values[k], color=colour)
    corners = law.plane_beta.values[-1]
    corners = np.unique(corners[np.isfinite(corners).all(1)].round(9), axis=0)
    left.plot(corners[:, 0], corners[:, 1], "k*", markersize=8, label="predicted saddles")
    left.set(xlabel="$\\beta_1$", ylabel="$\\beta_2$", title="path on the loss")
    t = found.plane_time.values[-1]
    for i in range(2):
        middle.plot(found.plane_time.values[0], found.plane_s.values[0, :, i], color=COLOURS[i], label=f"$s_{i + 1}$")
        middle.plot(t, law.plane_s.values[-1, :, i], **BLACK)
    middle.set(xlabel="flow time / ln(1/α)", ylabel="accumulated utility s", title=f"α = {found.alpha.values[0]:g}")
    right.plot(t, np.maximum(law.plane_loss.values[-1], 1e-12), **BLACK, label="α → 0")
    right.set(xlabel="flow time / ln(1/α)", ylabel="loss", yscale="log", ylim=(1e-3, 5), title="loss")
    for axes in (left, middle, right):
        legend(axes)
    caption = (
        "Diagonal network in two dimensions. Left: β from saddle to saddle. Middle: the accumulated utility of both "
        "coordinates; one reaches 1, falls asleep, turns round and wakes at −1. Right: loss by rescaled time, the "
        "exact limit dashed. Answers to the paper's illustration of diagonal linear networks. No randomness."
    )
    return Figure("diagonal-plane", drawing, caption)


def _five(found: xr.Dataset, law: xr.Dataset) -> Figure:
    drawing, (left, right) = plt.subplots(1, 2, figsize=(10, 3.9))
    for k, (alpha, colour) in enumerate(zip(found.alpha.values, _shades(found.sizes["alpha"]))):
        left.plot(
            found.five_time.values[k], found.five_loss.values[k], color=colour, label=f"α = {_power_of_ten(alpha)}"
        )
    t = found.five_time.values[-1]
    left.plot(t, law.five_loss.values[-1], **BLACK, label="α → 0")
    middle = found.sizes["alpha"] // 2
    for i in range(found.sizes["five_coordinate"]):
        right.plot(found.five_time.values[middle], found.five_beta.values[middle, :, i], color=COLOURS[i],
                   label=f"$\\beta_{i + 1}$")  # fmt: skip
        right.plot(t, law.five_beta.values[-1, :, i], **BLACK)
    left.set(xscale="log", yscale="log", ylim=(1e-3, None), xlim=(0.05, None))
    right.set(xscale="log", xlim=(0.05, None), title=f"β at α = {_power_of_ten(found.alpha.values[middle])}")
    left.set(ylabel="loss", title="loss")
    for axes in (left, right):
        axes.set_xlabel("flow time / ln(1/α)")
        legend(axes)
    caption = (
        "Diagonal network, five inputs, the paper's data. The smaller the start, the sharper the steps, at times that "
        "do not move in these units: dashed, the exact limit. No randomness."
    )
    return Figure("diagonal-five", drawing, caption)


def _linear(found: xr.Dataset, law: xr.Dataset) -> Figure:
    drawing, axes = plt.subplots(2, len(COMMUTING), figsize=(13, 6), sharex="col")
    for column, name in zip(axes.T, COMMUTING):
        seen, said = (data.isel(seed=0, linear_alpha=0) for data in (found, law))
        t = seen[f"{name}_time"].values
        column[0].plot(t, seen[f"{name}_loss"].values, color=COLOURS[0])
        column[0].plot(t, said[f"{name}_loss"].values, **BLACK)
        for time in said[f"{name}_jumps"].values:
            column[0].axvline(time, color="0.7", linewidth=0.8, zorder=0)
        for k in range(seen.sizes[f"{name}_mode"]):
            column[1].plot(t, seen[f"{name}_modes"].values[:, k], color=COLOURS[k % 7])
            column[1].plot(t, said[f"{name}_modes"].values[:, k], **BLACK)
        smallest = max(law[f"{name}_levels"].values.ravel()[0] * 1e-6, 1e-7)
        column[0].set(yscale="log", ylim=(smallest, None), title=TITLES[name])
        scale = "log" if name == "falling" else "linear"
        column[1].set(xscale=scale, xlabel="flow time")
        if name == "falling":
            column[1].set(yscale="log", ylim=(1e-6, None), xlim=(0.5, None))
    axes[0, 0].set_ylabel("loss")
    axes[1, 0].set_ylabel("modes of AW")
    axes[0, 0].plot([], [], color=COLOURS[0], label="gradient flow")
    axes[0, 0].plot([], [], **BLACK, label="theory of this start")
    legend(axes[0, 0])
    alpha = float(found.linear_alpha[0])
    caption = (
        f"Linear networks of two layers, α = {alpha:g}, first seed: loss and singular modes under their closed form "
        "for these very first weights (dashed; grey lines: half of a drop is done). In the middle the mode that lowers "
        "the loss most is learned last, because it grows slowest. Answers to the paper's figure of linear networks."
    )
    return Figure("linear", drawing, caption)


def _attention(found: xr.Dataset, law: xr.Dataset) -> Figure:
    drawing, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    for alpha, colour in zip(found.attention_alpha.values, _shades(found.sizes["attention_alpha"])):
        seen, said = (data.sel(attention_alpha=alpha).isel(seed=0) for data in (found, law))
        t = seen.attention_time * alpha
        left.plot(t, seen.attention_loss, color=colour, label=f"α = {_power_of_ten(alpha)}")
    left.plot(t, said.attention_loss, **BLACK, label="algorithm")
    for time in said.attention_bound.values * alpha:
        left.axvline(time, color="0.6", linewidth=0.9, linestyle=":")
    for k in range(seen.sizes["attention_mode"]):
        right.plot(t, seen.attention_modes.values[:, k], color=COLOURS[k])
        weights = law.attention_weights.isel(seed=0) if "seed" in law.attention_weights.dims else law.attention_weights
        right.axhline(float(weights[k]), **BLACK)
    left.set(xscale="log", xlabel="flow time × α", ylabel="loss", title="loss, first seed")
    right.set(xscale="log", xlabel="flow time × α", ylabel="$e_l^T M e_l$", title="learned weights, smallest α")
    legend(left)
    caption = (
        "Linear attention that regresses in context, averaged over all prompts: a head a principal direction. Dashed: "
        "steps of the algorithm from the same heads, and the final weights 1/(tr Σ + (N + 1)λ); dotted: earliest time "
        "of every drop. Answers to the paper's figure of the linear transformer."
    )
    return Figure("attention", drawing, caption)


def _modular(found: xr.Dataset, law: xr.Dataset) -> Figure:
    seeds = min(found.sizes["seed"], 3)
    drawing, axes = plt.subplots(2, seeds, figsize=(4.4 * seeds, 6.2), sharex="col", squeeze=False)
    for seed in range(seeds):
        seen, said = found.isel(seed=seed), law.isel(seed=seed)
        top, bottom = axes[:, seed]
        t = seen.modular_time
        top.plot(t, seen.modular_loss, color=COLOURS[0], label="gradient flow")
        top.plot(t, said.modular_loss, **BLACK, label="algorithm")
        top.set(xscale="log", yscale="log", ylim=(5e-3, None), title=f"start {seed}")
        for k, frequency in enumerate(found.frequency.values):
            bottom.plot(t, seen.modular_amplitude.values[:, k] ** 2, color=COLOURS[k], label=f"frequency {frequency}")
            bottom.plot(t, said.modular_amplitude.values[:, k] ** 2, **BLACK)
            bottom.axvline(float(said.modular_bound[k]), color=COLOURS[k], linestyle=":", linewidth=1)
        bottom.set(xlabel="flow time")
    axes[0, 0].set_ylabel("loss")
    axes[1, 0].set_ylabel("Fourier power of the outputs / target's")
    legend(axes[0, 0])
    legend(axes[1, 0])
    caption = (
        "Modular addition by quadratic neurons, a column a start. Above: loss, with the algorithm's steps (dashed), "
        "one for each neuron that wakes. Below: power of the outputs at every frequency; dotted, its earliest time. "
        "Answers to the paper's figure of modular addition."
    )
    return Figure("modular", drawing, caption)


def _relu(found: xr.Dataset, law: xr.Dataset) -> Figure:
    seeds = min(found.sizes["seed"], 3)
    drawing, axes = plt.subplots(1, seeds, figsize=(4.4 * seeds, 3.9), squeeze=False, sharey=True)
    for seed, ax in enumerate(axes[0]):
        for k, width in enumerate(found.width.values):
            seen, said = (data.isel(seed=seed).sel(width=width) for data in (found, law))
            ax.plot(
                seen.relu_time, seen.relu_loss, color=COLOURS[k % 7], label=f"{width} neuron{'s' if width > 1 else ''}"
            )
            ax.plot(seen.relu_time, said.relu_loss, **BLACK)
        ax.set(xlabel="flow time", title=f"start {seed}")
    axes[0, 0].set_ylabel("loss")
    legend(axes[0, 0])
    caption = (
        "ReLU networks on digits from a start of the size of the settings (1e-20), by width: every neuron makes a "
        "step, and the algorithm knows when (dashed), up to the first that wakes at an acute angle to an awake one. "
        "Answers to the paper's figure of ReLU networks on CIFAR-10."
    )
    return Figure("relu", drawing, caption)


def _modules(found: xr.Dataset, law: xr.Dataset, settings: dict) -> Figure:
    drawing, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.9))
    seen, said = found.isel(seed=0), law.isel(seed=0)
    left.plot(seen.linear_module_time, seen.linear_module_loss, color=COLOURS[0], label="SGD on a module")
    left.plot(seen.linear_module_time, said.linear_module_loss, **BLACK, label="closed form")
    right.plot(seen.quadratic_module_time, seen.quadratic_module_loss, color=COLOURS[0], label="SGD on a module")
    right.plot(seen.quadratic_module_time, said.quadratic_module_loss, **BLACK, label="gradient flow of its neurons")
    right.step(seen.quadratic_module_time, said.alternated_module_loss, color=COLOURS[1], linestyle="--", linewidth=1,
               where="post", label="algorithm")  # fmt: skip
    left.set(yscale="log", ylim=(1e-4, None), ylabel="loss", title="linear")
    right.set(title="quadratic, modular addition")
    for axes in (left, right):
        axes.set_xlabel("flow time, steps × η/(1 − μ) × s")
        legend(axes)
    caption = (
        f"Plain modules of PyTorch, MSELoss, SGD with momentum {settings['momentum']:g}, {settings['module_steps']} "
        "steps: losses and steps converted by the one factor of flow_time. First seed."
    )
    return Figure("modules", drawing, caption)
