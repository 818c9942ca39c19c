"""What must come out, as numbers with intervals. Bounds come from the laws, from the learning rate or earlier runs."""

import json
import math

import numpy as np
import xarray as xr

from learndyn.compare import (
    Claim,
    Crossing,
    Crossings,
    Estimate,
    at_least,
    at_most,
    exact,
    finite_mean,
    together,
    within,
)
from learndyn.experiments.get_rich_quick.grids import CELLS
from learndyn.experiments.get_rich_quick.grokking import LEVEL, budget
from learndyn.experiments.get_rich_quick.settings import Settings, stored

LEVEL_OF = 0.9  # of all intervals
ROUNDING = 1e-12
EARLY = 100  # step of the grids


def over(values: xr.DataArray, what: str = "seeds") -> Estimate:
    """Mean of all values with a Student-t interval; those that are not finite are left out."""
    return finite_mean(values, LEVEL_OF, what)


def largest(values: xr.DataArray, what: str = "largest of all") -> Estimate:
    """The largest, for what holds of every single one."""
    return exact(values.max(), what)


def claims(results: xr.DataTree) -> list[Claim]:
    """The claims, each with what was measured here."""
    found, law = results["measured"].to_dataset(), results["predicted"].to_dataset()
    settings = json.loads(results.attrs["settings"])
    return [
        *_neuron(found, law, settings),
        *_cells(found),
        *_map(found),
        *_plane(found),
        *_grokking(found, stored(results.attrs["settings"])),
        *_tree(found),
        *_overlay(found, law, settings),
        *_filters(found),
    ]


def _neuron(found: xr.Dataset, law: xr.Dataset, settings: dict) -> list[Claim]:
    curves = xr.DataArray([float(np.abs(found[n] - law[n]).max()) for n in ("mu", "phi", "moved")])
    order = -np.log2(found.gd_error).diff("halving")
    far = np.log(found.far.values)
    power = np.polyfit(far, np.log(found.upstream_error.values), 1)[0]
    decade = -np.diff(found.onset_time.values) / np.diff(np.log10(found.small.values))
    delay = (found.delay / law.delay).where(found.far >= 30, drop=True)
    delay = delay if delay.size else found.delay / law.delay
    return [
        at_most(
            "neuron-flow-is-exact",
            "The gradient flow of a linear neuron, integrated, is the closed form at all delta: largest relative "
            "error of its weights.",
            largest(found.flow_error, "largest of all delta"),
            1e-7,
            paper="identical curves, no number",
        ),
        at_most(
            "neuron-descent-follows",
            "Gradient descent on a module follows mu, phi and S(0, t) of Fig. 3: largest difference.",
            largest(curves, "largest of all delta and times"),
            settings["rate"],
            paper="Fig. 3, no number",
        ),
        within(
            "neuron-error-halves",
            "Half the learning rate, half the error of beta: -log2 of the ratio.",
            over(order, "delta and halvings"),
            0.9,
            1.1,
            paper="first order",
        ),
        at_most(
            "neuron-books",
            "What steps do to delta is the sum of eta^2 (g_a^2 - |g_w|^2), and nothing else, over a^2 + |w|^2.",
            largest(found.books_error),
            ROUNDING,
            paper="derived here",
        ),
        within(
            "delay-law",
            "Far downstream the direction turns from phi = 0.3 to 0.9 after (|delta|/2r^2) ln[...]: integrated over "
            "law.",
            Estimate(float(delay.mean()), float(delay.min()), float(delay.max()), "range over delta <= -30"),
            0.99,
            1.01,
            paper="delayed rich, no number",
        ),
        within(
            "upstream-is-lazy",
            "Far upstream beta falls to the solution as exp(-delta t), with an error of the power -2 in delta.",
            exact(power, "fit over " + ", ".join(f"{v:g}" for v in found.far.values)),
            -2.2,
            -1.8,
            paper="lazy, no number",
        ),
        at_most(
            "alignment-has-no-scale",
            "At delta = 0 the time of alignment is that of the law at |beta| = 1e-2, 1e-3, 1e-4: relative error.",
            largest(np.abs(found.aligned_time / law.aligned_time - 1)),
            1e-6,
            paper="no number",
        ),
        within(
            "onset-waits",
            "And the fit is later by ln(10)/2r for every decade of |beta|: measured over that.",
            exact(decade[-1] / (math.log(10) / 2), "last decade"),
            0.99,
            1.01,
            paper="no number",
        ),
        at_most(
            "basins",
            "In which basin a run ends is known from its start: share of starts that end elsewhere.",
            exact((found.basin != law.basin).mean(), f"all of {found.basin.size} starts at three delta"),
            0,
            paper="App. fig. 7",
        ),
        at_most(
            "separatrix",
            "Starts 1e-3 above and below the separatrix part as said, up to t = 200: largest difference of a.",
            largest(np.abs(found.edge_a - law.edge_a)),
            1e-3,
            paper="App. fig. 7",
        ),
        at_most(
            "implicit-bias",
            "Which of many solutions a run ends in is known from its start (Fig. 4b): largest difference of beta.",
            largest(np.abs(found.end - law.end)),
            1e-7,
            paper="Fig. 4b, no number",
        ),
    ]


