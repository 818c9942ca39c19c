"""The words and tables of the report."""

import json
import math

import numpy as np
import xarray as xr

from learndyn.experiments.get_rich_quick.claims import EARLY, medians, over
from learndyn.experiments.get_rich_quick.overlay import REGIMES
from learndyn.experiments.get_rich_quick.settings import Settings, stored
from learndyn.report.page import Table, number
from learndyn.tasks import hierarchy_sizes


def lead(results: xr.DataTree) -> list[str]:
    """What was run, and the answer."""
    found, law = results["measured"].to_dataset(), results["predicted"].to_dataset()
    s = json.loads(results.attrs["settings"])
    run = (
        f"One neuron at {len(s['deltas'])} imbalances; two-layer ReLU networks against a teacher, "
        f"{found.sizes['cell']} cells x {s['cell_seeds']} seeds at full size and {len(s['taus'])} x "
        f"{len(s['map_deltas'])} x {s['map_seeds']} smaller; {s['operation']} mod {s['modulus']}; the random "
        f"hierarchy; {s['model']} on {s['task']} at {len(s['alphas'])} alphas."
    )
    delay = (found.delay / law.delay).values
    flips = found.cell_hamming.sel(cell_step=EARLY).mean("cells_seed").values
    way = found.cell_distance.isel(cell_step=-1).mean("cells_seed").values
    groks = medians(found, stored(results.attrs["settings"]))
    words = "; ".join(f"alpha = {a:g}: {told}" for a, told in groks.items())
    met = int(((found.regime == 0) == (law.regime == 0)).sum())
    return [
        run,
        f"The closed form is the flow of one neuron to {float(found.flow_error.max()):.1g}; the delay law is met "
        f"within {100 * np.abs(delay - 1).max():.2g} %.",
        f"Upstream is rapid: at tau = 0.1 and delta = 1, {flips[0]:.1f} of 50 units have changed sides after {EARLY} "
        f"steps, at delta = -1 {flips[3]:.2g}; and it is near: the parameters go {way[0]:.2g} and {way[3]:.2g}.",
        f"Steps to 99 % validation accuracy: {words}.",
        f"Lazy or rich was foretold from the first weights in {met} of {found.regime.size} runs of {s['model']}.",
    ]


def notes(results: xr.DataTree) -> list[str]:
    """What could mislead a reader."""
    s, found = json.loads(results.attrs["settings"]), results["measured"].to_dataset()
    said = [
        "Alpha > 1 divides the first layer and multiplies the last, delta > 0: upstream. The paper's released code "
        "calls alpha what is 1/alpha here. The neuron's loss is a sum with 1/2; the grid's a mean without, so its "
        "flow time is 2 x learning rate x steps / n in the neuron's units.",
        "The kernel turns furthest mildly downstream, and late, not upstream. Upstream is rich because many units "
        "change sides, early, on a short way: three numbers, not one.",
        "Runs that were given up before they grokked have no time; medians are Kaplan-Meier's, and an open marker is a "
        "lower bound. Dividing embeddings changes the function: what they feed is not homogeneous.",
        "An MLP under AdamW, which is reported to gain nothing from divided embeddings, is not measured here: the "
        "gain is that of this transformer.",
        "Kernel distances of whole networks are not centred: where outputs share a mean they are small even if many "
        "units change sides.",
    ]
    if "roughness" not in found:
        said.append("Filters are left out (no filter_alphas).")
    elif s["filter_seeds"] == 1:
        said.append("Filters are of one seed; at this scale only small alphas differ clearly.")
    return said


def tables(results: xr.DataTree) -> list[Table]:
    """Delays, cells of the grid, grokking, the hierarchy, and foretold beside measured."""
    found, law = results["measured"].to_dataset(), results["predicted"].to_dataset()
    settings = stored(results.attrs["settings"])
    made = [_neuron(found, law), _cells(found), _grokking(found, settings), _tree(found), _overlay(found, law)]
    return [*made, _filters(found)] if "roughness" in found else made


def _neuron(found: xr.Dataset, law: xr.Dataset) -> Table:
    rows: list[tuple[str, ...]] = []
    for far in found.far.values:
        seen, said = found.sel(far=far), law.sel(far=far)
        rows.append((f"{far:g}", number(float(seen.delay)), number(float(said.delay)),
                     f"{float(seen.delay / said.delay):.4f}", f"{float(seen.upstream_error):.2e}"))  # fmt: skip
    header = ("|δ|", "delay at −|δ|", "law", "ratio", "max |β − law| at +|δ|")
    caption = "Flow time from φ = 0.3 to 0.9 far downstream; deviation from an exponential far upstream, ∝ δ⁻². r = 1."
    return Table("One neuron far from balance", header, rows, caption)


