"""How an infinitely small perturbation grows: tangent dynamics forward, its adjoint backward (arXiv:2505.13900).

With g = ∇L_t(θ) and H = ∇²L_t(θ), a training step (θ, b) → U(θ, b, g) has the derivative U′·(δθ, δb, H δθ); for SGD
with momentum μ and coupled decay λ this is δm′ = μ δm + (H+λ) δθ, δθ′ = δθ − η δm′. With the transposed steps, one
sweep back in time gives the amplification from *every* earlier step: E‖δ_T‖²/‖ε‖² = ‖M_θθ(t0→T)‖²_F / P ≈ mean over
probes of ‖a_t0‖² / P.

Curvature products are double backward passes; forward-over-reverse costs two to four times as much on a CPU. They do
not see the kinks of ReLU and max-pooling: the growth found here is that of the limit ε → 0. Vectors lie in rows `(k,
P)`, in the order of `trainable(model)`.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from learndyn.dynamics.state import State, fork, trainable
from learndyn.dynamics.train import update
from learndyn.errors import InputError
from learndyn.noise import generator, isolated, seed_forward
from learndyn.optimizers.rules import Buffers, Rule, read_buffers, rule
from learndyn.storage import load_tree, save_tree

RESCALE = 8  # steps between two rescalings of the cotangents, within which they stay far from overflow in float32, too
TAPE_BYTES = 2**30  # memory that a recorded stretch of a run may take


@dataclass(frozen=True)
class Point:
    """What the derivative of one training step depends on: parameters and buffers before it, as vectors `(P,)`."""

    step: int
    theta: Tensor
    buffers: Buffers
    done: int


@contextlib.contextmanager
def twice_differentiable() -> Iterator[None]:
    """Fused attention and recurrent kernels have no second derivative; the plain ones do."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def split(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """A vector `(P,)` cut into the shapes of these tensors."""
    return [piece.view(p.shape) for piece, p in zip(flat.split([p.numel() for p in like]), like)]


def _linearise(state: State) -> tuple[Tensor, Callable[[Tensor], Tensor], Tensor | None]:
    """Gradient `(P,)` of the coming step's loss, the product of its Hessian with rows `(k, P)`, and which coordinates
    the loss depends on, None for all: torch.optim leaves the others alone, weight decay and all.
    """
    parameters = list(trainable(state.model).values())

    def flatten(tensors: Sequence[Tensor | None]) -> Tensor:
        return torch.cat(
            [(torch.zeros_like(p) if t is None else t.detach()).flatten() for t, p in zip(tensors, parameters)]
        )

    state.model.train()
    seed_forward(state.seed, state.step, state.device)
    with twice_differentiable():
        loss = state.task.loss(state.model, state.task.batch(state.step))
        slopes = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    curved = [i for i, g in enumerate(slopes) if g is not None and g.requires_grad]
    bent = [slopes[i] for i in curved]

    def product(rows: Tensor) -> Tensor:
        if not curved:
            return torch.zeros_like(rows)
        products = []
        with twice_differentiable():
            for row in rows:
                pieces = split(row, parameters)
                outward = [pieces[i] for i in curved]
                products.append(
                    flatten(torch.autograd.grad(bent, parameters, outward, retain_graph=True, allow_unused=True))
                )
        return torch.stack(products)

    reached = None
    if any(g is None for g in slopes):
        reached = torch.cat(
            [torch.full_like(p, g is not None, dtype=torch.bool).flatten() for g, p in zip(slopes, parameters)]
        )
    return flatten(slopes), product, reached


def _point(state: State, law: Rule) -> Point:
    parameters = trainable(state.model)
    buffers, done = read_buffers(state.optimizer, parameters, law.buffers)
    return Point(state.step, torch.cat([p.detach().flatten() for p in parameters.values()]), buffers, done)


def record(state: State, steps: int) -> list[Point]:
    """Train for `steps` updates, in place, and keep the points that the derivative needs: (1 + buffers) · P numbers
    a step.
    """
    law = rule(state.optimizer, trainable(state.model))
    points = []
    with isolated(state.device):
        for _ in range(steps):
            points.append(_point(state, law))
            state, _ = update(state)
    return points


def _at(scratch: State, point: Point) -> State:
    """The scratch state with the parameters of a point."""
    parameters = list(trainable(scratch.model).values())
    with torch.no_grad():
        for p, piece in zip(parameters, split(point.theta, parameters)):
            p.copy_(piece)
    return State(point.step, math.nan, scratch.model, scratch.optimizer, scratch.task, scratch.schedule)


def _derivative(law: Rule, scratch: State, point: Point, slope: Tensor) -> list[list[Tensor]]:
    """The derivative of U, coordinate by coordinate: entry [i][j] is that of its i-th output (θ', b') with respect to
    its j-th input (θ, b, gradient), `(P,)` or one number for all coordinates.
    """
    factor = scratch.schedule(point.step)

    def stepped(theta: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        theta, after = law.apply(theta, rest[:-1], rest[-1], factor, point.done)
        return theta, *after

    where = (point.theta, *point.buffers, slope)
    if law.linear:
        zeros = [t.new_zeros(()) for t in where]
        columns = [stepped(*zeros[:j], torch.ones_like(zeros[j]), *zeros[j + 1 :]) for j in range(len(zeros))]
        return [list(row) for row in zip(*columns)]
    where = tuple(t.detach().requires_grad_() for t in where)
    after = stepped(*where)
    return [list(torch.autograd.grad(t.sum(), where, retain_graph=True, materialize_grads=True)) for t in after]


def push(scratch: State, point: Point, rows: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Tangent vectors (δθ, δb, ...) after the step that begins at a point, from those before it; each `(k, P)`."""
    law = rule(scratch.optimizer, trainable(scratch.model))
    slope, product, reached = _linearise(_at(scratch, point))
    inputs = (*rows, product(rows[0]))
    after = [_combine(part, inputs) for part in _derivative(law, scratch, point, slope)]
    return _only(reached, after, rows)


