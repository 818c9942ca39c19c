"""What the laws make of a record: every charge predicted from its first value, the settings and the steps' lengths.

Between two breaks (weights written from outside, steps that nobody saw) a prediction begins with the measured charge
and never looks at it again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws import charges
from learndyn.recorder.ledger import MARKS, SETTINGS

#: Predictions of a charge, from the coarsest to the exact one.
CURVES = {
    "gradient_flow": "gradient flow: conserved",
    "decay_only": "weight decay only",
    "continuous": "continuous law of the paper",
    "started": "continuous law, started on its slow branch",
    "exact": "exact discrete law",
    "with_current": "exact law with the measured current of the loss",
}
STILL = 1e-12  # of a charge: a smaller change tests nothing
PIECE = 2**22  # steps times charges that are predicted together


class Segment(NamedTuple):
    """Rows of a record between two breaks, and whether a momentum buffer was there before the first of them."""

    first: int
    last: int
    resumed: bool


def segments(record: xr.Dataset) -> list[Segment]:
    """Where predictions begin and end: at least two rows each."""
    broken = (record.mark.values & (MARKS["weights_changed_between_steps"] | MARKS["not_finite"])) > 0
    broken |= (record.mark.values & MARKS["resumed"] > 0) & ~np.isfinite(record.step_norm.values).all(1)
    broken[0] = True
    starts = np.flatnonzero(broken)
    ends = [*(starts[1:] - 1), len(broken) - 1]
    resumed = int(record.step[0]) > 0
    found = [Segment(int(a), int(b), resumed or i > 0) for i, (a, b) in enumerate(zip(starts, ends))]
    finite = np.isfinite(record.q.values).all(1)
    return [s for s in found if s.last > s.first and finite[s.first]]


def refusal(record: xr.Dataset, law: int) -> str:
    """Why the laws of SGD do not hold for a law of a record; "" if they do."""
    options = json.loads(record.attrs["options"])
    rows = record.isel(law=law, step=slice(1, None))
    if record.attrs["optimizer"] != "SGD" or not record.attrs["split"]:
        return f"{record.attrs['optimizer']} is not SGD: the budget is exact, but no recursion in the charge holds"
    if any(group.get("nesterov") for group in options):
        return "Nesterov's steps are not its buffer, of which a record knows nothing"
    if any(group.get("maximize") for group in options):
        return "the loss is maximised"
    if not bool(rows.uniform.all()):
        low, high = (rows[list(SETTINGS)].sel(bound=b) for b in ("low", "high"))
        differing = [name for name in SETTINGS if bool((low[name] != high[name]).any())]
        return f"its parameters differ in {' and '.join(differing) or 'their settings'}"
    return ""


def forecast(record: xr.Dataset) -> xr.Dataset:
    """All charges of a record under SGD, as the laws of `learndyn.laws.charges` predict them.

    Where rows are several steps apart the exact law is as exact as ever; the continuous ones then take the effect of
    what varies within a window from it.

    Args:
        record: What `read` returns.

    Returns:
        One variable for each of `CURVES` over `(step, charge)`, nan where nothing is predicted; and by law `why` there
        is no prediction ("" if there is one).

    Raises:
        InputError: If the record has no laws.
    """
    if not record.sizes["charge"]:
        raise InputError("There is no law in this record: give laws to the Recorder, as symmetries.find finds them.")
    shape = record.sizes["step"], record.sizes["charge"]
    found = {name: np.full(shape, np.nan) for name in CURVES}
    why = [refusal(record, law) for law in range(record.sizes["law"])]
    linear = np.array([kind in ("translation", "dead") for kind in record.kind.values])
    for segment in segments(record):
        for law in (i for i, reason in enumerate(why) if not reason):
            mine = np.flatnonzero(record.law_of.values == law)
            steps = int(record.step[segment.last] - record.step[segment.first])
            for some in np.array_split(mine, max(1, min(len(mine), steps * len(mine) // PIECE))):
                for name, values in _predict(record, segment, law, some, bool(linear[law])):
                    found[name][segment.first : segment.last + 1, some] = values
    curves = {name: (("step", "charge"), values, {"long_name": CURVES[name]}) for name, values in found.items()}
    return xr.Dataset(curves | {"why": ("law", why)}, record.coords)


def _predict(
    record: xr.Dataset, segment: Segment, law_index: int, some: np.ndarray, linear: bool
) -> Iterator[tuple[str, np.ndarray]]:
    """The curves of some charges of one law."""
    rows = record.isel(step=slice(segment.first, segment.last + 1), charge=some)
    gaps = np.diff(rows.step.values)
    at = torch.from_numpy(np.append(0, gaps.cumsum()))
    steps = int(at[-1])

    def each(name: str) -> Tensor:
        """The mean over the window, for each of its steps."""
        return torch.from_numpy(rows[name].values[1:] / gaps[:, None]).repeat_interleave(torch.from_numpy(gaps), 0)

    settings = rows[list(SETTINGS)].isel(law=law_index, step=slice(1, None)).mean("bound")
    lr, decay, momentum, dampening = (
        torch.from_numpy(np.repeat(np.nan_to_num(settings[name].values), gaps)) for name in SETTINGS
    )
    q, heavy = torch.from_numpy(rows.q.values[0].copy()), bool((momentum > 0).any())
    squares, overlap = each("step_norm"), None
    if heavy and segment.resumed and lr[0] > 0:
        overlap = _overlap(rows, gaps, lr, momentum, linear)
    yield "gradient_flow", charges.gradient_flow(q, steps)[at].numpy()
    yield "decay_only", charges.decay_only(q, steps, lr, decay, momentum, linear)[at].numpy()
    moving = lr, decay, momentum, dampening
    known = moving if heavy else moving[:2]
    if linear:
        law = partial(charges.translation_discrete, q, steps, *moving, overlap=overlap)
        flow = charges.translation_oscillator if heavy else partial(charges.decay_only, momentum=0.0, linear=True)
        continuous: Any = partial(flow, q, steps, *known)
    else:
        law = partial(charges.discrete, q, squares, *moving, overlap=overlap)
        continuous = partial(charges.oscillator if heavy else charges.first_order, q, squares, *known)
    exact = _exact(rows, law_index, q, overlap, linear)
    # what evenly spread steps leave out of a law is what they leave out of the exact one, up to second order
    missing = exact - law()[at].numpy()
    slow = {}
    if heavy:
        lam, beta, tau = (float(setting[0]) for setting in moving[1:])
        slow = {"velocity": charges.start_velocity(q, lam, beta, tau, overlap, linear)}
    yield "continuous", continuous()[at].numpy() + missing
    yield "started", continuous(**slow)[at].numpy() + missing
    yield "exact", exact
    yield "with_current", law(current=each("loss_current"))[at].numpy() + missing


def _exact(rows: xr.Dataset, law: int, q: Tensor, overlap: Tensor | None, linear: bool) -> np.ndarray:
    """The exact law from window to window, with what the ledger has made of the steps within."""
    state = np.stack([q.numpy(), np.zeros(len(q)) if overlap is None else overlap.numpy()])
    transfer, response = rows.transfer.values[..., law], rows.response.values * (not linear)
    found = [state[0]]
    for matrix, pushed in zip(transfer[1:], response[1:]):
        state = matrix @ state + pushed
        found.append(state[0])
    return np.stack(found)


def _overlap(rows: xr.Dataset, gaps: np.ndarray, lr: Tensor, momentum: Tensor, linear: bool) -> Tensor:
    """form(θ, b) before the first step, from what the ledger calls memory: that of −η β b, doubled if quadratic."""
    factor = (1 if linear else 2) * lr[0] * momentum[0]
    return -torch.from_numpy(rows.memory.values[1] / gaps[0]) / factor


def score(record: xr.Dataset, predicted: xr.Dataset) -> xr.Dataset:
    """How far predictions are from the measured charges, by law and curve (arXiv:2012.04728 compares by eye).

    Over the last stretch without a break, relative to how far the charges of a law moved in it:

    Returns:
        `change_error` |predicted − measured| / |measured − first| at the end (Euclidean over the charges of a law),
        `sup_error` the largest of |predicted − measured| over time, relative to the largest |measured − first|, `r2`
        over all times and charges, and `moved`, that change relative to the size of the charges: below 1e-12 there is
        nothing to test, and the errors are nan.
    """
    spans = segments(record)
    if not spans:
        raise InputError("The record has no two rows without a break between them; there is nothing to compare.")
    rows = slice(spans[-1].first, spans[-1].last + 1)
    q = record.q.values[rows]
    laws, curves = record.sizes["law"], [name for name in CURVES if name in predicted]
    errors = {name: np.full((laws, len(curves)), np.nan) for name in ("change_error", "sup_error", "r2")}
    moved = np.full(laws, np.nan)
    for law in range(laws):
        mine = np.flatnonzero(record.law_of.values == law)
        change = np.linalg.norm(q[:, mine] - q[0, mine], axis=1)
        size = max(float(np.linalg.norm(q[:, mine], axis=1).max()), 1e-300)
        moved[law] = change.max() / size
        for i, name in enumerate(curves):
            off = predicted[name].values[rows][:, mine] - q[:, mine]
            if moved[law] < STILL or not np.isfinite(off).all():
                continue
            far = np.linalg.norm(off, axis=1)
            errors["sup_error"][law, i] = far.max() / change.max()
            errors["change_error"][law, i] = far[-1] / change[-1] if change[-1] > STILL * size else np.nan
            errors["r2"][law, i] = 1 - (off**2).sum() / ((q[:, mine] - q[:, mine].mean(0)) ** 2).sum()
    data = {name: (("law", "curve"), values) for name, values in errors.items()} | {"moved": ("law", moved)}
    return xr.Dataset(data, {"law": record.law.values, "curve": curves, "kind": ("law", record.kind.values)})


#: What a charge is spent on; with the first charge these add up to the last one, whatever the optimizer.
SPENDING = ("decay", "current", "memory", "step_norm", "jump")


def overlay(record: xr.Dataset, rows: int = 300) -> tuple[xr.Dataset, xr.Dataset]:
    """A record and its forecast, small enough to draw and to keep.

    Args:
        record: What `read` returns.
        rows: At most so many and the last one are kept; the scores are of all.

    Returns:
        measured: `q` over `(step, charge)`; `spent`, the sums of `SPENDING` since the first row, over `(part, step,
            charge)`, and `unsplit`, that of the step's current where the optimizer's steps are not split; `residual`,
            what the budget does not explain, relative to the size of the charge; `mark` and settings.
        predicted: `q` over `(curve, step, charge)`, and the `score` of each curve, with `why` there is none.

    Raises:
        InputError: If the record has no laws, or no two rows without a break.
    """
    predicted = forecast(record)
    scores = score(record, predicted)
    count = record.sizes["step"]
    kept = np.unique(np.append(np.arange(0, count, -(-count // rows)), count - 1))
    total = record[[*SPENDING, "step_current"]].fillna(0.0).cumsum("step")
    parts = xr.concat([total[name] for name in SPENDING], xr.Variable("spending", list(SPENDING)))
    explained = total.step_current + total.step_norm + total.jump
    size = abs(record.q).max("step").clip(min=1e-300)
    residual = abs(record.q - record.q.isel(step=0) - explained) / size
    measured = record[["q", "mark", *SETTINGS]].assign(spent=parts, unsplit=total.step_current, residual=residual)
    curves = xr.concat([predicted[name] for name in CURVES], xr.Variable("curve", list(CURVES)))
    laid = xr.Dataset({"q": curves, "why": predicted.why}).merge(scores.drop_vars("kind"))
    return measured.isel(step=kept), laid.isel(step=kept)
