"""Theory dashed over measurement: the neuron, the grid, the plane, grokking, the hierarchy, your model, filters."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from learndyn.compare import mean_interval
from learndyn.experiments.get_rich_quick.claims import EARLY, medians
from learndyn.experiments.get_rich_quick.grokking import LEVEL, budget
from learndyn.experiments.get_rich_quick.neuron import BASIN_TARGET, LINE, LINE_BETA, SUM
from learndyn.experiments.get_rich_quick.planar import plane, xor
from learndyn.experiments.get_rich_quick.settings import Settings, stored
from learndyn.report.figures import Figure, grid, legend
from learndyn.report.style import COLOURS, style
from learndyn.tasks import hierarchy_sizes

BLACK = {"color": "black", "linestyle": "--", "linewidth": 0.9}


def figures(results: xr.DataTree) -> list[Figure]:
    """All figures of the report."""
    found, law = results["measured"].to_dataset(), results["predicted"].to_dataset()
    settings = stored(results.attrs["settings"])
    with style():
        made = [_curves(found, law), _portrait(found, law), _laws(found, law, settings), _ends(found, law)]
        made += [_cells(found), _map(found), _split(found), plane(found), xor(found)]
        made += [_grokking(found, settings), _tree(found), _overlay(found, law)]
        return [*made, _filters(found)] if "roughness" in found else made


def _hues(count: int) -> list:
    """From downstream (blue) through balanced (grey, dark enough for paper) to upstream (red)."""
    shades = [plt.get_cmap("coolwarm")(i / max(1, count - 1)) for i in range(count)]
    return [("0.55" if 2 * i == count - 1 else shade) for i, shade in enumerate(shades)]


def _plain(axis, values) -> None:
    """Ticks at these values of a logarithmic axis, as plain numbers."""
    axis.set_ticks(list(values), minor=False)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
    axis.set_minor_locator(plt.NullLocator())


def _curves(found: xr.Dataset, law: xr.Dataset) -> Figure:
    drawing, axes = plt.subplots(1, 3, figsize=(13, 3.7))
    names = {"mu": "μ = a|w|", "phi": "φ = cos(w, β*)", "moved": "kernel distance S(0, t)"}
    for ax, (name, words) in zip(axes, names.items()):
        for delta, hue in zip(found.delta.values, _hues(found.sizes["delta"])):
            seen, said = (x.sel(delta=delta) for x in (found, law))
            ax.plot(found.neuron_time.sel(delta=delta), seen[name], color=hue, linewidth=2.4, label=f"δ = {delta:g}")
            ax.plot(found.neuron_time.sel(delta=delta), said[name], **BLACK)
        ax.set(xscale="log", xlim=(0.05, None), xlabel="flow time (η × steps)", ylabel=words)
    axes[2].plot([], [], **BLACK, label="closed form")
    axes[2].legend(loc="upper left", fontsize=7.5)
    caption = (
        "One neuron on white data, β* = (0, 1), from β = (−1, 0): gradient descent on a module (colour) under the "
        "closed form (dashed). Upstream (red) the function comes first and the kernel stays; downstream (blue) "
        "nothing seems to happen, then the kernel turns furthest. Answers to Fig. 3."
    )
    return Figure("neuron", drawing, caption)


def _portrait(found: xr.Dataset, law: xr.Dataset) -> Figure:
    drawing, axes = plt.subplots(1, 4, figsize=(14, 3.7), width_ratios=(1, 1, 1, 1.15))
    r = float(BASIN_TARGET.norm())
    for ax, level in zip(axes, found.level.values):
        seen = found.sel(level=level)
        a, along = (seen[f"portrait_{n}"].transpose("shown", "moment").values for n in ("a", "along"))
        ends = law.basin.sel(level=level).values[: len(a)]
        for x, y, end in zip(along, a, ends):
            ax.plot(x, y, color=COLOURS[0] if end > 0 else COLOURS[1], linewidth=1.1)
            ax.plot(x[0], y[0], "o", color=COLOURS[0] if end > 0 else COLOURS[1], markersize=3)
        reach = 1.08 * max(np.abs(a).max(), np.abs(along).max())
        x = np.linspace(-reach, reach, 3)
        if level <= 0:  # above, the two basins are not connected
            ax.plot(x, -2 * r * x / (np.hypot(level, 2 * r) + level), **BLACK)
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), title=f"δ = {level:g}", xlabel="wᵀβ*/r")
        ax.set_aspect("equal")
    axes[0].set_ylabel("a")
    for k, words in enumerate(("ends at a > 0, foretold", "ends at a < 0, foretold")):
        axes[0].plot([], [], color=COLOURS[k], label=words)
    axes[0].plot([], [], **BLACK, label="separatrix")
    axes[0].legend(fontsize=7, loc="lower left")
    last = axes[3]
    for k, delta in enumerate(found.edge_delta.values):
        for edge in found.edge.values:
            seen, said = (x.edge_a.sel(edge_delta=delta, edge=edge) for x in (found, law))
            last.plot(found.moment[1:], seen[1:], color=COLOURS[k], label=f"δ = {delta:g}" if edge > 0 else None)
            last.plot(found.moment[1:], said[1:], **BLACK)
    last.set(xscale="log", xlabel="flow time", ylabel="a", title="a = −4, on the separatrix ± 1e-3")
    last.legend(loc="lower right")
    caption = (
        "Left: runs in the plane of a and the part of w along the task (dots: starts), coloured by the basin foretold; "
        "dashed, where the two basins meet. For δ > 0 a never changes its sign. Right: starts a thousandth above and "
        "below the separatrix, integrated (solid) and closed form (dashed): long near the saddle, then to either side. "
        "Answers to Fig. 2 and App. fig. 7."
    )
    return Figure("portrait", drawing, caption)


def _laws(found: xr.Dataset, law: xr.Dataset, settings: Settings) -> Figure:
    drawing, axes = plt.subplots(1, 4, figsize=(14, 3.5))
    axes[0].plot(found.far, found.delay, "o", color=COLOURS[0], label="flow of a module")
    axes[0].plot(found.far, law.delay, **BLACK, label="law")
    axes[0].set(xscale="log", yscale="log", xlabel="−δ", ylabel="flow time, φ = 0.3 to 0.9", title="downstream: delay")
    axes[1].plot(found.far, found.upstream_error, "o", color=COLOURS[0], label="largest |β − law|")
    first = float(found.upstream_error[0] * found.far[0] ** 2)
    axes[1].plot(found.far, first / found.far**2, **BLACK, label="∝ δ⁻²")
    axes[1].set(xscale="log", yscale="log", xlabel="δ", title="upstream: exponential")
    for k, (name, words) in enumerate((("onset_time", "fit, μ = ½"), ("aligned_time", "alignment, φ = 0.99"))):
        axes[2].plot(found.small, found[name], "o", color=COLOURS[k], label=words)
        axes[2].plot(found.small, law[name], **BLACK)
    axes[2].set(xscale="log", ylim=(0, None), xlabel="|β| at the start", ylabel="flow time", title="δ = 0, small start")
    for delta, hue in zip(found.delta.values, _hues(found.sizes["delta"])):
        eta = settings.rate / (1 + abs(delta) / 4) * found.halving
        axes[3].plot(eta, found.gd_error.sel(delta=delta), "o-", color=hue, linewidth=1, label=f"δ = {delta:g}")
    axes[3].set(xscale="log", yscale="log", xlabel="learning rate η", ylabel="|β − closed form| at t = 3")
    axes[3].set_title("half the step, half the error")
    _plain(axes[3].xaxis, settings.rate * found.halving.values[::-1])
    for ax in axes[:3]:
        legend(ax)
    for ax in axes[:2]:
        _plain(ax.xaxis, found.far.values)
    _plain(axes[0].yaxis, [float(f"{v:.2g}") for v in law.delay.values])
    axes[3].legend(fontsize=6.5, ncols=2, loc="lower right")
    low = float(found.gd_error.min())
    axes[3].set_ylim(low / 30, None)
    caption = (
        "Laws of the three regimes, dashed, over integrated modules. Far downstream the first layer turns after a time "
        "∝ |δ|; far upstream β falls exponentially; from a small balanced start alignment takes the same time at all "
        "scales, and the fit waits ln(10)/2r a decade. Right: gradient descent against the closed form."
    )
    return Figure("laws", drawing, caption)


def _ends(found: xr.Dataset, law: xr.Dataset) -> Figure:
    drawing, ax = plt.subplots(figsize=(6.8, 4.2))
    direction = np.array([-LINE[0, 1], LINE[0, 0]])
    least = (LINE[0] * SUM / LINE.square().sum()).numpy()
    points = least + np.linspace(-2, 2, 3)[:, None] * direction
    ax.plot(*points.T, color="grey", linewidth=1, label="all solutions of Xβ = y")
    for delta, hue in zip(found.delta.values, _hues(found.sizes["delta"])):
        path = np.vstack([LINE_BETA.numpy(), found.end_path.sel(delta=delta).transpose("end_time", "axis").values])
        ax.plot(*path.T, color=hue, label=f"δ = {delta:g}")
        ax.plot(*law.end.sel(delta=delta).values, "x", color="black", markersize=6)
    ax.plot([], [], "x", color="black", linestyle="none", label="end, foretold")
    ax.plot(*LINE_BETA.numpy(), "o", color="black", markersize=5)
    ends = law.end.transpose("delta", "axis").values
    ax.set(xlim=(0, ends[:, 0].max() + 0.3), ylim=(-0.3, max(ends[:, 1].max(), 0.9) + 0.25))
    ax.set(xlabel="β₁", ylabel="β₂", title="one equation, two weights")
    ax.legend(fontsize=7.5, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    caption = (
        "Paths of β from the same start (dot) and the interpolant that each δ ends in; crosses are foretold from the "
        "start alone. Upstream goes straight to the line, downstream first along its own ray. Answers to Fig. 4b."
    )
    return Figure("interpolants", drawing, caption)


def _cells(found: xr.Dataset) -> Figure:
    drawing, axes = plt.subplots(1, 5, figsize=(16, 3.6))
    names = {"kernel_distance": "kernel distance S", "hamming": "Hamming distance (of 50)", "distance": "|θ − θ₀|",
             "test_loss": "test loss", "train_loss": "training loss"}  # fmt: skip
    steps = found.cell_step.values
    for ax, (name, words) in zip(axes, names.items()):
        for k, cell in enumerate(found.cell.values):
            values = found[f"cell_{name}"].isel(cell=k).transpose("cells_seed", "cell_step").values
            ax.plot(steps, values.mean(0), color=COLOURS[k], label=str(cell))
            ax.fill_between(steps, values.min(0), values.max(0), color=COLOURS[k], alpha=0.15, linewidth=0)
        ax.set(xscale="log", xlabel="step", title=words)
        if "loss" in name:
            ax.set_yscale("log")
    axes[0].legend(fontsize=7)
    caption = (
        "Five cells of the grid at full size (100 inputs, 1000 examples), mean and range of "
        f"{found.sizes['cells_seed']} seeds. Upstream (δ = 1) the kernel turns and units change sides within tens of "
        "steps, on a short way, and the test loss falls first. The largest S comes later, mildly downstream, with "
        "few units changing sides."
    )
    return Figure("cells", drawing, caption)


def _heat(ax: Axes, found: xr.Dataset, name: str, step: int, title: str, log: bool = False, **ends: float) -> None:
    seeds = found[f"map_{name}"].sel(map_step=step).mean("map_seed").transpose("tau", "map_delta")
    grid(ax, seeds.rename(tau="τ", map_delta="δ"), title, log, **ends)


def _map(found: xr.Dataset) -> Figure:
    drawing, axes = plt.subplots(2, 4, figsize=(15, 6.4))
    last = int(found.map_step[-1])
    names = {"kernel_distance": ("kernel distance S", False), "hamming": ("Hamming distance", False),
             "distance": ("|θ − θ₀|", False), "test_loss": ("test loss", True)}  # fmt: skip
    for column, (name, (words, log)) in zip(axes.T, names.items()):
        both = found[f"map_{name}"].sel(map_step=[EARLY, last]).mean("map_seed")
        for ax, step in zip(column, (EARLY, last)):
            _heat(ax, found, name, step, f"{words}, step {step}", log, low=float(both.min()), high=float(both.max()))
    caption = (
        f"The grid of Fig. 1b, mean of {found.sizes['map_seed']} seeds, colours shared in a column. Small τ and δ > "
        "0: many units change sides by step 100, on a short way, at the lowest test loss. Small τ and δ < 0: the "
        "longest way, and late; the largest S lies at mildly negative δ. Large τ: lazy whatever δ."
    )
    return Figure("map", drawing, caption)


def _split(found: xr.Dataset) -> Figure:
    drawing, axes = plt.subplots(1, 3, figsize=(12, 3.6))
    last = int(found.map_step[-1])
    high = float(found.map_kernel_distance.sel(map_step=last).mean("map_seed").max())
    names = {"kernel_distance": "S", "kernel_distance_weights": "S, weights alone moved",
             "kernel_distance_patterns": "S, patterns alone moved"}  # fmt: skip
    for ax, (name, words) in zip(axes, names.items()):
        _heat(ax, found, name, last, f"{words}, step {last}", low=0.0, high=high)
    caption = (
        "What moves the kernel: with the activation patterns of the start (middle), with its weights (right). "
        "Downstream weights turn under patterns that stay, upstream patterns change under weights that hardly move. "
        "The two do not add up."
    )
    return Figure("causes", drawing, caption)


def _grokking(found: xr.Dataset, settings: Settings) -> Figure:
    drawing, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8))
    told = medians(found, settings)
    for k, alpha in enumerate(found.grok_alpha.values):
        at = found.sel(grok_alpha=alpha)
        spread = alpha * np.geomspace(0.85, 1 / 0.85, max(2, found.sizes["grok_seed"]))
        for x, step, end in zip(spread, at.grokked.values, at.grok_end.values):
            if np.isnan(step):
                left.plot(x, budget(settings, alpha), "^", markerfacecolor="none", color=COLOURS[k % 6], markersize=7)
            else:
                left.plot(x, end, "o", color=COLOURS[k % 6])
        if np.isfinite(told[float(alpha)].median):
            left.plot(alpha * np.array([0.7, 1.4]), [told[float(alpha)].median] * 2, color="black", linewidth=1)
        for row in at.validation_accuracy.transpose("grok_seed", "grok_step").values:
            right.plot(found.grok_step, row, color=COLOURS[k % 6], linewidth=1)
        for row in at.train_accuracy.transpose("grok_seed", "grok_step").values:
            right.plot(found.grok_step, row, ":", color=COLOURS[k % 6], linewidth=0.8)
        right.plot([], [], color=COLOURS[k % 6], label=f"α = {alpha:g}")
    left.plot([], [], "o", color="grey", label="grokked")
    left.plot([], [], "^", markerfacecolor="none", color="grey", label="not by then: a lower bound")
    left.plot([], [], color="black", linewidth=1, label="median (Kaplan-Meier)")
    right.plot([], [], color="grey", label="validation")
    right.plot([], [], ":", color="grey", label="training")
    right.axhline(LEVEL, color="grey", linewidth=0.6, linestyle="--")
    left.set(
        xscale="log", ylim=(0, None), xlabel="α (embeddings divided by)", ylabel="steps to 99 % validation accuracy"
    )
    _plain(left.xaxis, found.grok_alpha.values)
    right.set(xlabel="step", ylabel="accuracy", ylim=(0, 1.02))
    left.legend(loc="upper right")
    right.legend(loc="lower right", fontsize=7.5)
    caption = (
        f"A one-layer transformer on {settings.operation} mod {settings.modulus}, {100 * settings.fraction:.0f} % for "
        f"training, AdamW, {settings.grok_seeds} seeds. Open triangles are runs that were given up: their time is "
        "longer, and is averaged with no other. Answers to Fig. 6d."
    )
    return Figure("grokking", drawing, caption)


def _tree(found: xr.Dataset) -> Figure:
    drawing, ax = plt.subplots(figsize=(5.6, 3.8))
    _, scale = hierarchy_sizes()
    sizes = found.tree_size.values / scale
    for alpha, hue in zip(found.tree_alpha.values, _hues(found.sizes["tree_alpha"])):
        values = found.tree_test.sel(tree_alpha=alpha).transpose("tree_seed", "tree_size").values
        ax.plot(sizes, values.mean(0), "o-", color=hue, label=f"α = {alpha:g}")
        ax.fill_between(sizes, values.min(0), values.max(0), color=hue, alpha=0.2, linewidth=0)
    ax.axhline(1 / 8, color="grey", linewidth=0.6, linestyle="--")
    ax.set(xscale="log", ylim=(0, 1.02), xlabel="examples P / P*", ylabel="test accuracy")
    _plain(ax.xaxis, [float(f"{v:.3g}") for v in sizes])
    legend(ax)
    caption = (
        f"Random hierarchy of 3 levels, P* = {scale}; mean and range of {found.sizes['tree_seed']} seeds; grey: "
        "chance. Upstream (red) a network sees through it with fewer examples. Answers to Fig. 6c."
    )
    return Figure("hierarchy", drawing, caption)


def _overlay(found: xr.Dataset, law: xr.Dataset) -> Figure:
    drawing, axes = plt.subplots(1, 4, figsize=(15, 3.7))
    names = {"kernel": "kernel distance S", "patterns": "units that changed sides", "parameters": "|θ − θ₀| / |θ₀|"}
    x = found.alpha.values
    for ax, (name, words) in zip(axes, names.items()):
        seen, said = (d[f"{name}_end"].transpose("seed", "alpha").values for d in (found, law))
        for row in seen:
            ax.plot(x, np.maximum(row, 1e-9), "o", color=COLOURS[0], alpha=0.5)
        ax.plot(x, np.maximum(seen.mean(0), 1e-9), color=COLOURS[0], label="measured")
        if len(seen) > 2:
            bands = [mean_interval(column) for column in seen.T]
            low = [max(b.low, seen.min() / 2, 1e-9) for b in bands]
            ax.fill_between(x, low, [b.high for b in bands], color=COLOURS[0], alpha=0.15, linewidth=0)
        ax.plot(x, np.maximum(said.mean(0), 1e-9), **BLACK, label="foretold from the first weights")
        floor = [v for v in (*seen.ravel(), *said.ravel()) if v > 0]
        ax.set(xscale="log", yscale="log", xlabel="α", title=words)
        if floor:
            ax.set_ylim(max(min(floor), 1e-9) / 2, None)
        _plain(ax.xaxis, x)
    axes[0].legend(loc="lower right", fontsize=7.5)
    for alpha, hue in zip(x, _hues(len(x))):
        values = found.patterns.sel(alpha=alpha).mean("seed")
        axes[3].plot(found.overlay_step[1:], values[1:], color=hue, label=f"α = {alpha:g}")
    axes[3].set(xscale="log", xlabel="step", title="units that changed sides")
    axes[3].legend(fontsize=7.5)
    caption = (
        f"Your model at several α, learning rate c/λ_max, {found.sizes['seed']} seeds: measured (solid) and foretold "
        "from the first weights by linearised training (dashed). Upstream more units change sides while the weights "
        "move less than near balance."
    )
    return Figure("your-model", drawing, caption)


def _filters(found: xr.Dataset) -> Figure:
    alphas = found.filter_alpha.values
    shown = min(6, found.sizes["filter"])
    drawing, axes = plt.subplots(len(alphas), shown + 1, figsize=(1.25 * shown + 3.2, 1.35 * len(alphas) + 0.5),
                                 width_ratios=(*(1,) * shown, 2.2), squeeze=False)  # fmt: skip
    for row, alpha in zip(axes, alphas):
        at = found.sel(filter_alpha=alpha).isel(filters_seed=0)
        for ax, w in zip(row, at.filter_weights.transpose("filter", "row", "column").values):
            size = np.abs(w).max()
            ax.imshow(w, cmap="gray", vmin=-size, vmax=size)
            ax.set_xticks([])
            ax.set_yticks([])
        row[0].set_ylabel(f"α = {alpha:g}")
    for ax in axes[:, -1]:
        ax.remove()
    ax = drawing.add_subplot(axes[0, 0].get_gridspec()[:, -1])
    values = found.roughness.transpose("filter_alpha", ...).values.reshape(len(alphas), -1)
    for x, each in zip(alphas, values):
        ax.plot(np.full(len(each), x), each, ".", color=COLOURS[0], alpha=0.5)
    ax.plot(alphas, values.mean(1), color=COLOURS[0], label="mean")
    ax.axhline(float(found.roughness_first.mean()), color="grey", linewidth=0.8, linestyle="--", label="at the start")
    ax.set(xscale="log", ylim=(0, None), xlabel="α", ylabel="roughness")
    _plain(ax.xaxis, alphas)
    ax.legend(fontsize=7.5)
    caption = (
        "First filters after training on oriented gratings (first seed), and |(w/|w|) * Laplacian|², lower is "
        "smoother: at small α they stay the noise that they were. Answers to Fig. 6b."
    )
    return Figure("filters", drawing, caption)
