"""Linearised switching (arXiv:2505.13900, Fig. 6): training goes on in the tangent plane of the network at one step.

From step t on, θ_t is frozen and d is trained in f_lin(x) = f(x, θ_t) + J(x) d with J = ∂f/∂θ at θ_t, on the same task,
batches, schedule and noise. How much is lost against ordinary training tells how nonlinear the rest of it would be.

J d comes from forward-mode AD in the pass that also records the reverse graph, Jᵀ g from that graph. Where an operation
has no forward mode, J d is taken by double backward, which is slower by up to a factor of 2 on a CPU.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from learndyn.dynamics.state import State, trainable
from learndyn.dynamics.tangent import twice_differentiable
from learndyn.dynamics.train import Observable, Run, train
from learndyn.errors import InputError, unknown
from learndyn.noise import isolated, seed_forward

MOMENTUM = ("carry", "reset")
BATCH_NORM = ("train", "eval")


@dataclass(frozen=True)
class _Pass:
    """One pass at the frozen point: f `(...)` with its graph, J d of the same shape without one, and the graph's
    leaves.
    """

    outputs: Tensor
    along: Tensor
    leaves: tuple[Tensor, ...]


class _Affine(torch.autograd.Function):
    """f + J d as a function of θ; the derivative of its backward pass, which is linear, is that of Jᵀ g."""

    @staticmethod
    def forward(ctx: Any, done: _Pass, *theta: Tensor) -> Tensor:
        ctx.done = done
        return done.outputs + done.along

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        done: _Pass = ctx.done
        if not done.outputs.requires_grad:
            return None, *(None for _ in done.leaves)
        # The graph stays as long as ours does: whoever differentiates twice, or retains ours, needs it again. A
        # parameter that the outputs do not depend on gets None, as always: optimizers then leave it alone.
        found = torch.autograd.grad(
            done.outputs,
            done.leaves,
            slope,
            retain_graph=True,
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )
        return None, *found


class Linearised(nn.Module):
    """A network's tangent plane: f(x, θ_t) + J(x) (θ − θ_t), with the network's parameter names for θ = θ_t + d.

    At first θ = θ_t. Optimizers and weight decay act on θ, distances are those of θ. Parameters that do not require
    gradients when the plane is laid stay constants; so do all buffers: running statistics have no influence and are
    not touched once the plane is there. The output is differentiable with respect to θ, as often as the loss is, but
    not with respect to the inputs.

    Dropout follows `train()` and `eval()`; a training step draws the masks of the ordinary network.

    Attributes:
        network: A copy of the network; its modules, parameters and buffers are also those of this module.
        point: θ_t by name, shared parameters once.
        constants: The buffers at θ_t by name.
        batch_norm: "train": normalisation layers use, and differentiate, the statistics of the batch, in training and
            in evaluation: the function is one of whole batches, in evaluation of the pieces that the split is cut into.
            "eval": both use the running statistics, so that the function is one of single examples, though not the one
            that training has used so far.

    Raises:
        InputError: If the mode is unknown, or the network is linearised already; when called, if the network returns
            anything but one tensor.
    """

    network: nn.Module
    point: dict[str, Tensor]
    constants: dict[str, Tensor]

    def __init__(self, network: nn.Module, batch_norm: str = "train"):
        super().__init__()
        if batch_norm not in BATCH_NORM:
            raise unknown("batch-norm mode", batch_norm, BATCH_NORM)
        if isinstance(network, Linearised):
            raise InputError("The network is linearised already; linearise the state from before the switch.")
        network = copy.deepcopy(network)
        self.__dict__["network"] = network  # not a submodule, which would put its name before all others
        for table in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[table] = getattr(network, table)  # shared: what changes here changes there
        self.training = network.training
        self.batch_norm = batch_norm
        self.point = {name: p.detach().clone() for name, p in trainable(network).items()}
        self.constants = {name: b.detach().clone() for name, b in network.named_buffers()}
        # Until an operation of the network says otherwise. By whether gradients are on: what an evaluation finds out
        # must not decide the bits of training.
        self.has_forward_mode = {True: True, False: True}

    def forward(self, *inputs: Any, **options: Any) -> Tensor:
        """f(x, θ_t) + J(x) (θ − θ_t), in the shape of the network's own output."""
        own = dict(self.named_parameters())
        theta = [own[name] for name in self.point]
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in self.point.items()}
        shift = {name: (p - tensor).detach() for p, (name, tensor) in zip(theta, self.point.items())}
        with self._modes(), twice_differentiable():
            outputs, along = self._push(leaves, shift, inputs, options)
        return _Affine.apply(_Pass(outputs, along, tuple(leaves.values())), *theta)

    def _push(
        self, leaves: dict[str, Tensor], shift: dict[str, Tensor], inputs: tuple, options: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """The outputs at θ_t, with their graph where gradients are on, and J d without one."""

        def outputs_at(parameters: dict[str, Tensor]) -> Tensor:
            fixed = {name: b.clone() for name, b in self.constants.items()}  # batch norm writes into its buffers
            outputs = functional_call(self.network, (parameters, fixed), inputs, options)
            if not isinstance(outputs, Tensor):
                raise InputError(
                    f"{type(self.network).__name__} returns a {type(outputs).__name__}; only a network that returns "
                    "one tensor can be linearised."
                )
            return outputs

        if self.has_forward_mode[torch.is_grad_enabled()]:
            device = next(iter(leaves.values())).device
            before = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None
            try:
                return _forward_mode(outputs_at, leaves, shift)
            except NotImplementedError:
                self.has_forward_mode[torch.is_grad_enabled()] = False
                torch.set_rng_state(before[0])  # the second attempt draws the same dropout masks
                if before[1] is not None:
                    torch.cuda.set_rng_state(before[1], device)
        return _double_backward(outputs_at, leaves, shift)

    @contextmanager
    def _modes(self) -> Iterator[None]:
        """The network in this module's mode, except for its normalisation layers, which are in that of `batch_norm`."""
        self.network.training = self.training
        norms = [m for m in self.network.modules() if isinstance(m, _NormBase)]
        modes = [m.training for m in norms]
        try:
            for norm in norms:
                norm.training = self.batch_norm == "train"
            yield
        finally:
            for norm, mode in zip(norms, modes):
                norm.training = mode

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Linearised:
        super()._apply(fn, recurse)
        self.point = {name: fn(tensor) for name, tensor in self.point.items()}
        self.constants = {name: fn(tensor) for name, tensor in self.constants.items()}
        return self


Outputs = Callable[[dict[str, Tensor]], Tensor]


def _forward_mode(outputs_at: Outputs, leaves: dict[str, Tensor], shift: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    with forward_ad.dual_level():
        duals = {name: forward_ad.make_dual(leaf, shift[name]) for name, leaf in leaves.items()}
        outputs, along = forward_ad.unpack_dual(outputs_at(duals))
    return outputs, torch.zeros_like(outputs) if along is None else along.detach()


def _double_backward(outputs_at: Outputs, leaves: dict[str, Tensor], shift: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Jᵀ v is linear in v: its derivative in the direction d is J d."""
    with torch.enable_grad():
        outputs = outputs_at(leaves)
        along = torch.zeros_like(outputs, requires_grad=True)
        if not outputs.requires_grad:
            return outputs, along.detach()
        back = torch.autograd.grad(outputs, list(leaves.values()), along, create_graph=True, allow_unused=True)
        bent = [(b, shift[name]) for b, name in zip(back, leaves) if b is not None and b.requires_grad]
        if not bent:
            return outputs, along.detach()
        pushed = torch.autograd.grad([b for b, _ in bent], along, [d for _, d in bent], retain_graph=True)
    return outputs, pushed[0].detach()


def linearise(state: State, momentum: str = "carry", batch_norm: str = "train") -> State:
    """The state with its network replaced by the tangent plane at its parameters; the given one stays as it is.

    Step, time, task and schedule go on. For batch norm and dropout see `Linearised`.

    Args:
        state: Where to switch.
        momentum: "carry" copies the optimizer's buffers, "reset" starts without any.
        batch_norm: "train" (statistics of the batch) or "eval" (running statistics), in training and evaluation alike.

    Raises:
        InputError: If an option is unknown, or the state is linearised already.
    """
    if momentum not in MOMENTUM:
        raise unknown("momentum option", momentum, MOMENTUM)
    model = Linearised(state.model, batch_norm)
    # deepcopy takes what is in its memo for copied already, so the copy is bound to the new parameters.
    memo: dict[int, Any] = {id(p): q for p, q in zip(state.model.parameters(), model.parameters(), strict=True)}
    optimizer = copy.deepcopy(state.optimizer, memo)
    if momentum == "reset":
        optimizer.state.clear()
    return replace(state, model=model, optimizer=optimizer)


def train_linearised(
    state: State,
    steps: int,
    momentum: str = "carry",
    batch_norm: str = "train",
    observe: Mapping[str, Observable] | None = None,
    every: int | Collection[int] = 1,
    after: Callable[[State], None] | None = None,
    retries: int = 2,
) -> tuple[Run, float]:
    """Linearise and train for `steps` updates; begin anew with a third of the learning rate if the loss is not finite.

    Args:
        state: Where to switch; it stays as it is.
        steps: Updates to make.
        momentum: See `linearise`.
        batch_norm: See `linearise`.
        observe: See `train`; the run holds what the last attempt saw.
        every: See `train`.
        after: See `train`; every attempt calls it from its beginning.
        retries: Attempts after the first one.

    Returns:
        The run of the last attempt, and the factor on the learning rates in it: 1, 1/3, 1/9, ... It may have diverged,
        too; where only the loss after the last update is not finite, `diverged` is the step after it.

    Raises:
        InputError: If an option is unknown, `retries` is negative, or the state is linearised already.
    """
    if retries < 0:
        raise InputError(f"retries={retries} must not be negative.")
    for attempt in range(retries + 1):
        factor = 3.0**-attempt
        switched = linearise(state, momentum, batch_norm)
        for group in switched.optimizer.param_groups:
            group["initial_lr"] *= factor
        run = train(switched, steps, observe, every, after)
        if run.diverged is None and not math.isfinite(_coming_loss(run.state)):
            run = replace(run, diverged=run.state.step)
        if run.diverged is None:
            break
    return run, factor


def _coming_loss(state: State) -> float:
    """The loss that the next step would begin with."""
    with isolated(state.device), torch.no_grad():
        seed_forward(state.seed, state.step, state.device)
        return state.task.loss(state.model, state.task.batch(state.step)).item()
