"""What can be set, the presets, and what is refused before any time is spent."""

from dataclasses import dataclass, replace
from typing import Literal

from learndyn.dynamics.determinism import check_device
from learndyn.errors import InputError
from learndyn.names import parse

NET = "mlp(width=32, depth=2, batch_norm=True, bias=False, eps=1e-12)"


@dataclass(frozen=True)
class Settings:
    """Weights in front of a normalisation under SGD: do their norms act as an adaptive optimizer?

    Names can carry arguments, as in "mlp(width=64)", and be yours: "package.module:factory" or "my_file.py:factory".

    Attributes:
        task: What is learnt.
        model: A network with normalisation.
        optimizers: Runs to make, each by its optimizer of torch.optim in small letters, with its arguments. The laws
            are those of sgd without nesterov, with coupled decay; of adam and adamw only angles are predicted.
        schedule: Factor on the learning rate: constant, cosine, linear, milestones(at=(..)).
        steps: Updates of a run.
        every: Steps between the rows of a record; Noether's charge and the exact law need every single one.
        points: Rows of a run that are kept in the results, at most.
        late: Where equilibrium is looked for, as a fraction of all steps.
        seeds: Independent repetitions: first weights, order of the examples.
        twin: Train the RMSProp twin of every run by sgd without momentum.
        normalised: Network of the sweep over learning rates.
        unnormalised: The same without normalisation.
        rates: Learning rates of their hidden weights; no sweep if there are none.
        sweep_steps: Updates at each of these rates.
        dtype: Precision of the runs.
        device: Where to compute.
        threads: CPU threads of one process; part of the settings, because they change bits.
        data_dir: Where a task finds its files, if it needs any.
        sources: Digests of the files that your own factories come from; filled in by itself.
    """

    task: str = "digits"
    model: str = NET
    optimizers: tuple[str, ...] = (
        "sgd(lr=0.25, weight_decay=1e-2)",
        "sgd(lr=0.05, momentum=0.9, weight_decay=1e-2)",
        "sgd(lr=0.01, momentum=0.99, weight_decay=1e-2)",
        "adamw(lr=3e-3, weight_decay=0.5)",
    )
    schedule: str = "constant"
    steps: int = 1500
    every: int = 1
    points: int = 101
    late: float = 0.7
    seeds: int = 2
    twin: bool = True
    normalised: str = "mlp(width=64, depth=3, batch_norm=True)"
    unnormalised: str = "mlp(width=64, depth=3)"
    rates: tuple[float, ...] = (0.01, 0.1, 1.0, 3.0, 10.0)
    sweep_steps: int = 300
    dtype: Literal["float32", "float64"] = "float64"
    device: str = "cpu"
    threads: int = 1
    data_dir: str | None = None
    sources: tuple[str, ...] = ()


_QUICK = Settings()

PRESETS = {
    "quick": _QUICK,
    "standard": replace(
        _QUICK,
        optimizers=(
            "sgd(lr=0.1, weight_decay=5e-3)",
            "sgd(lr=0.1, weight_decay=1e-2)",
            "sgd(lr=0.5, weight_decay=1e-2)",
            "sgd(lr=0.02, momentum=0.9, weight_decay=1e-2)",
            "sgd(lr=0.05, momentum=0.9, weight_decay=1e-2)",
            "sgd(lr=0.01, momentum=0.99, weight_decay=1e-2)",
            "adamw(lr=3e-3, weight_decay=0.5)",
            "adamw(lr=2e-3, weight_decay=0.5, betas=(0.0, 0.999))",
        ),
        steps=4000,
        points=201,
        seeds=4,
        rates=(0.01, 0.1, 0.3, 1.0, 3.0, 10.0),
        sweep_steps=600,
    ),
    # Convolutions with biases and the usual eps, momentum and a schedule: a network as it is trained.
    "vgg": replace(
        _QUICK,
        task="digits(image=True, shift=1)",
        model="tiny_vgg",
        optimizers=(
            "sgd(lr=0.1, momentum=0.9, weight_decay=5e-4)",
            "sgd(lr=0.1, momentum=0.9, weight_decay=5e-3)",
        ),
        schedule="cosine",
        dtype="float32",
        rates=(),
    ),
    "paper": replace(
        _QUICK,
        task="tiny_imagenet(batch_size=128)",
        model='vgg16(variant="flatten")',
        optimizers=(
            "sgd(lr=0.1, momentum=0.9, weight_decay=5e-4)",
            "sgd(lr=0.01, momentum=0.9, weight_decay=5e-4)",
            "sgd(lr=0.1, weight_decay=5e-4)",
        ),
        steps=39000,
        every=10,
        points=391,
        seeds=1,
        twin=False,
        rates=(),
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
    for name in ("seeds", "threads", "every", "sweep_steps"):
        if getattr(s, name) < 1:
            raise InputError(f"{name}={getattr(s, name)} must be at least 1.")
    if s.steps < 4 * s.every:
        raise InputError(f"steps={s.steps} gives fewer than 4 windows of every={s.every} steps; give more steps.")
    if s.points < 5:
        raise InputError(f"points={s.points}: a curve takes at least 5.")
    if not 0 < s.late < 1:
        raise InputError(f"late={s.late:g} is a fraction of all steps, between 0 and 1.")
    if not s.optimizers or len(set(s.optimizers)) < len(s.optimizers):
        raise InputError("Give at least one optimizer, and none of them twice.")
    for text in s.optimizers:
        parse(text)
    if any(not 0 < rate < float("inf") for rate in s.rates) or list(s.rates) != sorted(set(s.rates)):
        raise InputError(f"rates={s.rates} must be positive and increase.")
    check_device(s.device)
