"""What neurons are to learn: the loss L = ½E‖y − Σ_i f_i‖² of their sum, and the utility of each against a residual."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn import groups
from learndyn.errors import InputError
from learndyn.groups.loss import interaction
from learndyn.neurons.kinds import Neuron, check_degree
from learndyn.neurons.starts import Start

Weights = Float[Tensor, "neurons weights"]


@runtime_checkable
class Problem(Protocol):
    """What `learndyn.laws.staircase.alternate` and `learndyn.dynamics.vanishing_flow` ask for.

    A stranger's problem needs these six; residuals are of any kind that `utility` understands.
    """

    @property
    def degree(self) -> float:
        """κ."""

    @property
    def weights(self) -> int:
        """D, numbers of one neuron."""

    @property
    def placed(self) -> bool:
        """Whether rows of θ cannot be left out, because the place of a row says which neuron it is."""

    @property
    def smooth(self) -> bool:
        """Whether gradients are continuous."""

    def loss(self, theta: Weights) -> Float[Tensor, ""]:
        """L of the sum of these neurons, of which there may be none; differentiable."""

    def residual(self, theta: Weights) -> Any:
        """What these neurons leave to learn."""

    def utility(self, theta: Weights, residual: Any) -> Float[Tensor, " neurons"]:
        """U_i, homogeneous of degree κ in each row; differentiable. −∂L/∂θ_i is its gradient at the whole residual."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """Neurons of any kind on given data; `sampled` makes it.

    Attributes:
        neuron: The kind.
        inputs: `(samples, ...)`.
        targets: `(samples, outputs)`.
        weights: D.
    """

    neuron: Neuron
    inputs: Tensor
    targets: Float[Tensor, "samples outputs"]
    weights: int

    @property
    def degree(self) -> float:
        """κ of the neuron."""
        return self.neuron.degree

    @property
    def placed(self) -> bool:
        """As the neuron says."""
        return self.neuron.placed

    @property
    def smooth(self) -> bool:
        """As the neuron says."""
        return self.neuron.smooth

    def residual(self, theta: Weights) -> Float[Tensor, "samples outputs"]:
        """The rest, y − Σ_i f_i(x)."""
        return self.targets - self.neuron.answer(theta, self.inputs) if len(theta) else self.targets

    def loss(self, theta: Weights) -> Float[Tensor, ""]:
        """½E‖y − f‖²."""
        return 0.5 * self.residual(theta).square().sum(1).mean()

    def utility(self, theta: Weights, residual: Float[Tensor, "samples outputs"]) -> Float[Tensor, " neurons"]:
        """E⟨f_i, r⟩ of the leading part."""
        return self.neuron.leading().correlation(theta, self.inputs, residual)


def sampled(neuron: Neuron, inputs: Tensor, targets: Float[Tensor, "samples outputs"], weights: int) -> Sampled:
    """Neurons of a kind on given data.

    >>> from learndyn.neurons import relu
    >>> x = torch.eye(3, dtype=torch.float64)
    >>> problem = sampled(relu(outputs=1), x, x[:, :1], weights=4)
    >>> float(problem.loss(torch.zeros(0, 4, dtype=torch.float64)))
    0.16666666666666666

    Args:
        neuron: The kind.
        inputs: As the neuron takes them, float64.
        targets: What is to be learnt, float64.
        weights: D, numbers of one neuron: d + c for inputs of d numbers and c outputs.

    Raises:
        InputError: If samples do not fit, numbers are not finite or not of float64, the targets are all zero, or the
            neuron is not of the degree it claims.
    """
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise InputError(f"{len(inputs)} inputs and {len(targets)} targets do not belong together; give as many.")
    if inputs.dtype != torch.float64 or targets.dtype != torch.float64:
        raise InputError(
            f"Inputs are {inputs.dtype} and targets {targets.dtype}: vanishing starts need float64; call .double()."
        )
    if not bool(torch.isfinite(inputs).all() and torch.isfinite(targets).all()):
        raise InputError("Inputs or targets are not finite; nothing can be predicted.")
    if not bool(targets.any()):
        raise InputError("All targets are zero; there is nothing to learn.")
    check_degree(neuron, weights, inputs)
    return Sampled(neuron, inputs, targets, weights)


@dataclass(frozen=True, eq=False)
class InContext:
    """In-context linear regression by attention without softmax, heads θ = (v, k, q), averaged over all prompts.

    A prompt has N pairs (x, w·x) and a query, x ~ N(0, Σ), w ~ N(0, I); L is known in closed form
    (arXiv:2506.06489): ½[tr Σ − 2N tr(ΣMΣ) + tr(Mᵀ E[S²] M Σ)] with M = Σ_i v_i k_i q_iᵀ.

    Attributes:
        covariance: Σ, `(D, D)`.
        length: N.
    """

    covariance: Float[Tensor, "size size"]
    length: int

    def __post_init__(self) -> None:
        sigma = self.covariance
        if self.length < 1 or sigma.dtype != torch.float64:
            raise InputError(f"length={self.length} must be at least 1, and the covariance float64.")
        if not torch.allclose(sigma, sigma.T) or float(torch.linalg.eigvalsh(sigma)[0]) <= 0:
            raise InputError("The covariance must be symmetric and positive definite: no direction without variance.")

    @property
    def degree(self) -> float:
        """3."""
        return 3

    @property
    def weights(self) -> int:
        """1 + 2D."""
        return 1 + 2 * len(self.covariance)

    @property
    def placed(self) -> bool:
        """Any head can do anything."""
        return False

    @property
    def smooth(self) -> bool:
        """Yes."""
        return True

    def second_moment(self) -> Float[Tensor, "size size"]:
        """E[S²] = N(N+1)Σ² + N tr(Σ)Σ."""
        sigma, n = self.covariance, self.length
        return n * (n + 1) * sigma @ sigma + n * sigma.trace() * sigma

    def learnt(self, theta: Weights) -> Float[Tensor, "size size"]:
        """M = Σ_i v_i k_i q_iᵀ."""
        v, k, q = theta[:, 0], *theta[:, 1:].chunk(2, dim=1)
        return (v[:, None] * k).T @ q

    def loss(self, theta: Weights) -> Float[Tensor, ""]:
        """L(M)."""
        return self.loss_of(self.learnt(theta))

    def loss_of(self, m: Float[Tensor, "size size"]) -> Float[Tensor, ""]:
        """L of any M."""
        sigma = self.covariance
        linear = 2 * self.length * (sigma @ m @ sigma).trace()
        return 0.5 * (sigma.trace() - linear + (m.T @ self.second_moment() @ m @ sigma).trace())

    def residual(self, theta: Weights) -> Float[Tensor, "size size"]:
        """−∂L/∂M = NΣ² − E[S²]MΣ."""
        sigma = self.covariance
        return self.length * sigma @ sigma - self.second_moment() @ self.learnt(theta) @ sigma

    def utility(self, theta: Weights, residual: Float[Tensor, "size size"]) -> Float[Tensor, " neurons"]:
        """U = v kᵀ(−∂L/∂M)q."""
        v, k, q = theta[:, 0], *theta[:, 1:].chunk(2, dim=1)
        return v * ((k @ residual) * q).sum(1)


@dataclass(frozen=True, eq=False)
class Composition:
    """Sequential group composition by neurons w(Σ_j u_j·x_{g_j})^k, θ = (u_1, …, u_k, w), over all N^k sequences.

    Attributes:
        group: The group; cyclic(p) with length 2 is modular addition.
        template: Encoding of the identity, `(N,)`.
        length: k.
    """

    group: groups.FiniteGroup
    template: Float[Tensor, " elements"]
    length: int = 2

    def __post_init__(self) -> None:
        if self.length < 1 or self.template.shape != (self.group.order,):
            raise InputError(
                f"A template of shape {tuple(self.template.shape)} and length={self.length} do not fit "
                f"{self.group.label} of order {self.group.order}."
            )

    @property
    def degree(self) -> float:
        """κ = k + 1."""
        return self.length + 1

    @property
    def weights(self) -> int:
        """(k + 1)N."""
        return (self.length + 1) * self.group.order

    @property
    def placed(self) -> bool:
        """Any neuron can do anything."""
        return False

    @property
    def smooth(self) -> bool:
        """Yes."""
        return True

    def parts(self, theta: Weights) -> tuple[Float[Tensor, "neurons length n"], Float[Tensor, "neurons n"]]:
        """(u, w) of θ."""
        shaped = theta.unflatten(1, (self.length + 1, self.group.order))
        return shaped[:, :-1], shaped[:, -1]

    def loss(self, theta: Weights) -> Float[Tensor, ""]:
        """½E‖x_{g₁…g_k} − f‖²."""
        if not len(theta):
            return 0.5 * self.template.square().sum()
        return groups.population_loss(self.group, self.template, *self.parts(theta))

    def residual(self, theta: Weights) -> Weights:
        """The neurons themselves: what they leave is known by their moments."""
        return theta

    def utility(self, theta: Weights, residual: Float[Tensor, "others weights"]) -> Float[Tensor, " neurons"]:
        """E⟨f_i, x_{g₁…g_k}⟩ less E⟨f_i, f_j⟩ of the neurons that the residual is of."""
        alone = groups.correlation(self.group, self.template, *self.parts(theta))
        if not len(residual):
            return alone
        return alone - interaction(self.group, self.template, self.parts(theta), self.parts(residual)).sum(1)


def compressed(problem: Sampled, start: Start) -> tuple[Sampled, Start]:
    """The same problem with incoming weights in the span of the inputs, and the start with it: as fast as they allow.

    For neurons a·h(w·x). What of w is orthogonal to all inputs never moves; its length is kept as one more weight that
    reads nothing, so that norms, and with them all times, stay as they are.

    Args:
        problem: Of such neurons, inputs `(samples, d)`.
        start: Of the neurons as they are.

    Raises:
        InputError: If inputs are no vectors, or the weights are not one for each number of an input and output.
    """
    inputs, outputs = problem.inputs, problem.targets.shape[1]
    if inputs.ndim != 2 or problem.placed or problem.weights != inputs.shape[1] + outputs:
        raise InputError(f"{problem.neuron.name} is no neuron a·h(w·x) of vectors; it cannot be compressed.")
    _, values, rows = torch.linalg.svd(inputs, full_matrices=False)
    basis = rows[values > 1e-12 * values[0]].T
    if basis.shape[1] + 1 >= inputs.shape[1]:
        return problem, start
    w, a = start.directions[:, :-outputs], start.directions[:, -outputs:]
    inside = w @ basis
    frozen = torch.linalg.vector_norm(w - inside @ basis.T, dim=1, keepdim=True)
    read = torch.cat([inputs @ basis, inputs.new_zeros(len(inputs), 1)], 1)
    smaller = sampled(problem.neuron, read, problem.targets, read.shape[1] + outputs)
    return smaller, Start(start.log_norms, torch.cat([inside, frozen, a], 1))
