"""The card of a run: what its first weights foretold, and what came (arXiv:2406.06158, section 7 derived here)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from learndyn.dynamics import State, fork, train
from learndyn.errors import InputError
from learndyn.regime.foresight import Foresight, Movement, between, foresee, view
from learndyn.regime.reading import Reading, imbalance
from learndyn.tasks import Batch

NAMES = tuple(field.name for field in fields(Movement))


@dataclass(frozen=True)
class Card:
    """A run, foretold and measured.

    Attributes:
        reading: The imbalance of every hidden unit before the first step.
        foresight: What was foretold.
        curves: By step from the start: `loss` on the sample, `kernel`, `patterns`, `parameters` against the start, and
            `speed` |ΔW| / |W| per step of every layer, since the step before.
        movement: How far the run has gone.
        regime: What it was: "lazy" or "rich"; "rapid rich" if units (or else the kernel) had gone half of their way
            before half of the fall of the loss, "delayed rich" if not before nine tenths of it.
        early: Share of units that had changed sides after a hundredth of the run: an early warning of a rapid one.
        audit: Largest drift of an imbalance, relative to in² + out² of its unit; near 0 for gradient flow.
    """

    reading: Reading
    foresight: Foresight
    curves: xr.Dataset
    movement: Movement
    regime: str
    early: float
    audit: float

    @property
    def agrees(self) -> bool:
        """Whether it was foretold if features would be learnt."""
        return (self.foresight.regime == "lazy") == (self.regime == "lazy")

    @property
    def ratios(self) -> dict[str, float]:
        """Measured over foretold: kernel, patterns, parameters."""
        pairs = {name: (getattr(self.movement, name), getattr(self.foresight.linearised, name)) for name in NAMES}
        return {name: a / b if b > 0 else math.nan for name, (a, b) in pairs.items()}

    def plain(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and dicts."""
        told = vars(self.foresight) | {"linearised": vars(self.foresight.linearised)}
        curves = {str(name): values.values.tolist() for name, values in self.curves.variables.items()}
        return {
            "imbalance": self.reading.plain(),
            "foretold": told,
            "measured": vars(self.movement)
            | {"regime": self.regime, "steps": int(self.curves.step[-1])}
            | {"early": self.early, "audit": self.audit},
            "agrees": self.agrees,
            "curves": curves,
        }


def card(state: State, steps: int, samples: int = 100, points: int = 20) -> Card:
    """Foretell a run, train a copy of it, and lay one over the other.

    Args:
        state: A run before its first step, or at any other; it is left as it was.
        steps: Updates to train.
        samples: Training examples on which networks are compared.
        points: Steps at which to look, evenly spaced in the logarithm.

    Raises:
        InputError: If a number is not positive, the loss is not finite, or the network cannot be read.
    """
    if min(steps, samples, points) < 1:
        raise InputError(f"steps={steps}, samples={samples} and points={points} must be positive.")
    reading, foretold = foretell(state, steps, samples)
    sample, criterion = some(state, samples)
    run, first = fork(state), fork(state).model
    looks = sorted({0, *np.unique(np.geomspace(1, steps, points).round().astype(int)).tolist()})
    begin = view(first, sample.inputs)
    names = [name for name, p in first.named_parameters() if p.requires_grad and p.ndim > 1]
    before: dict[str, Any] = {"step": 0, "weights": _weights(first, names)}

    def gone(state: State) -> Tensor:
        found = between(begin, view(state.model, sample.inputs))
        return torch.tensor([getattr(found, name) for name in NAMES], dtype=torch.float64)

    def loss(state: State) -> Tensor:
        network = fork(state).model.eval()
        with torch.no_grad():
            return criterion(network(sample.inputs), sample.targets)

    def speed(state: State) -> Tensor:
        now, since = _weights(state.model, names), state.step - start - before["step"]
        moved = torch.stack([(a - b).norm() / b.norm() for a, b in zip(now, before["weights"])])
        before.update(step=state.step - start, weights=now)
        return moved / max(since, 1)

    start = run.step
    ran = train(run, steps, {"gone": gone, "loss": loss, "speed": speed}, every=[start + s for s in looks])
    series = ran.series
    if ran.diverged is not None:
        raise InputError(f"The loss is not finite at step {ran.diverged}; give the run a smaller learning rate.")
    values = series.gone.values
    curves = xr.Dataset(
        {
            "loss": ("step", series.loss.values),
            **{name: ("step", values[:, i]) for i, name in enumerate(NAMES)},
            "speed": (("step", "layer"), series.speed.values),
        },
        {"step": series.step.values - start, "layer": names},
    )
    ended = Movement(*values[-1].tolist())
    at = int(np.searchsorted(curves.step.values, max(1, round(0.01 * steps))))
    return Card(
        reading,
        foretold,
        curves,
        ended,
        _named(curves, ended),
        float(curves.patterns.values[at]),
        _drift(reading, imbalance(run.model, sample.inputs)),
    )


def foretell(state: State, steps: int = 1000, samples: int = 100) -> tuple[Reading, Foresight]:
    """What the weights of a state say of its training: `imbalance` and `foresee` on a sample of its task.

    Args:
        state: A run at any step; it is left as it was.
        steps: Updates of the linearised training, of which at most 2000 are made.
        samples: Training examples.

    Raises:
        InputError: As `foresee` does.
    """
    sample, criterion = some(state, samples)
    reading = imbalance(state.model, sample.inputs)
    return reading, foresee(state.model, *sample, criterion, min(steps, 2000), reading=reading)


def some(state: State, samples: int) -> tuple[Batch, Callable[[Tensor, Tensor], Tensor]]:
    """Training examples, and the task's loss on them as a function of outputs and targets."""
    sample = Batch(*(t[:samples] for t in state.task.evaluation("train")))

    def criterion(outputs: Tensor, targets: Tensor) -> Tensor:
        return state.task.loss(lambda _: outputs, Batch(sample.inputs, targets))

    return sample, criterion


def _weights(model: nn.Module, names: list[str]) -> list[Tensor]:
    own = dict(model.named_parameters())
    return [own[name].detach().double().clone() for name in names]


def _named(curves: xr.Dataset, ended: Movement) -> str:
    if not ended.rich:
        return "lazy"
    way = curves.kernel.values if math.isnan(ended.patterns) else curves.patterns.values
    half = int(np.argmax(way >= way[-1] / 2))
    loss = curves.loss.values
    left = (loss[half] - loss.min()) / max(loss[0] - loss.min(), 1e-300)
    return "rapid rich" if left > 0.5 else "delayed rich" if left < 0.1 else "rich"


def _drift(before: Reading, after: Reading) -> float:
    drifts = [
        float(((b.delta - a.delta).abs() / (a.incoming + a.outgoing).clamp_min(1e-300)).max())
        for a, b in zip(before.units, after.units)
        if a.conserved
    ]
    return max(drifts, default=math.nan)