def _cells(found: xr.Dataset) -> Table:
    rows: list[tuple[str, ...]] = []
    names = (
        "kernel_distance",
        "kernel_distance_weights",
        "kernel_distance_patterns",
        "hamming",
        "distance",
        "test_loss",
    )
    for i, name in enumerate(map(str, found.cell.values)):
        cells = []
        for metric in names:
            values = found[f"cell_{metric}"].isel(cell=i).mean("cells_seed")
            early, late = float(values.sel(cell_step=EARLY)), float(values.isel(cell_step=-1))
            cells.append(f"{early:.3g} → {late:.3g}")
        rows.append((name, *cells))
    header = ("cell", "S", "S, weights alone", "S, patterns alone", "Hamming, of 50", "|θ − θ₀|", "test loss")
    caption = (
        f"Step {EARLY} → {int(found.cell_step[-1])}, mean of {found.sizes['cells_seed']} seeds; d = 100, n = 1000."
    )
    return Table("Cells of the grid of Fig. 1b", header, rows, caption)


def _grokking(found: xr.Dataset, settings: Settings) -> Table:
    rows: list[tuple[str, ...]] = []
    for alpha, told in medians(found, settings).items():
        at = found.sel(grok_alpha=alpha)
        each = ", ".join(
            "> " + f"{e:g}" if math.isnan(g) else f"{g:g}" for g, e in zip(at.grokked.values, at.grok_end.values)
        )
        rows.append((f"{alpha:g}", each, str(told)))
    header = ("α", "steps to 99 % validation", "together")
    caption = f"{settings.operation} mod {settings.modulus}, AdamW. '> N': given up at N, its time is longer."
    return Table("Grokking", header, rows, caption)


def _tree(found: xr.Dataset) -> Table:
    _, scale = hierarchy_sizes()
    rows: list[tuple[str, ...]] = []
    for size in found.tree_size.values:
        at = found.tree_test.sel(tree_size=size)
        rows.append((str(int(size)), f"{size / scale:.3g}",
                     *(f"{float(at.sel(tree_alpha=a).mean()):.3f}" for a in found.tree_alpha.values)))  # fmt: skip
    header = ("P", "P/P*", *(f"α = {a:g}" for a in found.tree_alpha.values))
    caption = f"Test accuracy, mean of {found.sizes['tree_seed']} seeds; P* = n_c m^L = {scale}."
    return Table("Random hierarchy", header, rows, caption)


def _overlay(found: xr.Dataset, law: xr.Dataset) -> Table:
    rows: list[tuple[str, ...]] = []
    for alpha in found.alpha.values:
        seen, said = found.sel(alpha=alpha), law.sel(alpha=alpha)
        cells = [
            f"{over(said[f'{name}_end']).value:.3g} / {over(seen[f'{name}_end']).value:.3g}"
            for name in ("kernel", "patterns", "parameters")
        ]
        kinds = [", ".join(dict.fromkeys(REGIMES[int(v)] for v in x.regime.values)) for x in (said, seen)]
        loss = float(seen.overlay_loss.isel(overlay_step=-1).mean())
        rows.append((f"{alpha:g}", f"{float(seen.rho.mean()):+.2f}", *cells, *kinds, number(loss)))
    header = ("α", "ρ", "S", "units that changed sides", "|θ − θ₀|/|θ₀|", "foretold", "measured", "loss")
    caption = (
        "Foretold from the first weights / measured at the end, means over seeds. ρ: imbalance of the first layer."
    )
    return Table("Your model: lazy or rich", header, rows, caption)


def _filters(found: xr.Dataset) -> Table:
    rows: list[tuple[str, ...]] = [
        (f"{a:g}", number(float(found.roughness.sel(filter_alpha=a).mean())),
         number(float(found.roughness_first.sel(filter_alpha=a).mean())),
         number(float(found.filter_accuracy.sel(filter_alpha=a).mean())))
        for a in found.filter_alpha.values
    ]  # fmt: skip
    caption = "|(w/|w|) * Laplacian|², centre 2 as the paper prints it: lower is smoother."
    return Table("Filters on gratings", ("α", "roughness", "at the start", "test accuracy"), rows, caption)
