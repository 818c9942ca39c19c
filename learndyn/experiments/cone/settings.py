"""What can be set, and what is refused before any time is spent."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from learndyn.dynamics import Checkpoints
from learndyn.dynamics.determinism import check_device
from learndyn.errors import InputError, unknown
from learndyn.names import build_model, build_task
from learndyn.observables.ntk import REDUCTIONS
from learndyn.tasks import Task, place


@dataclass(frozen=True)
class Settings:
    """Checkpoints of a run: is its tangent kernel trapped in a cone?

    Names can carry arguments, as in "mlp(width=64)", and be yours: "package.module:factory" or "my_file.py:factory".

    Attributes:
        checkpoints: Folders of checkpoints, one a run; state_dict files in safetensors or torch format, whose names end
            with the step.
        model: The network that was trained.
        task: What it was trained on; the probe inputs come from its training set.
        probe: Inputs between which the kernel is taken.
        reductions: What is done with the outputs of an input; the claims are about the first.
        late: Where the late phase begins, as a fraction of the last step.
        dtype: Precision of the kernels.
        device: Where to compute.
        threads: CPU threads of one process.
        data_dir: Where a task finds its files, if it needs any.
        sources: Digests of the files that your own factories come from; filled in by itself.
    """

    checkpoints: tuple[str, ...] = ()
    model: str = "mlp"
    task: str = "digits"
    probe: int = 48
    reductions: tuple[str, ...] = ("trace", "full", "sum")
    late: float = 0.5
    dtype: Literal["float32", "float64"] = "float32"
    device: str = "cpu"
    threads: int = 1
    data_dir: str | None = None
    sources: tuple[str, ...] = ()


PRESETS = {"quick": Settings(), "standard": Settings(probe=128, threads=2)}


def validate(settings: Settings) -> None:
    """Refuse what cannot be run.

    Raises:
        InputError: With the value, what was expected, and what to do.
    """
    s = settings
    if not s.checkpoints:
        raise InputError("Say where the checkpoints lie: --checkpoints FOLDER, one folder a run.")
    if s.threads < 1:
        raise InputError(f"threads={s.threads} must be at least 1.")
    check_probe(s.probe, s.reductions)
    check_late(s.late)
    check_device(s.device)
    if len({Path(folder).resolve() for folder in s.checkpoints}) < len(s.checkpoints):
        raise InputError("A folder of checkpoints is given twice; every run counts once.")
    for folder in s.checkpoints:
        if not Path(folder).is_dir():
            raise InputError(f"There is no folder {folder}.")
        found = Checkpoints(Path(folder), nn.Identity()).steps
        if len(found) < 3:
            raise InputError(
                f"{folder} holds {len(found)} checkpoints whose names end with a step; a cone takes at least three "
                "(.safetensors, .pt, .pth, .ckpt or .bin)."
            )


def check_probe(probe: int, reductions: tuple[str, ...]) -> None:
    """Refuse a probe set or reductions that cannot be used."""
    if probe < 2:
        raise InputError(f"probe={probe}: a kernel between fewer than 2 inputs has no direction; give at least 2.")
    if not reductions:
        raise InputError("reductions is empty; give at least one of full, trace, sum.")
    for name in reductions:
        if name not in REDUCTIONS:
            raise unknown("reduction", name, REDUCTIONS)


def check_late(late: float) -> None:
    """Refuse a late phase that does not lie within the run."""
    if not 0 < late < 1:
        raise InputError(f"late={late:g} is a fraction of the last step, between 0 and 1.")


def build(settings: Settings) -> tuple[Task, nn.Module]:
    """Task and network as the checkpoints know them.

    Raises:
        InputError: If a name is unknown or a factory fails.
    """
    dtype = getattr(torch, settings.dtype)
    task = place(build_task(settings.task, 0, settings.data_dir), settings.device, dtype)
    return task, build_model(settings.model, task, 0).to(settings.device, dtype)
