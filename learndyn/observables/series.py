"""Tangent kernels along a run, on disk: one file each, never all in memory, found again when asked for again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from learndyn.errors import InputError, unknown
from learndyn.observables.ntk import Kernel, kernel
from learndyn.storage import ByStep, load_tree, read_json, save_tree, write_json

MEMORY = 2**28  # bytes of kernels that the Gram matrix of a series holds at a time


def kernel_distance(first: Tensor, second: Tensor) -> Float[Tensor, ""]:
    """S = 1 − ⟨H, H′⟩ / (‖H‖ ‖H′‖), as ½‖H/‖H‖ − H′/‖H′‖‖², which keeps its digits near 0 (arXiv:2505.13900).

    Raises:
        InputError: If the shapes differ, or a norm is zero or not finite.
    """
    if first.shape != second.shape:
        raise InputError(f"Kernels of shapes {tuple(first.shape)} and {tuple(second.shape)} have no distance.")
    directions = []
    for matrix in (first.double(), second.double()):
        norm = float(matrix.norm())
        if not 0 < norm < math.inf:
            raise InputError(f"A kernel has the norm {norm:g}, hence no direction.")
        directions.append(matrix / norm)
    return 0.5 * (directions[0] - directions[1]).square().sum()


def alignment(matrix: Tensor, targets: Tensor, centred: bool = True) -> Float[Tensor, ""]:
    """Kernel-target alignment ⟨H, Y Yᵀ⟩ / (‖H‖ ‖Y Yᵀ‖), between −1 and 1.

    Args:
        matrix: Symmetric kernel, `(n, n)`, or `(n·c, n·c)` with the outputs of a sample side by side.
        targets: Classes `(n,)`, or numbers `(n, c)`.
        centred: Take the mean over samples off kernel and targets first; else a kernel whose entries are all positive
            is aligned with whatever targets.

    Raises:
        InputError: If the targets do not fit the kernel.
    """
    y = targets.cpu()
    if not y.is_floating_point():
        classes = len(matrix) // len(y) if len(matrix) > len(y) else int(y.max()) + 1
        if int(y.min()) < 0 or int(y.max()) >= classes:
            raise InputError(f"Classes {int(y.min())} to {int(y.max())} do not fit a kernel of {classes} outputs.")
        y = torch.nn.functional.one_hot(y.long().flatten(), classes)
    y, h = y.double().reshape(len(targets), -1), matrix.cpu().double()
    n, c = y.shape
    if len(h) not in (n, n * c):
        raise InputError(f"{len(h)} rows of a kernel do not fit {n} targets of {c} numbers each.")
    if centred:
        y = y - y.mean(0)
        blocks = h.view(n, len(h) // n, n, len(h) // n)
        blocks = blocks - blocks.mean(0, keepdim=True)
        h = (blocks - blocks.mean(2, keepdim=True)).reshape(h.shape)
    y = y if len(h) == n else y.reshape(-1, 1)
    ideal = y @ y.T
    return (h * ideal).sum() / (h.norm() * ideal.norm())


@dataclass(frozen=True)
class KernelSeries(ByStep):
    """Symmetric kernels of one network on the same inputs, in one reduction, by step.

    Attributes:
        folder: Where they lie, `000500.safetensors` and so on.
    """

    def add(self, step: int, found: Kernel, targets: Tensor | None = None) -> None:
        """Store a kernel, its layers' shares, and what is asked for of each kernel alone.

        Raises:
            InputError: If the kernel has no direction, or is not that of one set of inputs with itself.
        """
        matrix = found.matrix
        if matrix.shape[0] != matrix.shape[1]:
            raise InputError(f"A series takes kernels of one set of inputs with itself, not {tuple(matrix.shape)}.")
        norm = float(matrix.double().norm())
        if not 0 < norm < math.inf:
            raise InputError(f"The kernel of step {step} has the norm {norm:g}, hence no direction.")
        if float((matrix - matrix.T).double().norm()) > 1e-4 * norm:
            raise InputError(
                f"The kernel of step {step} is not symmetric: a series takes kernels of one set of inputs."
            )
        tree = {
            "step": step,
            "inputs": len(matrix) // (found.outputs if found.reduction == "full" else 1),
            "kernels": {"": _packed(matrix), **{name: _packed(share) for name, share in found.layers.items()}},
            "norm": norm,
            "trace": float(matrix.diagonal().double().mean()),
            "alignment": math.nan if targets is None else float(alignment(matrix, targets)),
            "residual": found.residual,
        }
        save_tree(self.path(step), tree)

    def get(self, step: int, layer: str = "") -> Tensor:
        """The kernel of a step, whole, or a layer's share of it."""
        return _unpacked(self._read(step, layer))

    def numbers(self, name: str) -> Float[Tensor, " steps"]:
        """What was noted of every kernel: its "norm" ‖H‖, its mean diagonal ("trace"), its "alignment" with the targets
        (centred), the "residual" of its certificate.
        """
        found = [load_tree(self.path(step), (name,))[name] for step in self.steps]
        return torch.tensor(found, dtype=torch.float64)

    @property
    def inputs(self) -> int:
        """Size n of the probe set."""
        return self._first("inputs")

    @property
    def layers(self) -> list[str]:
        """Names of the layers whose shares are there too."""
        return [name for name in self._first("kernels") if name]

    def _first(self, name: str) -> Any:
        if not self.steps:
            raise InputError(f"{self.folder} holds no kernels.")
        return load_tree(self.path(self.steps[0]), (name,))[name]

    def gram(
        self, layer: str = "", without: Tensor | None = None, memory: float = MEMORY
    ) -> Float[Tensor, "steps steps"]:
        """All inner products ⟨H_s, H_t⟩, float64, from a few kernels at a time; what `cone` works on.

        Args:
            layer: A layer's share in the place of the whole kernel.
            without: Numbers of inputs that shall not count, for a jackknife over the probe set.
            memory: Bytes of kernels to hold at a time.

        Raises:
            InputError: If there are fewer than three kernels, or one of them is of another kind.
        """
        steps = self.steps
        if len(steps) < 3:
            raise InputError(f"{self.folder} holds {len(steps)} kernels; a series takes at least three.")
        first = self._read(steps[0], layer)
        kept = self._kept(first, without)
        block = max(1, int(memory / (8 * len(first))) - 1)
        found = torch.zeros(len(steps), len(steps), dtype=torch.float64)
        for begin in range(0, len(steps), block):
            held = torch.stack([self._read(step, layer, len(first)) for step in steps[begin : begin + block]])
            rows = slice(begin, begin + len(held))
            weighted = held * kept
            found[rows, rows] = weighted @ held.T
            for other in range(begin + len(held), len(steps)):
                found[rows, other] = weighted @ self._read(steps[other], layer, len(first))
        return found.triu() + found.triu(1).T

    def _read(self, step: int, layer: str, length: int | None = None) -> Tensor:
        kernels = load_tree(self.path(step), ("kernels",))["kernels"]
        if layer not in kernels:
            raise unknown(f"layer in {self.path(step)}", layer, kernels)
        if length not in (None, len(kernels[layer])):
            raise InputError(f"{self.path(step)} does not belong to the other kernels of {self.folder}; delete it.")
        return kernels[layer].double()

    def _kept(self, packed: Tensor, without: Tensor | None) -> Tensor:
        """How often each entry of a packed kernel counts: off the diagonal twice, of what is left out never."""
        size = _size(packed)
        rows = torch.ones(size)
        if without is not None:
            rows.view(self.inputs, -1)[without] = 0
        weights = 2 * torch.outer(rows, rows)
        return _packed(weights - torch.diag(rows)).double()


