"""What must come out, as numbers with intervals."""

import json
import math

import numpy as np
import xarray as xr

from learndyn.compare import Claim, Estimate, at_least, at_most, exact, mean_interval, towards_zero, within
from learndyn.experiments.group_composition.settings import Settings, stored

LONG = 1.5  # predicted times of two neighbouring drops, below which the plateau between is none
CENSUS = 0.9  # level of intervals
CLOSE = 1.2  # predicted times of two irreps, below which turning, which takes 5 to 30 %, may decide who is first
LATE = 2.0  # times its prediction, from which on an irrep counts as starved


def facts(found: xr.Dataset) -> list[dict]:
    """Names and sentences of every staircase."""
    return [json.loads(str(text)) for text in found.stair_facts.values]


def in_order(found: xr.Dataset, law: xr.Dataset) -> np.ndarray:
    """Whether irreps came in the order foretold, `(case, seed)`; those that were not learnt must be the last ones.

    Of pairs whose scores agree within 5 % or predicted times within 20 % no order is asked.
    """
    made = np.zeros((found.sizes["case"], found.sizes["seed"]), dtype=bool)
    for c, fact in enumerate(facts(found)):
        index = fact["index"]
        for n in range(found.sizes["seed"]):
            times = found.half_time.isel(case=c, seed=n).transpose("rank").values[: len(index)]
            times = np.where(np.isfinite(times), times, np.inf)
            ranks = [a for a in range(len(index)) if index[a]]  # nothing is foretold of the mean
            pairs = [(a, b) for a in ranks for b in ranks if a < b]
            tied = [set(pair) for pair in fact["tied"]]
            said = law.drop_time.isel(case=c, seed=n).transpose("rank").values
            made[c, n] = all(
                times[a] < times[b]
                or (times[a] == times[b] == np.inf)
                or said[b] < CLOSE * said[a]
                or {index[a], index[b]} in tied
                for a, b in pairs
            ) and np.isfinite(times[ranks[0]])
    return made


def not_by_power(found: xr.Dataset) -> list[int]:
    """Staircases whose order by score is not that by power."""
    powers = found.template_power.transpose("case", "rank").values
    return [c for c, row in enumerate(powers) if (np.diff(row[np.isfinite(row)]) > 0).any()]


def fed(found: xr.Dataset) -> xr.DataArray:
    """Irreps with the neurons of the exact solution in their basin."""
    return found.starters >= found.needed


def level_errors(found: xr.Dataset, law: xr.Dataset) -> xr.DataArray:
    """|L/level − 1| on plateaus between two drops that are far enough apart; nan elsewhere.

    And nan beside an irrep for which the census counted too few neurons: it makes steps of its own and may stop above
    its level.
    """
    gap = law.drop_time / law.drop_time.shift(rank=1)  # of the plateau after rank − 1
    wide = gap.rename(rank="plateau").reindex(plateau=found.level.plateau)
    seen = found.drop_time.rename(rank="plateau").reindex(plateau=found.level.plateau)  # its end was seen
    so_far = fed(found).astype(int).cumprod("rank")
    reached = so_far.rename(rank="plateau").reindex(plateau=found.level.plateau, fill_value=0)
    return np.abs(found.level / law.level - 1).where((wide >= LONG) & seen.notnull() & (reached == 1))


