"""The recorder in a stranger's loop: it changes nothing, and what it writes survives whatever ends the process.

Run as a script this file is the process that is killed: it forks one training run after the other, kills each at some
moment, and lets it go on from its last checkpoint.
"""

import copy
import json
import math
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from learndyn.dynamics import State, fork
from learndyn.errors import InputError
from learndyn.recorder import MARKS, QUANTITIES, Recorder, read
from learndyn.recorder import recorder as module
from learndyn.recorder.file import FILE
from learndyn.symmetries.law import SymmetryLaw, Term
from learndyn.tasks import Batch, Supervised

BROKEN, RESUMED, NOT_FINITE, _, UNSEEN = MARKS.values()
SUMS = list(QUANTITIES)[1:]


def network(dropout=0.0, dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hidden = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3)
        return nn.Sequential(*hidden).to(dtype)


def conserved():
    every, one = torch.arange(8), torch.ones(8).double()
    incoming = [Term(name, "rows", 0, 8, every, every, one) for name in ("1.weight", "1.bias")]
    return [
        SymmetryLaw("rescale", 8, (*incoming, Term("4.weight", "columns", 0, 3, every, every, -one))),
        SymmetryLaw("translation", 8, (Term("4.weight", "columns", 0, 3, every, every, one),)),
    ]


def batch(step):
    draw = torch.Generator().manual_seed(step)
    return torch.randn(16, 6, generator=draw), torch.randint(0, 3, (16,), generator=draw)


