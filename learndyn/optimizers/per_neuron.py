"""SGD with a learning rate for every neuron that follows its norm, and a hybrid with Adam (arXiv:2602.03655).

A neuron is its incoming and its outgoing weights, θ_i = (u_i, w_i): rows of some matrices and columns of others. With
a rate ∝ ‖θ_i‖^(1−k), a neuron w (Σ_j ⟨u_j, x_j⟩)^k grows exponentially, d ln ‖θ_i‖/dt = (k+1) U, as one of degree 2
does, whose drops are sharp. No clipping of gradients here: it would break the count of flow time, Σ lr.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from learndyn.errors import InputError


class PerNeuronScaledSGD(Optimizer):
    """θ_i ← θ_i − lr (‖θ_i‖² + ε²)^(p/2) g_i, neuron by neuron; Adam for matrices between neurons, where wanted.

    The authors have ε = 1e-6, a floor under the norms that smaller starts do not survive; here ε is relative to the
    largest norm of the layer, and 0 by default. A neuron of norm 0 stays with ε = 0.

    Args:
        groups: Parameter groups. One with `axes` is a layer of neurons: for each of its parameters the dimension that
            counts neurons, 0 for incoming weights of a linear layer and 1 for outgoing ones; it has `lr`, `exponent` p
            and `floor` ε. One with `betas` and `eps` takes Adam's step (the authors' hybrid). `layer` makes them.
        lr: Learning rate, where a group has none.
        exponent: p, where a group has none.
        floor: ε over the largest norm, where a group has none.

    Raises:
        InputError: If a group is neither, its axes do not give all its parameters one number of neurons, or an option
            is out of its range.
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float = 1e-3, exponent: float = -1.0, floor: float = 0.0
    ) -> None:
        made = [dict(group) for group in groups]
        for group in made:
            group["params"] = list(group["params"])
            group.setdefault("axes", None)
            group.setdefault("betas", None)
            group.setdefault("eps", 1e-8)
        super().__init__(made, {"lr": lr, "exponent": exponent, "floor": floor})
        for group in self.param_groups:
            _check(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step; the closure, if any, is called first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["axes"] is None:
                for p in group["params"]:
                    if p.grad is not None:
                        self._adam(p, group)
                continue
            scale = neuron_norms(group["params"], group["axes"])
            scale = (scale.square() + (group["floor"] * scale.max()) ** 2).sqrt()
            factor = torch.where(scale > 0, torch.where(scale > 0, scale, 1.0) ** group["exponent"], 0.0)
            for p, axis in zip(group["params"], group["axes"]):
                if p.grad is not None:
                    shape = [-1 if d == axis else 1 for d in range(p.ndim)]
                    p -= (group["lr"] * factor).to(p).view(shape) * p.grad
        return loss

    def _adam(self, p: Tensor, group: dict[str, Any]) -> None:
        """Adam (arXiv:1412.6980, algorithm 1)."""
        held = self.state[p]
        if not held:
            held |= {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
        held["step"] += 1
        first, second = group["betas"]
        held["exp_avg"].lerp_(p.grad, 1 - first)
        held["exp_avg_sq"].mul_(second).addcmul_(p.grad, p.grad, value=1 - second)
        mean = held["exp_avg"] / (1 - first ** held["step"])
        p -= group["lr"] * mean / ((held["exp_avg_sq"] / (1 - second ** held["step"])).sqrt() + group["eps"])


def neuron_norms(parameters: Iterable[Tensor], axes: Iterable[int]) -> Tensor:
    """‖θ_i‖ of every neuron of a layer in float64, `(neurons,)`.

    Args:
        parameters: Tensors of the layer.
        axes: The dimension of each that counts neurons.
    """
    return torch.stack(
        [p.detach().double().movedim(axis, 0).flatten(1).square().sum(1) for p, axis in zip(parameters, axes)]
    ).sum(0).sqrt()  # fmt: skip


def layer(
    incoming: Iterable[Tensor], outgoing: Iterable[Tensor], length: int | None = None, **options: Any
) -> dict[str, Any]:
    """The parameter group of one layer of neurons.

    >>> first, last = torch.nn.Linear(12, 50, bias=False), torch.nn.Linear(50, 6, bias=False)
    >>> PerNeuronScaledSGD([layer([first.weight], [last.weight], length=2)]).param_groups[0]["exponent"]
    -1

    Args:
        incoming: Weights with a row for every neuron.
        outgoing: Weights with a column for every neuron.
        length: k; the exponent is then 1 − k.
        options: `lr`, `exponent`, `floor` of the group.
    """
    ahead, behind = list(incoming), list(outgoing)
    if length is not None:
        options = {"exponent": 1 - length, **options}
    return {"params": [*ahead, *behind], "axes": (0,) * len(ahead) + (1,) * len(behind), **options}


def per_neuron_sgd(
    parameters: Iterable[Tensor],
    lr: float = 1e-3,
    exponent: float | None = None,
    floor: float = 0.0,
    mix_lr: float | None = None,
) -> PerNeuronScaledSGD:
    """The optimizer of a network with one hidden layer, read off the shapes of its parameters.

    As text: `learndyn.optimizers.per_neuron:per_neuron_sgd(lr=0.001)`. The last parameter is the outgoing one,
    (outputs, width); those before it with as many rows are incoming, and square ones among them, which mix neurons, go
    to Adam: the hybrid for `quadratic_rnn`.

    Args:
        parameters: In the order of the network.
        lr: Learning rate of the neurons.
        exponent: p; by default 1 − k, where k is how many times more numbers a neuron reads than it writes.
        floor: Under the norms, relative to the largest.
        mix_lr: Learning rate of Adam for matrices from neurons to neurons.

    Raises:
        InputError: If the shapes are not those of such a network, k is no whole number, or there is a mixing matrix
            without a rate or a rate without one.
    """
    held = list(parameters)
    shapes = [tuple(p.shape) for p in held]
    if len(held) < 2 or any(p.ndim != 2 for p in held) or any(p.shape[0] != held[-1].shape[1] for p in held[:-1]):
        raise InputError(
            f"Parameters of shapes {shapes} are not one layer of neurons, with rows (width, ...) first and columns "
            "(outputs, width) last; name the neurons with PerNeuronScaledSGD([layer(incoming, outgoing)])."
        )
    width = held[-1].shape[1]
    mixing = [p for p in held[:-1] if p.shape[1] == width and len(held) > 2]
    ahead = [p for p in held[:-1] if all(p is not other for other in mixing)]
    if bool(mixing) != (mix_lr is not None):
        raise InputError(
            f"Of parameters of shapes {shapes} {len(mixing)} go from neurons to neurons, but mix_lr={mix_lr}; give a "
            "learning rate for Adam exactly if there is such a matrix."
        )
    if exponent is None:
        read, written = sum(p.shape[1] for p in ahead), held[-1].shape[0]
        if read % written:
            raise InputError(
                f"Neurons that read {read} numbers and write {written} have no whole k; give exponent=1-k."
            )
        exponent = 1 - read // written
    groups = [layer(ahead, [held[-1]], lr=lr, exponent=exponent, floor=floor)]
    if mix_lr is not None:
        groups.append({"params": mixing, "lr": mix_lr, "betas": (0.9, 0.999)})
    return PerNeuronScaledSGD(groups, lr=lr)


def _check(group: dict[str, Any]) -> None:
    shapes = [tuple(p.shape) for p in group["params"]]
    if not 0 < group["lr"] < math.inf:
        raise InputError(f"lr={group['lr']:g} is no learning rate; give a finite number above 0.")
    if (group["axes"] is None) == (group["betas"] is None):
        raise InputError(
            f"A group of shapes {shapes} must have either axes, which count its neurons, or betas, for Adam; make it "
            "with layer(incoming, outgoing)."
        )
    if group["axes"] is None:
        return
    if not 0 <= group["floor"] < 1 or not math.isfinite(group["exponent"]):
        raise InputError(
            f"floor={group['floor']:g} must lie in [0, 1), relative to the largest norm, and "
            f"exponent={group['exponent']:g} be finite."
        )
    fitting = len(group["axes"]) == len(shapes) and all(-len(s) <= a < len(s) for s, a in zip(shapes, group["axes"]))
    counts = {s[a] for s, a in zip(shapes, group["axes"])} if fitting else set()
    if len(counts) != 1 or any(a < 0 for a in group["axes"]):
        raise InputError(
            f"Parameters of shapes {shapes} have no common number of neurons along axes={tuple(group['axes'])}; give "
            "for each the dimension that counts them, 0 for incoming and 1 for outgoing weights."
        )
