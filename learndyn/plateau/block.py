"""A two-layer block inside any network as a sum of neurons against a frozen residual (derived here; arXiv:2506.06489).

The block is nn.Linear, an activation, nn.Linear: Σ_i a_i σ(w_i·x + b_i) plus the last bias. With g the gradient of the
user's own loss by the block's output, one row for each of N samples or positions, r = −N g makes U_i = E⟨f_i, r⟩ =
−Σ_n ⟨f_i, g_n⟩, whose gradient is −∂loss/∂θ_i for θ_i = (w_i, b_i, a_i). So flow times are those of the user's loss,
whatever it is, with its own factors of ½ and its own means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from learndyn.errors import InputError, unknown
from learndyn.neurons import Neuron
from learndyn.noise import isolated, seed_forward
from learndyn.plateau.activation import kind, probes, recognised, softened

Loss = Callable[[nn.Module], Tensor]
Activation = Callable[[Tensor], Tensor]

AGREE = 0.02  # of a gradient: as far as float32 and kinks may part
ROWS = 20_000  # samples and positions that utilities are taken over


@dataclass(frozen=True, eq=False)
class Block:
    """A block at a checkpoint; a `learndyn.neurons.Problem` whose residual is frozen.

    Attributes:
        first: Name of the layer that leads in.
        second: Name of the layer that leads out.
        neuron: The kind of its units.
        theta: (w_i, b_i, a_i) of all units, float64.
        biased: Whether the first layer has a bias; it is the last number of w.
        inputs: What the block reads, a row for each sample and position, with a 1 at the end for the bias.
        frozen: r, `(rows, outputs)`.
        speed: ‖∇loss‖² over all trainable parameters of the network.
        value: The loss.
        forward: The loss with another sum of units in the block's place, `(rows, outputs)` added to what it gives now.
    """

    first: str
    second: str
    neuron: Neuron
    theta: Float[Tensor, "units weights"]
    biased: bool
    inputs: Float[Tensor, "rows inputs"]
    frozen: Float[Tensor, "rows outputs"]
    speed: float
    value: float
    forward: Callable[[Tensor], Tensor]

    @property
    def degree(self) -> float:
        """κ of the units."""
        return self.neuron.degree

    @property
    def weights(self) -> int:
        """Numbers of one unit."""
        return self.theta.shape[1]

    @property
    def smooth(self) -> bool:
        """Kinks are rounded off."""
        return True

    @property
    def placed(self) -> bool:
        """Any unit can do anything."""
        return False

    def loss(self, theta: Float[Tensor, "neurons weights"]) -> Float[Tensor, ""]:
        """The user's loss with these units in the place of the block's."""
        answer = self.neuron.answer(theta, self.inputs) if len(theta) else torch.zeros_like(self.frozen)
        return self.forward(answer - self.neuron.answer(self.theta, self.inputs))

    def residual(self, theta: Float[Tensor, "neurons weights"]) -> Float[Tensor, "rows outputs"]:
        """The one that was measured, whatever the units."""
        return self.frozen

    def utility(
        self, theta: Float[Tensor, "neurons weights"], residual: Float[Tensor, "rows outputs"]
    ) -> Float[Tensor, " neurons"]:
        """E⟨f_i, r⟩ of the leading part, its kink rounded off."""
        rows = slice(None, None, -(-len(self.inputs) // ROWS))  # every second, third, ... where there are many
        part = softened(self.neuron, residual.shape[1])
        return part.correlation(theta, self.inputs[rows], residual[rows])


def blocks(model: nn.Module, *inputs: Any) -> list[tuple[str, str]]:
    """Pairs of linear layers with one activation between them, number by number, that is silent at 0.

    >>> blocks(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(4, 3))
    [('0', '2')]

    Args:
        model: Any network; it is left as it was.
        inputs: Its arguments.
    """
    return candidates(model, lambda m: m(*inputs))


def candidates(model: nn.Module, run: Callable[[nn.Module], Any]) -> list[tuple[str, str]]:
    """As `blocks`, for whatever runs the network once."""
    names: dict[nn.Module, str] = {
        module: name for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    called: list[nn.Module] = []
    with untouched(model), torch.no_grad():
        handles = [m.register_forward_hook(lambda m, *_: called.append(m)) for m in names]
        try:
            run(model)
        finally:
            _drop(handles)
    once = [m for m in called if isinstance(m, nn.Linear) and called.count(m) == 1]
    found = []
    for here, following in zip(once, once[1:]):
        if here.out_features == following.in_features:
            try:
                _activation(model, run, here, following, "", None)
            except InputError:
                continue
            found.append((names[here], names[following]))
    return found


def captured(model: nn.Module, loss: Loss, first: str, second: str, activation: Activation | None) -> Block:
    """A block as a problem, by one forward and backward pass of the loss and a few more to know its activation.

    Raises:
        InputError: If there are no such layers, they are used more than once or elsewhere, what stands between them is
            no activation with value 0 at 0, or nothing is finite or no gradient arrives.
    """
    into, out = _linear(model, first), _linear(model, second)
    place = f"{first} -> {second}"
    if into.out_features != out.in_features or into is out:
        raise InputError(
            f"{first} gives {into.out_features} numbers and {second} takes {out.in_features}; name layers with only "
            "an activation between them."
        )
    for name, layer in ((first, into), (second, out)):
        for part, parameter in layer.named_parameters():
            if not parameter.requires_grad:
                raise InputError(f"{name}.{part} is not trained; units are foretold where all their weights move.")
    x, o, value, gradients, speed = _pass(model, loss, into, out, place)
    sigma = _activation(model, loss, into, out, place, activation)
    rows = o.reshape(-1, out.out_features)
    inputs = x.reshape(-1, into.in_features)
    w = into.weight.detach().cpu().double()
    if into.bias is not None:
        inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], 1)
        w = torch.cat([w, into.bias.detach().cpu().double()[:, None]], 1)
    theta = torch.cat([w, out.weight.detach().cpu().double().T], 1)
    neuron = kind(sigma, out.out_features)
    if not bool(theta.isfinite().all()):
        raise InputError(f"A weight of {place} is not finite; take an earlier checkpoint.")
    residual = -len(rows) * gradients[0].reshape(rows.shape)
    _agrees(neuron, theta, inputs, residual, gradients[1:], place)
    device = out.weight.device

    def forward(change: Tensor) -> Tensor:
        def added(module: nn.Module, given: Any, output: Tensor) -> Tensor:
            return output + change.reshape(output.shape).to(device, output.dtype)

        with untouched(model):
            handle = out.register_forward_hook(added)
            try:
                return loss(model).double().cpu()
            finally:
                handle.remove()

    return Block(first, second, neuron, theta, into.bias is not None, inputs, residual, speed, value, forward)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Buffers, modes and random state are afterwards what they were; within, noise is always the same."""
    modes = [(m, m.training) for m in model.modules()]
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with isolated(device):
            seed_forward(0, 0, device)
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)


