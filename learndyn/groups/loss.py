"""Exact loss of a two-layer network of powers over all N^k sequences, without making them (derived here).

Neuron i answers w_i (Σ_j ⟨u_ij, x_{g_j}⟩)^k, and the loss is L = ½ E‖x_{g₁…g_k} − f‖², a mean over all sequences and a
sum over outputs (arXiv:2602.03655). The k encodings are independent, so moments of one element at a time make up both
terms: joint exponential generating functions for E f_i f_l, a convolution on the group for E⟨f_i, x_{g₁…g_k}⟩.
Cost O(H² N k² + H N² k). All functions are differentiable.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.groups.group import FiniteGroup
from learndyn.groups.transform import convolve, translates

Incoming = Float[Tensor, "neurons length _"]
Outgoing = Float[Tensor, "neurons _"]


def population_loss(group: FiniteGroup, x: Float[Tensor, " elements"], u: Incoming, w: Outgoing) -> Float[Tensor, ""]:
    """L(u, w) of all sequences of u's length. `mean_squared_error` of the outputs is 2L/N.

    Raises:
        InputError: If the weights do not fit the group.
    """
    correlations = correlation(group, x, u, w)
    squares = interaction(group, x, (u, w), (u, w)).sum()
    return 0.5 * x.square().sum() - correlations.sum() + 0.5 * squares


def interaction(
    group: FiniteGroup,
    x: Float[Tensor, " elements"],
    first: tuple[Float[Tensor, "neurons length n"], Float[Tensor, "neurons n"]],
    second: tuple[Float[Tensor, "others length n"], Float[Tensor, "others n"]],
) -> Float[Tensor, "neurons others"]:
    """E⟨f_i, f_l⟩ of every two neurons, one of each set, which are given as (u, w).

    Raises:
        InputError: If the weights do not fit the group.
    """
    for u, w in (first, second):
        _fits(group, u, w)
    answers, others = _answers(group, x, first[0]), _answers(group, x, second[0])
    return first[1] @ second[1].T * _pairs(answers, others)


def correlation(
    group: FiniteGroup, x: Float[Tensor, " elements"], u: Incoming, w: Outgoing
) -> Float[Tensor, " neurons"]:
    """E⟨f_i, x_{g₁…g_k}⟩ of every neuron: its utility while no other has grown.

    A product of pre-activations in which one position is missing tells nothing of the product of the elements, so that
    only k! Π_j ⟨u_ij, x_{g_j}⟩ correlates with more than the mean of the target.

    Raises:
        InputError: If the weights do not fit the group.
    """
    _fits(group, u, w)
    k = u.shape[1]
    a = _answers(group, x, u)
    b = w @ translates(group, x).T
    ordered = convolve(group, *a.unbind(1)) / group.order**k  # P(product = s) times the mean of Π a_j
    crossed = (ordered * b).sum(-1)
    total = _powers_of_sums(a)
    product = a.mean(-1).prod(1)
    return math.factorial(k) * crossed + b.mean(-1) * (total - math.factorial(k) * product)


def outputs(
    x_sequences: Float[Tensor, "batch length elements"], u: Incoming, w: Outgoing
) -> Float[Tensor, "batch elements"]:
    """F = Σ_i w_i (Σ_j ⟨u_ij, x_{g_j}⟩)^k of given sequences."""
    return torch.einsum("bjn,ijn->bi", x_sequences, u) ** u.shape[1] @ w


def _answers(
    group: FiniteGroup, x: Float[Tensor, " elements"], u: Incoming
) -> Float[Tensor, "neurons length elements"]:
    """a_ij(g) = ⟨u_ij, x_g⟩."""
    return u @ translates(group, x).T


def _powers_of_sums(a: Float[Tensor, "neurons length elements"]) -> Float[Tensor, " neurons"]:
    """E(Σ_j a_ij)^k by E Π_j exp(s a_ij) to order k in s."""
    k = a.shape[1]
    series = [torch.ones_like(a[:, 0, 0]), *(torch.zeros_like(a[:, 0, 0]) for _ in range(k))]
    for j in range(k):
        moments = [a[:, j].pow(p).mean(-1) / math.factorial(p) for p in range(k + 1)]
        series = [torch.stack([series[q] * moments[p - q] for q in range(p + 1)]).sum(0) for p in range(k + 1)]
    return math.factorial(k) * series[k]


def _pairs(
    a: Float[Tensor, "neurons length elements"], b: Float[Tensor, "others length elements"]
) -> Float[Tensor, "neurons others"]:
    """E(Σ_j a_ij)^k (Σ_j b_lj)^k by the same in two variables; matrices of all pairs as coefficients."""
    k, n = a.shape[1], a.shape[2]

    def moments(j: int) -> list[list[Tensor]]:
        one, two = ([t[:, j].pow(p) / math.factorial(p) for p in range(k + 1)] for t in (a, b))
        return [[one[p] @ two[q].T / n for q in range(k + 1)] for p in range(k + 1)]

    series = moments(0)
    for j in range(1, k):
        new = moments(j)
        wanted = [(k, k)] if j == k - 1 else [(p, q) for p in range(k + 1) for q in range(k + 1)]
        made = {
            (p, q): torch.stack([series[r][s] * new[p - r][q - s] for r in range(p + 1) for s in range(q + 1)]).sum(0)
            for p, q in wanted
        }
        if j == k - 1:
            return math.factorial(k) ** 2 * made[k, k]
        series = [[made[p, q] for q in range(k + 1)] for p in range(k + 1)]
    return math.factorial(k) ** 2 * series[k][k]


def _fits(group: FiniteGroup, u: Tensor, w: Tensor) -> None:
    if u.shape[-1] != group.order or w.shape[-1] != group.order or u.shape[0] != w.shape[0] or u.shape[1] < 1:
        raise InputError(
            f"Weights of shapes {tuple(u.shape)} and {tuple(w.shape)} do not fit {group.label}; give (neurons, length, "
            f"{group.order}) and (neurons, {group.order})."
        )
