"""Plain modules trained by torch's SGD with momentum on MSELoss, and their steps turned into flow time."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from learndyn import groups
from learndyn.compare import drops
from learndyn.dynamics import start, train, vanishing_flow
from learndyn.experiments.agf.settings import Settings
from learndyn.laws import staircase as law
from learndyn.names import build_model
from learndyn.neurons import Sampled, Start, polar, power, sampled
from learndyn.noise import generator
from learndyn.record import Progress
from learndyn.tasks.supervised import Batch, Supervised, mean_squared_error

VALUES = (3.0, 1.5, 0.6)  # singular values of the linear module's task, all inputs white
OUTPUTS, WIDTH, LINEAR_SCALE = 4, 10, 1e-4
MODULUS, MAGNITUDE, NEURONS, POWER_SCALE = 5, 4.0, 8, 0.02
LOOKS = 300
REST = 0.15  # of the first loss: beyond the last drop the steps are too large


def measure_modules(settings: Settings, seed: int, progress: Progress) -> xr.Dataset:
    """A linear and a quadratic module: what SGD did against what was said of its first weights.

    Steps of finite size grow as e^{σt(1 − σh(½ + μ/(1 − μ)))}, h the flow time of a step, to first order (derived here
    from the roots of heavy-ball descent): drops of the linear module come later by that part, its lag.

    Returns:
        Over module_look: `linear_module_time`, flow time of a step, `linear_module_loss` (in units of L, by the factor
        of `flow_time`), `predicted_linear_module_loss`; over module_mode `linear_module_jumps` with `predicted_`, and
        `predicted_linear_module_lag`; with prefix quadratic_module the same curves, the prediction
        being the flow of the neurons, and `predicted_alternated_module_loss`, the steps; `quadratic_module_jump` with
        `predicted_`; `quadratic_module_rate`.
    """
    return xr.merge([_linear(settings, seed, progress), _quadratic(settings, seed, progress)])


def _trained(
    model: nn.Module, inputs: Tensor, targets: Tensor, settings: Settings, rate: float, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Flow times and L of every step of SGD on torch's mean squared error, all examples at once."""
    data, outputs, momentum = Batch(inputs, targets), targets.shape[1], settings.momentum
    task = Supervised(data, data, len(inputs), criterion=mean_squared_error, classes=outputs)
    optimizer: Callable = lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=momentum)  # noqa: E731
    run = train(start(task, model, optimizer), settings.module_steps)
    progress("modules", settings.module_steps / 10)
    factor = 2 / outputs  # of the gradient, and of the loss
    times = law.flow_time(1, rate, momentum, factor) * np.arange(settings.module_steps)
    return times, run.loss.numpy() / factor


def _looks(times: np.ndarray) -> np.ndarray:
    return np.unique(np.linspace(0, len(times) - 1, LOOKS).astype(int))


def _rate(time: float, settings: Settings, outputs: int) -> float:
    """Learning rate with which the steps make this flow time."""
    return time / law.flow_time(settings.module_steps, 1.0, settings.momentum, 2 / outputs)


def _linear(settings: Settings, seed: int, progress: Progress) -> xr.Dataset:
    modes, size = len(VALUES), len(VALUES)
    left = np.linalg.qr(generator(seed, "linear module").standard_normal((OUTPUTS, OUTPUTS)))[0][:, :modes]
    inputs = size**0.5 * torch.eye(size, dtype=torch.float64)
    targets = inputs @ torch.from_numpy((left * VALUES).T)
    text = f"deep_linear(width={WIDTH}, lam=None, scale={LINEAR_SCALE!r}, dtype='float64')"
    model = build_model(text, SimpleNamespace(input_shape=(size,), classes=OUTPUTS), seed)
    w, a = (p.detach().clone() for p in model.parameters())
    cov, corr = inputs.T @ inputs / size, targets.T @ inputs / size
    found = law.linear_staircase(cov, corr, WIDTH)
    x = law.linear_seed(found, w, a)
    due = law.linear_times(found, x)
    times, loss = _trained(model, inputs, targets, settings, _rate(1.25 * float(due[-1]), settings, OUTPUTS), progress)
    seen = drops(times, loss, found.staircase.levels.numpy(), log=False)
    at = _looks(times)
    curves = law.linear_curves(found, x, torch.from_numpy(times[at]))
    step = times[1] * (0.5 + settings.momentum / (1 - settings.momentum))
    said = (found.values * found.growth * (1 - curves / found.values) ** 2).sum(1) / 2
    return xr.Dataset(
        {
            "linear_module_time": ("module_look", times[at]),
            "linear_module_loss": ("module_look", loss[at]),
            "predicted_linear_module_loss": ("module_look", said.numpy()),
            "linear_module_jumps": ("module_mode", seen.times),
            "predicted_linear_module_jumps": ("module_mode", due.numpy()),
            "predicted_linear_module_lag": ("module_mode", (step * found.growth * due).numpy()),
        }
    )


def neurons_of(model: nn.Module) -> Start:
    """First weights of a two-layer module as neurons θ = (w, a)."""
    w, a = (p.detach().double() for p in model.parameters())
    return polar(torch.cat([w, a.T], 1))


def modular_problem() -> Sampled:
    """Addition modulo p with one frequency, all p² pairs."""
    group = groups.cyclic(MODULUS)
    x = groups.magnitudes(group, {1: MAGNITUDE}, {1: 1.0})
    data = groups.encode(group, x, groups.all_sequences(group, 2))
    return sampled(power(MODULUS, 2), data.inputs.flatten(1), data.targets, 3 * MODULUS)


def _quadratic(settings: Settings, seed: int, progress: Progress) -> xr.Dataset:
    task = modular_problem()
    text = f"two_layer_power(width={NEURONS}, degree=2, scale={POWER_SCALE!r})"
    model = build_model(text, SimpleNamespace(input_shape=(2 * MODULUS,), classes=MODULUS), seed).double()
    first = neurons_of(model)
    steps = law.alternate(task, first, rest=REST)
    run = vanishing_flow(task, first, 1.5 * float(steps.times[-1]), rest=REST)
    end = float(run.times[-1])
    rate = _rate(end, settings, MODULUS)
    times, loss = _trained(model, task.inputs, task.targets, settings, rate, progress)
    at = _looks(times)
    said = torch.stack([task.loss(run.at(min(float(t), end)).weights()) for t in times[at]])
    levels = [float(steps.levels[0]), 0.0]
    seen = [drops(t, value, levels, log=False).times[0] for t, value in ((times, loss), (run.times, run.loss))]
    return xr.Dataset(
        {
            "quadratic_module_time": ("module_look", times[at]),
            "quadratic_module_loss": ("module_look", loss[at]),
            "predicted_quadratic_module_loss": ("module_look", said.numpy()),
            "predicted_alternated_module_loss": ("module_look", steps.loss(torch.from_numpy(times[at])).numpy()),
            "quadratic_module_jump": seen[0],
            "predicted_quadratic_module_jump": seen[1],
            "rate": rate,
        }
    ).rename(rate="quadratic_module_rate")
