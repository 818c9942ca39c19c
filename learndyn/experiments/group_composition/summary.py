"""The words and tables of the report."""

import numpy as np
import xarray as xr

from learndyn.experiments.group_composition.architectures import ARCHITECTURES
from learndyn.experiments.group_composition.claims import (
    facts,
    in_order,
    level_errors,
    limits,
    not_by_power,
    time_ratios,
)
from learndyn.experiments.group_composition.figures import NAMES
from learndyn.experiments.group_composition.settings import stored
from learndyn.report.page import Table, number


def lead(results: xr.DataTree) -> list[str]:
    """What was run, and the answer."""
    found, law = results["measured"].to_dataset(), results["predicted"].to_dataset()
    s = stored(results.attrs["settings"])
    right, errors, limit = in_order(found, law), level_errors(found, law), limits(found, law)[0]
    on_time, _ = time_ratios(found, law)
    ratios = (found.small_drop / law.small_drop).mean(("seed", "rank")).transpose("small").values
    widths = {a: found.sequence_width.sel(architecture=a).values for a in ARCHITECTURES}
    text = "; ".join(f"{NAMES[a]} {', '.join(number(float(w)) for w in widths[a])}" for a in ARCHITECTURES)
    return [
        f"Two-layer networks compose elements of {len(s.groups)} groups and templates, {s.seeds} starts each, by "
        f"preconditioned gradient descent on all sequences; order, levels and times are known before.",
        f"The order was met in {int(right.sum())} of {right.size} runs, also in the {len(not_by_power(found))} where "
        f"power says otherwise; levels within {100 * float(np.nanmax(errors, initial=0)):.2g} %; half of an irrep's "
        f"power is there at {float(on_time.min()):.2f} to {float(on_time.max()):.2f} of the time foretold from the "
        "weights.",
        f"On {s.small_group} drops come at {', '.join(f'{r:.3f}' for r in ratios)} of their times from alpha = "
        f"{', '.join(f'{a:g}' for a in s.small_alphas)}, and {np.nanmean(limit):.3f} in the limit.",
        f"Hidden units for 99 % on {s.sequence_group} at k = {', '.join(map(str, s.sequence_lengths))}: {text}.",
    ]


def notes(results: xr.DataTree) -> list[str]:
    """What was said before training, and what could mislead a reader."""
    found = results["measured"].to_dataset()
    said = [f"Before training, {fact['name']}: {text}" for fact in facts(found) for text in fact["said"]]
    return [
        *said,
        "Flow time is that of L = ½ E|y - f|² with a rate |theta|^(1-k) for each neuron. For torch's MSELoss it is "
        "lr x 2/N a step, and levels are 2/N of these. Gradients are not clipped, which would stretch it.",
        "The law's times are for the largest neuron of all at the start, not for the largest in a basin, and leave out "
        "the turning; both make drops late by a constant. Times of the very weights follow every neuron. Where an "
        "irrep has fewer neurons in its basin than the exact solution, drops may still be late: what such neurons "
        "leave behind is not known before. Where the irreps before it are much faster, others have time to turn.",
        "Below alpha of about 1e-15 rounding puts some of the next irrep into neurons that have grown, and drops "
        "come early.",
        "Exact solutions bound the width from above; training often does with less.",
    ]


def tables(results: xr.DataTree) -> list[Table]:
    """Staircases, exact solutions, widths."""
    found, law = results["measured"].to_dataset(), results["predicted"].to_dataset()
    return [_stairs(found, law), _exact(found), _widths(found, law)]


def _stairs(found: xr.Dataset, law: xr.Dataset) -> Table:
    rows: list[tuple[str, ...]] = []
    for c, fact in enumerate(facts(found)):
        at, said = found.isel(case=c), law.isel(case=c)
        for r, irrep in enumerate(fact["irreps"]):
            half = at.half_time.isel(rank=r).values
            of_law, of_weights = (
                ", ".join(number(float(v)) for v in half / told.isel(rank=r).values)
                for told in (said.drop_time, said.half_time)
            )
            level = at.level.isel(plateau=r + 1)
            rows.append(
                (
                    fact["name"] if r == 0 else "",
                    irrep,
                    number(float(at.template_power[r])),
                    number(float(at.utility[r])),
                    f"{', '.join(f'{int(v)}' for v in at.starters.isel(rank=r).values)} / {int(at.needed[r])}",
                    number(float(said.level.isel(plateau=r + 1, seed=0))),
                    number(float(level.mean())),
                    number(float(said.drop_time.isel(rank=r).mean())),
                    of_law,
                    of_weights,
                )
            )
    header = (
        "staircase",
        "irrep",
        "P",
        "U*",
        "starters / exact",
        "level after",
        "measured",
        "law's time",
        "ratios",
        "ratios to the weights' own",
    )
    caption = (
        "In the order foretold. Starters: neurons in the basin, of every start. Measured level: median on the "
        "flattest part, mean of the starts. Ratios: half-power time over the law's and over that foretold from the "
        "first weights; a dash where it was not learnt within the run."
    )
    return Table("Staircases", header, rows, caption)


def _exact(found: xr.Dataset) -> Table:
    rows: list[tuple[str, ...]] = []
    for group in found.exact_group.values:
        for name in ARCHITECTURES:
            at = found.sel(exact_group=group, architecture=name)
            pairs = zip(at.exact_width.values, at.exact_error.values)
            cells = [f"{int(w)} ({e:.0e})" if np.isfinite(w) else "–" for w, e in pairs]
            rows.append((str(group) if name == ARCHITECTURES[0] else "", NAMES[name], *cells))
    header = ("group", "network", *(f"k = {int(k)}" for k in found.exact_length.values))
    return Table("Exact solutions", header, rows, "Hidden units and the largest error, for a template with all irreps.")


def _widths(found: xr.Dataset, law: xr.Dataset) -> Table:
    rows: list[tuple[str, ...]] = []
    for name in ARCHITECTURES:
        for k in found.sequence_length.values:
            at, said = (x.sel(architecture=name, sequence_length=k) for x in (found, law))
            best = at.sequence_loss.min("width_seed").values
            cells = ", ".join(f"{int(w)}: {b:.1e}" for w, b in zip(at.sequence_tried.values, best))
            rows.append(
                (NAMES[name], f"{int(k)}", number(float(said.sequence_width)), number(float(at.sequence_width)), cells)
            )
    header = ("network", "k", "exact solution", "99 % from", "width: loss left")
    return Table("Width by architecture", header, rows, "Best of the seeds, by Adam; loss over that of the answer 0.")
