"""Which function stands between two layers, by what it makes of numbers that are sent through it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from learndyn.errors import InputError
from learndyn.neurons import Neuron, activated, linear, of_hidden, power, relu
from learndyn.noise import generator

GRID = 13  # numbers from −3 to 3, 0 among them
CLOSE = 50.0  # units of rounding
SOFT = 0.01  # of ‖w‖‖x‖: half the width of a softened kink
NEAR = 1e-7  # where slopes at 0 are read

KNOWN: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu (tanh)": lambda z: F.gelu(z, approximate="tanh"),
    "silu": F.silu,
    "tanh": torch.tanh,
    "mish": F.mish,
    "elu": F.elu,
    "selu": F.selu,
    "softsign": F.softsign,
    "hardswish": F.hardswish,
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "squared relu": lambda z: F.relu(z).square(),
    "sin": torch.sin,
    "arctan": torch.atan,
    "erf": torch.erf,
}
POWERS = {2: "square", 3: "cube", 4: "fourth power"}


def probes(like: Tensor) -> Tensor:
    """Numbers of a grid, in random places of a tensor of this shape."""
    grid = torch.linspace(-3, 3, GRID)
    which = generator(0, "activation").permutation(like.numel()) % GRID
    return grid[torch.from_numpy(which)].reshape(like.shape).to(like)


def recognised(sent: Tensor, heard: Tensor, place: str, given: Callable[[Tensor], Tensor] | None) -> Any:
    """The name of the function, a slope, a power, or the user's own.

    Raises:
        InputError: If it is no function of one number, has a value at 0, or is unknown.
    """
    if sent.shape != heard.shape:
        raise InputError(
            f"Between the layers {place} shapes change from {tuple(sent.shape)} to {tuple(heard.shape)}: no activation."
        )
    z, h = sent.cpu().double().flatten(), heard.cpu().double().flatten()
    if len(z) < GRID:
        raise InputError(f"{len(z)} numbers between the layers {place} are too few to know the activation.")
    tolerance = CLOSE * torch.finfo(sent.dtype).eps * max(1.0, float(h.abs().max()))
    points, table = z.unique(), []
    for point in points:
        values = h[z == point]
        if not float(values.max() - values.min()) <= tolerance:
            raise InputError(
                f"What stands between the layers {place} is no function of one number at a time: dropout, a "
                "normalisation, a gate or a scale for each unit; units are foretold with an activation alone."
            )
        table.append(values.mean())
    curve = torch.stack(table)
    origin = float(curve[points.abs().argmin()])
    if abs(origin) > tolerance:
        raise InputError(
            f"The activation between {place} is {origin:.3g} at 0: units are never silent, and there is no plateau to "
            "foretell; use one that is 0 there."
        )

    def fits(values: Tensor) -> bool:
        return bool((values - curve).abs().max() <= tolerance)

    if given is not None:
        if not fits(given(points)):
            raise InputError(f"activation is not what stands between {place}: it gives other values from -3 to 3.")
        return given
    slope = -float(curve[points == -1].sum())
    if fits(F.leaky_relu(points, slope)):
        return round(slope, 6)
    for exponent in POWERS:
        if fits(points**exponent):
            return exponent
    for name, function in KNOWN.items():
        if fits(function(points)):
            return name
    raise InputError(f"The activation between {place} is none that is known ({', '.join(KNOWN)}); give activation=.")


def kind(found: Any, outputs: int) -> Neuron:
    """The neuron with this activation."""
    if isinstance(found, float):
        return linear(outputs) if found == 1 else relu(outputs, found + 0.0)
    if isinstance(found, int):
        return power(outputs, found)
    if isinstance(found, str):
        return activated(KNOWN[found], outputs, found)
    return activated(found, outputs)


def softened(neuron: Neuron, outputs: int) -> Neuron:
    """The leading part of a unit of degree 2, a leaky ReLU, with its kink rounded off; of higher ones, as it is.

    Directions can slide along a kink, where an adaptive step has no end. A parabola over |w·x| < 0.01 ‖w‖‖x‖ keeps the
    degree, and keeps units silent that no sample comes near to.
    """
    if neuron.degree != 2:
        return neuron.leading()
    one = torch.tensor([[NEAR], [-NEAR]], dtype=torch.float64)
    probe = torch.cat([one, torch.ones(2, outputs, dtype=torch.float64)], 1)
    up, down = (neuron.outputs(probe, torch.ones(1, 1, dtype=torch.float64))[:, 0, 0] / one[:, 0]).tolist()
    if abs(up - down) < 1e-5 * max(abs(up), abs(down)):
        return of_hidden(neuron.name, 2, lambda w, x: up * (w @ x.T), outputs)

    def hidden(w: Tensor, x: Tensor) -> Tensor:
        z = w @ x.T
        s = SOFT * (w.square().sum(1, keepdim=True) + 1e-300).sqrt() * x.norm(dim=1).clamp_min(1e-150)
        return down * z + (up - down) * torch.where(z > s, z, (z + s).clamp_min(0).square() / (4 * s))

    return of_hidden(neuron.name, 2, hidden, outputs)
