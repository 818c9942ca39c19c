"""Which irrep is learnt when: scores, levels and times of sequential group composition (arXiv:2602.03655).

For a two-layer network with activation z^k from a vanishing start, on sequences of k encodings of mean zero. The order
by score is the paper's theorem; its constant, the type factor and the widths are derived here. They live in this room
rather than among the laws because they read irreps.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.groups.basins import census
from learndyn.groups.group import FiniteGroup
from learndyn.groups.representations import Irrep, irreps
from learndyn.groups.templates import ABSENT, Concerns, concerns
from learndyn.groups.transform import fourier, power


@dataclass(frozen=True)
class Stage:
    """One irrep, as it is learnt.

    Attributes:
        index: Number of the irrep.
        irrep: Its name.
        kind: "real", "complex" or "quaternionic".
        dimension: d of the real matrices.
        power: P_ρ of the template.
        operator_norm: Largest singular value of x̂[ρ].
        utility: U*_ρ, the largest utility of a neuron of unit norm.
        level: Loss L after it is learnt.
        time: Flow time at which it is learnt; nan if no start was given.
        neurons: With as many the exact solution is known.
        starters: Neurons in its basin; −1 if no first weights were given.
    """

    index: int
    irrep: str
    kind: str
    dimension: int
    power: float
    operator_norm: float
    utility: float
    level: float
    time: float
    neurons: int
    starters: int


@dataclass(frozen=True)
class Prediction:
    """The staircase before anything is trained.

    Attributes:
        stages: Irreps in the order in which they are learnt.
        level: Loss L at the start, ½‖x‖².
        neurons: Hidden units of the exact solution.
        concerns: Where the template leaves the assumptions.
        sentences: What a reader should know, those of `concerns` included.
    """

    stages: tuple[Stage, ...]
    level: float
    neurons: int
    concerns: Concerns
    sentences: tuple[str, ...]


def utilities(group: FiniteGroup, x: Float[Tensor, " elements"], length: int) -> Float[Tensor, " irreps"]:
    """U*_ρ = k! (k+1)^(−(k+1)/2) (‖x̂[ρ]‖_op/√N)^(k+1) d^(−(k−1)/2), the score that decides the order.

    The maximum of E⟨f_i, x_{g₁…g_k}⟩ over neurons of unit norm; d is the size of the real matrices, for all three
    types. Differentiable; for the trivial irrep the formula leaves out what a mean adds.

    Args:
        group: The group.
        x: The template.
        length: k, elements in a sequence, at least 1.

    Raises:
        InputError: If the length is below 1 or x does not fit the group.
    """
    _at_least_one(length)
    norms = torch.stack([torch.linalg.matrix_norm(block, 2) for block in fourier(group, x)])
    sizes = torch.tensor([irrep.dimension for irrep in irreps(group)], dtype=x.dtype)
    front = math.factorial(length) * (length + 1) ** (-(length + 1) / 2)
    return front * (norms / group.order**0.5) ** (length + 1) * sizes ** (-(length - 1) / 2)


def learning_order(group: FiniteGroup, x: Float[Tensor, " elements"], length: int) -> list[int]:
    """Irreps of the template by decreasing score."""
    share, score = power(group, x), utilities(group, x, length)
    present = [i for i in range(len(share)) if float(share[i]) > ABSENT * float(share.sum())]
    return sorted(present, key=lambda i: -float(score[i]))


def levels(group: FiniteGroup, x: Float[Tensor, " elements"], order: list[int]) -> Float[Tensor, " plateaus"]:
    """L = ½ Σ P_ρ over the irreps not yet learnt, before the first and after each of `order`."""
    parts = power(group, x)[order]
    rest = parts.flip(0).cumsum(0).flip(0)
    return 0.5 * torch.cat([rest, rest.new_zeros(1)])


def times(
    utility: Float[Tensor, " irreps"], start: float, length: int, preconditioned: bool = True
) -> Float[Tensor, " irreps"]:
    """Flow times τ_ρ = −ln ‖θ(0)‖ / ((k+1) U*_ρ) at which a neuron aligned with an irrep reaches norm 1.

    For θ_i' = −‖θ_i‖^(1−k) ∇L, where irreps do not wait for each other. Measured jumps come later by the time of
    alignment, 5 to 30 %, less the smaller the start. Without preconditioning neurons turn and grow together, and
    (‖θ(0)‖^(1−k) − 1)/((k−1)(k+1) U*) is a lower bound (arXiv:2506.06489).

    Args:
        utility: U*.
        start: The largest norm ‖(u_i, w_i)‖ of a neuron at the start, between 0 and 1.
        length: k.
        preconditioned: Whether neurons have the rates ‖θ_i‖^(1−k).

    Raises:
        InputError: If the start is not between 0 and 1, or the length below 1.
    """
    _at_least_one(length)
    if not 0 < start < 1:
        raise InputError(f"start={start:g}, the largest norm of a neuron, must lie between 0 and 1: a vanishing start.")
    if preconditioned or length == 1:
        growth = -math.log(start)
    else:
        growth = (start ** (1 - length) - 1) / (length - 1)
    return growth / ((length + 1) * utility)


def neurons_needed(irrep: Irrep, length: int) -> int:
    """Neurons of the exact solution of one irrep (`constructions`): 2^(k−1) for each product of k linear forms.

    There are n^(k+1) products for the real type. For the others they are complex and take k + 1 real ones each, less
    than the (2n)^(k+1) of the real matrices.
    """
    _at_least_one(length)
    products = irrep.complex_dimension ** (length + 1)
    return 2 ** (length - 1) * products * (1 if irrep.kind == "real" else length + 1)


def predict(
    group: FiniteGroup,
    x: Float[Tensor, " elements"],
    length: int = 2,
    start: float | None = None,
    u: Float[Tensor, "neurons length elements"] | None = None,
    w: Float[Tensor, "neurons elements"] | None = None,
) -> Prediction:
    """The staircase of a template: order, levels, times under preconditioned flow, widths, starved irreps.

    >>> from learndyn.groups import dihedral, powers
    >>> group = dihedral(3)
    >>> found = predict(group, powers(group, [0, 10, 40]), length=2, start=1e-3)
    >>> [(stage.irrep, round(stage.level, 9), round(stage.time, 3)) for stage in found.stages]
    [('1a', 20.0, 0.189), ('2a', 0.0, 0.268)]

    Args:
        group: The group.
        x: The template.
        length: k.
        start: Largest norm of a neuron at the start; from the first weights if they are given.
        u: First incoming weights.
        w: First outgoing weights. With both, the neurons in each basin are counted, which takes seconds.

    Raises:
        InputError: If x or the weights do not fit, only one kind of weights is given, or the start is not vanishing.
    """
    if (u is None) != (w is None):
        raise InputError("u and w belong together; give both or neither.")
    representations, score, parts = irreps(group), utilities(group, x, length), power(group, x)
    order = learning_order(group, x, length)
    after = levels(group, x, order)
    worries = concerns(group, x, score)
    said = list(worries.sentences)
    counts = [-1] * len(representations)
    if u is not None and w is not None:
        if u.shape[1] != length:
            raise InputError(
                f"Weights for sequences of {u.shape[1]} do not fit length={length}; give those of one task."
            )
        if start is None:
            start = float((u.square().sum((1, 2)) + w.square().sum(1)).max().sqrt())
        counts = census(group, x, u, w).counts.tolist()
    when = torch.full_like(score, math.nan) if start is None else times(score, start, length)
    blocks = fourier(group, x)
    stages = []
    for place, i in enumerate(order):
        irrep = representations[i]
        needed = neurons_needed(irrep, length)
        if 0 <= counts[i] < needed:
            late = "it may be learnt late or never" if counts[i] == 0 else "it may stop above its level"
            said.append(f"{irrep.name} has {counts[i]} of the {needed} neurons of the exact solution: {late}.")
        stages.append(
            Stage(
                index=i,
                irrep=irrep.name,
                kind=irrep.kind,
                dimension=irrep.dimension,
                power=float(parts[i]),
                operator_norm=float(torch.linalg.matrix_norm(blocks[i], 2)),
                utility=float(score[i]),
                level=float(after[place + 1]),
                time=float(when[i]) if i else math.nan,
                neurons=needed,
                starters=counts[i],
            )
        )
    return Prediction(tuple(stages), float(after[0]), sum(stage.neurons for stage in stages), worries, tuple(said))


def _at_least_one(length: int) -> None:
    if length < 1:
        raise InputError(f"length={length} is no length of a sequence; give at least 1.")
