"""Many two-layer ReLU networks at once under full-batch gradient descent: the grid of arXiv:2406.06158, Fig. 1b.

    f(x) = Σ_k a_k max(0, w_k·x),    L = (1/n) Σ_i (f(x_i) − y_i)²,    |w_k|² = (κ − δ)/2,  a_k² = (κ + δ)/2,
    κ = √(δ² + 4τ⁴)

A cell is a pair (τ, δ); every seed has a teacher, data and a base student of its own, which all its cells share up to
the scales of the two layers. Gradients are written out; a piece of the grid that fits into the cache takes all its
steps before the next piece is begun.

`advance_grid` is a function of weights and step and nothing else: a run can be stored at any step and taken up again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.errors import InputError
from learndyn.noise import generator
from learndyn.tasks import Supervised, relu_teacher

CACHE = 2**20  # bytes of one activation buffer of a piece on a CPU; two of them and the data are at work at a time
MEMORY = 2**31  # the same on a GPU, where large pieces are what pays


class Nets(NamedTuple):
    """Weights of all networks: `first` (seeds, cells, units, d) and `last` (seeds, cells, units)."""

    first: Tensor
    last: Tensor


@dataclass(frozen=True, eq=False)
class Grid:
    """Problems, first weights and learning rates of all cells and seeds, on one device and in one precision.

    Attributes:
        tau: Overall scale of each cell, `(cells,)`, float64.
        delta: a² − |w|² of every unit of each cell, `(cells,)`, float64.
        inputs: `(seeds, n, d)`.
        targets: `(seeds, n)`.
        test_inputs: `(seeds, n', d)`.
        test_targets: `(seeds, n')`.
        start: Weights before the first step.
        lr: Learning rate of the loss without ½, `(seeds, cells)`.
    """

    tau: Float[Tensor, " cells"]
    delta: Float[Tensor, " cells"]
    inputs: Float[Tensor, "seeds n d"]
    targets: Float[Tensor, "seeds n"]
    test_inputs: Float[Tensor, "seeds m d"]
    test_targets: Float[Tensor, "seeds m"]
    start: Nets
    lr: Float[Tensor, "seeds cells"]


def grid(
    tau: Sequence[float] | Float[Tensor, " cells"],
    delta: Sequence[float] | Float[Tensor, " cells"],
    seeds: Sequence[int] = (0,),
    tasks: Sequence[Supervised] | None = None,
    width: int = 50,
    symmetrise: bool = True,
    lr: float | Float[Tensor, "seeds cells"] | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Grid:
    """A grid before its first step.

    Args:
        tau: τ of each cell; for all pairs of two lists, the columns of `torch.cartesian_prod`.
        delta: δ of each cell, of either sign.
        seeds: A seed is a base student and, without `tasks`, a problem `relu_teacher(data_seed=seed)` of its own.
        tasks: One regression a seed, inputs `(n, d)` and one number as a target; all of the same sizes.
        width: Hidden units, even if symmetrised.
        symmetrise: The second half of the units repeats the first with opposite readout, so that f = 0 at the start.
        lr: Learning rate of all, or of each; 5e-3/τ² when left out, as in the paper.
        dtype: Precision of the training; what is measured is in float64 always.
        device: Where all this happens.

    Raises:
        InputError: If cells, seeds and tasks do not fit together, or an option is out of its range.
    """
    scales, gaps = (torch.as_tensor(v, dtype=torch.float64).cpu() for v in (tau, delta))
    if scales.ndim != 1 or scales.shape != gaps.shape or not len(scales):
        raise InputError(
            f"tau of shape {tuple(scales.shape)} and delta of shape {tuple(gaps.shape)} are no list of cells; "
            "give one of each for every cell."
        )
    if not bool((scales > 0).all() and scales.isfinite().all() and gaps.isfinite().all()):
        raise InputError("Every tau must be a finite number above 0, and every delta finite.")
    if width < 1 or (symmetrise and width % 2):
        raise InputError(f"width={width} must be positive, and even to be symmetrised; change it or symmetrise=False.")
    if not len(seeds):
        raise InputError("seeds is empty; give at least one.")
    problems = [relu_teacher(dtype="float64", data_seed=seed) for seed in seeds] if tasks is None else list(tasks)
    if len(problems) != len(seeds):
        raise InputError(f"{len(problems)} tasks do not fit {len(seeds)} seeds; give one task each.")
    inputs, targets = _stacked(problems, "train", device, dtype)
    test_inputs, test_targets = _stacked(problems, "test", device, dtype)
    start = _students(scales, gaps, seeds, width, inputs.shape[-1], symmetrise)
    rates = 5e-3 / scales.square() if lr is None else torch.as_tensor(lr, dtype=torch.float64).cpu()
    rates = rates.expand(len(seeds), len(scales))
    if not bool((rates > 0).all() and rates.isfinite().all()):
        raise InputError("Every learning rate must be a finite number above 0.")
    start, rates = Nets(*(part.to(device, dtype) for part in start)), rates.to(device, dtype)
    return Grid(scales, gaps, inputs, targets, test_inputs, test_targets, start, rates)


def _stacked(
    tasks: Sequence[Supervised], split: str, device: torch.device | str, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    batches = [task.evaluation(split) for task in tasks]
    for inputs, targets in batches:
        if inputs.shape != batches[0].inputs.shape or inputs.ndim != 2:
            raise InputError(f"The tasks' {split} inputs must be (n, d) of one size, not {tuple(inputs.shape)}.")
        if targets.numel() != len(inputs) or not targets.is_floating_point():
            raise InputError(f"The tasks' {split} targets must be one real number an example; use a regression.")
    inputs = torch.stack([b.inputs for b in batches]).to(device, dtype)
    return inputs, torch.stack([b.targets.flatten() for b in batches]).to(device, dtype)


def _students(tau: Tensor, delta: Tensor, seeds: Sequence[int], width: int, dimension: int, symmetrise: bool) -> Nets:
    drawn = width // 2 if symmetrise else width
    directions, signs = [], []
    for seed in seeds:
        draw = generator(seed, "grid student")
        w = draw.standard_normal((drawn, dimension))
        s = 2.0 * draw.integers(0, 2, drawn) - 1
        w /= np.linalg.norm(w, axis=1, keepdims=True)
        directions.append(np.concatenate([w, w]) if symmetrise else w)
        signs.append(np.concatenate([s, -s]) if symmetrise else s)
    # a² and |w|² have the product τ⁴ and the difference δ; the larger first, the smaller from the product
    larger = (delta.abs() + torch.hypot(delta, 2 * tau.square())) / 2
    smaller = tau**4 / larger
    a, w_norm = (torch.where(up, larger, smaller).sqrt() for up in (delta >= 0, delta < 0))
    first = w_norm[:, None, None] * torch.from_numpy(np.stack(directions))[:, None]
    return Nets(first, a[:, None] * torch.from_numpy(np.stack(signs))[:, None])


# Descent --------------------------------------------------------------------------------------------------------------


def grid_outputs(nets: Nets, inputs: Float[Tensor, "seeds n d"]) -> Float[Tensor, "seeds cells n"]:
    """Outputs f of every network on the inputs of its seed, the two halves of the units summed apart."""
    return torch.stack(
        [
            torch.stack([weighted(last, (first @ x.T).clamp_(min=0)) for first, last in zip(*of_seed)])
            for x, *of_seed in zip(inputs, *nets)
        ]
    )


def weighted(last: Float[Tensor, "*c units"], hidden: Float[Tensor, "*c units n"]) -> Float[Tensor, "*c n"]:
    """Σ_k a_k h_k, each half of the units summed apart: opposite twins cancel to the last bit."""
    half = last.shape[-1] // 2
    a, b = ((last[..., None, part] @ hidden[..., part, :])[..., 0, :] for part in (slice(half), slice(half, None)))
    return a + b


def advance_grid(grid: Grid, nets: Nets, step: int, until: int, piece: int | None = None) -> tuple[Nets, int]:
    """The weights at step `until` from those at `step`, and `until`: new tensors, the old ones stay.

    Stopping in between changes no bit; another size of the pieces may change the last.

    Args:
        grid: Data and learning rates.
        nets: Weights at `step`.
        step: Updates done.
        until: Updates to have been done.
        piece: Cells of one seed that go through all steps together; as many as fit into the cache when left out (all
            seeds and cells that fit into 2 GiB on a GPU).

    Raises:
        InputError: If `until` lies before `step`, or the weights are not those of this grid.
    """
    if until < step or step < 0:
        raise InputError(f"step={step} and until={until} must be a step from 0 on and a later one.")
    if nets.first.shape != grid.start.first.shape or nets.last.shape != grid.start.last.shape:
        raise InputError(
            f"Weights of shape {tuple(nets.first.shape)} are not of this grid, {tuple(grid.start.first.shape)}."
        )
    first, last = nets.first.clone(), nets.last.clone()
    seeds, cells, units, _ = first.shape
    one = units * grid.inputs.shape[1] * first.element_size()
    on_gpu = first.device.type != "cpu"
    together = max(1, (MEMORY if on_gpu else CACHE) // one)
    piece = min(cells, together) if piece is None else piece
    if piece < 1:
        raise InputError(f"piece={piece} cells cannot be trained; give at least 1.")
    several = max(1, together // cells) if on_gpu and piece >= cells else 1  # seeds in a piece
    for i in range(0, seeds, several):
        for j in range(0, cells, piece):
            here = slice(i, i + several), slice(j, j + piece)
            found = _descend(
                first[here], last[here], grid.inputs[here[0]], grid.targets[here[0]], grid.lr[here], until - step
            )
            first[here], last[here] = found
    return Nets(first, last), until


def _descend(w: Tensor, a: Tensor, x: Tensor, y: Tensor, lr: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Some steps of some networks: a += −η ∂L/∂a and w += −η ∂L/∂w, both from the weights before the step."""
    (s, c, h, d), n = w.shape, x.shape[1]
    w, a = w.reshape(s, c * h, d).clone(), a.reshape(s * c, 1, h).clone()
    z, m = (w.new_empty(s, c * h, n) for _ in range(2))
    gradient, xt, scale = torch.empty_like(w), x.mT, a.view(s, c * h, 1)
    hidden, masked = z.view(s * c, h, n), m.view(s * c, h, n)
    y = y[:, None].expand(s, c, n).reshape(s * c, 1, n)
    factor = (-2 / n * lr).reshape(s * c, 1, 1)
    for _ in range(steps):
        torch.bmm(w, xt, out=z)
        z.clamp_(min=0)
        error = torch.bmm(a, hidden).sub_(y).mul_(factor)  # −η ∂L/∂f, (s c, 1, n)
        # one pass for error where the unit is active and 0 elsewhere
        torch.ops.aten.threshold_backward.grad_input(error.expand(s * c, h, n), hidden, 0, grad_input=masked)
        torch.bmm(m, x, out=gradient)
        w.addcmul_(gradient, scale)
        a += torch.bmm(error, hidden.mT)
    return w.view(s, c, h, d), a.view(s, c, h)


def grid_checkpoints(
    grid: Grid, steps: Sequence[int], nets: Nets | None = None, step: int = 0, piece: int | None = None
) -> Iterator[tuple[int, Nets]]:
    """The weights at some steps, one after the other; from `nets` at `step` on, if a run is taken up again.

    >>> small = grid([0.5, 1.0], [0.0, 1.0], tasks=[relu_teacher(20, 10, 5)], width=4)
    >>> [(step, bool((grid_outputs(nets, small.inputs) == 0).all())) for step, nets in grid_checkpoints(small, [0, 9])]
    [(0, True), (9, False)]

    Args:
        grid: Data and learning rates.
        steps: Increasing steps, such as 1, 10, 100; those before `step` are left out.
        nets: Weights at `step`; the first ones when left out.
        step: Updates done.
        piece: As in `advance_grid`.

    Raises:
        InputError: If the steps do not increase.
    """
    if any(a >= b for a, b in zip(steps, steps[1:])):
        raise InputError(f"steps={list(steps)} must increase.")
    nets = grid.start if nets is None else nets
    for then in steps:
        if then >= step:
            nets, step = advance_grid(grid, nets, step, then, piece)
            yield step, nets
