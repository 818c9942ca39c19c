"""The words of the report: what was run, what a reader should know, and the table of transitions."""

import json

import numpy as np
import xarray as xr

from learndyn.compare import Transition, agreement
from learndyn.dynamics.perturb import Survival
from learndyn.experiments.cone.claims import cone_transition, measured_kernels, turning_transition
from learndyn.experiments.cone.summary import cone_answer, cone_notes, cone_tables, kernel_numbers
from learndyn.experiments.two_phase.claims import METRICS, ceiling, consistency, rms_growth, transitions
from learndyn.report.page import Table, interval, number


def lead(results: xr.DataTree) -> list[str]:
    """What was run, and the answer, in two sentences each."""
    s = json.loads(results.attrs["settings"])
    twins = s["seeds"] * s["directions"] * len(s["t0"])
    run = (
        f"{s['model']} on {s['task']}, {s['optimizer']}, {s['schedule']} schedule, {s['steps']} steps in {s['dtype']}. "
        f"{twins} twins, perturbed by {s['perturbation']} of size {s['epsilon']:g} at {len(s['t0'])} steps of "
        f"{s['seeds']} base runs, trained on with the same gradient noise."
    )
    found = transitions(results)
    function, distance = found["disagreement"], found["log_distance"]
    if function.verdict == "transition":
        answer = (
            f"The basin is chosen around step {_when(found['loss_barrier'])}, the function is settled around step "
            f"{_when(function)}, and perturbations stop growing around step {_when(distance)}: before that, a rerun "
            f"that is not bit for bit the same is another network; after it, branches can be compared, averaged and "
            f"merged."
        )
    else:
        answer = f"Disagreement of the twins: {function}. Distance of the twins: {distance}."
    measured = results["measured"].to_dataset()
    return [run, answer, *([cone_answer(measured, s["late"])] if measured_kernels(measured) else [])]


def _when(found: Transition) -> str:
    return str(found).removeprefix("t* ")


def notes(results: xr.DataTree) -> list[str]:
    """What could mislead a reader: rounding, interpolated training data, a missing prediction."""
    measured, settings = results["measured"].to_dataset(), json.loads(results.attrs["settings"])
    said = []
    sizes = [
        float(measured[f"perturbation_{name}"].mean())
        for name in ("requested", "realised", "changed", "on_zeros", "floor")
    ]
    if sizes[0] > 0 and (warning := Survival(*sizes).warning):
        said.append(warning)
    if why := results["predicted"].attrs.get("why"):
        said.append(f"No prediction: {why}")
    end = measured.base_error.sel(step=settings["steps"], split="train")
    if bool((end == 0).any()):
        said.append(
            f"{int((end == 0).sum())} of {settings['seeds']} base runs classify every training example correctly at "
            f"the end (interpolation): barriers and disagreement on the training set are then 0 for many reasons."
        )
    lost = int((measured.log_growth.isel(t1=-1).isnull()).sum())
    if lost and settings["perturbation"] != "noise_swap":
        said.append(f"{lost} twins have no growth at the end: they diverged, or were not perturbed.")
    if why := measured.attrs.get("switch_why"):
        said.append(f"No linearised run: {why}")
    said += cone_notes(measured) if measured_kernels(measured) else []
    return said


