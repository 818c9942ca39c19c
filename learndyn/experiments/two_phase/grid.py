"""The (t0, t1) grid in one pass through time: the base runs along with all twins made so far, and is never run again.

At each t0 new twins join, at each t1 all twins are compared with the base; in between all are trained together.
Everything that was measured lies in records/seed-0/000500.json and the like; base states lie in states/seed-0; a
snapshot of all twins is renewed every few seconds, so an interrupted run goes on from there and ends with the same
bits.
"""

import math
import time
from pathlib import Path
from typing import Any

from learndyn.dynamics import (
    KINDS,
    State,
    Trajectory,
    adjoint_norms,
    fork,
    rounding_floor,
    train,
    train_linearised,
    train_together,
    trainable,
    vector,
)
from learndyn.dynamics.determinism import check_replay, deterministic
from learndyn.dynamics.exponents import kinks
from learndyn.dynamics.perturb import initial_scales
from learndyn.dynamics.replicas import choose_engine
from learndyn.dynamics.trajectory import pack, unpack
from learndyn.errors import InputError
from learndyn.experiments.cone.kernels import add_kernel, probe_inputs, read_series
from learndyn.experiments.two_phase.settings import Settings, kernel_steps, switch_steps
from learndyn.names import build_state
from learndyn.noise import key
from learndyn.observables import barrier, dissimilarity, distance, evaluate, profiles
from learndyn.observables.barrier import BATCH_NORM, CONVENTIONS
from learndyn.observables.function import disagreement_of, function_distance_of
from learndyn.optimizers.rules import rule
from learndyn.record import Progress
from learndyn.storage import load_tree, save_tree, write_json

SPLITS = ("train", "test")
SNAPSHOT_SECONDS = 10.0
PIECE = 50  # steps between two looks at the clock
CONTROL = -1  # the direction of the unperturbed twin
KERNEL_COST = 100.0  # training steps for a kernel
LINEAR_COST = 3.0  # for a step of a linearised network


def parts(settings: Settings) -> list[str]:
    """One part a seed."""
    return [f"seed-{seed}" for seed in range(settings.seeds)]


def work(settings: Settings) -> float:
    """Units of work of one part, about one training step each."""
    s = settings
    twins = sum(s.steps - t0 for t0 in s.t0) * s.directions + s.control * (s.steps - s.t0[0])
    cells = s.directions * sum(t1 > t0 for t0 in s.t0 for t1 in s.t1) + s.control * sum(t1 > s.t0[0] for t1 in s.t1)
    kernels = KERNEL_COST * len(kernel_steps(s))
    return s.steps + twins + cells * _cell_cost(s) + kernels + _sweep_work(s) + _switch_work(s)


def _later_work(settings: Settings) -> float:
    return _sweep_work(settings) + _switch_work(settings)


def _switch_work(settings: Settings) -> float:
    return LINEAR_COST * sum(settings.steps - step for step in switch_steps(settings))


def _cell_cost(settings: Settings) -> float:
    return 5.0 * settings.points  # training steps; measured on digits


def _sweep_cost(settings: Settings) -> float:
    return 2.5 + 1.5 * settings.probes


def _sweep_work(settings: Settings) -> float:
    return bool(settings.probes) * (settings.t1[-1] - settings.t0[0]) * _sweep_cost(settings)


def initial_state(settings: Settings, seed: int) -> State:
    """The base run of a seed before its first step.

    Raises:
        InputError: If a name is unknown, a factory fails, or model, task and optimizer do not fit together.
    """
    s = settings
    made = s.task, s.model, s.optimizer, s.schedule, s.steps, seed, s.dtype, s.device, s.data_dir
    return build_state(*made, _try_out)


def _try_out(state: State) -> None:
    for split in SPLITS:
        evaluate(state.model, state.task, split)
    check_replay(state)


