"""A recorder for any training loop: the charges of symmetries, what moves them, and any observables, on disk."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import warnings
import weakref
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import learndyn
from learndyn.dynamics.state import ForeignState
from learndyn.dynamics.train import Observable, dimensions
from learndyn.errors import InputError
from learndyn.noise import isolated
from learndyn.recorder.file import COORDINATES, FILE, FORMAT, MORE, PER_LAW, parse
from learndyn.recorder.ledger import MARKS, QUANTITIES, SETTINGS, Ledger

_recording: weakref.WeakSet[Recorder] = weakref.WeakSet()


class Recorder:
    """Records charges of laws and any observables while somebody else trains, until it is closed.

        with Recorder(model, optimizer, laws=find(model, inputs).laws, to="record"):
            ...  # the loop as it was
        record = read("record")

    A row is written before the first step, where the number of steps is a multiple of `every`, and at the end; what
    moves the charges is summed up over all steps between. Training is bit for bit what it is without the recorder. A
    step is a call of `optimizer.step()`, after whatever was done to the gradients; one that AMP skips is none. The
    record of a run that was killed goes on with the same folder and the `step` of the checkpoint that was loaded.
    Where the disk is full or gone the recorder warns and stops, and training goes on.

    Args:
        model: Any module.
        optimizer: Any optimizer. After each step of one without torch's step hooks call `step`; what happens to the
            weights between two calls is then all taken for the step.
        laws: Laws of this model, as `learndyn.symmetries.find` finds them.
        observables: Functions of a State by name, each of which leaves everything as it was.
        every: Steps between rows. A row of `C` charges and `L` laws takes 96 C + 104 L bytes.
        to: The folder.
        task: For observables that look at one.
        step: Steps done before; needed to continue a record. Time goes on from there, in a new record from 0.
        exact: As in `Ledger`.

    Raises:
        InputError: If an argument makes no sense, a law does not fit the model, or the folder cannot be written, is in
            use, or holds a record of something else.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        laws: Iterable[Any] = (),
        observables: Mapping[str, Observable] | None = None,
        every: int = 10,
        to: str | Path = "record",
        task: Any = None,
        step: int | None = None,
        exact: bool = False,
    ) -> None:
        self.model, self.optimizer, self.task = model, optimizer, task
        self.observables, self.every, self.folder, self.start = dict(observables or {}), every, Path(to), step
        if every < 1:
            raise InputError(f"every={every} must be at least 1.")
        if step is not None and step < 0:
            raise InputError(f"step={step} must not be negative.")
        for name in self.observables:
            if name in (*COORDINATES, *MORE, *QUANTITIES, *SETTINGS):
                raise InputError(f"An observable cannot be called {name!r}, which is in every record; rename it.")
        held = {id(p) for group in getattr(optimizer, "param_groups", []) for p in group["params"]}
        if not any(id(p) in held or not hasattr(optimizer, "param_groups") for p in model.parameters()):
            raise InputError("The optimizer holds none of the model's parameters; make it from model.parameters().")
        self.ledger = Ledger(model, optimizer, laws, exact)
        if not self.ledger.laws and not self.observables:
            raise InputError("There is nothing to record: give laws or observables.")
        self.steps, self.time, self.file, self.begun, self.under_way = step or 0, 0.0, -1, False, False
        self.hooks: list[Any] = []
        self._open()

    def _open(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.file = os.open(self.folder / FILE, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._let_go()
            raise InputError(
                f"Somebody is recording into {self.folder} already; close that recorder, or choose another folder."
            ) from None
        except OSError as error:
            self._let_go()
            raise InputError(f"Cannot record into {self.folder}: {error.strerror}; choose another folder.") from error
        _recording.add(self)
        try:
            self._continue()
            if hasattr(self.optimizer, "register_step_pre_hook"):
                hooks = self.optimizer.register_step_pre_hook, self.optimizer.register_step_post_hook
                self.hooks = [hooks[0](self._before), hooks[1](self._after)]
            else:
                self._first()
                self.ledger.before(gradients=False)
        except BaseException:
            self._let_go()
            raise

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write the last row, and leave the optimizer and the folder alone. Doing it twice does nothing."""
        try:
            if self.begun and self.file >= 0 and self.steps > self.last:
                self._row()
        finally:
            self._let_go()

    def step(self) -> None:
        """Say that a step was done. Only optimizers without step hooks need it; with torch's it does nothing.

        Raises:
            InputError: If the recorder was closed.
        """
        if self.file < 0 and not self.failed:
            raise InputError("This recorder is closed; make another one, with the step that training has come to.")
        if self.hooks or self.failed:
            return
        self.rate, self.under_way = self._rate(), True
        self._after(None, (), {}, late=True)
        self.ledger.before(gradients=False)

    def _rate(self) -> float:
        groups = getattr(self.optimizer, "param_groups", None) or [{}]
        return float(groups[0].get("lr", np.nan))

    def _before(self, _: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        skipped = getattr(self.optimizer, "found_inf", None)  # a fused optimizer asks AMP itself
        self.under_way = self.file >= 0 and (skipped is None or not bool(skipped))
        if self.under_way:
            self._first()
            self.rate = self._rate()
            # with a closure the gradients are made in the step; SGD and Adam call it once and leave them as they were
            self.closure = any(a is not None for a in (*args[1:], *kwargs.values()))
            self.ledger.before(gradients=not self.closure)

    def _after(self, _: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], late: bool = False) -> None:
        if self.file < 0 or not self.under_way:
            return
        self.under_way = False
        self.ledger.after(gradients=late or (self.closure and self.ledger.split))
        self.steps, self.time = self.steps + 1, self.time + self.rate
        if self.steps % self.every == 0:
            self._row()

    def _first(self) -> None:
        """Begin with the weights as they are before the first step: a checkpoint may have been loaded by now."""
        if not self.begun:
            self.ledger.restart()
            self.ledger.mark |= MARKS["resumed"] * (self.header is not None)
            if self.steps != self.last:
                self._row()
            elif self.charges.isfinite().all():  # a change since that row is for the next one to tell
                self.ledger.charges = self.charges.to(self.ledger.device)
            self.begun = True

    def _continue(self) -> None:
        """See what the folder holds already."""
        header, rows, self.seed, end, _ = parse(self.folder / FILE)
        self.header, self.last, self.failed = header if len(rows) else None, -1, False
        if self.header is None:
            os.ftruncate(self.file, 0)
            return
        if self.header["laws"] != self._laws() or self.header["observables"].keys() != self.observables.keys():
            raise InputError(f"{self.folder} holds a record of other laws or observables; choose another folder.")
        if self.start is None:
            raise InputError(
                f"{self.folder} holds a record up to step {int(rows[-1, 0])}: to go on with it, load a checkpoint and "
                "give its step=..., else choose another folder."
            )
        os.ftruncate(self.file, end)  # a row that was being written
        rows = rows[rows[:, 0] <= self.start]
        if len(rows):
            self.last, at = int(rows[-1, 0]), 3 + PER_LAW * len(self.ledger.laws)
            self.time = rows[-1, 1] + (self.start - self.last) * self._rate()  # exact at the steps of rows
            self.charges = torch.from_numpy(rows[-1, at : at + self.ledger.all.size].copy())

    def _row(self) -> None:
        state = ForeignState(self.steps, self.time, self.model, self.optimizer, self.task)
        with isolated(next(self.model.parameters()).device):
            seen = {name: torch.as_tensor(f(state)).detach().cpu() for name, f in self.observables.items()}
        sizes = dict.fromkeys((*COORDINATES, *seen), -1)
        shapes = {
            name: [list(x.shape), list(dimensions(self.observables[name], name, tuple(x.shape), sizes))]
            for name, x in seen.items()
        }
        if self.header is None:
            self._describe(shapes)
        elif self.header["observables"] != shapes:
            raise InputError(f"The observables in {self.folder} had other shapes; choose another folder.")
        window = self.ledger.take()
        if window.mark & MARKS["resumed"] and not self.begun:
            window.values[1:] = np.nan  # nobody has seen the steps just before
        head = [self.steps, self.time, window.mark]
        whole = [getattr(window, field) for field in ("settings", "uniform", "transfer", "values", "response")]
        parts = [head, *whole, *seen.values()]
        row = np.concatenate([np.asarray(part, "<f8").ravel() for part in parts]).tobytes()
        self._write(row + zlib.crc32(row, self.seed).to_bytes(8, "little"))
        self.last = self.steps

    def _laws(self) -> list[dict[str, Any]]:
        laws = self.ledger.laws
        return [{"name": str(law), "kind": law.kind, "size": law.size, "linear": law.linear} for law in laws]

    def _describe(self, observables: dict[str, Any]) -> None:
        groups = getattr(self.optimizer, "param_groups", [])
        plain = (bool, int, float, str, tuple)
        self.header = {
            "format": FORMAT,
            "learndyn": learndyn.__version__,
            "torch": torch.__version__,
            "model": type(self.model).__name__,
            "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
            "device": str(next(self.model.parameters()).device),
            "optimizer": type(self.optimizer).__name__,
            "options": [{k: v for k, v in group.items() if isinstance(v, plain)} for group in groups],
            "split": self.ledger.split,
            "laws": self._laws(),
            "observables": observables,
        }
        line = json.dumps(self.header).encode() + b"\n"
        self.seed = zlib.crc32(line)
        self._write(line)

    def _write(self, data: bytes) -> None:
        if self.file < 0:
            return
        try:
            if os.write(self.file, data) < len(data):  # the rest is found torn, and dropped
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            warnings.warn(
                f"Recording into {self.folder} has ended at step {self.last}: {error.strerror}.", stacklevel=2
            )
            self.failed = True
            self._let_go()

    def _let_go(self) -> None:
        """Give back file, lock and hooks."""
        _recording.discard(self)
        for hook in self.hooks:
            hook.remove()
        self.hooks = []
        if self.file >= 0:
            os.close(self.file)
        self.file = -1


def _forget_all() -> None:
    """In a forked process, which must neither write rows nor hold the lock when its parent is gone."""
    for recorder in list(_recording):
        recorder._let_go()


os.register_at_fork(after_in_child=_forget_all)