def tables(results: xr.DataTree) -> list[Table]:
    """Transitions by metric, and how the base runs stand."""
    rows: list[tuple[str, ...]] = []
    for name, found in transitions(results).items():
        t = number(found.time) if found.verdict == "transition" else "–"
        between = interval(found.low, found.high) if found.verdict == "transition" else "–"
        words = found.verdict + (f" ({found.why})" if found.why else "")
        rows.append(
            (METRICS[name][1], words, t, between, number(found.early), number(found.late), number(found.p_value))
        )
    seeds = int(results["measured"].to_dataset().sizes["seed"])
    transition_table = Table(
        "Transitions",
        ("metric", "verdict", "t* (step)", "90 % interval", "first t0", "last t0", "p"),
        rows,
        f"Half-way point of a Hill curve through the mean over {seeds} seeds; delete-one-seed jackknife of ln t*; p "
        f"of the permutation test.",
    )
    measured = results["measured"].to_dataset()
    at_end = measured.sel(step=measured.step[-1])
    standing: list[tuple[str, ...]] = [
        (
            f"{seed}",
            *(
                number(float(at_end[f"base_{kind}"].sel(seed=seed, split=split)))
                for split in ("train", "test")
                for kind in ("loss", "error")
            ),
            number(float(at_end.base_norm.sel(seed=seed))),
            number(float(measured.perturbation_floor.sel(seed=seed).mean()))
            if np.isfinite(measured.perturbation_floor).any()
            else "–",
        )
        for seed in measured.seed.values
    ]
    header = ("seed", "train loss", "train error", "test loss", "test error", "‖θ‖", "rounding floor")
    caption = (
        "At the last step, in evaluation mode. Rounding floor: distance after one step of twins that differ by one "
        "ulp, mean over t0."
    )
    bases = Table("Base runs", header, standing, caption)
    if not measured_kernels(measured):
        return [transition_table, *_agreement(results), bases]
    late = json.loads(results.attrs["settings"])["late"]
    cones = cone_tables(measured, late)
    if cones:
        cones = [_side_by_side(results, measured, late), kernel_numbers(measured, late), *cones]
    return [transition_table, *_agreement(results), *cones, bases]


def _side_by_side(results: xr.DataTree, measured: xr.Dataset, late: float) -> Table:
    """Do chaos and cone end at the same time? The paper says so; here it is measured."""
    entry, turning = cone_transition(measured, late), turning_transition(measured)
    rows: list[tuple[str, ...]] = []
    for name, found in transitions(results).items():
        scores = (number(consistency(found, cone)) for cone in (entry, turning))
        rows.append(
            (METRICS[name][1], _when(found), *(x for pair in zip(map(_when, (entry, turning)), scores) for x in pair))
        )
    header = ("metric of the chaos", "chaos t*", "entry into the cone", "score", "end of fast turning", "score")
    caption = (
        "Transition of the twins over t0 beside the steps at which the kernel enters its late cone (distance from the "
        "late mean direction) and stops turning fast (distance of neighbours, which a falling learning rate stills in "
        "any case). Score: |ln of the ratio| over the half-widths of both intervals, added in squares; up to 1 the two "
        "may be one, as the paper asserts."
    )
    return Table("Chaos and cone side by side", header, rows, caption)


def _agreement(results: xr.DataTree) -> list[Table]:
    """Predicted laid over measured growth, over all starts that are not saturated."""
    measured, law = results["measured"].to_dataset(), results["predicted"].to_dataset()[["log_growth"]]
    if not bool(law.log_growth.notnull().any()):
        return []
    growth = rms_growth(measured).rename("log_growth").assign_attrs(units="nats").to_dataset()
    rows: list[tuple[str, ...]] = []
    for words, limit in (("not saturated", ceiling(measured) - 1), ("predicted below a factor of 10", np.log(10.0))):
        where = (law.log_growth < limit).isel(t1=-1, drop=True)
        found = agreement(law, growth, where).sel(name="log_growth")
        value = {name: number(float(found[name])) for name in ("mean_difference", "rms", "max_abs", "correlation", "n")}
        between = interval(float(found.low), float(found.high))
        rows.append((words, value["mean_difference"], between, *list(value.values())[1:]))
    header = ("starts with growth", "mean difference", "90 % interval", "r.m.s.", "largest", "correlation", "n")
    caption = "Measured minus predicted ln growth up to the end, nats; root mean square over directions, seed by seed."
    return [Table("Growth, measured over predicted", header, rows, caption)]