def loss(model, step):
    x, y = batch(step)
    return F.cross_entropy(model(x.to(next(model.parameters()))), y)


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **({"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2} | options))


def loop(model, optimizer, begin, end):
    """The stranger's loop, in which nothing is said of recording."""
    for step in range(begin, end):
        optimizer.zero_grad()
        loss(model, step).backward()
        optimizer.step()


def distance(state: State) -> Float[Tensor, " layers"]:
    return torch.stack([p.detach().norm() for p in state.model.parameters()])


def budget(record):
    """What is not explained of the change from row to row."""
    change = record.q.diff("step") - (record.jump + record.step_current + record.step_norm).isel(step=slice(1, None))
    return float(abs(change).max())


def everything(model, optimizer):
    """All bits that training could have changed."""
    values = [*model.state_dict().values(), *(p.grad for p in model.parameters())]
    for state in optimizer.state_dict()["state"].values():
        values += [v for v in state.values() if isinstance(v, Tensor)]
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    return [v.numpy().tobytes() for v in values if v is not None], groups, torch.get_rng_state().tolist()


OPTIMIZERS = {
    "sgd": sgd,
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), 1e-2),
    "rmsprop": lambda m: torch.optim.RMSprop(m.parameters(), 1e-3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_is_bit_for_bit_the_same(name, tmp_path):
    """Weights, buffers, gradients, the optimizer's state and options, and all random numbers, dropout's among them."""

    def noisy(state):
        return torch.rand(3).sum() + state.step

    ends = []
    for recorded in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            model = network(dropout=0.5)
            optimizer = OPTIMIZERS[name](model)
            if recorded:
                observables = {"noisy": noisy, "distance": distance}
                with Recorder(model, optimizer, conserved(), observables, every=2, to=tmp_path):
                    loop(model, optimizer, 0, 15)
            else:
                loop(model, optimizer, 0, 15)
            loop(model, optimizer, 15, 18)
            ends.append(everything(model, optimizer))
    assert ends[0] == ends[1]


def test_rows_come_before_the_first_step_at_multiples_and_at_the_end(tmp_path):
    model, laws = network(dtype=torch.float64), conserved()
    optimizer = sgd(model)
    every, seen = {}, {}
    for n in (1, 4):
        twin, other = network(dtype=torch.float64), None
        other = sgd(twin)
        with Recorder(twin, other, laws, {"distance": distance}, every=n, to=tmp_path / str(n)):
            loop(twin, other, 0, 10)
        every[n] = read(tmp_path / str(n))
    for step in range(11):
        charges = torch.cat([law.charge(dict(model.named_parameters())) for law in laws]).detach()
        seen[step] = charges.numpy(), distance(SimpleNamespace(model=model)).numpy()
        loop(model, optimizer, step, step + 1)
    assert every[1].step.values.tolist() == list(range(11)) and every[4].step.values.tolist() == [0, 4, 8, 10]
    for record in every.values():
        for step in record.step.values:
            here = record.sel(step=step)
            np.testing.assert_allclose(here.q, seen[step][0], rtol=1e-14, atol=1e-15)
            np.testing.assert_array_equal(here.distance, seen[step][1])
            assert float(here.time) == pytest.approx(0.1 * step) and int(here.mark) == 0
        assert budget(record) < 1e-14
    cumulated = every[1].cumsum("step")
    for quantity in SUMS[1:]:
        whole = every[4][quantity].cumsum("step")
        exact = cumulated[quantity].isel(step=every[4].step.values)
        np.testing.assert_allclose(whole, exact, rtol=1e-10, atol=1e-15)
    first = every[1].isel(step=0)
    assert all((first[quantity] == 0).all() for quantity in SUMS) and not first.uniform.any()
    assert every[1].uniform.isel(step=slice(1, None)).all()
    assert every[1].distance.dims == ("step", "layers")
    assert every[1].rate.sel(bound="low").isel(step=1).values.tolist() == [0.1, 0.1]
    assert (every[1].momentum.isel(step=1) == 0.9).all() and (every[1].weight_decay.isel(step=1) == 0.01).all()
    assert every[1].law_of.values.tolist() == [0] * 8 + [1] * 8 and every[1].unit.values.tolist() == [*range(8)] * 2
    assert every[1].kind.values.tolist() == ["rescale", "translation"]
    assert every[1].law.values.tolist() == [str(law) for law in laws]
    assert every[1].attrs["optimizer"] == "SGD" and json.loads(every[1].attrs["options"])[0]["momentum"] == 0.9
    assert every[1].q.attrs["units"].startswith("weight^2")


def test_gradients_are_those_that_the_optimizer_gets(tmp_path):
    """Accumulated over three batches and clipped: one row a step, N(g) of the clipped gradient."""
    model = network(dtype=torch.float64)
    optimizer = sgd(model, momentum=0.0)
    norms = []
    with Recorder(model, optimizer, conserved(), every=1, to=tmp_path):
        for step in range(4):
            optimizer.zero_grad()
            for part in range(3):
                loss(model, 3 * step + part).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            norms.append(conserved()[0].charge({n: p.grad for n, p in model.named_parameters()}).numpy())
            optimizer.step()
    record = read(tmp_path)
    assert record.step.values.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(record.gradient_norm[1:, :8], norms, rtol=1e-12)
    assert (record.mark == 0).all()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("enabled", [False, True])
def test_a_step_that_amp_skips_is_no_step(fused, enabled, tmp_path):
    """GradScaler leaves out a step with an infinite gradient; a fused optimizer is called, and leaves it out itself."""
    for i, make in enumerate([sgd, lambda m, **o: torch.optim.AdamW(m.parameters(), 1e-2, **o)]):
        model = network()
        optimizer = make(model, fused=fused)
        scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=2.0**10)
        norms = []
        with Recorder(model, optimizer, conserved(), every=1, to=tmp_path / str(i)):
            for step in range(5):
                optimizer.zero_grad()
                value = loss(model, step)
                scaler.scale(value).backward()
                if step == 2 and enabled:
                    model[0].weight.grad[0, 0] = math.inf
                else:
                    scale = scaler.get_scale()
                    gradient = {n: p.grad.double() / scale for n, p in model.named_parameters()}
                    norms.append(conserved()[0].charge(gradient).numpy())
                scaler.step(optimizer)
                scaler.update()
        record = read(tmp_path / str(i))
        assert record.step.values.tolist() == list(range(5 if enabled else 6))
        assert float(record.time[-1]) == pytest.approx((4 if enabled else 5) * optimizer.param_groups[0]["lr"])
        np.testing.assert_allclose(record.gradient_norm[1:, :8], norms, rtol=1e-5)
        residual = record.step_current - record.decay - record.current - record.memory
        assert float(abs(residual).max()) < 1e-6 and (record.mark == 0).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_with_a_closure_gradients_are_looked_at_after_it(name, tmp_path):
    """SGD and Adam call it once and keep the gradients; of others nobody knows, and only the step is recorded."""
    records = []
    for closed in (False, True):
        model = network(dtype=torch.float64)
        optimizer = OPTIMIZERS[name](model)

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            value = loss(model, closure.step)
            value.backward()
            return value

        with Recorder(model, optimizer, conserved(), every=1, to=tmp_path / str(closed)):
            for closure.step in range(5):
                if closed:
                    optimizer.step(closure)
                else:
                    closure()
                    optimizer.step()
        records.append(read(tmp_path / str(closed)))
    plain, closed = records
    known = name != "rmsprop"
    assert (closed.mark[1:] == (0 if known else UNSEEN)).all()
    for quantity in SUMS[1:] if known else ["step_current", "step_norm"]:
        np.testing.assert_allclose(closed[quantity], plain[quantity], rtol=1e-10, atol=1e-14)
    assert bool(closed.loss_current[1:].isnull().all()) != known


def test_closures_that_are_called_many_times(tmp_path):
    model = network(dtype=torch.float64)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)

    def closure():
        optimizer.zero_grad()
        value = loss(model, 0)
        value.backward()
        return value

    with Recorder(model, optimizer, conserved(), every=1, to=tmp_path):
        for _ in range(3):
            optimizer.step(closure)
    record = read(tmp_path)
    assert record.step.values.tolist() == [0, 1, 2, 3] and (record.mark[1:] == UNSEEN).all()
    assert record.loss_current[1:].isnull().all() and record.decay.isnull().all() and record.attrs["split"] == 0
    assert budget(record) < 1e-14


