"""Why the tangent kernel of a two-layer block moves: its weights, or its activation patterns (arXiv:2406.06158)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from learndyn.dynamics.state import State
from learndyn.dynamics.two_layer_kernel import activation_slopes, direction_distance, two_layer_kernel
from learndyn.errors import InputError
from learndyn.observables.evaluate import looking


@dataclass(frozen=True)
class KernelSplit:
    """Kernel distances S between two states of a block, float64.

    The parts do not add up to the whole: each is the distance that there would be if the other had stood still.

    Attributes:
        distance: All has moved.
        weights: The weights have moved, and the patterns are those of the first state.
        patterns: The patterns have moved, and the weights are those of the first state.
    """

    distance: Float[Tensor, ""]
    weights: Float[Tensor, ""]
    patterns: Float[Tensor, ""]


def kernel_split(
    a: State, b: State, inputs: Tensor | None = None, first: str | None = None, last: str | None = None
) -> KernelSplit:
    """The kernel distance of a block linear–ReLU–linear, and its two causes.

    The kernel is that of the block's own weights and biases, traced over its outputs: K_ij = Σ_k c_ki c_kj x_iᵀM_k x_j
    with M_k = |a_k|² I + w_k w_kᵀ, on the x that reach the block in `a`, also for `b`: what earlier layers do is not
    what is asked here.

    Args:
        a: The earlier state.
        b: The later one.
        inputs: `(n, ...)` of the network; those of the test split of `a` when left out.
        first: Name of the block's first linear layer; the network's first one when left out.
        last: Name of its second; the next linear layer when left out.

    Raises:
        InputError: If there are no such layers, what lies between them is no ReLU or leaky ReLU of all units, the
            inputs of the block are no vectors, or a kernel is zero or not finite.
    """
    inputs = a.task.evaluation("test").inputs if inputs is None else inputs
    linear = [name for name, module in a.model.named_modules() if isinstance(module, nn.Linear)]
    first = _named(first, linear, 0)
    last = _named(last, linear, linear.index(first) + 1)
    gamma, x = _checked(a, inputs, first, last)
    sides = []
    for state in (a, b):
        w, v = state.model.get_submodule(first), state.model.get_submodule(last)
        assert isinstance(w, nn.Linear) and isinstance(v, nn.Linear)
        bias = None if w.bias is None else w.bias.detach().double()
        weights = w.weight.detach().double(), v.weight.detach().double()
        before = x @ weights[0].T + (0 if bias is None else bias)
        sides.append((*weights, bias, v.bias is not None, activation_slopes(before, gamma)))
    gram = x @ x.T
    kernels = []
    for of_weights, of_patterns in ((0, 0), (1, 1), (1, 0), (0, 1)):
        w1, w2, bias, last_bias, _ = sides[of_weights]
        kernels.append(two_layer_kernel(x, w1, w2, sides[of_patterns][4], bias, last_bias, gamma, gram=gram))
    found = [direction_distance(kernels[0], other).cpu() for other in kernels[1:]]
    if not torch.stack(found).isfinite().all():
        raise InputError(f"A kernel of the block {first} to {last} is zero or not finite, hence has no direction.")
    return KernelSplit(*found)


def _named(name: str | None, known: list[str], position: int) -> str:
    if name is None:
        if position >= len(known):
            raise InputError(f"There are {len(known)} linear layers here; a block of two layers needs one more.")
        return known[position]
    if name not in known:
        raise InputError(f"{name!r} is no linear layer of the network; it has {', '.join(known) or 'none'}.")
    return name


def _checked(state: State, inputs: Tensor, first: str, last: str) -> tuple[float, Tensor]:
    """The slope below zero of what lies between the two layers, and the inputs of the first, float64."""
    seen: dict[str, Tensor] = {}

    def listen(name: str):
        def hook(_module, given, returned):
            seen[name] = torch.cat([given[0].double().flatten(1), returned.double().flatten(1)], 1)
            seen[f"{name} shape"] = torch.tensor(given[0].shape)

        return hook

    handles = [state.model.get_submodule(name).register_forward_hook(listen(name)) for name in (first, last)]
    try:
        with looking(state.model, state.device):
            state.model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    w, v = (state.model.get_submodule(name) for name in (first, last))
    if first not in seen or last not in seen or len(seen[f"{first} shape"]) != 2 or len(seen[f"{last} shape"]) != 2:
        raise InputError(f"The layers {first} and {last} must both be called, on one vector an example.")
    size = int(w.in_features)  # type: ignore[arg-type]
    x, before = seen[first][:, :size], seen[first][:, size:]
    after = seen[last][:, : int(v.in_features)]  # type: ignore[arg-type]
    below = before < 0
    gamma = float((after[below] / before[below]).median()) if after.shape == before.shape and below.any() else 0.0
    expected = torch.where(before > 0, before, gamma * before)
    if after.shape != before.shape or not torch.allclose(after, expected, rtol=1e-5, atol=1e-30):
        raise InputError(
            f"What lies between {first} and {last} is no ReLU or leaky ReLU alone; name two layers around one."
        )
    return gamma, x
