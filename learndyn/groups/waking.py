"""When the irreps are learnt from given first weights: neurons that turn and grow by themselves (derived here).

The law of arXiv:2602.03655 knows the largest norm only, and a neuron that points the right way already. Until an irrep
is learnt, nothing but the neurons' own directions decides when; they are followed, all irreps at once, by
θ_i' = ‖θ_i‖^(1−k) ∇U(θ_i) with the irreps that are learnt taken out of the target.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from scipy.integrate import RK45
from torch import Tensor

from learndyn.errors import InputError
from learndyn.groups.basins import utility_slope
from learndyn.groups.group import FiniteGroup
from learndyn.groups.loss import correlation
from learndyn.groups.prediction import learning_order, utilities
from learndyn.groups.representations import irreps
from learndyn.groups.transform import power, project

RTOL, ATOL = 1e-5, 1e-8  # of directions and ln ‖θ‖
VANISHING = 0.01  # part of an irrep that first outputs may hold
AWAKE = 0.1  # of the largest share in what was learnt, above which a neuron is held by it
LONG = 6.0  # times the law's time for the slowest irrep, after which none is expected
HALF = math.log(1 + 2**0.5)  # from where growth alone would reach the whole to half the power of what saturates


def arrivals(
    group: FiniteGroup,
    x: Float[Tensor, " elements"],
    u: Float[Tensor, "neurons length _"],
    w: Float[Tensor, "neurons _"],
) -> Float[Tensor, " irreps"]:
    """Flow times under θ_i' = −‖θ_i‖^(1−k) ∇L at which half of the power of every irrep is learnt.

    An irrep ρ arrives when Σ_i U_ρ(θ_i), which grows as e^(λt), is P_ρ, and ln(1 + √2)/λ later half of the power is
    there, since what is learnt slows the rest down as in a logistic curve. Neurons that hold it are left out from then
    on. Right as far as an irrep has the neurons that its exact solution needs; where it has less, what it leaves behind
    is not known and later times are too early.

    >>> from learndyn.groups import dihedral, powers
    >>> group, draw = dihedral(3), torch.Generator().manual_seed(0)
    >>> theta = 1e-4 * torch.randn(60, 3, 6, dtype=torch.float64, generator=draw)
    >>> when = arrivals(group, powers(group, [0, 10, 40]), theta[:, :2], theta[:, 2])
    >>> [round(time, 2) for time in when.tolist()]
    [nan, 0.23, 0.32]

    Args:
        group: The group.
        x: The template.
        u: First incoming weights.
        w: First outgoing weights.

    Returns:
        A time for every irrep, nan where the template has none of it or it is not learnt within six times its law's.

    Raises:
        InputError: If the weights do not fit the group, a neuron is zero or not finite, or the start is not small.
    """
    length, n = u.shape[1], group.order
    u, w = u.detach().to(x), w.detach().to(x)
    correlation(group, x, u, w)  # they fit
    theta = torch.cat([u.flatten(1), w], 1)
    norms = torch.linalg.vector_norm(theta, dim=1)
    if not bool((torch.isfinite(norms) & (norms > 0)).all()):
        raise InputError("A neuron without a direction learns nothing; give finite weights that are not all zero.")
    phi, ell = theta / norms[:, None], norms.log()
    left, parts, score = learning_order(group, x, length), power(group, x), utilities(group, x, length)
    onto = torch.stack([project(group, torch.eye(n, dtype=x.dtype), i) for i in range(len(irreps(group)))])
    found, now, decades = torch.full_like(parts, math.nan), 0.0, max(1.0, -float(ell.max()))
    while left and len(phi):
        shares = _Shares(group, x, length, onto[left], parts[left])
        if not found.isfinite().any() and float(shares.of(phi, ell).sum(0).max()) > VANISHING:
            raise InputError(
                "The first weights hold more than a hundredth of an irrep already: no vanishing start; scale them down."
            )
        end = LONG * decades / ((length + 1) * float(score[left].min()))
        reached = _followed(shares, phi, ell, end, length)
        if reached is None:
            break
        now += reached.time
        found[left[reached.which]] = now + HALF / reached.rate
        own = shares.of(reached.phi, reached.ell)[:, reached.which]
        left.pop(reached.which)
        still = own <= AWAKE * own.max()
        phi, ell = reached.phi[still], reached.ell[still]
    return found


class _Shares:
    """Part of every irrep that is left which each neuron would learn, Σ over neurons of ⟨f_i, x⟩_ρ / P_ρ."""

    def __init__(self, group: FiniteGroup, x: Tensor, length: int, onto: Tensor, parts: Tensor) -> None:
        self.group, self.x, self.length, self.onto, self.parts = group, x, length, onto, parts
        self.keep = onto.sum(0)

    def slope(self, phi: Tensor) -> tuple[Tensor, Tensor]:
        """Utility against what is left, and its gradient."""
        cut = self.length * self.group.order
        kept = torch.cat([phi[:, :cut], phi[:, cut:] @ self.keep], 1)
        value, slope = utility_slope(self.group, self.x, kept, self.length)
        return value, torch.cat([slope[:, :cut], slope[:, cut:] @ self.keep], 1)

    def of(self, phi: Tensor, ell: Tensor) -> Float[Tensor, "neurons left"]:
        """Linear in w: the gradient in w, projected on each irrep, times w."""
        cut = self.length * self.group.order
        _, slope = self.slope(phi)
        by = torch.einsum("hn,rnm,hm->hr", slope[:, cut:], self.onto, phi[:, cut:])
        return by * ((self.length + 1) * ell).exp()[:, None] / self.parts


class _Reached(NamedTuple):
    """The first irrep whose share is 1: when, which of those left, how fast it grows, and where the neurons are."""

    time: float
    which: int
    rate: float
    phi: Tensor
    ell: Tensor


def _followed(shares: _Shares, phi: Tensor, ell: Tensor, end: float, length: int) -> _Reached | None:
    count, size = phi.shape

    def split(y: np.ndarray) -> tuple[Tensor, Tensor]:
        state = torch.from_numpy(np.array(y))
        raw = state[: count * size].view(count, size)
        return raw / torch.linalg.vector_norm(raw, dim=1, keepdim=True), state[count * size :]

    def field(_: float, y: np.ndarray) -> np.ndarray:
        unit = split(y)[0]
        value, slope = shares.slope(unit)
        tangent = slope - (slope * unit).sum(1, keepdim=True) * unit
        return torch.cat([tangent.flatten(), (length + 1) * value]).numpy()

    solver = RK45(field, 0.0, torch.cat([phi.flatten(), ell]).numpy(), end, rtol=RTOL, atol=ATOL)
    before = shares.of(phi, ell).sum(0)
    while solver.status == "running":
        solver.step()
        after = shares.of(*split(solver.y)).sum(0)
        if float(after.max()) >= 1 and solver.t_old is not None:
            step = solver.t - solver.t_old
            rates = (after.clamp_min(1e-300).log() - before.clamp_min(1e-300).log()) / step
            waits = torch.where(after >= 1, -before.clamp_min(1e-300).log() / rates, torch.full_like(after, math.inf))
            which = int(waits.argmin())
            time = min(float(solver.t_old) + float(waits[which]), float(solver.t))
            return _Reached(time, which, float(rates[which]), *split(solver.dense_output()(time)))
        before = after
    return None
