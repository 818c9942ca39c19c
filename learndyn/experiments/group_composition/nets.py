"""Many two-layer networks of powers at once, by gradient descent with a rate for every neuron, on all sequences.

The step is that of `learndyn.optimizers.per_neuron.PerNeuronScaledSGD` on `learndyn.models.two_layer_power` with the
task `group_composition`, in float64 and with the gradient written out: a dozen seeds and starts move in one product.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn import groups
from learndyn.groups import FiniteGroup
from learndyn.noise import generator

ENUMERATED = 20_000  # sequences; beyond, the exact loss by moments is cheaper
RISE = 1e-9  # of the loss in a step, over the first loss, that is rounding
SMALLEST = 10  # halvings of a step
CALM = 64  # steps after which a step is tried twice as long
DRAWN = 2000  # sequences that output powers are then measured on

Incoming = Float[Tensor, "nets neurons length elements"]
Outgoing = Float[Tensor, "nets neurons elements"]


@dataclass(frozen=True)
class Descent:
    """What was seen of networks on their way.

    Attributes:
        time: Flow time of the looks, `(looks,)`.
        loss: L = ½ E‖x_{g₁…g_k} − f‖², `(nets, looks)`.
        power: E‖Π_ρ f‖², `(nets, looks, irreps)`.
        u: Incoming weights at the end.
        w: Outgoing weights at the end.
    """

    time: Tensor
    loss: Tensor
    power: Tensor
    u: Tensor
    w: Tensor


def first_weights(
    group: FiniteGroup, length: int, width: int, alpha: float, seed: int
) -> tuple[Float[Tensor, "neurons length elements"], Float[Tensor, "neurons elements"]]:
    """Weights (u, w) ~ N(0, α²), in the same directions for all α."""
    drawn = generator(seed, "neurons", width, length).standard_normal((width, length + 1, group.order))
    theta = alpha * torch.from_numpy(drawn)
    return theta[:, :-1], theta[:, -1]


def largest_norm(u: Float[Tensor, "neurons length elements"], w: Float[Tensor, "neurons elements"]) -> float:
    """max_i ‖(u_i, w_i)‖."""
    return float((u.square().sum((1, 2)) + w.square().sum(1)).max().sqrt())


def descend(
    group: FiniteGroup,
    x: Float[Tensor, " elements"],
    u: Incoming,
    w: Outgoing,
    rates: Float[Tensor, " steps"],
    looks: Collection[int],
    after: Callable[[], None] | None = None,
) -> Descent:
    """θ_i ← θ_i − rate · ‖θ_i‖^(1−k) ∇L: a step is `rate` of preconditioned flow time (arXiv:2602.03655).

    A step after which any loss is higher is taken back and done in two; what has been halved is doubled again after
    a while. The time of a step stays what it is.

    Args:
        group: The group.
        x: The template.
        u: Weights at the start.
        w: Weights at the start.
        rates: Flow time of every step.
        looks: Steps at which loss and powers are noted.
        after: Called after every step.
    """
    slopes = _enumerated(group, x, u.shape[2]) if group.order ** u.shape[2] <= ENUMERATED else _by_moments(group, x)
    watch = _power_of(group, x, u.shape[2])
    u, w, k = u.clone(), w.clone(), u.shape[2]
    seen, losses, powers = [], [], []
    clock = torch.cat([rates.new_zeros(1), rates.cumsum(0)])
    loss, *slope = slopes(u, w)
    first, halvings, quiet = loss, 0, 0
    for step in range(len(rates) + 1):
        if step in looks:
            seen.append(step)
            losses.append(loss)
            powers.append(watch(u, w))
        if step == len(rates):
            break
        gone = 0.0
        while gone < 1:
            part = min(0.5**halvings, 1 - gone)
            norm = (u.square().sum((2, 3)) + w.square().sum(2)).sqrt()
            scale = part * rates[step] * torch.where(norm > 0, norm, 1.0) ** (1 - k)
            ahead = u - scale[..., None, None] * slope[0], w - scale[..., None] * slope[1]
            new, *turned = slopes(*ahead)
            if halvings < SMALLEST and bool((new > loss + RISE * first).any()):
                halvings, quiet = halvings + 1, 0
                continue
            (u, w), loss, slope = ahead, new, turned
            gone, quiet = gone + part, quiet + 1
            if halvings and quiet >= CALM:
                halvings, quiet = halvings - 1, 0
        if after is not None:
            after()
    return Descent(clock[seen], torch.stack(losses, 1), torch.stack(powers, 1), u, w)


def _summed(answers: Float[Tensor, "nets neurons length elements"]) -> Float[Tensor, "nets neurons sequences"]:
    """Pre-activations of all sequences, the last place the fastest."""
    total = answers[:, :, 0]
    for j in range(1, answers.shape[2]):
        total = (total[..., None] + answers[:, :, j, None, :]).flatten(2)
    return total


def _enumerated(group: FiniteGroup, x: Tensor, length: int) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
    table = groups.translates(group, x)
    elements = groups.all_sequences(group, length)
    targets = table[groups.compose(group, elements)[:, -1]]
    count = len(elements)

    def slopes(u: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        z = _summed(u @ table.T)
        below = z ** (length - 1)
        h = below * z
        off = h.mT @ w - targets  # (nets, sequences, N)
        loss = off.square().sum((1, 2)) / (2 * count)
        slope_w = h @ off / count
        back = length / count * below * (w @ off.mT)
        each = back.unflatten(2, (group.order,) * length)
        marginal = [each.sum([2 + m for m in range(length) if m != j]) for j in range(length)]
        return loss, torch.stack(marginal, 2) @ table, slope_w

    return slopes


def _by_moments(group: FiniteGroup, x: Tensor) -> Callable[[Tensor, Tensor], tuple[Tensor, ...]]:
    def slopes(u: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        found = []
        for one_u, one_w in zip(u, w):
            one_u, one_w = one_u.detach().requires_grad_(), one_w.detach().requires_grad_()
            loss = groups.population_loss(group, x, one_u, one_w)
            found.append((loss.detach(), *torch.autograd.grad(loss, (one_u, one_w))))
        return tuple(torch.stack(part) for part in zip(*found))

    return slopes


def _power_of(group: FiniteGroup, x: Tensor, length: int) -> Callable[[Tensor, Tensor], Tensor]:
    """E‖Π_ρ f‖² on all sequences, or on some if there are many."""
    if group.order**length <= ENUMERATED:
        elements = groups.all_sequences(group, length)
    else:
        elements = torch.from_numpy(generator(0, "seen").integers(0, group.order, (DRAWN, length)))
    inputs = groups.encode(group, x, elements).inputs

    def watch(u: Tensor, w: Tensor) -> Tensor:
        made = [groups.loss.outputs(inputs, one_u, one_w) for one_u, one_w in zip(u, w)]
        return torch.stack([groups.power(group, f).mean(0) for f in made])

    return watch
