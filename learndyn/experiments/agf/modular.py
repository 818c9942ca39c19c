"""Quadratic neurons that learn modular addition: Fourier features in the order of their magnitude."""

import math

import numpy as np
import torch
import xarray as xr
from scipy.optimize import minimize
from torch import Tensor

from learndyn import groups
from learndyn.compare import drops, half_power, staircase_score
from learndyn.dynamics import vanishing_flow
from learndyn.experiments.agf.attention import seen
from learndyn.experiments.agf.settings import Settings, template
from learndyn.laws import staircase as law
from learndyn.neurons import Sampled, Start, compressed, gaussian, power, sampled
from learndyn.noise import generator
from learndyn.record import Progress

LOOKS = 400
TRIES = 4
MOST = 30  # neurons' activations that are kept


def addition(settings: Settings) -> Sampled:
    """All p² pairs."""
    p = settings.modulus
    group = groups.cyclic(p)
    data = groups.encode(group, template(settings), groups.all_sequences(group, 2))
    return sampled(power(p, 2), data.inputs.flatten(1), data.targets, 3 * p)


def problem(settings: Settings, seed: int) -> tuple[Sampled, Start]:
    """The same with weights in the span of the inputs, and first neurons."""
    p = settings.modulus
    return compressed(addition(settings), gaussian(settings.neurons, (p, p, p), settings.modular_alpha, seed=seed))


