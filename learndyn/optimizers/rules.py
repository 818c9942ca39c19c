"""Updates of torch.optim as pure functions of flat vectors, so that a training step can be differentiated.

A step of an elementwise optimizer is θ' , b' = U(θ, b, ∇L(θ)): its tangent is the tangent of U, fed with the curvature
product H·δθ in the place of the gradient's tangent. So one pure function per optimizer gives tangent dynamics, adjoint
sweep and tests.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from learndyn.errors import InputError

Buffers = tuple[Tensor, ...]


@dataclass(frozen=True)
class Rule:
    """One optimizer's update.

    Attributes:
        buffers: Names of the per-coordinate buffers in the optimizer's state.
        apply: (θ, buffers, gradient, factor of the schedule, updates done before) -> (θ', buffers'); all vectors
            `(..., P)`, each coordinate by itself.
        linear: Whether the update is linear in parameters, buffers and gradient: its derivative is then the same
            everywhere.
    """

    buffers: tuple[str, ...]
    apply: Callable[[Tensor, Buffers, Tensor, float, int], tuple[Tensor, Buffers]]
    linear: bool


def _per_coordinate(optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> Callable[[str], Any]:
    """Hyper-parameters by name: a number where all groups agree, else a vector over the coordinates."""
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in parameters.items() if id(p) not in group_of]
    if missing:
        raise InputError(
            f"The optimizer does not hold the trainable parameter {missing[0]!r}; give it all of them, or freeze it."
        )

    def option(name: str) -> Any:
        values = [group_of[id(p)][name] for p in parameters.values()]
        if all(v == values[0] for v in values):
            return values[0]
        if isinstance(values[0], bool | tuple):
            raise InputError(
                f"Parameter groups that differ in {name!r} have no tangent rule here; use one setting for all."
            )
        first = next(iter(parameters.values()))
        return torch.cat(
            [
                torch.full((p.numel(),), v, dtype=p.dtype, device=first.device)
                for v, p in zip(values, parameters.values())
            ]
        )

    return option


def _sgd(option: Callable[[str], Any]) -> Rule:
    lr, momentum, dampening, decay = (option(n) for n in ("initial_lr", "momentum", "dampening", "weight_decay"))
    nesterov, sign = option("nesterov"), -1.0 if option("maximize") else 1.0
    fresh = 1 - dampening
    if isinstance(momentum, Tensor):  # where there is no momentum, torch ignores the dampening
        fresh = torch.where(momentum == 0, 1.0, fresh * torch.ones_like(momentum))

    def apply(theta: Tensor, buffers: Buffers, slope: Tensor, factor: float, done: int) -> tuple[Tensor, Buffers]:
        slope = sign * slope + decay * theta
        (velocity,) = buffers
        velocity = slope if done == 0 else momentum * velocity + fresh * slope
        direction = slope + momentum * velocity if nesterov else velocity
        return theta - factor * lr * direction, (velocity,)

    return Rule(("momentum_buffer",), apply, linear=True)


def _adam(option: Callable[[str], Any], decoupled: bool) -> Rule:
    if option("amsgrad"):
        raise InputError("Adam with amsgrad=True keeps a maximum, which has no tangent rule here; use amsgrad=False.")
    lr, eps, decay, (beta1, beta2) = (option(n) for n in ("initial_lr", "eps", "weight_decay", "betas"))
    sign = -1.0 if option("maximize") else 1.0

    def apply(theta: Tensor, buffers: Buffers, slope: Tensor, factor: float, done: int) -> tuple[Tensor, Buffers]:
        slope = sign * slope
        if decoupled:
            theta = theta * (1 - factor * lr * decay)
        else:
            slope = slope + decay * theta
        mean, square = buffers
        mean = beta1 * mean + (1 - beta1) * slope
        square = beta2 * square + (1 - beta2) * slope * slope
        # The square root has no derivative at 0; a coordinate that never had a gradient does not move anyway.
        alive = square > 0
        root = torch.where(alive, torch.where(alive, square, 1.0).sqrt(), 0.0)
        first, second = 1 - beta1 ** (done + 1), 1 - beta2 ** (done + 1)
        return theta - (factor * lr / first) * mean / (root / second**0.5 + eps), (mean, square)

    return Rule(("exp_avg", "exp_avg_sq"), apply, linear=False)


def rule(optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> Rule:
    """The update rule of a torch.optim optimizer, over the given parameters in their order.

    Raises:
        InputError: If the optimizer is none of SGD, Adam and AdamW, or an option has no smooth rule.
    """
    option = _per_coordinate(optimizer, parameters)
    kind = type(optimizer)
    if kind is torch.optim.SGD:
        return _sgd(option)
    if kind in (torch.optim.Adam, torch.optim.AdamW):
        decoupled = kind is torch.optim.AdamW or bool(option("decoupled_weight_decay"))
        return _adam(option, decoupled)
    raise InputError(f"There is no tangent rule for {kind.__name__}; SGD, Adam and AdamW have one.")


def read_buffers(optimizer: Optimizer, parameters: Mapping[str, Tensor], names: tuple[str, ...]) -> tuple[Buffers, int]:
    """The optimizer's buffers as flat vectors `(P,)`, zero where it has none yet, and the number of updates done.

    The number is exact for Adam; for SGD it is 0 before there is a momentum buffer and 1 after.
    """
    flat = []
    for name in names:
        found = [optimizer.state.get(p, {}).get(name) for p in parameters.values()]
        flat.append(
            torch.cat(
                [
                    torch.zeros_like(p).flatten() if b is None else b.flatten()
                    for b, p in zip(found, parameters.values())
                ]
            )
        )
    held = [optimizer.state.get(p, {}) for p in parameters.values()]  # groups without momentum have no buffers
    done = max(int(h["step"]) if "step" in h else int(h.get(names[0]) is not None) for h in held)
    return tuple(b.detach() for b in flat), done
