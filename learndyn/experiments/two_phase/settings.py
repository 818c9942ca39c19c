"""What can be set, the presets, and what is refused before any time is spent."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from learndyn.dynamics.determinism import check_device
from learndyn.dynamics.perturb import KINDS
from learndyn.errors import InputError, unknown
from learndyn.experiments.cone.settings import check_late, check_probe


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
        kernels: Tangent kernels of a base run, evenly spaced from first to last step, at most; 0 for none.
        probe: Inputs between which the kernel is taken.
        reductions: What is done with the outputs of an input; the claims are about the first.
        late: Where the late phase begins, in which the cone is looked for, as a fraction of all steps.
        switches: Steps at which a copy of a base run is replaced by its linearisation and trained on; those before the
            end count.
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
    kernels: int = 31
    probe: int = 48
    reductions: tuple[str, ...] = ("trace", "full", "sum")
    late: float = 0.5
    switches: tuple[int, ...] = (0, 800)
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
        switches=(0, 50, 150, 300, 400, 600, 800, 1000),
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
    # A convolutional network at a constant rate: the kernel's cone, and what a linearised network would lose.
    "cone": replace(
        _QUICK,
        task="digits(pixel_noise=0.5, shift=1, image=True)",
        model="tiny_vgg",
        optimizer="sgd(lr=0.05, momentum=0.9, weight_decay=1e-4)",
        schedule="constant",
        t0=(0, 50, 100, 200, 400, 700, 1000),
        t1=(500, 1500),
        directions=1,
        dtype="float32",
        epsilon=1e-3,
        switches=(0, 30, 100, 300, 700),
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
        kernels=21,
        probe=200,
        switches=(0, 100, 200, 500, 1000, 1500),
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
        kernels=21,
        probe=200,
        switches=(0, 200, 1000, 2500, 5000, 7500),
        dtype="float32",
        device="cuda",
    ),
}


def kernel_steps(settings: Settings) -> list[int]:
    """Steps of a base run whose tangent kernels are taken."""
    if settings.kernels == 0 or settings.steps < 2:
        return []
    return list(range(0, settings.steps + 1, -(-settings.steps // (settings.kernels - 1))))


def switch_steps(settings: Settings) -> list[int]:
    """Steps at which a base run is linearised."""
    return [step for step in settings.switches if step < settings.steps]


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
    for name, steps in (("t0", s.t0), ("t1", s.t1), ("horizons", s.horizons), ("switches", s.switches)):
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
    if s.kernels < 0 or s.kernels in (1, 2):
        raise InputError(f"kernels={s.kernels}: a cone takes at least 3 kernels; 0 means none.")
    check_probe(s.probe, s.reductions)
    check_late(s.late)
    if s.perturbation not in KINDS:
        raise unknown("perturbation", s.perturbation, KINDS)
    if not (np.isfinite(s.epsilon) and s.epsilon > 0):
        raise InputError(f"epsilon={s.epsilon:g} must be positive and finite.")
    check_device(s.device)
