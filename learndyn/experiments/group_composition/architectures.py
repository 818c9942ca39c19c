"""What architecture buys: exact weights tried out, and the width that training needs, against the length of sequences.

Networks of all widths and seeds are trained together by Adam, narrow ones filled up with units whose weights are all
zero. Such a unit has a gradient of zero, because its activation is flat there, and stays.
"""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from learndyn import groups
from learndyn.experiments.group_composition.settings import Settings, group_of
from learndyn.groups import FiniteGroup
from learndyn.names import build_model
from learndyn.noise import generator
from learndyn.record import Progress

ARCHITECTURES = ("two_layer_power", "quadratic_rnn", "tree_net")
TRIED = 2000  # sequences on which exact weights are tried, if there are more
REACHED = 0.01  # relative loss: a reduction of 99 %

Weights = dict[str, Tensor]


def outputs(architecture: str, weights: Weights, inputs: Tensor) -> Tensor:
    """Outputs `(nets, batch, N)` of stacked networks; those of the modules in `learndyn.models`."""

    def times(x: Tensor, name: str) -> Tensor:
        return x @ weights[name].mT

    if architecture == "two_layer_power":
        h = times(inputs.flatten(1), "first.weight") ** inputs.shape[1]
    elif architecture == "quadratic_rnn":
        h = times(inputs[:, 0], "first.weight")
        for t in range(1, inputs.shape[1]):
            h = (h + times(inputs[:, t], "drive.weight")).square()
            if t < inputs.shape[1] - 1:
                h = times(h, "mix.weight")
    else:
        nodes = inputs.transpose(0, 1)[:, None]  # (nodes, 1, batch, N)
        layer = 0
        while len(nodes) > 1:
            left, right = (weights[f"{side}.{layer}"][:, 0].mT for side in ("left", "right"))
            nodes, layer = (nodes[0::2] @ left + nodes[1::2] @ right).square(), layer + 1
        h = nodes[0]
    return times(h, "last.weight")


def stacked(architecture: str, task: Any, widths: list[int], seeds: int, scale: float) -> Weights:
    """Freshly initialised networks of all widths and seeds, width first, filled up with zeros to the widest."""
    states = [
        build_model(f"{architecture}(width={width}, scale={scale})", task, seed).state_dict()
        for width in widths
        for seed in range(seeds)
    ]
    widest = states[(len(widths) - 1) * seeds]
    whole = {name: torch.zeros(len(states), *t.shape) for name, t in widest.items()}
    for i, state in enumerate(states):
        for name, t in state.items():
            place: Any = (i, *(slice(0, size) for size in t.shape))
            whole[name][place] = t
    return whole


def encoded(group: FiniteGroup, x: Tensor, length: int, padded: bool, most: int | None = None) -> groups.Encoded:
    """All sequences, or a sample of them, followed by identities up to a power of two for trees."""
    if most is not None and group.order**length > most:
        elements = torch.from_numpy(generator(0, "tried").integers(0, group.order, (most, length)))
    else:
        elements = groups.all_sequences(group, length)
    if padded:
        rest = (1 << (length - 1).bit_length()) - length
        elements = torch.nn.functional.pad(elements, (0, rest), value=group.identity)
    return groups.encode(group, x, elements)


def relative_losses(
    settings: Settings, text: str, architecture: str, length: int, widths: list[int], progress: Progress
) -> Tensor:
    """Loss after training over that of the network that answers 0, `(width, seed)`."""
    s, group = settings, group_of(text)
    x = groups.one_hot(group)
    x = x * (group.order**0.5 / x.norm())
    inputs, targets = (t.float() for t in encoded(group, x, length, architecture == "tree_net"))
    task = SimpleNamespace(input_shape=tuple(inputs.shape[1:]), classes=group.order)
    weights = stacked(architecture, task, widths, s.width_seeds, s.width_scale)
    for t in weights.values():
        t.requires_grad_()
    optimizer = torch.optim.Adam(weights.values(), lr=s.width_rate)
    for step in range(s.width_steps):
        optimizer.param_groups[0]["lr"] = s.width_rate * 0.5 * (1 + math.cos(math.pi * step / s.width_steps))
        optimizer.zero_grad()
        loss = (outputs(architecture, weights, inputs) - targets).square().sum(-1).mean(-1) / 2
        loss.sum().backward()
        optimizer.step()
        progress("widths", 1)
    with torch.no_grad():
        last = (outputs(architecture, weights, inputs) - targets).square().sum(-1).mean(-1) / 2
    return (last / (0.5 * targets.square().sum(-1).mean())).double().reshape(len(widths), s.width_seeds)