def time_ratios(found: xr.Dataset, law: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Half-power time over that of the first weights: of irreps that have the neurons they need, and of others."""
    ratio = found.half_time / law.half_time
    return ratio.where(fed(found)), ratio.where((found.starters >= 0) & ~fed(found))


def limits(found: xr.Dataset, law: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Times over predicted ones as a + b/ln(1/‖θ‖): a, b, `(seed, rank)`; without the largest of three starts or more.

    At the largest the first irreps are not yet apart, and the next ones late by more than a constant.
    """
    made = []
    first = int(found.sizes["small"] > 2)
    degree = 3  # k + 1
    utility = found.small_utility.values
    for seed in range(found.sizes["seed"]):
        at = found.isel(seed=seed, small=slice(first, None))
        norms = at.small_norm.values
        scaled = at.small_drop.transpose("small", "rank").values / -np.log(norms)[:, None]
        fit = towards_zero(norms, scaled)
        made.append((fit.times * degree * utility, fit.shifts * degree * utility))
    ends, slopes = zip(*made)
    return np.array(ends), np.array(slopes)


def spread(values: np.ndarray, what: str) -> Estimate:
    """Mean and range of all finite values, for what shall hold of every one."""
    flat = np.asarray(values, float).ravel()
    flat = flat[np.isfinite(flat)]
    if not len(flat):
        return Estimate(math.nan, math.nan, math.nan, "nothing to measure")
    return Estimate(float(flat.mean()), float(flat.min()), float(flat.max()), f"range of {len(flat)} {what}")


def largest(values: np.ndarray, what: str) -> Estimate:
    """The largest of all finite values."""
    flat = np.asarray(values, float).ravel()
    flat = flat[np.isfinite(flat)]
    return exact(flat.max(), f"largest of {len(flat)} {what}") if len(flat) else spread(flat, what)


def claims(results: xr.DataTree) -> list[Claim]:
    """The claims, each with what was measured here."""
    found, law = results["measured"].to_dataset(), results["predicted"].to_dataset()
    settings = stored(results.attrs["settings"])
    return [
        *_stairs(found, law),
        *_small(found, law, settings),
        *_starved(found, law),
        *_exact(found, law),
        *_widths(found, law, settings),
    ]


def _stairs(found: xr.Dataset, law: xr.Dataset) -> list[Claim]:
    right = in_order(found, law)
    other = not_by_power(found)
    on_time, _ = time_ratios(found, law)
    made = [
        at_least(
            "order-foretold",
            "Irreps whose predicted times are 20 % apart are learnt in the order of their scores: share of starts, "
            "over all groups and templates.",
            exact(right.mean(), f"exact, {right.size} runs of {len(right)} staircases"),
            1,
            paper="theorem",
        ),
        at_most(
            "levels-held",
            f"The loss stays on the power of what is not yet learnt, where irreps have the neurons they need and "
            f"drops are a factor of {LONG:g} apart in time: largest relative error.",
            largest(level_errors(found, law).values, "plateaus"),
            0.03,
            paper="dashed levels, no number",
        ),
        within(
            "times-foretold",
            "Irreps with enough neurons in their basin have half their power when the first weights, followed one by "
            "one, say: ratio of the times.",
            spread(on_time.values, "irreps and runs"),
            0.98,
            1.2,
            paper="not in the paper",
        ),
        at_least(
            "times-bound",
            "And not before the law's time, that of the largest neuron had it turned already: smallest ratio.",
            exact(np.nanmin((found.half_time / law.drop_time).values), "smallest of all irreps and runs"),
            1,
            paper="1 in the limit alpha -> 0",
        ),
    ]
    if other:
        made.insert(
            1,
            at_least(
                "score-not-power",
                "Where the order by power is another one, that by score is met: share of starts.",
                exact(right[other].mean(), f"exact, {right[other].size} runs of {len(other)} staircases"),
                1,
                paper="not shown",
            ),
        )
    return made


def _small(found: xr.Dataset, law: xr.Dataset, settings: Settings) -> list[Claim]:
    excess = np.abs((found.small_drop / law.small_drop - 1).transpose("small", "seed", "rank").values)
    steps = np.diff(excess, axis=0)
    falls = steps[np.isfinite(steps)] < 0
    limit, _ = limits(found, law)
    lag = 1.5 * settings.small_step  # ln(1 + g) grows slower than g = (k+1) U* · step, by half of it
    alphas = found.small.values
    return [
        at_least(
            "times-fall",
            f"Drops come nearer to their predicted times from each start to the next smaller one, alpha = "
            f"{alphas[0]:g} to {alphas[-1]:g}: share of all steps.",
            exact(falls.mean() if len(falls) else math.nan, f"exact, {len(falls)} steps"),
            1,
            paper="alpha -> 0",
        ),
        within(
            "times-limit",
            "Extrapolated to alpha -> 0 by t = tau ln(1/|theta|) + C, times over predicted ones; steps of a finite "
            "length add about half the growth of one, 0.4 %.",
            mean_interval(np.nanmean(limit, axis=1), CENSUS) if np.isfinite(limit).any() else spread(limit, "drops"),
            0.99,
            1.01 + lag,
            paper="1",
        ),
    ]


def starved_ratios(found: xr.Dataset, law: xr.Dataset) -> xr.DataArray:
    """Half-power over predicted time of every irrep; the length of the run where it was not learnt."""
    end = float(found.starved_time.max())
    ratio = found.starved_half.fillna(end) / law.starved_half
    return ratio.where(law.starved_half.notnull()).transpose("start", "seed", "rank")


def _starved(found: xr.Dataset, law: xr.Dataset) -> list[Claim]:
    ratio = starved_ratios(found, law)
    few = found.starved_starters.transpose("start", "seed", "rank") < found.starved_needed
    known = ratio.notnull()
    hungry, others = (ratio.values[(few == kind).values & known.values] for kind in (True, False))
    later = (hungry[:, None] > others).ravel()
    rank = int(few.sel(start="random").mean("seed").argmax("rank"))
    worst = ratio.sel(start="random").isel(rank=rank).values
    return [
        at_least(
            "starved-is-late",
            "An irrep with too few neurons in its basin is late: half-power over predicted time, or more where it "
            "was not learnt.",
            mean_interval(worst, CENSUS),
            LATE,
            paper="not in the paper",
        ),
        at_most(
            "fed-is-on-time",
            "With neurons placed in every irrep all are on time: largest half-power over predicted time.",
            largest(ratio.sel(start="stratified").values, "irreps and runs"),
            1.25,
            paper="not in the paper",
        ),
        at_least(
            "starvation-foretold",
            "Irreps for which the census counts fewer neurons than the exact solution has are later, over their "
            "predicted times, than all others: share of pairs.",
            exact(later.mean() if later.size else math.nan, f"exact, {later.size} pairs"),
            1,
            paper="not in the paper",
        ),
    ]


def _exact(found: xr.Dataset, law: xr.Dataset) -> list[Claim]:
    built = np.isfinite(found.exact_error.values)
    wrong = (found.exact_width.values != law.exact_width.values)[built]
    return [
        at_most(
            "exact-solutions",
            "Constructed weights, in the modules themselves, give all products: largest error over the template's "
            "largest entry.",
            largest(found.exact_error.values, "networks"),
            1e-11,
            paper="exist",
        ),
        at_most(
            "exact-widths",
            "And have the hidden units that were counted from the irreps: share that has not.",
            exact(wrong.mean() if wrong.size else math.nan, f"exact, {wrong.size} networks"),
            0,
            paper="no number",
        ),
    ]


def best_losses(found: xr.Dataset, law: xr.Dataset) -> dict[str, np.ndarray]:
    """Best relative loss of the seeds by factor, two-layer networks of all groups and lengths, `(case, factor)`."""
    rows = [found.sequence_loss.sel(architecture="two_layer_power").min("width_seed").transpose("sequence_length", ...)]
    if "width_loss" in found:
        rows.append(found.width_loss.min("width_seed").transpose("width_case", ...))
    whole = np.concatenate([row.values for row in rows])
    return {"narrow": whole[:, 0], "wide": whole[:, -1]}


def _widths(found: xr.Dataset, law: xr.Dataset, settings: Settings) -> list[Claim]:
    best = best_losses(found, law)
    order = np.argsort(settings.sequence_lengths)
    lengths = np.array(settings.sequence_lengths)[order]
    reached = {str(a): found.sequence_width.sel(architecture=a).values[order] for a in found.architecture.values}
    binary = float(law.sequence_width.sel(architecture="quadratic_rnn").values[0])
    two = reached["two_layer_power"]
    low, high = settings.factors[0], settings.factors[-1]
    made = [
        at_least(
            "narrow-fails",
            f"With {low:g} of the width of the exact solution a two-layer network leaves a share of the loss: "
            f"smallest, best of the seeds.",
            exact(best["narrow"].min(), f"smallest of {len(best['narrow'])} tasks"),
            0.1,
            paper="frontier of its width map",
        ),
        at_most(
            "wide-works",
            f"With {high:g} of it none leaves more than 1 %: largest, best of the seeds.",
            largest(best["wide"], "tasks"),
            0.01,
            paper="frontier of its width map",
        ),
        at_least(
            "two-layers-grow",
            f"Width that reaches 99 % reduction with two layers, k = {lengths[-1]} over k = {lengths[0]}.",
            exact(two[-1] / two[0], "best of the seeds"),
            2.0 ** (lengths[-1] - lengths[0]),
            paper="exponential in k",
        ),
    ]
    for name, words in (("quadratic_rnn", "A recurrent network"), ("tree_net", "A tree")):
        made.append(
            at_most(
                f"{'recurrent' if name == 'quadratic_rnn' else 'tree'}-does-not-grow",
                f"{words} reaches 99 % within twice the width of the exact solution for pairs at every length: "
                f"largest width, over that; training may need more than exists.",
                exact(reached[name].max() / binary, f"largest of k = {', '.join(map(str, lengths))}"),
                2,
                paper="independent of k",
            )
        )
    tried = found.sequence_tried.sel(architecture="two_layer_power").isel(sequence_length=int(order[-1]))
    wider = tried.where((tried >= binary) & (tried <= 2 * binary), drop=True)
    if wider.size:
        left = found.sequence_loss.sel(architecture="two_layer_power").isel(sequence_length=int(order[-1]))
        at = left.sel(factor=wider.factor.values[-1]).min()
        made.append(
            at_least(
                "two-layers-of-that-width-fail",
                f"Two layers of {int(wider[-1])} units at k = {lengths[-1]}, where {binary:g} recurrent ones do: "
                f"share of the loss that is left, best of the seeds.",
                exact(at, "best of the seeds"),
                0.1,
                paper="exponential in k",
            )
        )
    return made