def measure(part: str, settings: Settings, folder: Path, progress: Progress) -> None:
    """Do one seed, from where it was: the grid, then the adjoint sweep.

    Raises:
        InputError: If the base run diverges, the perturbation vanishes, or the run does not replay itself.
    """
    seed = int(part.removeprefix("seed-"))
    with deterministic(settings.device, settings.threads):
        state = initial_state(settings, seed)
        _Grid(settings, seed, state, folder, progress).finish()
        _sweep(settings, seed, state, folder, progress)
        for step in switch_steps(settings):
            _switch(settings, seed, step, state, folder, progress)


class _Grid:
    """One seed's twins on their way through time."""

    def __init__(self, settings: Settings, seed: int, state: State, folder: Path, progress: Progress):
        self.settings, self.seed, self.progress = settings, seed, progress
        self.records = folder / "records" / f"seed-{seed}"
        self.snapshot = self.records / "snapshot.safetensors"
        self.trajectory = Trajectory(folder / "states" / f"seed-{seed}", state)
        self.scales = initial_scales(state.model)
        s = settings
        compared = {*s.t1, *(t0 + h for t0 in s.t0 for h in s.horizons if t0 + h <= s.steps)}
        self.events = sorted({*s.t0, *compared, s.steps, *switch_steps(s), *kernel_steps(s)})
        self.kernels = folder / "kernels" / f"seed-{seed}"
        self.probe = probe_inputs(state.task, s.probe) if kernel_steps(s) else None
        self.members: list[tuple[int, int]] = []  # (t0, direction) of every twin
        self.sizes: dict[tuple[int, int], float] = {}
        self.states = [state]
        self.saved = time.monotonic()
        self.kept = {*s.t0, *switch_steps(s), s.steps}  # steps whose base states are stored

    def finish(self) -> None:
        """Go to the last step."""
        if not self._lacks(self.settings.steps):
            self.snapshot.unlink(missing_ok=True)
            self.progress("training twins", work(self.settings) - _later_work(self.settings))
            return
        if not (self.snapshot.exists() and self._resume()):
            self._event(0)
        while (now := self.states[0].step) < self.settings.steps:
            self._train(min(event for event in self.events if event > now))
            if not all(math.isfinite(v) for v in self.losses):
                self._diverged(now)
            self._event(self.states[0].step)
        self.snapshot.unlink(missing_ok=True)

    def _lacks(self, until: int) -> bool:
        """Whether a record or base state up to a step is not there: not yet, or deleted because it was damaged."""
        due = [self.records / f"{event:06d}.json" for event in {0, *self.events} if event <= until]
        due += [self.trajectory.path(step) for step in self.kept if step <= until]
        series = list(read_series(self.kernels, self.settings.reductions).values())
        due += [one.path(step) for one in series for step in kernel_steps(self.settings) if step <= until]
        return not all(path.exists() for path in due) or (bool(kernel_steps(self.settings)) and not series)

    def _resume(self) -> bool:
        """Go on from the snapshot, unless something that was written before it is gone: only a new start mends that."""
        tree, template = load_tree(self.snapshot, ("states", "members", "sizes", "work")), self.states[0]
        if self._lacks(tree["states"][0]["step"]):
            return False
        self.states = [unpack(one, template, str(self.snapshot)) for one in tree["states"]]
        self.members = [tuple(member) for member in tree["members"]]
        self.sizes = dict(zip(self.members, tree["sizes"]))
        for slot, (member, twin) in enumerate(zip(self.members, self.states[1:]), 1):
            if self.settings.perturbation == "noise_swap" and member[1] != CONTROL:
                _, swapped = self._perturb(template, *member)
                self.states[slot] = _with_task(twin, swapped.task)
        self.progress("training twins", tree["work"])
        self.worked = tree["work"]
        return True

    def _save(self) -> None:
        tree = {
            "states": [pack(state) for state in self.states],
            "members": self.members,
            "sizes": [self.sizes[member] for member in self.members],
            "work": self.worked,
        }
        save_tree(self.snapshot, tree)
        self.saved = time.monotonic()

    worked = 0.0

    def _did(self, what: str, units: float) -> None:
        self.worked += units
        self.progress(what, units)

    def _train(self, until: int) -> None:
        engine: str = self.settings.engine
        if engine == "auto":
            engine = (
                "loop"
                if self.settings.perturbation == "noise_swap"
                else choose_engine(self.states[0], len(self.states))
            )
        self.losses: list[float] = []
        while (now := self.states[0].step) < until:
            steps = min(PIECE, until - now)
            self.states, losses = train_together(self.states, steps, engine, lambda n: self._did("training twins", n))
            self.losses = losses[:, 0].double().tolist()
            if not all(map(math.isfinite, self.losses)):
                self._diverged(now)
            if self.states[0].step < until and time.monotonic() - self.saved > SNAPSHOT_SECONDS:
                self._save()

    def _diverged(self, first: int) -> None:
        step = first + next(i for i, loss in enumerate(self.losses) if not math.isfinite(loss))
        raise InputError(
            f"The base run of seed {self.seed} diverged at step {step} (loss {self.losses[step - first]:g}); "
            "lower the learning rate or change the schedule."
        )

    def _perturb(self, state: State, t0: int, direction: int) -> tuple[Any, State]:
        s = self.settings
        number = key(self.seed, "perturbation", t0, direction) % 2**63
        extra = {"scales": self.scales} if s.perturbation == "relative" else {}
        twin, survival = KINDS[s.perturbation](state, s.epsilon, number, **extra)
        return survival, twin

    def _event(self, step: int) -> None:
        """Measure, keep the base, make twins: whatever is due at this step."""
        s, base = self.settings, self.states[0]
        record: dict[str, Any] = {
            "step": step,
            "rows": [self._row(i, step) for i in range(len(self.members))],
            "forks": [],
        }
        record["rows"] = [row for row in record["rows"] if row]
        if step in (0, s.steps) or step in s.t0 or step in s.t1:
            record["base"] = self._standing()
        if step in self.kept:
            self.trajectory.save(base)
        if step in s.t0:
            floor = rounding_floor(base)
            for direction in range(CONTROL if s.control and step == s.t0[0] else 0, s.directions):
                if direction == CONTROL:
                    survival, twin = None, fork(base)
                else:
                    survival, twin = self._perturb(base, step, direction)
                    kept = {name: getattr(survival, name) for name in ("requested", "realised", "changed", "on_zeros")}
                    record["forks"].append({"direction": direction, "floor": floor, **kept})
                self.members.append((step, direction))
                self.sizes[step, direction] = survival.realised if survival else 0.0
                self.states.append(twin)
        if self.probe is not None and step in kernel_steps(s):
            self._kernel(step)
        write_json(self.records / f"{step:06d}.json", record)
        if step < s.steps and (step == 0 or time.monotonic() - self.saved > SNAPSHOT_SECONDS):
            self._save()

    def _kernel(self, step: int) -> None:
        """The tangent kernels of the base run."""
        base, probe = self.states[0], self.probe
        assert probe is not None
        try:
            add_kernel(base.model, step, probe, self.kernels, self.settings.reductions)
        except InputError:
            self.losses = train(fork(base), min(PIECE, self.settings.steps - step)).loss.tolist()
            if not all(map(math.isfinite, self.losses)):
                self._diverged(step)  # which is why
            raise
        self._did("kernels", KERNEL_COST)

    def _standing(self) -> dict[str, Any]:
        """How the base run stands, by split in the order of `SPLITS`."""
        base = self.states[0]
        found = [evaluate(base.model, base.task, split) for split in SPLITS]
        return {
            "loss": [float(f.loss) for f in found],
            "error": [float(f.error) for f in found],
            "norm": float(vector(base.model).norm()),
            "time": base.time,
        }

    def _row(self, index: int, step: int) -> dict[str, Any] | None:
        """One twin against the base."""
        (t0, direction), base, twin = self.members[index], self.states[0], self.states[index + 1]
        full = step in self.settings.t1
        if not full and step - t0 not in self.settings.horizons:
            return None
        size, apart = self.sizes[t0, direction], float(distance(base, twin))
        row: dict[str, Any] = {
            "t0": t0,
            "direction": direction,
            "distance": apart,
            "dissimilarity": float(dissimilarity(base, twin)),
        }
        row["log_growth"] = math.log(apart / size) if apart > 0 and size > 0 else (-math.inf if size > 0 else math.nan)
        row["relative_distance"] = apart / float(vector(base.model).norm())
        ours, theirs = (evaluate(state.model, base.task, "test") for state in (base, twin))
        crossed = kinks(base, twin)
        row["kinks"] = crossed.signs + crossed.switches
        row["disagreement"] = float(disagreement_of(ours, theirs))
        row["function_distance"] = float(function_distance_of(ours, theirs))
        if full:
            found = profiles(base, twin, self.settings.points, SPLITS)
            for kind in ("loss", "error"):
                row[f"{kind}_barrier"] = [
                    [
                        [float(barrier(getattr(found[a, b], kind), found[a, b].alpha, c)) for c in CONVENTIONS]
                        for b in BATCH_NORM
                    ]
                    for a in SPLITS
                ]
            self._did("comparing twins", _cell_cost(self.settings))
        return row