def _packed(matrix: Tensor) -> Tensor:
    """The diagonal, then what lies above it, of a symmetric matrix."""
    above = torch.triu_indices(len(matrix), len(matrix), 1, device=matrix.device)
    return torch.cat([matrix.diagonal(), matrix[above[0], above[1]]]).cpu()


def _size(packed: Tensor) -> int:
    return (math.isqrt(8 * len(packed) + 1) - 1) // 2


def _unpacked(packed: Tensor) -> Tensor:
    size = _size(packed)
    matrix = torch.diag(packed[:size])
    above = torch.triu_indices(size, size, 1)
    matrix[above[0], above[1]] = matrix[above[1], above[0]] = packed[size:]
    return matrix


def kernel_series(
    models: Callable[[int], nn.Module],
    steps: Iterable[int],
    inputs: Tensor,
    folder: Path,
    targets: Tensor | None = None,
    reductions: Sequence[str] = ("trace",),
    after: Callable[[int], None] | None = None,
    **options: Any,
) -> dict[str, KernelSeries]:
    """The kernels of a run at some steps; those that are on disk already are not computed again.

    Args:
        models: Gives the network of a step, such as `Checkpoints.__getitem__` or `lambda t: trajectory[t].model`.
        steps: Which steps.
        inputs: The probe set `(n, ...)`, the same for all.
        folder: Where to keep them, one folder below for each reduction.
        targets: What the inputs stand for, for the alignment.
        reductions: One or several; if "full" is among them, the others are taken from it.
        after: Called with each step that is done.
        **options: Of `kernel`: parameters, function, batch_norm, layers, memory. A full kernel is kept without its
            layers' shares, each as large as itself, unless it is the only one.

    Returns:
        The series by reduction.

    Raises:
        InputError: If the folder holds kernels of other inputs or options, or a kernel cannot be computed.
    """
    folder = Path(folder)
    series = {name: KernelSeries(folder / name) for name in reductions}
    told = {name: value for name, value in options.items() if name not in ("memory", "certificate", "function")}
    wanted = {"inputs": _digest(inputs), "reductions": list(reductions)}
    wanted |= {name: getattr(value, "__qualname__", str(value)) for name, value in sorted(told.items())}
    note = folder / "series.json"
    begun = note.exists() and any(folder.glob("*/*.safetensors"))
    if begun and (kept := read_json(note)) != wanted:
        odd = next(name for name in {**kept, **wanted} if kept.get(name) != wanted.get(name))
        raise InputError(f"{folder} holds kernels with other {odd}; choose another folder, or delete it.")
    for step in steps:
        lacking = [name for name, one in series.items() if not one.path(step).exists()]
        if lacking:
            try:
                made = _reductions(models(step), inputs, reductions, lacking, options)
            except InputError as error:
                raise InputError(f"Step {step}: {error}") from error
            if not begun:
                write_json(note, wanted)
                begun = True
            for found in made:
                series[found.reduction].add(step, found, targets)
        if after is not None:
            after(step)
    return series


def _reductions(
    model: nn.Module, inputs: Tensor, reductions: Sequence[str], lacking: Sequence[str], options: dict[str, Any]
) -> list[Kernel]:
    if "full" not in reductions:
        return [kernel(model, inputs, reduction=name, **options) for name in lacking]
    full = kernel(model, inputs, reduction="full", **options)
    found = [full.reduced(name) for name in lacking]
    return [replace(k, layers={}) if k.reduction == "full" and len(set(reductions)) > 1 else k for k in found]


def _digest(inputs: Tensor) -> str:
    data = inputs.detach().cpu().contiguous()
    content = data.reshape(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.blake2b(f"{tuple(data.shape)} {data.dtype}".encode() + content, digest_size=8).hexdigest()