def best_loss(settings: Settings, count: int, frequency: int, seed: int) -> float:
    """Least loss of a few neurons of one frequency, by quasi-Newton steps from random phases."""
    task, p = addition(settings), settings.modulus
    draw = generator(seed, "few neurons", count).standard_normal((TRIES, count, 3, 2))
    angles = 2 * math.pi * frequency * np.arange(p) / p
    waves = draw @ np.stack([np.cos(angles), np.sin(angles)])  # u, v and w, (tries, neurons, 3, p)

    def slope(theta: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(theta.reshape(count, -1)).requires_grad_()
        loss = task.loss(leaf)
        (found,) = torch.autograd.grad(loss, leaf)
        return float(loss.detach()), found.flatten().numpy()

    return min(float(minimize(slope, wave.ravel(), jac=True, method="L-BFGS-B").fun) for wave in waves)


def measure_modular(settings: Settings, seed: int, progress: Progress) -> xr.Dataset:
    """The flow under the general algorithm, from the same neurons.

    Returns:
        Over modular_look: `modular_time`, `modular_loss`, `predicted_modular_loss`; with frequency
        `modular_amplitude`, of the outputs over that of the targets, root mean square over inputs, and
        `predicted_modular_amplitude`; over frequency: `modular_half`, when half of its power is there,
        `predicted_modular_first` and `predicted_modular_last` activation, `predicted_modular_bound`,
        `modular_mismatch`, |φ_u + φ_v − φ_w − φ_x| at the first activation, `modular_needed`, activations of it; over
        few: `predicted_modular_best`, the least loss of one and of two neurons of the first frequency; over
        modular_plateau: `modular_levels` with `predicted_`; over activation: `predicted_modular_steps` (times),
        `predicted_modular_step_levels`, `modular_step_frequency`; `modular_log_ratio`, the mean |ln| between both
        curves.
    """
    task, start = problem(settings, seed)
    x, p = template(settings), settings.modulus
    modes = law.modular_staircase(x, float(start.log_norms.exp().max()))
    said = law.alternate(task, start)
    progress("alternating", 400)
    run = vanishing_flow(task, start, 1.3 * float(said.times[-1]))
    progress("flow", 400)
    times = torch.logspace(math.log10(0.1 * float(said.times[0])), math.log10(float(run.times[-1])), LOOKS).double()
    times[-1] = run.times[-1]
    weights, loss = seen(task, run, times)
    frequencies = list(modes.frequencies)
    amplitude = torch.stack([_amplitudes(task, theta, frequencies) for theta in weights])
    settled = torch.cat([torch.zeros_like(said.settled[:1]), said.settled])
    steps = torch.stack([_amplitudes(task, theta, frequencies) for theta in settled])
    which = torch.searchsorted(said.times, times, right=True)
    woken = [(e.time, e.direction) for e in said.events if e.kind == "activation" and e.direction is not None]
    events = [(time, _frequency(direction, p), direction) for time, direction in woken]
    by = {k: [time for time, found, _ in events if found == k] for k in frequencies}
    first = {k: next((d for _, found, d in events if found == k), None) for k in frequencies}
    found = drops(times, loss, modes.staircase.levels.numpy())
    score = staircase_score(times, loss, said.times, said.levels.cummin(0).values)
    kept = slice(0, MOST)
    blank = np.full(MOST, np.nan)
    activations = {"predicted_modular_steps": said.times, "predicted_modular_step_levels": said.levels[1:],
                   "modular_step_frequency": torch.tensor([f for _, f, _ in events])}  # fmt: skip
    data = {
        "modular_time": ("modular_look", times.numpy()),
        "modular_loss": ("modular_look", loss.numpy()),
        "predicted_modular_loss": ("modular_look", said.loss(times).numpy()),
        "modular_amplitude": (("modular_look", "frequency"), amplitude.numpy()),
        "predicted_modular_amplitude": (("modular_look", "frequency"), steps[which].numpy()),
        "modular_half": ("frequency", [half_power(times, column, 1.0).step or math.nan for column in amplitude.T]),
        "predicted_modular_first": ("frequency", [min(by[k], default=math.nan) for k in frequencies]),
        "predicted_modular_last": ("frequency", [max(by[k], default=math.nan) for k in frequencies]),
        "predicted_modular_bound": ("frequency", modes.staircase.times.numpy()),
        "modular_mismatch": ("frequency", [_mismatch(task, first[k], x, k) for k in frequencies]),
        "modular_needed": ("frequency", [float(len(by[k])) for k in frequencies]),
        "modular_levels": ("modular_plateau", found.levels),
        "predicted_modular_levels": ("modular_plateau", modes.staircase.levels.numpy()),
        "modular_log_ratio": score.log_ratio,
        "predicted_modular_best": ("few", [best_loss(settings, count, frequencies[0], seed) for count in (1, 2)]),
    }
    for name, values in activations.items():
        row = blank.copy()
        row[: min(len(values), MOST)] = values[kept].numpy()
        data[name] = ("activation", row)
    return xr.Dataset(data, {"frequency": frequencies})


def _frequency(direction: Tensor, p: int) -> int:
    """The strongest Fourier mode of the outgoing weights, which are the last p numbers."""
    return 1 + int(torch.fft.rfft(direction[-p:]).abs()[1:].argmax())


def _amplitudes(task: Sampled, theta: Tensor, frequencies: list[int]) -> Tensor:
    """Of the outputs over that of the targets, at every frequency."""
    awake = theta[theta.norm(dim=1) > 0]
    if not len(awake):
        return torch.zeros(len(frequencies), dtype=torch.float64)
    outputs = task.neuron.answer(awake, task.inputs)
    spectra = (torch.fft.rfft(values, dim=1)[:, frequencies] for values in (outputs, task.targets))
    mine, wanted = (spectrum.abs().square().mean(0) for spectrum in spectra)
    return (mine / wanted).sqrt()


def _mismatch(task: Sampled, direction: Tensor | None, x: Tensor, frequency: int) -> float:
    """|φ_u + φ_v − φ_w − φ_x| in radians, φ_u read from u·x_a over a, which is û times the conjugate of x̂."""
    if direction is None:
        return math.nan
    p = len(x)
    reads = (task.inputs @ direction[:-p]).view(p, p)
    u, v = (torch.fft.fft(reads.mean(1 - axis))[frequency].angle() for axis in (0, 1))
    w, phase = torch.fft.fft(direction[-p:])[frequency].angle(), torch.fft.fft(x)[frequency].angle()
    off = float(u + v + phase - w)
    return abs(math.remainder(off, 2 * math.pi))
