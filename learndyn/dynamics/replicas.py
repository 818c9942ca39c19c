"""K copies of one network that see the same batches: trained one after the other, or as one batched network.

Twins may be compared only with a base that went through the same kernels at the same time: a batched step differs from
a single one by rounding, which a chaotic phase amplifies to order one. So base and twins always travel in one call.
Identical states stay bit for bit identical, whichever way they are trained.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import functional_call, vmap
from torch.utils.flop_counter import FlopCounterMode

from learndyn.dynamics.state import State, fork, trainable
from learndyn.dynamics.train import update
from learndyn.errors import InputError, unknown
from learndyn.noise import isolated, seed_forward
from learndyn.tasks import Batch, Task

ENGINES = ("auto", "loop", "vmap")

# Their updates treat each coordinate by itself: one optimizer of stacked tensors updates every replica as its own
# would.
ELEMENTWISE = tuple(
    getattr(torch.optim, name) for name in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adamax", "Adadelta")
)
BATCHED_FROM = 4  # replicas
BATCHED_WORK = 10**8  # multiply-adds of one replica's step
BATCHED_SIZE = 10**5  # its parameters
AHEAD_BYTES = 64 * 2**20  # batches fetched ahead, so that each replica runs a few steps while its weights are in cache


def train_together(
    states: Sequence[State], steps: int, engine: str = "auto", after: Callable[[int], None] | None = None
) -> tuple[list[State], Tensor]:
    """Train states of the same step for `steps` updates on the same batches, in place.

    Args:
        states: Forks of one run; the first is the base. One with a task of its own (another noise) keeps it, in the
            loop engine.
        steps: Updates to make.
        engine: "loop" (any model and optimizer), "vmap" (batched; elementwise optimizers, models that torch.func can
            map), or "auto" for `choose_engine`.
        after: Called now and then with the number of replica updates made since the last call.

    Returns:
        The states after the updates, and the losses before each of them, `(steps, K)`.

    Raises:
        InputError: If the states differ in step, or the engine does not fit.
    """
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if len({state.step for state in states}) > 1:
        raise InputError(
            f"Replicas at steps {sorted({s.step for s in states})} share no batches; give states of one step."
        )
    if steps < 1:
        return list(states), torch.empty(0, len(states))
    if engine == "auto":
        engine = choose_engine(states[0], len(states))
    return (_batched if engine == "vmap" else _one_by_one)(list(states), steps, after or (lambda count: None))


def _fetch(task: Task, first: int, steps: int) -> Iterator[tuple[int, list[Batch]]]:
    """The coming batches in chunks: (step of the first, batches)."""
    end = first + steps
    while first < end:
        batches = [task.batch(first)]
        count = max(1, min(64, end - first, AHEAD_BYTES // max(1, sum(t.nbytes for t in batches[0]))))
        batches += [task.batch(first + i) for i in range(1, count)]
        yield first, batches
        first += count


def _one_by_one(states: list[State], steps: int, after: Callable[[int], None]) -> tuple[list[State], Tensor]:
    losses: list[list[Tensor]] = [[] for _ in states]
    task = states[0].task
    with isolated(states[0].device):
        for _, batches in _fetch(task, states[0].step, steps):
            for slot, state in enumerate(states):
                for batch in batches:
                    state, loss = update(state, batch if state.task is task else None)
                    losses[slot].append(loss)
                states[slot] = state
                after(len(batches))
    return states, torch.stack([torch.stack(row) for row in losses], dim=1)


def _batched(states: list[State], steps: int, after: Callable[[int], None]) -> tuple[list[State], Tensor]:
    base = states[0]
    if type(base.optimizer) not in ELEMENTWISE:
        names = ", ".join(kind.__name__ for kind in ELEMENTWISE)
        raise InputError(
            f"{type(base.optimizer).__name__} cannot be batched over replicas; {names} can. Use --engine loop."
        )
    if any(state.task is not base.task for state in states):
        raise InputError("Replicas with different noise cannot be batched; use --engine loop.")
    parameters: list[dict[str, Tensor]] = [dict(state.model.named_parameters()) for state in states]
    buffers = [dict(state.model.named_buffers()) for state in states]
    stacked = {
        name: torch.stack([own[name].detach() for own in parameters]).requires_grad_(p.requires_grad)
        for name, p in parameters[0].items()
    }
    statistics = {name: torch.stack([own[name] for own in buffers]) for name in buffers[0]}
    optimizer = _stack_optimizer(states, parameters, stacked)
    model, task, schedule = base.model.train(), base.task, base.schedule

    def loss_of(parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: Batch) -> Tensor:
        return task.loss(
            lambda *inputs, **options: functional_call(model, (parameters, buffers), inputs, options), batch
        )

    losses_of = vmap(loss_of, in_dims=(0, 0, None), randomness="same")
    time, losses = base.time, []
    with isolated(base.device):
        for first, batches in _fetch(task, base.step, steps):
            for step, batch in enumerate(batches, first):
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * schedule(step)
                seed_forward(base.seed, step, base.device)
                optimizer.zero_grad(set_to_none=True)
                values = losses_of(stacked, statistics, batch)
                values.sum().backward()
                optimizer.step()
                time += optimizer.param_groups[0]["lr"]
                losses.append(values.detach())
            after(len(batches) * len(states))
    _unstack(states, parameters, stacked, buffers, statistics, optimizer)
    return [replace(state, step=state.step + steps, time=time) for state in states], torch.stack(losses)


def _stack_optimizer(
    states: list[State], parameters: list[dict[str, Tensor]], stacked: dict[str, Tensor]
) -> torch.optim.Optimizer:
    name_of = {id(p): name for name, p in parameters[0].items()}
    groups = [
        {**group, "params": [stacked[name_of[id(p)]] for p in group["params"]]}
        for group in states[0].optimizer.param_groups
    ]
    optimizer = cast(Any, type(states[0].optimizer))(groups, lr=groups[0]["lr"])
    for name, tensor in stacked.items():
        held = [state.optimizer.state.get(own[name], {}) for state, own in zip(states, parameters)]
        for key, value in held[0].items():
            optimizer.state[tensor][key] = (
                torch.stack([h[key] for h in held]) if _per_replica(key, value) else _copy(value)
            )
    return optimizer


def _unstack(
    states: list[State],
    parameters: list[dict[str, Tensor]],
    stacked: dict[str, Tensor],
    buffers: list[dict[str, Tensor]],
    statistics: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    with torch.no_grad():
        for slot, state in enumerate(states):
            for group, last in zip(state.optimizer.param_groups, optimizer.param_groups):
                group["lr"] = last["lr"]
            for name, own in parameters[slot].items():
                own.copy_(stacked[name][slot])
                for key, value in optimizer.state.get(stacked[name], {}).items():
                    state.optimizer.state[own][key] = _copy(value[slot] if _per_replica(key, value) else value)
            for name, buffer in buffers[slot].items():
                buffer.copy_(statistics[name][slot])


def _per_replica(key: str, value: Any) -> bool:
    """Whether an entry of the optimizer's state belongs to one replica; the step count is the same for all."""
    return isinstance(value, Tensor) and key != "step"


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def training_work(state: State) -> int:
    """Multiply-adds of one training step: 3 × those of the forward pass of the step's batch, counted by torch."""
    scratch = fork(state)
    with torch.no_grad(), isolated(state.device), FlopCounterMode(display=False) as counter:
        state.task.loss(scratch.model.train(), state.task.batch(state.step))
    return 3 * counter.get_total_flops() // 2


def can_batch(state: State) -> bool:
    """Whether torch.func can map this model, task and optimizer over replicas; tried on forks for one step."""
    if type(state.optimizer) not in ELEMENTWISE:
        return False
    try:
        _batched([fork(state), fork(state)], 1, lambda count: None)
    except (RuntimeError, ValueError, NotImplementedError, TypeError):
        return False
    return True


def choose_engine(state: State, replicas: int) -> str:
    """The faster way to train this many copies, by a rule and not by a clock: the choice decides the bits.

    Batching pays where a step consists of calls rather than of arithmetic. Limits from `benchmarks/replay.py`.
    """
    size = sum(p.numel() for p in trainable(state.model).values())
    larger = (
        1 if state.device.type == "cpu" else 100
    )  # a GPU's calls are as slow and its arithmetic is faster; unmeasured
    if replicas < BATCHED_FROM or size > larger * BATCHED_SIZE or training_work(state) > larger * BATCHED_WORK:
        return "loop"
    return "vmap" if can_batch(state) else "loop"
