"""How much a perturbation made at t0 has grown at T, predicted without making one (a law for arXiv:2505.13900, Fig. 3).

In the limit ε → 0 the growth is the tangent map's: E‖δ_T‖² / ‖ε‖² = ‖M_θθ(t0→T)‖²_F / P over isotropic directions, and
with Gaussian cotangents u of unit variance ‖M‖²_F = E‖Mᵀu‖². Kinks of ReLU and max-pooling make real growth larger, the
finite size of the network makes it end: twins cannot be further apart than networks trained independently.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError


def log_growth(norms: Float[Tensor, "probes t0"], size: int) -> Float[Tensor, " t0"]:
    """G(t0) = ½ ln(mean over probes of ‖a_t0‖² / P), in nats: the root-mean-square growth over directions.

    Args:
        norms: Squared cotangent norms ‖a_t0‖² of the adjoint sweep from T back to t0, probes of unit variance a
            coordinate.
        size: Number of trainable parameters P.

    Raises:
        InputError: If a norm is negative or nan, or `size` is not positive.
    """
    if size < 1 or bool((~(norms >= 0)).any()):
        raise InputError("log_growth needs squared norms that are not negative, and at least one parameter.")
    return 0.5 * (norms.mean(0) / size).log()


def log_growth_error(norms: Float[Tensor, "probes t0"]) -> Float[Tensor, " t0"]:
    """Standard error of `log_growth` from the scatter of the probes, by the delete-one jackknife; nan with one
    probe.
    """
    count = norms.shape[0]
    if count < 2:
        return torch.full(norms.shape[1:], math.nan, dtype=norms.dtype)
    without = 0.5 * ((norms.sum(0) - norms) / (count - 1)).log()
    return ((count - 1) / count * (without - without.mean(0)).square().sum(0)).sqrt()


def transition_time(
    t0: Float[np.ndarray, " t0"], growth: Float[np.ndarray, " t0"], epsilon: float, threshold: float
) -> float:
    """t*(ε): the start from which on a perturbation of norm ε stays below `threshold` at T: G(t0) = ln(threshold / ε).

    With threshold = 2 ε this is the start after which nothing more than doubles, whatever the (small) perturbation.

    Args:
        t0: Starts, increasing, in steps.
        growth: G(t0).
        epsilon: Norm of the perturbation.
        threshold: Distance δ_c that counts as apart.

    Returns:
        The crossing after which G stays below, linear between the starts; the first start if it is below from the
        beginning on; inf if it is still above at the last start.

    Raises:
        InputError: If the starts do not increase, or ε or the threshold is not positive.
    """
    if len(t0) < 2 or not (np.diff(t0) > 0).all():
        raise InputError("transition_time needs at least two starts in increasing order.")
    if not (epsilon > 0 and threshold > 0):
        raise InputError(f"epsilon={epsilon:g} and threshold={threshold:g} must be positive.")
    above = np.flatnonzero(growth > math.log(threshold / epsilon))
    if len(above) == 0:
        return float(t0[0])
    last = int(above[-1])
    if last == len(t0) - 1:
        return math.inf
    share = (growth[last] - math.log(threshold / epsilon)) / (growth[last] - growth[last + 1])
    return float(t0[last] + share * (t0[last + 1] - t0[last]))
