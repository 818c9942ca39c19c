"""The loss on the straight line between two networks (arXiv:2505.13900, eq. 5).

Three conventions for how high a profile ℓ(α), α from 0 to 1, rises; they agree only where both ends are equally low:
    chord         max over α of ℓ(α) − [(1−α) ℓ(0) + α ℓ(1)], never negative
    mean          max over α of ℓ(α) − ½ [ℓ(0) + ℓ(1)]: ½ on the monotone profile ℓ(α) = α, where there is no barrier
    chord_at_max  ℓ(α*) − chord(α*) at α* = argmax ℓ
Two ways to get batch-norm statistics on the line:
    interpolate   running means and variances are interpolated like weights
    recalibrate   they are estimated anew on the training inputs, without augmentation
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from learndyn.dynamics.state import State
from learndyn.errors import InputError, unknown
from learndyn.observables.evaluate import chunks, evaluate, looking, scratch
from learndyn.tasks import Task

CONVENTIONS = ("chord", "mean", "chord_at_max")
BATCH_NORM = ("interpolate", "recalibrate")


@dataclass(frozen=True)
class Profile:
    """Loss and error along the line from one network to another.

    Attributes:
        alpha: Positions `(points,)`, 0 at the first network and 1 at the second.
        loss: Mean loss `(points,)`, float64.
        error: Fraction of wrong decisions `(points,)`, float64.
    """

    alpha: Tensor
    loss: Tensor
    error: Tensor


def barrier(
    profile: Float[Tensor, " points"], alpha: Float[Tensor, " points"], convention: str = "chord"
) -> Float[Tensor, ""]:
    """Height of the barrier in a profile that runs from α = 0 to α = 1.

    >>> ramp = torch.linspace(0, 1, 11)
    >>> [round(barrier(ramp, ramp, c).item(), 6) for c in CONVENTIONS]
    [0.0, 0.5, 0.0]
    """
    chord = torch.lerp(
        profile[0], profile[-1], alpha.to(profile.dtype)
    )  # unlike the weighted sum, exact between equal ends
    if convention == "chord":
        return (profile - chord).max().clamp(min=0.0)
    if convention == "mean":
        return profile.max() - 0.5 * (profile[0] + profile[-1])
    if convention == "chord_at_max":
        return (profile - chord)[profile.argmax()]
    raise unknown("barrier convention", convention, CONVENTIONS)


def profiles(
    a: State,
    b: State,
    points: int = 11,
    splits: Sequence[str] = ("train", "test"),
    batch_norm: Sequence[str] = BATCH_NORM,
) -> dict[tuple[str, str], Profile]:
    """Profiles by (split, batch-norm mode), in one walk along the line.

    Without batch-norm statistics the two modes are one and the same.

    Raises:
        InputError: If `points` is below 3, or a name is unknown.
    """
    if points < 3:
        raise InputError(f"A profile of {points} points has no inside; use at least 3.")
    for mode in batch_norm:
        if mode not in BATCH_NORM:
            raise unknown("batch-norm mode", mode, BATCH_NORM)
    alpha = torch.linspace(0, 1, points, dtype=torch.float64)
    between, task = scratch(a.model), a.task
    ends = a.model.state_dict(), b.model.state_dict()
    moving = [m for m in between.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    seen: dict[tuple[str, str], list[tuple[Tensor, Tensor]]] = {(s, m): [] for s in splits for m in batch_norm}
    for position in alpha.tolist():
        _interpolate(between, *ends, position)
        for mode in ("interpolate", "recalibrate"):
            if mode not in batch_norm:
                continue
            if mode == "recalibrate" and moving:
                recalibrate(between, task)
            for split in splits:
                if mode == "recalibrate" and not moving and "interpolate" in batch_norm:
                    seen[split, mode].append(seen[split, "interpolate"][-1])
                    continue
                found = evaluate(between, task, split)
                seen[split, mode].append((found.loss, found.error))
    return {
        name: Profile(alpha, torch.stack([loss for loss, _ in values]), torch.stack([error for _, error in values]))
        for name, values in seen.items()
    }


def _interpolate(between: nn.Module, first: dict[str, Tensor], second: dict[str, Tensor], position: float) -> None:
    with torch.no_grad():
        for name, tensor in between.state_dict().items():
            if tensor.is_floating_point():
                begin = first[name].double()
                mixed = begin + position * (
                    second[name].double() - begin
                )  # in this form identical twins give exactly themselves
                tensor.copy_(mixed.to(tensor.dtype))


def recalibrate(model: nn.Module, task: Task) -> None:
    """Estimate every batch-norm statistic anew: the cumulative average over the training inputs, in place; the rest
    in eval mode.
    """
    moving = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [m.momentum for m in moving]
    try:
        with looking(model, next(model.parameters()).device):
            for module in moving:
                module.reset_running_stats()
                module.momentum = None
                module.train()
            for chunk in chunks(task.evaluation("train")):
                task.loss(model, chunk)
    finally:
        for module, momentum in zip(moving, momenta):
            module.momentum = momentum


def loss_barrier(
    a: State,
    b: State,
    split: str = "train",
    batch_norm: str = "recalibrate",
    convention: str = "chord",
    points: int = 11,
) -> Float[Tensor, ""]:
    """B: how far the loss rises on the straight line between two networks."""
    profile = profiles(a, b, points, (split,), (batch_norm,))[split, batch_norm]
    return barrier(profile.loss, profile.alpha, convention)


def error_barrier(
    a: State,
    b: State,
    split: str = "train",
    batch_norm: str = "recalibrate",
    convention: str = "chord",
    points: int = 11,
) -> Float[Tensor, ""]:
    """How far the error rate rises on the straight line between two networks (arXiv:1912.05671: "mean", unstable
    above 0.02).
    """
    profile = profiles(a, b, points, (split,), (batch_norm,))[split, batch_norm]
    return barrier(profile.error, profile.alpha, convention)
