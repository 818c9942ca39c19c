"""Networks with two inputs, drawn: what becomes of |a| w, and of the partition of the plane."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

from learndyn.report.figures import Figure
from learndyn.report.style import COLOURS

POINTS = 300  # along a side of the pictures of regions
REACH = 2.2


def plane(found: xr.Dataset) -> Figure:
    """Fig. 1a."""
    count = found.sizes["plane"]
    drawing, axes = plt.subplots(1, count, figsize=(3.5 * count, 3.7))
    for ax, name in zip(axes, found["plane"].values):
        at = found.sel(plane=name)
        path = at.plane_path.transpose("unit", "plane_step", "axis").values
        reach = 1.1 * np.abs(path).max()
        for x in at.plane_inputs.values:
            ax.plot(*(reach * x), ".", color="grey", markersize=2)
        for unit, sign in zip(path, at.plane_sign.values):
            colour = COLOURS[0] if sign > 0 else COLOURS[1]
            ax.plot(*unit.T, color=colour, linewidth=0.8)
            ax.plot(*unit[-1], "o", color=colour, markersize=3)
        loss = float(at.plane_loss[-1])
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), title=f"{name}\nloss {loss:.1g}", xlabel="|a| $w_1$")
        ax.set_aspect("equal")
    axes[0].set_ylabel("|a| $w_2$")
    for k, words in enumerate(("a > 0 at the start", "a < 0 at the start")):
        axes[0].plot([], [], color=COLOURS[k], label=words)
    axes[0].legend(fontsize=7, loc="lower left")
    caption = (
        "|a_k| w_k of all 50 units from start to end (dots), inputs in grey on the rim; a teacher of three neurons, 20 "
        "examples. From left: small and balanced, neurons bundle on a few rays; large, they hardly move; upstream they "
        "turn strikingly; downstream they grow where they point. Answers to Fig. 1a."
    )
    return Figure("plane", drawing, caption)


def regions(first: np.ndarray) -> np.ndarray:
    """Parity of the number of active units over the square, `(POINTS, POINTS)`, from weights `(units, 3)`.

    Two regions next to each other differ, if no two units share a line.
    """
    side = np.linspace(-REACH, REACH, POINTS)
    x, y = np.meshgrid(side, side)
    points = np.stack([x, y, np.ones_like(x)], -1)
    return ((points @ first.T > 0).sum(-1) % 2).astype(float)


def xor(found: xr.Dataset) -> Figure:
    """Fig. 5a, and when it happened."""
    count = found.sizes["case"]
    drawing, axes = plt.subplots(2, count + 1, figsize=(2.7 * count + 3.9, 5.4), width_ratios=(*(1,) * count, 1.35))
    for k, name in enumerate(found.case.values):
        for end, words in enumerate(("start", "end")):
            ax = axes[end, k]
            first = found.xor_first.sel(case=name).isel(when=end).transpose("line", "weight").values
            first = first[: len(first) // 2]  # at the start every line is there twice
            ax.imshow(regions(first), extent=(-REACH, REACH, -REACH, REACH), origin="lower", cmap="Greys", vmax=3)
            for sign, colour in ((1, COLOURS[0]), (-1, COLOURS[1])):
                chosen = found.xor_target.values == sign
                ax.plot(*found.xor_inputs.values[chosen].T, ".", color=colour, markersize=3)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH))
            if end == 0:
                ax.set_title(str(name))
            if k == 0:
                ax.set_ylabel(words)
        for ax, metric in ((axes[0, -1], "xor_loss"), (axes[1, -1], "xor_flipped")):
            ax.plot(found.xor_step[1:], found[metric].sel(case=name)[1:], color=COLOURS[k], label=str(name))
    axes[0, -1].set(xscale="log", ylim=(0, None), ylabel="loss")
    axes[1, -1].set(xscale="log", ylim=(0, None), ylabel="share of sides changed", xlabel="step")
    axes[0, -1].legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    caption = (
        "Exclusive or: regions of the plane by the parity of active units (their borders are the lines where a unit "
        "changes sides), at the start and at the end, of one of each pair of twins. Upstream (first) the partition "
        "is rearranged before the loss falls; from a large start (last) it stays. Answers to Fig. 5a, whose data are "
        "not given."
    )
    return Figure("xor", drawing, caption)
