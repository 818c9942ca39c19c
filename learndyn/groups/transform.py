"""Fourier transform of functions on a finite group, by real irreps.

x̂[ρ] = Σ_g x[g] ρ(g)ᵀ, so that the encoding x_g = λ(g) x, x_g[h] = x[g⁻¹ h], has x̂_g[ρ] = x̂[ρ] ρ(g)ᵀ (arXiv:2602.03655
has the transposed convention). Functions are tensors with the elements in their last dimension; all is differentiable.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.groups.group import FiniteGroup
from learndyn.groups.representations import Irrep, irreps


def fourier(group: FiniteGroup, x: Float[Tensor, "*batch elements"]) -> list[Float[Tensor, "*batch _ _"]]:
    """The blocks x̂[ρ], in the order of `irreps`; a fast transform for products of cyclic groups.

    Raises:
        InputError: If x has not one real number for each element.
    """
    _fits(group, x)
    if group.factors is None:
        return slow_fourier(group, x)
    waves = _fast(group, x)
    blocks = []
    for irrep in irreps(group):
        wave = waves[..., _place(group, irrep)]
        if irrep.kind == "real":
            blocks.append(wave.real[..., None, None])
        else:  # Σ x cos and Σ x sin; ρᵀ turns back
            blocks.append(torch.stack([wave.real, -wave.imag, wave.imag, wave.real], -1).unflatten(-1, (2, 2)))
    return blocks


def slow_fourier(group: FiniteGroup, x: Float[Tensor, "*batch elements"]) -> list[Float[Tensor, "*batch _ _"]]:
    """The blocks by their definition, for any group."""
    return [torch.einsum("...g,gab->...ba", x, irrep.matrices.to(x)) for irrep in irreps(group)]


def inverse(group: FiniteGroup, blocks: Sequence[Float[Tensor, "*batch _ _"]]) -> Float[Tensor, "*batch elements"]:
    """x[g] = Σ_ρ d/(⟨χ, χ⟩ N) tr(ρ(g) x̂[ρ]).

    Raises:
        InputError: If there is not one square block of the right size for each irrep.
    """
    representations = irreps(group)
    sizes = [tuple(block.shape[-2:]) for block in blocks]
    expected = [(irrep.dimension,) * 2 for irrep in representations]
    if sizes != expected:
        raise InputError(f"Blocks of sizes {sizes} do not belong to {group.label}; give {expected}.")
    terms = [
        weight(group, irrep) * torch.einsum("gab,...ba->...g", irrep.matrices.to(block), block)
        for irrep, block in zip(representations, blocks)
    ]
    return torch.stack(terms).sum(0)


def power(group: FiniteGroup, x: Float[Tensor, "*batch elements"]) -> Float[Tensor, "*batch irreps"]:
    """P_ρ = ‖Π_ρ x‖² = d/(⟨χ, χ⟩ N) ‖x̂[ρ]‖_F², which sum to ‖x‖² and are the same for all translates of x."""
    _fits(group, x)
    if group.factors is not None:
        waves = _fast(group, x).abs().square() / group.order
        parts = [waves[..., _place(group, irrep)] * irrep.dimension for irrep in irreps(group)]
    else:
        blocks = slow_fourier(group, x)
        parts = [weight(group, i) * block.square().sum((-2, -1)) for i, block in zip(irreps(group), blocks)]
    return torch.stack(parts, -1)


def project(group: FiniteGroup, x: Float[Tensor, "*batch elements"], index: int) -> Float[Tensor, "*batch elements"]:
    """Π_ρ x, the part of x in the irrep of number `index`: (Π_ρ x)[h] = d/(⟨χ, χ⟩ N) Σ_k χ(h k⁻¹) x[k].

    Raises:
        InputError: If there is no such irrep.
    """
    _fits(group, x)
    representations = irreps(group)
    if not 0 <= index < len(representations):
        raise InputError(f"There is no irrep {index} of {group.label}; give 0 to {len(representations) - 1}.")
    irrep = representations[index]
    kernel = irrep.character.to(x)[group.mul[:, group.inverse]]
    return weight(group, irrep) * x @ kernel.T


def translates(group: FiniteGroup, x: Float[Tensor, "*batch elements"]) -> Float[Tensor, "*batch elements elements"]:
    """All encodings x_g[h] = x[g⁻¹ h], g first."""
    _fits(group, x)
    return x[..., group.mul[group.inverse]]


def convolve(group: FiniteGroup, *functions: Float[Tensor, "*batch elements"]) -> Float[Tensor, "*batch elements"]:
    """(x * y * …)[s] = Σ x[g] y[h] … over all g h … = s, in this order; blocks multiply in the opposite order.

    Raises:
        InputError: If no function is given, or one has not one real number for each element.
    """
    if not functions:
        raise InputError("A convolution needs functions; give at least one.")
    for x in functions:
        _fits(group, x)
    if group.factors:
        waves = _fast(group, functions[0])
        for y in functions[1:]:
            waves = waves * _fast(group, y)
        places = tuple(range(-len(group.factors), 0))
        return torch.fft.ifftn(waves.unflatten(-1, group.factors), dim=places).real.flatten(-len(group.factors))
    total = functions[0]
    for y in functions[1:]:
        total = (total[..., None, :] @ translates(group, y))[..., 0, :]  # Σ_g x[g] y[g⁻¹ s]
    return total


def weight(group: FiniteGroup, irrep: Irrep) -> float:
    """d/(⟨χ, χ⟩ N), the factor of an irrep in the inverse transform and in the power."""
    return irrep.dimension / (irrep.norm * group.order)


def _fast(group: FiniteGroup, x: Tensor) -> Tensor:
    """Σ_g x[g] e^{−2πi Σ ξ_j g_j / n_j} for all ξ, numbered like the elements."""
    factors = group.factors or (1,)
    places = tuple(range(-len(factors), 0))
    return torch.fft.fftn(x.unflatten(-1, factors), dim=places).flatten(-len(factors))


def _place(group: FiniteGroup, irrep: Irrep) -> int:
    """Number of the frequency of an irrep."""
    number = 0
    for frequency, n in zip(irrep.frequency or (), group.factors or ()):
        number = number * n + frequency
    return number


def _fits(group: FiniteGroup, x: Tensor) -> None:
    if x.ndim == 0 or x.shape[-1] != group.order or not x.is_floating_point():
        raise InputError(
            f"A function on {group.label} has {group.order} real numbers in its last dimension, not {x.dtype} of shape "
            f"{tuple(x.shape)}."
        )
    if math.prod(x.shape) == 0:
        raise InputError(f"There is no function in a tensor of shape {tuple(x.shape)}; give at least one.")
