"""Faster settings of the machine: what they may change, how long they last, and what a run remembers of them."""

import json
import math
import platform
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import learndyn.run
from learndyn import runtime
from learndyn.errors import InputError
from learndyn.experiments import cone
from learndyn.experiments.cone import Settings
from learndyn.names import build_model, build_task
from learndyn.run import run
from learndyn.runtime import EXACT, FASTER, Tuning, choose, precision, probe, tune


@pytest.fixture(autouse=True)
def as_it_was():
    threads, products = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(products)


def now():
    return torch.get_float32_matmul_precision()


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
@pytest.mark.parametrize("inside", ["highest", "medium"])
def test_precision_lasts_for_a_while_also_when_that_fails(before, inside):
    torch.set_float32_matmul_precision(before)
    with precision(inside):
        assert now() == inside
        with precision("high"):
            assert now() == "high"
        assert now() == inside
    assert now() == before
    with pytest.raises(ZeroDivisionError), precision(inside):
        raise ZeroDivisionError
    assert now() == before


@given(st.floats(allow_nan=True), st.floats(allow_nan=True))
def test_medium_is_chosen_where_it_is_both_faster_and_exact(speed, error):
    assert choose(speed, error) == ("medium" if speed > FASTER and error < EXACT else "highest")


def test_the_thresholds_themselves_are_not_enough():
    more, less = math.nextafter(FASTER, 9), math.nextafter(EXACT, 0)
    assert choose(more, less) == "medium"
    assert choose(FASTER, less) == choose(more, EXACT) == choose(math.nan, less) == choose(more, math.nan) == "highest"


def test_a_probe_leaves_no_trace():
    state = torch.random.get_rng_state()
    torch.set_float32_matmul_precision("high")
    speed, error = probe(size=256, repeats=2)
    assert math.isfinite(speed) and speed > 0 and 0 <= error < 1e-2
    assert now() == "high" and torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("found", "chosen"), [((2.0, 1e-7), "medium"), ((2.0, 1e-3), "highest"), ((1.0, 0.0), "highest")]
)
def test_tune_does_what_the_probe_says(monkeypatch, found, chosen):
    monkeypatch.setattr(runtime, "probe", lambda: found)
    made = tune(memory=False)
    assert made == Tuning(False, chosen, *found) and now() == chosen
    assert f"float32 products: {chosen} (medium is {found[0]:.2f} times as fast" in str(made)


def test_tune_without_products_probes_nothing(monkeypatch):
    monkeypatch.setattr(runtime, "probe", lambda: pytest.fail("probed"))
    torch.set_float32_matmul_precision("high")
    made = tune(memory=False, products=False)
    assert made.precision == now() == "high" and math.isnan(made.speed)
    assert str(made) == "the allocator is as it was; float32 products: high, not probed"


TRAINING = """
import hashlib, sys
import torch
from learndyn.runtime import keep_memory

def training():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(5):
        x, y = torch.randn(512, 64), torch.randint(10, (512,))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()

torch.set_num_threads(1)
before, kept, after = training(), keep_memory(), training()
assert torch.get_float32_matmul_precision() == "highest"
print(before == after, type(kept).__name__, kept)
"""


def test_memory_that_is_kept_changes_no_bit():
    told = subprocess.run([sys.executable, "-c", TRAINING], capture_output=True, text=True, timeout=120)
    same, kind, kept = told.stdout.split()
    assert (same, kind) == ("True", "bool"), told.stderr
    assert kept == str(platform.system() == "Linux" and platform.libc_ver()[0] == "glibc")


