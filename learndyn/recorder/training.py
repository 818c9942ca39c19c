"""Training under a recorder that can be killed and goes on."""

import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from learndyn.dynamics.state import State
from learndyn.dynamics.train import train
from learndyn.dynamics.trajectory import pack, unpack
from learndyn.errors import InputError
from learndyn.recorder.recorder import Recorder
from learndyn.storage import load_tree, save_tree

CHECKPOINT_SECONDS = 30.0
PIECE = 50  # steps between two looks at the clock


def train_recorded(
    state: State,
    laws: Iterable[Any],
    steps: int,
    every: int,
    folder: Path,
    progress: Callable[[str, float], None],
) -> tuple[State, Float[Tensor, " steps"]]:
    """Train until so many steps are done, from where a killed process has left a checkpoint.

    Args:
        state: The run before its first step.
        laws: What the recorder follows.
        steps: Updates in all.
        every: Steps between rows.
        folder: Where the checkpoint lies, and the record in `record`.
        progress: Called with what is being done and the steps done since the last call.

    Returns:
        The last state, and the loss of every step.

    Raises:
        InputError: If the loss is not finite, or the record cannot be written.
    """
    kept, record = folder / "checkpoint.safetensors", folder / "record"
    losses: list[Tensor] = []
    begun = None
    if kept.exists():
        tree = load_tree(kept, ("state", "losses"))
        state, losses = unpack(tree["state"], state, str(kept)), [tree["losses"]]
        begun = state.step
        progress("training", begun)
    else:
        shutil.rmtree(record, ignore_errors=True)
    piece = every * max(1, PIECE // every)
    with Recorder(state.model, state.optimizer, laws, every=every, to=record, step=begun) as recorder:
        saved = time.monotonic()
        while state.step < steps and not recorder.failed:
            number = min(piece, steps - state.step)
            run = train(state, number)
            if run.diverged is not None:
                raise InputError(f"The run diverged at step {run.diverged}; lower its learning rate.")
            state = run.state
            losses.append(run.loss)
            progress("training", number)
            due = time.monotonic() - saved > CHECKPOINT_SECONDS or state.step == steps
            if due and not recorder.failed:
                save_tree(kept, {"state": pack(state), "losses": torch.cat(losses)})
                saved = time.monotonic()
        if recorder.failed:
            raise InputError(f"Cannot write {record}. Make room, then run the same command again.")
    return state, torch.cat(losses)