def _with_task(state: State, task: Any) -> State:
    return State(state.step, state.time, state.model, state.optimizer, task, state.schedule)


def _switch(settings: Settings, seed: int, step: int, template: State, folder: Path, progress: Progress) -> None:
    """What the linearised network would have lost: trained on from a step, with the same noise (the paper's Fig. 6)."""
    file = folder / "records" / f"seed-{seed}" / f"switch-{step:06d}.json"
    left = settings.steps - step
    if file.exists():
        progress("linearised", LINEAR_COST * left)
        return
    content: dict[str, Any] = {"step": step, "why": "", "loss": None, "error": None, "factor": None}
    done = 0

    def after(state: State) -> None:
        nonlocal done
        done += 1
        if done % PIECE == 0 and done <= left:
            progress("linearised", LINEAR_COST * PIECE)

    try:
        run, factor = train_linearised(
            Trajectory(folder / "states" / f"seed-{seed}", template)[step], left, after=after
        )
        looked = [evaluate(run.state.model, template.task, split) for split in SPLITS]
        content |= {"loss": [float(f.loss) for f in looked], "error": [float(f.error) for f in looked]}
        content["factor"] = factor
    except RuntimeError as error:  # a kernel without a derivative of the kind
        content["why"] = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    write_json(file, content)


