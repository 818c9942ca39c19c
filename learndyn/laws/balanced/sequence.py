"""Tasks one after the other: balance survives learning, so the end of one task is an exact start of the next."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.balanced.start import finite
from learndyn.laws.balanced.two_layer import Exact, exact


@dataclass(frozen=True)
class Tasks:
    """A network on a sequence of tasks.

    Attributes:
        stages: The solution on every task, in time since the task began.
        losses: For every stage, loss on every task above its floor, `(times of the stage, tasks)`.
        ends: Loss on every task at the end of every stage, `(stages, tasks)`.
    """

    stages: tuple[Exact, ...]
    losses: tuple[Float[Tensor, "_ tasks"], ...]
    ends: Float[Tensor, "stages tasks"]


def chain_tasks(
    w1: Tensor, w2: Tensor, sigmas: Sequence[Tensor], times: Sequence[Tensor], lam: float | None = None, k: float = 1.0
) -> Tasks:
    """Learn Σ₁, Σ₂, ... one after the other, exactly (arXiv:2409.14623). Time and loss are those of `exact`.

    Args:
        w1: First layer at time 0, `(h, d)`, λ-balanced with `w2`.
        w2: Second layer at time 0, `(c, h)`.
        sigmas: Σ of every task, `(c, d)` each.
        times: For every task, times since it began, `(T,)` each; at the largest the next task begins.
        lam: λ; by default the one that fits the start best.
        k: Second moment of the inputs, the same for all tasks.

    Raises:
        InputError: As `exact`, or if there are not as many series of times as tasks.
    """
    if not sigmas or len(sigmas) != len(times) or any(len(t) == 0 for t in times):
        raise InputError(f"{len(sigmas)} tasks need as many series of times, none of them empty, not {len(times)}.")
    targets = torch.stack([finite(f"sigmas[{i}]", _like(s, sigmas[0])) for i, s in enumerate(sigmas)])
    stages: list[Exact] = []
    losses, ends = [], []
    for sigma, t in zip(targets, times):
        stage = exact(w1, w2, sigma, t, lam, k)
        losses.append(k / 2 * (stage.function[:, None] - targets / k).square().sum((-2, -1)))
        last = int(stage.times.argmax())
        ends.append(losses[-1][last])
        w1, w2, lam = stage.w1[last], stage.w2[last], stage.lam
        stages.append(stage)
    return Tasks(tuple(stages), tuple(losses), torch.stack(ends))


def forgetting(sigma: Tensor, before: Tensor, after: Tensor, k: float = 1.0) -> float:
    """Rise of the loss on task Σ between learning `before` and learning `after`, both to convergence: λ has no part.

    (|after − Σ|² − |before − Σ|²)/2k (arXiv:2409.14623, without a bottleneck).

    Args:
        sigma: Σ of the task that is forgotten, `(c, d)`.
        before: Σ of the task learned first.
        after: Σ of the task learned then.
        k: Second moment of the inputs.

    Raises:
        InputError: If the shapes differ, or a value is not finite.
    """
    task, first, then = (finite("sigma", _like(m, sigma)) for m in (sigma, before, after))
    return float((then - task).square().sum() - (first - task).square().sum()) / (2 * k)


def _like(matrix: Tensor, first: Tensor) -> Tensor:
    if matrix.shape != first.shape or matrix.ndim != 2:
        raise InputError(f"Tasks of shapes {tuple(matrix.shape)} and {tuple(first.shape)}: expected (c, d) for all.")
    return matrix
