"""Which units of a checkpoint are dormant: small ones that add nothing to the loss yet."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.staircase.steps import VANISHING
from learndyn.neurons import Problem

SILENT = 0.01  # share of the loss that all dormant units together may make up
HALF = 0.5  # of the median awake norm, below which a unit can be dormant
CUTS = 20  # gaps between norms that are tried


def census(
    problem: Problem,
    theta: Float[Tensor, "neurons weights"],
    norms: Float[Tensor, " neurons"],
    dormant_below: float | None,
) -> tuple[Bool[Tensor, " neurons"], float, float]:
    """Which are awake, the loss, and the loss without the others.

    Raises:
        InputError: If the loss is not finite, or no unit is dormant.
    """
    loss = float(problem.loss(theta).detach())
    if not math.isfinite(loss):
        raise InputError(f"The loss is {loss} at these weights; take an earlier checkpoint.")
    if dormant_below is not None:
        awake = norms >= dormant_below
        if awake.all():
            raise InputError(
                f"No neuron has a norm below dormant_below={dormant_below:g}; the norms lie between "
                f"{float(norms.min()):.3g} and {float(norms.max()):.3g}."
            )
        return awake, loss, _without(problem, theta, awake)
    none = torch.zeros_like(norms, dtype=torch.bool)
    empty = _without(problem, theta, none)
    silent = abs(empty - loss) <= SILENT * abs(loss)
    if silent and float(norms.max()) < VANISHING:
        return none, loss, empty
    order = norms.argsort()
    sizes = norms[order]
    gaps = sizes.log().diff()
    cuts = gaps.argsort(descending=True)[:CUTS].sort(descending=True).values + 1
    for cut in cuts.tolist():
        if sizes[cut - 1] >= HALF * sizes[cut:].quantile(0.5):
            continue
        awake = none.clone()
        awake[order[cut:]] = True
        level = _without(problem, theta, awake)
        if abs(level - loss) <= SILENT * abs(loss):
            return awake, loss, level
    told = f"the norms lie between {float(sizes[0]):.3g} and {float(sizes[-1]):.3g}, median {float(sizes.median()):.3g}"
    raise InputError(
        f"No unit is dormant, nor is this a small start: {told}; a drop is foretold where some are below half of "
        "the others and add nothing to the loss yet. Start smaller, or give dormant_below."
    )


def _without(problem: Problem, theta: Tensor, awake: Tensor) -> float:
    part = torch.where(awake[:, None], theta, torch.zeros_like(theta)) if problem.placed else theta[awake]
    return float(problem.loss(part).detach())