class Foreign:
    """An optimizer that is none of torch's."""

    def __init__(self, model):
        self.model = model

    @torch.no_grad()
    def step(self):
        for p in self.model.parameters():
            p -= 0.1 * p.grad


def test_an_optimizer_without_hooks(tmp_path):
    model, twin = network(dtype=torch.float64), network(dtype=torch.float64)
    optimizer, known = Foreign(model), torch.optim.SGD(twin.parameters(), 0.1)
    with Recorder(model, optimizer, conserved(), every=2, to=tmp_path / "foreign") as recorder:
        for step in range(5):
            model.zero_grad()
            loss(model, step).backward()
            optimizer.step()
            recorder.step()
    with Recorder(twin, known, conserved(), every=2, to=tmp_path / "known") as recorder:
        for step in range(5):
            loop(twin, known, step, step + 1)
            recorder.step()  # not needed, and does nothing
    foreign, known = read(tmp_path / "foreign"), read(tmp_path / "known")
    assert foreign.step.values.tolist() == [0, 2, 4, 5] and foreign.time[1:].isnull().all()
    for quantity in ("q", "loss_current", "gradient_norm", "step_current", "step_norm"):
        np.testing.assert_allclose(foreign[quantity], known[quantity], rtol=1e-12, atol=1e-15)
    assert foreign.decay[1:].isnull().all() and (foreign.mark == 0).all()
    closed = Recorder(model, optimizer, conserved(), to=tmp_path / "none")
    closed.close()
    closed.close()
    with pytest.raises(InputError, match="This recorder is closed"):
        closed.step()


def test_what_is_loaded_before_the_first_step_is_where_the_record_begins(tmp_path):
    model, optimizer = network(), None
    optimizer = sgd(model)
    with Recorder(model, optimizer, conserved(), every=1, to=tmp_path):
        with torch.no_grad():
            model[4].weight.mul_(2)
        begin = conserved()[0].charge({n: p.detach().double() for n, p in model.named_parameters()})
        loop(model, optimizer, 0, 2)
    record = read(tmp_path)
    np.testing.assert_allclose(record.q[0, :8], begin, rtol=1e-14)
    assert (record.mark == 0).all()


