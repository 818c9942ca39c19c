"""What became of a grid of two-layer networks, and which of its steps are too long (arXiv:2406.06158, Fig. 1b)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from learndyn.dynamics.grid import Grid, Nets, weighted
from learndyn.dynamics.two_layer_kernel import activation_slopes, direction_distance, two_layer_kernel
from learndyn.errors import InputError
from learndyn.noise import generator


def grid_metrics(grid: Grid, nets: Nets, examples: int | None = None) -> dict[str, Float[Tensor, "seeds cells"]]:
    """What became of every network since the start, float64, on the CPU.

    `kernel_distance` S of the tangent kernel, `kernel_distance_weights` with the patterns of the start and
    `kernel_distance_patterns` with the weights of the start; `hamming`, the sum over units of the share of training
    examples whose side has changed, and `hamming_fraction`, divided by the units; `distance` and `relative_distance` of
    the weights; `train_loss` and `test_loss` without ½; `delta_drift`, the largest change of a unit's a² − |w|².
    A network that has diverged has nan.

    Args:
        grid: Data and first weights.
        nets: Weights now.
        examples: Training examples that kernels and patterns are taken on, the first ones; all when left out.
    """
    rows = []
    for i, (x, y, test_x, test_y) in enumerate(
        zip(*(t.double() for t in (grid.inputs, grid.targets, grid.test_inputs, grid.test_targets)))
    ):
        probe = x[:examples]
        gram = probe @ probe.T
        for j in range(len(grid.tau)):
            old, new = ((n.first[i, j].double(), n.last[i, j].double()) for n in (grid.start, nets))
            rows.append(_measured(old, new, probe, gram) | {
                "train_loss": _loss(new, x, y),
                "test_loss": _loss(new, test_x, test_y),
            })  # fmt: skip
    shape = len(grid.inputs), len(grid.tau)
    return {name: torch.stack([row[name] for row in rows]).cpu().view(shape) for name in rows[0]}


def _measured(old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], probe: Tensor, gram: Tensor) -> dict[str, Tensor]:
    before, after = (activation_slopes(probe @ first.T) for first, _ in (old, new))
    base = two_layer_kernel(probe, *old, slopes=before, gram=gram)

    def moved(net: tuple[Tensor, Tensor], slopes: Tensor) -> Tensor:
        return direction_distance(base, two_layer_kernel(probe, *net, slopes=slopes, gram=gram))

    weights = [torch.cat([first.flatten(), last]) for first, last in (old, new)]
    way = (weights[1] - weights[0]).norm()
    alive = torch.where(way.isfinite(), 0.0, torch.nan)  # comparisons turn nan into a side
    hamming = (before != after).double().mean(0).sum() + alive
    deltas = [last.square() - first.square().sum(1) for first, last in (old, new)]
    return {
        "kernel_distance": moved(new, after),
        "kernel_distance_weights": moved(new, before),
        "kernel_distance_patterns": moved(old, after) + alive,
        "hamming": hamming,
        "hamming_fraction": hamming / before.shape[1],
        "distance": way + alive,
        "relative_distance": way / weights[0].norm() + alive,
        "delta_drift": (deltas[1] - deltas[0]).abs().max() + alive,
    }


def _loss(net: tuple[Tensor, Tensor], x: Tensor, y: Tensor) -> Tensor:
    return (weighted(net[1], (net[0] @ x.T).clamp_(min=0)) - y).square().mean()


def grid_curvature(
    grid: Grid, nets: Nets | None = None, tolerance: float = 1e-6, most: int = 500
) -> Float[Tensor, "seeds cells"]:
    """Largest eigenvalue of the Gauss-Newton matrix of the loss, (2/n) λmax(K), by power iteration on the kernel.

    Gradient descent is stable, for as long as the kernel stays, where the learning rate is below 2 over it: the loss
    without ½ has twice the curvature of the kernel over n. An iteration that stops early gives too little, never too
    much. float64, on the CPU.

    Args:
        grid: Data.
        nets: Weights; the first ones when left out.
        tolerance: Relative change of the eigenvalue at which to stop.
        most: Products with a kernel after which to stop.
    """
    nets = grid.start if nets is None else nets
    found = torch.zeros(len(grid.inputs), len(grid.tau), dtype=torch.float64)
    for i, x in enumerate(grid.inputs.double()):
        n, gram = len(x), x @ x.T
        begin = torch.from_numpy(generator(0, "curvature").standard_normal(n)).to(x)
        for j in range(len(grid.tau)):
            kernel = two_layer_kernel(x, nets.first[i, j].double(), nets.last[i, j].double(), gram=gram)
            v, value, before = begin / begin.norm(), 0.0, -1.0
            for _ in range(most):
                v = kernel @ v
                value = float(v.norm())
                if not value > 0 or abs(value - before) <= tolerance * value:
                    break
                v, before = v / value, value
            found[i, j] = 2 / n * value
    return found


def normalised_lr(grid: Grid, factor: float = 1.0) -> Float[Tensor, "seeds cells"]:
    """Learning rates factor/`grid_curvature`, by which cells of different scales are compared at equal stability.

    A cell is stable at the start below a factor of 2. Give the result to `grid` as `lr`.

    Raises:
        InputError: If the factor is not positive and below 2, or a network is dead.
    """
    if not 0 < factor < 2:
        raise InputError(f"factor={factor:g} must lie between 0 and 2, beyond which gradient descent diverges.")
    sharpness = grid_curvature(grid)
    if not bool((sharpness > 0).all()):
        raise InputError("A network of the grid has a tangent kernel of zero, so no step is too large for it.")
    return factor / sharpness


def diverging(grid: Grid) -> Bool[Tensor, "seeds cells"]:
    """Which cells have a learning rate above 2/`grid_curvature` of the start, with which the loss grows at once."""
    return grid.lr.double().cpu() * grid_curvature(grid) > 2


def refuse_divergence(grid: Grid) -> None:
    """Refuse a grid that has `diverging` cells.

    Raises:
        InputError: With the first of these cells, and the learning rate that it could have.
    """
    bad = diverging(grid).nonzero()
    if len(bad):
        i, j = (int(k) for k in bad[0])
        limit = float(grid.lr[i, j])
        raise InputError(
            f"{len(bad)} of {grid.lr.numel()} networks will diverge, first tau={float(grid.tau[j]):g}, "
            f"delta={float(grid.delta[j]):g} with lr={limit:.3g}; give less, such as normalised_lr(grid)."
        )
