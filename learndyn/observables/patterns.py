"""Which units are active on which inputs, and how many have changed sides (arXiv:2406.06158, Figs. 1, 5 and 6).

Listened to are the calls of ReLU, leaky ReLU and PReLU, by modules or by functions, in the order of the forward pass.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from learndyn.dynamics.state import State
from learndyn.errors import InputError
from learndyn.observables.evaluate import CHUNK, looking

RELUS = ("relu", "leaky_relu", "_prelu_kernel", "prelu", "rrelu_with_noise")
#: Arguments of what is a ReLU where the lower bound is 0 and there is no upper one.
BOUNDED = {"clamp": ("min", "max"), "clamp_min": ("min",), "threshold": ("threshold", "value")}
CHANNELS_SECOND = ("convolution", "mkldnn_convolution", "cudnn_convolution", "native_batch_norm", "cudnn_batch_norm")
FEATURES_LAST = ("addmm", "mm", "bmm", "baddbmm", "native_layer_norm", "linear")


@dataclass(frozen=True)
class Changes:
    """How the activation patterns of two networks differ.

    Attributes:
        hamming: By layer, Σ_k mean_i [pattern_ki differs]: from 0 to the number of units.
        units: Units by layer.
        dead: Units by layer that are active on no input in either network; they count in neither sum.
    """

    hamming: dict[str, float]
    units: dict[str, int]
    dead: dict[str, int]

    @property
    def distance(self) -> float:
        """Σ over all layers, from 0 to the number of all units."""
        return sum(self.hamming.values())

    @property
    def fraction(self) -> float:
        """The distance over the number of all units, from 0 to 1."""
        return self.distance / sum(self.units.values())

    @property
    def fraction_alive(self) -> float:
        """The distance over the number of units that are active somewhere; nan if none is."""
        alive = sum(self.units.values()) - sum(self.dead.values())
        return self.distance / alive if alive else float("nan")


class _Listen(TorchDispatchMode):
    """Takes down on which side of zero the input of every ReLU-like operation lies."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[str, Tensor]] = []
        self.inside: list[str] = []
        self.channels_second = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._overloadpacket.__name__.removesuffix("_")
        if name in RELUS or (name in BOUNDED and _is_relu(name, args, kwargs)):
            self._hear(args[0])
        elif name in CHANNELS_SECOND:
            self.channels_second = True
        elif name in FEATURES_LAST:
            self.channels_second = False
        return func(*args, **kwargs)

    def _hear(self, before: Tensor) -> None:
        if before.ndim < 2:
            raise InputError(f"A ReLU sees a tensor of shape {tuple(before.shape)}; its units cannot be told apart.")
        # Units are channels of images, and the last dimension of anything else; with three dimensions the layer before
        # decides, a convolution over one dimension or a linear map at every position.
        second = before.ndim > 3 if before.ndim != 3 else self.channels_second
        active = (before > 0).movedim(1, -1) if second else before > 0
        self.heard.append((self.inside[-1] if self.inside else "", active.flatten(0, -2)))


def _is_relu(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    given = dict(zip(BOUNDED[name], args[1:])) | kwargs
    return given.pop("max", None) is None and all(not isinstance(b, Tensor) and b == 0 for b in given.values())


@contextmanager
def _naming(model: nn.Module, listen: _Listen) -> Iterator[None]:
    """Tell which module is at work; the hooks, for which torch leaves fused layers aside, are gone afterwards."""
    handles = []
    for name, module in model.named_modules():

        def enter(_module, _inputs, name=name):
            listen.inside.append(name)

        def leave(_module, _inputs, _outputs):
            listen.inside.pop()

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def activation_patterns(state: State, inputs: Tensor | None = None) -> dict[str, Bool[Tensor, "examples units"]]:
    """Where z > 0 at the input of every ReLU-like unit, by the name of the module that applies it, in evaluation mode.

    A module that applies several gives them as "name", "name:1" and so on. Positions of a convolution or of a sentence
    count as examples, in the order examples, positions. z = 0 counts as inactive, as in torch's derivative.

    Args:
        state: Its network is listened to.
        inputs: `(n, ...)`; those of the test split when left out.

    Raises:
        InputError: If the network has no ReLU-like unit.
    """
    inputs = state.task.evaluation("test").inputs if inputs is None else inputs
    found: dict[str, list[Tensor]] = {}
    with looking(state.model, state.device):
        for chunk in inputs.split(CHUNK):
            listen = _Listen()
            with _naming(state.model, listen), listen:
                state.model(chunk)
            seen: dict[str, int] = {}
            for name, active in listen.heard:
                number = seen[name] = seen.get(name, -1) + 1
                found.setdefault(f"{name}:{number}" if number else name, []).append(active.cpu())
    if not found:
        raise InputError(
            f"{type(state.model).__name__} has no ReLU, leaky ReLU or PReLU, hence no activation patterns."
        )
    return {name: torch.cat(parts) for name, parts in found.items()}


def pattern_changes(a: State, b: State, inputs: Tensor | None = None) -> Changes:
    """How many units of two networks of one architecture are on different sides, layer by layer.

    Args:
        a: One network.
        b: The other.
        inputs: `(n, ...)`; those of the test split of `a` when left out.

    Raises:
        InputError: If there are no patterns, or those of two architectures.
    """
    inputs = a.task.evaluation("test").inputs if inputs is None else inputs
    first, second = (activation_patterns(state, inputs) for state in (a, b))
    if {name: p.shape for name, p in first.items()} != {name: p.shape for name, p in second.items()}:
        raise InputError("The two networks have units in different places; give states of one architecture.")
    return Changes(
        {name: float((p != second[name]).double().mean(0).sum()) for name, p in first.items()},
        {name: p.shape[1] for name, p in first.items()},
        {name: int((~(p | second[name]).any(0)).sum()) for name, p in first.items()},
    )


def hamming(a: State, b: State, inputs: Tensor | None = None) -> Float[Tensor, ""]:
    """Hamming distance of activation patterns, Σ_k mean_i [σ'(z_ki) differs], from 0 to the number of ReLU units.

    `pattern_changes` has the layers, and counts dead units.

    Args:
        a: One network.
        b: The other.
        inputs: `(n, ...)`; those of the test split of `a` when left out.

    Raises:
        InputError: If there are no patterns, or those of two architectures.
    """
    return torch.tensor(pattern_changes(a, b, inputs).distance, dtype=torch.float64)


def hamming_fraction(a: State, b: State, inputs: Tensor | None = None) -> Float[Tensor, ""]:
    """`hamming` over the number of units, from 0 to 1."""
    return torch.tensor(pattern_changes(a, b, inputs).fraction, dtype=torch.float64)