def test_changed_weights_and_what_is_not_finite_are_marked_and_training_goes_on(tmp_path):
    model = network()
    optimizer = sgd(model)
    with Recorder(model, optimizer, conserved(), {"distance": distance}, every=2, to=tmp_path):
        loop(model, optimizer, 0, 4)
        model[1].weight.data.mul_(1.5)
        loop(model, optimizer, 4, 6)
        optimizer.zero_grad()
        loss(model, 6).backward()
        model[1].weight.grad[0] = math.nan
        optimizer.step()
        loop(model, optimizer, 7, 10)
    record = read(tmp_path)
    assert record.mark.values.tolist() == [0, 0, 0, BROKEN, NOT_FINITE, NOT_FINITE]
    assert budget(record.isel(step=slice(0, 4))) < 1e-14 and float(abs(record.jump[3]).max()) > 0.1
    assert record.q[4:].isnull().all() and record.distance[:, 0].notnull().sum() >= 4
    assert record.mark.attrs["flag_meanings"].split()[2] == "not_finite"


def test_a_copy_of_the_optimizer_does_not_record(tmp_path):
    """Observables fork states and train them."""
    model = network()
    optimizer = sgd(model)

    def forked(state):
        twin = fork(state)
        loop(twin.model, twin.optimizer, 50, 52)
        return distance(twin)

    task = Supervised(Batch(*batch(0)), Batch(*batch(1)), batch_size=16)
    with Recorder(model, optimizer, conserved(), {"forked": forked}, every=1, to=tmp_path, task=task):
        loop(model, optimizer, 0, 3)
    assert read(tmp_path).step.values.tolist() == [0, 1, 2, 3]


