"""Same inputs, same bits: the settings that a replay needs, and the test that they are enough."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from learndyn.dynamics.state import State, fork, vector
from learndyn.dynamics.train import train
from learndyn.errors import InputError


@contextmanager
def deterministic(device: torch.device | str, threads: int = 1) -> Iterator[None]:
    """A fixed number of threads; on a GPU, deterministic kernels without TF32. Everything is afterwards as it was.

    On a CPU the kernels of training are deterministic for a fixed number of threads; `check_replay` sees
    where one is not.

    Raises:
        InputError: If `threads` is not positive or the device is not there.
    """
    device = check_device(device)
    if threads < 1:
        raise InputError(f"threads={threads} must be at least 1.")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with _deterministic_gpu() if device.type == "cuda" else nullcontext():
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _deterministic_gpu() -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = (torch.are_deterministic_algorithms_enabled(), matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first CUDA handle is made
    torch.use_deterministic_algorithms(True)
    matmul.allow_tf32 = cudnn.allow_tf32 = cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before[1:]


def check_device(name: torch.device | str) -> torch.device:
    """A device that exists.

    Raises:
        InputError: If torch does not know the name, or there is no such device here.
    """
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"There is no device {str(name)!r} here ({str(error).splitlines()[0]}); use cpu, or install a torch for it."
        ) from error
    return device


def check_replay(state: State, steps: int = 3) -> None:
    """Train two forks for a few steps and compare all bits: what an experiment on twins stands on.

    Raises:
        InputError: If the task gives a batch that depends on more than the step, or training does not repeat itself.
    """
    step = state.step + 1
    first, _, again = state.task.batch(step), state.task.batch(state.step), state.task.batch(step)
    if not all(torch.equal(a, b) for a, b in zip(first, again)):
        raise InputError(
            f"{type(state.task).__name__}.batch({step}) gave two different batches when asked twice; "
            "derive all its randomness from (seed, step), for instance with learndyn.noise.generator."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a, b = (train(fork(state), steps) for _ in range(2))
    if a.diverged is None and not torch.equal(vector(a.state.model), vector(b.state.model)):
        raise InputError(
            f"Training the same state twice for {steps} steps gave different weights on {state.device}: twins would "
            f"part without any perturbation. Look for a model with randomness of its own or a kernel that is not "
            f"deterministic."
        )
