"""Gradient descent on a real network, laid under its exact curves."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from learndyn import observables
from learndyn.dynamics import State, flow, start, train
from learndyn.experiments.lambda_balanced.nets import descend, field, looks
from learndyn.experiments.lambda_balanced.settings import Settings
from learndyn.laws import balanced as law
from learndyn.names import build_model, build_task
from learndyn.record import Progress
from learndyn.tasks import Batch, Supervised, half_squared_error

SEEN = 50  # looks along a run
EXAMPLES = 12  # of which the tangent kernel is taken


def regression(inputs: Tensor, targets: Tensor) -> Supervised:
    """All examples at every step, under the loss that the laws are for, in float64."""
    data = Batch(inputs.double(), targets.double())
    size, outputs = data.targets.shape
    return Supervised(data, data, size, criterion=half_squared_error, classes=outputs)


def network(task: Supervised, width: int, lam: float | None, scale: float, seed: int) -> nn.Module:
    """A balanced network of one hidden layer for a task; Gaussian if λ is None."""
    text = f"deep_linear(width={width}, lam={lam!r}, scale={scale!r}, dtype='float64')"
    sizes = SimpleNamespace(input_shape=task.input_shape, classes=task.classes)
    return build_model(text, sizes, seed)


def weights(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Both layers, detached copies."""
    first, second = (p.detach().clone() for p in model.parameters())
    return first, second


OBSERVED: dict[str, Any] = {
    "function": lambda s: weights(s.model)[1] @ weights(s.model)[0],
    "rep_in": lambda s: weights(s.model)[0].T @ weights(s.model)[0],
    "rep_out": lambda s: weights(s.model)[1] @ weights(s.model)[1].T,
    "loss": lambda s: observables.loss(s, "train"),
}


class Books:
    """B = W₂ᵀW₂ − W₁W₁ᵀ of a run by SGD, and what its steps must add: B_{k+1} − B_k = η²(g₂ᵀg₂ − g₁g₁ᵀ), exactly."""

    def __init__(self, model: nn.Module):
        self.first = self.of(*weights(model))
        self.added = torch.zeros_like(self.first)

    @staticmethod
    def of(w1: Tensor, w2: Tensor) -> Tensor:
        """B of two layers."""
        return w2.T @ w2 - w1 @ w1.T

    def __call__(self, state: State) -> None:
        """Enter the step that was just made."""
        g1, g2 = (p.grad for p in state.model.parameters())
        assert g1 is not None and g2 is not None
        self.added += state.lr() ** 2 * (g2.T @ g2 - g1 @ g1.T)


def measure_overlay(settings: Settings, seed: int, progress: Progress) -> xr.Dataset:
    """Every λ: training by torch's SGD, the flow, the law, and what is left as the learning rate is halved.

    Returns:
        Over (lam, look): `loss`, `function`, `rep_in`, `rep_out`, `kernel_distance`, each with its `predicted_`; over
        lam: their largest relative differences `error_*`, `flow_error`, `books_error` (left minus right of the
        bookkeeping), `balance_drift`, both relative to |Q|², `plain_error`, and `engine`, `why`; over (lam, halving):
        `gd_error`.
    """
    inputs, targets = build_task(settings.task, seed, settings.data_dir).evaluation("train")
    task = regression(inputs, targets)
    found = [_one(settings, task, lam, seed, progress) for lam in settings.lams]
    made = xr.concat([one for one, _ in found], "lam").assign_coords(lam=list(settings.lams))
    return made.merge(_halved(settings, task, [pair for _, pair in found], made, progress))


def _one(
    settings: Settings, task: Supervised, lam: float, seed: int, progress: Progress
) -> tuple[xr.Dataset, tuple[Tensor, Tensor]]:
    x, y = task.train
    model = network(task, settings.hidden, lam, settings.scale, seed)
    w1, w2 = weights(model)
    eta, at = settings.rate / (1 + abs(lam)), looks(settings.steps, SEEN)
    times = eta * torch.tensor(at, dtype=torch.float64)
    said = law.curves(w1, w2, x, y, times)
    some = x[:EXAMPLES]
    first = _direction(observables.kernel(model, some, reduction="full").matrix)

    def moved(state: State) -> Tensor:
        now = _direction(observables.kernel(state.model, some, reduction="full").matrix)
        return (now - first).square().sum() / 2

    flowed = flow(model, lambda net: task.loss(net, task.train), times[times > 0], {"function": OBSERVED["function"]})
    books = Books(model)
    run = train(
        start(task, model, partial(torch.optim.SGD, lr=eta)),
        settings.steps,
        {**OBSERVED, "kernel_distance": moved},
        at,
        books,
    )
    progress("overlay", settings.steps)
    predicted = {name: getattr(said, name) for name in OBSERVED}
    reps = (said.rep_in[0], said.rep_out[0], said.rep_in, said.rep_out)
    predicted["kernel_distance"] = law.kernel_distance(*reps, inputs=some)
    dims = {"function": ("output", "input"), "rep_in": ("input", "input_"), "rep_out": ("output", "output_")}
    data: dict[str, Any] = {"time": ("look", times.numpy())}
    for name, values in predicted.items():
        measured = torch.from_numpy(run.series[name].values)
        data[name] = (("look", *dims.get(name, ())), measured.numpy())
        data[f"predicted_{name}"] = (("look", *dims.get(name, ())), values.numpy())
        data[f"error_{name}"] = float((measured - values).abs().max() / values.abs().max())
    by_flow = torch.from_numpy(flowed.series["function"].values)
    data["flow_error"] = float((by_flow - said.function[times > 0]).abs().max() / said.function.abs().max())
    size = float(w1.square().sum() + w2.square().sum())
    change = books.of(*weights(run.state.model)) - books.first
    data |= {"balance_drift": float(change.norm()) / size, "books_error": float((change - books.added).norm()) / size}
    data |= {"engine": said.engine, "why": said.why}
    return xr.Dataset(data, {"look": range(len(at)), "step": ("look", at)}), (w1, w2)


def _halved(
    settings: Settings, task: Supervised, pairs: list[tuple[Tensor, Tensor]], made: xr.Dataset, progress: Progress
) -> xr.Dataset:
    """The error of W₂W₁ at every λ with the learning rate halved once, twice, ..., at the same times."""
    x, y = task.train
    slope = field(y.T @ x / len(x), x.T @ x / len(x))
    w1, w2 = (torch.stack([pair[i] for pair in pairs]) for i in (0, 1))
    rates = torch.tensor([settings.rate / (1 + abs(lam)) for lam in settings.lams], dtype=torch.float64)
    at, said = made.step.values.tolist(), torch.from_numpy(made.predicted_function.values)
    errors = []
    for n in range(settings.halvings):
        path = descend(w1, w2, slope, rates / 2**n, settings.steps * 2**n, [2**n * step for step in at])
        product = (path[1] @ path[0]).transpose(0, 1)  # (lam, look, output, input)
        if n == 0:
            plain = (product - torch.from_numpy(made.function.values)).abs().amax((1, 2, 3))
        errors.append((product - said).abs().amax((1, 2, 3)) / said.abs().amax((1, 2, 3)))
        progress("halved steps", settings.steps * 2**n / 5)
    factors = [2.0**-n for n in range(settings.halvings)]
    data = {"gd_error": (("lam", "halving"), torch.stack(errors, 1).numpy()), "plain_error": ("lam", plain.numpy())}
    return xr.Dataset(data, {"halving": factors, "lam": list(settings.lams)})


def _direction(kernel: Tensor) -> Tensor:
    matrix = kernel.detach().double()
    return matrix / matrix.norm()
