"""The words and tables of the report."""

import json

import numpy as np
import xarray as xr

from learndyn.experiments.noether_dynamics.claims import balanced, has, over, sgd_runs
from learndyn.experiments.noether_dynamics.runs import VERDICTS
from learndyn.report.page import Table, interval, number


def lead(results: xr.DataTree) -> list[str]:
    """What was run, and the answer."""
    s, found = json.loads(results.attrs["settings"]), results["measured"].to_dataset()
    run = (
        f"{s['model']} on {s['task']}, {s['schedule']} schedule, {s['steps']} steps in {s['dtype']}, "
        f"{s['seeds']} seed{'s' * (s['seeds'] > 1)}, by {'; '.join(s['optimizers'])}. {found.sizes['charge']} channels "
        f"in front of a normalisation."
    )
    answers = []
    for i, at in sgd_runs(found).items():
        if not has(found.isel(run=i), "deviation_mean"):
            continue
        off = 100 * over(found.deviation_mean.isel(run=i)).value
        words = (
            f"{found.run.values[i]}: effective learning rates follow the implicit RMSProp within {off:.2g} % on average"
        )
        if at["weight_decay"]:
            memory = float(found.memory.isel(run=i).median())
            words += f", memory {memory:.3g} steps"
            words += ", at equilibrium." if balanced(found, i) else ", not yet at equilibrium."
        answers.append(words if words.endswith(".") else words + ".")
    return [run, *answers]


def notes(results: xr.DataTree) -> list[str]:
    """What could mislead a reader."""
    found, said = results["measured"].to_dataset(), []
    for i, text in enumerate(found.left_out.values):
        if str(text):
            said.append(f"{found.run.values[i]}: {text}")
    if "constant" not in json.loads(results.attrs["settings"])["schedule"]:
        said.append(
            "The learning rate changes along the runs: norms follow it with their memory, and there is no twin."
        )
    collapsing = int((found.verdict == VERDICTS.index("collapsing")).sum())
    if collapsing:
        said.append(
            f"{collapsing} channels collapse: decay wins over gradients, where they are dead or lr * decay is large."
        )
    return said


def tables(results: xr.DataTree) -> list[Table]:
    """The lens by layer, what norms are predicted, who keeps which law, and constants of everyday settings."""
    found, law = results["measured"].to_dataset(), results["predicted"].to_dataset()
    made = [_layers(found, law)]
    if has(found, "norm_ratio_smooth"):
        made.append(_norms(found))
    if has(found, "twin_loss_difference"):
        made.append(_twins(found))
    made += [_kept(found), _everyday(found)]
    return made


def spread(values: xr.DataArray) -> str:
    """Median and 5 to 95 % of channels and seeds."""
    flat = values.values.ravel()
    flat = flat[np.isfinite(flat)]
    if not len(flat):
        return "–"
    low, mid, high = np.quantile(flat, (0.05, 0.5, 0.95))
    return f"{mid:.3g} ({low:.3g} to {high:.3g})" if low < high else f"{mid:.3g}"


def _layers(found: xr.Dataset, law: xr.Dataset) -> Table:
    rows: list[tuple[str, ...]] = []
    names = ("effective_lr", "memory", "late_memory_factor", "steps_to_equilibrium")
    for i, run in enumerate(found.run.values):
        for place in dict.fromkeys(found.place.values):
            where = np.flatnonzero(found.place.values == place)
            at, said = found.isel(run=i, charge=where), law.isel(run=i, charge=where)
            cells = {
                n: spread(at[n].isel(step=-1) if n == "effective_lr" else at[n]) if n in at else "–" for n in names
            }
            ratio = spread(at.late_angle / said.late_angle) if "late_angle" in said else "–"
            counts = np.bincount(at.verdict.values.astype(int).ravel(), minlength=len(VERDICTS))
            verdict = VERDICTS[int(counts.argmax())] + (f" ({counts.max()} of {counts.sum()})")
            rows.append((str(run), str(place), spread(at.q.isel(step=-1)), cells["effective_lr"], cells["memory"],
                         cells["late_memory_factor"], spread(at.late_angle), ratio, cells["steps_to_equilibrium"],
                         verdict))  # fmt: skip
    header = (
        "run", "weights", "|q|² at the end", "η_eff at the end", "memory (steps)", "ϕ, late", "angle (rad)",
        "angle / expected", "steps to equilibrium", "verdict",
    )  # fmt: skip
    caption = "Medians with 5 to 95 % over channels and seeds. ϕ of white gradients is (1−β)/(1+β), of smooth ones 1."
    return Table("Channels in front of a normalisation", header, rows, caption)


def _norms(found: xr.Dataset) -> Table:
    rows: list[tuple[str, ...]] = []
    for i in sgd_runs(found):
        at = found.isel(run=i)
        if has(at, "norm_ratio_smooth"):
            cells = [over(at[f"norm_ratio_{name}"]) for name in ("measured", "white", "smooth")]
            rows.append((str(found.run.values[i]), *(f"{number(e.value)} {interval(e.low, e.high)}" for e in cells)))
    header = ("run", "ϕ measured", "ϕ = (1−β)/(1+β), white", "ϕ = 1, smooth")
    caption = (
        "Predicted over measured |q|² at equilibrium, gradients of the late steps. Batches drawn without replacement "
        "are not white: an epoch adds up to the full gradient, which lowers ϕ where the memory is as long as an epoch."
    )
    return Table("Norm at equilibrium, by memory factor", header, rows, caption)


def _twins(found: xr.Dataset) -> Table:
    rows: list[tuple[str, ...]] = []
    for i, run in enumerate(found.run.values):
        at = found.isel(run=i)
        if has(at, "twin_loss_difference"):
            names = ("twin_loss_difference", "twin_logit_difference", "test_error", "twin_test_error")
            rows.append((str(run), *(number(float(at[n].mean())) for n in names)))
    header = ("run", "loss difference", "logit difference", "test error", "its twin's")
    return Table("RMSProp twins", header, rows, "Relative differences; means over seeds.")


def _kept(found: xr.Dataset) -> Table:
    rows: list[tuple[str, ...]] = []
    for i, name in enumerate(found.optimizer.values):
        values, kept = found.law_current.values[i], found.law_kept.values[i]
        rows.append((str(name), *(f"{v:.1e}, {'kept' if k else 'broken'}" for v, k in zip(values, kept))))
    caption = "Largest relative current of a first step; torch's Muon rounds to bfloat16, which breaks translation."
    return Table("Who keeps which law", ("optimizer", *map(str, found.law_kind.values)), rows, caption)


def _everyday(found: xr.Dataset) -> Table:
    rows = [(str(name), *(f"{v:.6g}" for v in row)) for name, row in zip(found.everyday.values, found.constant.values)]
    return Table("Everyday settings", ("settings", *map(str, found.constant_name.values)), rows, "By formula.")
