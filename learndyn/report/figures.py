"""Figures as functions of labelled arrays: grids over (t0, t1), and curves with band, prediction and transition."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure as Drawing

from learndyn.compare import Transition, mean_interval
from learndyn.report.style import COLOURS, SEQUENTIAL

SYMBOLS = {"t0": "$t_0$", "t1": "$t_1$", "kernel_step": "$s$", "other_step": "$t$"}
TICKS = 14  # on an axis of a grid, at most


@dataclass(frozen=True)
class Figure:
    """A drawing and what to look for in it.

    Attributes:
        name: File name without ending.
        drawing: The matplotlib figure.
        caption: What to look for, which figure of the paper it answers to, n, and what bands mean.
    """

    name: str
    drawing: Drawing
    caption: str


def grid(
    axes: Axes, values: xr.DataArray, title: str, log: bool = False, low: float | None = None, high: float | None = None
) -> None:
    """A heat map of `values` (rows, columns): missing cells empty, values on the cells, uneven steps evenly spaced."""
    rows, columns = (str(dim) for dim in values.dims)
    data = np.ma.masked_invalid(values.values)
    seen = data.compressed() if data.count() else np.zeros(1)
    norm: Normalize
    if log:
        floor = low if low is not None else max(float(seen[seen > 0].min(initial=1.0)), 1e-16)
        norm, data = LogNorm(floor, max(high or float(seen.max()), 10 * floor)), np.ma.maximum(data, floor)
    else:
        bottom = low if low is not None else float(seen.min())
        norm = Normalize(bottom, max(high if high is not None else float(seen.max()), bottom + 1e-12))
    image = axes.pcolormesh(
        data, norm=norm, cmap=SEQUENTIAL, edgecolors="white", linewidth=0.5 if data.size < 400 else 0
    )
    for dim, put in ((columns, axes.set_xticks), (rows, axes.set_yticks)):
        labels = [f"{v:g}" for v in values[dim].values]
        every = slice(None, None, -(-len(labels) // TICKS))
        turned = 45 if dim == columns and len(labels) > 6 else 0
        put((np.arange(len(labels)) + 0.5)[every], labels[every], rotation=turned)
    axes.set(xlabel=_axis(values[columns]), ylabel=_axis(values[rows]), title=title)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)


def _axis(coordinate: xr.DataArray) -> str:
    unit = coordinate.attrs.get("units", "")
    name = SYMBOLS.get(str(coordinate.name), str(coordinate.name))
    return f"{name} ({unit})" if unit else name


def curve(
    axes: Axes,
    values: xr.DataArray,
    label: str,
    colour: str = COLOURS[0],
    dashed: bool = False,
    level: float = 0.9,
    against: str = "t0",
) -> None:
    """Mean over seeds of (seed, `against`) with a Student-t band, clipped to the range of the values; a thin line
    for each seed.
    """
    x = values[against].values
    data = values.transpose("seed", against).values
    if not np.isfinite(data).any():
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color="grey")
        return
    mean = np.nanmean(data, axis=0)
    axes.plot(x, mean, "--" if dashed else "-", color=colour, label=label, marker=None if dashed else "o", zorder=3)
    if len(data) > 1:
        for row in data:
            axes.plot(x, row, "--" if dashed else "-", color=colour, alpha=0.35, linewidth=0.7)
        bands = [
            mean_interval(column[np.isfinite(column)], level) if np.isfinite(column).sum() > 1 else None
            for column in data.T
        ]
        low, high = (np.array([getattr(b, end) if b else np.nan for b in bands]) for end in ("low", "high"))
        spread = np.nanmax(data) - np.nanmin(data)
        bottom, top = np.nanmin(data) - 0.1 * spread, np.nanmax(data) + 0.1 * spread
        axes.fill_between(
            x, np.clip(low, bottom, top), np.clip(high, bottom, top), color=colour, alpha=0.15, linewidth=0
        )


def mark(axes: Axes, found: Transition, colour: str = COLOURS[0]) -> None:
    """A transition as a vertical line with its interval; the verdict in words where there is none."""
    title = axes.get_title()
    axes.set_title(f"{title}\n{found}", fontsize=9)
    if found.verdict != "transition":
        return
    axes.axvline(found.time, color=colour, linewidth=1, linestyle=":")
    if np.isfinite([found.low, found.high]).all():
        left, right = axes.get_xlim()
        axes.axvspan(max(found.low, left), min(found.high, right), color=colour, alpha=0.08, linewidth=0)
        axes.set_xlim(left, right)


def legend(axes: Axes) -> None:
    """A legend, where there is something to name."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
