"""Theory dashed over measurement: overlay, tree, shapes, maps, sequences, starts, saddles."""

import json

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from learndyn.experiments.lambda_balanced.settings import shape
from learndyn.experiments.lambda_balanced.starts import WEAKEST
from learndyn.report.figures import Figure, grid, legend
from learndyn.report.style import COLOURS, SEQUENTIAL, style

BLACK = {"color": "black", "linestyle": "--", "linewidth": 0.9}
SYMLOG = {"linthresh": 0.1, "linscale": 0.5}


def figures(results: xr.DataTree) -> list[Figure]:
    """All figures of the report."""
    found, law = results["measured"].to_dataset(), results["predicted"].to_dataset()
    rate = json.loads(results.attrs["settings"])["rate"]
    with style():
        made = [_overlay(found, law), _errors(found, law, rate), _tree(found, law), _scores(found, law)]
        made += [_shapes(found, law), _maps(law)]
        if "map_data" in found:
            made.append(_data_map(found))
        return [*made, _sequence(found, law), _reversal(found, law), _starts(found, law), _saddles(found, law)]


def _shown(found: xr.Dataset) -> list[float]:
    """At most three λ: the ends and the middle."""
    lams = found.lam.values.tolist()
    return sorted({lams[0], lams[len(lams) // 2], lams[-1]})


def _shades(count: int) -> list:
    return [plt.get_cmap(SEQUENTIAL)(0.9 * i / max(1, count - 1)) for i in range(count)]


def _few_decades(axis: Axis) -> None:
    """Plain numbers at 1, 2 and 5 of a logarithmic axis that spans a decade or two."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _overlay(found: xr.Dataset, law: xr.Dataset) -> Figure:
    lams = _shown(found)
    names = {"loss": "loss", "function": "$W_2W_1$", "rep_in": "$W_1^TW_1$", "rep_out": "$W_2W_2^T$",
             "kernel_distance": "kernel, S(0, t)"}  # fmt: skip
    size = (13, 2.4 * len(lams) + 0.5)
    drawing, axes = plt.subplots(len(lams), len(names), figsize=size, squeeze=False)
    for n, (row, lam) in enumerate(zip(axes, lams)):
        seen, said = (x.sel(lam=lam).isel(seed=0) for x in (found, law))
        t = seen.time.values
        for ax, (name, title) in zip(row, names.items()):
            values, theory = (x[name].values.reshape(len(t), -1) for x in (seen, said))
            for i in range(min(values.shape[1], 25)):
                ax.plot(
                    t[1:], values[1:, i], color=COLOURS[i % 6] if values.shape[1] > 1 else COLOURS[0], linewidth=1.5
                )
                ax.plot(t[1:], theory[1:, i], **BLACK)
            ax.set(xscale="log")
            if name == "loss":
                ax.set(yscale="log", ylabel=f"λ = {lam:g}")
            if n == 0:
                ax.set_title(title)
            if n == len(lams) - 1:
                ax.set_xlabel("flow time (η × steps)")
    axes[0, 0].plot([], [], color=COLOURS[0], label="SGD on a module")
    axes[0, 0].plot([], [], **BLACK, label="theory")
    axes[0, 0].legend(loc="lower left")
    caption = (
        "Gradient descent on a real network (solid, a colour an entry) under its exact curves (dashed), first seed, "
        "nothing fitted. From left: loss, all entries of the function and of both representations, and how far the "
        "tangent kernel of the network has moved. At large |λ| one representation hardly moves; sigmoids of the rich "
        "regime in the middle row are exponentials there. Answers to the paper's overlay of dynamics."
    )
    return Figure("overlay", drawing, caption)


def _errors(found: xr.Dataset, law: xr.Dataset, rate: float) -> Figure:
    drawing, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8))
    off = np.abs(found.function - law.function).max(("output", "input")) / np.abs(law.function).max(
        ("look", "output", "input")
    )
    for k, lam in enumerate(found.lam.values):
        at = off.sel(lam=lam)
        t = found.time.sel(lam=lam).isel(seed=0).values
        for row in at.values:
            left.plot(t[1:], row[1:], color=COLOURS[k % 6], linewidth=max(0.8, 2.4 - 0.8 * k))
        left.plot([], [], color=COLOURS[k % 6], label=f"λ = {lam:g}")
        errors = found.gd_error.sel(lam=lam)
        etas = rate / (1 + abs(lam)) * found.halving.values
        for row in errors.values:
            right.plot(etas, row, "o-", color=COLOURS[k % 6], linewidth=max(0.8, 2.4 - 0.8 * k), markersize=6 - k % 4)
    span = rate * np.array([found.halving.values[-1] / (1 + np.abs(found.lam.values).max()), 1.0])
    right.plot(span, 0.1 * span, **BLACK, label="0.1 η")
    left.set(xscale="log", yscale="log", xlabel="flow time (η × steps)", ylabel="|measured − theory| / largest")
    left.set_title("residual of $W_2W_1$ along the run")
    _few_decades(right.xaxis)
    _few_decades(right.yaxis)
    right.set(xscale="log", yscale="log", xlabel="learning rate η", ylabel="largest error of $W_2W_1$")
    right.set_title("half the step, half the error")
    legend(left)
    legend(right)
    caption = (
        "Left: by how much gradient descent misses the closed form along the run above, a line a seed. Right: its "
        "largest "
        "value as the learning rate is halved at the same final time. What is left is the finite step: the integrated "
        "flow "
        f"is within {float(found.flow_error.max()):.0e}."
    )
    return Figure("errors", drawing, caption)


def _tree(found: xr.Dataset, law: xr.Dataset) -> Figure:
    count = found.sizes["begin"]
    drawing, axes = plt.subplots(2, count, figsize=(2.6 * count, 5.2), height_ratios=(1, 1.05))
    for (top, below), name in zip(axes.T, found.begin.values):
        seen, said = (x.sel(begin=name).isel(seed=0) for x in (found, law))
        t, shades = seen.tree_time.values, _shades(found.sizes["mode"])
        for i in range(found.sizes["mode"]):
            top.plot(t[1:], seen.modes.values[1:, i], color=shades[i], linewidth=1.5)
            top.plot(t[1:], said.modes.values[1:, i], **BLACK)
        top.set(xscale="log", title=str(name), xlabel="flow time × k")
        largest = float(np.abs(seen.gram).max())
        image = below.imshow(seen.gram.values, cmap="RdBu_r", vmin=-largest, vmax=largest)
        half = len(seen.gram) // 2 - 0.5
        below.axhline(half, color="black", linewidth=0.6)
        below.axvline(half, color="black", linewidth=0.6)
        below.set_xticks([])
        below.set_yticks([])
        drawing.colorbar(image, ax=below, fraction=0.05, pad=0.03)
    axes[0, 0].set_ylabel("singular values of $W_2W_1$")
    axes[1, 0].set_ylabel("$QQ^T$ at the end")
    axes[0, 0].plot([], [], color=_shades(2)[0], label="SGD")
    axes[0, 0].plot([], [], **BLACK, label="theory")
    legend(axes[0, 0])
    caption = (
        "The tree of items from five starts, first seed. Top: singular values of the network (solid, strongest dark) "
        "and "
        "theory (dashed; from Gaussian starts the integrated flow). Bottom: QQᵀ as trained; top left W₁ᵀW₁ (items), "
        "bottom right W₂W₂ᵀ (features). From small or 0-balanced starts both corners carry the task; for λ > 0 the "
        "output "
        "corner is λI and the input corner has the tree, for λ < 0 the other way; a large Gaussian start stays in "
        "both. "
        "Answers to the paper's semantic task."
    )
    return Figure("tree", drawing, caption)


def _scores(found: xr.Dataset, law: xr.Dataset) -> Figure:
    drawing, axes = plt.subplots(1, 3, figsize=(12, 3.8))
    lams = found.tree_lam.values
    for ax, side, words in ((axes[0], "in", "input representation"), (axes[1], "out", "output representation")):
        for k, (name, label) in enumerate(
            (("linear", "cosine with $\\tilde S$"), ("quadratic", "cosine with $\\tilde S^2$"))
        ):
            ax.plot(lams, found[f"score_{side}_{name}"].mean("seed"), "o", color=COLOURS[k], label=label)
            ax.plot(lams, law[f"score_{side}_{name}"].mean("seed"), **BLACK)
        ax.set_xscale("symlog", **SYMLOG)
        ax.set(xlabel="λ", title=words)
        ax.set_xticks([-10, -1, 0, 1, 10], ["−10", "−1", "0", "1", "10"])
    axes[0].plot([], [], **BLACK, label="closed form")
    axes[0].set_ylabel("cosine at the end")
    legend(axes[0])
    right, sizes = axes[2], np.abs(lams)
    for k, (chosen, label) in enumerate(((lams > 0, "λ > 0"), (lams < 0, "λ < 0"))):
        if chosen.any():
            look = {"color": COLOURS[k], "markersize": 8 - 4 * k, "label": label}
            right.plot(sizes[chosen], found.learned_time.mean("seed")[chosen], "os"[k], **look)
            order = np.argsort(sizes[chosen])
            right.plot(sizes[chosen][order], law.learned_time.mean("seed").values[chosen][order], **BLACK)
    right.set(xscale="log", yscale="log", xlabel="|λ|", ylabel="flow time to a loss of 1e-3", title="speed")
    _few_decades(right.yaxis)
    _few_decades(right.xaxis)
    legend(right)
    caption = (
        "The tree learned from the same first function at every λ, mean over seeds. Left, middle: cosines of the "
        "learned "
        "representations with ṼS̃Ṽᵀ and ṼS̃²Ṽᵀ (outputs: Ũ), trained (dots) and in closed form (dashed); "
        "task-specificness is the larger of the two. Right: flow time to a loss of 1e-3; at large |λ| it falls as "
        "1/|λ|."
    )
    return Figure("tree-scores", drawing, caption)


def _shapes(found: xr.Dataset, law: xr.Dataset) -> Figure:
    drawing, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2))
    lams = found.shape_lam.values
    for k, text in enumerate(found["shape"].values):
        values = law.moved.sel(shape=text).mean("task")
        known = np.isfinite(values.values)
        left.plot(lams[known], values[known], "o--", color=COLOURS[k % 7], label=f"({text})", linewidth=1)
        late = found.moved_late.sel(shape=text).mean("task")
        left.plot(lams, late, "x", color=COLOURS[k % 7], markersize=8)
    left.plot([], [], "x", color="grey", label="flow, at the end")
    left.set_xscale("symlog", linthresh=1, linscale=0.5)
    left.set(yscale="log", xlabel="λ", ylabel="S(0, ∞), mean over tasks", title="how far the kernel moves")
    left.set_ylim(bottom=max(1e-10, float(law.moved.min()) / 30))
    left.legend(loc="lower center", fontsize=7.5, ncols=2, title="d, h, c")
    text = _delayed(law)
    chosen = [lam for lam in lams if np.isfinite(law.moving.sel(shape=text, shape_lam=lam)).all()]
    for colour, lam in zip(_shades(len(chosen)), chosen):
        right.plot(law.kernel_time, law.moving.sel(shape=text, shape_lam=lam), "--", color=colour, label=f"λ = {lam:g}")
    right.set(xscale="log", xlabel="flow time", ylabel="S(0, t), mean over tasks", title=f"when it moves: ({text})")
    right.legend(loc="upper left", fontsize=8)
    caption = (
        f"Closed form, mean over {law.sizes['task']} random tasks. Left: large |λ| is lazy (λ⁻⁴) only where the large "
        "layer "
        "spans its side; on the other side of funnels it is not lazy at all. Right: there the kernel moves as far as "
        "in "
        "the rich regime, but later, by a factor of |λ|: delayed rich. Crosses: the flow of such networks, "
        "integrated, at "
        "its end. Infeasible λ are left out."
    )
    return Figure("shapes", drawing, caption)


def _delayed(law: xr.Dataset) -> str:
    """A shape that is lazy on one side of λ = 0 and delayed rich on the other, if there is one."""
    texts = [str(text) for text in law["shape"].values]
    return next((t for t in texts if (s := shape(t))[1] <= min(s[0], s[2]) and s[0] != s[2]), texts[0])


def _maps(law: xr.Dataset) -> Figure:
    count = law.sizes["map_shape"]
    drawing, axes = plt.subplots(1, count, figsize=(4.2 * count, 3.9), squeeze=False)
    for ax, text in zip(axes[0], law.map_shape.values):
        values = law.map_moved.sel(map_shape=text).drop_vars("map_shape")
        named = values.rename(map_scale="scale of the first product", map_lam="λ")
        named = named.assign_coords({n: [float(f"{v:.2g}") for v in named[n].values] for n in named.dims})
        grid(ax, named, f"S(0, ∞), ({text})", log=True, low=1e-8, high=1.0)
    caption = (
        "Closed form of the kernel distance from start to end over λ and the scale of the first product, one random "
        "task "
        "of scale 1 a shape. Lazy are large |λ|, above the scales of product and task, where the large layer spans its "
        "side: on both sides for a square network, on one for the others. Where a shape has no network of this λ it "
        "has "
        "as many hidden units as there can be. Answers to the paper's heat map."
    )
    return Figure("map", drawing, caption)


def _data_map(found: xr.Dataset) -> Figure:
    drawing, ax = plt.subplots(figsize=(5.2, 4.2))
    values = found.map_data.rename(data_scale="scale of the targets", data_lam="λ")
    values = values.assign_coords({n: [float(f"{v:.2g}") for v in values[n].values] for n in values.dims})
    grid(ax, values, "S(first, last step)", log=True)
    caption = "Gradient descent with fewer examples than inputs: no closed form. The first shape of the map above."
    return Figure("map-data", drawing, caption)


def _sequence(found: xr.Dataset, law: xr.Dataset) -> Figure:
    stages = found.sizes["stage"]
    drawing, axes = plt.subplots(1, stages, figsize=(3 * stages, 3.4), sharey=True, squeeze=False)
    seen, said = (x.isel(seed=0) for x in (found, law))
    t = seen.sequence_time.values
    for n, ax in enumerate(axes[0]):
        for i in range(found.sizes["learned_task"]):
            colour = COLOURS[i % 7]
            ax.plot(t, seen.sequence_loss.values[n, :, i], color=colour, label=f"task {i + 1}", linewidth=1.5)
            ax.plot(t, said.sequence_loss.values[n, :, i], **BLACK)
        ax.set(xlabel="flow time in the stage", title=f"learning task {n + 1}")
        ax.set_xscale("symlog", linthresh=0.1)
        ax.set_xticks([0, 0.1, 1, 10], ["0", "0.1", "1", "10"])
    axes[0, 0].set_ylabel("loss")
    axes[0, -1].plot([], [], **BLACK, label="theory")
    drawing.legend(*axes[0, -1].get_legend_handles_labels(), loc="outside lower center", ncols=8)
    caption = (
        "Random tasks one after the other at λ = 1, first seed: loss on every task, SGD on a module (solid) and "
        "theory from "
        "the very first weights (dashed). What is forgotten at the end of a stage depends on the tasks alone; how "
        "fast, on "
        "λ. Answers to the paper's continual learning."
    )
    return Figure("sequence", drawing, caption)


def _reversal(found: xr.Dataset, law: xr.Dataset) -> Figure:
    drawing, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.9))
    lams = found.turned_lam.values
    for colour, lam in zip(_shades(len(lams)), lams):
        seen, said = (x.sel(turned_lam=lam) for x in (found, law))
        left.plot(seen.turned_time, seen.turned_loss, color=colour, label=f"λ = {lam:g}")
        shown = seen.turned_time.values < float(seen.trust)
        left.plot(seen.turned_time[shown], said.turned_loss[shown], **BLACK)
    left.set(yscale="log", xlabel="flow time since Σ → −Σ", ylabel="loss", title="reversal", ylim=(1e-4, 20))
    left.legend(fontsize=7.5)
    positive = lams > 0
    for k, s in enumerate(found.turned_mode.values):
        seen, said = (x.crossing.sel(turned_mode=s)[positive] for x in (found, law))
        middle.plot(lams[positive], seen, "o", color=COLOURS[k], label=f"s = {s:g}")
        middle.plot(lams[positive], said, **BLACK)
    middle.set(xscale="log", xlabel="λ", ylabel="flow time", title="modes pass zero")
    middle.plot([], [], **BLACK, label="ln(1 + K/λ)/K")
    legend(middle)
    for row in found.tuned_moved.transpose("pair", "tuned_lam").values:
        right.plot(found.tuned_lam, row, "o", color=COLOURS[0], markersize=3)
    for row in law.tuned_moved.transpose("pair", "tuned_lam").values:
        right.plot(found.tuned_lam, row, **BLACK)
    right.set_xscale("symlog", **SYMLOG)
    right.set_xticks([-10, -1, 0, 1, 10], ["−10", "−1", "0", "1", "10"])
    right.set(
        yscale="log", xlabel="λ after the rebalance", ylabel="kernel distance", title="fine-tuning on another task"
    )
    caption = (
        "Left: a learned task turned round; gradient descent (solid) and theory (dashed, until rounding decides). From "
        "λ = 0 the network forgets and never relearns; any other λ, however small, is enough. Middle: when modes pass "
        "zero. Right: a pair trained at λ = 0 is given another λ at the same function and fine-tuned on another task, "
        "a "
        "line a pair of tasks: how far its kernel moves."
    )
    return Figure("reversal", drawing, caption)


def _starts(found: xr.Dataset, law: xr.Dataset) -> Figure:
    drawing, axes = plt.subplots(1, 3, figsize=(13, 3.9))
    left, middle, right = axes
    for k, init in enumerate(found.init.values):
        seen, said = (x.sel(init=init) for x in (found, law))
        x = np.arange(found.sizes["init_shape"]) + (k - 1.5) * 0.18
        for i, centre in enumerate(x):
            left.plot(np.full(found.sizes["draw"], centre), seen.residual.isel(init_shape=i), ".", color=COLOURS[k],
                      markersize=3, label=str(init) if i == 0 else None)  # fmt: skip
            left.plot([centre - 0.08, centre + 0.08], [float(said.residual.isel(init_shape=i))] * 2, **BLACK)
    left.plot([], [], **BLACK, label="expected")
    left.set_xticks(range(found.sizes["init_shape"]), [f"({t})" for t in found.init_shape.values])
    left.set(ylim=(0, 1.05), xlabel="d, h, c", ylabel="|B − λ*I| / |B|", title="how far from balanced")
    left.legend(loc="lower left", ncols=2)
    for k, (name, words) in enumerate((("approximate_function", "$W_2W_1$"), ("approximate_rep", "representations"))):
        for n, size in enumerate(found["size"].values):
            values = found[name].sel(size=size).mean("gaussian")
            middle.plot(found["std"], values, "os^Dv"[n % 5] + "-", color=COLOURS[k], linewidth=0.8,
                        label=f"{words}, n = {size}")  # fmt: skip
    middle.set(xscale="log", yscale="log", xlabel="std of the weights × √n", ylabel="largest relative error")
    middle.set_title("the law with λ* at Gaussian starts")
    legend(middle)
    _conserved(right, found)
    caption = (
        "Left: the share of B = W₂ᵀW₂ − W₁W₁ᵀ that is not λ*I in PyTorch's layers (dots, 20 draws) and as expected "
        "(dashed): no common initialisation is λ-balanced, at any width. Middle: what the exact solution with λ* is "
        "worth "
        "there. Right: change of B through two tasks, mean and range over networks at λ = 0.1: linear networks "
        "conserve "
        "all of it, ReLU ones the diagonal, tanh ones nothing."
    )
    return Figure("starts", drawing, caption)


def _conserved(ax: Axes, found: xr.Dataset) -> None:
    lam = found.balance.values[len(found.balance) // 2]
    lines = {"trace_change": "-", "off_diagonal_change": ":"}
    for k, activation in enumerate(found.activation.values):
        for name, line in lines.items():
            values = found[name].sel(activation=activation, balance=lam).isel(piece=slice(1, None))
            words = f"{activation}, {'trace' if name == 'trace_change' else 'off diagonal'}"
            ax.plot(values.piece, values.mean("trial"), line, color=COLOURS[k], label=words)
            ax.fill_between(
                values.piece, values.min("trial"), values.max("trial"), color=COLOURS[k], alpha=0.12, linewidth=0
            )
    ax.axvline(float(found.piece.values[-1]) / 2, color="grey", linewidth=0.8, linestyle="-.")
    ax.set(
        yscale="log",
        xlabel="step (second task from the grey line on)",
        ylabel="change / $|Q|^2$",
        title="what training conserves",
    )
    ax.legend(fontsize=7, loc="center right", bbox_to_anchor=(1, 0.54), ncols=2)


def _saddles(found: xr.Dataset, law: xr.Dataset) -> Figure:
    drawing, (left, right) = plt.subplots(1, 2, figsize=(10, 3.9))
    held = (law.stopped_loss.sel(width=3) > 0).values
    for row, stops in zip(found.stopped_path.transpose("saddle", "saddle_time").values, held):
        left.plot(found.saddle_time, np.maximum(row, 1e-12), color=COLOURS[int(stops)], linewidth=0.8)
    for k, words in enumerate(("determinants agree", "determinants differ")):
        left.plot([], [], color=COLOURS[k], label=words)
    left.axhline(WEAKEST**2 / 2, **BLACK, label="½ $s_{min}^2$")
    left.set(yscale="log", ylim=(1e-12, 10), xlabel="flow time", ylabel="loss", title="λ = 0, width 3: who learns")
    left.legend(loc="lower left")
    seen = found.left.values
    for column in seen.T:
        if np.isfinite(column).all():
            right.plot(found.eta, column, "o-", color=COLOURS[1], linewidth=0.8)
    known = seen[:, np.isfinite(seen).all(0)]
    if known.size:
        etas, middle = found.eta.values, float(np.median(known[0]))
        right.plot(etas, middle + np.log(etas[0] / etas) / WEAKEST, **BLACK, label="$ln(1/η)/s_{min}$ + constant")
    right.set(
        xscale="log",
        xlabel="learning rate η",
        ylabel="flow time at half the plateau",
        title="gradient descent gets away",
    )
    _few_decades(right.xaxis)
    legend(right)
    caption = (
        "Left: the flow of square 0-balanced starts on tasks with s_min = 0.5. Where det(W₂W₁) and det(Σ) differ in "
        "sign it "
        "stops at ½ s_min² for ever. Right: the same starts by gradient descent, a line a start: finite steps let λ "
        "drift "
        "by O(η), and the plateau ends after a time that grows as ln(1/η)/s_min."
    )
    return Figure("saddles", drawing, caption)