def cell(found: xr.Dataset, name: str, tau: float, delta: float, step: int | None = None) -> xr.DataArray:
    """A metric of a cell by seed, at a step or at the end."""
    values = found[f"cell_{name}"].isel(cell=CELLS.index((tau, delta)))
    return values.isel(cell_step=-1) if step is None else values.sel(cell_step=step)


def _cells(found: xr.Dataset) -> list[Claim]:
    steps = int(found.cell_step[-1])
    others = [cell(found, "test_loss", 0.1, d, EARLY) for d in (0.0, -0.25, -1.0)]
    best = xr.concat(others, "other").min("other")
    split = {
        d: cell(found, f"kernel_distance_{part}", 0.1, d) / cell(found, "kernel_distance", 0.1, d)
        for d, part in ((1.0, "patterns"), (-0.25, "weights"))
    }
    gap = cell(found, "kernel_distance", 0.1, -0.25) - cell(found, "kernel_distance", 0.1, 1.0)
    return [
        at_least(
            "upstream-flips-early",
            f"Small and upstream (tau = 0.1, delta = 1) units change sides within {EARLY} steps: Hamming distance.",
            over(cell(found, "hamming", 0.1, 1.0, EARLY)),
            15,
            unit="of 50 units",
            paper="about 20",
        ),
        at_most(
            "downstream-waits",
            f"Small and downstream (delta = -1) next to none have, at {EARLY} steps.",
            over(cell(found, "hamming", 0.1, -1.0, EARLY)),
            1,
            unit="of 50 units",
            paper="about 0.4",
        ),
        at_most(
            "upstream-moves-little",
            f"Rapid is not far: way of the parameters upstream over downstream, at {steps} steps.",
            over(cell(found, "distance", 0.1, 1.0) / cell(found, "distance", 0.1, -1.0)),
            0.6,
            paper="0.74 / 1.83 in an earlier run",
        ),
        at_least(
            "largest-kernel-distance-is-downstream",
            "But the kernel turns further mildly downstream (delta = -0.25) than upstream: difference of S at "
            f"{steps}.",
            over(gap),
            0.05,
            paper="0.6 against 0.25 at the end of its grid",
        ),
        at_least(
            "upstream-by-patterns",
            "Upstream the kernel turns because patterns change: S with the patterns moved alone, over S.",
            over(split[1.0]),
            0.8,
            paper="not in the paper",
        ),
        at_least(
            "downstream-by-weights",
            "Mildly downstream because weights do: S with the weights moved alone, over S.",
            over(split[-0.25]),
            0.8,
            paper="not in the paper",
        ),
        at_most(
            "upstream-generalises-first",
            f"Test loss upstream over the lowest of delta = 0, -0.25, -1, at {EARLY} steps.",
            over(cell(found, "test_loss", 0.1, 1.0, EARLY) / best),
            0.7,
            paper="smallest at small tau, delta > 0",
        ),
        at_most(
            "large-is-lazy",
            f"A large balanced start (tau = 1) is lazy: S at {steps} steps.",
            over(cell(found, "kernel_distance", 1.0, 0.0)),
            0.01,
            paper="lazy",
        ),
    ]


