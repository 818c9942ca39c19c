"""Which irreducible representations a network of `group_composition` has learnt, and which neuron carries which.

Quantities of arXiv:2602.03655. Networks are read by the names of their parameters: `two_layer_power` (first, last),
`quadratic_rnn` (first, drive, mix, last) and `tree_net` (left.0, right.0, last), or anybody's with these names.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from learndyn import groups
from learndyn.dynamics.state import State
from learndyn.errors import InputError
from learndyn.groups import FiniteGroup
from learndyn.observables.evaluate import CHUNK, looking
from learndyn.tasks import Batch

SAME = 1e-4  # of the largest entry: encodings that float32 cannot tell apart


def irrep_output_power(state: State, group: FiniteGroup, inputs: Tensor | None = None) -> Float[Tensor, " irreps"]:
    """E‖Π_ρ f‖², the power of the outputs in every irrep; P_ρ of the template where the irrep is learnt.

    Exact over all sequences if these are the inputs, as they are in a task without `examples` or by
    `groups.encode(group, x, groups.all_sequences(group, k)).inputs`.

    Args:
        state: Its network answers.
        group: The group whose elements are composed.
        inputs: `(n, ...)`; those of the training split when left out.

    Raises:
        InputError: If the network has not one output for each element.
    """
    given = state.task.evaluation("train").inputs if inputs is None else inputs
    return groups.power(group, _answers(state, given)).mean(0)


def composition_accuracy(
    state: State, inputs: Tensor | None = None, targets: Tensor | None = None
) -> Float[Tensor, ""]:
    """Share of sequences whose output is nearest to the encoding of their product, of all encodings among the targets.

    Elements that the template encodes alike count as one.

    Args:
        state: Its network answers.
        inputs: `(n, ...)`; with the targets, those of the training split when left out.
        targets: `(n, N)`.

    Raises:
        InputError: If only one of inputs and targets is given, or the outputs do not fit the targets.
    """
    if (inputs is None) != (targets is None):
        raise InputError("inputs and targets belong together; give both or neither.")
    given = state.task.evaluation("train") if inputs is None or targets is None else Batch(inputs, targets)
    answers, wanted = _answers(state, given.inputs), given.targets.detach().cpu().double()
    if answers.shape != wanted.shape:
        raise InputError(f"Outputs of shape {tuple(answers.shape)} do not fit targets of {tuple(wanted.shape)}.")
    known: list[Tensor] = []
    for row in torch.unique(wanted, dim=0):
        if all(float((row - other).abs().max()) > SAME * float(wanted.abs().max()) for other in known):
            known.append(row)
    encodings = torch.stack(known)
    return (torch.cdist(answers, encodings).argmin(1) == torch.cdist(wanted, encodings).argmin(1)).double().mean()


def neuron_weights(
    model: nn.Module, group: FiniteGroup
) -> tuple[Float[Tensor, "neurons length elements"], Float[Tensor, "neurons elements"]]:
    """What neurons read, u_ij, and write, w_i, as functions on the group, in float64; copies.

    Positions are those of the sequence for two layers, and first and following element, or left and right, for a
    recurrent network and a tree (the first layer's neurons; shared weights, or those of the first node).

    Raises:
        InputError: If the network has no such weights, or they do not fit the group.
    """
    found = {name: p.detach().cpu().double() for name, p in model.named_parameters()}
    w = found.get("last.weight")
    if "left.0" in found and "right.0" in found:
        u = torch.stack([found["left.0"][0], found["right.0"][0]], 1)
    elif "drive.weight" in found and "first.weight" in found:
        u = torch.stack([found["first.weight"], found["drive.weight"]], 1)
    elif "first.weight" in found and found["first.weight"].ndim == 2:
        u = found["first.weight"]
        u = u.unflatten(1, (-1, group.order)) if u.shape[1] % group.order == 0 else u[:, None]
    else:
        u = torch.empty(0, 0, 0)
    if w is None or u.shape[-1:] != (group.order,) or w.shape != (group.order, len(u)):
        raise InputError(
            f"{type(model).__name__} has no neurons that read and write {group.order} numbers each, of {group.label}; "
            "give a two_layer_power, quadratic_rnn or tree_net, or a module with their parameter names, for it."
        )
    return u.clone(), w.T.clone()


def neuron_irreps(state: State, group: FiniteGroup) -> Float[Tensor, "neurons parts irreps"]:
    """Share of every irrep in the weights of every neuron, u_i1, …, u_ik and w_i; nan for weights that are zero.

    Args:
        state: Its network is looked at.
        group: The group.

    Raises:
        InputError: If the network has no such neurons.
    """
    power = groups.power(group, _parts(state, group))
    return power / power.sum(-1, keepdim=True)


def carried(state: State, group: FiniteGroup) -> Int64[Tensor, " neurons"]:
    """The irrep with the largest share of what each neuron writes."""
    return groups.power(group, neuron_weights(state.model, group)[1]).argmax(-1)


def rank_one_alignment(state: State, group: FiniteGroup) -> Float[Tensor, "neurons parts"]:
    """Share of the leading singular value in ‖û[ρ]‖_F², for the irrep ρ that each of u_ij, w_i has most of.

    1 where the utility is largest. Singular values of real matrices come ⟨χ, χ⟩ times, twice for the complex type and
    four times for the quaternionic, and count together; nan for weights that are zero.

    Args:
        state: Its network is looked at.
        group: The group.

    Raises:
        InputError: If the network has no such neurons.
    """
    parts = _parts(state, group)
    most = groups.power(group, parts).argmax(-1)
    found = torch.full(most.shape, torch.nan, dtype=torch.float64)
    for index, (irrep, block) in enumerate(zip(groups.irreps(group), groups.fourier(group, parts))):
        squares = torch.linalg.svdvals(block).square()
        share = irrep.norm * squares[..., 0] / squares.sum(-1)
        found = torch.where(most == index, share, found)
    return found


@dataclass(frozen=True)
class Mixing:
    """How a recurrent network passes its state on.

    Attributes:
        irrep: What each neuron writes most of.
        mass: Σ W_mix² between neurons that read one irrep and those that write another, over all, `(irreps, irreps)`.
        off_block: The part of it off the diagonal: what is passed between irreps.
        distance: ‖W_mix − c U W_out‖/‖W_mix‖ with the best factor c; 0 for the exact solution.
        scale: That factor.
    """

    irrep: Tensor
    mass: Tensor
    off_block: float
    distance: float
    scale: float


def mixing(state: State, group: FiniteGroup) -> Mixing:
    """The mixing matrix of a `quadratic_rnn` in blocks of irreps, and beside U W_out.

    The exact solution writes the encoding of the product so far and reads it like a first element (`recurrent_state`).

    Args:
        state: Its network is looked at.
        group: The group.

    Raises:
        InputError: If the network has no mixing matrix, or it is zero.
    """
    u, w = neuron_weights(state.model, group)
    matrix = dict(state.model.named_parameters()).get("mix.weight")
    if matrix is None or not bool(matrix.any()):
        raise InputError(f"{type(state.model).__name__} has no mixing matrix that is not zero; give a quadratic_rnn.")
    mix = matrix.detach().cpu().double()
    reads, writes = (groups.power(group, part).argmax(-1) for part in (u[:, 0], w))
    count = len(groups.irreps(group))
    squares = mix.square() / mix.square().sum()
    mass = torch.zeros(count, count, dtype=torch.float64)
    mass.index_put_((reads[:, None].expand_as(mix), writes.expand_as(mix)), squares, accumulate=True)
    read = u[:, 0] @ w.T
    scale = float((mix * read).sum() / read.square().sum()) if bool(read.any()) else 0.0
    distance = float((mix - scale * read).norm() / mix.norm())
    return Mixing(writes, mass, float(mass.sum() - mass.trace()), distance, scale)


def _parts(state: State, group: FiniteGroup) -> Float[Tensor, "neurons parts elements"]:
    u, w = neuron_weights(state.model, group)
    return torch.cat([u, w[:, None]], 1)


def _answers(state: State, inputs: Tensor) -> Float[Tensor, "n outputs"]:
    with looking(state.model, state.device):
        found = [state.model(piece) for piece in inputs.split(16 * CHUNK)]
    return torch.cat(found).detach().cpu().double()
