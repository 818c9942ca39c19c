"""Which irrep every neuron is going to grow in: the basins of the utility on the sphere (derived here).

While all neurons are small, each climbs U(θ) = E⟨f_θ, x_{g₁…g_k}⟩ on the unit sphere by itself, and ends in one irrep.
An irrep in whose basin no neuron starts is learnt late, by neurons that turn away from learnt ones, or never.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from learndyn.errors import InputError
from learndyn.groups.group import FiniteGroup
from learndyn.groups.loss import correlation
from learndyn.groups.representations import irreps
from learndyn.groups.transform import power, project
from learndyn.noise import generator

STEP = 0.05  # of the unit sphere; the path is that of the flow, in a time of its own for each neuron
SETTLED = 1e-6  # tangential part of the gradient, relative to the gradient


@dataclass(frozen=True)
class Census:
    """Where neurons end.

    Attributes:
        irrep: Number of the irrep with the largest share of w at the end, of every neuron.
        counts: Neurons in each irrep, `(irreps,)`.
        utility: U at the end; U* of its irrep if the neuron has arrived at the best maximum.
        unsettled: Neurons that were still on their way.
    """

    irrep: Tensor
    counts: Tensor
    utility: Tensor
    unsettled: int


def census(
    group: FiniteGroup,
    x: Float[Tensor, " elements"],
    u: Float[Tensor, "neurons length elements"],
    w: Float[Tensor, "neurons elements"],
    steps: int = 4000,
) -> Census:
    """Follow every neuron from its direction up the utility of the whole target.

    Args:
        group: The group.
        x: The template.
        u: First incoming weights; only directions of (u, w) matter.
        w: First outgoing weights.
        steps: At most so many.

    Raises:
        InputError: If the weights do not fit the group, or a neuron is zero or not finite.
    """
    count, length = u.shape[:2]
    theta = torch.cat([u.detach().flatten(1), w.detach()], 1)
    norms = theta.norm(dim=1, keepdim=True)
    if not bool((torch.isfinite(norms) & (norms > 0)).all()):
        raise InputError("A neuron without a direction has no basin; give finite weights that are not all zero.")
    theta = theta / norms
    moving = torch.ones(count, dtype=torch.bool)
    for _ in range(steps):
        part = theta[moving]
        _, slope = utility_slope(group, x, part, length)
        tangent = slope - (slope * part).sum(1, keepdim=True) * part
        scale = slope.norm(dim=1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        part = part + STEP * tangent / scale
        theta[moving] = part / part.norm(dim=1, keepdim=True)
        moving[moving.clone()] = tangent.norm(dim=1) > SETTLED * scale[:, 0]
        if not moving.any():
            break
    utility, _ = utility_slope(group, x, theta, length)
    share = power(group, theta[:, -group.order :])
    ends = share.argmax(1)
    counts = torch.bincount(ends, minlength=len(irreps(group)))
    return Census(ends, counts, utility, int(moving.sum()))


def stratified(
    group: FiniteGroup,
    counts: Int64[Tensor, " irreps"],
    length: int,
    scale: float,
    seed: int = 0,
) -> tuple[Float[Tensor, "neurons length elements"], Float[Tensor, "neurons elements"]]:
    """First weights (u, w) with as many neurons inside each irrep as wanted, all of norm `scale`, Gaussian within.

    Args:
        group: The group.
        counts: Neurons of every irrep.
        length: k.
        scale: ‖(u_i, w_i)‖.
        seed: Of the Gaussian numbers.

    Raises:
        InputError: If there is not one count ≥ 0 for each irrep, none is above 0, or the scale is not positive.
    """
    if len(counts) != len(irreps(group)) or bool((counts < 0).any()) or int(counts.sum()) == 0:
        raise InputError(f"counts={counts.tolist()} must be {len(irreps(group))} numbers >= 0, one for each irrep.")
    if not 0 < scale < float("inf") or length < 1:
        raise InputError(f"scale={scale:g} and length={length} must be positive.")
    parts = []
    for index, count in enumerate(counts.tolist()):
        if count:
            drawn = generator(seed, "stratified", index).standard_normal((count, length + 1, group.order))
            parts.append(project(group, torch.from_numpy(drawn), index))
    theta = torch.cat(parts)
    theta = scale * theta / theta.flatten(1).norm(dim=1)[:, None, None]
    return theta[:, :-1], theta[:, -1]


def utility_slope(
    group: FiniteGroup, x: Tensor, theta: Float[Tensor, "neurons weights"], length: int
) -> tuple[Float[Tensor, " neurons"], Float[Tensor, "neurons weights"]]:
    """U of every neuron and its gradient."""
    with torch.enable_grad():
        theta = theta.detach().requires_grad_()
        u = theta[:, : length * group.order].unflatten(1, (length, group.order))
        utility = correlation(group, x, u, theta[:, length * group.order :])
        (slope,) = torch.autograd.grad(utility.sum(), theta)
    return utility.detach(), slope
