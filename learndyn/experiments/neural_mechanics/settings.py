"""What can be set, the presets, and what is refused before any time is spent."""

from dataclasses import dataclass, replace
from typing import Literal

from learndyn.dynamics.determinism import check_device
from learndyn.errors import InputError


@dataclass(frozen=True)
class Settings:
    """Charges of symmetries along training runs, measured and predicted.

    Names can carry arguments, as in "mlp(width=64)", and be yours: "package.module:factory" or "my_file.py:factory".

    Attributes:
        task: What is learnt.
        models: The networks.
        optimizers: One run of each network for each of these: any of torch.optim in small letters, with its arguments.
        schedule: Factor on the learning rate: constant, cosine, linear, milestones(at=(..)).
        steps: Updates of a run.
        every: Steps between rows of the record; what moves charges is summed up at every step.
        seeds: Independent runs of each: first weights, order of the examples, augmentation.
        softmax: Dimension of the outputs over which the loss takes its softmax; none means that it takes none.
        dtype: Precision of the network. The sharp claims are about float64.
        device: Where to compute.
        threads: CPU threads of one process; part of the settings, because they change bits.
        data_dir: Where a task finds its files, if it needs any.
        sources: Digests of the files that your own factories come from; filled in by itself.
    """

    task: str = "digits(image=True, batch_size=64)"
    models: tuple[str, ...] = ("small_cnn",)
    optimizers: tuple[str, ...] = (
        "sgd(lr=0.1)",
        "sgd(lr=0.1, weight_decay=1e-2)",
        "sgd(lr=0.02, momentum=0.9, weight_decay=1e-2)",
        "sgd(lr=0.01, momentum=0.99, weight_decay=1e-2)",
        "adamw(lr=2e-3, weight_decay=0.1)",
    )
    schedule: str = "constant"
    steps: int = 1500
    every: int = 1
    seeds: int = 1
    softmax: int | None = -1
    dtype: Literal["float32", "float64"] = "float64"
    device: str = "cpu"
    threads: int = 1
    data_dir: str | None = None
    sources: tuple[str, ...] = ()


_QUICK = Settings()

PRESETS = {
    "quick": _QUICK,
    # Deeper networks, with and without batch normalisation, over settings on both sides of critical damping.
    "standard": replace(
        _QUICK,
        task="digits(image=True, batch_size=128, shift=1)",
        models=("tiny_vgg", "tiny_vgg(batch_norm=False)"),
        optimizers=tuple(
            f"sgd(lr={lr}, momentum={momentum}, weight_decay={decay})"
            for momentum, lr in ((0.0, 0.1), (0.9, 0.02))
            for decay in ("0.0", "5e-4", "1e-2")
        )
        + ("sgd(lr=0.01, momentum=0.99, weight_decay=1e-2)",),
        steps=3000,
        every=10,
        seeds=2,
    ),
    "paper": Settings(
        task="tiny_imagenet(batch_size=256)",
        models=('vgg16(variant="flatten")', 'vgg16(variant="flatten", batch_norm=False)'),
        optimizers=tuple(
            f"sgd(lr=0.1, momentum={momentum}, weight_decay={decay})"
            for momentum in ("0.0", "0.9")
            for decay in ("0.0", "1e-4", "5e-4", "1e-3")
        ),
        steps=39_000,
        every=100,
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
    for name, value in {"steps": s.steps, "every": s.every, "seeds": s.seeds, "threads": s.threads}.items():
        if value < 1:
            raise InputError(f"{name}={value} must be at least 1.")
    if s.steps < 2:
        raise InputError(f"steps={s.steps}: a charge that moves once is no curve; give at least 2.")
    if s.every > s.steps:
        raise InputError(f"every={s.every} is longer than the run, steps={s.steps}.")
    for name, values in (("models", s.models), ("optimizers", s.optimizers)):
        if not values or len(set(values)) < len(values):
            raise InputError(f"{name}={values} must name at least one, and each of them once.")
    check_device(s.device)
