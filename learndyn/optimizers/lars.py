"""SGD with a learning rate for every parameter tensor that follows its norm: the core of LARS (arXiv:1708.03888)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class LARS(Optimizer):
    """θ ← θ − lr |θ|/|g| g, tensor by tensor (Y. You, I. Gitman, B. Ginsburg, arXiv:1708.03888, without momentum).

    Args:
        params: Parameters or groups.
        lr: Length of a step over that of the tensor. A tensor that is zero takes g as it is.
    """

    def __init__(self, params: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float = 0.01) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; the closure, if any, is called first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and bool((length := p.grad.norm()) > 0):
                    size = p.norm()
                    p -= group["lr"] * torch.where(size > 0, size / length, 1.0) * p.grad
        return loss