def _map(found: xr.Dataset) -> list[Claim]:
    small = found.isel(tau=0)
    low, high = float(found.map_delta[0]), float(found.map_delta[-1])
    flips, way = small.map_hamming.sel(map_step=EARLY), small.map_distance.isel(map_step=-1)
    lazy = found.map_kernel_distance.isel(tau=-1, map_step=-1).max("map_delta")
    return [
        at_least(
            "map-flips",
            f"At the smallest tau flips within {EARLY} steps at delta = {high:g} over those at {low:g}.",
            over(flips.isel(map_delta=-1) / flips.isel(map_delta=0)),
            3,
            paper="Fig. 1b, right",
        ),
        at_least(
            "map-way",
            f"And the way of the parameters, at the end, is longer at delta = {low:g} than at {high:g}: ratio.",
            over(way.isel(map_delta=0) / way.isel(map_delta=-1)),
            1.5,
            paper="largest downstream",
        ),
        at_most(
            "map-lazy",
            "At the largest tau nothing is learnt but the readout of features that were there: largest S of all delta.",
            over(lazy),
            0.01,
            paper="lazy",
        ),
    ]


def _plane(found: xr.Dataset) -> list[Claim]:
    shares = half_way(found)
    return [
        at_least(
            "xor-rearranges-first",
            "On exclusive or, upstream, the partition of the plane is rearranged before the loss falls: share of all "
            "flips that are done at half of the fall.",
            exact(shares[0], "one run"),
            0.9,
            paper="Fig. 5a, pictures",
        ),
        at_most(
            "xor-lazy-keeps-its-partition",
            "From a large start it stays as it was: share of units and examples that have changed sides at the end.",
            exact(found.xor_flipped.isel(case=-1, xor_step=-1), "one run"),
            0.05,
            paper="Fig. 5a, pictures",
        ),
    ]


def half_way(found: xr.Dataset) -> np.ndarray:
    """Of the flips that there are at the end, the share done when the loss has fallen half its way; by case."""
    loss, flips = found.xor_loss.transpose("case", "xor_step").values, found.xor_flipped.transpose("case", "xor_step")
    level = (loss[:, :1] + loss[:, -1:]) / 2
    at = np.argmax(loss <= level, axis=1)
    made = flips.values[np.arange(len(at)), at] / np.maximum(flips.values[:, -1], 1e-300)
    return np.minimum(made, 1.0)


def crossings(found: xr.Dataset, alpha: float, settings: Settings) -> list[Crossing]:
    """When the runs of an alpha grokked, those given up as that."""
    at = found.sel(grok_alpha=alpha)
    pairs = zip(at.grokked.values, at.grok_end.values)
    return [
        Crossing(None, budget(settings, alpha)) if math.isnan(g) else Crossing(float(g), float(e)) for g, e in pairs
    ]


def medians(found: xr.Dataset, settings: Settings) -> dict[float, Crossings]:
    """Median and count of every alpha."""
    return {float(a): together(crossings(found, float(a), settings)) for a in found.grok_alpha.values}