def test_other_systems_keep_their_allocator(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert runtime.keep_memory() is False
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert runtime.keep_memory() is False


# What a run remembers.

TASK = "teacher(examples=40, test_examples=20, inputs=4, classes=3, batch_size=8)"
MODEL = "mlp(width=4, depth=1)"
FAST, SLOW = (2.0, 1e-7), (1.0, 1e-7)


def checkpoints(folder, model=MODEL):
    folder.mkdir()
    for step in range(4):
        torch.save(build_model(model, build_task(TASK, 0), step).state_dict(), folder / f"{step}.pt")
    return str(folder)


@pytest.fixture
def settings(tmp_path):
    folder = checkpoints(tmp_path / "checkpoints")
    return Settings(checkpoints=(folder,), model=MODEL, task=TASK, probe=4, reductions=("trace",))


@pytest.fixture
def listening(monkeypatch):
    """The kinds of products under which parts were measured."""
    heard, measure = [], cone.measure

    def listen(*arguments):
        heard.append(now())
        return measure(*arguments)

    monkeypatch.setattr(cone, "measure", listen)
    return heard


def recorded(record):
    return json.loads((record.folder / "environment.json").read_text())["float32_products"]


@pytest.mark.parametrize(("found", "chosen"), [(FAST, "medium"), (SLOW, "highest")])
def test_a_run_records_what_a_probe_has_chosen(monkeypatch, tmp_path, settings, listening, found, chosen):
    monkeypatch.setattr(runtime, "probe", lambda: found)
    record, _ = run("cone", settings, tmp_path / "runs", jobs=1, tune=True)
    assert recorded(record) == chosen and listening == [chosen] and now() == "highest"


def test_a_run_that_is_not_tuned_never_probes(monkeypatch, tmp_path, settings, listening):
    monkeypatch.setattr(runtime, "probe", lambda: pytest.fail("probed"))
    torch.set_float32_matmul_precision("medium")
    record, _ = run("cone", settings, tmp_path / "runs", jobs=1)
    assert recorded(record) == "highest" and listening == ["highest"] and now() == "medium"


def test_where_float32_is_not_used_nothing_is_probed(monkeypatch, tmp_path, settings, listening):
    monkeypatch.setattr(runtime, "probe", lambda: pytest.fail("probed"))
    record, _ = run("cone", replace(settings, dtype="float64"), tmp_path / "runs", jobs=1, tune=True)
    assert recorded(record) == "highest" and listening == ["highest"]


@pytest.mark.parametrize(("begun", "then", "tuned"), [(FAST, SLOW, True), (FAST, SLOW, False), (SLOW, FAST, True)])
def test_a_run_goes_on_as_it_began(monkeypatch, tmp_path, settings, listening, begun, then, tuned):
    """Whatever a probe would say now; unless it is begun afresh."""
    monkeypatch.setattr(runtime, "probe", lambda: begun)
    record, _ = run("cone", settings, tmp_path / "runs", jobs=1, tune=True)
    chosen = recorded(record)
    record.results_file.unlink()
    (record.folder / "kernels/run-0/trace/000002.safetensors").unlink()
    monkeypatch.setattr(runtime, "probe", lambda: then)
    run("cone", settings, tmp_path / "runs", jobs=1, tune=tuned)
    assert listening == [chosen] * 2 and recorded(record) == chosen and now() == "highest"
    run("cone", settings, tmp_path / "runs", jobs=1, tune=True)  # found finished
    assert len(listening) == 2
    run("cone", settings, tmp_path / "runs", jobs=1, tune=True, fresh=True)
    assert listening[2] == recorded(record) == choose(*then)


def test_precision_comes_back_after_a_run_that_fails(monkeypatch, tmp_path, settings):
    monkeypatch.setattr(runtime, "probe", lambda: FAST)

    def fail(*_):
        assert now() == "medium"
        raise InputError("It fails.")

    monkeypatch.setattr(cone, "measure", fail)
    with pytest.raises(InputError, match="It fails"):
        run("cone", settings, tmp_path / "runs", jobs=1, tune=True)
    assert now() == "highest"


def test_a_run_of_before_products_were_recorded_goes_on(tmp_path, settings):
    record, _ = run("cone", settings, tmp_path / "runs", jobs=1)
    note = record.folder / "environment.json"
    content = json.loads(note.read_text())
    del content["float32_products"]
    note.write_text(json.dumps(content))
    record.results_file.unlink()
    run("cone", settings, tmp_path / "runs", jobs=1, tune=True)


def test_workers_multiply_as_the_run_does(monkeypatch, tmp_path, settings):
    given = {}

    def pool(count, context, initializer, initargs):
        given.update(prepare=initializer, precision=initargs[1])
        raise InputError("No workers today.")

    monkeypatch.setattr(runtime, "probe", lambda: FAST)
    monkeypatch.setattr(learndyn.run, "ProcessPoolExecutor", pool)
    twice = replace(settings, checkpoints=(*settings.checkpoints, checkpoints(tmp_path / "more")))
    with pytest.raises(InputError, match="No workers today"):
        run("cone", twice, tmp_path / "runs", jobs=2, tune=True)
    assert given["precision"] == "medium" and now() == "highest"
    kept = []
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # what a worker does to itself
    monkeypatch.setattr(runtime, "keep_memory", lambda: kept.append(True))
    given["prepare"](None, given["precision"])
    assert now() == "medium" and kept == [True]
