"""Staircases of fully connected linear networks f(x) = A W x, one singular mode after the other (arXiv:2506.06489).

L = ½E|y − AWx|². A neuron (column of A, row of W) has degree 2 and utility aᵀMw, M = Σyx − AWΣxx: at most half of the
largest singular value of M, σ, so that its norm grows as e^{σt}.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.laws.staircase.bounds import TIE, ties
from learndyn.laws.staircase.steps import Event, Staircase, check_vanishing

COMMUTING = 1e-8  # |[Σxx, ΣyxᵀΣyx]| over the product of norms, below which they commute
SINGULAR = 1e-12  # of the largest: variances and correlations below it are 0
SILENT = "Directions of the input without variance never learn; the pseudo-inverse leaves them out."


@dataclass(frozen=True)
class LinearModes:
    """The modes of a linear network in the order in which they are learned.

    Attributes:
        staircase: Drops in units of ln(1/‖θ(0)‖), and levels; the neurons of its events are modes.
        left: Output directions u_k, `(c, modes)`.
        right: Input directions v_k, `(d, modes)`: if Σxx commutes with ΣyxᵀΣyx the joint ones, else those of the
            learned map.
        growth: σ_k, the rate at which the neurons of a mode grow when its turn comes, `(modes,)`.
        values: Singular value with which a mode ends, `(modes,)`; if nothing commutes, those of the whole map.
        maps: The learned map on every plateau, `(modes + 1, c, d)`.
        commuting: Whether Σxx commutes with ΣyxᵀΣyx: then modes do not mix.
    """

    staircase: Staircase
    left: Float[Tensor, "c modes"]
    right: Float[Tensor, "d modes"]
    growth: Float[Tensor, " modes"]
    values: Float[Tensor, " modes"]
    maps: Float[Tensor, "plateaus c d"]
    commuting: bool


def linear_staircase(
    covariance: Float[Tensor, "d d"],
    correlation: Float[Tensor, "c d"],
    hidden: int,
    power: float | None = None,
) -> LinearModes:
    """Order, times and levels of the modes of a linear network (arXiv:2506.06489; the order by growth derived here).

    If Σxx and ΣyxᵀΣyx commute, mode k is learned at τ_k = 1/σ_k in the order of σ_k, not of what it lowers the loss
    by, μ_k = σ_k²/λ_k. Otherwise the conjecture of the paper holds: modes are eigenvectors of ΣyxΣxx⁻¹Σyxᵀ with
    eigenvalues μ₁ ≥ μ₂ ≥ …, and Δτ_k = (1 − Σ_{i<k−1} σ⁽ⁱ⁾_{k−i} Δτ_{i+1}) / σ⁽ᵏ⁻¹⁾₁ where σ⁽ⁱ⁾_j is the j-th singular
    value of (I − U_iU_iᵀ)Σyx. Levels are ½(E|y|² − Σ_learned μ).

    Args:
        covariance: Σxx = E[xxᵀ].
        correlation: Σyx = E[yxᵀ].
        hidden: Hidden units H; each mode needs one.
        power: E|y|²; without it, the outputs are taken to be a linear function of the inputs.

    Raises:
        InputError: If a shape does not fit, Σxx is not symmetric and nonnegative, no data have these moments, nothing
            is to be learned, or the order is ambiguous: the general algorithm on neurons is for that.
    """
    cov, corr = _moments(covariance, correlation)
    if hidden < 1:
        raise InputError(f"hidden={hidden} units learn nothing; give at least 1.")
    sentences = []
    variances, axes = torch.linalg.eigh(cov)
    seen = variances > SINGULAR * variances[-1]
    if not bool(seen.all()):
        sentences.append(SILENT)
        if float((corr @ axes[:, ~seen]).abs().max()) > 1e-8 * float(corr.abs().max()):
            raise InputError("Σyx has a direction in which Σxx has no variance: no data have these moments.")
    best = corr @ axes[:, seen] / variances[seen] @ axes[:, seen].T
    square = corr.T @ corr
    defect = float((cov @ square - square @ cov).norm() / (cov.norm() * square.norm()))
    commuting = defect < COMMUTING
    left, right, growth, gains = _commuting(cov, corr) if commuting else _general(corr, best)
    total = float(gains.sum())
    power = total if power is None else float(power)
    if power < total * (1 - 1e-9):
        raise InputError(f"power={power:g} is less than what a linear map explains, {total:g}: give E|y|².")
    aligned = bool((gains[:-1] >= gains[1:] * (1 - TIE)).all())
    modes = min(hidden, len(gains))
    if commuting:
        values, times = gains / growth, 1 / growth
        maps = torch.einsum("ck,k,dk->kcd", left, values, right).cumsum(0)
        if not aligned:
            sentences.append(
                f"Modes are learned in the order of their growth, {_list(growth)}, not of their gains, {_list(gains)}."
            )
        if modes < len(gains) and not aligned:
            raise InputError(
                f"order ambiguous: {hidden} hidden units are fewer than the {len(gains)} modes, and those that grow "
                "first are not those that lower the loss most; use the general algorithm on neurons."
            )
    else:
        growth, times, mixed = _conjecture(corr, left)
        maps = torch.stack([left[:, :k] @ left[:, :k].T @ best for k in range(1, len(gains) + 1)])
        values = torch.linalg.svdvals(best)[: len(gains)]
        if mixed or modes < len(gains):
            sentences.append(
                "order ambiguous: modes that grow first are not those that lower the loss most, or there are fewer "
                "hidden units than modes; check with the general algorithm on neurons."
            )
    sentences += ties(growth if commuting else times, "mode")
    levels = (power - torch.cat([torch.zeros(1, dtype=torch.float64), gains.cumsum(0)])) / 2
    levels[-1] = 0.0 if levels[-1].abs() < 1e-14 * power else levels[-1]
    events = tuple(
        Event(
            float(times[k]),
            k,
            "activation",
            float(levels[k + 1]),
            float(growth[k]) / 2,
            torch.cat([right[:, k], left[:, k]]) / math.sqrt(2),
        )
        for k in range(modes)
    )
    reason = "All modes are learned." if modes == len(gains) else "All hidden units are used."
    staircase = Staircase(times[:modes], levels[: modes + 1], events, reason, tuple(sentences))
    maps = torch.cat([torch.zeros_like(maps[:1]), maps[:modes]])
    return LinearModes(staircase, left[:, :modes], right[:, :modes], growth[:modes], values[:modes], maps, commuting)


def linear_seed(
    modes: LinearModes, inner: Float[Tensor, "hidden d"], outer: Float[Tensor, "c hidden"]
) -> Float[Tensor, " modes"]:
    """Logarithm of the part x_k of a start that grows into mode k (derived here; small starts, modes that commute).

    h_k = (Aᵀu_k + Wv_k)/2 grows as e^{σ_k t} until mode k is there; hidden directions that earlier modes took do not
    grow any more, so x_k = |w_k|² where w_k is h_k less its projection on h_1, …, h_{k−1}.

    Args:
        modes: Of `linear_staircase`.
        inner: W(0).
        outer: A(0).

    Raises:
        InputError: If the modes do not commute, shapes do not fit, there are fewer hidden units than modes, or the
            start has nothing of a mode.
    """
    if not modes.commuting:
        raise InputError("Times for a seed are known for modes that commute; these do not.")
    first, second = inner.double(), outer.double()
    if first.shape != (second.shape[1], len(modes.right)) or len(second) != len(modes.left):
        raise InputError(f"Weights {tuple(first.shape)} and {tuple(second.shape)} do not fit the modes.")
    if len(first) < len(modes.growth):
        raise InputError(f"{len(first)} hidden units are fewer than the {len(modes.growth)} modes; give more.")
    size = max(float(first.abs().max()), float(second.abs().max()))
    if not 0 < size < math.inf:
        raise InputError("The start must be finite and not 0; a network at 0 stays there.")
    check_vanishing(size, "largest first weight")
    hidden = (second / size).T @ modes.left / 2 + first / size @ modes.right / 2  # (H, modes)
    left_over = torch.linalg.qr(hidden)[1].diagonal().abs()
    if not bool((left_over > 1e-12).all()):
        k = int(left_over.argmin())
        raise InputError(f"The start has nothing of mode {k}: it will not be learned at a known time.")
    return 2 * (left_over.log() + math.log(size))


def linear_times(modes: LinearModes, seed: Float[Tensor, " modes"]) -> Float[Tensor, " modes"]:
    """Flow times at which half of each drop is done, t_k = ln((√2 − 1)(s_k/x_k − 1)) / (2σ_k) (derived here).

    The loss of a mode, (s − s_k(t))², has halved where s_k(t) = s(1 − 1/√2).

    Args:
        modes: Of `linear_staircase`.
        seed: ln x_k, of `linear_seed`.
    """
    return (_logit(modes, seed) + math.log(math.sqrt(2) - 1)) / (2 * modes.growth)


def linear_curves(
    modes: LinearModes, seed: Float[Tensor, " modes"], times: Float[Tensor, " times"]
) -> Float[Tensor, "times modes"]:
    """Singular values s_k(t) = s x e^{2σt} / (s + x(e^{2σt} − 1)), written with the decaying exponential.

    Args:
        modes: Of `linear_staircase`.
        seed: ln x_k, of `linear_seed`.
        times: Flow times.
    """
    return modes.values * torch.sigmoid(2 * torch.outer(times.double(), modes.growth) - _logit(modes, seed))


def _logit(modes: LinearModes, seed: Tensor) -> Tensor:
    """Logarithm of s/x − 1 for x that are too small for a float."""
    far = modes.values.log() - seed
    return far + (-(-far).exp()).log1p()


def _moments(covariance: Tensor, correlation: Tensor) -> tuple[Tensor, Tensor]:
    cov, corr = covariance.detach().cpu().double(), correlation.detach().cpu().double()
    if cov.ndim != 2 or corr.ndim != 2 or cov.shape != (corr.shape[1], corr.shape[1]) or not corr.numel():
        raise InputError(f"Σxx {tuple(cov.shape)} and Σyx {tuple(corr.shape)} must be (d, d) and (c, d).")
    if not bool(cov.isfinite().all()) or not bool(corr.isfinite().all()):
        raise InputError("Σxx and Σyx must be finite.")
    if not torch.allclose(cov, cov.T, rtol=0, atol=1e-10 * float(cov.abs().max())):
        raise InputError("Σxx must be symmetric; give E[xxᵀ].")
    if float(torch.linalg.eigvalsh(cov)[0]) < -1e-10 * float(cov.abs().max()):
        raise InputError("Σxx has a negative eigenvalue; give E[xxᵀ].")
    if not bool(corr.any()):
        raise InputError("Σyx is 0: nothing is to be learned.")
    return (cov + cov.T) / 2, corr


def _commuting(cov: Tensor, corr: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Joint directions, σ and μ = σ²/λ; equal σ are turned until Σxx is diagonal on them."""
    left, sigma, right = torch.linalg.svd(corr, full_matrices=False)
    rank = int((sigma > SINGULAR**0.5 * sigma[0]).sum())
    left, sigma, right = left[:, :rank], sigma[:rank], right[:rank].T
    first = 0
    for k in range(1, rank + 1):
        if k == rank or sigma[k] < sigma[first] * (1 - 1e-7):
            block = slice(first, k)
            turn = torch.linalg.eigh(right[:, block].T @ cov @ right[:, block])[1].flip(1)
            left[:, block], right[:, block] = left[:, block] @ turn, right[:, block] @ turn
            first = k
    return left, right, sigma, sigma**2 / torch.einsum("dk,de,ek->k", right, cov, right)


