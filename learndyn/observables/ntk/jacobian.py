"""The general way: Jacobians by autograd, and products with the kernel that need no Jacobian."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from learndyn.dynamics.tangent import twice_differentiable

Function = Callable[[Callable[..., Tensor], Tensor], Tensor]


def _outputs(model: nn.Module, function: Function, parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
    """`(m, c)`."""
    return function(lambda *a, **k: functional_call(model, parameters, a, k), inputs).flatten(1)


def jacobian(
    model: nn.Module, function: Function, names: Sequence[str], inputs: Tensor, directions: Tensor, chunk: int = 8
) -> Tensor:
    """Rows of the Jacobian with respect to the named parameters, `(n, r, P)`, sample by sample.

    Through `torch.func` where it can map the network over samples, else by one backward pass for a row.
    """
    own = dict(model.named_parameters(remove_duplicate=False))
    chosen = {name: own[name].detach() for name in names}

    def single(parameters: dict[str, Tensor], one: Tensor) -> Tensor:
        return directions @ _outputs(model, function, parameters, one[None])[0]

    parts = []
    with twice_differentiable():
        for begin in range(0, len(inputs), chunk):
            some = inputs[begin : begin + chunk]
            try:
                found = vmap(jacrev(single), (None, 0))(chosen, some)
                parts.append(torch.cat([found[name].flatten(2) for name in names], 2))
            except (RuntimeError, ValueError, NotImplementedError):
                parts.append(torch.stack([_by_rows(model, function, chosen, one, directions) for one in some]))
    return torch.cat(parts).detach()


def _by_rows(
    model: nn.Module, function: Function, chosen: dict[str, Tensor], one: Tensor, directions: Tensor
) -> Tensor:
    with torch.enable_grad():
        leaves = {name: p.clone().requires_grad_() for name, p in chosen.items()}
        outputs = directions @ _outputs(model, function, leaves, one[None])[0]
        found = []
        for k in range(len(outputs)):
            row = torch.autograd.grad(
                outputs[k], list(leaves.values()), retain_graph=True, allow_unused=True, materialize_grads=True
            )
            found.append(torch.cat([g.flatten() for g in row]))
    return torch.stack(found)


def batch_jacobian(
    model: nn.Module, function: Function, names: Sequence[str], inputs: Tensor, directions: Tensor
) -> Iterator[Tensor]:
    """Rows of the Jacobian where samples see each other, one sample `(r, P)` after the other, from one forward pass."""
    own = dict(model.named_parameters(remove_duplicate=False))
    with twice_differentiable(), torch.enable_grad():
        leaves = {name: own[name].detach().clone().requires_grad_() for name in names}
        outputs = _outputs(model, function, leaves, inputs)
        for sample in outputs @ directions.T:
            rows = []
            for value in sample:
                found = torch.autograd.grad(
                    value, list(leaves.values()), retain_graph=True, allow_unused=True, materialize_grads=True
                )
                rows.append(torch.cat([g.flatten() for g in found]))
            yield torch.stack(rows)


def transposed_product(
    model: nn.Module, function: Function, names: Sequence[str], inputs: Tensor, v: Tensor, chunk: int = 64
) -> dict[str, Tensor]:
    """Jᵀ v by parameter, for v `(n, c)`: one backward pass."""
    own = dict(model.named_parameters(remove_duplicate=False))
    total = {name: torch.zeros_like(own[name]) for name in names}
    with twice_differentiable(), torch.enable_grad():
        for begin in range(0, len(inputs), chunk):
            leaves = {name: own[name].detach().requires_grad_() for name in names}
            outputs = _outputs(model, function, leaves, inputs[begin : begin + chunk])
            if not outputs.requires_grad:
                continue
            found = torch.autograd.grad(
                outputs,
                list(leaves.values()),
                v[begin : begin + chunk].to(outputs),
                allow_unused=True,
                materialize_grads=True,
            )
            for name, gradient in zip(names, found):
                total[name] += gradient
    return total


def product(
    model: nn.Module, function: Function, names: Sequence[str], inputs: Tensor, u: dict[str, Tensor], chunk: int = 64
) -> Tensor:
    """J u `(n, c)`, by differentiating Jᵀ v in the direction of v: two backward passes."""
    own = dict(model.named_parameters(remove_duplicate=False))
    parts = []
    with twice_differentiable(), torch.enable_grad():
        for begin in range(0, len(inputs), chunk):
            leaves = {name: own[name].detach().requires_grad_() for name in names}
            outputs = _outputs(model, function, leaves, inputs[begin : begin + chunk])
            v = torch.zeros_like(outputs, requires_grad=True)
            if not outputs.requires_grad:
                parts.append(torch.zeros_like(outputs))
                continue
            back = torch.autograd.grad(
                outputs, list(leaves.values()), v, create_graph=True, allow_unused=True, materialize_grads=True
            )
            bent = [(b, u[name]) for b, name in zip(back, names) if b.requires_grad]
            parts.append(torch.autograd.grad([b for b, _ in bent], v, [w for _, w in bent])[0].detach())
    return torch.cat(parts)