def _linear(model: nn.Module, name: str) -> nn.Linear:
    modules = dict(model.named_modules())
    if name not in modules:
        raise unknown("module", name, [n for n, m in modules.items() if isinstance(m, nn.Linear)])
    if not isinstance(found := modules[name], nn.Linear):
        raise InputError(f"{name} is a {type(found).__name__}; name an nn.Linear.")
    return found


def _pass(
    model: nn.Module, loss: Loss, into: nn.Linear, out: nn.Linear, place: str
) -> tuple[Tensor, Tensor, float, list[Tensor], float]:
    """The block's inputs and output, the loss, its gradients by output and weights, and its squared norm."""
    seen: list[Tensor] = []
    outs: list[Tensor] = []

    def enters(module: nn.Module, given: Any) -> None:
        seen.append(given[0].detach().clone())

    def leaves(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        outs.append(output)
        return output.clone()  # what follows may work in place

    trained = [p for p in model.parameters() if p.requires_grad]
    with untouched(model), torch.enable_grad():
        handles = [into.register_forward_pre_hook(enters), out.register_forward_hook(leaves)]
        try:
            value = loss(model)
        finally:
            _drop(handles)
        if len(seen) != 1 or len(outs) != 1:
            raise InputError(
                f"{place} was called {len(seen)} and {len(outs)} times by the loss; a block must be used once in it."
            )
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise InputError("loss(model) must give one number, the loss of the whole batch.")
        if not bool(value.isfinite() & outs[0].isfinite().all()):
            raise InputError(f"The loss is {float(value.detach()):g} at these weights; take an earlier checkpoint.")
        if not value.requires_grad or not outs[0].requires_grad:
            raise InputError(f"No gradient arrives at {place}: the loss does not depend on it, or detaches it.")
        wanted = [outs[0], *trained]
        found = torch.autograd.grad(value, wanted, allow_unused=True)
    if found[0] is None or not bool(found[0].any()):
        raise InputError(f"No gradient arrives at {place}: the loss does not depend on it, or detaches it.")
    if not all(bool(g.isfinite().all()) for g in found if g is not None):
        raise InputError("The gradient is not finite at these weights; take an earlier checkpoint.")
    by = {id(p): g for p, g in zip(trained, found[1:])}
    speed = sum(float(g.double().square().sum()) for g in found[1:] if g is not None)

    def arrived(parameter: Tensor) -> Tensor:
        found = by[id(parameter)]
        return torch.zeros_like(parameter) if found is None else found

    leading = arrived(into.weight)
    if into.bias is not None:
        leading = torch.cat([leading, arrived(into.bias)[:, None]], 1)
    gradients = [g.detach().cpu().double() for g in (found[0], leading, arrived(out.weight))]
    return seen[0].cpu().double(), outs[0].detach().cpu(), float(value.detach()), gradients, speed


def _activation(
    model: nn.Module,
    loss: Callable[[nn.Module], Any],
    into: nn.Module,
    out: nn.Module,
    place: str,
    given: Activation | None,
) -> Any:
    """What stands between two layers, found by sending numbers through it, in training mode as it is trained."""
    heard: list[Tensor] = []
    sent: list[Tensor] = []

    def send(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        sent.append(probes(output))
        return sent[-1].clone()

    def hear(module: nn.Module, inputs: Any) -> None:
        heard.append(inputs[0].detach().clone())

    with untouched(model), torch.no_grad():
        model.train()
        handles = [into.register_forward_hook(send), out.register_forward_pre_hook(hear)]
        try:
            loss(model)
        finally:
            _drop(handles)
    if len(sent) != 1 or len(heard) != 1:
        raise InputError(f"{place} was called {len(sent)} and {len(heard)} times; a block must be used once.")
    return recognised(sent[0], heard[0], place, given)


def _agrees(
    neuron: Neuron, theta: Tensor, inputs: Tensor, residual: Tensor, gradients: list[Tensor], place: str
) -> None:
    """Refuse weights that do more than the block says, by their gradients."""
    with torch.enable_grad():
        leaf = theta.clone().requires_grad_()
        (slope,) = torch.autograd.grad(neuron.correlation(leaf, inputs, residual).sum(), leaf)
    actual = -torch.cat([gradients[0], gradients[1].T], 1)
    gap = float((slope - actual).norm() / actual.norm().clamp_min(1e-300))
    if not math.isfinite(gap) or gap > AGREE:
        raise InputError(
            f"The gradients of {place} are not those of the block (they differ by {gap:.0%}): its weights, or what "
            "passes between the layers, are used elsewhere, or the loss has a penalty on them; foretell without that."
        )


def _drop(handles: list[Any]) -> None:
    for handle in handles:
        handle.remove()