def _general(corr: Tensor, best: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Eigenvectors of ΣyxΣxx⁻¹Σyxᵀ, their directions in the inputs, and μ."""
    gains, left = torch.linalg.eigh(best @ corr.T / 2 + corr @ best.T / 2)
    keep = gains > SINGULAR * gains[-1]
    left, gains = left[:, keep].flip(1), gains[keep].flip(0)
    right = best.T @ left
    return left, right / right.norm(dim=0), gains, gains


def _conjecture(corr: Tensor, left: Tensor) -> tuple[Tensor, Tensor, bool]:
    """σ⁽ᵏ⁻¹⁾₁, τ_k, and whether another mode than the next in the order of gains grows fastest."""
    modes = left.shape[1]
    kept = [torch.linalg.svd(corr - left[:, :i] @ left[:, :i].T @ corr) for i in range(modes)]
    steps: list[float] = []
    mixed = False
    for k in range(1, modes + 1):
        done = sum(float(kept[i][1][k - 1 - i]) * steps[i] for i in range(k - 1))
        steps.append((1 - done) / float(kept[k - 1][1][0]))
        mixed |= int((kept[k - 1][0][:, 0] @ left).abs().argmax()) != k - 1
        if steps[-1] <= 0:
            raise InputError(
                f"order ambiguous: mode {k - 1} would be learned before mode {k - 2}; use the general algorithm on "
                "neurons."
            )
    growth = torch.stack([found[1][0] for found in kept])
    return growth, torch.tensor(steps, dtype=torch.float64).cumsum(0), mixed


def _list(values: Tensor) -> str:
    return ", ".join(f"{v:.4g}" for v in values.tolist())
