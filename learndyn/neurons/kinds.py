"""Homogeneous neurons as plain functions: f(cθ) = c^κ f(θ) (arXiv:2506.06489, section 2).

A kind of neuron is a function of weights `(neurons, D)` and inputs `(samples, ...)` to outputs
`(neurons, samples, outputs)`. Those of this file have outgoing weights a at the end of θ and answer a·h(w, x).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.noise import generator

Hidden = Callable[[Tensor, Tensor], Tensor]
Weights = Float[Tensor, "neurons weights"]

TINY = 1e-4  # where the leading part of a neuron that is not homogeneous is read
SLOPES = (1e-3, 1e-4, 1e-5)  # norms at which its degree is read
SAME = 1e-9  # relative difference at which f(cθ) counts as c^κ f(θ)


@dataclass(frozen=True)
class Neuron:
    """A kind of neuron.

    Attributes:
        name: What to call it.
        degree: κ, at least 2.
        outputs: `(neurons, D), (samples, ...) -> (neurons, samples, outputs)`, differentiable, each neuron by itself.
        homogeneous: False if κ holds at the origin only; a dormant neuron is then its leading part.
        summed: Σ_i f_i, `(samples, outputs)`, if that can be had faster.
        correlated: E⟨f_i, r⟩, `(neurons,)`, of residuals `(samples, outputs)`, if that can be had faster.
        smooth: False if its gradient jumps, as that of ReLU: steps are then explicit and coarse.
        placed: True if a neuron's row in θ says which neuron it is, so that rows cannot be left out.
    """

    name: str
    degree: float
    outputs: Callable[[Tensor, Tensor], Tensor]
    homogeneous: bool = True
    summed: Callable[[Tensor, Tensor], Tensor] | None = None
    correlated: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    smooth: bool = True
    placed: bool = False

    def answer(self, theta: Weights, inputs: Tensor) -> Float[Tensor, "samples outputs"]:
        """Σ_i f_i(x)."""
        return self.summed(theta, inputs) if self.summed else self.outputs(theta, inputs).sum(0)

    def correlation(
        self, theta: Weights, inputs: Tensor, residual: Float[Tensor, "samples outputs"]
    ) -> Float[Tensor, " neurons"]:
        """U_i = E⟨f_i, r⟩, mean over samples and sum over outputs."""
        if self.correlated:
            return self.correlated(theta, inputs, residual)
        return (self.outputs(theta, inputs) * residual).sum(2).mean(1)

    def leading(self) -> "Neuron":
        """Its part of degree κ at the origin; itself if it is homogeneous."""
        if self.homogeneous:
            return self
        scale = TINY**-self.degree

        def outputs(theta: Tensor, inputs: Tensor) -> Tensor:
            return scale * self.outputs(TINY * theta, inputs)

        def correlated(theta: Tensor, inputs: Tensor, residual: Tensor) -> Tensor:
            return scale * self.correlation(TINY * theta, inputs, residual)

        return replace(self, homogeneous=True, outputs=outputs, summed=None, correlated=correlated)


def of_hidden(
    name: str, degree: float, hidden: Hidden, outputs: int, homogeneous: bool = True, smooth: bool = True
) -> Neuron:
    """A neuron a·h(w, x) with θ = (w, a), a being the last `outputs` numbers.

    Args:
        name: What to call it.
        degree: κ of the whole neuron, one more than that of h.
        hidden: `(neurons, weights of w), (samples, ...) -> (neurons, samples)`.
        outputs: Number of outputs.
        homogeneous: As in `Neuron`.
        smooth: As in `Neuron`.
    """

    def halves(theta: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return hidden(theta[:, :-outputs], inputs), theta[:, -outputs:]

    def each(theta: Tensor, inputs: Tensor) -> Tensor:
        h, a = halves(theta, inputs)
        return h[:, :, None] * a[:, None]

    def summed(theta: Tensor, inputs: Tensor) -> Tensor:
        h, a = halves(theta, inputs)
        return h.T @ a

    def correlated(theta: Tensor, inputs: Tensor, residual: Tensor) -> Tensor:
        h, a = halves(theta, inputs)
        return (h * (a @ residual.T)).mean(1)

    return Neuron(name, degree, each, homogeneous, summed, correlated, smooth)


def activated(activation: Callable[[Tensor], Tensor], outputs: int, name: str | None = None) -> Neuron:
    """a·σ(w·x) with any activation σ(0) = 0; its degree is measured.

    >>> activated(torch.nn.functional.gelu, outputs=3).degree
    2

    Args:
        activation: σ, one number at a time.
        outputs: Number of outputs.
        name: What to call it.

    Raises:
        InputError: If σ(0) is not 0, or σ behaves as no power at the origin.
    """
    label = name or str(getattr(activation, "__name__", type(activation).__name__))
    at = torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64)
    origin = float(activation(torch.zeros((), dtype=torch.float64)))
    if origin != 0:
        raise InputError(f"{label} is {origin:g} at 0; a neuron without input must be silent, subtract that.")
    heights = torch.stack([activation(at * size) for size in SLOPES]).abs().amax(1)
    if not bool((heights > 0).all()):
        raise InputError(f"{label} is flat at 0: its neurons never grow from a vanishing start.")
    slopes = heights.log().diff() / torch.tensor(SLOPES, dtype=torch.float64).log().diff()
    power = round(float(slopes[-1]))
    if power < 1 or abs(float(slopes[-1]) - power) > 0.01:
        raise InputError(f"{label} behaves as z^{float(slopes[-1]):.3g} at 0, no power; no staircase is known.")
    scaled = 2.0**power * activation(at)
    same = bool((activation(2 * at) - scaled).abs().max() <= SAME * scaled.abs().max())
    return of_hidden(label, power + 1, lambda w, x: activation(w @ x.T), outputs, same, not _kinked(activation))


def _kinked(activation: Callable[[Tensor], Tensor]) -> bool:
    """Whether the slope jumps somewhere: neighbours on a fine grid differ as much as those on a coarse one."""
    at = torch.linspace(-4, 4, 8193, dtype=torch.float64) + 1 / 3e4
    slope = torch.autograd.functional.jvp(activation, at, torch.ones_like(at))[1]
    fine, coarse = slope.diff().abs().max(), slope[::8].diff().abs().max()
    return bool(fine > 0.5 * coarse) and bool(fine > SAME * slope.abs().max())


def linear(outputs: int) -> Neuron:
    """a·(w·x), κ = 2, on inputs `(samples, d)`; θ = (w, a)."""
    return of_hidden("linear", 2, lambda w, x: w @ x.T, outputs)


def relu(outputs: int, slope: float = 0.0) -> Neuron:
    """a·max(w·x, slope·w·x), κ = 2: ReLU, leaky ReLU, and the absolute value with slope −1; θ = (w, a).

    Raises:
        InputError: If the slope is not finite.
    """
    if not math.isfinite(slope):
        raise InputError(f"slope={slope:g} of a leaky ReLU must be finite.")
    name = {0.0: "relu", -1.0: "abs"}.get(slope, f"leaky relu({slope:g})")
    hidden = lambda w, x: torch.nn.functional.leaky_relu(w @ x.T, slope)  # noqa: E731
    return of_hidden(name, 2, hidden, outputs, smooth=slope == 1)


def power(outputs: int, exponent: int) -> Neuron:
    """a·(w·x)^k, κ = k + 1; θ = (w, a). On concatenated inputs, k = 2, it is the neuron of modular addition.

    Raises:
        InputError: If the exponent is below 1.
    """
    if exponent < 1:
        raise InputError(f"exponent={exponent} of a neuron must be at least 1.")
    return of_hidden(f"power({exponent})", exponent + 1, lambda w, x: (w @ x.T) ** exponent, outputs)


def diagonal() -> Neuron:
    """Neuron i is u v x_i, κ = 2, and input i alone; θ = (u, v). Together they are a diagonal linear network."""

    def outputs(theta: Tensor, inputs: Tensor) -> Tensor:
        if len(theta) != inputs.shape[1]:
            raise InputError(f"{len(theta)} diagonal neurons for {inputs.shape[1]} inputs; give one for each input.")
        return (theta[:, 0] * theta[:, 1])[:, None, None] * inputs.T[:, :, None]

    return Neuron("diagonal", 2, outputs, placed=True)


def head(outputs: int) -> Neuron:
    """A head of linear attention v (k·x₁)(q·x₂), κ = 3, θ = (k, q, v).

    Inputs are `(samples, 2, D)`: what the key reads, and what the query reads.
    """
    return of_hidden("attention head", 3, _two_reads, outputs)


def _two_reads(w: Tensor, inputs: Tensor) -> Tensor:
    k, q = w.chunk(2, dim=1)
    return (k @ inputs[:, 0].T) * (q @ inputs[:, 1].T)


def check_degree(neuron: Neuron, weights: int, inputs: Tensor) -> None:
    """Refuse a neuron that is not of the degree it claims, on these inputs.

    Args:
        neuron: The kind.
        weights: D.
        inputs: `(samples, ...)`.

    Raises:
        InputError: If f(cθ) differs from c^κ f(θ) at c = 2 or ½, or near the origin if κ holds only there, or a neuron
            is silent for every input.
    """
    if neuron.degree < 2:
        raise InputError(f"{neuron.name} has degree {neuron.degree:g}; below 2 there is no plateau. Give at least 2.")
    count = inputs.shape[1] if neuron.placed else 8
    drawn = generator(0, "degree").standard_normal((count, weights))
    theta = torch.from_numpy(drawn).to(inputs.dtype)
    part = neuron.leading()
    tolerance = SAME if neuron.homogeneous else 10 * TINY
    if inputs.dtype != torch.float64:
        tolerance = max(tolerance, 1e-4)
    one = part.outputs(theta, inputs)
    if one.ndim != 3 or one.shape[:2] != (count, len(inputs)):
        raise InputError(
            f"{neuron.name} gave {tuple(one.shape)} for {count} neurons and {len(inputs)} samples; it must be "
            "(neurons, samples, outputs)."
        )
    size = float(one.abs().max())
    if not 0 < size < math.inf:
        raise InputError(f"{neuron.name} answers {size:g} on these inputs; nothing can be learnt.")
    for c in (2.0, 0.5):
        got, wanted = part.outputs(c * theta, inputs), c**neuron.degree * one
        if float((got - wanted).abs().max()) > tolerance * c**neuron.degree * size:
            raise InputError(
                f"{neuron.name} is not homogeneous of degree {neuron.degree:g}: f({c:g}θ) differs from "
                f"{c:g}^{neuron.degree:g} f(θ). Say homogeneous=False if the degree holds at the origin only."
            )
