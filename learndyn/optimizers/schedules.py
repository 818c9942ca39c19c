"""Learning-rate schedules as functions of the step: factors on the initial learning rate.

A schedule that counts its own calls would break forking and replay; a function of the step cannot.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from learndyn.errors import InputError

Schedule = Callable[[int], float]


def constant(step: int) -> float:
    """The initial learning rate throughout."""
    return 1.0


@dataclass(frozen=True)
class cosine:  # noqa: N801  a function with settings
    """½ (1 + cos(π · step / steps)): from 1 to 0 over `steps`, 0 afterwards; linear `warmup` before."""

    steps: int
    warmup: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.steps:
            raise InputError(f"warmup={self.warmup} must lie between 0 and the {self.steps} steps of the schedule.")

    def __call__(self, step: int) -> float:
        """Factor at `step`."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * min(step, self.steps) / self.steps))


@dataclass(frozen=True)
class linear:  # noqa: N801
    """Linear warm-up over `warmup` steps, then a straight line to 0 at `steps`."""

    steps: int
    warmup: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < self.steps:
            raise InputError(f"warmup={self.warmup} must lie between 0 and the {self.steps} steps of the schedule.")

    def __call__(self, step: int) -> float:
        """Factor at `step`."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return max(0.0, (self.steps - step) / (self.steps - self.warmup))


@dataclass(frozen=True)
class milestones:  # noqa: N801
    """Multiply by `factor` at each step in `at`."""

    at: tuple[int, ...]
    factor: float = 0.1

    def __post_init__(self) -> None:
        if list(self.at) != sorted(set(self.at)):
            raise InputError(f"The milestones {self.at} must increase.")

    def __call__(self, step: int) -> float:
        """Factor at `step`."""
        return self.factor ** sum(step >= milestone for milestone in self.at)
