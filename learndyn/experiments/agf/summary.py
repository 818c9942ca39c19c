"""The words and tables of the report."""

import json

import numpy as np
import xarray as xr

from learndyn.experiments.agf.claims import relu_errors
from learndyn.experiments.agf.linear import COMMUTING
from learndyn.report.page import Table, number


def lead(results: xr.DataTree) -> list[str]:
    """What was run, and the answer."""
    s = json.loads(results.attrs["settings"])
    found, law = results["measured"].to_dataset(), results["predicted"].to_dataset()
    run = (
        f"Diagonal networks from α = {s['alphas'][0]:g} to {s['alphas'][-1]:g}, linear networks, attention with "
        f"{s['heads']} heads, {s['neurons']} quadratic neurons modulo {s['modulus']}, ReLU networks on {s['samples']} "
        f"digits, and two plain modules; {s['seeds']} seeds, float64."
    )
    limit = float(abs(found.plane_limit / law.plane_times - 1).max())
    white = float(abs(found.white_jumps / law.white_jumps - 1).max())
    heads = float(abs(found.attention_jumps / law.attention_jumps - 1).isel(attention_alpha=-1).max())
    relu = float(relu_errors(found, law).max())
    return [
        run,
        f"Times of drops were predicted within {limit:.1g} (diagonal, extrapolated to α = 0), {white:.1g} (linear, "
        f"from the first weights), {heads:.1g} (attention, α = {s['attention_alphas'][-1]:g}) and {relu:.1g} (ReLU), "
        "relative, before anything was trained.",
        "In modular addition frequencies come in the order of their magnitude; the algorithm brackets when.",
    ]


def notes(results: xr.DataTree) -> list[str]:
    """What could mislead a reader."""
    s, found = json.loads(results.attrs["settings"]), results["measured"].to_dataset()
    coarse = float(found.attention_alpha[0])
    return [
        "The loss is ½E|y − f|², summed over outputs; torch's MSELoss is 2/outputs of that, and SGD with momentum μ "
        "runs 1/(1 − μ) times as fast. laws.staircase.flow_time does both.",
        f"For neurons of degree 3 the prediction is good when the start is small: at α = {coarse:g} drops of attention "
        "may be off by a tenth and more.",
        "Attention is averaged over all prompts in closed form; ReLU networks learn digits, not CIFAR-10.",
        f"{s['neurons']} neurons may be fewer than the six that fit a frequency exactly: a last level above 0.",
    ]


def tables(results: xr.DataTree) -> list[Table]:
    """Times of drops, network by network, measured / predicted."""
    found, law = results["measured"].to_dataset(), results["predicted"].to_dataset()
    return [_diagonal(found, law), _linear(found, law), _attention(found, law), _modular(found, law), _relu(found, law)]


def _pair(seen: float, said: float) -> str:
    return f"{number(float(seen))} / {number(float(said))}"


def _diagonal(found: xr.Dataset, law: xr.Dataset) -> Table:
    rows = []
    for name in ("plane", "five"):
        for k, said in enumerate(law[f"{name}_times"].values):
            seen = [number(float(v)) for v in found[f"{name}_jumps"].values[:, k]]
            limit, shift = float(found[f"{name}_limit"][k]), float(found[f"{name}_shift"][k])
            rows.append((f"{name}, {k + 1}", *seen, f"{limit:.6f}", f"{said:.6f}", number(shift)))
    header = ("drop", *(f"α = {a:g}" for a in found.alpha.values), "extrapolated", "predicted", "C")
    caption = "Times of drops of diagonal networks over ln(1/α); they are τ + C/ln(1/α)."
    return Table("Diagonal networks", header, rows, caption)


def _linear(found: xr.Dataset, law: xr.Dataset) -> Table:
    rows: list[tuple[str, ...]] = []
    for name in COMMUTING:
        seen, said = found[f"{name}_jumps"].isel(seed=0), law[f"{name}_jumps"].isel(seed=0)
        for alpha in found.linear_alpha.values:
            pairs = zip(seen.sel(linear_alpha=alpha).values, said.sel(linear_alpha=alpha).values)
            rows.append((name, f"{alpha:g}", ", ".join(_pair(a, b) for a, b in pairs)))
    for a, b, c in zip(*(data.isel(seed=0).values for data in (found.mixed_limit, law.mixed_limit, found.mixed_naive))):
        rows.append(("modes that mix", "→ 0", f"{_pair(a, b)} (1/σ: {number(float(c))})"))
    caption = (
        "Flow times at which half of a mode's drop is done, measured / predicted from its first weights, first seed."
    )
    return Table("Linear networks", ("problem", "α", "drops"), rows, caption)


def _attention(found: xr.Dataset, law: xr.Dataset) -> Table:
    rows = []
    for alpha in found.attention_alpha.values:
        for seed in found.seed.values:
            seen, said = (data.sel(attention_alpha=alpha, seed=seed) for data in (found, law))
            pairs = zip(seen.attention_jumps.values, said.attention_jumps.values)
            rows.append((f"{alpha:g}", str(seed), *(_pair(a, b) for a, b in pairs)))
    header = ("α", "seed", *(f"drop {k + 1}" for k in range(found.sizes["attention_drop"])))
    return Table("Attention", header, rows, "Flow times of drops, measured / predicted by the algorithm.")


def _modular(found: xr.Dataset, law: xr.Dataset) -> Table:
    rows = []
    for seed in found.seed.values:
        for k in found.frequency.values:
            seen, said = (data.sel(seed=seed, frequency=k) for data in (found, law))
            numbers = (said.modular_bound, said.modular_first, seen.modular_half, said.modular_last)
            cells = [number(float(v)) for v in numbers]
            rows.append(
                (str(seed), str(k), *cells, f"{int(seen.modular_needed)}", number(float(seen.modular_mismatch)))
            )
    header = ("seed", "frequency", "earliest", "first neuron", "half its power", "last neuron", "neurons", "phase, rad")
    caption = (
        "When a frequency is learned (measured) between the predicted activations of its neurons; phase: mismatch "
        "|φ_u + φ_v − φ_w − φ_x| where its first neuron wakes."
    )
    return Table("Modular addition", header, rows, caption)


def _relu(found: xr.Dataset, law: xr.Dataset) -> Table:
    rows: list[tuple[str, ...]] = []
    for width in found.width.values:
        for seed in found.seed.values:
            seen, said = (data.sel(width=width, seed=seed) for data in (found, law))
            pairs = [p for p in zip(seen.relu_jumps.values, said.relu_jumps.values) if np.isfinite(p[1])]
            own = int(seen.relu_own)
            drops = ", ".join(_pair(a, b) + ("" if k < own else " *") for k, (a, b) in enumerate(pairs))
            rows.append((str(width), str(seed), drops, _pair(float(seen.relu_end), float(said.relu_end))))
    caption = (
        "Flow times, measured / predicted. A star: this neuron, or one before it, was to wake at an acute angle to an "
        "awake one, which shares its digits and slides on along kinks: such drops come late."
    )
    return Table("ReLU networks", ("neurons", "seed", "drops", "last loss"), rows, caption)
