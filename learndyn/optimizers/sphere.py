"""RMSProp on the unit sphere, one second moment a row: what SGD in front of a normalisation amounts to."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from learndyn.errors import InputError


class SphereRMSProp(Optimizer):
    """Rows of unit length by RMSProp on the sphere, all other parameters by SGD with coupled decay.

    With |ĝ|² the squared gradient of a row (arXiv:2105.02716; this order, step first, is derived here),

        q̂ ← normalise(q̂ − lr ĝ/√v),    v ← ρ v + (1 − ρ)|ĝ|².

    Args:
        groups: Parameter groups. Those with `second_moment`, a list with v `(rows,)` at the start for each parameter,
            are on the sphere, and have `rho` and `lr`; their rows are normalised at once. The others have `lr` and
            `weight_decay`.

    Raises:
        InputError: If a second moment does not fit its parameter or is not positive, or a row has no direction.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        groups = [dict(group) for group in groups]
        moments = [group.pop("second_moment", None) for group in groups]
        for group, moment in zip(groups, moments):
            group["sphere"] = moment is not None
        super().__init__(groups, {"lr": 0.0, "weight_decay": 0.0, "rho": 0.0})
        for group, moment in zip(self.param_groups, moments):
            for p, v in zip(group["params"], moment or (), strict=group["sphere"]):
                self._begin(p, v)

    @torch.no_grad()
    def _begin(self, p: Tensor, v: Tensor) -> None:
        rows = p.view(len(p), -1)
        if v.shape != rows.shape[:1] or not bool((v > 0).all()):
            raise InputError(
                f"A second moment of shape {tuple(v.shape)} must be positive, one for each row of {len(p)}."
            )
        norms = rows.norm(dim=1, keepdim=True)
        if not bool((norms > 0).all()):
            raise InputError("A row of zeros has no direction; start from weights that are not zero.")
        rows /= norms
        self.state[p]["second_moment"] = v.detach().to(p, copy=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; the closure, if any, is called first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not group["sphere"]:
                    p -= group["lr"] * (p.grad + group["weight_decay"] * p)
                    continue
                rows, slopes, v = p.view(len(p), -1), p.grad.reshape(len(p), -1), self.state[p]["second_moment"]
                rows -= group["lr"] * slopes / v.sqrt()[:, None]
                rows /= rows.norm(dim=1, keepdim=True)
                v.mul_(group["rho"]).add_(slopes.square().sum(1), alpha=1 - group["rho"])
        return loss
