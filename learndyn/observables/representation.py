"""How similar a layer finds the examples, and how similar two layers are in that."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.dynamics.state import State
from learndyn.errors import InputError, unknown
from learndyn.observables.evaluate import looking

KINDS = ("centred", "cosine")


def representation(state: State, layer: str = "", inputs: Tensor | None = None) -> Float[Tensor, "n features"]:
    """What a module returns on the inputs, flattened, in evaluation mode and float64.

    Args:
        state: Its network is listened to.
        layer: Name of a module as in `named_modules`; "" is the whole network.
        inputs: `(n, ...)`; those of the test split when left out.

    Raises:
        InputError: If there is no such module, it is not called, or returns something else than one tensor with the
            examples first.
    """
    inputs = state.task.evaluation("test").inputs if inputs is None else inputs
    modules = dict(state.model.named_modules())
    if layer not in modules:
        raise unknown("layer", layer, [name for name in modules if name])
    heard: list[Any] = []
    handle = modules[layer].register_forward_hook(lambda _module, _inputs, returned: heard.append(returned))
    try:
        with looking(state.model, state.device):
            state.model(inputs)
    finally:
        handle.remove()
    if not heard:
        raise InputError(f"The layer {layer!r} is not called in the forward pass.")
    if not isinstance(heard[-1], Tensor) or len(heard[-1]) != len(inputs):
        raise InputError(f"The layer {layer!r} returns no tensor with one row for each of the {len(inputs)} examples.")
    return heard[-1].detach().double().flatten(1).clone()


def similarity_matrix(features: Float[Tensor, "n features"], kind: str = "cosine") -> Float[Tensor, "n n"]:
    """Representational similarity matrix: "cosine" of each pair of rows, or inner products of "centred" rows.

    A row of zeros has the cosine 0 with all, itself included.

    Raises:
        InputError: If the kind is neither of these, or a number is not finite.
    """
    if kind not in KINDS:
        raise unknown("similarity", kind, KINDS)
    x = features.double()
    if not x.isfinite().all():
        raise InputError("The representation has numbers that are not finite.")
    if kind == "centred":
        x = x - x.mean(0)
        return x @ x.T
    norms = x.norm(dim=1, keepdim=True)
    x = torch.where(norms > 0, x / norms, 0.0)
    return x @ x.T


def representational_similarity(
    a: State, b: State, layer: str = "", inputs: Tensor | None = None, kind: str = "centred"
) -> Float[Tensor, ""]:
    """⟨R, R'⟩/(‖R‖‖R'‖) of a layer's similarity matrices in two states, from 0 to 1 when "centred".

    "centred" is the centred kernel alignment of S. Kornblith et al., arXiv:1905.00414, eq. 3 with the linear kernel;
    "cosine" has the cosines of all pairs in R, examples with themselves included.

    Args:
        a: One state.
        b: The other.
        layer: Name of a module; "" is the whole network.
        inputs: `(n, ...)`; those of the test split of `a` when left out.
        kind: "centred" or "cosine".

    Raises:
        InputError: If there is no such layer, or a similarity matrix is zero, as of a constant layer when centred.
    """
    inputs = a.task.evaluation("test").inputs if inputs is None else inputs
    first, second = (similarity_matrix(representation(s, layer, inputs), kind) for s in (a, b))
    norms = first.norm() * second.norm()
    if not norms > 0:
        raise InputError(f"The layer {layer!r} is the same for all inputs, so that it has no {kind} similarity.")
    return ((first * second).sum() / norms).cpu()