def _grokking(found: xr.Dataset, settings: Settings) -> list[Claim]:
    alphas = [float(a) for a in found.grok_alpha.values]
    slow, fast = (crossings(found, a, settings) for a in (alphas[0], alphas[-1]))
    sooner = [f.step is not None and f.step < (s.within if s.step is None else s.step) for f in fast for s in slow]
    groks = together(fast)
    at = int(groks.median) if math.isfinite(groks.median) else int(groks.within)
    seen = found.validation_accuracy.sel(grok_alpha=alphas[0])
    known = seen.sel(grok_step=slice(None, min(at, budget(settings, alphas[0])))).max("grok_step")
    return [
        at_least(
            "groks-sooner-upstream",
            f"With embeddings divided by {alphas[-1]:g} a transformer groks sooner than with {alphas[0]:g}: share of "
            "all pairs of runs, a run given up counting as later than its last step.",
            exact(np.mean(sooner), f"exact, {len(sooner)} pairs"),
            0.8,
            paper="fastest at large alpha, no number",
        ),
        at_most(
            "not-yet-at-small-alpha",
            f"At {alphas[0]:g} the best validation accuracy up to the median step of {alphas[-1]:g} ({groks}).",
            over(known),
            LEVEL,
            paper="no number",
        ),
    ]


def _tree(found: xr.Dataset) -> list[Claim]:
    at = found.tree_test.isel(tree_size=-1)
    gain = at.isel(tree_alpha=-1) - at.isel(tree_alpha=0)
    a, b = (float(found.tree_alpha[i]) for i in (-1, 0))
    return [
        at_least(
            "hierarchy-by-fewer-examples",
            f"On {int(found.tree_size[-1])} examples of the random hierarchy test accuracy at alpha = {a:g} minus that "
            f"at {b:g}.",
            over(gain),
            0.05,
            paper="curves shift to fewer examples",
        )
    ]


def _overlay(found: xr.Dataset, law: xr.Dataset, settings: dict) -> list[Claim]:
    met = ((found.regime == 0) == (law.regime == 0)).mean()
    way = np.abs(np.log10(found.parameters_end / law.parameters_end))
    lows = found.isel(alpha=0)
    flips = found.patterns_end.isel(alpha=-1) - lows.patterns_end
    least, most = float(found.alpha[0]), float(found.alpha[-1])
    made = [
        at_least(
            "regime-foretold",
            "Lazy or rich was foretold from the first weights: share of all runs.",
            exact(met, f"exact, {found.regime.size} runs"),
            0.9,
            paper="not in the paper",
        ),
        at_most(
            "way-foretold",
            "And how far the weights go: |log10| of measured over foretold, mean over alpha.",
            over(way.mean("alpha")),
            0.2,
            paper="not in the paper",
        ),
        at_least(
            "flips-grow-with-alpha",
            f"Units that changed sides at alpha = {most:g} minus those at {least:g}: share of units, over inputs.",
            over(flips),
            0.05,
            paper="Fig. 6a",
        ),
        at_most(
            "rapid-is-not-far",
            f"Way of the weights at alpha = {most:g} over the longest of all alpha.",
            over(found.parameters_end.isel(alpha=-1) / found.parameters_end.max("alpha")),
            0.8,
            paper="Fig. 6a",
        ),
    ]
    if not settings["first"] and not settings["last"]:
        made.append(
            at_most(
                "same-function",
                "Alpha leaves the function as it was: largest change, relative.",
                largest(found.function_change),
                1e-9,
                paper="by construction",
            )
        )
    return made


def _filters(found: xr.Dataset) -> list[Claim]:
    if "roughness" not in found:
        return []
    low, high = (found.roughness.isel(filter_alpha=i) for i in (0, -1))
    a, b = (float(found.filter_alpha[i]) for i in (0, -1))
    return [
        at_least(
            "rough-filters-downstream",
            f"First filters at alpha = {a:g} are rougher than those at {b:g}: |w * Laplacian|^2, ratio to their mean.",
            over(low / high.mean(), "filters"),
            2,
            paper="Fig. 6b, pictures",
        )
    ]
