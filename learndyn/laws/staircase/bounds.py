"""Earliest times of drops that have no closed form: no neuron grows faster than its largest utility lets it."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.staircase.steps import threshold

TIE = 1e-9  # relative: closer values than this are equal


def lower_bounds(
    utility: Float[Tensor, " drops"],
    norm: Float[Tensor, " drops"] | float,
    degree: float = 3.0,
    previous: Float[Tensor, " drops"] | None = None,
) -> Float[Tensor, " drops"]:
    """τ ≥ τ_before + c(‖θ‖)/(κ U*), which is what a neuron needs that is aligned all the time (arXiv:2506.06489).

    It is a bound if ‖θ‖ is the largest norm of a dormant neuron when the round begins. With norms at time 0 and no
    previous drop, it is one for the first drop; for later ones if none of the neurons grew in another direction before.

    Args:
        utility: U*, the largest utility in each round, above 0.
        norm: Largest norm of a dormant neuron at the beginning of each round, or one for all, in (0, 1).
        degree: κ.
        previous: τ_before, flow time; 0 if not given.

    Raises:
        InputError: If a utility is not positive or a norm not between 0 and 1.
    """
    norms = torch.as_tensor(norm, dtype=torch.float64).expand(utility.shape)
    if not bool((utility > 0).all()) or not bool(((norms > 0) & (norms < 1)).all()):
        raise InputError("A bound needs utilities above 0 and norms between 0 and 1.")
    before = torch.zeros_like(utility) if previous is None else previous
    return before + threshold(norms, degree) / (degree * utility)


def ties(values: Float[Tensor, " features"], name: str, labels: Sequence[int] = ()) -> tuple[str, ...]:
    """Sentences on neighbours, in an order, that are equal to rounding.

    Args:
        values: In the order in which they are learned.
        name: Of a feature, in the singular.
        labels: Their numbers; 0, 1, ... by default.
    """
    numbers = labels or range(len(values))
    found: list[list[int]] = []
    for i in range(1, len(values)):
        if abs(float(values[i] - values[i - 1])) <= TIE * abs(float(values[i - 1])):
            if found and found[-1][-1] == i - 1:
                found[-1].append(i)
            else:
                found.append([i - 1, i])
    return tuple(together([numbers[i] for i in group], name) for group in found)


def together(which: list[int], name: str) -> str:
    """Say that some features are learned at one time.

    >>> together([0, 2, 5], "coordinate")
    'coordinates 0, 2 and 5 drop together: a tie.'
    """
    plural = name[:-1] + "ies" if name.endswith("y") else name + "s"
    return f"{plural} {', '.join(map(str, which[:-1]))} and {which[-1]} drop together: a tie."
