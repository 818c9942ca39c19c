"""Growth at a finite size, and the kinks that cause it (arXiv:2505.13900)."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from learndyn.dynamics.perturb import gaussian
from learndyn.dynamics.replicas import train_together
from learndyn.dynamics.state import State, fork, trainable
from learndyn.errors import InputError
from learndyn.noise import isolated, seed_forward
from learndyn.tasks import Batch


def finite_size_exponents(
    state: State, steps: int, distances: Sequence[float], every: int = 10, seed: int = 0, engine: str = "loop"
) -> Float[Tensor, " distances"]:
    """λ(δ) = mean of ln(growth) / every, of twins that are brought back to distance δ every few steps; in 1/step.

    Where it does not depend on δ the chaos is smooth; where it rises with δ, kinks make it. The difference of the
    optimizer's buffers is rescaled together with that of the parameters.

    Args:
        state: Where to begin; it stays as it is.
        steps: Length of the window, a multiple of `every`.
        distances: Norms δ at which the twins are held.
        every: Steps between two rescalings.
        seed: Decides the first direction.
        engine: See `train_together`.

    Raises:
        InputError: If `every` does not divide `steps`, or a distance is not positive or vanishes in rounding.
    """
    if every < 1 or steps < every or steps % every:
        raise InputError(f"The window of {steps} steps must be a positive multiple of every={every}.")
    if min(distances) <= 0:
        raise InputError(f"The distances {tuple(distances)} must be positive.")
    states = [fork(state), *(gaussian(state, d, seed)[0] for d in distances)]
    logs = torch.zeros(len(distances), dtype=torch.float64)
    for _ in range(steps // every):
        before = [_distance(states[0], twin) for twin in states[1:]]
        states, _ = train_together(states, every, engine)
        for i, (twin, d) in enumerate(zip(states[1:], distances)):
            now = _distance(states[0], twin)
            if now == 0:
                raise InputError(f"Twins at distance {d:g} became the same in rounding; hold them farther apart.")
            logs[i] += math.log(now / before[i])
            _rescale(states[0], twin, d / now)
    return logs / steps


def _distance(base: State, twin: State) -> float:
    return float(sum((b - a).detach().double().square().sum() for a, b in _pairs(base, twin, buffers=False)) ** 0.5)


def _pairs(base: State, twin: State, buffers: bool) -> Iterator[tuple[Tensor, Tensor]]:
    for own, other in zip(trainable(base.model).values(), trainable(twin.model).values()):
        yield own, other
        held = base.optimizer.state.get(own, {}) if buffers else {}
        for key, value in held.items():
            if isinstance(value, Tensor) and value.shape == own.shape and key != "step":
                yield value, twin.optimizer.state[other][key]


def _rescale(base: State, twin: State, factor: float) -> None:
    with torch.no_grad():
        for own, other in _pairs(base, twin, buffers=True):
            other.copy_((own.double() + factor * (other.double() - own.double())).to(other.dtype))


@dataclass(frozen=True)
class Kinks:
    """How many pieces of a piecewise-linear network two twins take differently on one batch.

    Attributes:
        signs: Units of ReLU-like activations that lie on another linear piece for one twin than for the other.
        switches: Max-pooling windows whose largest entry is another one.
        total: Units and windows looked at; 0 for a network without kinks.
    """

    signs: int
    switches: int
    total: int


def _bends(name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Where a piecewise-linear operation bends, from left to right."""
    if name in ("relu", "leaky_relu", "_prelu_kernel", "abs"):
        return (0.0,)
    last = {"threshold": 2, "clamp_min": 2, "clamp_max": 2, "hardtanh": 3, "clamp": 3}.get(name, 1)
    return tuple(bend for bend in args[1:last] if bend is not None)


class _Listening(TorchDispatchMode):
    """Note which side of every kink the inputs fall on, by the operations that run: modules and plain functions
    alike.
    """

    def __init__(self) -> None:
        super().__init__()
        self.signs: list[Tensor] = []
        self.winners: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.removesuffix("_")
        bends = _bends(name, args)
        if bends:
            self.signs.append(torch.stack([args[0].detach() > bend for bend in bends]).sum(0))
        out = func(*args, **(kwargs or {}))
        if "max_pool" in name and isinstance(out, tuple):
            self.winners.append(out[1].detach())
        return out


@contextmanager
def _listening() -> Iterator[_Listening]:
    # oneDNN's max-pooling gives no indices; with gradients switched on torch takes the one that does.
    with _Listening() as heard, torch.enable_grad():
        yield heard


def _pieces(state: State, batch: Batch) -> _Listening:
    scratch = fork(state)
    with isolated(state.device):
        seed_forward(state.seed, state.step, state.device)
        with _listening() as heard:
            state.task.loss(scratch.model.train(), batch)
    return heard


def kinks(base: State, twin: State) -> Kinks:
    """Count the kinks between twins, on the batch of the coming step in train mode."""
    batch = base.task.batch(base.step)
    a, b = _pieces(base, batch), _pieces(twin, batch)
    signs = sum(int((x != y).sum()) for x, y in zip(a.signs, b.signs))
    switches = sum(int((x != y).sum()) for x, y in zip(a.winners, b.winners))
    return Kinks(signs, switches, sum(t.numel() for t in (*a.signs, *a.winners)))


def first_kink(base: State, twin: State, steps: int) -> int | None:
    """The first of the coming steps whose batch the twins see from different sides of a kink; None if there is none."""
    states = [fork(base), fork(twin)]
    for _ in range(steps):
        found = kinks(*states)
        if found.signs or found.switches:
            return states[0].step
        states, _ = train_together(states, 1, "loop")
    return None
