"""The words and tables of the cone effect."""

import math

import numpy as np
import xarray as xr

from learndyn.experiments.cone.claims import (
    FEWEST,
    LEVEL,
    TURNING,
    Series,
    cone_transition,
    estimate,
    runs,
    turning_transition,
)
from learndyn.observables import cone
from learndyn.report.page import Table, interval, number


def cone_answer(found: xr.Dataset, late: float) -> str:
    """What the kernel does, in one sentence."""
    if _window(found, late) < FEWEST:
        return "There are too few late kernels to say whether they lie in a cone."
    angle, start, beta = (
        estimate(found, late, statistic).value
        for statistic in (Series.half_angle, Series.angle_from_start, Series.exponent)
    )
    motion = "its motion there cannot be told, since the kernels are not evenly spaced or stand still"
    if not math.isnan(beta):
        motion = f"its motion there is {_motion(beta)} (β = {beta:.2f})"
    moved = estimate(found, late, Series.adjacent, ratio=True).value
    if moved < TURNING:
        motion = f"it hardly turns any more (mean S of neighbours {moved:.1g}): late training is lazy; {motion}"
    return (
        f"Late tangent kernels lie within {angle:.0f}° of their mean direction, {start:.0f}° away from the first "
        f"kernel; {motion}. Entry into the cone: {cone_transition(found, late)}; end of fast turning: "
        f"{turning_transition(found)}."
    )


def _motion(beta: float) -> str:
    for limit, words in ((0.25, "jitter about a fixed direction"), (0.75, "confined"), (1.5, "free diffusion")):
        if beta < limit:
            return words
    return "straight"


def _window(found: xr.Dataset, late: float) -> int:
    return int((found.kernel_step >= late * found.kernel_step[-1]).sum())


def cone_notes(found: xr.Dataset) -> list[str]:
    """What could mislead a reader."""
    said = []
    if list(found.reduction.values) == ["sum"]:
        said.append("The network has many outputs: its kernel is that of their sum, which differs from trace and full.")
    if int(found.kernel_step[0]) == 0 and found.attrs.get("batch_norm"):
        said.append(
            "The kernel of step 0 is that of running statistics (0, 1), which batch norm has not yet learnt: its scale "
            "and direction say little."
        )
    unchecked = int(np.isnan(found.kernel_residual.isel(reduction=0)).sum())
    if unchecked:
        said.append(f"{unchecked} kernels have no certificate: the network has no second derivative here.")
    return said


def cone_tables(found: xr.Dataset, late: float) -> list[Table]:
    """The cone by reduction and by layer, and the kernel's scale."""
    if _window(found, late) < FEWEST:
        return []
    lines: list[tuple[str, ...]] = []
    for name in found.reduction.values:
        some = runs(found, late, reduction=str(name))
        end = found.isel(kernel_step=-1).sel(reduction=name)
        lines.append(
            (
                str(name),
                *(_mean(some, s) for s in (Series.adjacent, Series.half_angle, Series.angle_from_start)),
                _mean(some, Series.exponent),
                _mean(some, Series.chance),
                _mean(some, lambda run: float(cone.effective_dimension(run.gram, run.window))),
                number(float((end.kernel_norm / found.isel(kernel_step=0).sel(reduction=name).kernel_norm).mean())),
                number(float(end.kernel_alignment.mean())),
            )
        )
    header = (
        "reduction", "mean S of neighbours", "half-angle (°)", "angle from first (°)", "β", "p of free motion",
        "dimension", "‖H‖ end / start", "alignment at end",
    )  # fmt: skip
    caption = (
        "Late phase, means over runs. p: share of random walks with the same steps whose β is as small. Dimension: "
        "participation ratio of the centred directions. Alignment: centred kernel-target alignment. S does not see the "
        "scale ‖H‖, so its change stands beside it."
    )
    made = [Table("The cone, by reduction", header, lines, caption)]
    layers = []
    for name in found.layer.values:
        some = [
            Series(found.layer_cosine.sel(seed=seed, layer=name).values, found.kernel_step.values, late)
            for seed in found.seed.values
            if np.isfinite(found.layer_cosine.sel(seed=seed, layer=name)).all()
        ]
        if some:
            chosen = (Series.adjacent, Series.half_angle, Series.angle_from_start, Series.exponent)
            layers.append((str(name), *(_mean(some, statistic) for statistic in chosen)))
    if layers:
        made.append(Table("The cone, by layer", ("layer", *header[1:5]), layers, "Share of each weight with its bias."))
    return made


def _mean(some, statistic) -> str:  # noqa: ANN001
    return number(float(np.mean([statistic(run) for run in some])))


def kernel_numbers(found: xr.Dataset, late: float) -> Table:
    """The numbers of the claims with their intervals."""
    rows: list[tuple[str, ...]] = []
    for words, statistic, ratio in (
        ("mean S of neighbours, late", Series.adjacent, True),
        ("half-angle of the cone (°)", Series.half_angle, True),
        ("its angle from the first kernel (°)", Series.angle_from_start, True),
        ("structure exponent β", Series.exponent, False),
    ):
        e = estimate(found, late, statistic, ratio)
        rows.append((words, number(e.value), interval(e.low, e.high), e.method))
    return Table(f"The cone ({found.reduction.values[0]})", ("", "value", f"{100 * LEVEL:g} % interval", "over"), rows)