def pull(scratch: State, point: Point, rows: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Cotangent vectors (a, c, ...) before the step that begins at a point, from those after it: the transpose of
    `push`.
    """
    law = rule(scratch.optimizer, trainable(scratch.model))
    slope, product, reached = _linearise(_at(scratch, point))
    theta, *buffers, bent = [_combine(part, rows) for part in zip(*_derivative(law, scratch, point, slope))]
    return _only(reached, [theta + product(bent), *buffers], rows)


def _combine(factors: Sequence[Tensor], rows: Sequence[Tensor]) -> Tensor:
    total = torch.zeros_like(rows[0])
    for factor, row in zip(factors, rows):
        if factor.dim():
            total.addcmul_(factor, row)
        elif factor != 0:
            total.add_(row, alpha=factor.item())
    return total


def _only(reached: Tensor | None, new: Sequence[Tensor], old: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(new) if reached is None else tuple(torch.where(reached, n, o) for n, o in zip(new, old))


def directions(state: State, count: int, seed: int) -> Tensor:
    """Isotropic unit vectors `(count, P)` on the state's device, in its precision."""
    size = sum(p.numel() for p in trainable(state.model).values())
    draws = torch.stack([torch.from_numpy(generator(seed, "probe", i).standard_normal(size)) for i in range(count)])
    return (draws / draws.norm(dim=1, keepdim=True)).to(state.device, state.dtype)


def tangent_growth(state: State, steps: int, start: Tensor) -> Tensor:
    """Growth curves Λ(t|t0) = ln ‖δθ_t‖ / ‖δθ_t0‖ of infinitely small perturbations along the coming steps.

    Args:
        state: Where the perturbation is made; it stays as it is.
        steps: How far to follow it.
        start: Directions δθ `(k, P)`; the optimizer's buffers start unperturbed.

    Returns:
        `(k, steps + 1)`, float64; local exponents are its differences over a window, in 1/step.
    """
    base, scratch = fork(state), fork(state)
    law = rule(base.optimizer, trainable(base.model))
    rows: tuple[Tensor, ...] = (start, *(torch.zeros_like(start) for _ in law.buffers))
    begin, scale = start.double().norm(dim=1), torch.zeros(len(start), dtype=torch.float64, device=start.device)
    curves = [torch.zeros_like(scale)]
    with isolated(state.device):
        for _ in range(steps):
            rows = push(scratch, _point(base, law), rows)
            base, _ = update(base)
            curves.append(scale + (rows[0].double().norm(dim=1) / begin).log())
            joint = torch.stack([r.double().square().sum(1) for r in rows]).sum(0).sqrt()
            rows = tuple((r / joint[:, None].to(r.dtype)) for r in rows)
            scale = scale + joint.log()
    return torch.stack(curves, dim=1).cpu()


def lyapunov_exponents(state: State, steps: int, count: int, every: int = 5, seed: int = 0) -> Tensor:
    """The leading `count` exponents over the coming steps, in 1/step, by QR of the joint tangent (θ and buffers)
    every few steps.
    """
    if not 1 <= every <= steps:
        raise InputError(f"every={every} must lie between 1 and the {steps} steps.")
    base, scratch = fork(state), fork(state)
    law = rule(base.optimizer, trainable(base.model))
    first = directions(state, count, seed)
    rows: tuple[Tensor, ...] = (first, *(torch.zeros_like(first) for _ in law.buffers))
    total = torch.zeros(count, dtype=torch.float64, device=first.device)
    with isolated(state.device):
        for done in range(1, steps + 1):
            rows = push(scratch, _point(base, law), rows)
            base, _ = update(base)
            if done % every == 0 or done == steps:
                basis, triangle = torch.linalg.qr(torch.cat(rows, dim=1).double().T)
                total += triangle.diagonal().abs().log()
                rows = tuple(basis.T.to(first.dtype).split(first.shape[1], dim=1))
    return (total / steps).cpu()


def adjoint_norms(
    states: Callable[[int], State],
    stored: Sequence[int],
    at: Sequence[int],
    end: int,
    probes: int = 3,
    seed: int = 0,
    after: Callable[[int], None] | None = None,
    file: Path | None = None,
) -> Tensor:
    """‖a_t0‖² for every start t0 from one sweep back in time, what `laws.growth.log_growth` turns into a prediction.

    Args:
        states: Gives the state stored at a step; the stretches in between are replayed.
        stored: Steps that can be asked for; the first must not lie after the earliest of `at`.
        at: Starts t0, in any order.
        end: The step T at which the growth is asked for.
        probes: Random cotangents u with unit variance a coordinate; the error falls as 1/√probes.
        seed: Decides the probes.
        after: Called with the number of steps swept so far.
        file: Where to keep the sweep at every stored step, from where an interrupted one goes on; removed at the end.

    Returns:
        `(probes, len(at))`, float64; inf where the sweep overflowed.

    Raises:
        InputError: If a start lies beyond `end` or before the first stored step.
    """
    if max(at) > end or min(at) < min(stored):
        raise InputError(
            f"The starts {sorted(at)} must lie between the first stored step, {min(stored)}, and the end, {end}."
        )
    origin = max(s for s in stored if s <= min(at))
    marks = sorted({s for s in stored if origin <= s < end} | {origin, end})
    scratch = fork(states(marks[0]))
    law = rule(scratch.optimizer, trainable(scratch.model))
    size = sum(p.numel() for p in trainable(scratch.model).values())
    # Scaled by √P, a unit vector is a Gaussian probe up to its length, whose fluctuation would only add noise.
    rows: tuple[Tensor, ...] = (directions(scratch, probes, seed) * math.sqrt(size),)
    rows += tuple(torch.zeros_like(rows[0]) for _ in law.buffers)
    scale = torch.zeros(probes, dtype=torch.float64, device=rows[0].device)
    norms: dict[int, Tensor] = {}

    def note(step: int) -> None:
        if step in at:
            norms[step] = rows[0].double().square().sum(1) * (2 * scale).exp()

    note(end)
    stretches = list(zip(marks, marks[1:]))
    if file is not None and file.exists():
        kept = load_tree(file, ("reached", "rows", "scale", "norms"))
        rows, scale, norms = tuple(kept["rows"]), kept["scale"].to(scale.device), kept["norms"]
        rows = tuple(r.to(scratch.device) for r in rows)
        stretches = [(begin, stop) for begin, stop in stretches if stop <= kept["reached"]]
        if after is not None:
            after(end - kept["reached"])
    affordable = max(1, int(TAPE_BYTES / ((1 + len(law.buffers)) * size * rows[0].element_size())))
    with isolated(scratch.device):
        for begin, stop in reversed(stretches):
            for state, length in reversed(_stretches(states(begin), stop - begin, affordable)):
                for point in reversed(record(state, length)):
                    rows = pull(scratch, point, rows)
                    if point.step % RESCALE == 0:
                        joint = torch.stack([r.double().square().sum(1) for r in rows]).sum(0).sqrt()
                        rows = tuple(r / joint[:, None].to(r.dtype) for r in rows)
                        scale = scale + joint.log()
                    note(point.step)
                    if after is not None:
                        after(end - point.step)
            if file is not None:
                save_tree(file, {"reached": begin, "rows": rows, "scale": scale, "norms": norms})
    if file is not None:
        file.unlink(missing_ok=True)
    return torch.stack([norms[t].cpu() for t in at], dim=1)


def _stretches(state: State, length: int, affordable: int) -> list[tuple[State, int]]:
    """Cut a stretch into pieces whose tape fits into memory; each piece comes with a state of its own at its start."""
    pieces, state = [], fork(state)
    with isolated(state.device):
        while length > affordable:
            pieces.append((fork(state), affordable))
            for _ in range(affordable):
                state, _ = update(state)
            length -= affordable
    return [*pieces, (state, length)]
