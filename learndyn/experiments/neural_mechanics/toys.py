"""The paper's toys: the three symmetries of two parameters, and what a finite step changes."""

from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from learndyn.laws import charges
from learndyn.noise import generator
from learndyn.report.figures import Figure
from learndyn.report.style import COLOURS, style

SIDE = 15  # arrows along an axis


def softmax_loss(w: Tensor) -> Tensor:
    """Two class weights at one input, class 0: invariant under adding the same to both."""
    return torch.logsumexp(w, -1) - w[..., 0]


def normalised_loss(w: Tensor) -> Tensor:
    """A neuron with two weights in front of batch normalisation over 32 inputs: invariant under scaling both."""
    draw = torch.from_numpy(generator(0, "toy inputs").standard_normal((32, 2)))
    target = torch.from_numpy(generator(0, "toy targets").standard_normal(32))
    z = w @ draw.T
    z = z - z.mean(-1, keepdim=True)
    return (z / z.square().mean(-1, keepdim=True).sqrt() - target).square().mean(-1)


def product_loss(w: Tensor) -> Tensor:
    """Y = w2 w1 x with x = y = 1: invariant under w1 → a w1, w2 → w2 / a."""
    return (1 - w[..., 0] * w[..., 1]).square() / 2


TOYS: tuple[tuple[str, str, Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]], ...] = (
    ("translation: softmax", "$w_1 + w_2$", softmax_loss, lambda w: w.sum(-1)),
    ("scale: batch norm", "$w_1^2 + w_2^2$", normalised_loss, lambda w: w.square().sum(-1)),
    ("rescale: linear", "$w_2^2 - w_1^2$", product_loss, lambda w: w[..., 1].square() - w[..., 0].square()),
)


def field(loss: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """−∇L at each of `points` (..., 2)."""
    at = points.clone().requires_grad_(True)
    return -torch.autograd.grad(loss(at).sum(), at)[0]


def _grid(count: int) -> Tensor:
    line = torch.linspace(-1, 1, count, dtype=torch.float64) + 1e-3  # off the singular origin
    return torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)


def toy_symmetries() -> Figure:
    """Gradient fields with the level lines of the charges, which they never cross (the paper's Figs. 2 and 3)."""
    with style():
        drawing, axes = plt.subplots(1, 3, figsize=(10.5, 3.6))
        for ax, (title, words, loss, charge) in zip(axes, TOYS):
            fine, coarse = _grid(80), _grid(SIDE)
            ax.contour(fine[..., 0], fine[..., 1], charge(fine), levels=9, cmap="viridis", linewidths=1.2)
            flow = field(loss, coarse)
            length = flow.norm(dim=-1, keepdim=True)
            flow = flow / length.clamp_min(1e-12) * (length / length.median()).clamp(max=1) ** 0.25
            ax.quiver(coarse[..., 0], coarse[..., 1], flow[..., 0], flow[..., 1], color="black", alpha=0.75, scale=22)
            ax.set(xlabel="$w_1$", ylabel="$w_2$", title=f"{title}\nconserved: {words}", aspect="equal")
    caption = (
        "Negative gradients (arrows, lengths compressed) of three losses of two weights, and level lines of the charge "
        "of each one's symmetry. Arrows run along the lines: gradient flow conserves the charge; a finite step "
        "leaves it outwards on scale, and towards the longer side on rescale."
    )
    return Figure("toy-symmetries", drawing, caption)


def modified_equations() -> Figure:
    """Euler's steps against the flow and the modified flow (the paper's Fig. 4 and its quadratic loss)."""
    with style():
        drawing, axes = plt.subplots(1, 2, figsize=(8.4, 3.8))
        turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
        _follow(axes[0], turn, torch.tensor([1.0, 0.0], dtype=torch.float64), 0.1, 100)
        axes[0].set(title="rotation field, η = 0.1, 100 steps", xlabel="$θ_1$", ylabel="$θ_2$", aspect="equal")
        bowl = torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64))
        _follow(axes[1], bowl, torch.tensor([1.0, 1.0], dtype=torch.float64), 0.1, 20)
        axes[1].set(title="quadratic loss, eigenvalues 4 and 1, η = 0.1", xlabel="$θ_1$", ylabel="$θ_2$")
        axes[1].legend()
    caption = (
        "What a finite step changes. Left: around the centre of a rotation gradient flow stays on its circle, Euler's "
        "steps leave it as e^(ηt/2), and so does the flow of the modified equation. Right: on a quadratic loss the "
        "steps follow the flow of L + (η/4)|∇L|² to order η²."
    )
    return Figure("modified-equations", drawing, caption)


def _follow(ax: plt.Axes, matrix: Tensor, begin: Tensor, lr: float, steps: int) -> None:
    points = [begin]
    for _ in range(steps):
        points.append(points[-1] - lr * matrix @ points[-1])
    taken = torch.stack(points)
    times = torch.linspace(0, lr * steps, 400, dtype=torch.float64)
    flow, modified = (charges.linear_flow(matrix, begin, times, rate) for rate in (0.0, lr))
    ax.plot(taken[:, 0], taken[:, 1], "o", color=COLOURS[0], markersize=3, label="steps")
    ax.plot(flow[:, 0], flow[:, 1], color="grey", linewidth=1, label="gradient flow")
    ax.plot(modified[:, 0], modified[:, 1], "--", color="black", linewidth=1.1, label="modified flow")
