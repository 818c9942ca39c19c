"""Staircases of attention-only linear transformers that regress in context (arXiv:2506.06489).

A prompt has N pairs (x, wᵀx) and a query x_q; x ~ N(0, Σ), w ~ N(0, I). H heads of rank 1 on a residual stream give
f = Σ_i v_i (k_iᵀSw)(q_iᵀx_q), S = Σ_n x_n x_nᵀ, which depends on M = Σ_i v_i k_i q_iᵀ alone; a head has degree 3.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.staircase.bounds import lower_bounds, ties
from learndyn.laws.staircase.steps import Event, Staircase, check_vanishing


@dataclass(frozen=True)
class AttentionModes:
    """Eigenvectors of Σ in the order in which heads learn them.

    Attributes:
        staircase: Levels, and lower bounds of the times of the drops: flow times with norms, else in units of 1/‖θ(0)‖.
        eigenvalues: λ_l, decreasing, `(modes,)`.
        eigenvectors: `(D, modes)`.
        weights: m_l, with which the eigenvector ends in M, `(modes,)`.
        utilities: U*_l = N λ_l² / (3√3), `(modes,)`.
    """

    staircase: Staircase
    eigenvalues: Float[Tensor, " modes"]
    eigenvectors: Float[Tensor, "D modes"]
    weights: Float[Tensor, " modes"]
    utilities: Float[Tensor, " modes"]


def attention_staircase(
    covariance: Float[Tensor, "D D"],
    examples: int,
    heads: int,
    norm: float | Float[Tensor, " drops"] | None = None,
    previous: Float[Tensor, " drops"] | None = None,
) -> AttentionModes:
    """Heads learn the eigenvectors of Σ in the order of their eigenvalues λ (arXiv:2506.06489).

    m_l = 1/(tr Σ + (N+1)λ_l), levels ½[tr Σ − Σ_{l≤L} λ_l / (1 + (1 + tr Σ/λ_l)/N)], and U*_l = Nλ_l²/(3√3) at
    v = 1/√3, k = q = e_l/√3. Alignment and growth take as long as each other, so that times have lower bounds only.

    Args:
        covariance: Σ.
        examples: N, pairs in a prompt.
        heads: H; fewer than the eigenvalues make as many drops as heads.
        norm: Largest norm of a head at time 0, or of a dormant head when each round begins.
        previous: Times of the drops before each, for norms of rounds.

    Raises:
        InputError: If Σ is not symmetric and nonnegative or is 0, N or H is below 1, or a norm is not in (0, 0.3).
    """
    sigma = covariance.detach().cpu().double()
    if sigma.ndim != 2 or sigma.shape[0] != sigma.shape[1] or not bool(sigma.isfinite().all()):
        raise InputError(f"covariance of shape {tuple(sigma.shape)} must be a finite (D, D) matrix.")
    size = float(sigma.abs().max()) if sigma.numel() else 0.0
    if not size or not torch.allclose(sigma, sigma.T, rtol=0, atol=1e-10 * size):
        raise InputError("covariance must be symmetric and not 0; give E[xxᵀ].")
    if examples < 1 or heads < 1:
        raise InputError(f"{examples} examples and {heads} heads: give at least one of each.")
    values, vectors = (found.flip(-1) for found in torch.linalg.eigh((sigma + sigma.T) / 2))
    if float(values[-1]) < -1e-10 * size:
        raise InputError("covariance has a negative eigenvalue; give E[xxᵀ].")
    there = values > 1e-12 * values[0]
    modes = min(heads, int(there.sum()))
    trace, kept = values[there].sum(), values[:modes]
    levels = (trace - torch.cat([torch.zeros(1), (kept / (1 + (1 + trace / kept) / examples)).cumsum(0)])) / 2
    utilities = examples * kept**2 / (3 * math.sqrt(3))
    sentences = ["The times are lower bounds: a head turns as slowly as it grows."]
    sentences += ties(values[there], "mode")
    if not bool(there.all()):
        sentences.append("Directions without variance never learn.")
    if isinstance(norm, float | int):
        check_vanishing(norm, "norm")
    times = 1 / (3 * utilities) if norm is None else lower_bounds(utilities, norm, 3, previous)
    events = tuple(
        Event(
            float(times[k]),
            k,
            "activation",
            float(levels[k + 1]),
            float(utilities[k]),
            torch.cat([torch.ones(1, dtype=torch.float64), vectors[:, k], vectors[:, k]]) / math.sqrt(3),
        )
        for k in range(modes)
    )
    reason = "All heads are used." if modes < int(there.sum()) else "All directions with variance are learned."
    staircase = Staircase(times, levels, events, reason, tuple(sentences))
    return AttentionModes(staircase, kept, vectors[:, :modes], 1 / (trace + (examples + 1) * kept), utilities)
