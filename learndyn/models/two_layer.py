"""A two-layer ReLU network whose layers start out of balance by as much as is wanted (arXiv:2406.06158, section 5).

    f(x) = Σ_k a_k max(0, w_k·x),    |w_k| = τ/α,    |a_k| = τα,    δ_k = |a_k|² − |w_k|² = τ²(α² − 1/α²)

δ > 0 ("upstream") makes the first layer learn faster, δ < 0 ("downstream") the last; the function at the start depends
on τ alone. The paper's released code calls α what is 1/α here and in the paper.
"""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from learndyn.errors import InputError
from learndyn.models.blocks import check_at_least


def alpha_from_delta(delta: float, tau: float) -> float:
    """The α that goes with δ: α² = (x + √(x² + 4))/2 with x = δ/τ².

    >>> round(alpha_from_delta(1.5, 1.0) ** 2, 12)
    2.0
    """
    x = delta / tau**2
    root = math.hypot(x, 2)
    return math.sqrt((x + root) / 2 if x > 0 else 2 / (root - x))  # neither cancels


def delta_from_alpha(alpha: float, tau: float) -> float:
    """δ = τ²(α² − α⁻²), the same for every hidden unit."""
    return tau**2 * (alpha**2 - alpha**-2)


class FromHalves(nn.Linear):
    """A linear map that sums its first and its second half of inputs apart, so that opposite twins cancel exactly."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        m = self.in_features // 2
        return F.linear(input[..., :m], self.weight[:, :m]) + F.linear(input[..., m:], self.weight[:, m:])


class ToHalves(nn.Linear):
    """A linear map that makes its halves of outputs apart: in one product, twins may be rounded in different ways."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: D102
        m = self.out_features // 2
        return torch.cat([F.linear(input, self.weight[:m]), F.linear(input, self.weight[m:])], -1)


def two_layer(
    input_shape: tuple[int, ...],
    classes: int,
    width: int = 50,
    tau: float = 1.0,
    alpha: float | None = None,
    delta: float | None = None,
    symmetrise: bool = True,
) -> nn.Sequential:
    """Flatten, linear, ReLU, linear, without biases; w_k uniform on the sphere of radius τ/α.

    The readout of a unit has random signs and the norm τα: ±τα with one output, ±τα/√c with c of them, so that δ is
    that of every unit. Symmetrised, the second half of the units repeats the first with the opposite readout, and
    f(x) = 0 for all x, exactly.

    >>> model = two_layer((100,), 1, tau=0.1, delta=1.0)
    >>> model(torch.ones(3, 100)).flatten().tolist()
    [0.0, 0.0, 0.0]

    Args:
        input_shape: Shape of one input; it is flattened.
        classes: Outputs.
        width: Hidden units, an even number if symmetrised.
        tau: Overall scale τ: the product of the norms of the two layers of a unit is τ².
        alpha: Relative scale α; 1, balanced, when neither it nor `delta` is given.
        delta: δ in its place, of either sign.
        symmetrise: Start from the function 0.

    Raises:
        InputError: If an option is out of its range, or both `alpha` and `delta` are given.
    """
    check_at_least(1, classes=classes, width=width, input_shape=min(input_shape, default=0))
    if not 0 < tau < math.inf:
        raise InputError(f"tau={tau:g} is no scale; give a finite number above 0.")
    if alpha is not None and delta is not None:
        raise InputError(f"alpha={alpha:g} and delta={delta:g} say the same twice; give one of them.")
    if delta is not None:
        if not math.isfinite(delta):
            raise InputError(f"delta={delta:g} must be finite.")
        alpha = alpha_from_delta(delta, tau)
    alpha = 1.0 if alpha is None else alpha
    if not 0 < alpha < math.inf:
        raise InputError(f"alpha={alpha:g} is no ratio of scales; give a finite number above 0.")
    if symmetrise and width % 2:
        raise InputError(f"width={width} cannot be split into two halves; give an even width or symmetrise=False.")
    drawn = width // 2 if symmetrise else width
    w = torch.randn(drawn, math.prod(input_shape))
    w *= tau / alpha / w.norm(dim=1, keepdim=True)
    a = (2.0 * torch.randint(0, 2, (classes, drawn)) - 1) * (tau * alpha / classes**0.5)
    if symmetrise:
        w, a = torch.cat([w, w]), torch.cat([a, -a], 1)
    first = (ToHalves if symmetrise else nn.Linear)(w.shape[1], width, bias=False)
    last = (FromHalves if symmetrise else nn.Linear)(width, classes, bias=False)
    with torch.no_grad():
        first.weight.copy_(w)
        last.weight.copy_(a)
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), first=first, relu=nn.ReLU(), last=last))
