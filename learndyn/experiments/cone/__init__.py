"""The cone effect, from checkpoints that are already there (arXiv:2505.13900, arXiv:2503.16316).

Is the tangent kernel of a run trapped in a cone, and how narrow is it? Give a folder of state_dict files, the network
and the task; nothing is trained. `learndyn run two-phase` measures the same along runs of its own.
"""

import json
from pathlib import Path

import xarray as xr
from torch import nn

from learndyn.compare import Claim
from learndyn.dynamics import Checkpoints
from learndyn.dynamics.determinism import deterministic
from learndyn.errors import InputError
from learndyn.experiments.cone.claims import cone_claims
from learndyn.experiments.cone.figures import cone_figures
from learndyn.experiments.cone.kernels import add_kernel, dataset, note_network, probe_inputs, read_series
from learndyn.experiments.cone.settings import PRESETS, Settings, build, validate
from learndyn.experiments.cone.summary import cone_answer, cone_notes, cone_tables, kernel_numbers
from learndyn.record import Progress, plain
from learndyn.report.figures import Figure
from learndyn.report.page import Table

TITLE = "The cone effect, from checkpoints"
PAPER = (
    "Z. Zhou, Y. Yang, M. Sugiyama, J. Yan. New Evidence of the Two-Phase Learning Dynamics of Neural Networks. "
    "arXiv:2505.13900, 2025. Z. Zhou, Y. Yang, J. Ren, M. Sugiyama, J. Yan. On the Cone Effect in the Learning "
    "Dynamics. arXiv:2503.16316, 2025."
)
__all__ = [
    "PAPER",
    "PRESETS",
    "TITLE",
    "Settings",
    "claims",
    "figures",
    "gather",
    "lead",
    "measure",
    "notes",
    "parts",
    "tables",
    "validate",
    "work",
]


def parts(settings: Settings) -> list[str]:
    """One part a folder."""
    return [f"run-{i}" for i in range(len(settings.checkpoints))]


def work(settings: Settings) -> float:
    """Units of work of one part: kernels."""
    return max(len(Checkpoints(Path(folder), nn.Identity()).steps) for folder in settings.checkpoints)


def measure(part: str, settings: Settings, folder: Path, progress: Progress) -> None:
    """The kernels of one run, from where it was.

    Raises:
        InputError: If a checkpoint cannot be read, does not fit the network, or has no kernel.
    """
    with deterministic(settings.device, settings.threads):
        task, model = build(settings)
        checkpoints = Checkpoints(Path(settings.checkpoints[int(part.removeprefix("run-"))]), model)
        try:
            probe = probe_inputs(task, settings.probe)
            for step in checkpoints.steps:
                add_kernel(checkpoints[step], step, probe, folder / "kernels" / part, settings.reductions)
                progress("kernels", 1)
        except InputError:
            raise
        except Exception as error:  # a stranger's model on a stranger's task
            raise InputError(
                f"The model {settings.model} does not take the inputs of the task {settings.task}: "
                f"{type(error).__name__}: {str(error).partition(chr(10))[0].rstrip('.')}."
            ) from error


def gather(settings: Settings, folder: Path) -> xr.DataTree:
    """All kernels as labelled arrays."""
    _, model = build(settings)
    with deterministic("cpu", 1):  # the same bits whoever gathers
        found = dataset([read_series(folder / "kernels" / part, settings.reductions) for part in parts(settings)])
    tree = xr.DataTree.from_dict({"/measured": note_network(found, model)})
    tree.attrs["settings"] = json.dumps(plain(settings))
    return tree


def _measured(results: xr.DataTree) -> tuple[xr.Dataset, float]:
    return results["measured"].to_dataset(), json.loads(results.attrs["settings"])["late"]


def claims(results: xr.DataTree) -> list[Claim]:
    """The claims of the paper."""
    return cone_claims(*_measured(results))


def figures(results: xr.DataTree) -> list[Figure]:
    """All figures of the report."""
    return cone_figures(*_measured(results))


def lead(results: xr.DataTree) -> list[str]:
    """What was measured, and the answer."""
    found, late = _measured(results)
    s = json.loads(results.attrs["settings"])
    run = (
        f"{found.sizes['kernel_step']} checkpoints of {s['model']} on {s['task']}, steps "
        f"{int(found.kernel_step[0])} to {int(found.kernel_step[-1])}, from {', '.join(s['checkpoints'])}; tangent "
        f"kernels between {found.attrs['inputs']} training inputs."
    )
    return [run, cone_answer(found, late)]


def notes(results: xr.DataTree) -> list[str]:
    """What could mislead a reader."""
    return cone_notes(_measured(results)[0])


def tables(results: xr.DataTree) -> list[Table]:
    """The cone in numbers."""
    found, late = _measured(results)
    made = cone_tables(found, late)
    return made and [kernel_numbers(found, late), *made]
