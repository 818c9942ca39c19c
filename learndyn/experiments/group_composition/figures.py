"""Power per irrep and loss over flow time under what was known before; small starts, order, starvation, widths."""

import json

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from learndyn.experiments.group_composition.architectures import ARCHITECTURES, REACHED
from learndyn.experiments.group_composition.claims import facts, fed, limits, starved_ratios
from learndyn.experiments.group_composition.settings import Settings, stored
from learndyn.report.figures import Figure
from learndyn.report.style import COLOURS, style

DASHED = {"color": "black", "linestyle": "--", "linewidth": 0.8}
COLUMNS = 4
NAMES = {"two_layer_power": "two layers", "quadratic_rnn": "recurrent", "tree_net": "tree"}
MARKERS = ("o", "s", "^", "D", "v")


def figures(results: xr.DataTree) -> list[Figure]:
    """All figures of the report."""
    found, law = results["measured"].to_dataset(), results["predicted"].to_dataset()
    settings = stored(results.attrs["settings"])
    with style():
        count = found.sizes["case"]
        made = [
            _stairs(found, law, settings, list(range(first, min(first + COLUMNS, count))), first // COLUMNS + 1)
            for first in range(0, count, COLUMNS)
        ]
        made += [_small(found, law, settings), _order(found, law), _starved(found, law), _widths(found, law, settings)]
        return made


def _hue(rank: int) -> str:
    return COLOURS[rank % (len(COLOURS) - 1)]


def _stairs(found: xr.Dataset, law: xr.Dataset, settings: Settings, chosen: list[int], page: int) -> Figure:
    drawing, axes = plt.subplots(2, len(chosen), figsize=(0.6 + 3.5 * len(chosen), 5.6), sharex="col", squeeze=False)
    for (above, below), c in zip(axes.T, chosen):
        fact, at, said = facts(found)[c], found.isel(case=c), law.isel(case=c)
        here = np.isfinite(at.stair_time.values)
        time = at.stair_time.values[here]
        ranks = range(len(fact["irreps"]))
        when = said.half_time.transpose("seed", "rank").values[0]
        for r in ranks:
            powers = at.stair_power.isel(rank=r).transpose("seed", "look").values[:, here]
            for n, row in enumerate(powers):
                above.plot(time, row, color=_hue(r), linewidth=1.8 if n == 0 else 0.6, alpha=1 if n == 0 else 0.6)
            above.axhline(float(at.template_power[r]), color=_hue(r), linestyle=":", linewidth=1)
            late = "" if (at.starters.isel(rank=r) >= at.needed[r]).all() else "*"
            above.plot([], [], color=_hue(r), label=fact["irreps"][r] + late)
            for ax in (above, below):
                ax.axvline(when[r], color=_hue(r), linestyle="--", linewidth=0.9)
        losses = at.stair_loss.transpose("seed", "look").values[:, here]
        for n, row in enumerate(losses):
            below.plot(time, row, color="0.25", linewidth=1.8 if n == 0 else 0.6, alpha=1 if n == 0 else 0.6)
        levels = said.level.isel(seed=0).values
        for level in levels[np.isfinite(levels)]:
            below.axhline(level, **DASHED)
        first = np.nanmin(said.drop_time.values)
        top = 1.08 + 0.1 * len(ranks)  # room for the names
        above.set(xscale="log", xlim=(0.4 * first, time[-1]), ylim=(0, top * float(at.template_power.max())))
        name, template, k = _split(fact["name"])
        above.set_title(f"{name}, {k}\n{template}", fontsize=8.5)
        above.legend(loc="upper left", fontsize=8, frameon=True, edgecolor="none", framealpha=0.9)
        _plain(below.xaxis)
        below.set(xlabel="flow time (Σ lr)", ylim=(0, 1.06 * levels[0]))
    axes[0, 0].set_ylabel("output power E‖Π f‖²")
    axes[1, 0].set_ylabel("loss L = ½ E‖y − f‖²")
    caption = (
        f"Output power of each irrep (top; dotted: of the template) and loss (bottom) under preconditioned gradient "
        f"descent on all sequences, {settings.seeds} starts (first one thick). Dashed, from before training: levels, "
        f"black, and times, in the colour of the irrep. Irreps in the order foretold; a star marks those with fewer "
        f"neurons in their basin than the exact solution has, which may be late. Times are those of half the power, of "
        f"the first start. Answers to the figure of staircases across five groups."
    )
    return Figure(f"staircases-{page}", drawing, caption)


def _plain(axis) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5, as plain numbers."""
    low, high = axis.get_view_interval()
    decades = np.log10(high / low)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 1.6 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _split(name: str) -> tuple[str, str, str]:
    """Group, template and length of a name of a case."""
    rest, _, k = name.rpartition(", k = ")
    depth = [i for i, letter in enumerate(rest) if letter == "," and rest[:i].count("(") == rest[:i].count(")")]
    return rest[: depth[0]], rest[depth[0] + 2 :], f"k = {k}"


def _small(found: xr.Dataset, law: xr.Dataset, settings: Settings) -> Figure:
    drawing, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.9))
    sizes = -np.log(found.small_norm.transpose("small", "seed").values)
    shades = [plt.get_cmap("viridis_r")(0.1 + 0.8 * i / max(1, len(sizes) - 1)) for i in range(len(sizes))]
    for i, alpha in enumerate(found.small.values):
        scaled = found.small_time.values / sizes[i, 0]
        left.plot(scaled, found.small_loss.isel(small=i), color=shades[i], label=f"α = {alpha:g}")
    tau = 1 / (3 * found.small_utility.values)
    tau = tau[np.isfinite(tau)]
    for t in tau:
        left.axvline(t, **DASHED)
    left.set(xlim=(0, settings.reach * tau.max()), xlabel="flow time / ln(1/max‖θ(0)‖)", ylabel="loss", ylim=(0, None))
    left.plot([], [], **DASHED, label="1/((k+1) U*)")
    left.legend(fontsize=8)
    ratio = (found.small_drop / law.small_drop).transpose("small", "seed", "rank").values
    ends, slopes = limits(found, law)
    for r in range(len(tau)):
        for n in range(ratio.shape[1]):
            x = 1 / sizes[:, n]
            right.plot(x, ratio[:, n, r], MARKERS[n % 5], color=_hue(r), markersize=5)
            reach = np.array([0, x[int(len(x) > 2) :].max()])
            right.plot(reach, ends[n, r] + slopes[n, r] * reach, color=_hue(r), linewidth=0.7)
            right.plot(
                0, ends[n, r], MARKERS[n % 5], color=_hue(r), markersize=5, markerfacecolor="white", clip_on=False
            )
        right.plot([], [], "o-", color=_hue(r), label=f"drop {r + 1}")
    right.axhline(1, **DASHED)
    right.set(xlim=(0, None), xlabel="1 / ln(1/max‖θ(0)‖)", ylabel="time of the drop / predicted")
    right.plot([], [], "o", color="grey", markerfacecolor="white", label="extrapolated")
    right.legend(fontsize=8, loc="upper left")
    caption = (
        f"{settings.small_group}, {settings.small_template}: from smaller and smaller starts in the same directions. "
        f"Left: in units of ln(1/‖θ‖) of the largest neuron the drops move to the predicted times, dashed. Right: "
        f"ratio to the prediction, {ratio.shape[1]} starts (markers); lines are t = τ ln(1/‖θ‖) + C, which open "
        "markers continue to 0."
    )
    return Figure("small-starts", drawing, caption)


def _order(found: xr.Dataset, law: xr.Dataset) -> Figure:
    drawing, axes = plt.subplots(1, 3, figsize=(13, 4.6))
    said, seen = law.half_time.transpose("case", "seed", "rank"), found.half_time.transpose("case", "seed", "rank")
    by_law = law.drop_time.transpose("case", "seed", "rank")
    enough = fed(found).transpose("case", "seed", "rank").values
    score, power = (found[n].transpose("case", "rank").values for n in ("utility", "template_power"))
    for c in range(len(score)):
        mark, hue = MARKERS[c % 5], COLOURS[c % 6]
        for mask, face in ((enough[c], hue), (~enough[c], "white")):
            axes[0].plot(said.values[c][mask], (seen / said).values[c][mask], mark, color=hue, markerfacecolor=face)
        axes[0].plot(by_law.values[c], (seen / by_law).values[c], ".", color="0.7", markersize=4, zorder=0)
        name, template, k = _split(facts(found)[c]["name"])
        axes[0].plot([], [], mark, color=hue, label=f"{name}, {template}, {k}"[:64])
        for ax, quantity in ((axes[1], score), (axes[2], power)):
            for a in range(score.shape[1]):
                for b in range(a + 1, score.shape[1]):
                    sooner = np.log10(seen.values[c, :, b] / seen.values[c, :, a])
                    larger = np.log10(quantity[c, a] / quantity[c, b])
                    ax.plot([larger] * len(sooner), sooner, mark, color=hue, markersize=4)
    axes[0].axhline(1, **DASHED)
    axes[0].plot([], [], ".", color="0.7", label="over the law's time")
    high = float(np.nanmax((seen / by_law).values, initial=1))
    axes[0].set(
        xscale="log", ylim=(0.5, 1.1 * high), xlabel="predicted time", ylabel="half-power time / predicted time"
    )
    axes[0].set_title("times")
    labels = axes[0].get_legend_handles_labels()
    drawing.legend(*labels, fontsize=7, loc="outside lower center", ncol=4)
    for ax, what in ((axes[1], "score U*"), (axes[2], "power P")):
        ax.axhline(0, color="0.6", linewidth=0.8)
        ax.axvline(0, color="0.6", linewidth=0.8)
        ax.set(
            xlabel=f"log₁₀ of the ratio of {what}", ylabel="log₁₀ of the other's time over its own", title=f"by {what}"
        )
    caption = (
        "Left: half-power times of all irreps and starts over those foretold from their weights; open: with fewer "
        "neurons in the basin than the exact solution has; grey: over the law's. Middle and right: every pair of "
        "irreps of a template; right of zero, the first has more, above zero, it is learnt sooner. A pair left of zero "
        "and above it, or right and below, contradicts."
    )
    return Figure("order", drawing, caption)


def _starved(found: xr.Dataset, law: xr.Dataset) -> Figure:
    fact = json.loads(str(np.atleast_1d(found.starved_facts.values)[0]))
    drawing, axes = plt.subplots(1, 2, figsize=(10.5, 3.7), sharex=True)
    when = law.starved_half.mean("seed").transpose("start", "rank").values
    for i, start in enumerate(map(str, found.start.values)):
        axes[0].plot(found.starved_time, found.starved_loss.sel(start=start), color=COLOURS[i], label=f"{start} start")
        for r, irrep in enumerate(fact["irreps"]):
            line = "-" if i == 0 else "-."
            count = int(found.starved_starters.sel(start=start).isel(seed=0, rank=r))
            power = found.starved_power.sel(start=start).isel(rank=r)
            axes[1].plot(found.starved_time, power, line, color=_hue(r + 2), label=f"{irrep}, {start}: {count} neurons")
    for r, t in enumerate(when[0][: len(fact["irreps"])]):
        for ax in axes:
            ax.axvline(t, color=_hue(r + 2), linestyle="--", linewidth=0.9)
    for level in found.starved_level.values[np.isfinite(found.starved_level.values)]:
        axes[0].axhline(level, **DASHED)
    axes[0].set(ylabel="loss L = ½ E‖y − f‖²", xlabel="flow time (Σ lr)", ylim=(0, None))
    axes[1].set(ylabel="output power / template power", xlabel="flow time (Σ lr)", ylim=(0, 1.6))
    axes[0].legend()
    axes[1].legend(fontsize=8, loc="upper right")
    ratio = starved_ratios(found, law)
    late = float(ratio.sel(start="random").max("rank").mean())
    caption = (
        f"{fact['name']}: neurons from random directions nearly all lie in the basin of one irrep (counted before "
        f"training, first of {found.sizes['seed']} starts), and the other comes at {late:.2g} times its predicted "
        f"time, dashed. The same width with neurons placed in every irrep is on time."
    )
    return Figure("starvation", drawing, caption)


def _widths(found: xr.Dataset, law: xr.Dataset, settings: Settings) -> Figure:
    drawing, axes = plt.subplots(1, 3, figsize=(13, 4.6))
    lengths = settings.sequence_lengths
    for i, name in enumerate(ARCHITECTURES):
        at = found.sel(architecture=name)
        for j, k in enumerate(lengths):
            best = at.sequence_loss.sel(sequence_length=k).min("width_seed")
            line = ("-", "--", ":", "-.")[j % 4]
            shown = np.maximum(best.values, 1e-9)
            axes[0].plot(at.sequence_tried.sel(sequence_length=k), shown, line, marker=MARKERS[i], color=COLOURS[i])
            if i == 0:
                axes[0].plot([], [], line, color="0.3", label=f"k = {k}")
        reached = at.sequence_width.transpose("sequence_length").values
        shift = 1 + 0.03 * (i - 1)
        axes[1].plot(np.array(lengths) * shift, np.where(np.isfinite(reached), reached, np.nan), MARKERS[i],
                     color=COLOURS[i], label=NAMES[name])  # fmt: skip
        exact = law.sequence_width.sel(architecture=name).values
        axes[1].plot(np.array(lengths) * shift, exact, "--", color=COLOURS[i], linewidth=1)
    axes[1].plot([], [], **DASHED, label="exact solution")
    axes[0].set(xscale="log", yscale="log", xlabel="hidden units", ylabel="loss / first loss, best seed")
    axes[0].set_title(f"{settings.sequence_group}, one-hot")
    axes[0].legend(fontsize=8, loc="lower left")
    axes[1].set(yscale="log", xlabel="k, elements in a sequence", ylabel="hidden units for 99 %", xticks=list(lengths))
    axes[1].legend(fontsize=8)
    axes[1].set_ylim(*np.array(axes[1].get_ylim()) * (0.8, 1.3))
    for axis in (axes[0].xaxis, axes[1].yaxis):
        _plain(axis)
    if "width_loss" in found:
        for i, (text, k) in enumerate(zip(settings.width_groups, settings.width_lengths)):
            best = found.width_loss.isel(width_case=i).min("width_seed")
            tried = found.width_tried.isel(width_case=i) / float(law.width_width.isel(width_case=i))
            axes[2].plot(tried, np.maximum(best.values, 1e-9), marker=MARKERS[i % 5], color=COLOURS[i % 6],
                         label=f"{text}, k = {k}: {float(law.width_width[i]):g} units")  # fmt: skip
        axes[2].axvline(1, **DASHED)
        axes[2].legend(fontsize=7)
    axes[2].set(yscale="log", xlabel="hidden units / exact solution's", ylabel="loss / first loss, best seed")
    axes[2].set_title("two layers, one-hot")
    for ax in (axes[0], axes[2]):
        ax.axhline(REACHED, color="0.6", linewidth=0.8)
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, 5e-10), high)
    caption = (
        f"Trained by Adam from {settings.width_seeds} starts, the best counts; losses below 1e-9 are drawn there; "
        f"grey: a reduction of 99 %. Left and middle: the width that two layers need grows with the length of the "
        f"sequence, that of recurrent networks and trees does not (a tree of k = 3 is padded to 4). Right: two-layer "
        f"networks of several groups over the width of the exact solution, which is enough and not always needed. "
        "Answers to the width maps."
    )
    return Figure("widths", drawing, caption)