def test_observables_of_any_shape_and_their_states(tmp_path):
    model = network()
    optimizer = sgd(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    states = []

    def square(state):
        states.append((state.step, state.time, state.model is model, state.optimizer is optimizer, state.task))
        return np.ones((2, 2)) * state.step

    with Recorder(model, optimizer, observables={"square": square, "number": lambda s: 2.5}, every=3, to=tmp_path):
        for step in range(4):
            loop(model, optimizer, step, step + 1)
            scheduler.step()
    record = read(tmp_path)
    assert (
        record.square.dims == ("step", "square_axis_0", "square_axis_1") and record.number.values.tolist() == [2.5] * 3
    )
    assert record.square[:, 1, 1].values.tolist() == [0, 3, 4] and record.sizes["charge"] == 0
    assert states[1][0] == 3 and states[1][1] == pytest.approx(0.1 + 0.1 + 0.05) and states[1][2:] == (True, True, None)


# Ends of all kinds ----------------------------------------------------------------------------------------------------


def recorded(folder, steps=6, every=1, **options):
    model = network(dtype=torch.float64)
    optimizer = sgd(model)
    with Recorder(model, optimizer, conserved(), every=every, to=folder, **options):
        loop(model, optimizer, 0, steps)
    return read(folder)


def test_an_exception_in_the_loop_still_leaves_the_last_row(tmp_path):
    model = network()
    optimizer = sgd(model)
    with pytest.raises(KeyboardInterrupt), Recorder(model, optimizer, conserved(), every=100, to=tmp_path):
        loop(model, optimizer, 0, 7)
        raise KeyboardInterrupt
    assert read(tmp_path).step.values.tolist() == [0, 7]
    assert not optimizer._optimizer_step_post_hooks


def test_an_interrupted_observable_loses_nothing_of_the_sums(tmp_path):
    model = network(dtype=torch.float64)
    optimizer = sgd(model)
    calls = []

    def slow(state):
        calls.append(state.step)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(KeyboardInterrupt), Recorder(model, optimizer, conserved(), {"slow": slow}, 5, tmp_path):
        loop(model, optimizer, 0, 9)
    record = read(tmp_path)
    assert calls == [0, 5, 5] and record.step.values.tolist() == [0, 5]
    assert budget(record) < 1e-14 and float(abs(record.step_current).max()) > 1e-3


def test_every_torn_or_altered_row_is_dropped_and_no_other(tmp_path):
    whole = recorded(tmp_path)
    file = tmp_path / FILE
    content = file.read_bytes()
    head = content.index(b"\n") + 1
    size = (len(content) - head) // 7
    assert (len(content) - head) % 7 == 0
    for cut in (1, 7, 8, 9, size // 2, size - 8, size - 1):  # bytes of the last row that arrived
        file.write_bytes(content[: len(content) - size + cut])
        assert read(tmp_path).identical(whole.isel(step=slice(0, 6)))
    draw = np.random.default_rng(0)
    for _ in range(30):
        row = int(draw.integers(7))
        at = head + row * size + int(draw.integers(size))
        file.write_bytes(content[:at] + bytes([content[at] ^ (1 << int(draw.integers(8)))]) + content[at + 1 :])
        found = read(tmp_path)
        assert found.step.values.tolist() == [s for s in range(7) if s != row]
        assert found.attrs["rows_lost"] == (row != 6)
    file.write_bytes(content + b"\0" * size)  # a row that the file system has made room for
    assert read(tmp_path).identical(whole)
    file.write_bytes(content[:40] + b"!" + content[41:])
    with pytest.raises(InputError):
        read(tmp_path)


@pytest.mark.parametrize("joint", [True, False])
def test_a_record_goes_on_from_a_checkpoint(joint, tmp_path):
    """Killed at step 23 and begun again from the checkpoint of step 20 or 18: what was beyond is replaced."""
    at = 20 if joint else 18
    whole = recorded(tmp_path / "whole", 40, every=4)
    model = network(dtype=torch.float64)
    optimizer = sgd(model)
    with Recorder(model, optimizer, conserved(), every=4, to=tmp_path / "record"):
        loop(model, optimizer, 0, at)
        saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        loop(model, optimizer, at, 24)
        loop(model, optimizer, 100, 107)  # into another future
    with open(tmp_path / "record" / FILE, "ab") as file:
        file.write(b"torn")
    model = network(dtype=torch.float64)
    optimizer = sgd(model)
    with Recorder(model, optimizer, conserved(), every=4, to=tmp_path / "record", step=at):
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        loop(model, optimizer, at, 40)
    record = read(tmp_path / "record")
    if not joint:
        gap = record.sel(step=18)
        assert all(gap[quantity].isnull().all() for quantity in SUMS) and int(gap.mark) == RESUMED
        record = record.drop_sel(step=18)
    assert record.step.values.tolist() == whole.step.values.tolist()
    np.testing.assert_allclose(record.q, whole.q, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(record.time, whole.time, rtol=1e-12)
    marks = np.zeros(11, int)
    if joint:
        marks[6] = RESUMED
    assert record.mark.values.tolist() == marks.tolist()
    for quantity in SUMS:
        same = slice(None) if joint else [k for k in range(11) if k != 5]  # the window that the gap has cut
        np.testing.assert_allclose(record[quantity][same], whole[quantity][same], rtol=1e-9, atol=1e-14)


def test_a_checkpoint_that_is_not_where_the_record_was_is_seen(tmp_path):
    recorded(tmp_path, 8, every=4)
    model = network(dtype=torch.float64)  # not trained at all
    optimizer = sgd(model)
    with Recorder(model, optimizer, conserved(), every=4, to=tmp_path, step=8):
        loop(model, optimizer, 8, 16)
    record = read(tmp_path)
    assert record.mark.values.tolist() == [0, 0, 0, RESUMED + BROKEN, 0]
    assert float(abs(record.jump[3]).max()) > 1e-3 and budget(record) < 1e-13


def test_a_second_recorder_goes_on(tmp_path):
    model = network(dtype=torch.float64)
    optimizer = sgd(model)
    recorder = Recorder(model, optimizer, conserved(), every=3, to=tmp_path)  # without a with
    loop(model, optimizer, 0, 4)
    recorder.close()
    loop(model, optimizer, 4, 6)  # nobody sees these
    with Recorder(model, optimizer, conserved(), every=3, to=tmp_path, step=4):
        loop(model, optimizer, 6, 10)
    record = read(tmp_path)
    assert record.step.values.tolist() == [0, 3, 4, 6, 8]
    assert record.mark.values.tolist() == [0, 0, 0, RESUMED + BROKEN, 0] and budget(record) < 1e-13


@pytest.mark.parametrize("how", ["refused", "half"])
def test_a_full_disk_ends_the_recording_and_not_the_training(how, tmp_path, monkeypatch):
    model = network(dtype=torch.float64)
    optimizer = sgd(model)
    write, calls = os.write, []

    def full(descriptor, data):
        calls.append(len(data))
        if len(calls) == 6:
            if how == "refused":
                raise OSError(28, "No space left on device")
            return write(descriptor, data[: len(data) // 2])
        return write(descriptor, data)

    monkeypatch.setattr(module.os, "write", full)
    with Recorder(model, optimizer, conserved(), every=1, to=tmp_path):
        with pytest.warns(UserWarning, match="has ended at step 3: No space left on device"):
            loop(model, optimizer, 0, 6)
    twin = network(dtype=torch.float64)
    loop(twin, sgd(twin), 0, 6)
    assert all((p == q).all() for p, q in zip(model.parameters(), twin.parameters())) and len(calls) == 6
    assert read(tmp_path).step.values.tolist() == [0, 1, 2, 3]


def test_one_at_a_time(tmp_path):
    model = network()
    optimizer = sgd(model)
    with Recorder(model, optimizer, conserved(), to=tmp_path):
        with pytest.raises(InputError, match="Somebody is recording into"):
            Recorder(model, optimizer, conserved(), to=tmp_path)
        loop(model, optimizer, 0, 2)
        assert read(tmp_path).step.values.tolist() == [0]  # also meanwhile
    with Recorder(model, optimizer, conserved(), to=tmp_path, step=2):
        loop(model, optimizer, 2, 3)
    assert read(tmp_path).step.values.tolist() == [0, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every=0 must be at least 1."),
        ({"step": -1}, "step=-1 must not be negative."),
        ({"laws": []}, "There is nothing to record: give laws or observables."),
        ({"observables": {"q": distance}}, "An observable cannot be called 'q'"),
        ({"observables": {"step": distance}}, "An observable cannot be called 'step'"),
        ({"optimizer": sgd(network())}, "The optimizer holds none of the model's parameters"),
        (
            {"laws": [SymmetryLaw("dead", 1, (Term("9", "rows", 0, 1, *[torch.zeros(1).long()] * 2, torch.ones(1)),))]},
            "9",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(options, message, tmp_path):
    model = network()
    arguments = {"optimizer": sgd(model), "laws": conserved(), "to": tmp_path / "record"} | options
    with pytest.raises(InputError, match=message):
        Recorder(model, **arguments)
    assert not (tmp_path / "record").exists()


def test_a_folder_with_something_else_is_left_as_it_is(tmp_path):
    recorded(tmp_path / "record")
    model = network(dtype=torch.float64)
    before = (tmp_path / "record" / FILE).read_bytes()
    for laws, observables, step, message in [
        (conserved()[:1], None, 3, "holds a record of other laws or observables; choose another folder."),
        (conserved(), {"distance": distance}, 3, "holds a record of other laws or observables"),
        (conserved(), None, None, "holds a record up to step 6: to go on with it, load a checkpoint"),
    ]:
        with pytest.raises(InputError, match=message):
            Recorder(model, sgd(model), laws, observables, to=tmp_path / "record", step=step)
    assert (tmp_path / "record" / FILE).read_bytes() == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / FILE).write_text("my notes\n")
    with pytest.raises(InputError, match="is no record of learndyn"):
        Recorder(model, sgd(model), conserved(), to=tmp_path / "other")
    assert (tmp_path / "other" / FILE).read_text() == "my notes\n"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Cannot record into .*file: .*; choose another folder."):
        Recorder(model, sgd(model), conserved(), to=tmp_path / "file")


def test_observables_that_change_their_shape_are_refused(tmp_path):
    model = network()
    optimizer = sgd(model)
    growing = {"growing": lambda state: torch.zeros(1 + state.step)}
    with pytest.raises(InputError, match="had other shapes"):
        with Recorder(model, optimizer, observables=growing, every=1, to=tmp_path):
            loop(model, optimizer, 0, 3)
    assert read(tmp_path).step.values.tolist() == [0]


def test_nothing_to_read(tmp_path):
    with pytest.raises(InputError, match="There is no record in"):
        read(tmp_path)
    (tmp_path / FILE).write_bytes(b"")
    with pytest.raises(InputError, match="There is not yet a row in"):
        read(tmp_path)
    (tmp_path / FILE).write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(InputError, match="is no record of learndyn"):
        read(tmp_path)


# Killed ---------------------------------------------------------------------------------------------------------------

STEPS = 60


def live(folder, step):
    """Train from the last checkpoint on and save one every 7 steps, in a process that will be killed."""
    model = network(dtype=torch.float64)
    optimizer = sgd(model)
    with Recorder(model, optimizer, conserved(), every=1, to=folder, step=step):
        if step:
            saved = torch.load(folder / "checkpoint", weights_only=True)
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
        while step < STEPS:
            loop(model, optimizer, step, step + 1)
            step += 1
            if step % 7 == 0:
                state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
                torch.save(state, folder / "new")
                os.replace(folder / "new", folder / "checkpoint")


def lives(root, count):
    """So many runs, each killed again and again until one comes through; what was read after each death."""
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    story = []
    for number in range(count):
        folder, deaths = root / str(number), []
        folder.mkdir(parents=True)
        while True:
            step = (
                torch.load(folder / "checkpoint", weights_only=True)["step"] if (folder / "checkpoint").exists() else 0
            )
            pid = os.fork()
            if not pid:
                try:
                    live(folder, step)
                    os._exit(0)
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(1)
            time.sleep(draw.exponential(0.06))
            os.kill(pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            try:
                read_back = read(folder).step.values.tolist()
            except InputError as error:
                read_back = str(error)
            deaths.append([step, status, read_back])
            if status >= 0 or len(deaths) > 60:
                break
        story.append(deaths)
    print(json.dumps(story))


def orphan(folder):
    """A recording process that has made a child, which trains on and stays when its parent is gone."""
    model = network()
    optimizer = sgd(model)
    parent = os.fork()
    if not parent:
        with Recorder(model, optimizer, conserved(), every=1, to=folder):
            loop(model, optimizer, 0, 2)
            child = os.fork()
            if not child:
                loop(model, optimizer, 2, 5)
                (folder / "child").write_text(str(os.getpid()))
                time.sleep(60)
            while not (folder / "child").exists() or not (folder / "child").read_text():
                time.sleep(0.01)
            os._exit(0)
    assert os.waitpid(parent, 0)[1] == 0
    assert read(folder).step.values.tolist() == [0, 1, 2]
    try:
        with Recorder(model, optimizer, conserved(), every=1, to=folder, step=2):
            loop(model, optimizer, 2, 3)
    finally:
        os.kill(int((folder / "child").read_text()), signal.SIGKILL)


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    root = tmp_path_factory.mktemp("lives")
    paths = os.pathsep.join([str(Path(module.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    answer = subprocess.run(
        [sys.executable, __file__, str(root), "4"],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    assert not answer.stderr, answer.stderr[-3000:]
    return root, json.loads(answer.stdout)


def test_a_killed_process_leaves_every_row_that_was_written(story):
    _, runs = story
    deaths = [death for run in runs for death in run]
    assert sum(status == -signal.SIGKILL for _, status, _ in deaths) > 8
    for step, status, steps in deaths:
        assert status in (0, -signal.SIGKILL)
        if isinstance(steps, str):
            assert step == 0 and ("no record in" in steps or "not yet a row" in steps)
        else:
            assert steps == list(range(len(steps))) and len(steps) > step  # none is lost that was there before


def test_a_record_of_many_lives_is_that_of_one(story, tmp_path):
    root, runs = story
    whole = recorded(tmp_path, STEPS)
    finished = [i for i, run in enumerate(runs) if run[-1][1] == 0]
    assert finished
    for i in finished:
        record = read(root / str(i))
        assert record.step.values.tolist() == list(range(STEPS + 1))
        np.testing.assert_allclose(record.q, whole.q, rtol=1e-13, atol=1e-15)
        for quantity in SUMS[1:]:
            np.testing.assert_allclose(record[quantity], whole[quantity], rtol=1e-9, atol=1e-14)
        begun = {step for step, _, _ in runs[i][1:]}
        assert set(record.step.values[record.mark.values == RESUMED].tolist()) <= {s + 1 for s in begun}
        assert set(record.mark.values.tolist()) <= {0, RESUMED}


def test_a_forked_process_neither_writes_nor_keeps_the_lock(story):
    """As workers of a data loader are: they may outlive the process that recorded."""
    root, _ = story
    assert read(root / "orphan").step.values.tolist() == [0, 1, 2, 3]


if __name__ == "__main__":
    lives(Path(sys.argv[1]), int(sys.argv[2]))
    orphan(Path(sys.argv[1]) / "orphan")
