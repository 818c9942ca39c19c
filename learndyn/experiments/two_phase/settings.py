"""What can be set, the presets, and what is refused before any time is spent."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from learndyn.dynamics.determinism import check_device
from learndyn.dynamics.perturb import KINDS
from learndyn.errors import InputError, unknown


@dataclass(frozen=True)
class Settings:
    """Twins that differ imperceptibly at t0: how far apart are they at t1?

    Names can carry arguments, as in "mlp(width=64)", and be yours: "package.module:factory" or "my_file.py:factory".

    Attributes:
        task: What is learnt.
        model: The network.
        optimizer: Any of torch.optim in small letters, with its arguments.
        schedule: Factor on the learning rate: constant, cosine, linear, milestones(at=(..)).
        steps: Updates T of a run.
        t0: Steps at which twins are made.
        t1: Steps at which they are compared; those after t0 count.
        horizons: Steps after t0 at which the twins are compared as well, to tell stability from lack of time.
        perturbation: How twins are made different.
        epsilon: Size of the perturbation, in the unit of its kind; for gaussian the norm of the whole vector.
        seeds: Independent base runs: first weights, order of the examples, augmentation.
        directions: Random directions of the perturbation at each t0.
        probes: Random cotangents of the adjoint sweep that predicts the growth; 0 for no prediction.
        points: Points on the line between twins at which the loss is measured.
        dtype: Precision of the network.
        device: Where to compute.
        engine: How twins are trained: one after the other, batched, or the faster by rule.
        threads: CPU threads of one process; part of the settings, because they change bits.
        control: Carry an unperturbed twin from the first t0, whose distance must stay exactly 0.
        data_dir: Where a task finds its files, if it needs any.
        sources: Digests of the files that your own factories come from; filled in by itself.
    """

    task: str = "digits(pixel_noise=0.3, label_noise=0.2)"
    model: str = "mlp(width=128, depth=4, batch_norm=True)"
    optimizer: str = "sgd(lr=1.0, momentum=0.9, weight_decay=5e-4)"
    schedule: str = "cosine"
    steps: int = 1500
    t0: tuple[int, ...] = (0, 100, 225, 300, 400, 500, 600, 700, 850, 1000)
    t1: tuple[int, ...] = (400, 800, 1500)
    horizons: tuple[int, ...] = (100, 300)
    perturbation: str = "gaussian"
    epsilon: float = 1e-7
    seeds: int = 2
    directions: int = 2
    probes: int = 2
    points: int = 11
    dtype: Literal["float32", "float64"] = "float64"
    device: str = "cpu"
    engine: Literal["auto", "loop", "vmap"] = "auto"
    threads: int = 1
    control: bool = True
    data_dir: str | None = None
    sources: tuple[str, ...] = ()


_QUICK = Settings()

PRESETS = {
    "quick": _QUICK,
    "standard": replace(
        _QUICK,
        t0=(0, 50, 100, 150, 225, 300, 400, 500, 600, 700, 850, 1000),
        t1=(300, 600, 1000, 1500),
        seeds=6,
        directions=3,
        probes=4,
        points=21,
    ),
    # Constant learning rate: the chaos does not end.
    "control-chaotic": replace(_QUICK, schedule="constant"),
    # A small network at a small learning rate: it never begins.
    "control-stable": replace(
        _QUICK, model="mlp(width=64, depth=3)", optimizer="sgd(lr=0.03, momentum=0.9, weight_decay=5e-4)"
    ),
    # Twins of a smooth network have no kinks: the prediction holds for every start.
    "smooth": replace(
        _QUICK,
        task="digits(label_noise=0.2)",
        model='mlp(width=64, depth=3, activation="gelu")',
        optimizer="sgd(lr=0.1, momentum=0.9, weight_decay=5e-4)",
        epsilon=1e-9,
    ),
    "paper": Settings(
        task="cifar10",
        model='resnet20(shortcut="conv")',
        optimizer="sgd(lr=0.1, momentum=0.9, weight_decay=1e-4)",
        schedule="constant",  # the windows of the paper lie inside the first stage of the schedule
        steps=2000,
        t0=(0, 100, 200, 300, 400, 500, 1000, 1500),
        t1=(100, 200, 500, 1000, 1500, 2000),
        horizons=(500,),
        seeds=3,
        directions=2,
        points=30,
        dtype="float32",
        device="cuda",
    ),
    "paper-vgg16": Settings(
        task="cifar10",
        model="vgg16",
        optimizer="sgd(lr=0.1, momentum=0.9, weight_decay=1e-4)",
        schedule="constant",
        steps=10000,
        t0=(0, 500, 1000, 1500, 2500, 5000, 7500),
        t1=(2500, 5000, 7500, 10000),
        horizons=(2500,),
        seeds=3,
        directions=2,
        points=30,
        dtype="float32",
        device="cuda",
    ),
}


def validate(settings: Settings) -> None:
    """Refuse what cannot be run.

    Raises:
        InputError: With the value, what was expected, and what to do.
    """
    s = settings
    positive = {"steps": s.steps, "seeds": s.seeds, "directions": s.directions, "threads": s.threads}
    for name, value in positive.items():
        if value < 1:
            raise InputError(f"{name}={value} must be at least 1.")
    if s.probes < 0:
        raise InputError(f"probes={s.probes} must not be negative; 0 means no prediction.")
    if s.points < 3:
        raise InputError(f"points={s.points}: a line with fewer than 3 points has no inside; give at least 3.")
    for name, steps in (("t0", s.t0), ("t1", s.t1), ("horizons", s.horizons)):
        if list(steps) != sorted(set(steps)) or (steps and steps[0] < 0):
            raise InputError(f"{name}={steps} must increase and not be negative.")
    if not s.t0 or not s.t1:
        raise InputError("Give at least one t0 and one t1.")
    if s.t0[-1] >= s.steps:
        raise InputError(
            f"t0={s.t0[-1]} lies at or beyond the end of the run, steps={s.steps}; twins need at least one step."
        )
    if s.t1[-1] > s.steps:
        raise InputError(f"t1={s.t1[-1]} lies beyond the end of the run, steps={s.steps}.")
    if s.t1[-1] <= s.t0[0]:
        raise InputError(f"No t1 in {s.t1} comes after the first t0={s.t0[0]}; nothing would be compared.")
    if s.perturbation not in KINDS:
        raise unknown("perturbation", s.perturbation, KINDS)
    if not (np.isfinite(s.epsilon) and s.epsilon > 0):
        raise InputError(f"epsilon={s.epsilon:g} must be positive and finite.")
    check_device(s.device)