def _sweep(settings: Settings, seed: int, template: State, folder: Path, progress: Progress) -> None:
    """The prediction: one sweep of the adjoint tangent map back through the base run."""
    file = folder / "records" / f"seed-{seed}" / "adjoint.json"
    end = settings.t1[-1]
    if not settings.probes or file.exists():
        progress("sweeping back", _sweep_work(settings))
        return
    trajectory = Trajectory(folder / "states" / f"seed-{seed}", template)
    done = [0]

    def after(swept: int) -> None:
        progress("sweeping back", (swept - done[0]) * _sweep_cost(settings))
        done[0] = swept

    content: dict[str, Any] = {
        "parameters": sum(p.numel() for p in trainable(template.model).values()),
        "why": _unpredictable(template),
        "norms": None,
    }
    try:
        if not content["why"]:
            norms = adjoint_norms(
                trajectory.__getitem__,
                trajectory.steps,
                [t0 for t0 in settings.t0 if t0 < end],
                end,
                settings.probes,
                seed,
                after,
                file.with_name("sweep.safetensors"),
            )
            content["norms"] = norms.tolist()
    except RuntimeError as error:  # a kernel without a second derivative
        content["why"] = f"The model has no second derivative here: {str(error).partition(chr(10))[0]}"
    write_json(file, content)


def _unpredictable(state: State) -> str:
    """Why growth cannot be predicted: an optimizer without a tangent rule; empty if it can."""
    try:
        rule(state.optimizer, trainable(state.model))
    except InputError as error:
        return str(error)
    return ""