def scaled_widths(settings: Settings, needed: int) -> list[int]:
    """Widths to train, one for each factor."""
    return [max(1, round(factor * needed)) for factor in settings.factors]


def needed_width(group: FiniteGroup, length: int) -> int:
    """Hidden units of the exact two-layer solution for a one-hot encoding."""
    return groups.predict(group, groups.one_hot(group), length).neurons


def measure_sequence(settings: Settings, architecture: str, number: int, progress: Progress) -> xr.Dataset:
    """One architecture on sequences of one length, at all widths.

    Returns:
        Over (factor, width_seed): `sequence_loss`; over factor: `sequence_width`; `predicted_sequence_width`, that of
        the exact solution.
    """
    length = settings.sequence_lengths[number]
    group = group_of(settings.sequence_group)
    needed = needed_width(group, length if architecture == "two_layer_power" else 2)
    widths = scaled_widths(settings, needed)
    loss = relative_losses(settings, settings.sequence_group, architecture, length, widths, progress)
    return _widths("sequence", settings, loss, widths, needed)


def measure_width(settings: Settings, number: int, progress: Progress) -> xr.Dataset:
    """Two-layer networks on one group, at all widths.

    Returns:
        Over (factor, width_seed): `width_loss`; over factor: `width_width`; `predicted_width_width`, that of the exact
        solution.
    """
    text, length = settings.width_groups[number], settings.width_lengths[number]
    needed = needed_width(group_of(text), length)
    widths = scaled_widths(settings, needed)
    loss = relative_losses(settings, text, "two_layer_power", length, widths, progress)
    return _widths("width", settings, loss, widths, needed)


def _widths(name: str, settings: Settings, loss: Tensor, widths: list[int], needed: int) -> xr.Dataset:
    reached = [w for w, best in zip(widths, loss.nan_to_num(math.inf).min(1).values.tolist()) if best <= REACHED]
    data: dict[str, Any] = {
        f"{name}_loss": (("factor", "width_seed"), loss.numpy()),
        f"{name}_tried": ("factor", widths),
        f"{name}_width": float(min(reached)) if reached else math.inf,
        f"predicted_{name}_width": float(needed),
    }
    return xr.Dataset(data, {"factor": list(settings.factors)})


def exact_state(group: FiniteGroup, x: Tensor, architecture: str, length: int) -> dict[str, Tensor]:
    """Constructed weights of one of the architectures."""
    if architecture == "two_layer_power":
        return groups.two_layer_state(group, x, length)
    return groups.recurrent_state(group, x) if architecture == "quadratic_rnn" else groups.tree_state(group, x, length)


def measure_exact(settings: Settings, progress: Progress) -> xr.Dataset:
    """Constructed weights in the modules themselves, on all sequences or a sample.

    Returns:
        Over (exact_group, exact_length, architecture): `exact_error`, the largest over the template's largest, and
        `exact_width`; nan where there is none. Widths `predicted_exact_width` from the irreps alone.
    """
    shape = len(settings.exact_groups), len(settings.exact_lengths), len(ARCHITECTURES)
    error, width, said = (np.full(shape, np.nan) for _ in range(3))
    for i, text in enumerate(settings.exact_groups):
        group = group_of(text)
        x = groups.generic(group, [0.0, *(1.0 * irrep.dimension for irrep in groups.irreps(group)[1:])])
        x = groups.from_data(group, x)
        for j, length in enumerate(settings.exact_lengths):
            for m, architecture in enumerate(ARCHITECTURES):
                of = length if architecture == "two_layer_power" else 2
                count = groups.predict(group, x, of).neurons
                tree = architecture == "tree_net"
                if count > settings.exact_most or (tree and length & (length - 1)):
                    continue
                state = exact_state(group, x, architecture, length)
                inputs, targets = encoded(group, x, length, tree, TRIED)
                task = SimpleNamespace(input_shape=tuple(inputs.shape[1:]), classes=group.order)
                found = state["last.weight"].shape[1]
                net = build_model(f"{architecture}(width={found})", task, 0).double()
                net.load_state_dict(state)
                with torch.no_grad():
                    off = (net(inputs) - targets).abs().max()
                error[i, j, m], width[i, j, m], said[i, j, m] = float(off / x.abs().max()), found, count
                progress("exact weights", 10)
    dims = ("exact_group", "exact_length", "architecture")
    data = {"exact_error": (dims, error), "exact_width": (dims, width), "predicted_exact_width": (dims, said)}
    coords = {"exact_group": list(settings.exact_groups), "exact_length": list(settings.exact_lengths)}
    return xr.Dataset(data, coords | {"architecture": list(ARCHITECTURES)})
