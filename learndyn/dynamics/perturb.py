"""Imperceptible changes of a state, and what of them survives rounding (arXiv:2505.13900, Section 3).

Everything is drawn and added in float64, then rounded to the model's precision; the survival report says what was left.
The optimizer's buffers and the batch-norm statistics are copied, not perturbed.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from learndyn.dynamics.state import State, fork, trainable, vector
from learndyn.dynamics.tangent import directions, pull, push, record
from learndyn.dynamics.train import update
from learndyn.errors import InputError
from learndyn.noise import generator, isolated, seed_forward


@dataclass(frozen=True)
class Survival:
    """What rounding left of a perturbation.

    Attributes:
        requested: Norm ‖ε‖₂ that was asked for.
        realised: Norm of the change that the parameters underwent.
        changed: Fraction of the trainable coordinates that changed.
        on_zeros: Share of the realised squared norm that lies on coordinates which were exactly 0.
        floor: The rounding floor, if it was measured (`rounding_floor`), else nan.
    """

    requested: float
    realised: float
    changed: float
    on_zeros: float
    floor: float = math.nan

    @property
    def rounding_driven(self) -> bool:
        """Whether the twins part by rounding, whatever the perturbation: requested norm below 100 × the floor."""
        return self.requested < 100 * self.floor

    @property
    def warning(self) -> str:
        """One sentence for a person, empty if all is well."""
        if self.rounding_driven:
            return (
                f"Rounding-driven: ‖ε‖ = {self.requested:.1e} is below 100 × the rounding floor of one step, "
                f"{self.floor:.1e}; the twins would part like this whatever ε is. Use --dtype float64 or a larger "
                f"perturbation."
            )
        if self.realised < 0.9 * self.requested:
            return (
                f"Rounding kept {self.realised:.1e} of the requested ‖ε‖ = {self.requested:.1e} "
                f"({100 * self.changed:.1f} % of the coordinates changed)."
            )
        return ""


Direction = Callable[[State, np.random.Generator], dict[str, Tensor]]


def displace(
    state: State, displacement: Mapping[str, Tensor], requested: float | None = None
) -> tuple[State, Survival]:
    """A fork of the state whose parameters are θ + displacement, rounded once.

    Args:
        state: The trunk; it stays as it is.
        displacement: Float64 tensors by parameter name, each of its parameter's shape.
        requested: Norm to report as requested; the displacement's own if None.

    Raises:
        InputError: If nothing of the displacement survives rounding.
    """
    twin = fork(state)
    squared = zeros = 0.0
    changed = total = 0
    with torch.no_grad():
        for name, parameter in trainable(twin.model).items():
            before = parameter.double().clone()
            parameter.copy_((before + displacement[name].to(parameter.device)).to(parameter.dtype))
            moved = parameter.double() - before
            squared += float(moved.square().sum())
            zeros += float(moved[before == 0].square().sum())
            changed += int(moved.count_nonzero())
            total += parameter.numel()
    asked = (
        requested if requested is not None else math.sqrt(sum(float(d.square().sum()) for d in displacement.values()))
    )
    if asked > 0 and squared == 0:
        raise InputError(
            f"A perturbation of norm {asked:g} vanishes in the rounding of {str(state.dtype)[6:]}: no parameter "
            f"changes. Use a larger one, or --dtype float64."
        )
    return twin, Survival(asked, math.sqrt(squared), changed / total, zeros / squared if squared else 0.0)


def _normal(state: State, draw: np.random.Generator) -> dict[str, Tensor]:
    return {name: torch.from_numpy(draw.standard_normal(tuple(p.shape))) for name, p in trainable(state.model).items()}


def _scaled(displacement: dict[str, Tensor], norm: float) -> dict[str, Tensor]:
    length = math.sqrt(sum(float(d.square().sum()) for d in displacement.values()))
    if not length > 0 or not math.isfinite(length):
        raise InputError(
            f"A direction of length {length:g} cannot be scaled to {norm:g}; choose another kind of perturbation."
        )
    return {name: d * (norm / length) for name, d in displacement.items()}


def gaussian(state: State, size: float, seed: int) -> tuple[State, Survival]:
    """An isotropic direction of total norm ‖ε‖₂ = `size`."""
    return displace(state, _scaled(_normal(state, generator(seed, "direction")), size), size)


def per_coordinate(state: State, size: float, seed: int) -> tuple[State, Survival]:
    """Independent Gaussian noise of standard deviation `size` on every coordinate: ‖ε‖₂ ≈ size · √P."""
    noise = _normal(state, generator(seed, "direction"))
    return displace(state, {name: size * d for name, d in noise.items()})


def initial_scales(model: nn.Module) -> dict[str, float]:
    """Standard deviation of every trainable tensor of a freshly initialised model; 0 where all entries are equal."""
    return {name: float(p.detach().double().std(correction=0)) for name, p in trainable(model).items()}


def relative(
    state: State, size: float, seed: int, scales: Mapping[str, float] | None = None, keep: float = 1.0
) -> tuple[State, Survival]:
    """Noise with each tensor's own initial scale, times `size` (the convention of arXiv:2506.13234).

    Args:
        state: The trunk.
        size: σ: the perturbation's expected norm in units of the expected norm of the random part of the initial
            weights.
        seed: Decides the direction.
        scales: `initial_scales` of the model when it was new; of the model as it is, if None.
        keep: Fraction of the coordinates that are perturbed at all.
    """
    draw = generator(seed, "direction")
    scales = initial_scales(state.model) if scales is None else scales
    noise = {name: size * scales[name] * d for name, d in _normal(state, draw).items()}
    if keep < 1:
        noise = {name: d * torch.from_numpy(draw.random(tuple(d.shape)) < keep) for name, d in noise.items()}
    return displace(state, noise)


def gradient(state: State, size: float, seed: int) -> tuple[State, Survival]:
    """Along minus the gradient of one more minibatch, which the run itself never sees; ‖ε‖₂ = `size`."""
    scratch = fork(state)
    scratch.model.train()
    far = 2**31 + int(generator(seed, "direction").integers(2**30))  # a step no run reaches
    with isolated(state.device):
        seed_forward(state.seed, far, state.device)
        loss = state.task.loss(scratch.model, state.task.batch(far))
        parameters = trainable(scratch.model)
        slopes = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    steps = {
        name: torch.zeros_like(p, dtype=torch.float64) if g is None else -g.double()
        for (name, p), g in zip(parameters.items(), slopes)
    }
    return displace(state, _scaled(steps, size), size)


def bit_flip(state: State, size: float, seed: int) -> tuple[State, Survival]:
    """Flip the last bit of the mantissa of `size` randomly chosen coordinates (a whole number, at least 1): one ulp
    each.
    """
    count = int(size)
    parameters = trainable(state.model)
    total = sum(p.numel() for p in parameters.values())
    if count != size or not 1 <= count <= total:
        raise InputError(f"bit_flip needs a whole number of coordinates between 1 and {total}; got {size:g}.")
    chosen = np.sort(generator(seed, "direction").choice(total, count, replace=False))
    displacement, offset = {}, 0
    for name, p in parameters.items():
        here = torch.from_numpy(chosen[(chosen >= offset) & (chosen < offset + p.numel())] - offset)
        bits = {torch.float64: torch.int64, torch.float32: torch.int32}.get(p.dtype, torch.int16)
        flat = p.detach().cpu().flatten().clone()
        flat[here] = (flat[here].view(bits) ^ 1).view(p.dtype)
        displacement[name] = (flat.double() - p.detach().cpu().flatten().double()).view(p.shape)
        offset += p.numel()
    return displace(state, displacement)


def noise_swap(state: State, size: float, seed: int) -> tuple[State, Survival]:
    """The same parameters, but from here on another tape of gradient noise (the spawning of arXiv:1912.05671).

    `size` is not used: there is no displacement.
    """
    if not hasattr(state.task, "reseed"):
        raise InputError(
            f"{type(state.task).__name__} cannot change its noise; give it a method reseed(seed) that returns a "
            f"task with another tape."
        )
    other = state.task.reseed(int(generator(seed, "direction").integers(2**31)))
    return replace(fork(state), task=other), Survival(0.0, 0.0, 0.0, 0.0)


def top_lyapunov(state: State, size: float, seed: int, window: int = 20, sweeps: int = 3) -> tuple[State, Survival]:
    """The direction that grows most over the next `window` steps, by power iteration with the tangent map and its
    adjoint.
    """
    scratch = fork(state)
    tape = record(fork(state), window)
    rows = directions(state, 1, int(generator(seed, "direction").integers(2**31)))
    with isolated(state.device):
        for _ in range(sweeps):
            moved = [rows] + [torch.zeros_like(rows)] * len(tape[0].buffers)
            for point in tape:
                moved = list(push(scratch, point, moved))
            moved = [moved[0] / moved[0].norm()] + [torch.zeros_like(rows)] * len(tape[0].buffers)
            for point in reversed(tape):
                moved = list(pull(scratch, point, moved))
            rows = moved[0] / moved[0].norm()
    parameters = trainable(state.model)
    pieces = rows[0].double().cpu().split([p.numel() for p in parameters.values()])
    return displace(state, _scaled({n: d.view(p.shape) for (n, p), d in zip(parameters.items(), pieces)}, size), size)


KINDS: dict[str, Callable[..., tuple[State, Survival]]] = {
    "gaussian": gaussian,
    "per_coordinate": per_coordinate,
    "relative": relative,
    "gradient": gradient,
    "top_lyapunov": top_lyapunov,
    "bit_flip": bit_flip,
    "noise_swap": noise_swap,
}


def rounding_floor(state: State) -> float:
    """Distance after one step of two states that differed by one ulp in one coordinate (two-phase's rounding floor).

    Below about 100 times this number the size of a perturbation is forgotten within a step: the twins part by rounding.
    The coordinate is the largest of the first weight matrix.
    """
    trunk, twin = fork(state), fork(state)
    parameters = trainable(twin.model)
    parameter = next((p for p in parameters.values() if p.dim() > 1), next(iter(parameters.values())))
    with torch.no_grad():
        where = torch.unravel_index(parameter.abs().argmax(), parameter.shape)
        parameter[where] = torch.nextafter(parameter[where], torch.full_like(parameter[where], math.inf))
    with isolated(state.device):
        trunk, _ = update(trunk)
        twin, _ = update(twin)
    return float((vector(trunk.model) - vector(twin.model)).norm())
