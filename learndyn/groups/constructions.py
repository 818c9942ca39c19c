"""Weights that compose exactly: two layers of powers, a recurrent network, a tree (existence: arXiv:2602.03655).

That such solutions exist is the paper's; the weights are derived here, from two identities. A product of k numbers is
2^(k−1) powers, Π z_j = Σ_ε Π ε_j (z_1 + Σ_{j≥2} ε_j z_j)^k / (2^(k−1) k!), ε_j = ±1; the real part of a product of q
complex numbers is q real products, Re Π z_j = (2^(q−1)/q) Σ_{m<q} (−1)^m Π_j Re(e^{iπm/q} z_j). Matrix entries of an
irrep are linear in the encoding: ρ(g)† = x̂⁻¹ x̂_g for the complex irrep and x̂ = Σ x[g] ρ(g)†.

Dictionaries are the state of `learndyn.models.two_layer_power`, `quadratic_rnn` and `tree_net`.
"""

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.groups.group import FiniteGroup
from learndyn.groups.representations import complex_matrices, irreps
from learndyn.groups.templates import FLAT
from learndyn.groups.transform import power

MOST = 100_000  # neurons
ABSENT = 1e-24  # share of the power that is rounding in float64


def two_layer_solution(
    group: FiniteGroup, x: Float[Tensor, " elements"], length: int = 2
) -> tuple[Float[Tensor, "neurons length elements"], Float[Tensor, "neurons elements"]]:
    """Weights (u, w) with Σ_i w_i (Σ_j ⟨u_ij, x_{g_j}⟩)^k = x_{g₁…g_k} for all sequences.

    Irreps without power in x are left out; widths are those of `neurons_needed`.

    Args:
        group: The group.
        x: The template, in float64.
        length: k.

    Raises:
        InputError: If the length is below 1, x is not float64, a block of x is neither zero nor invertible, or more
            than 100,000 neurons were needed.
    """
    if x.dtype != torch.float64:
        raise InputError(
            f"An exact solution is for a template in float64, not {x.dtype}; convert it and remove its mean."
        )
    if length < 1:
        raise InputError(f"length={length} is no length of a sequence; give at least 1.")
    share = power(group, x)
    incoming, outgoing = [], []
    total = 0
    for irrep, part in zip(irreps(group), share):
        if float(part) <= ABSENT * float(share.sum()):
            continue
        n, turns = irrep.complex_dimension, 1 if irrep.kind == "real" else length + 1
        total += 2 ** (length - 1) * turns * n ** (length + 1)
        if total > MOST:
            raise InputError(f"The exact solution needs more than {MOST} neurons; give a shorter sequence.")
        rho = complex_matrices(irrep)
        block = torch.einsum("g,gab->ba", x.to(rho.dtype), rho.conj())
        singular = torch.linalg.svdvals(block)
        if float(singular[-1]) < FLAT * float(singular[0]):
            raise InputError(
                f"The block of {irrep.name} has singular values from {float(singular[-1]):.1e} to "
                f"{float(singular[0]):.1e}, so no network reads it; give a template with blocks that can be inverted."
            )
        forms = torch.linalg.solve(block, rho.mH).mT  # of conj ρ(g)[a, b], (N, a, b)
        written = (2 if irrep.kind == "complex" else 1) * n / group.order * (rho @ block)
        for path in itertools.product(range(n), repeat=length + 1):
            factors = torch.stack([forms[:, a, b] for a, b in itertools.pairwise(path)])
            for turn in range(turns):
                phase = complex(math.cos(math.pi * turn / turns), math.sin(math.pi * turn / turns))
                front = (2 ** (turns - 1) / turns) * (-1) ** turn
                incoming.append((phase * factors).real)
                outgoing.append(front * (phase * written[:, path[0], path[-1]]).real)
    return _polarised(torch.stack(incoming), torch.stack(outgoing))


def two_layer_state(group: FiniteGroup, x: Float[Tensor, " elements"], length: int = 2) -> dict[str, Tensor]:
    """The exact solution as the state of `two_layer_power` with as many neurons."""
    u, w = two_layer_solution(group, x, length)
    return {"first.weight": u.flatten(1), "last.weight": w.T.contiguous()}


def recurrent_state(group: FiniteGroup, x: Float[Tensor, " elements"]) -> dict[str, Tensor]:
    """The exact solution as the state of `quadratic_rnn`, for sequences of any length from 2 on.

    The hidden state reads as the encoding of the product so far; reading and comparing are one matrix, U W.
    """
    u, w = two_layer_solution(group, x, 2)
    return {
        "first.weight": u[:, 0].contiguous(),
        "drive.weight": u[:, 1].contiguous(),
        "mix.weight": u[:, 0] @ w.T,
        "last.weight": w.T.contiguous(),
    }


def tree_state(group: FiniteGroup, x: Float[Tensor, " elements"], length: int) -> dict[str, Tensor]:
    """The exact solution as the state of `tree_net` with weights that nodes of a layer share; log₂ k layers.

    Raises:
        InputError: If the length is not 2, 4, 8 and so on.
    """
    if length < 2 or length & (length - 1):
        raise InputError(f"length={length} makes no tree of pairs; give 2, 4, 8, ... and pad with the identity.")
    u, w = two_layer_solution(group, x, 2)
    state = {"last.weight": w.T.contiguous()}
    for layer in range(length.bit_length() - 1):
        for side, weights in (("left", u[:, 0]), ("right", u[:, 1])):
            state[f"{side}.{layer}"] = (weights if layer == 0 else weights @ w.T)[None].contiguous()
    return state


def _polarised(
    factors: Float[Tensor, "products length elements"], written: Float[Tensor, "products elements"]
) -> tuple[Float[Tensor, "neurons length elements"], Float[Tensor, "neurons elements"]]:
    """Each product of linear forms as 2^(k−1) powers of their sums."""
    length = factors.shape[1]
    signs = torch.tensor([(1, *rest) for rest in itertools.product((1, -1), repeat=length - 1)], dtype=factors.dtype)
    u = signs[None, :, :, None] * factors[:, None]  # (products, signs, length, elements)
    w = signs.prod(1)[None, :, None] * written[:, None] / (2 ** (length - 1) * math.factorial(length))
    return u.flatten(0, 1), w.flatten(0, 1)
